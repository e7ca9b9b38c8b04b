"""A rule on the owners' table: what each driver's INSERTs become under strip, observe and reject."""

import asyncio
import io

import asyncpg
import psycopg2
import psycopg2.errors
import psycopg2.extras
import pytest

from lib import common, drivers, schema, wire
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

INSERT = "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
KEYS = {"a": 57, "b": -88}  # what the expression gives


@pytest.fixture(scope="module", params=["trigger", "generated"])
def stripping(request, server):
    """(proxy, database): the table's key comes from the trigger, or is generated already.

    On the trigger's table a supplied key would do no harm; on the generated one the server refuses
    each INSERT of which the proxy has not removed it.
    """
    if request.param == "generated" and common.pg_major() < 12:
        pytest.skip("generated columns need PostgreSQL 12 or newer")
    database = f"strip_{request.param}"
    schema.create_database(server, database)
    schema.create_chunks(server, request.param, database)
    instance = Proxy(
        server, rules=[strip_rule("strip", database=database)],
        control=f"host={server.host} port={server.port} user=pgsluice dbname={database}").start()
    yield instance, database
    instance.stop()


@pytest.fixture
def strip(stripping, server):
    """The same with an empty table; checks after the test that every stored key is right."""
    schema.clear_chunks(server, stripping[1])
    yield stripping
    assert schema.wrong_keys(server, stripping[1]) == 0


def stored(server, database, condition="true"):
    return int(server.psql(f"SELECT count(*) FROM chunks WHERE {condition}", dbname=database))


def connect(endpoint, database="app", **options):
    connection = psycopg2.connect(**endpoint.params(database, user="app"), **options)
    connection.autocommit = True
    return connection


# strip: what drivers send

def test_psycopg2_literals_are_stripped(strip, server):
    proxy, database = strip
    with connect(proxy, database).cursor() as cursor:
        cursor.execute(INSERT + "VALUES ('a', 4711, 1, 'x') RETURNING id, partition_key")
        assert cursor.fetchall() == [(1, 57)]
        cursor.execute(INSERT + "VALUES (%s, %s, %s, %s) RETURNING partition_key", ("b", None, 2, "x"))
        assert cursor.fetchall() == [(-88,)]
        cursor.execute("INSERT INTO chunks VALUES (DEFAULT, %s, %s, %s, %s, %s)",
                       ("a", 4711, "doc", 3, "positional"))
        assert cursor.rowcount == 1
        assert cursor.statusmessage == "INSERT 0 1"
        psycopg2.extras.execute_values(
            cursor, INSERT + "VALUES %s RETURNING partition_key",
            [("a", n, n, "it's a \\ row; -- 'quoted'") for n in range(1000)], page_size=1000)
        assert cursor.rowcount == 1000
        psycopg2.extras.execute_batch(
            cursor, INSERT + "VALUES (%s, %s, %s, %s)", [("b", n, n, "x") for n in range(50)])
    assert stored(server, database) == 1053
    assert stored(server, database, "content = 'it''s a \\ row; -- ''quoted'''") == 1000


def test_asyncpg_parameters_are_stripped(strip, server):
    proxy, database = strip

    async def main():
        connection = await asyncpg.connect(**{
            "host": proxy.host, "port": proxy.port, "database": database, "user": "app"})
        statement = await connection.prepare(INSERT + "VALUES ($1, $2, $3, $4) RETURNING partition_key")
        assert [kind.name for kind in statement.get_parameters()] == ["varchar", "int4", "int4", "text"]
        for n in range(10):
            assert await statement.fetchval("a", n, n, "x") == 57
        assert await statement.fetchval("b", None, 1, "x") == -88
        await connection.executemany(INSERT + "VALUES ($1, $2, $3, $4)",
                                     [("a", n, n, "many") for n in range(200)])
        assert await connection.execute(
            "INSERT INTO chunks VALUES ($1, $2, $3, $4, $5, $6), ($7, $8, $9, $10, $11, $12)",
            5000, "a", 1, "doc", 1, "x", 5001, "b", 2, "doc", 2, "y") == "INSERT 0 2"
        async with connection.transaction():
            await connection.execute(INSERT + "VALUES ('a', 4711, 1, 'in a transaction')")
        await connection.close()

    asyncio.run(main())
    assert stored(server, database) == 214


def test_node_postgres_is_stripped(strip, server):
    proxy, database = strip
    result = drivers.node("insert", proxy, database=database, user="app")
    assert result["keys"] == [57, -88, 57, -88, 57, -88, -88, -88]
    assert stored(server, database) == 8


def test_jdbc_is_stripped(strip, server):
    proxy, database = strip
    result = drivers.jdbc("insert", proxy, database=database, user="app")
    assert result["keys"] == "[57,-88,57,-88,57,-88]"
    assert stored(server, database) == 46


def test_statements_without_the_key_are_not_touched(strip, server):
    proxy, database = strip
    with connect(proxy, database).cursor() as cursor:
        cursor.execute("INSERT INTO chunks (collection_id, chunk_index, content)"
                       " VALUES ('a', 1, 'partition_key') RETURNING partition_key")
        assert cursor.fetchone() == (57,)
        cursor.copy_expert("COPY chunks (collection_id, chunk_index, content) FROM STDIN",
                           io.StringIO("a\t2\tcopied\nb\t3\tcopied\n"))
        cursor.execute("UPDATE chunks SET content = 'changed' WHERE partition_key = 57")
        assert cursor.rowcount == 2
        cursor.execute("SELECT count(*), min(partition_key) FROM chunks")
        assert cursor.fetchone() == (3, -88)
    assert proxy.audit_lines(text="never") == []


@pytest.mark.parametrize("spelling", [
    "INSERT INTO CHUNKS (Collection_Id, PARTITION_KEY, chunk_index, content) VALUES ('a', 1, 1, 'x')",
    'INSERT INTO "chunks" ("collection_id", "partition_key", chunk_index, content) VALUES (\'a\', 1, 1, \'x\')',
    "INSERT INTO public.chunks(collection_id,partition_key,chunk_index,content)VALUES('a',1,1,'x')",
    "INSERT/* chunks */INTO chunks -- (comment\n (collection_id, partition_key /* ) */, chunk_index, content)\nVALUES ('a', /* , */ 1, 1, 'x')",
    "INSERT INTO chunks (partition_key, collection_id, chunk_index, content) VALUES (1, 'a', 1, 'x')",
    "INSERT INTO chunks (collection_id, chunk_index, content, partition_key) VALUES ('a', 1, 'x', 1)",
    "INSERT INTO chunks AS c (collection_id, partition_key, chunk_index, content) VALUES ('a', (SELECT 1), 1, 'x') RETURNING c.id",
    "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) VALUES ('a', '1', 1, $$,)(partition_key$$)",
    "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) VALUES ('a', 1, 1, E'\\'),(') ON CONFLICT DO NOTHING",
    'INSERT INTO chunks (collection_id, U&"p\\0061rtition_key", chunk_index, content) VALUES (\'a\', 1, 1, \'x\')',
    "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) OVERRIDING SYSTEM VALUE VALUES ('a', 1, 1, 'x')",
    "EXPLAIN ANALYZE INSERT INTO chunks (collection_id, partition_key, chunk_index, content) VALUES ('a', 1, 1, 'x')",
    "SELECT 1; INSERT INTO chunks (collection_id, partition_key, chunk_index, content) VALUES ('a', 1, 1, 'x'); SELECT 2",
], ids=range(13))
def test_every_spelling_is_stripped(strip, server, spelling):
    """Or, where this version cannot, refused; never let through."""
    proxy, database = strip
    with wire.connect(proxy, user="app", database=database) as session:
        codes = wire.errors(session.query(spelling))
    assert codes in ([], ["428C9"])
    assert stored(server, database) == (0 if codes else 1)
    if "OVERRIDING" not in spelling and "EXPLAIN" not in spelling:
        assert codes == []


def test_a_text_that_is_no_sql_is_the_same_error_as_ever(strip, server):
    proxy, database = strip
    broken = INSERT + "VALUES ('a'"

    def answer(endpoint):
        with wire.connect(endpoint, user="app", database=database) as session:
            fields = session.query(broken)[0].fields()
            return fields["S"], fields["C"], fields["M"]

    assert answer(proxy) == answer(server)


LEXER_TRAPS = {
    # What is a literal's end depends on settings of the session.
    "backslash": ("SET standard_conforming_strings = off; SET backslash_quote = on",
                  INSERT + r"VALUES ('a', 1, 1, '\', 2), (''z')"),
    "escaped_quote": ("SET standard_conforming_strings = off; SET backslash_quote = on",
                      INSERT + r"VALUES ('a', 1, 1, 'it\'s, (partition_key) ')"),
    "backslash_is_a_letter": ("SET standard_conforming_strings = on",
                              INSERT + r"VALUES ('a', 1, 1, '\')"),
    "shift_jis": ("SET client_encoding = 'SJIS'",
                  INSERT + "VALUES ('a', 1, 1, '表 ソ')"),
    "latin1": ("SET client_encoding = 'LATIN1'", INSERT + "VALUES ('a', 1, 1, 'é')"),
}


@pytest.mark.parametrize("settings,statement", LEXER_TRAPS.values(), ids=LEXER_TRAPS)
def test_settings_that_change_the_lexer_are_followed(strip, server, settings, statement):
    """Stripped rightly or refused, but never understood in another way than by the server."""
    proxy, database = strip
    encoding = {"'SJIS'": "shift_jis", "'LATIN1'": "latin-1"}.get(settings.split()[-1], "utf-8")
    raw = wire.message("Q", statement.encode(encoding) + b"\0")
    with wire.connect(proxy, user="app", database=database) as session:
        assert wire.errors(session.query(settings)) == []
        codes = wire.errors(session.send(raw).read_until())
    assert codes in ([], ["428C9"], ["42501"], ["22021"])
    assert stored(server, database) == (0 if codes else 1)


def test_a_stripped_statement_reaches_the_server_without_the_key(server, strip):
    proxy, database = strip
    mark = len(server.log())
    server.psql(f"ALTER DATABASE {database} SET log_min_duration_statement = 0", dbname="postgres")
    try:
        with connect(proxy, database).cursor() as cursor:
            cursor.execute(INSERT + "VALUES ('a', 471147, 1, 'seen by the server')")
        line = common.wait_until(
            lambda: [line for line in server.log_since(mark).splitlines()
                     if "seen by the server" in line], 5, "the statement in the server's log")[0]
        assert "471147" not in line and "partition_key" not in line
    finally:
        server.psql(f"ALTER DATABASE {database} RESET log_min_duration_statement", dbname="postgres")


# strip: the other statements that can write the key

OTHER_WRITES = {
    "update": "UPDATE chunks SET partition_key = 5",
    "update_of_several": "UPDATE chunks SET content = 'x', partition_key = partition_key WHERE id = 1",
    "update_of_a_row": "UPDATE chunks SET (content, partition_key) = ('x', 5)",
    "copy_of_a_file": "COPY chunks (collection_id, partition_key, chunk_index, content) FROM '/x'",
    "insert_select": INSERT + "SELECT 'a', 1, 1, 'x'",
    "insert_select_star": "INSERT INTO chunks SELECT * FROM chunks",
    "on_conflict_set": INSERT + "VALUES ('a', 1, 1, 'x') ON CONFLICT (id, collection_id, partition_key)"
                       " DO UPDATE SET partition_key = 5",
    "with_insert": "WITH new AS (" + INSERT + "VALUES ('a', 1, 1, 'x') RETURNING id) SELECT * FROM new",
    "merge": "MERGE INTO chunks c USING (SELECT 1) s ON false WHEN NOT MATCHED THEN INSERT"
             " (collection_id, partition_key, chunk_index, content) VALUES ('a', 1, 1, 'x')",
    "sql_prepare": "PREPARE p AS UPDATE chunks SET partition_key = $1",
}


@pytest.mark.parametrize("protocol", ["simple", "extended"])
@pytest.mark.parametrize("statement", OTHER_WRITES.values(), ids=OTHER_WRITES)
def test_other_writes_of_the_key_are_stripped_or_refused(strip, server, statement, protocol):
    """Never let through: the key stays right, each is recorded, and a refusal says what to do."""
    proxy, database = strip
    if statement.startswith("MERGE") and common.pg_major() < 15:
        pytest.skip("MERGE came with PostgreSQL 15")
    server.psql("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 0, 'before')",
                dbname=database)
    known = len(proxy.audit_lines())
    with wire.connect(proxy, user="app", database=database) as session:
        if protocol == "simple":
            answers = session.query(statement)
        else:
            session.send(wire.Parse("", statement), wire.Bind("", ""), wire.Execute(""), wire.Sync())
            answers = session.read_until()
        codes = wire.errors(answers)
        assert codes in ([], ["428C9"])
        assert session.rows("SELECT 1") == [["1"]]
    common.wait_until(lambda: len(proxy.audit_lines()) > known, 5, "the audit record")
    assert schema.wrong_keys(server, database) == 0
    if codes:
        fields = next(answer.fields() for answer in answers if answer.kind == "E")
        assert fields["S"] == "ERROR"
        assert "partition_key" in fields["M"]
        assert 'Rule "chunks"' in fields["M"] + fields.get("D", "")
        assert fields.get("H"), "no hint"
        assert stored(server, database, "content <> 'before'") == 0
    elif not statement.startswith(("UPDATE chunks SET partition_key", "PREPARE")):
        assert stored(server, database, "content = 'x'") == 1


@pytest.mark.parametrize("statement", [
    "COPY chunks (collection_id, partition_key, chunk_index, content) FROM '/x'",
    "COPY chunks FROM PROGRAM 'cat /x'",
    "INSERT INTO chunks SELECT * FROM chunks",
    "DO $$ BEGIN INSERT INTO chunks (collection_id, partition_key, chunk_index, content)"
    " VALUES ('a', 1, 1, 'x'); END $$",
], ids=["copy", "copy_without_list", "insert_select_star", "do"])
def test_what_strip_cannot_do_is_refused(strip, server, statement):
    proxy, database = strip
    if statement.startswith("COPY chunks FROM") and database == "strip_generated":
        pytest.skip("without a list COPY leaves a generated column out by itself")
    with wire.connect(proxy, user="app", database=database) as session:
        assert wire.errors(session.query(statement)) == ["428C9"]
    assert stored(server, database) == 0


# reject

@pytest.fixture
def reject(reject_proxy, server):
    schema.clear_chunks(server)
    return reject_proxy


def test_reject_says_which_column_which_rule_and_what_to_do(reject):
    with connect(reject).cursor() as cursor:
        with pytest.raises(psycopg2.errors.lookup("428C9")) as refused:
            cursor.execute(INSERT + "VALUES ('a', 1, 1, 'x')")
    diagnostics = refused.value.diag
    assert diagnostics.severity == "ERROR"
    assert "partition_key" in diagnostics.message_primary
    assert 'Rule "chunks"' in diagnostics.message_primary + (diagnostics.message_detail or "")
    assert diagnostics.message_hint


def test_reject_lets_pass_what_does_not_supply_the_key(reject, server):
    with connect(reject).cursor() as cursor:
        cursor.execute("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'x')")
        cursor.execute("INSERT INTO chunks (collection_id, partition_key, chunk_index, content)"
                       " VALUES ('a', DEFAULT, 2, 'x')")
        cursor.copy_expert("COPY chunks (collection_id, chunk_index, content) FROM STDIN",
                           io.StringIO("a\t3\tx\n"))
        cursor.execute("SELECT partition_key FROM chunks ORDER BY chunk_index")
        assert cursor.fetchall() == [(57,), (57,), (57,)]
        cursor.execute("UPDATE chunks SET content = 'y' WHERE partition_key = 57")
        assert cursor.rowcount == 3


def test_reject_aborts_the_transaction_and_nothing_of_it_stays(reject, server):
    connection = connect(reject)
    connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO documents VALUES ('d1')")
        with pytest.raises(psycopg2.errors.lookup("428C9")):
            cursor.execute(INSERT + "VALUES ('a', 1, 1, 'x')")
        with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
            cursor.execute("SELECT 1")
        connection.commit()  # the server answers ROLLBACK
        cursor.execute("SELECT count(*) FROM documents")
        assert cursor.fetchone() == (0,)
    connection.close()


def test_reject_respects_savepoints(reject, server):
    connection = connect(reject)
    connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO documents VALUES ('d1')")
        cursor.execute("SAVEPOINT s")
        with pytest.raises(psycopg2.errors.lookup("428C9")):
            cursor.execute(INSERT + "VALUES ('a', 1, 1, 'x')")
        cursor.execute("ROLLBACK TO s")
        cursor.execute("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'x')")
    connection.commit()
    connection.close()
    assert server.psql("SELECT count(*) FROM documents") == "1"
    assert stored(server, "app") == 1


def test_reject_in_a_multi_statement_query_undoes_what_came_before(reject, server):
    with wire.connect(reject, user="app") as session:
        answers = session.query("INSERT INTO documents VALUES ('d1'); " + INSERT
                                + "VALUES ('a', 1, 1, 'x'); SELECT 'never'")
        assert wire.errors(answers) == ["428C9"]
        assert answers[-1].details() == "idle"
        assert "never" not in str(answers)
    assert server.psql("SELECT count(*) FROM documents") == "0"


def test_reject_in_a_pipeline_skips_to_sync(reject, server):
    """As when the server refuses: what came before in the unit is undone, the next unit runs."""
    with wire.connect(reject, user="app") as session:
        session.send(
            wire.Parse("doc", "INSERT INTO documents VALUES ($1)"),
            wire.Bind("", "doc", ["d1"]), wire.Execute(""),
            wire.Parse("bad", INSERT + "VALUES ($1, $2, $3, $4)"),
            wire.Bind("", "bad", ["a", "1", "1", "x"]), wire.Execute(""),
            wire.Bind("", "doc", ["d2"]), wire.Execute(""),
            wire.Sync(),
            wire.Bind("", "doc", ["d3"]), wire.Execute(""),
            wire.Sync(),
            wire.Query("SELECT id FROM documents"))
        first, second, third = (session.read_until() for _ in range(3))
    assert wire.names(first) == ["ParseComplete", "BindComplete", "CommandComplete", "ErrorResponse",
                                 "ReadyForQuery"]
    assert wire.errors(first) == ["428C9"]
    # The statement "doc" was prepared in the unit that failed, and stays: the server keeps it too.
    assert wire.names(second) == ["BindComplete", "CommandComplete", "ReadyForQuery"]
    assert "d3" in str(third) and "d1" not in str(third) and "d2" not in str(third)


def test_a_rejected_statement_is_not_prepared(reject):
    with wire.connect(reject, user="app") as session:
        session.send(wire.Parse("bad", INSERT + "VALUES ($1, $2, $3, $4)"), wire.Sync())
        assert wire.errors(session.read_until()) == ["428C9"]
        session.send(wire.Bind("", "bad", ["a", "1", "1", "x"]), wire.Sync())
        assert wire.errors(session.read_until()) == ["26000"]
        session.send(wire.Parse("bad", "SELECT 1"), wire.Bind("", "bad"), wire.Execute(""), wire.Sync())
        assert wire.errors(session.read_until()) == []


def test_reject_after_flush_is_answered_at_once(reject):
    with wire.connect(reject, user="app") as session:
        session.send(wire.Parse("bad", INSERT + "VALUES ($1, $2, $3, $4)"), wire.Flush())
        assert wire.errors([session.read()]) == ["428C9"]
        session.send(wire.Sync())
        assert session.read().kind == "Z"


def test_drivers_see_the_rejection(reject):
    assert drivers.node("refused", reject, user="app") == {
        "codes": ["428C9", "428C9", "428C9", "25P02", "ok"]}
    assert drivers.jdbc("refused", reject, user="app") == {
        "codes": "428C9,428C9,428C9,428C9,25P02,ok"}


@pytest.mark.parametrize("statement", OTHER_WRITES.values(), ids=OTHER_WRITES)
def test_reject_refuses_every_kind_of_statement_that_supplies_the_key(reject, server, statement):
    if statement.startswith("MERGE") and common.pg_major() < 15:
        pytest.skip("MERGE came with PostgreSQL 15")
    with wire.connect(reject, user="app") as session:
        assert wire.errors(session.query(statement)) == ["428C9"]
    assert stored(server, "app") == 0


# observe

@pytest.fixture
def observe(observe_proxy, server):
    schema.clear_chunks(server)
    return observe_proxy


def test_observe_changes_nothing_and_records(observe, server):
    known = len(observe.audit_lines())
    with connect(observe).cursor() as cursor:
        cursor.execute("UPDATE chunks SET partition_key = 5")
        cursor.execute(INSERT + "VALUES ('a', 4711, 1, 'x') RETURNING partition_key")
        assert cursor.fetchone() == (57,)  # the trigger's value
        cursor.execute("UPDATE chunks SET partition_key = 5 RETURNING partition_key")
        assert cursor.fetchone() == (5,)  # no trigger on UPDATE: the value that the client sent
        cursor.copy_expert("COPY chunks (collection_id, partition_key, chunk_index, content) FROM STDIN",
                           io.StringIO("a\t1\t2\tx\n"))
    records = common.wait_until(
        lambda: len(lines := observe.audit_lines()) >= known + 4 and lines[known:], 5, "4 records")
    assert [record["statement"] for record in records] == ["UPDATE", "INSERT", "UPDATE", "COPY"]
    assert {record["verdict"] for record in records} == {"observed"}


def test_observe_forwards_what_the_server_itself_refuses(observe):
    with wire.connect(observe, user="app") as session:
        assert wire.errors(session.query(INSERT + "VALUES ('a', 'no number', 1, 'x')")) == ["22P02"]


# more than one

def test_a_rule_concerns_its_database_only(server, strip_proxy):
    """The same table name in another database is somebody else's."""
    schema.create_database(server, "elsewhere")
    server.psql("CREATE TABLE chunks (collection_id text, partition_key int, chunk_index int, content text);"
                "GRANT ALL ON chunks TO app", dbname="elsewhere")
    with connect(strip_proxy, "elsewhere").cursor() as cursor:
        cursor.execute(INSERT + "VALUES ('a', 4711, 1, 'x') RETURNING partition_key")
        assert cursor.fetchone() == (4711,)


def test_a_table_of_the_same_name_in_another_schema_is_not_touched(server, strip_proxy):
    server.psql("CREATE SCHEMA IF NOT EXISTS other; DROP TABLE IF EXISTS other.chunks;"
                "CREATE TABLE other.chunks (collection_id text, partition_key int, chunk_index int, content text);"
                "GRANT ALL ON SCHEMA other TO app; GRANT ALL ON other.chunks TO app")
    with connect(strip_proxy).cursor() as cursor:
        cursor.execute("INSERT INTO other.chunks (collection_id, partition_key) VALUES ('a', 4711)"
                       " RETURNING partition_key")
        assert cursor.fetchone() == (4711,)


@pytest.mark.parametrize("mode", ["observe", "strip", "reject"])
def test_many_sessions_under_a_rule_at_once(server, request, mode):
    proxy = request.getfixturevalue(f"{mode}_proxy")
    schema.clear_chunks(server)

    async def client(number):
        connection = await asyncpg.connect(host=proxy.host, port=proxy.port, database="app", user="app")
        refused = 0
        for n in range(30):
            try:
                await connection.execute(INSERT + "VALUES ($1, $2, $3, $4)", f"c{number}", n, n, "x")
            except asyncpg.PostgresError as error:
                assert error.sqlstate == "428C9"
                refused += 1
            await connection.execute(
                "INSERT INTO chunks (collection_id, chunk_index, content) VALUES ($1, $2, $3)",
                f"c{number}", n, "without")
        await connection.close()
        return refused

    async def main():
        return await asyncio.gather(*(client(number) for number in range(20)))

    refused = sum(asyncio.run(main()))
    assert refused == (600 if mode == "reject" else 0)
    assert stored(server, "app") == 1200 - refused
    assert schema.wrong_keys(server) == 0


def test_a_function_call_message_is_the_servers(strip, server):
    """What a function does is the server's to guard, called by FunctionCall or by SELECT."""
    proxy, database = strip
    server.psql("CREATE FUNCTION add_chunk(text) RETURNS bigint LANGUAGE sql AS $$"
                "INSERT INTO chunks (collection_id, chunk_index, content) VALUES ($1, 1, 'x') RETURNING id$$",
                dbname=database)
    oid = int(server.psql("SELECT 'add_chunk'::regproc::oid", dbname=database))
    with wire.connect(proxy, user="postgres", database=database) as session:
        session.send(wire.FunctionCall(oid, ["a"]), wire.Query("SELECT add_chunk('b')"))
        answers = session.read_until("Z") + session.read_until("Z")
        assert not wire.errors(answers)
        assert [answer.kind for answer in answers if answer.kind in "VD"] == ["V", "D"]
    assert stored(server, database) == 2
