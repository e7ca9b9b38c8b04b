"""psqlODBC, by pyodbc, on the drivers' tour (tour.py): server-side prepared, and simple."""

import pyodbc
import tour


def connect(given, prepared):
    """prepared: SQLPrepare is Parse, and parameters are Bind's; else they are put into the text.

    With Protocol=7.4-2 the driver wraps each statement of a transaction into a savepoint of its own, and
    rolls back to it after an error; with 7.4-0 it does not.
    """
    params = tour.libpq_params(given)
    libpq_options = f"application_name='{given['application']}'"
    if given["tls"]:
        libpq_options += f" sslrootcert='{given['ca']}'"
    parts = {"DRIVER": "{PostgreSQL Unicode}", "SERVER": given["host"], "PORT": given["port"],
             "DATABASE": given["database"], "UID": given["user"],
             "PWD": "{%s}" % given["password"], "SSLmode": params["sslmode"],
             "pqopt": "{%s}" % libpq_options, "UseServerSidePrepare": int(prepared),
             "Protocol": "7.4-2" if prepared else "7.4-0",
             "ByteaAsLongVarBinary": 1, "BoolsAsChar": 0, "MaxVarcharSize": 8190}
    return pyodbc.connect(";".join(f"{key}={value}" for key, value in parts.items()))


def types(cursor):
    named = {name: tour.VALUES[name] for name in
             ("int4", "int8", "text", "bool", "float8", "date", "bytea", "varchar")}
    cursor.execute("SELECT " + ", ".join(f"?::{name}" for name in named), list(named.values()))
    assert list(cursor.fetchone()) == list(named.values())
    cursor.execute("SELECT ?::numeric(30, 5)", tour.VALUES["numeric"])
    assert cursor.fetchone()[0] == tour.VALUES["numeric"]


def inserts(cursor, tally):
    returning = " RETURNING collection_id, partition_key"
    for n, (collection, key) in enumerate([("a", tour.WRONG), ("b", None), ("a", 1), ("b", 2)]):
        cursor.execute(tour.INSERT + "VALUES (?, ?, ?, 'one')" + returning, collection, key, n)
        assert tour.is_right(cursor.fetchall())
        tally.wrote(1)
    cursor.execute(tour.INSERT + "VALUES ('a', 4711, 1, 'literal')" + returning)
    assert tour.is_right(cursor.fetchall())
    tally.wrote(1)
    for fast in (False, True):
        cursor.fast_executemany = fast
        cursor.executemany(tour.INSERT + "VALUES (?, ?, ?, ?)", tour.rows(100))
        tally.wrote(100)
    cursor.connection.commit()


def state_of(cursor, statement):
    try:
        cursor.execute(statement)
        return "ok"
    except pyodbc.Error as error:
        return error.args[0]


def rolls_back(connection, cursor, tally, has_savepoints):
    cursor.execute(tour.INSERT + "VALUES (?, 1, 1, 'rolled back')", "a")
    tally.wrote(1, committed=False)
    assert state_of(cursor, "SELECT 1/0") == "22012"
    assert state_of(cursor, "SELECT 1") == ("ok" if has_savepoints else "25P02")
    connection.rollback()


def cancels(connection, cursor):
    cancelling = tour.cancel_soon(cursor.cancel)
    assert state_of(cursor, tour.SLEEP) == "57014"
    cancelling.join()
    connection.rollback()
    cursor.execute("SELECT 1")
    assert cursor.fetchone()[0] == 1


def reads_much(connection, cursor):
    cursor.execute(tour.LARGE)
    assert sum(len(row[1]) for row in cursor) == 3_000_000
    connection.commit()


def main():
    given = tour.settings()
    tally = tour.Tally()
    for prepared in (True, False):
        connection = connect(given, prepared)
        cursor = connection.cursor()
        types(cursor)
        inserts(cursor, tally)
        rolls_back(connection, cursor, tally, has_savepoints=prepared)
        cancels(connection, cursor)
        reads_much(connection, cursor)
        connection.close()
    tally.report()


main()
