"""psycopg 3 on the drivers' tour (tour.py): parameters in text and binary, prepared, pipelines."""

import ctypes

import psycopg
import psycopg.errors
import tour
from psycopg.types.json import Jsonb


def protocol_version(connection):
    """The version that was negotiated (30002 is 3.2), or None where this libpq cannot tell."""
    libpq = ctypes.CDLL("libpq.so.5")
    if not hasattr(libpq, "PQfullProtocolVersion"):
        return None
    libpq.PQfullProtocolVersion.argtypes = [ctypes.c_void_p]
    return libpq.PQfullProtocolVersion(connection.pgconn.pgconn_ptr)


def types(connection, binary):
    placeholder = "%b" if binary else "%t"
    with connection.cursor(binary=binary) as cursor:
        for _ in range(8):  # past prepare_threshold
            cursor.execute(
                "SELECT " + ", ".join(f"{placeholder}::{name}" for name in tour.VALUES)
                + f", {placeholder}::jsonb", [*tour.VALUES.values(), Jsonb({"a": [1, None]})])
            assert list(cursor.fetchone()) == [*tour.VALUES.values(), {"a": [1, None]}]


def inserts(connection, tally, prepare, binary):
    placeholder = "%b" if binary else "%s"
    one = tour.INSERT + ("VALUES (%s, %s, %s, %s) RETURNING collection_id, partition_key"
                         .replace("%s", placeholder))
    with connection.cursor(binary=binary) as cursor:
        for n, (collection, key) in enumerate([("a", tour.WRONG), ("b", None), ("a", 1)]):
            cursor.execute(one, (collection, key, n, "one"), prepare=prepare)
            assert tour.is_right(cursor.fetchall())
            tally.wrote(1)
        cursor.executemany(one, tour.rows(100), returning=True)  # a pipeline where libpq has it
        results = 1
        assert tour.is_right(cursor.fetchall())
        while cursor.nextset():
            results += 1
            assert tour.is_right(cursor.fetchall())
        assert results == 100
        tally.wrote(100)


def copies(connection, tally):
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY chunks ({tour.WITHOUT_KEY}) FROM STDIN") as copy:
            for row in tour.rows_without_key(500):
                copy.write_row(row)
        with cursor.copy(f"COPY chunks ({tour.WITHOUT_KEY}) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["varchar", "int4", "text"])
            for row in tour.rows_without_key(500):
                copy.write_row(row)
        tally.wrote(1000, supplied=False)
        with cursor.copy(f"COPY ({tour.LARGE}) TO STDOUT (FORMAT binary)") as copy:
            assert sum(len(data) for data in copy) > 3_000_000


def pipelines(connection, tally):
    if not psycopg.Pipeline.is_supported():
        return
    with connection.pipeline() as pipeline:
        cursors = [connection.execute(
            tour.INSERT + "VALUES (%s, %s, %s, 'piped') RETURNING collection_id, partition_key",
            row[:3]) for row in tour.rows(50)]
        pipeline.sync()
        assert all(tour.is_right(cursor.fetchall()) for cursor in cursors)
    tally.wrote(50)


def rolls_back(connection, tally):
    connection.commit()
    connection.execute(tour.INSERT + "VALUES (%s, 1, 1, 'rolled back')", ["a"])
    tally.wrote(1, committed=False)
    for expected, statement in ((psycopg.errors.DivisionByZero, "SELECT 1/%s"),
                                (psycopg.errors.InFailedSqlTransaction, "SELECT %s")):
        try:
            connection.execute(statement, [0])
            raise AssertionError("no error")
        except expected:
            pass
    connection.rollback()


def cancels(connection):
    cancelling = tour.cancel_soon(connection.cancel)
    try:
        connection.execute(tour.SLEEP)
        raise AssertionError("not cancelled")
    except psycopg.errors.QueryCanceled:
        cancelling.join()
    connection.rollback()
    connection.execute("SELECT 1")


def reads_much(connection):
    with connection.cursor("on_the_server", binary=True) as cursor:
        cursor.execute(tour.LARGE)
        assert sum(len(text) for _, text in cursor) == 3_000_000
    connection.commit()


def hears(connection):
    notices = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    connection.execute(tour.NOTICE)
    assert notices == ["hear, hear"]
    connection.commit()
    connection.autocommit = True
    news = []
    connection.add_notify_handler(lambda notification: news.append(notification.payload))
    connection.execute("LISTEN news")
    connection.execute("NOTIFY news, 'extra'")
    connection.execute("SELECT 1")
    assert news == ["extra"]


def main():
    given = tour.settings()
    tally = tour.Tally()
    connection = psycopg.connect(**tour.libpq_params(given))
    assert bool(connection.pgconn.ssl_in_use) == given["tls"]
    for binary in (False, True):
        types(connection, binary)
        for prepare in (False, True):
            inserts(connection, tally, prepare, binary)
    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        # Without parameters: the simple protocol.
        cursor.execute(tour.INSERT + "VALUES ('a', 1, 1, 'x') RETURNING partition_key")
        assert cursor.fetchone() == {"partition_key": tour.KEYS["a"]}
        tally.wrote(1)
    copies(connection, tally)
    pipelines(connection, tally)
    rolls_back(connection, tally)
    cancels(connection)
    reads_much(connection)
    version = protocol_version(connection)
    hears(connection)
    connection.close()
    tally.report(libpq=psycopg.pq.version(), protocol=version)


main()
