"""Syntax that came after PostgreSQL 15, whose grammar the rules read, on a real PostgreSQL 18: untouched
where no guarded table is named; where one is, refused before the cutover, left to the server after it."""

import io

import psycopg2
import psycopg2.errors
import pytest

from lib import schema
from lib.pgserver import Server
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

TABLES = "CREATE TABLE other (id integer PRIMARY KEY, body text); INSERT INTO other VALUES (1, 'one');"
SOURCE = "USING other o ON c.chunk_index = o.id"


@pytest.fixture(scope="module")
def newest():
    server = Server(major=18).start()
    for shape in ("trigger", "generated"):
        schema.create_database(server, shape)
        schema.create_chunks(server, shape, shape)
        server.psql(TABLES, dbname=shape)
    yield server
    server.stop()


def start(server, database, **settings):
    return Proxy(server, rules=[strip_rule(database=database, **settings)],
                 control=f"host={server.host} port={server.port} user=pgsluice dbname={database}").start()


@pytest.fixture(scope="module")
def proxies(newest):
    found = {shape: start(newest, shape) for shape in ("trigger", "generated")}
    yield found
    for proxy in found.values():
        assert proxy.stop() == 0


@pytest.fixture(params=["trigger", "generated"])
def session(request, newest, proxies):
    """(shape, proxy, cursor) with one row in the table."""
    schema.clear_chunks(newest, request.param)
    newest.psql("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'x')",
                dbname=request.param)
    connection = psycopg2.connect(proxies[request.param].dsn(request.param))
    connection.autocommit = True
    with connection.cursor() as cursor:
        yield request.param, proxies[request.param], cursor
    connection.close()
    assert schema.wrong_keys(newest, request.param) == 0


UNGUARDED = [
    ("MERGE INTO other o USING (VALUES (1, 'new'), (2, 'two')) AS s (id, body) ON o.id = s.id"
     " WHEN MATCHED THEN UPDATE SET body = s.body WHEN NOT MATCHED BY TARGET THEN"
     " INSERT VALUES (s.id, s.body) WHEN NOT MATCHED BY SOURCE THEN DELETE"
     " RETURNING merge_action(), o.id", [("UPDATE", 1), ("INSERT", 2)]),
    ("UPDATE other SET body = 'x' WHERE id = 1 RETURNING WITH (OLD AS o, NEW AS n) o.id, n.body",
     [(1, "x")]),
    ("SELECT t.n FROM JSON_TABLE('[{\"n\": 7}]', '$[*]' COLUMNS (n integer PATH '$.n')) AS t", [(7,)]),
    ("SELECT JSON_OBJECT('a': 1) IS JSON, 0x1F, 1_000", [(True, 31, 1000)]),
    ("SELECT n FROM (SELECT 1 AS n)", [(1,)]),
    ("CREATE TEMP TABLE v (a integer, b integer GENERATED ALWAYS AS (a * 2));"
     " INSERT INTO v VALUES (4) RETURNING b", [(8,)]),
    ("CREATE TEMP TABLE p (id int4range, during daterange,"
     " PRIMARY KEY (id, during WITHOUT OVERLAPS)); SELECT 1", [(1,)]),
]


@pytest.mark.parametrize("text,rows", UNGUARDED)
def test_what_names_no_guarded_table_is_the_servers(session, text, rows):
    cursor = session[2]
    if "WITHOUT OVERLAPS" in text:
        cursor.execute("CREATE EXTENSION IF NOT EXISTS btree_gist")
    cursor.execute("BEGIN")
    cursor.execute(text)
    assert sorted(cursor.fetchall()) == sorted(rows)
    cursor.execute("ROLLBACK")


NOT_WRITING = [
    f"MERGE INTO chunks c {SOURCE} WHEN MATCHED THEN UPDATE SET content = o.body RETURNING c.content",
    "UPDATE chunks SET content = 'one' RETURNING WITH (OLD AS o, NEW AS n) n.content",
    "SELECT 'one' FROM chunks, JSON_TABLE('[1]', '$[*]' COLUMNS (n integer PATH '$')) AS t",
]


@pytest.mark.parametrize("text", NOT_WRITING)
def test_what_names_the_table_waits_for_the_cutover(session, text):
    shape, proxy, cursor = session
    recorded = len(proxy.audit_lines(statement="not parsed"))
    if shape == "trigger":
        with pytest.raises(psycopg2.errors.SyntaxError) as refused:
            cursor.execute(text)
        assert "its parser, PostgreSQL 15's, cannot read it" in refused.value.diag.message_detail
        assert "on_unparsed = pass" in refused.value.diag.message_hint
    else:
        cursor.execute(text)
        assert cursor.fetchall() == [("one",)]
    record = proxy.wait_for_audit(recorded + 1, statement="not parsed")[-1]
    assert record["verdict"] == ("refused" if shape == "trigger" else "observed")


def test_what_writes_a_generated_column_is_refused_by_the_server(session):
    shape, _, cursor = session
    if shape == "trigger":
        return
    with pytest.raises(psycopg2.errors.GeneratedAlways) as refused:
        cursor.execute(f"MERGE INTO chunks c {SOURCE} WHEN MATCHED THEN UPDATE SET partition_key = 1"
                       " RETURNING c.id")
    assert "pgsluice" not in str(refused.value)


def test_on_unparsed_overrides(newest, proxies):
    for shape, word in (("trigger", "pass"), ("generated", "reject")):
        schema.clear_chunks(newest, shape)
        proxy = start(newest, shape, on_unparsed=word)
        with psycopg2.connect(proxy.dsn(shape)) as connection, connection.cursor() as cursor:
            if word == "pass":
                cursor.execute(NOT_WRITING[0])
            else:
                with pytest.raises(psycopg2.errors.SyntaxError):
                    cursor.execute(NOT_WRITING[0])
        connection.close()
        assert proxy.wait_for_audit(1, statement="not parsed")
        assert proxy.stop() == 0


def test_returning_old_and_new_is_read(session):
    cursor = session[2]
    cursor.execute("INSERT INTO chunks (collection_id, partition_key, chunk_index, content)"
                   " VALUES ('b', 4711, 2, 'y') RETURNING old.id, new.content, new.partition_key")
    assert cursor.fetchall() == [(None, "y", -88)]
    cursor.execute("UPDATE chunks SET partition_key = 4711, content = 'z' WHERE collection_id = 'b'"
                   " RETURNING old.content, new.content, new.partition_key")
    assert cursor.fetchall() == [("y", "z", -88)]


def test_copy_options_of_newer_servers(session):
    cursor = session[2]
    data = "b\t4711\t2\ty\nb\t4711\tno number\ty\nb\t4711\t3\t\\D\n"
    cursor.copy_expert("COPY chunks (collection_id, partition_key, chunk_index, content) FROM STDIN"
                       " WITH (ON_ERROR ignore, REJECT_LIMIT 1, LOG_VERBOSITY verbose)",
                       io.StringIO(data))
    assert cursor.rowcount == 2
    cursor.copy_expert("COPY chunks (collection_id, partition_key, chunk_index, content, created_at)"
                       " FROM STDIN WITH (FORMAT csv, DEFAULT '\\D', FORCE_NULL *)",
                       io.StringIO("b,\\D,4,y,\\D\n"))
    assert cursor.rowcount == 1
    cursor.execute("SELECT chunk_index, content FROM chunks WHERE collection_id = 'b' ORDER BY 1")
    assert cursor.fetchall() == [(2, "y"), (3, "D"), (4, "y")]


def test_a_virtual_column_beside_the_guarded_one(newest, session):
    shape, _, cursor = session
    newest.psql("ALTER TABLE chunks ADD IF NOT EXISTS len integer GENERATED ALWAYS AS (length(content))",
                dbname=shape)
    cursor.execute("INSERT INTO chunks (collection_id, partition_key, chunk_index, content)"
                   " VALUES ('b', 4711, 2, 'four') RETURNING len, partition_key")
    assert cursor.fetchall() == [(4, -88)]
