"""COPY under mode compute, on the table partitioned by its key: each row gets the expression's value,
whatever the stream carries, and what the proxy cannot compute with certainty is refused."""

import asyncio
import io
import random

import asyncpg
import psycopg2
import pytest

from lib import common, schema, wire
from lib.copy_rows import csv_of, text_of
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

DATABASE = "compute_copy"
COLUMNS = ["collection_id", "document_id", "chunk_index", "content"]
NASTY = ["plain", "tab\tand\nline", "back\\slash", 'quote "x"', "comma, x", "\\N", "\\.", "", "é€𝄞",
         "cr\r", " ", "'", "\\t", "a" * 36, "ß日本語", "a  "]
KEY_AT = {"omitted": None, "first": 0, "second": 1, "last": 4}


@pytest.fixture(scope="module")
def computing(server):
    schema.create_database(server, DATABASE)
    schema.create_chunks(server, "partitioned", DATABASE)
    schema.create_partitions(server, -99, 99, DATABASE)
    instance = Proxy(
        server, rules=[strip_rule("compute", database=DATABASE)],
        control=f"host={server.host} port={server.port} user=pgsluice dbname={DATABASE}").start()
    yield instance
    assert instance.stop() == 0


@pytest.fixture
def proxy(computing, server):
    yield computing
    assert schema.wrong_keys(server, DATABASE) == 0
    server.psql("DELETE FROM chunks", dbname=DATABASE)


def rows_of(count, seed=1):
    pick = random.Random(seed)
    return [[f"c{n % 97}" if n % 3 else pick.choice(NASTY), None if n % 3 == 0 else pick.choice(NASTY),
             str(n), pick.choice(NASTY)] for n in range(count)]


def with_key(row, place, key="4711"):
    return row if place is None else row[:place] + [key] + row[place:]


def copy(place=None, options="", columns=None):
    names = with_key(COLUMNS if columns is None else columns, place, "partition_key")
    return f"COPY chunks ({', '.join(names)}) FROM STDIN {options}"


def stored(server):
    with psycopg2.connect(server.dsn(DATABASE)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(COLUMNS)} FROM chunks ORDER BY id")
        return [[row[0], row[1], str(row[2]), row[3]] for row in cursor.fetchall()]


def session(proxy, **more):
    return wire.connect(proxy, database=DATABASE, **more)


def send_copy(connection, sql, *data, end=None):
    """The messages up to the next ReadyForQuery."""
    connection.send(wire.Query(sql))
    first = connection.read()
    while first.name in ("CommandComplete", "ParameterStatus"):
        first = connection.read()
    if first.name == "CopyInResponse":
        connection.send(*[wire.CopyData(piece) for piece in data], end or wire.CopyDone())
        return connection.read_until("Z")
    return [first, *connection.read_until("Z")]


def refusal(messages):
    [error] = [m for m in messages if m.kind == "E"]
    fields = error.fields()
    assert fields["C"] == "428C9"
    return fields


@pytest.mark.parametrize("form", ["text", "csv", "csv header", "csv header match"])
@pytest.mark.parametrize("place", KEY_AT.values(), ids=KEY_AT)
def test_psycopg2_copies(server, proxy, form, place):
    if "match" in form and common.pg_major() < 15:
        pytest.skip("HEADER MATCH is PostgreSQL 15's")
    rows = rows_of(1500)
    sent = [with_key(row, place) for row in rows]
    options = {"text": "", "csv": "CSV", "csv header": "CSV HEADER",
               "csv header match": "(FORMAT csv, HEADER match)"}[form]
    header = with_key(COLUMNS, place, "partition_key") if "header" in form else None
    data = text_of(sent) if form == "text" else csv_of(sent, header)
    connection = psycopg2.connect(**proxy.params(DATABASE, user="app"))
    with connection, connection.cursor() as cursor:
        cursor.copy_expert(copy(place, options), io.StringIO(data))
        assert cursor.rowcount == len(rows)
    connection.close()
    assert stored(server) == rows
    assert int(server.psql("SELECT count(DISTINCT tableoid) FROM chunks", dbname=DATABASE)) > 50
    if place is not None:
        assert proxy.wait_for_audit(1, statement="COPY")[-1]["verdict"] == "computed"


@pytest.mark.parametrize("place", KEY_AT.values(), ids=KEY_AT)
def test_asyncpg_copies_in_binary(server, proxy, place):
    rows = rows_of(700)

    async def main():
        connection = await asyncpg.connect(host=proxy.host, port=proxy.port, database=DATABASE, user="app")
        records = [with_key([row[0], row[1], int(row[2]), row[3]], place, 4711) for row in rows]
        await connection.copy_records_to_table("chunks", records=records,
                                               columns=with_key(COLUMNS, place, "partition_key"))
        await connection.close()

    asyncio.run(main())
    assert stored(server) == rows


@pytest.mark.parametrize("largest", [1, 3, 50, 70000])
@pytest.mark.parametrize("form", ["text", "csv"])
def test_the_stream_is_cut_anywhere(server, proxy, form, largest):
    rows = rows_of(60 if largest < 50 else 3000, largest)
    sent = [with_key(row, 0) for row in rows]
    data = (text_of(sent) if form == "text" else csv_of(sent)).encode()
    pick, at, pieces = random.Random(largest), 0, []
    while at < len(data):
        pieces.append(data[at:at + pick.randint(1, largest)])
        at += len(pieces[-1])
    with session(proxy) as connection:
        messages = send_copy(connection, copy(0, "" if form == "text" else "CSV"), *pieces)
        assert [m.name for m in messages] == ["CommandComplete", "ReadyForQuery"]
    assert stored(server) == rows


def test_a_long_value_is_computed_however_it_is_cut(server, proxy):
    row = b"5\t" + b"long\\n" * 400 + b"\td\t1\tx\n"
    with session(proxy) as connection:
        for size in 1, 1000, 1 << 16:
            pieces = [row[at:at + size] for at in range(0, len(row), size)]
            assert not wire.errors(send_copy(connection, copy(0), *pieces))
    assert stored(server) == [["long\n" * 400, "d", "1", "x"]] * 3


def test_without_a_list_and_null_and_a_positional_stream(server, proxy):
    with session(proxy) as connection:
        messages = send_copy(connection, "COPY chunks FROM STDIN",
                             b"1\ta\t4711\td\t7\tx\t{}\t2026-01-01\n2\tb\t\\N\td\t8\ty\t{}\t2026-01-01")
        assert not wire.errors(messages)
        assert connection.rows("SELECT partition_key FROM chunks ORDER BY id") == [["57"], ["-88"]]
        assert wire.errors(send_copy(connection, copy(0), b"5\t\\N\td\t1\tx\n")) == ["23514"]


# (stream, what the server says of it; that it is refused with the key as well)
FAULTS = {
    "a field too few": (b"a\td\t1\n", "22P04"),
    "two fields too few": (b"a\td\n", "22P04"),
    "a field too many": (b"a\td\t1\tx\ty\n", "22P04"),
    "an empty line": (b"\n", "22P04"),
    "a bad number": (b"a\td\tq\tx\n", "22P02"),
    "too long": (b"%s\td\t1\tx\n" % (b"a" * 9000), "428C9"),
}


@pytest.mark.parametrize("place", KEY_AT.values(), ids=KEY_AT)
def test_a_faulty_stream_is_refused(server, proxy, place):
    good = text_of([with_key(row, place) for row in rows_of(5)]).encode()
    with session(proxy) as connection:
        for fault, (stream, sqlstate) in FAULTS.items():
            if place is not None and stream != b"\n":
                line = stream.rstrip(b"\n").split(b"\t")
                line[min(place, len(line)):min(place, len(line))] = [b"4711"]
                stream = b"\t".join(line) + b"\n"
            messages = send_copy(connection, copy(place), good + stream)
            assert wire.errors(messages) == [sqlstate], fault
            assert connection.rows("SELECT 1") == [["1"]]
    assert stored(server) == []


@pytest.mark.skipif(common.pg_major() >= 18, reason="PostgreSQL 18 wants the marker in a line of its own")
@pytest.mark.parametrize("size", [1, 1000])
def test_the_end_marker_behind_a_row(server, proxy, size):
    stream = b"5\ta\td\t1\tx\\.\n5\tb\td\t1\tx\n"
    with session(proxy) as connection:
        pieces = [stream[at:at + size] for at in range(0, len(stream), size)]
        assert not wire.errors(send_copy(connection, copy(0), *pieces))
    assert stored(server) == [["a", "d", "1", "x"]]


def test_a_row_that_lacks_the_key_at_its_end_is_refused(server, proxy):
    """With the computed one it would have the right number of fields."""
    with session(proxy) as connection:
        messages = send_copy(connection, copy(4), b"a\td\t1\tx\n")
        assert wire.errors(messages) == ["22P04"]
        messages = send_copy(connection, copy(4, "CSV"), b"a,d,1,x")
        assert wire.errors(messages) == ["22P04"]
        messages = send_copy(connection, copy(None, "CSV HEADER"), b"whatever\na,d,1,x\n")
        assert not wire.errors(messages)


def test_what_is_not_certain_is_refused_in_the_servers_transaction(server, proxy):
    with session(proxy, client_encoding="LATIN1") as connection:
        connection.query("BEGIN")
        assert not wire.errors(send_copy(connection, copy(), b"ascii\td\t1\tx \xe9\n"))
        fields = refusal(send_copy(connection, copy(), b"ok\td\t1\tx\n", b"\xe9\td\t1\tx\n" * 3000))
        assert fields["M"] == 'column "partition_key" cannot be computed for this COPY'
        assert 'The value of "collection_id" in row 2' in fields["D"]
        assert fields["H"] == "Load the rows by INSERT."
        assert wire.errors(connection.query("SELECT 1")) == ["25P02"]
        connection.query("ROLLBACK")
        # the option says what the stream is in
        assert not wire.errors(send_copy(connection, copy(options="(ENCODING 'utf-8')"),
                                         "é\td\t1\tx\n".encode()))
        assert refusal(send_copy(connection, copy(options="(ENCODING 'latin1')"), b"\xe9\td\t1\tx\n"))
        assert len(connection.rows("SELECT partition_key FROM chunks WHERE content = 'x'")) == 1


def test_the_clients_own_failure_stays_its_own(server, proxy):
    with session(proxy) as connection:
        messages = send_copy(connection, copy(), b"a\td\t1\tx\n", end=wire.CopyFail("no more"))
        assert wire.errors(messages) == ["57014"]
    assert stored(server) == []


def test_a_change_of_the_encoding_that_is_not_seen_yet(server, proxy):
    """The client sends all at once: that the encoding has changed, the server says afterwards."""
    with session(proxy) as connection:
        connection.send(wire.Query("SET client_encoding = 'LATIN1'"), wire.Query(copy()),
                        wire.CopyData(b"\xc3\xa9\td\t1\tx\n"), wire.CopyDone())
        first, second = connection.read_until("Z"), connection.read_until("Z")
        assert not wire.errors(first)
        assert "client_encoding" in refusal(second)["D"]
        fields = refusal(send_copy(connection, "SET client_encoding = 'UTF8'; " + copy(),
                                   "é\td\t1\tx\n".encode()))
        assert fields["H"] == "Send the COPY by itself, or with the option ENCODING."
    assert stored(server) == []


def extended(connection, name, *data, portal=""):
    connection.send(wire.Bind(portal, name), wire.Execute(portal), wire.Flush())
    while connection.read().name != "CopyInResponse":
        pass
    connection.send(*[wire.CopyData(piece) for piece in data], wire.CopyDone(), wire.Sync())
    return connection.read_until("Z")


def test_prepared(server, proxy):
    with session(proxy) as connection:
        for place, row in (None, b"b\td\t1\tx\n"), (0, b"5\tb\td\t1\tx\n"):
            name = f"copy {place}"
            connection.send(wire.Parse(name, copy(place)), wire.Sync())
            assert not wire.errors(connection.read_until())
            for portal in "", "named":
                assert not wire.errors(extended(connection, name, row * 2, portal=portal))
        assert connection.rows("SELECT count(*), max(partition_key) FROM chunks") == [["8", "-88"]]


def test_refused_with_what_to_write_instead(server, proxy):
    with session(proxy) as connection:
        fields = refusal(connection.query("COPY chunks (content) FROM STDIN"))
        assert fields["H"] == 'Have the COPY carry column "collection_id".'
        fields = refusal(connection.query("COPY chunks (collection_id) FROM '/tmp/x'"))
        assert fields["H"] == "Send the rows by COPY ... FROM STDIN."


# types and expressions

TYPES = {
    "uuid": ("uuid", ["550E8400-E29B-41D4-A716-446655440000", "00000000-0000-0000-0000-000000000000"],
             ["{550e8400-e29b-41d4-a716-446655440000}"]),
    "bigint": ("bigint", ["7", " -12 ", "+5", "9223372036854775807"], []),
    "smallint": ("smallint", ["0", "-32768"], []),
    "char": ("character(6)", ["a", "a     ", "", "ß日"], []),
    "text": ("text", ["", "a", "x" * 8000, "é" * 1000], ["y" * 9000]),
}


@pytest.fixture(scope="module")
def typed(server):
    schema.create_database(server, "compute_copy_types")
    return "compute_copy_types"


@pytest.mark.parametrize("expression", ["mod(hashtext(source::text), 100)", "abs(hashtext(source::text)) % 100"])
@pytest.mark.parametrize("kind, values, uncertain", TYPES.values(), ids=TYPES)
def test_types_of_the_source(server, typed, kind, values, uncertain, expression):
    database = typed
    server.psql(f"DROP TABLE IF EXISTS typed; CREATE TABLE typed (source {kind}, key integer);"
                "GRANT ALL ON typed TO app", dbname=database)
    rule = {"name": "typed", "database": database, "table": "public.typed", "column": "key",
            "expression": expression, "mode": "compute"}
    proxy = Proxy(server, rules=[rule], control=f"host={server.host} port={server.port}"
                                                f" user=pgsluice dbname={database}").start()
    try:
        with wire.connect(proxy, database=database) as connection:
            for value in values:
                messages = send_copy(connection, "COPY typed (source) FROM STDIN", value.encode() + b"\n")
                assert not wire.errors(messages), str(messages)
            for value in uncertain:
                assert wire.errors(send_copy(connection, "COPY typed (source) FROM STDIN",
                                             value.encode() + b"\n")) == ["428C9"]
            assert connection.rows("SELECT count(*), count(*) FILTER (WHERE key = " + expression +
                                   ") FROM typed") == [[str(len(values))] * 2]
    finally:
        proxy.stop()


@pytest.mark.skipif(common.pg_major() < 12, reason="PostgreSQL 11 has deterministic collations only")
def test_a_collation_that_makes_other_hashes_is_refused(server, typed):
    database = typed
    server.psql("DROP TABLE IF EXISTS typed; DROP COLLATION IF EXISTS folded;"
                "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
                "CREATE TABLE typed (source text COLLATE folded, key integer)", dbname=database)
    rule = {"name": "typed", "database": database, "table": "public.typed", "column": "key",
            "expression": "mod(hashtext(source), 100)", "mode": "compute"}
    proxy = Proxy(server, rules=[rule], control=f"host={server.host} port={server.port}"
                                                f" user=pgsluice dbname={database}").start()
    try:
        with wire.connect(proxy, database=database) as connection:
            fields = refusal(connection.query("COPY typed (source) FROM STDIN"))
            assert 'the hash, of "source"' in fields["D"]
    finally:
        proxy.stop()
