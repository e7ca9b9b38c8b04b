"""Which statement a Bind is about, as the server sees it: after a Parse that failed, one that was
skipped, a Close, a DEALLOCATE. What a Bind is about decides whether it waits at the gate and what the
audit says."""

import threading

import pytest

from lib import schema, wire
from lib.proxy import Proxy, strip_rule
from test_gate import Gate

pytestmark = pytest.mark.proxy

KEYED = "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) VALUES ('a', $1, 1, 'x')"
PLAIN = "INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'x')"


@pytest.fixture
def proxy(server):
    schema.clear_chunks(server)
    instance = Proxy(server, rules=[strip_rule()], hold_ttl="2s").start()
    yield instance
    Gate(instance).release()
    assert instance.stop() == 0


@pytest.fixture
def session(proxy):
    with wire.connect(proxy, user="app") as connection:
        yield connection


def run(statement, values=()):
    return wire.Bind("", statement, values) + wire.Execute() + wire.Sync()


def prepare(session, name, text):
    session.send(wire.Parse(name, text), wire.Sync())
    assert not wire.errors(session.read_until())


# Each leaves the statement as it was: (messages, the errors that answer them).
FAILED = {
    "duplicate_name": ([wire.Parse("s", "SELECT 1"), wire.Sync()], ["42P05"]),
    "skipped_parse": ([wire.Parse("", "SELECT nothing"), wire.Close("S", "s"),
                       wire.Parse("s", "SELECT 1"), wire.Sync()], ["42703"]),
    "skipped_close": ([wire.Parse("", "SELECT nothing"), wire.Close("S", "s"), wire.Sync()], ["42703"]),
    "error_of_a_bind": ([wire.Parse("t", "SELECT 1 / $1::int"), wire.Bind("", "t", ["x"]),
                         wire.Close("S", "s"), wire.Sync()], ["22P02"]),
    "failed_deallocate": ([wire.Query("SELECT nothing; DEALLOCATE s")], ["42703"]),
}


@pytest.mark.parametrize("pipelined", [False, True], ids=["one_by_one", "pipelined"])
@pytest.mark.parametrize("case", FAILED)
def test_what_fails_or_is_skipped_leaves_the_statement(case, pipelined, server, proxy, session):
    messages, expected = FAILED[case]
    prepare(session, "s", KEYED)
    session.send(*messages)
    if pipelined:
        session.send(run("s", ["7"]))
    assert wire.errors(session.read_until()) == expected
    if not pipelined:
        session.send(run("s", ["7"]))
    assert not wire.errors(session.read_until())
    record, = proxy.wait_for_audit(1)
    assert (record["verdict"], record["statement"]) == ("stripped", "INSERT")
    assert server.psql("SELECT count(*) FROM chunks") == "1"


@pytest.mark.parametrize("case", FAILED)
def test_the_statement_that_is_left_waits_at_the_gate(case, proxy, session):
    messages, _ = FAILED[case]
    gate = Gate(proxy)
    prepare(session, "s", PLAIN)
    session.send(*messages)
    session.read_until()
    gate.hold()
    session.send(run("s"))
    gate.wait_for_held()
    gate.release()
    assert not wire.errors(session.read_until())


def test_what_replaces_the_statement_counts_for_the_same_batch(proxy, session):
    prepare(session, "s", KEYED)
    session.send(wire.Close("S", "s"), wire.Parse("s", "SELECT 1"), wire.Bind("", "s"), wire.Execute(),
                 wire.Close("S", "s"), wire.Parse("s", KEYED), wire.Bind("", "s", ["7"]),
                 wire.Execute(), wire.Sync(), run("s", ["8"]))
    for _ in range(2):
        assert not wire.errors(session.read_until())
    assert len(proxy.wait_for_audit(2)) == 2


@pytest.mark.parametrize("ending", ["DISCARD ALL", "DEALLOCATE ALL", "DEALLOCATE s",
                                    "DEALLOCATE PREPARE \"s\""])
def test_what_is_deallocated_is_forgotten(ending, proxy, session):
    """The name is one that the proxy knows nothing of: the gate does not hold it."""
    gate = Gate(proxy)
    prepare(session, "s", PLAIN)
    assert not wire.errors(session.query(ending))
    prepare(session, "s", "SELECT 1")
    gate.hold()
    session.send(run("s"))
    assert not wire.errors(session.read_until())
    assert gate.state()["held_total"] == 0


def test_many_names_that_come_and_go_are_not_kept(proxy, session):
    gate = Gate(proxy)
    for _ in range(5):
        for n in range(1000):
            session.send(wire.Parse(f"s{n}", PLAIN), wire.Sync(), wire.Query(f"DEALLOCATE s{n}"))
        for _ in range(2000):
            assert not wire.errors(session.read_until())
    prepare(session, "read", "SELECT 1")
    gate.hold()
    session.send(run("read"))
    assert not wire.errors(session.read_until())
    assert gate.state()["held_total"] == 0


def test_a_bind_of_an_sql_prepared_statement_waits_at_the_gate(server, proxy, session):
    gate = Gate(proxy)
    session.query("PREPARE by_text AS " + PLAIN)
    gate.hold()
    session.send(run("by_text"))
    gate.wait_for_held()
    gate.release()
    assert not wire.errors(session.read_until())
    assert server.psql("SELECT count(*) FROM chunks") == "1"


def test_a_long_batch_is_audited_to_its_end(server, proxy, session):
    count = 10000
    one = wire.Parse("", KEYED) + wire.Bind("", "", ["7"]) + wire.Execute()
    threading.Thread(target=session.send, args=(one * count, wire.Sync())).start()
    assert not wire.errors(session.read_until())
    assert len(proxy.wait_for_audit(count, timeout=20)) == count
    assert server.psql("SELECT count(*) FROM chunks") == str(count)
