"""COPY whose stream carries the guarded column: it arrives without, and everything else as it was sent."""

import asyncio
import io
import random

import asyncpg
import psycopg2
import pytest

from lib import schema, wire
from lib.copy_rows import csv_of, text_of
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

COLUMNS = ["collection_id", "partition_key", "document_id", "chunk_index", "content"]
NASTY = ["plain", "tab\tand\nline", "back\\slash", 'quote "x"', "comma, x", "\\N", "\\.", "", "é€𝄞",
         "cr\r", " ", "'", "\\t", "a" * 5000]


@pytest.fixture(scope="module", params=["trigger", "generated"])
def table(request, server):
    schema.create_chunks(server, request.param)
    yield request.param
    schema.create_chunks(server)


@pytest.fixture(scope="module")
def proxy(server, table):
    instance = Proxy(server, rules=[strip_rule()]).start()
    yield instance
    assert instance.stop() == 0


@pytest.fixture(autouse=True)
def empty(server, table):
    schema.clear_chunks(server)


def rows_of(count, seed=1):
    """Rows of a COPY of COLUMNS, with a wrong key each."""
    pick = random.Random(seed)
    return [[f"c{n % 7}" if n % 5 else pick.choice(NASTY[:9]), str(pick.randrange(1000)),
             None if n % 3 == 0 else pick.choice(NASTY), str(n), pick.choice(NASTY)]
            for n in range(count)]


def stored(server):
    """What is in the table, in the order of arrival, without the key."""
    with psycopg2.connect(server.dsn("app")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT collection_id, document_id, chunk_index, content FROM chunks ORDER BY id")
        return cursor.fetchall()


def wanted(rows):
    return [(row[0], row[2], int(row[3]), row[4]) for row in rows]


def assert_right(server, rows):
    assert stored(server) == wanted(rows)
    assert schema.wrong_keys(server) == 0


@pytest.mark.parametrize("form", ["text", "csv"])
def test_psycopg2_copies(server, proxy, form):
    rows = rows_of(2000)
    data = text_of(rows) if form == "text" else csv_of(rows, COLUMNS)
    options = "" if form == "text" else "WITH (FORMAT csv, HEADER)"
    with psycopg2.connect(proxy.dsn("app")) as connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY chunks ({', '.join(COLUMNS)}) FROM STDIN {options}",
                           io.StringIO(data))
        assert cursor.rowcount == len(rows)
    connection.close()
    assert_right(server, rows)
    [record] = proxy.wait_for_audit(1, statement="COPY")[-1:]
    assert record["verdict"] == "stripped"


def test_asyncpg_copies_in_binary(server, proxy):
    rows = rows_of(500)

    async def main():
        connection = await asyncpg.connect(host=proxy.host, port=proxy.port, user="postgres",
                                           database="app")
        tuples = [(row[0], int(row[1]), row[2], int(row[3]), row[4]) for row in rows]
        await connection.copy_records_to_table("chunks", records=tuples, columns=COLUMNS)
        await connection.close()

    asyncio.run(main())
    assert_right(server, rows)


def session(proxy):
    return wire.connect(proxy, user="postgres")


def copy(columns=COLUMNS, options=""):
    return f"COPY chunks ({', '.join(columns)}) FROM STDIN {options}"


def pieces(data, pick, largest):
    at = 0
    while at < len(data):
        size = pick.randint(1, largest)
        yield data[at:at + size]
        at += size


@pytest.mark.parametrize("largest", [1, 3, 100, 70000])
def test_the_stream_is_cut_anywhere(server, proxy, largest):
    rows = rows_of(60 if largest < 100 else 3000, largest)
    data = text_of(rows).encode()
    pick = random.Random(largest)
    with session(proxy) as connection:
        connection.send(wire.Query(copy()))
        assert connection.read().name == "CopyInResponse"
        messages = b"".join(wire.CopyData(piece) for piece in pieces(data, pick, largest))
        for part in pieces(messages + wire.CopyDone(), pick, largest * 2):
            connection.send(part)
        assert [m.name for m in connection.read_until("Z")] == ["CommandComplete", "ReadyForQuery"]
    assert_right(server, rows)


def test_everything_ahead_of_the_servers_answer(server, proxy):
    rows = rows_of(50)
    with session(proxy) as connection:
        connection.send(wire.Query(copy()), wire.CopyData(text_of(rows)), wire.CopyDone(),
                        wire.Query("SELECT 1"))
        names = [m.name for m in connection.read_until("Z")]
        assert names == ["CopyInResponse", "CommandComplete", "ReadyForQuery"]
        assert connection.read_until("Z")[-1].name == "ReadyForQuery"
    assert_right(server, rows)


def test_several_copies_in_one_query(server, proxy):
    first, second = rows_of(20, 1), rows_of(20, 2)
    plain = [row[:1] + row[2:] for row in second]
    bare = [column for column in COLUMNS if column != "partition_key"]
    with session(proxy) as connection:
        connection.send(wire.Query(f"BEGIN; {copy()}; {copy(bare)}; {copy(options='CSV')}; COMMIT"))
        assert connection.read_until("G")[-1].name == "CopyInResponse"
        connection.send(wire.CopyData(text_of(first)), wire.CopyDone())
        connection.read_until("G")
        connection.send(wire.CopyData(text_of(plain)), wire.CopyDone())
        connection.read_until("G")
        connection.send(wire.CopyData(csv_of(first)), wire.CopyDone())
        assert not wire.errors(connection.read_until("Z"))
    assert_right(server, first + second + first)


@pytest.mark.parametrize("padding", [10_000, 100_000, 1_000_000])
def test_a_copy_behind_a_large_text(server, proxy, padding):
    """Judged by a thread, from which what is to be known of the stream comes back."""
    rows = rows_of(20)
    with session(proxy) as connection:
        connection.send(wire.Query(f"SELECT length('{'x' * padding}'); {copy()}"))
        assert connection.read_until("G")[-1].name == "CopyInResponse"
        connection.send(wire.CopyData(text_of(rows)), wire.CopyDone())
        assert not wire.errors(connection.read_until("Z"))
    assert_right(server, rows)


def test_a_prepared_copy_runs_twice(server, proxy):
    rows = rows_of(30)
    with session(proxy) as connection:
        connection.send(wire.Parse("load", copy()), wire.Sync())
        assert not wire.errors(connection.read_until("Z"))
        for portal in ("", "p"):
            connection.send(wire.Bind(portal, "load"), wire.Execute(portal), wire.Flush())
            assert connection.read_until("G")[-1].name == "CopyInResponse"
            connection.send(wire.CopyData(text_of(rows)), wire.CopyDone(), wire.Sync())
            assert not wire.errors(connection.read_until("Z"))
        connection.query("SELECT 1")
    assert_right(server, rows + rows)


def test_a_copy_that_the_client_gives_up(server, proxy):
    rows = rows_of(30)
    with session(proxy) as connection:
        connection.send(wire.Query(copy()), wire.CopyData(text_of(rows)), wire.CopyFail("enough"))
        assert wire.errors(connection.read_until("Z")) == ["57014"]
        connection.send(wire.Query(copy()), wire.CopyData(text_of(rows)), wire.CopyDone())
        assert not wire.errors(connection.read_until("Z"))
    assert_right(server, rows)


@pytest.mark.parametrize("line", ["a\t1\tb\tnot a number\tx", "a\t1\tb\t1", "a", "a\t1\tb\t1\tx\ty"])
def test_a_row_that_the_server_refuses(server, proxy, line):
    rows = rows_of(30)
    with session(proxy) as connection:
        connection.send(wire.Query(copy()), wire.CopyData(text_of(rows) + line + "\n"),
                        wire.CopyData(text_of(rows)), wire.CopyDone())
        assert wire.errors(connection.read_until("Z")) in (["22P02"], ["22P04"])
        connection.send(wire.CopyData("late"), wire.CopyDone(), wire.Query("SELECT 1"))
        assert not wire.errors(connection.read_until("Z"))
    assert stored(server) == []


def test_a_copy_that_fails_within_a_message(server, proxy):
    """What is still to come of the message belongs to no COPY any more."""
    bad = "a\t1\tb\tnot a number\tx\n" + "a\t1\tb\t1\tx\n" * 10_000
    with session(proxy) as connection:
        message = wire.CopyData(bad)
        connection.send(wire.Query(copy()), message[:100_000])
        assert wire.errors(connection.read_until("Z")) == ["22P02"]
        connection.send(message[100_000:], wire.CopyDone(), wire.Query("SELECT 1"))
        assert not wire.errors(connection.read_until("Z"))
    assert stored(server) == []


def test_the_whole_table_in_the_order_that_the_client_knows(server, proxy, table):
    """Without a list a generated column is not in the stream; with a trigger it is."""
    values = ["1", "c", "0", "d", "5", "text", "{}", "2020-01-01"]
    if table == "generated":
        del values[2]
    with session(proxy) as connection:
        connection.send(wire.Query("COPY chunks FROM STDIN"),
                        wire.CopyData("\t".join(values) + "\n"), wire.CopyDone())
        assert not wire.errors(connection.read_until("Z"))
    assert stored(server) == [("c", "d", 5, "text")]
    assert schema.wrong_keys(server) == 0


def test_after_a_failed_copy_the_next_is_filtered_all_the_same(server, proxy):
    rows = rows_of(10)
    with session(proxy) as connection:
        connection.send(wire.Query(copy().replace("content", "no_such")),
                        wire.CopyData("x"), wire.CopyDone())
        assert wire.errors(connection.read_until("Z")) == ["42703"]
        connection.send(wire.Query(copy()), wire.CopyData(text_of(rows)), wire.CopyDone())
        assert not wire.errors(connection.read_until("Z"))
    assert_right(server, rows)
