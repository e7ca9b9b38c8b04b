"""Supplied keys against the expression's: what the audit says of them, and on_mismatch = reject, which
refuses the wrong ones only, in the server.
"""

import asyncio
import io
import json
import random
import subprocess
import uuid

import asyncpg
import psycopg2
import pytest

from lib import common, schema, wire
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

INSERT = "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) VALUES "
PREPARED = INSERT + "($1, $2, 1, 'x')"
COPY = "COPY chunks (collection_id, partition_key, chunk_index, content) FROM STDIN"
KEYS = {"a": 57, "coll-0": -24, "b": -88, "café": 54, "": -71}  # facts of PostgreSQL 11 to 18
LATIN1 = "SET client_encoding = latin1"
WRONG = 'value for column "partition_key" is not the one that it is computed to (rule "chunks")'


@pytest.fixture(scope="module", params=["trigger", "generated"])
def table(request, server):
    schema.create_chunks(server, request.param)
    yield request.param
    schema.create_chunks(server)


@pytest.fixture
def ruled(request, server, table):
    """A proxy with an empty audit log; its rule's keys are the test's parameter."""
    schema.clear_chunks(server)
    instance = Proxy(server, rules=[strip_rule(**getattr(request, "param", {}))]).start()
    yield instance
    assert instance.stop() == 0


@pytest.fixture(scope="module")
def rejecting(server, table):
    instance = Proxy(server, rules=[strip_rule(on_mismatch="reject")]).start()
    yield instance
    assert instance.stop() == 0


@pytest.fixture(autouse=True)
def empty(server, table):
    schema.clear_chunks(server)


def compared(record):
    return record.get("matched"), record.get("mismatched")


def count(server):
    return int(server.psql("SELECT count(*) FROM chunks", "app"))


def error_of(messages):
    error, = [message for message in messages if message.kind == "E"]
    return error


def assert_refused(messages, expected, row=""):
    error = error_of(messages)
    assert error.sqlstate == "428C9"
    told = error.fields()
    assert told["M"] == WRONG.replace('"partition_key"', '"partition_key"' + row)
    assert f"computed, to {expected} here" in told["D"]
    assert told["H"] == "Leave the column out of the statement."
    return error


# --- the audit's word ---

def test_the_audit_says_of_literals_whether_they_match(ruled):
    with wire.connect(ruled) as session:
        for _ in range(2):  # the second one is known by its shape
            session.rows(INSERT + "('a', 57, 1, 'x')")
            session.rows(INSERT + "('coll-0', 57, 1, 'x'), ('b', -88, 2, 'y'), (lower('A'), 5, 3, 'z')")
            session.rows(INSERT + "('café', 54, 1, 'x')")
            session.rows("UPDATE chunks SET partition_key = 5 WHERE false")
    records = ruled.wait_for_audit(8)
    assert [compared(r) for r in records] == 2 * [(1, 0), (1, 1), (1, 0), (None, None)]
    assert {r["verdict"] for r in records} == {"stripped"}


def test_a_bulk_load_is_compared_row_by_row(ruled):
    rows = [f"('{name}', {key + (n % 10 == 0)}, {n}, 'it''s {n}')"
            for n, (name, key) in enumerate(100 * list(KEYS.items()))]
    with wire.connect(ruled) as session:
        session.rows(INSERT + ", ".join(rows))
    record, = ruled.wait_for_audit(1)
    assert record["rows"] == 500
    assert compared(record) == (450, 50)


def test_observe_compares_as_well(server, table):
    if table == "generated":
        pytest.skip("the server refuses every value")
    proxy = Proxy(server, rules=[strip_rule("observe", on_mismatch="reject")]).start()
    with wire.connect(proxy) as session:
        session.rows(INSERT + "('a', 58, 1, 'x')")
        session.send(wire.Parse("", PREPARED), wire.Bind("", "", ["a", 57]), wire.Execute(""),
                     wire.Sync())
        assert not wire.errors(session.read_until())
    assert [compared(r) for r in proxy.wait_for_audit(2)] == [(0, 1), (1, 0)]
    assert proxy.stop() == 0


@pytest.mark.parametrize("types", [(), (1043, 23), (25, 20), (0, 21), (705, 705)])
def test_the_audit_says_of_parameters_whether_they_match(ruled, types):
    with wire.connect(ruled) as session:
        session.send(wire.Parse("s", PREPARED, types), wire.Sync())
        assert not wire.errors(session.read_until())
        for name, key in [*KEYS.items(), ("a", 58), ("a", None)]:
            session.send(wire.Bind("", "s", [name, key]), wire.Execute(""), wire.Sync())
            assert not wire.errors(session.read_until())
    assert [compared(r) for r in ruled.wait_for_audit(7)] == 5 * [(1, 0)] + 2 * [(0, 1)]


@pytest.mark.parametrize("sql, types, values", [
    (INSERT + "($1::text || '', $2, 1, 'x')", (), ["a", 57]),
    (INSERT + "($1, $2 + 0, 1, 'x')", (25, 23), ["a", 57]),
    (INSERT + "($1, $2, 1, $1)", (), ["a", 57]),  # text or varchar: which one is not looked up
    ("INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
     "SELECT $1, 57, 1, 'x'", (), ["a"]),
])
def test_what_is_not_known_is_not_said(ruled, sql, types, values):
    with wire.connect(ruled) as session:
        session.send(wire.Parse("", sql, types), wire.Bind("", "", values), wire.Execute(""),
                     wire.Sync())
        session.read_until()
    record, = ruled.wait_for_audit(1)
    assert compared(record) == (None, None)


def test_a_client_encoding_that_is_converted_says_nothing_of_its_letters(ruled):
    with wire.connect(ruled, client_encoding="LATIN1") as session:
        session.send(wire.Parse("s", PREPARED), wire.Sync())
        session.read_until()
        for name in (b"caf\xe9", b"a"):
            session.send(wire.Bind("", "s", [name, 1]), wire.Execute(""), wire.Sync())
            assert not wire.errors(session.read_until())
    assert [compared(r) for r in ruled.wait_for_audit(2)] == [(None, None), (0, 1)]


@pytest.mark.parametrize("change, batches", [
    ([wire.Parse("", LATIN1), wire.Bind("", ""), wire.Execute()], 1),
    ([wire.Parse("", LATIN1), wire.Bind("", ""), wire.Execute(), wire.Sync()], 2),
    ([wire.Query(LATIN1)], 2)])
def test_values_behind_a_change_of_the_encoding_that_is_not_answered_yet(rejecting, change, batches):
    with wire.connect(rejecting) as session:
        session.send(wire.Parse("p", PREPARED), wire.Sync())
        assert not wire.errors(session.read_until())
        session.send(*change, wire.Bind("", "p", ["café".encode("latin1"), 54]), wire.Execute(),
                     wire.Sync())
        for _ in range(batches):
            assert not wire.errors(session.read_until())


def test_long_binds_are_compared_up_to_a_size(ruled):
    with wire.connect(ruled) as session:
        session.send(wire.Parse("s", INSERT + "($1, $2, 1, $3)"), wire.Sync())
        session.read_until()
        for size in (100, 100_000, 380_000, 400_000):
            session.send(wire.Bind("", "s", ["a", 57, "x" * size]), wire.Execute(""), wire.Sync())
            assert not wire.errors(session.read_until())
    assert [compared(r) for r in ruled.wait_for_audit(4)] == 3 * [(1, 0)] + [(None, None)]


def test_the_report_counts_them(ruled):
    with wire.connect(ruled, application_name="loader") as session:
        session.rows(INSERT + "('a', 57, 1, 'x')")
        session.rows(INSERT + "('a', 58, 1, 'x')")
    ruled.wait_for_audit(2)
    report = subprocess.run([common.binary(), "audit", "report", ruled.audit_file, "--json"],
                            check=True, capture_output=True, timeout=60)
    client, = json.loads(report.stdout)["clients"]
    assert (client["matched"], client["mismatched"]) == (1, 1)
    assert client["statements"][0]["mismatched"] == 1
    text = subprocess.run([common.binary(), "audit", "report", ruled.audit_file], check=True,
                          capture_output=True, text=True, timeout=60).stdout
    assert "of the values that could be compared, 1 was the expression's and 1 was not" in text


# --- on_mismatch = reject ---

def test_right_literals_are_stripped_and_wrong_ones_refused(server, rejecting):
    with wire.connect(rejecting) as session:
        for _ in range(2):
            for name, key in KEYS.items():
                session.rows(INSERT + f"('{name}', {key}, 1, 'x')")
            assert_refused(session.query(INSERT + "('a', 58, 1, 'x')"), 57)
            assert_refused(session.query(INSERT + "('a', 57, 1, 'x'), ('b', 88, 1, 'x')"), -88,
                           " of row 2")
            assert_refused(session.query(INSERT + "('a', NULL, 1, 'x')"), 57)
    assert count(server) == 2 * len(KEYS)
    assert schema.wrong_keys(server) == 0


def test_a_wrong_row_of_a_bulk_load_refuses_it(server, rejecting):
    rows = [f"('a', {57 if n != 1234 else 5}, {n}, 'x')" for n in range(3000)]
    with wire.connect(rejecting) as session:
        assert_refused(session.query(INSERT + ", ".join(rows)), 57, " of row 1235")
        # judged by the thread
        rows += [f"('a', 57, {n}, '{'x' * 100}')" for n in range(5000)]
        assert_refused(session.query(INSERT + ", ".join(rows)), 57, " of row 1235")
        del rows[1234]
        session.rows(INSERT + ", ".join(rows))
    assert count(server) == 7999


def test_the_transaction_is_really_aborted(server, rejecting):
    with wire.connect(rejecting) as session:
        session.rows("BEGIN")
        session.rows(INSERT + "('a', 57, 1, 'x')")
        assert_refused(session.query(INSERT + "('a', 58, 1, 'x')"), 57)
        assert error_of(session.query("SELECT 1")).sqlstate == "25P02"
        # An aborted transaction answers as it does, not with the refusal.
        assert error_of(session.query(INSERT + "('a', 58, 1, 'x')")).sqlstate == "25P02"
        session.rows("ROLLBACK")
    assert count(server) == 0


def test_a_wrong_parameter_is_refused_at_bind(server, rejecting):
    with wire.connect(rejecting) as session:
        session.send(wire.Parse("s", PREPARED), wire.Describe("S", "s"), wire.Sync())
        session.read_until()
        session.send(wire.Bind("", "s", ["a", 58]), wire.Describe("P", ""), wire.Execute(""),
                     wire.Bind("", "s", ["a", 57]), wire.Execute(""), wire.Sync())
        answer = session.read_until()
        assert_refused(answer, 57)
        assert [m.kind for m in answer] == ["E", "Z"]
        # the prepared statement lives on
        session.send(wire.Bind("", "s", ["a", 57]), wire.Execute(""), wire.Sync())
        assert not wire.errors(session.read_until())
    assert count(server) == 1


def test_the_unnamed_statement_outlives_a_refused_bind(rejecting):
    with wire.connect(rejecting) as session:
        session.send(wire.Parse("", PREPARED), wire.Bind("", "", ["a", 58]), wire.Execute(""),
                     wire.Sync())
        answer = session.read_until()
        assert [m.kind for m in answer] == ["1", "E", "Z"]
        assert_refused(answer, 57)
        session.send(wire.Bind("", "", ["a", 57]), wire.Execute(""), wire.Sync())
        assert not wire.errors(session.read_until())


def test_a_refused_bind_fails_its_transaction(server, rejecting):
    with wire.connect(rejecting) as session:
        session.rows("BEGIN")
        session.rows("SAVEPOINT one")
        session.send(wire.Parse("s", PREPARED), wire.Bind("", "s", ["a", 57]), wire.Execute(""),
                     wire.Bind("", "s", ["b", 57]), wire.Execute(""), wire.Sync())
        answer = session.read_until()
        assert_refused(answer, -88)
        assert answer[-1].body == b"E"
        session.send(wire.Bind("", "s", ["b", 57]), wire.Execute(""), wire.Sync())
        assert error_of(session.read_until()).sqlstate == "25P02"
        session.rows("ROLLBACK TO one")
        session.send(wire.Bind("", "s", ["b", -88]), wire.Execute(""), wire.Sync())
        assert not wire.errors(session.read_until())
        session.rows("COMMIT")
    assert count(server) == 1


def test_pipelined_batches_are_refused_one_by_one(server, rejecting):
    pick = random.Random(5)
    wrong = 0
    with wire.connect(rejecting) as session:
        session.send(wire.Parse("s", PREPARED), wire.Sync())
        session.read_until()
        batches = []
        for _ in range(300):
            name = pick.choice(list(KEYS))
            is_wrong = pick.random() < 0.3
            wrong += is_wrong
            batches.append((KEYS[name], is_wrong))
            session.send(wire.Bind("", "s", [name, KEYS[name] + is_wrong]), wire.Execute(""),
                         wire.Sync())
        for key, is_wrong in batches:
            answer = session.read_until()
            if is_wrong:
                assert_refused(answer, key)
            else:
                assert not wire.errors(answer)
    assert count(server) == 300 - wrong
    assert schema.wrong_keys(server) == 0


def test_literals_beside_parameters_are_compared(rejecting):
    with wire.connect(rejecting) as session:
        session.send(wire.Parse("s", INSERT + "($1, '57', 1, 'x'), ('it''s', $2, 2, 'y')"), wire.Sync())
        session.read_until()
        session.send(wire.Bind("", "s", ["b", 1]), wire.Execute(""), wire.Sync())
        assert_refused(session.read_until(), -88)
        session.send(wire.Parse("", INSERT + "('a', 58, 1, $1)"), wire.Sync())
        assert_refused(session.read_until(), 57)


def test_psycopg2_is_told(server, rejecting):
    connection = psycopg2.connect(rejecting.dsn("app"))
    with connection, connection.cursor() as cursor:
        cursor.execute(INSERT + "(%s, %s, 1, 'x')", ("café", 54))
    with pytest.raises(psycopg2.Error) as caught, connection, connection.cursor() as cursor:
        cursor.execute(INSERT + "(%s, %s, 1, 'x')", ("café", 55))
    assert caught.value.pgcode == "428C9" and "54 here" in caught.value.diag.message_detail
    connection.close()
    assert count(server) == 1


def test_asyncpg_is_told_of_binary_parameters(server, rejecting):
    async def main():
        connection = await asyncpg.connect(host=rejecting.host, port=rejecting.port,
                                           user="postgres", database="app")
        for name, key in KEYS.items():
            await connection.execute(PREPARED, name, key)
            with pytest.raises(asyncpg.PostgresError) as caught:
                await connection.execute(PREPARED, name, key + 1)
            assert caught.value.sqlstate == "428C9"
        with pytest.raises(asyncpg.PostgresError):
            await connection.executemany(PREPARED, [("a", 57), ("b", -88), ("a", 0)])
        await connection.executemany(PREPARED, [("a", 57), ("b", -88)])
        await connection.close()

    asyncio.run(main())
    assert count(server) == len(KEYS) + 2
    assert schema.wrong_keys(server) == 0


# --- COPY ---

def lines(rows):
    return "".join(f"{name}\t{key}\t1\tx\n" for name, key in rows).encode()


def copy_by_query(session, data):
    session.send(wire.Query(COPY))
    assert session.read().kind == "G"
    session.send(wire.CopyData(data), wire.CopyDone())
    return session.read_until()


def test_the_audit_counts_the_rows_of_a_copy(ruled):
    with wire.connect(ruled) as session:
        rows = [*KEYS.items(), ("a", 1), ("a", "\\N"), ("x" * 2000, 1)]
        assert not wire.errors(copy_by_query(session, lines(rows)))
    begun, ended = ruled.wait_for_audit(2)
    assert begun["event"] == "supplied" and compared(begun) == (None, None)
    assert ended["event"] == "copied" and ended["verdict"] == "stripped"
    assert ended["rows"] == 8 and compared(ended) == (5, 2)
    assert ended["fingerprint"] == begun["fingerprint"]


def test_a_copy_with_a_wrong_value_fails_in_the_server(server, rejecting):
    with wire.connect(rejecting) as session:
        session.rows("BEGIN")
        answer = copy_by_query(session, lines([("a", 57), ("b", -88), ("b", 88), ("a", 57)]))
        assert_refused(answer, -88, " of row 3")
        assert answer[-1].body == b"E"
        session.rows("ROLLBACK")
        assert not wire.errors(copy_by_query(session, lines(KEYS.items())))
        assert session.rows("SELECT count(*) FROM chunks") == [[str(len(KEYS))]]
    ended = rejecting.wait_for_audit(2, event="copied")[-2:]
    assert [r["verdict"] for r in ended] == ["refused", "stripped"]
    assert ended[0]["sqlstate"] == "428C9" and ended[0]["mismatched"] == 1


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_refused_copy_leaves_the_session_in_order(server, rejecting, size):
    """Ahead of the server's answers, as libpq's pipelines send it, and with much to follow."""
    data = lines([("a", 57)] * 10 + [("a", 5)] + [("a", 57)] * 20_000)
    with wire.connect(rejecting) as session:
        for round_ in range(3):
            head = data if size > 1000 else data[:400]
            chunks = [wire.CopyData(head[at:at + size]) for at in range(0, len(head), size)]
            session.send(wire.Query(COPY), *chunks, wire.CopyDone(), wire.Query("SELECT 1"))
            assert_refused(session.read_until(), 57, " of row 11")
            assert not wire.errors(session.read_until())
            session.send(wire.Parse("", COPY), wire.Bind("", ""), wire.Execute(), wire.Sync(), *chunks,
                         wire.CopyDone(), wire.Sync())
            assert_refused(session.read_until(), 57, " of row 11")
            assert session.rows("SELECT 2") == [["2"]]
    assert count(server) == 0


def test_psql_and_psycopg2_are_told_of_a_copy(server, rejecting, tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(lines([("a", 57)] * 50_000 + [("a", 1)] + [("a", 57)] * 50_000))
    told = subprocess.run(["psql", "-X", "-h", rejecting.host, "-p", str(rejecting.port), "-U",
                           "postgres", "-d", "app", "-c",
                           "\\copy " + COPY.removeprefix("COPY ").replace("STDIN", f"'{path}'")],
                          capture_output=True, text=True, timeout=60)
    assert told.returncode == 1 and "of row 50001 is not the one" in told.stderr
    connection = psycopg2.connect(rejecting.dsn("app"))
    with pytest.raises(psycopg2.Error) as caught, connection, connection.cursor() as cursor:
        cursor.copy_expert(COPY, io.BytesIO(path.read_bytes()))
    assert caught.value.pgcode == "428C9"
    with connection, connection.cursor() as cursor:
        cursor.copy_expert(COPY, io.BytesIO(lines([("a", 57)] * 3)))
    connection.close()
    assert count(server) == 3


def test_asyncpg_is_told_of_a_binary_copy(server, rejecting):
    columns = ["collection_id", "partition_key", "chunk_index", "content"]

    async def main():
        connection = await asyncpg.connect(host=rejecting.host, port=rejecting.port,
                                           user="postgres", database="app")
        right = [(name, key, 1, "x") for name, key in KEYS.items()]
        with pytest.raises(asyncpg.PostgresError) as caught:
            await connection.copy_records_to_table("chunks", columns=columns,
                                                   records=[*right, ("a", 1, 1, "x")])
        assert caught.value.sqlstate == "428C9"
        await connection.copy_records_to_table("chunks", columns=columns, records=right)
        await connection.close()

    asyncio.run(main())
    assert count(server) == len(KEYS)


@pytest.mark.parametrize("options, data, matched", [
    ("WITH (FORMAT csv)", b"a,57,1,x\n\"\",-71,1,x\n", 2),
    ("WITH (FORMAT csv, FORCE_NOT_NULL (collection_id))", b",-71,1,x\n", None),
    ("WITH (FORMAT csv, NULL 'a')", b"\"a\",57,1,x\n", 1),
    ("WITH (ENCODING 'LATIN1')", b"caf\xe9\t54\t1\tx\na\t57\t1\tx\n", 1),
])
def test_values_of_a_copy_are_taken_as_the_server_takes_them(ruled, options, data, matched):
    with wire.connect(ruled) as session:
        session.send(wire.Query(f"{COPY} {options}"), wire.CopyData(data), wire.CopyDone())
        assert not wire.errors(session.read_until())
    assert [r.get("matched") for r in ruled.wait_for_audit(2 if matched else 1)][-1] == matched


# --- other columns ---

@pytest.mark.parametrize("kind, values", [
    ("uuid", [str(uuid.UUID(int=7)), str(uuid.UUID(int=1 << 127)).upper()]),
    ("bigint", ["12", "-9000000000"]), ("char(5)", ["a", "ab "]), ("varchar(3)", ["abc", "a"])])
def test_keys_of_columns_of_other_types(server, table, kind, values):
    server.psql("DROP TABLE IF EXISTS odd; CREATE TABLE odd (c " + kind + ", k int GENERATED ALWAYS AS "
                "(mod(hashtext(c::text), 100)) STORED); ALTER TABLE odd OWNER TO pgsluice", "app")
    proxy = Proxy(server, rules=[strip_rule(table="odd", column="k", on_mismatch="reject",
                                            expression="mod(hashtext(c::text), 100)")]).start()
    with wire.connect(proxy) as session:
        for value in values:
            key = int(session.rows(f"SELECT mod(hashtext('{value}'::{kind}::text), 100)")[0][0])
            session.rows(f"INSERT INTO odd (c, k) VALUES ('{value}', {key})")
            assert error_of(session.query(f"INSERT INTO odd (c, k) VALUES ('{value}', {key + 1})")
                            ).sqlstate == "428C9"
            session.send(wire.Parse("", "INSERT INTO odd (c, k) VALUES ($1, $2)"),
                         wire.Bind("", "", [value, key + 1]), wire.Execute(), wire.Sync())
            assert error_of(session.read_until()).sqlstate == "428C9"
        assert int(session.rows("SELECT count(*) FROM odd")[0][0]) == len(values)
    assert proxy.stop() == 0
    server.psql("DROP TABLE odd", "app")


@pytest.mark.parametrize("column, expression", [
    ("text", "length(c)"), ("jsonb", "mod(hashtext(c::text), 100)"),
    ('text COLLATE "odd_collation"', "mod(hashtext(c::text), 100)")])
def test_what_cannot_be_evaluated_is_not_promised(server, table, column, expression):
    server.psql("DROP TABLE IF EXISTS odd; DROP COLLATION IF EXISTS odd_collation;"
                "CREATE COLLATION odd_collation (provider = icu, locale = 'und', "
                "deterministic = false);"
                f"CREATE TABLE odd (c {column}, k int); ALTER TABLE odd OWNER TO pgsluice", "app")
    proxy = Proxy(server, rules=[strip_rule(table="odd", column="k", expression=expression,
                                            on_mismatch="reject")])
    proxy.write_config()
    told = proxy.command_on_written("check")
    assert told.returncode == 1 and "on_mismatch = reject needs an expression" in told.stderr
    server.psql("DROP TABLE odd; DROP COLLATION odd_collation", "app")
