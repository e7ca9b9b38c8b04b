"""Mode compute on the table that neither a trigger nor a generated column can serve: partitioned by its
own key, with a partition for each of the 199 values."""

import asyncio
import subprocess

import asyncpg
import psycopg2
import psycopg2.extras
import pytest

from lib import common, schema, wire
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

DATABASE = "compute"
INSERT = "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
OMITTED = "INSERT INTO chunks (collection_id, chunk_index, content) "
KEYS = {"a": 57, "b": -88, "": -71, "日本語": 16, " a": 2, "a ": -8}  # what the expression gives

PLAIN = """
CREATE TABLE plain (LIKE chunks INCLUDING DEFAULTS);
ALTER TABLE plain ALTER partition_key DROP NOT NULL;
GRANT ALL ON plain TO app;
"""


@pytest.fixture(scope="module")
def computing(server):
    schema.create_database(server, DATABASE)
    schema.create_chunks(server, "partitioned", DATABASE)
    schema.create_partitions(server, -99, 99, DATABASE)
    server.psql(PLAIN, dbname=DATABASE)
    instance = Proxy(
        server, rules=[strip_rule("compute", database=DATABASE)],
        control=f"host={server.host} port={server.port} user=pgsluice dbname={DATABASE}").start()
    yield instance
    instance.stop()


@pytest.fixture
def compute(computing, server):
    """The proxy in front of the empty table; afterwards every row must be where it belongs."""
    schema.clear_chunks(server, DATABASE)
    yield computing
    assert schema.wrong_keys(server, DATABASE) == 0


def connect(endpoint):
    connection = psycopg2.connect(**endpoint.params(DATABASE, user="app"))
    connection.autocommit = True
    return connection


def one(cursor, sql, values=None):
    cursor.execute(sql, values)
    return cursor.fetchone()[0]


def refused(cursor, sql, values=None):
    with pytest.raises(psycopg2.Error) as caught:
        cursor.execute(sql, values)
    assert caught.value.pgcode == "428C9"
    return caught.value.diag


def test_single_rows_with_and_without_the_key(compute):
    with connect(compute).cursor() as cursor:
        for collection, key in KEYS.items():
            for statement, values in [
                    (OMITTED + "VALUES (%s, 1, 'x') RETURNING partition_key", (collection,)),
                    (INSERT + "VALUES (%s, %s, 1, 'x') RETURNING partition_key", (collection, 4711)),
                    (INSERT + "VALUES (%s, %s, 1, 'x') RETURNING partition_key", (collection, key)),
                    (INSERT + "VALUES (%s, NULL, 1, 'x') RETURNING partition_key", (collection,)),
                    (INSERT + "VALUES (%s, DEFAULT, 1, 'x') RETURNING partition_key", (collection,)),
                    ("INSERT INTO chunks VALUES (DEFAULT, %s, 7, 'd', 1, 'x') RETURNING partition_key",
                     (collection,))]:
                assert one(cursor, statement, values) == key
        assert one(cursor, "SELECT count(*) FROM chunks") == 6 * len(KEYS)
        assert one(cursor, "SELECT tableoid::regclass::text FROM chunks WHERE collection_id = 'b'"
                           " LIMIT 1") == "chunks_m88"


def test_many_rows(compute):
    with connect(compute).cursor() as cursor:
        for head, row in [(OMITTED, "({}, 1, 'x')"), (INSERT, "({}, 5, 1, 'x')")]:
            rows = ", ".join(row.format(f"'c''{n}'") for n in range(1500))
            cursor.execute(head + "VALUES " + rows)
            assert cursor.statusmessage == "INSERT 0 1500"
        psycopg2.extras.execute_values(cursor, INSERT + "VALUES %s",
                                       [(f"it's {n} \\", n, n, "x") for n in range(1000)],
                                       page_size=500)
        assert one(cursor, "SELECT count(*) FROM chunks") == 4000
        assert one(cursor, "SELECT count(DISTINCT tableoid) FROM chunks") > 190


def test_literals_of_one_shape_are_computed_each_by_itself(compute):
    with connect(compute).cursor() as cursor:
        for n in range(500):
            cursor.execute(INSERT + f"VALUES ('c{n}', {n}, {n}, 'c{n + 1}')")
            cursor.execute(OMITTED + f"VALUES ('{'x' * (n % 40)}', {n}, '')")
            cursor.execute(f"UPDATE chunks SET collection_id = 'u{n}' WHERE chunk_index = {n}")
        assert one(cursor, "SELECT count(*) FROM chunks WHERE collection_id LIKE 'u%'") == 1000
        # The client's own expression passes; one over another value does not.
        own = "mod(hashtext(CAST('{}' AS character varying)::text), 100)"
        for key in "a", "b", "a", "c":
            cursor.execute(INSERT + f"VALUES ('a', {own.format(key)}, 1, 'own')")
        assert one(cursor, "SELECT count(*) FROM chunks WHERE partition_key = 57"
                           " AND content = 'own'") == 4


def test_asyncpg_binary_parameters(compute):
    async def main():
        connection = await asyncpg.connect(host=compute.host, port=compute.port, database=DATABASE,
                                           user="app")
        statement = await connection.prepare(INSERT + "VALUES ($1, $2, $3, $4) RETURNING partition_key")
        assert [kind.name for kind in statement.get_parameters()] == ["varchar", "int4", "int4", "text"]
        for collection, key in KEYS.items():
            assert await statement.fetchval(collection, None, 1, "x") == key
            assert await statement.fetchval(collection, 4711, 1, "x") == key
        statement = await connection.prepare(OMITTED + "VALUES ($1, $2, $3) RETURNING partition_key")
        assert [kind.name for kind in statement.get_parameters()] == ["varchar", "int4", "text"]
        for collection, key in KEYS.items():
            assert await statement.fetchval(collection, 1, "x") == key
        await connection.executemany(INSERT + "VALUES ($1, $2, $3, $4)",
                                     [(f"c{n}", n, n, "many") for n in range(300)])
        await connection.execute("UPDATE chunks SET collection_id = $1 WHERE content = $2", "b", "many")
        assert await connection.fetchval(
            "SELECT count(*) FROM chunks WHERE partition_key = -88 AND content = 'many'") == 300
        await connection.close()

    asyncio.run(main())


# With the key in its own place, without it, and the same for a table without a rule.
DESCRIBED = [
    ("INSERT INTO {} (collection_id, {}chunk_index, content) VALUES ($1, {}$2, $3)", "partition_key, ", "5, "),
    ("INSERT INTO {} (chunk_index, {}collection_id, content) VALUES ($2, {}$1, $3) RETURNING id",
     "partition_key, ", "NULL, "),
    ("INSERT INTO {} (collection_id, {}chunk_index, content) VALUES ($1::text, {}$2::int8, $3), ($3, {}4, 'x')",
     "partition_key, ", "5, "),
    ("INSERT INTO {} (collection_id, {}chunk_index, content) SELECT $1, {}$2, $3", "partition_key, ", "5, "),
    ("UPDATE {} SET collection_id = $1{}{} WHERE chunk_index = $2 AND content = $3", ", partition_key", " = 5"),
    ("UPDATE {} SET (collection_id{}, content) = ROW ($1{}, $3) WHERE id = $2", ", partition_key", ", 5"),
]


def described(connection, sql, types=()):
    connection.send(wire.Parse("", sql, types), wire.Describe("S", ""), wire.Sync())
    return [message.comparable() for message in connection.read_until()]


@pytest.mark.parametrize("types", [(), (1043,), (0, 23), (25, 0, 1043)])
@pytest.mark.parametrize("pattern, name, value", DESCRIBED)
def test_describe_is_as_without_the_rule(compute, server, pattern, name, value, types):
    holes = [value] * (pattern.count("{}") - 2)
    with wire.connect(server, database=DATABASE) as direct, \
            wire.connect(compute, database=DATABASE) as proxied:
        bare = described(direct, pattern.format("plain", "", *([""] * len(holes))), types)
        assert described(proxied, pattern.format("chunks", "", *([""] * len(holes))), types) == bare
        assert described(proxied, pattern.format("chunks", name, *holes), types) == bare


def test_undeclared_parameters_on_the_wire(compute, server):
    with wire.connect(compute, database=DATABASE) as connection:
        connection.send(
            wire.Parse("s", INSERT + "VALUES ($1, $4, $2, $3) RETURNING partition_key"),
            wire.Describe("S", "s"),
            wire.Bind("", "s", [b"b", b"1", b"x", b"4711"]), wire.Execute(),
            wire.Bind("", "s", [b"a", b"2", b"x", None]), wire.Execute(), wire.Sync())
        messages = connection.read_until()
    assert not wire.errors(messages)
    assert [m.param_types() for m in messages if m.kind == "t"] == [[1043, 23, 25, 23]]
    assert [m.values() for m in messages if m.kind == "D"] == [[b"-88"], [b"57"]]


def test_upserts_and_updates_move_rows(compute):
    with connect(compute).cursor() as cursor:
        cursor.execute(OMITTED + "VALUES ('a', 1, 'x'), ('b', 2, 'y')")
        cursor.execute("UPDATE chunks SET collection_id = %s WHERE chunk_index = 1", ("c1",))
        assert one(cursor, "SELECT tableoid::regclass::text FROM chunks WHERE chunk_index = 1") == "chunks_43"
        cursor.execute("UPDATE chunks AS c SET partition_key = 5, content = 'z' WHERE chunk_index = 2")
        assert one(cursor, "SELECT partition_key FROM chunks WHERE content = 'z'") == -88
        cursor.execute("UPDATE chunks SET collection_id = content FROM (SELECT 1) s WHERE chunk_index = 2")
        cursor.execute("UPDATE chunks SET (collection_id, partition_key) = ('b', 9) WHERE chunk_index = 2")
        cursor.execute("INSERT INTO chunks (id, collection_id, chunk_index, content) VALUES (2, 'b', 9, 'w')"
                       " ON CONFLICT (id, collection_id, partition_key) DO UPDATE SET"
                       " content = EXCLUDED.content, partition_key = 11 RETURNING content")
        assert cursor.fetchall() == [("w",)]
        assert one(cursor, "SELECT count(*) FROM chunks") == 2


def test_insert_select_and_with(compute):
    with connect(compute).cursor() as cursor:
        cursor.execute(OMITTED + "SELECT name, n, 'x' FROM (SELECT 'c' || n AS name, n"
                       " FROM generate_series(1, 300) n) s")
        assert cursor.rowcount == 300
        cursor.execute("WITH moved AS (INSERT INTO chunks (collection_id, partition_key, chunk_index,"
                       " content) SELECT content, 0, 1, content FROM chunks LIMIT 5 RETURNING partition_key)"
                       " SELECT DISTINCT partition_key FROM moved")
        assert cursor.fetchall() == [(37,)]


@pytest.mark.skipif(common.pg_major() < 15, reason="MERGE is PostgreSQL 15's")
def test_merge(compute):
    merge = ("MERGE INTO chunks c USING (VALUES (1, 'a'), (2, 'b')) s (id, name) ON c.id = s.id"
             " WHEN MATCHED THEN UPDATE SET collection_id = s.name, content = 'updated'"
             " WHEN NOT MATCHED THEN INSERT (id, collection_id, chunk_index, content)"
             " VALUES (s.id, s.name, 1, 'x')")
    with connect(compute).cursor() as cursor:
        cursor.execute(merge)
        cursor.execute("UPDATE chunks SET collection_id = 'zzz'")
        cursor.execute(merge)
        assert one(cursor, "SELECT count(*) FROM chunks WHERE content = 'updated'") == 2


def test_what_cannot_be_computed_is_refused_with_what_to_write(compute):
    with connect(compute).cursor() as cursor:
        diag = refused(cursor, OMITTED + "VALUES ('a', 1, 'x'), (lower('B'), 2, 'y')")
        assert 'the value of "collection_id" in row 2 is an expression' in diag.message_detail
        assert diag.message_hint == 'Write a literal or a parameter for column "collection_id".'
        assert refused(cursor, OMITTED + "SELECT 'c' || n, n, 'x' FROM generate_series(1, 3) n"
                       ).message_hint == ('Write a literal, a column or a parameter for column'
                                          ' "collection_id".')
        diag = refused(cursor, "INSERT INTO chunks SELECT * FROM chunks")
        assert diag.message_primary == ('column "partition_key" cannot be computed for this INSERT'
                                        ' (rule "chunks")')
        assert refused(cursor, "UPDATE chunks SET collection_id = upper(collection_id)").message_hint
        assert refused(cursor, "INSERT INTO chunks_57 (collection_id, chunk_index, content)"
                               " VALUES ('a', 1, 'x')").message_hint == 'Write to table "chunks" itself.'
        assert one(cursor, "SELECT count(*) FROM chunks") == 0


def test_audit_and_counters(compute):
    with connect(compute).cursor() as cursor:
        before = len(compute.audit_lines(event="supplied"))
        cursor.execute(OMITTED + "VALUES ('a', 1, 'x')")
        cursor.execute(INSERT + "VALUES ('a', 5, 1, 'audited'), ('b', DEFAULT, 1, 'x')")
        compute.wait_for_audit(before + 1, event="supplied")
    line = compute.audit_lines(event="supplied")[-1]
    assert (line["verdict"], line["mode"], line["rows"]) == ("computed", "compute", 1)
    assert len(compute.audit_lines(event="supplied")) == before + 1
    for command, words in ("verify", ""), ("report", " computed, "):
        result = subprocess.run([common.binary(), "audit", command, compute.audit_file],
                                capture_output=True, text=True, timeout=20, check=True)
        assert words in result.stdout


# An error in a word of the client's text, behind what was put there for the key and in front of it.
MISTAKES = [
    OMITTED + "VALUES ('a', nocol, 'x')", OMITTED + "VALUES ('a', 1, 'x'), ('é', nocol, 'y')",
    INSERT + "VALUES ('a', 4711, nocol, 'x')", INSERT + "VALUES ('äöü', 4711, 1, 'x') RETURNING nocol",
    "INSERT INTO chunks (partition_key, collection_id, chunk_index, content) VALUES (5, 'a', nocol, 'x')",
    "UPDATE chunks SET collection_id = 'é', content = nocol", "UPDATE chunks SET partition_key = 5 WHERE nocol",
    OMITTED + "VALUES " + ", ".join(f"('c{n}', {n}, '{'é' * 300}')" for n in range(9)) + " RETURNING nocol",
    INSERT + "VALUES " + ", ".join(f"('c{n}', 4711, {n}, '{'é' * 300}')" for n in range(9)) + " RETURNING nocol",
]


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_an_error_points_into_the_clients_text(compute, number):
    with wire.connect(compute, database=DATABASE) as proxied:
        # the second time the edit is of a shape that is known, with longer literals
        for text in MISTAKES[number], MISTAKES[number].replace("4711", "98765").replace("'a'", "'another'"):
            [error] = [m for m in proxied.query(text) if m.kind == "E"]
            assert int(error.fields()["P"]) == text.index("nocol") + 1


# other shapes and expressions

def test_check_tells_the_effect_and_strip_is_refused(compute, server):
    assert "the column is the expression over the row's own values" in compute.command(
        "check", "--config", str(compute.config)).stdout
    control = f"host={server.host} port={server.port} user=pgsluice dbname={DATABASE}"
    for rule, why in [
            (strip_rule("strip", database=DATABASE), "use mode = compute, observe or reject"),
            (strip_rule("compute", database=DATABASE, expression="(SELECT 1)"),
             "it is more than functions, operators and casts over columns"),
            (strip_rule("compute", database=DATABASE, expression="partition_key + 1"),
             'it reads "partition_key", which it cannot'),
            (strip_rule("compute", database=DATABASE, expression="mod(hashtext(a::text), 100"),
             "syntax error")]:
        refusing = Proxy(server, rules=[rule], control=control)
        refusing.write_config()
        result = refusing.command("check", "--config", str(refusing.config))
        assert result.returncode == 1
        assert why in result.stderr


TYPED = """
CREATE SCHEMA other;
CREATE TYPE other.colour AS ENUM ('red', 'green');
CREATE DOMAIN other.label AS varchar(5) CHECK (value <> 'bad');
CREATE DOMAIN other.tagged AS text DEFAULT 'tag';
CREATE TABLE typed (
    key integer, short varchar(3), padded char(6), amount numeric(6, 2), moment timestamp(0) with time zone,
    colour other.colour, label other.label, "Odd ""name" "char", whole smallint, list integer[],
    tagged other.tagged, numbered bigserial, worded text DEFAULT 'word');
GRANT ALL ON typed TO app;
GRANT USAGE ON SCHEMA other TO app;
GRANT ALL ON SEQUENCE typed_numbered_seq TO app;
"""

ALL_TYPES = ("hashtext(concat(short::text, '|', padded::text, '|', amount::text, '|', extract(epoch FROM moment),"
             " '|', colour::text, '|', label::text, '|', \"Odd \"\"name\"::text, '|', whole::text, '|',"
             " list::text)) % 100")

# What the values are is the server's to say: it stores the row, and is asked what the key should be.
TYPED_VALUES = [
    "short) VALUES ('abc')", "short) VALUES ('ab     ')", "short) VALUES (12)", "padded) VALUES (true)",
    "padded) VALUES ('a'), ('a  '), ('')", "amount) VALUES (1.005), ('2.675'), (3), (1e3), (-0.001), (NULL)",
    "moment) VALUES ('2026-01-01 10:00:00.7+05'), ('2026-01-01'), ('today')",
    "moment) VALUES (timestamp '2026-06-01 12:00'), (DATE '2026-06-01')",
    "colour) VALUES ('red'), ('green'::other.colour)", "label) VALUES ('abc'), ('abc    '), (7)",
    '"Odd ""name") VALUES (\'xyz\'), (\'\')', "whole) VALUES (7), (7.5), ('8'), (-7)",
    "list) VALUES ('{1,2}'), (ARRAY[1]::int[]), (NULL)",
    "short, padded, amount, colour) SELECT 'abc', 'x', 2.675, 'red'",
    "short, amount) SELECT 'ab' , s.n FROM (VALUES (1.005), (2)) s (n)", "tagged) VALUES ('x')",
]


@pytest.fixture(scope="module")
def typed(server):
    schema.create_database(server, "compute_typed")
    server.psql(TYPED, dbname="compute_typed")
    rule = {"name": "typed", "database": "compute_typed", "table": "public.typed", "column": "key",
            "expression": ALL_TYPES, "mode": "compute"}
    instance = Proxy(server, rules=[rule], control=f"host={server.host} port={server.port}"
                                                   " user=pgsluice dbname=compute_typed").start()
    yield instance
    instance.stop()


@pytest.mark.parametrize("statement", TYPED_VALUES)
def test_values_mean_what_they_mean_in_the_row(typed, server, statement):
    server.psql("TRUNCATE typed", dbname="compute_typed")
    with wire.connect(typed, database="compute_typed") as proxied:
        messages = proxied.query("INSERT INTO typed (" + statement)
        if "ARRAY" in statement:
            assert wire.errors(messages) == ["428C9"]
            return
        assert not wire.errors(messages)
    rows = server.psql(f"SELECT count(*), count(*) FILTER (WHERE key = {ALL_TYPES}) FROM typed",
                       dbname="compute_typed").split("|")
    assert rows[0] == rows[1] != "0"


@pytest.mark.parametrize("statement, sqlstate", [
    ("short) VALUES ('abcd')", "22001"), ("amount) VALUES (12345)", "22003"), ("colour) VALUES ('x')", "22P02"),
    ("label) VALUES ('bad')", "23514"), ("label) VALUES ('abcdef')", "22001"), ("short, padded) VALUES ('a')", "42601"),
    ("nothing) VALUES (5)", "42703"), ("short, short) VALUES ('a', 'b')", "428C9"),
    # no such cast: the key's is tried before the column's own, which would say 42804
    ("whole) VALUES (true)", "42846")])
def test_errors_are_the_servers(typed, statement, sqlstate):
    with wire.connect(typed, database="compute_typed") as proxied:
        assert wire.errors(proxied.query("INSERT INTO typed (" + statement)) == [sqlstate]


@pytest.mark.parametrize("columns, types", [
    ("short, padded", []), ("label, colour", []), ("amount, moment", []), ("list, whole", []),
    ("label, short", [1043]), ("worded, label", [])])
def test_parameters_have_their_columns_types(typed, server, columns, types):
    server.psql("CREATE TABLE IF NOT EXISTS bare (LIKE typed); GRANT ALL ON bare TO app",
                dbname="compute_typed")
    with wire.connect(server, database="compute_typed") as direct, \
            wire.connect(typed, database="compute_typed") as proxied:
        for text in "INSERT INTO {} (" + columns + ") VALUES ($1, $2), ($3, $4)", \
                    "INSERT INTO {} (" + columns + ") VALUES ($1, $2)":
            bare = described(direct, text.format("bare"), types)
            assert described(proxied, text.format("typed"), types) == bare


@pytest.mark.parametrize("column", ["tagged", "numbered", "worded"])
def test_defaults_of_every_kind_are_refused(server, column):
    database = "compute_typed"
    rule = {"name": "typed", "database": database, "table": "public.typed", "column": "key",
            "expression": f"hashtext({column}::text)", "mode": "compute"}
    proxy = Proxy(server, rules=[rule], control=f"host={server.host} port={server.port}"
                                                f" user=pgsluice dbname={database}").start()
    try:
        with wire.connect(proxy, database=database) as proxied:
            for text in ("INSERT INTO typed (short) VALUES ('a')", "INSERT INTO typed DEFAULT VALUES",
                         f"INSERT INTO typed ({column}) VALUES (DEFAULT)",
                         f"UPDATE typed SET {column} = DEFAULT"):
                assert wire.errors(proxied.query(text)) == ["428C9"]
            assert not wire.errors(proxied.query(f"INSERT INTO typed ({column}) VALUES ('5')"))
    finally:
        proxy.stop()


@pytest.mark.skipif(common.pg_major() < 12, reason="generated columns need PostgreSQL 12 or newer")
def test_a_generated_column_is_left_to_the_server(server):
    schema.create_database(server, "compute_generated")
    schema.create_chunks(server, "generated", "compute_generated")
    proxy = Proxy(server, rules=[strip_rule("compute", database="compute_generated")],
                  control=f"host={server.host} port={server.port} user=pgsluice"
                          " dbname=compute_generated").start()
    try:
        connection = psycopg2.connect(**proxy.params("compute_generated", user="app"))
        with connection.cursor() as cursor:
            assert one(cursor, INSERT + "VALUES (lower('A'), 4711, 1, 'x') RETURNING partition_key") == 57
            assert one(cursor, OMITTED + "VALUES (lower('B'), 1, 'x') RETURNING partition_key") == -88
        connection.close()
    finally:
        proxy.stop()
