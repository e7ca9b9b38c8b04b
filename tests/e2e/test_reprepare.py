"""Mode compute, and a table that becomes another one under prepared statements: the server gets them anew ahead of
their next Bind or Describe, and the client sees nothing of it."""

import asyncio
import contextlib
import subprocess

import asyncpg
import psycopg
import pytest

from lib import common, drivers, schema, wire
from lib.proxy import Proxy, strip_rule

pytestmark = [
    pytest.mark.proxy,
    pytest.mark.skipif(common.pg_major() < 12, reason="generated columns need PostgreSQL 12"),
]

DATABASE = "reprepare"
INSERT = "INSERT INTO chunks (collection_id, document_id, chunk_index, content) VALUES ($1, $2, 1, $3)"
VALUES = ["a", "d", "text"]
WITH_KEY = "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) VALUES ($1, $2, 1, 'x') RETURNING *"
RUN = [wire.Bind("", "s", VALUES), wire.Execute(), wire.Sync()]
RAN = ["2", "C", "Z"]


@pytest.fixture(scope="module")
def proxy(server):
    schema.create_database(server, DATABASE)
    schema.create_chunks(server, "partitioned", DATABASE)
    instance = Proxy(
        server, rules=[{**strip_rule("compute", database=DATABASE)}],
        control=f"host={server.host} port={server.port} user=pgsluice dbname={DATABASE}").start()
    yield instance
    assert instance.stop() == 0


@pytest.fixture
def become(server, proxy):
    """Makes the table another one, and waits until the proxy knows."""
    def now(shape):
        schema.create_chunks(server, shape, DATABASE)
        with wire.connect(proxy, user="postgres", database=DATABASE) as other:
            other.query("COMMENT ON TABLE chunks IS 'another one'")
            common.wait_until(lambda: not wire.errors(other.query(
                INSERT.replace("$1, $2", "'a', 'base'").replace("$3", "'x'"))), 15, f"a table that is {shape}")
    now("partitioned")
    return now


@pytest.fixture
def session(proxy, become):
    with wire.connect(proxy, user="postgres", database=DATABASE) as connection:
        connection.send(wire.Parse("s", INSERT), wire.Parse("key", WITH_KEY), wire.Sync())
        assert not wire.errors(connection.read_until())
        yield connection


def kinds(session, *messages):
    """What answers the messages, up to the last ReadyForQuery that they ask for."""
    session.send(*messages)
    found = []
    for message in messages:
        if message[:1] in (b"S", b"Q"):
            found += session.read_until()
    return [f"E{m.sqlstate}" if m.kind == "E" else m.kind for m in found]


def has_key(session, name="s"):
    """Whether the text in the server computes the key."""
    (text,), = session.rows(f"SELECT statement FROM pg_prepared_statements WHERE name = '{name}'")
    return "hashtext" in text


def written(server):
    return server.psql("SELECT count(*) FROM chunks WHERE document_id IS DISTINCT FROM 'base'", dbname=DATABASE)


def check(server, count):
    assert written(server) == str(count)
    assert schema.wrong_keys(server, DATABASE) == 0


def test_there_and_back(server, session, become):
    assert has_key(session)
    for shape, computed in (("hashed", False), ("partitioned", True), ("hashed", False)):
        become(shape)
        assert kinds(session, *RUN) == RAN and kinds(session, *RUN) == RAN
        assert has_key(session) == computed
        check(server, 2)


def test_what_the_server_has_already_is_left_alone(server, session, become):
    become("hashed")
    assert kinds(session, *RUN) == RAN
    since = session.rows("SELECT prepare_time FROM pg_prepared_statements WHERE name = 's'")
    assert kinds(session, *RUN) == RAN
    assert since == session.rows("SELECT prepare_time FROM pg_prepared_statements WHERE name = 's'")


def test_describe_says_the_same(session, become):
    asking = [wire.Describe("S", "key"), wire.Sync()]

    def described():
        session.send(*asking)
        answer = session.read_until()
        assert [m.kind for m in answer] == ["t", "T", "Z"]
        return [m.comparable() for m in answer[:2]]
    before = described()
    for shape in ("hashed", "partitioned"):
        become(shape)
        assert described() == before
        assert has_key(session, "key") == (shape == "partitioned")


# What is sent, what answers it, and how many rows it writes.
SEQUENCES = {
    "unnamed": ([wire.Bind("", "", VALUES), wire.Execute(), wire.Sync()], RAN, 1),
    "three batches": (
        RUN + [wire.Bind("", "key", ["a", "5"], results=[1]), wire.Execute(), wire.Sync()] + RUN,
        RAN + ["2", "D", "C", "Z"] + RAN, 3),
    "one batch": (
        [wire.Bind("", "s", VALUES), wire.Execute(), wire.Bind("", "key", ["a", 5]), wire.Execute(),
         wire.Bind("", "s", VALUES), wire.Execute(), wire.Sync()],
        ["2", "C", "2", "D", "C", "2", "C", "Z"], 3),
    "transaction": ([wire.Query("BEGIN")] + RUN + [wire.Query("COMMIT")], ["C", "Z"] + RAN + ["C", "Z"], 1),
    "failed transaction": (
        [wire.Query("BEGIN"), wire.Query("SELECT 1/0")] + RUN + [wire.Query("ROLLBACK")] + RUN,
        ["C", "Z", "E22012", "Z", "E25P02", "Z", "C", "Z"] + RAN, 1),
    "failed batch": ([wire.Parse("", "SELEC")] + RUN + RUN, ["E42601", "Z"] + RAN, 1),
    "batch that fails later": (
        [wire.Parse("t", "SELECT 1"), wire.Bind("", "t")] + RUN[:2] + [wire.Parse("", "SELEC"), wire.Sync()] + RUN,
        ["1", "2", "2", "C", "E42601", "Z"] + RAN, 1),
    "prepared again": ([wire.Close("S", "s"), wire.Parse("s", INSERT)] + RUN, ["3", "1"] + RAN, 1),
    "closed behind": (
        RUN[:2] + [wire.Close("S", "s"), wire.Parse("s", INSERT)] + RUN, ["2", "C", "3", "1"] + RAN, 2),
    "deallocated": (RUN + [wire.Query("DEALLOCATE s")] + RUN, RAN + ["C", "Z", "E26000", "Z"], 1),
    "deallocated all": (RUN + [wire.Query("DEALLOCATE ALL")] + RUN, RAN + ["C", "Z", "E26000", "Z"], 1),
    "long value": ([wire.Bind("", "s", ["a", "d", "x" * 3_000_000])] + RUN[1:], RAN, 1),
    "too few values": ([wire.Bind("", "s", ["a", "d"])] + RUN[1:] + RUN, ["E08P01", "Z"] + RAN, 1),
    "wrong value": ([wire.Bind("", "key", ["a", "no number"])] + RUN[1:] + RUN, ["E22P02", "Z"] + RAN, 1),
    "portal": (
        [wire.Bind("p", "key", ["a", "5"]), wire.Describe("P", "p"), wire.Execute("p", 1), wire.Execute("p", 1),
         wire.Sync()], ["2", "T", "D", "s", "C", "Z"], 1),
}


@pytest.mark.parametrize("is_cut", [False, True], ids=["at_once", "one_by_one"])
def test_every_sequence_is_answered_as_if_nothing_had_happened(server, proxy, become, is_cut):
    wrong = []
    with contextlib.ExitStack() as stack:
        sessions = {}
        for name in SEQUENCES:
            session = sessions[name] = stack.enter_context(
                wire.connect(proxy, user="postgres", database=DATABASE))
            assert kinds(session, wire.Parse("s", INSERT), wire.Parse("key", WITH_KEY), wire.Parse("", INSERT),
                         wire.Sync()) == ["1", "1", "1", "Z"]
        become("hashed")
        for name, (messages, expected, _) in SEQUENCES.items():
            session = sessions[name]
            pieces = [[message] for message in messages] if is_cut else [messages]
            found = [kind for piece in pieces for kind in kinds(session, *piece)]
            if found != expected or session.rows("SELECT 1") != [["1"]]:
                wrong.append(f"{name}: {found} and not {expected}")
    assert not wrong, "\n".join(wrong)
    check(server, sum(count for _, _, count in SEQUENCES.values()))


def test_a_flush_brings_the_answers(server, session, become):
    become("hashed")
    session.send(*RUN[:2], wire.Flush())
    assert [session.read().kind, session.read().kind] == ["2", "C"]
    assert kinds(session, wire.Sync()) == ["Z"]
    check(server, 1)


@pytest.mark.parametrize("columns,values", [
    ("collection_id, chunk_index, content", "a\t1\tx\n"),
    ("collection_id, partition_key, chunk_index, content", "a\t5\t1\tx\n"),
], ids=["without_the_key", "with_it"])
def test_a_prepared_copy(server, session, become, columns, values):
    """Under LIST the key is put into its rows, under HASH it is taken out of them."""
    assert kinds(session, wire.Parse("copy", f"COPY chunks ({columns}) FROM STDIN"), wire.Sync()) == ["1", "Z"]
    for shape in ("hashed", "partitioned"):
        become(shape)
        for _ in range(2):
            session.send(wire.Bind("", "copy"), wire.Execute(), wire.Flush())
            assert [session.read().kind, session.read().kind] == ["2", "G"]
            assert kinds(session, wire.CopyData(values), wire.CopyDone(), wire.Sync()) == ["C", "Z"]
        check(server, 2)
        assert kinds(session, *RUN) == RAN


def test_an_error_of_the_new_parse_answers_the_bind(server, session, become):
    become("hashed")
    server.psql("ALTER TABLE chunks RENAME document_id TO elsewhere", dbname=DATABASE)
    session.send(*RUN)
    answer = session.read_until()
    assert [m.kind for m in answer] == ["E", "Z"] and answer[0].sqlstate == "42703"
    assert answer[0].fields()["P"] == str(INSERT.index("document_id") + 1)
    assert kinds(session, *RUN) == ["E42703", "Z"]
    server.psql("ALTER TABLE chunks RENAME elsewhere TO document_id", dbname=DATABASE)
    assert kinds(session, *RUN) == RAN
    check(server, 1)


def test_in_a_failed_transaction_it_is_not_lost(server, session, become):
    """The Close ahead would be carried out there, and the Parse not."""
    become("hashed")
    begun = [wire.Query("BEGIN"), wire.Parse("", "SELECT 1/0"), wire.Bind("", ""), wire.Execute()]
    assert kinds(session, *begun, *RUN)[-2:] == ["E22012", "Z"]
    assert kinds(session, *RUN) == ["E25P02", "Z"]
    become("partitioned")
    assert kinds(session, *RUN) == ["E25P02", "Z"]
    assert kinds(session, wire.Query("ROLLBACK"), *RUN) == ["C", "Z"] + RAN
    check(server, 1)


@pytest.mark.parametrize("size", [1, 200_000])
def test_what_is_refused_by_now_is_refused_at_bind(server, proxy, become, size):
    """A value that would have to be evaluated twice."""
    become("hashed")
    with wire.connect(proxy, user="postgres", database=DATABASE) as session:
        assert kinds(session, wire.Parse("s", INSERT.replace("$1", "lower($1)")), wire.Sync()) == ["1", "Z"]
        assert kinds(session, *RUN) == RAN
        become("partitioned")
        values = ["A", "d", "x" * size]
        for _ in range(2):
            assert kinds(session, wire.Bind("", "s", values), wire.Execute(), wire.Sync()) == ["E428C9", "Z"]
        check(server, 0)
        become("hashed")
        assert kinds(session, *RUN) == RAN


def test_a_text_in_another_encoding_by_now_is_not_given_anew(server, proxy, become):
    text = INSERT.replace("$2", "'ü'").replace("$3", "$2")
    run = [wire.Bind("", "s", ["a", "x"]), wire.Execute(), wire.Sync()]
    with wire.connect(proxy, user="postgres", database=DATABASE) as session:
        assert kinds(session, wire.Parse("s", text), wire.Sync()) == ["1", "Z"]
        become("hashed")
        session.query("SET client_encoding = 'LATIN1'")
        refused = "E428C9" if common.pg_major() >= 14 else "E42601"
        assert kinds(session, *run) == [refused, "Z"]
        session.query("SET client_encoding = 'UTF8'")
        assert kinds(session, *run) == RAN
    assert server.psql("SELECT count(*) FROM chunks WHERE document_id = 'ü'", dbname=DATABASE) == "1"


@contextlib.contextmanager
def running(command):
    """A program that writes for every line that it is sent: write() says how many rows."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        def write():
            process.stdin.write("\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            assert answer, process.stderr.read()
            return int(answer)
        try:
            yield write
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0


@contextlib.contextmanager
def jdbc(proxy):
    url = f"jdbc:postgresql://{proxy.host}:{proxy.port}/{DATABASE}"
    with running(drivers.java("Outlives", url, "postgres", "")) as write:
        yield write


@contextlib.contextmanager
def psycopg3(proxy):
    with psycopg.connect(**proxy.params(DATABASE, user="postgres"), autocommit=True, prepare_threshold=1) as connection:
        def write():
            sql = "INSERT INTO chunks (collection_id, chunk_index, content) VALUES (%s, %s, 'x') RETURNING partition_key"
            for n in range(4):
                connection.execute(sql, (f"c{n}", n), binary=n % 2 == 0)
            with connection.pipeline(), connection.transaction():
                connection.cursor().executemany(sql, [(f"c{n}", n) for n in range(4)])
            return 8
        yield write


@contextlib.contextmanager
def asyncpg_client(proxy):
    loop = asyncio.new_event_loop()
    target = proxy.params(DATABASE, user="postgres")
    target["database"] = target.pop("dbname")
    connection = loop.run_until_complete(asyncpg.connect(**target))
    try:
        sql = "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) VALUES ($1, $2, $3, 'x')"
        statement = loop.run_until_complete(connection.prepare(sql + " RETURNING partition_key"))

        def write():
            for n in range(4):
                loop.run_until_complete(statement.fetchval(f"c{n}", 5, n))
                loop.run_until_complete(connection.execute(sql, f"c{n}", 5, n))
            loop.run_until_complete(connection.executemany(sql, [(f"c{n}", 5, n) for n in range(4)]))
            return 12
        yield write
    finally:
        loop.run_until_complete(connection.close())
        loop.close()


def test_drivers_do_not_notice(server, proxy, become):
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(client(proxy)) for client in (jdbc, psycopg3, asyncpg_client)]
        for write in writers:
            write()
        for shape in ("hashed", "partitioned"):
            become(shape)
            rows = sum(write() for write in writers)
            assert server.psql("SELECT count(*) FROM chunks WHERE document_id IS NULL", dbname=DATABASE) == str(rows)
            assert schema.wrong_keys(server, DATABASE) == 0
