"""How long a statement waits at the gate: as long as the server would let it wait for a lock."""

import contextlib
import os
import signal
import time

import pytest

from lib import common, schema, wire
from lib.gate import Gate
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

INSERT = "INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', {}, 'x')"
TIMEOUT_MS = 150


@pytest.fixture(scope="module")
def one_proxy(server):
    instance = Proxy(server, rules=[strip_rule()], hold_ttl="20s").start()
    yield instance
    assert instance.stop() == 0


@pytest.fixture
def proxy(server, one_proxy):
    schema.clear_chunks(server)
    yield one_proxy
    Gate(one_proxy).release()


@pytest.fixture
def gate(proxy):
    return Gate(proxy)


def rows(server):
    return server.psql("SELECT count(*) FROM chunks").strip()


@contextlib.contextmanager
def locked(server):
    """The table, as a cutover locks it."""
    with wire.connect(server) as session:
        assert not wire.errors(session.query("BEGIN; LOCK TABLE chunks"))
        yield


def said(answer):
    """What a client shows of an error; where in its source the server raised it is not for us."""
    return {key: value for key, value in answer.fields().items() if key in "SVCMDH"}


def ends_of(session, *messages):
    """How the error that answers them reads, and after how long it came."""
    began = time.monotonic()
    session.send(*messages)
    answers = session.read_until()
    (error,) = [answer for answer in answers if answer.kind == "E"]
    assert answers[-1].body == b"I"
    return said(error), time.monotonic() - began


def assert_times_out(gate, session, *messages):
    gate.hold(ttl_ms=20000)
    error, waited = ends_of(session, *(messages or [wire.Query(INSERT.format(1))]))
    gate.release()
    assert error == {"S": "ERROR", "V": "ERROR", "C": "57014",
                     "M": "canceling statement due to statement timeout"}
    assert TIMEOUT_MS / 1000 <= waited < TIMEOUT_MS / 1000 + 0.3 * common.slowness()
    assert session.rows("SELECT 1") == [["1"]]


def assert_waits(gate, session):
    """For longer than the timeout, and is executed at the end."""
    gate.hold(ttl_ms=20000)
    session.send(wire.Query(INSERT.format(1)))
    gate.wait_for_held()
    assert session.is_quiet(2 * TIMEOUT_MS / 1000)
    gate.release()
    assert not wire.errors(session.read_until())


def test_a_statement_timeout_ends_the_wait_in_the_servers_words(server, proxy, gate):
    with wire.connect(server, user="app", statement_timeout=str(TIMEOUT_MS)) as direct:
        with locked(server):
            servers, _ = ends_of(direct, wire.Query(INSERT.format(1)))
    with wire.connect(proxy, user="app", statement_timeout=str(TIMEOUT_MS)) as session:
        gate.hold(ttl_ms=20000)
        error, _ = ends_of(session, wire.Query(INSERT.format(1)))
    assert error == servers
    assert rows(server) == "0"
    assert gate.state()["held"] == 0


@pytest.mark.parametrize("startup", [
    {"options": f"-c statement_timeout={TIMEOUT_MS}"},
    {"options": f"--statement-timeout={TIMEOUT_MS}ms"},
    {"Statement_Timeout": f"{TIMEOUT_MS * 1000}us"},
])
def test_a_timeout_of_the_startup_packet(server, proxy, gate, startup):
    with wire.connect(proxy, user="app", **startup) as session:
        assert_times_out(gate, session)
    assert rows(server) == "0"


@pytest.mark.parametrize("default", ["ROLE app", "DATABASE app", "ROLE app IN DATABASE app"])
def test_a_default_of_role_or_database(server, proxy, gate, default):
    server.psql(f"ALTER {default} SET statement_timeout = {TIMEOUT_MS}")
    try:
        with wire.connect(proxy, user="app") as session:
            assert_times_out(gate, session)
    finally:
        server.psql(f"ALTER {default} RESET statement_timeout")


@pytest.mark.parametrize("texts", [
    [f"SET statement_timeout = {TIMEOUT_MS}"],
    [f"/* SET */ set SESSION Statement_Timeout to '{TIMEOUT_MS}ms'"],
    [f'SET u&"statement_!0074imeout" UESCAPE \'!\' = {TIMEOUT_MS}'],
    [f"SELECT set_config('statement_' || 'timeout', '{TIMEOUT_MS}', false)"],
    [f"DO $$ BEGIN EXECUTE 'SET statement_timeout = {TIMEOUT_MS}'; END $$"],
    [f"UPDATE pg_settings SET setting = '{TIMEOUT_MS}' WHERE name = 'statement_timeout'"],
    [f"BEGIN; SET statement_timeout = {TIMEOUT_MS}; COMMIT", "SET application_name = 'x'"],
    ["SET statement_timeout = '1h'", f"SET statement_timeout = {TIMEOUT_MS}"],
])
def test_a_timeout_that_the_session_has_set(server, proxy, gate, texts):
    with wire.connect(proxy, user="app") as session:
        for text in texts:
            assert not wire.errors(session.query(text))
        assert_times_out(gate, session)
    assert rows(server) == "0"


@pytest.mark.parametrize("texts", [
    [f"BEGIN; SET statement_timeout = {TIMEOUT_MS}", "ROLLBACK"],
    [f"BEGIN; SET LOCAL statement_timeout = {TIMEOUT_MS}", "COMMIT"],
    [f"BEGIN; SAVEPOINT a; SET statement_timeout = {TIMEOUT_MS}", "ROLLBACK TO a", "COMMIT"],
    [f"SET statement_timeout = {TIMEOUT_MS}", "RESET statement_timeout"],
    [f"SET statement_timeout = {TIMEOUT_MS}", "RESET ALL"],
    [f"SET statement_timeout = {TIMEOUT_MS}", "DISCARD ALL"],
    ["SET statement_timeout = '1min'"],
    ["SET statement_timeout = '2d'", "SET lock_timeout = '1h'"],
])
def test_a_timeout_that_is_undone_or_long_ends_nothing(server, proxy, gate, texts):
    with wire.connect(proxy, user="app") as session:
        for text in texts:
            assert not wire.errors(session.query(text))
        assert_waits(gate, session)
    assert rows(server) == "1"


@pytest.mark.parametrize("messages", [
    [wire.Parse("", INSERT.format(1)), wire.Bind("", ""), wire.Execute(), wire.Sync()],
    [wire.Bind("", "prepared"), wire.Execute(), wire.Bind("", "prepared"), wire.Execute(),
     wire.Sync()],
], ids=["parse", "bind"])
def test_a_batch_that_times_out_is_skipped_to_its_sync(server, proxy, gate, messages):
    with wire.connect(proxy, user="app", statement_timeout=str(TIMEOUT_MS)) as session:
        session.send(wire.Parse("prepared", INSERT.format(1)), wire.Sync())
        session.read_until()
        assert_times_out(gate, session, *messages)
        session.send(*messages)
        assert not wire.errors(session.read_until())


def test_of_pipelined_statements_each_has_its_own_timeout(server, proxy, gate):
    with wire.connect(proxy, user="app", statement_timeout=str(TIMEOUT_MS)) as session:
        gate.hold(ttl_ms=20000)
        began = time.monotonic()
        session.send(wire.Query(INSERT.format(1)),
                     wire.Parse("", INSERT.format(2)), wire.Bind("", ""), wire.Execute(),
                     wire.Sync(), wire.Query("SELECT 3"))
        assert wire.errors(session.read_until()) == ["57014"]
        assert wire.errors(session.read_until()) == ["57014"]
        assert time.monotonic() - began >= 2 * TIMEOUT_MS / 1000
        assert [m.values() for m in session.read_until() if m.kind == "D"] == [[b"3"]]
    assert rows(server) == "0"


def test_a_wait_for_an_old_snapshot_times_out_too(proxy, gate):
    with wire.connect(proxy, user="app", statement_timeout=str(TIMEOUT_MS)) as session:
        assert_times_out(gate, session, wire.Query("BEGIN ISOLATION LEVEL REPEATABLE READ"))


def test_a_lock_timeout_passes_the_statement_to_the_server(server, proxy, gate):
    """Which says 55P03 while the table is locked, and executes it when it is not."""
    with wire.connect(proxy, user="app", lock_timeout=str(TIMEOUT_MS)) as session:
        with locked(server):
            gate.hold(ttl_ms=20000)
            error, waited = ends_of(session, wire.Query(INSERT.format(1)))
        assert (error["C"], error["M"]) == ("55P03", "canceling statement due to lock timeout")
        assert waited >= 2 * TIMEOUT_MS / 1000
        session.send(wire.Parse("", INSERT.format(1)), wire.Bind("", ""), wire.Execute(),
                     wire.Sync())
        gate.wait_for_held()
        assert not wire.errors(session.read_until())
    assert rows(server) == "1"
    assert gate.state()["expired_total"] >= 2


def test_the_shorter_timeout_decides(server, proxy, gate):
    with wire.connect(proxy, user="app", statement_timeout=str(TIMEOUT_MS),
                      lock_timeout="10s") as session:
        assert_times_out(gate, session)
    assert rows(server) == "0"


@pytest.mark.skipif(common.pg_major() < 17, reason="transaction_timeout is PostgreSQL 17's")
def test_a_transaction_timeout_passes_the_statement_to_the_server(server, proxy, gate):
    with wire.connect(proxy, user="app", transaction_timeout=str(TIMEOUT_MS)) as session:
        gate.hold(ttl_ms=20000)
        assert not wire.errors(session.query(INSERT.format(1)))
    assert rows(server) == "1"


# --- the question to the server is nobody else's business ---

def test_the_unnamed_statement_survives_the_wait(server, proxy, gate):
    with wire.connect(proxy, user="app") as session:
        session.send(wire.Parse("", INSERT.format(1)), wire.Sync())
        session.read_until()
        gate.hold(ttl_ms=20000)
        session.send(wire.Bind("", ""), wire.Execute(), wire.Sync())
        gate.wait_for_held()
        time.sleep(0.1)
        gate.release()
        assert [m.kind for m in session.read_until()] == ["2", "C", "Z"]
        assert session.rows("SELECT count(*) FROM pg_prepared_statements") == [["0"]]
    assert rows(server) == "1"


def test_notifications_reach_a_held_client(server, proxy, gate):
    with wire.connect(proxy, user="app") as session:
        session.query("LISTEN news")
        gate.hold(ttl_ms=20000)
        session.send(wire.Query(INSERT.format(1)))
        gate.wait_for_held()
        server.psql("NOTIFY news, 'first'")
        assert session.read().kind == "A"
        gate.release()
        assert [m.kind for m in session.read_until()] == ["C", "Z"]


@pytest.mark.parametrize("after_s", [0, 0.1])
def test_a_backend_that_is_terminated_says_so_to_a_held_client(server, proxy, gate, after_s):
    session = wire.connect(proxy, user="app")
    gate.hold(ttl_ms=20000)
    session.send(wire.Query(INSERT.format(1)))
    gate.wait_for_held()
    time.sleep(after_s)
    server.psql(f"SELECT pg_terminate_backend({session.pid})")
    assert wire.errors(session.read_to_end()) == ["57P01"]
    assert rows(server) == "0"


def test_a_backend_that_does_not_answer_ends_no_wait(server, proxy, gate):
    with wire.connect(proxy, user="app") as session:
        os.kill(session.pid, signal.SIGSTOP)
        try:
            gate.hold(ttl_ms=20000)
            session.send(wire.Query(INSERT.format(1)))
            gate.wait_for_held()
            time.sleep(0.1)
            session.cancel()
            assert wire.errors(session.read_until()) == ["57014"]
            session.send(wire.Query(INSERT.format(2)), wire.Query("SELECT 7"))
            gate.wait_for_held()
            time.sleep(0.1)
            gate.release()
        finally:
            os.kill(session.pid, signal.SIGCONT)
        assert [m.kind for m in session.read_until()] == ["C", "Z"]
        assert [m.values() for m in session.read_until() if m.kind == "D"] == [[b"7"]]
    assert rows(server) == "1"


def test_a_server_that_refuses_to_answer_gets_the_statement(server, proxy, gate):
    """A timeout that is shorter than any answer: what follows is the server's to say."""
    with wire.connect(proxy, user="app", statement_timeout="1") as session:
        gate.hold(ttl_ms=20000)
        session.send(wire.Query(INSERT.format(1)))
        answers = session.read_until()
        assert answers[-1].body == b"I"
    assert gate.state()["held"] == 0
