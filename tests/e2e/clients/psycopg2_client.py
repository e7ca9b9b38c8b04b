"""psycopg2 on the drivers' tour (tour.py): the simple protocol, values put into the text."""

import io

import psycopg2
import psycopg2.errors
import psycopg2.extras
import tour

psycopg2.extras.register_uuid()


def types(cursor):
    cursor.execute("SELECT " + ", ".join(f"%s::{name}" for name in tour.VALUES) + ", %s::jsonb",
                   [*tour.VALUES.values(), psycopg2.extras.Json({"a": [1, None]})])
    row = cursor.fetchone()
    got = [bytes(value) if isinstance(value, memoryview) else value for value in row]
    assert got == [*tour.VALUES.values(), {"a": [1, None]}], got


def inserts(cursor, tally):
    for collection, key in (("a", tour.WRONG), ("b", None)):
        cursor.execute(tour.INSERT + "VALUES (%s, %s, 1, 'one') RETURNING collection_id, partition_key",
                       (collection, key))
        assert tour.is_right(cursor.fetchall())
        tally.wrote(1)
    returned = psycopg2.extras.execute_values(
        cursor, tour.INSERT + "VALUES %s RETURNING collection_id, partition_key", tour.rows(500),
        page_size=500, fetch=True)
    assert len(returned) == 500 and tour.is_right(returned)
    tally.wrote(500)
    cursor.executemany(tour.INSERT + "VALUES (%s, %s, %s, %s)", tour.rows(20))
    tally.wrote(20)
    psycopg2.extras.execute_batch(cursor, tour.INSERT + "VALUES (%s, %s, %s, %s)", tour.rows(100))
    tally.wrote(100)
    copied = "".join("\t".join(map(str, row)) + "\n" for row in tour.rows_without_key(1000))
    cursor.copy_expert(f"COPY chunks ({tour.WITHOUT_KEY}) FROM STDIN", io.StringIO(copied))
    assert cursor.rowcount == 1000
    tally.wrote(1000, supplied=False)


def rolls_back(connection, cursor, tally):
    connection.commit()
    cursor.execute(tour.INSERT + "VALUES ('a', 1, 1, 'rolled back')")
    tally.wrote(1, committed=False)
    try:
        cursor.execute("SELECT 1/0")
        raise AssertionError("no error")
    except psycopg2.errors.DivisionByZero:
        pass
    try:
        cursor.execute("SELECT 1")
        raise AssertionError("no error")
    except psycopg2.errors.InFailedSqlTransaction:
        connection.rollback()


def cancels(connection, cursor):
    cancelling = tour.cancel_soon(connection.cancel)
    try:
        cursor.execute(tour.SLEEP)
        raise AssertionError("not cancelled")
    except psycopg2.errors.QueryCanceled:
        cancelling.join()
    connection.rollback()
    cursor.execute("SELECT 1")


def reads_much(connection):
    with connection.cursor("on_the_server") as cursor:
        cursor.execute(tour.LARGE)
        assert sum(len(text) for _, text in cursor) == 3_000_000
    with connection.cursor() as cursor:
        out = io.StringIO()
        cursor.copy_expert(f"COPY ({tour.LARGE}) TO STDOUT", out)
        assert len(out.getvalue()) > 3_000_000
    connection.commit()


def hears(connection, cursor):
    cursor.execute("LISTEN news")
    cursor.execute("NOTIFY news, 'extra'")
    connection.commit()
    connection.poll()
    assert [heard.payload for heard in connection.notifies] == ["extra"]
    cursor.execute(tour.NOTICE)
    assert connection.notices[-1] == "NOTICE:  hear, hear\n"


def main():
    given = tour.settings()
    tally = tour.Tally()
    connection = psycopg2.connect(**tour.libpq_params(given))
    assert bool(connection.info.ssl_in_use) == given["tls"]
    with connection.cursor() as cursor:
        types(cursor)
        inserts(cursor, tally)
        rolls_back(connection, cursor, tally)
        cancels(connection, cursor)
        reads_much(connection)
        hears(connection, cursor)
    connection.commit()
    connection.close()
    tally.report(libpq=psycopg2.extensions.libpq_version())


main()
