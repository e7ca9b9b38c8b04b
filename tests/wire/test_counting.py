"""What the proxy must know of a session whatever its client pipelines: how many answers are still to
come, whether a transaction may be open, which error answers a refusal. Shown by the gate, which holds
at a boundary only, and by the words of refusals.
"""

import json
import socket

import pytest

from lib import common, schema, wire
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

INSERT = "INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'x')"
SUPPLYING = "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) " \
            "VALUES ('a', 7, 1, 'x')"
COPY = [wire.Parse("", "COPY documents FROM STDIN"), wire.Bind("", ""), wire.Execute("")]
ROW = wire.CopyData("a\t1\n")


@pytest.fixture
def ruled(server):
    """Starts a proxy with the rule in this mode."""
    started = []

    def start(mode):
        schema.clear_chunks(server)
        started.append(Proxy(server, rules=[strip_rule(mode)], hold_ttl="20s").start())
        return started[-1]
    yield start
    for instance in started:
        assert instance.stop() == 0


def ask(proxy, **request):
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(10)
        admin.connect(str(proxy.admin))
        admin.sendall(json.dumps(request).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += admin.recv(65536)
    return json.loads(answer)["result"]


def copy_with_sync_at_once(session):
    """As libpq does: the server ignores the first Sync."""
    session.send(*COPY, wire.Sync()).read_until("G")
    session.send(ROW, wire.CopyDone(), wire.Sync()).read_until()


def copy_by_query_with_syncs(session):
    session.send(wire.Query("COPY documents FROM STDIN"), wire.Sync(), wire.Sync()).read_until("G")
    session.send(wire.Sync(), ROW, wire.Sync(), wire.CopyDone(), wire.Sync())
    session.read_until()
    session.read_until()


def copy_without_waiting(session):
    session.send(*COPY, wire.Sync(), ROW, wire.CopyDone(), wire.Sync()).read_until()


def copy_that_fails(session):
    session.send(*COPY, wire.Sync()).read_until("G")
    session.send(wire.CopyData("wrong\n")).read_until("E")
    session.send(ROW, wire.CopyDone(), wire.Sync()).read_until()


def copy_that_the_client_gives_up(session):
    session.send(*COPY, wire.Sync()).read_until("G")
    session.send(wire.CopyFail("no"), wire.Sync()).read_until()


def two_copies_in_one_query(session):
    session.send(wire.Query("COPY documents FROM STDIN; COPY documents FROM STDIN"), ROW,
                 wire.CopyDone(), wire.CopyData("b\t1\n"), wire.CopyDone()).read_until()


def strays(session):
    session.send(ROW, wire.CopyDone(), wire.CopyFail("nothing"), wire.Query("SELECT 1")).read_until()
    copy_with_sync_at_once(session)


def query_that_is_skipped(session):
    session.send(wire.Bind("", "nobody"), wire.Query("SELECT 1"), wire.Query("SELECT 2"),
                 wire.FunctionCall(177, ["1", "2"]), wire.Sync()).read_until()


def query_in_a_unit(session):
    session.send(wire.Parse("", "SELECT 1"), wire.Query("SELECT 2"), wire.Sync())
    session.read_until()
    session.read_until()


def query_that_ends_a_unit(session):
    session.send(wire.Parse("", "SELECT 1"), wire.Query("SELECT 2")).read_until()


def flush_behind_sync(session):
    session.send(wire.Parse("", "SELECT 1"), wire.Sync(), wire.Flush()).read_until()


BEFORE = [copy_with_sync_at_once, copy_by_query_with_syncs, copy_without_waiting, copy_that_fails,
          copy_that_the_client_gives_up, two_copies_in_one_query, strays, query_that_is_skipped,
          query_in_a_unit, query_that_ends_a_unit, flush_behind_sync]
BEFORE = [pytest.param(before, id=before.__name__) for before in BEFORE]


@pytest.mark.parametrize("before", BEFORE)
def test_a_write_is_held_and_goes_on_after(before, server, ruled):
    proxy = ruled("strip")
    with wire.connect(proxy) as session:
        before(session)
        assert ask(proxy, command="hold", table="chunks", ttl_ms=20000)["exit"] == 0
        session.send(wire.Query(INSERT))
        common.wait_until(lambda: ask(proxy, command="status")["gates"][0]["held"] == 1, 5,
                          "a held statement")
        assert ask(proxy, command="release", table="chunks")["exit"] == 0
        assert not wire.errors(session.read_until())
    assert server.psql("SELECT count(*) FROM chunks") == "1"


@pytest.mark.parametrize("before", BEFORE)
def test_refusals_are_worded_by_the_rule_after(before, ruled):
    with wire.connect(ruled("reject")) as session:
        before(session)
        session.send(wire.Query(SUPPLYING), wire.Query("SELECT 1"), wire.Query(SUPPLYING),
                     wire.Parse("", SUPPLYING), wire.Sync())
        answers = [message for _ in range(4) for message in session.read_until()]
        assert wire.errors(answers) == ["428C9"] * 3


def test_an_idle_session_is_closed_after_a_copy_with_sync_at_once(server):
    """It counts as idle, and not as waiting for an answer that never comes."""
    proxy = Proxy(server, client_idle_timeout="1s").start()
    with wire.connect(proxy) as session:
        copy_with_sync_at_once(session)
        assert wire.errors(session.read_to_end()) == ["57P05"]
    assert proxy.stop() == 0


def test_ten_thousand_refusals_in_one_pipeline(ruled):
    """More than the proxy remembers at a time: it waits for the server, and the session goes on."""
    count = 10_000
    with wire.connect(ruled("reject"), timeout=60) as session:
        session.send(wire.Query(SUPPLYING) * count, wire.Query("SELECT 'alive'"))
        for _ in range(count):
            assert wire.errors(session.read_until()) == ["428C9"]
        assert session.read_until()[1].values() == [b"alive"]
        session.send((wire.Parse("", SUPPLYING) + wire.Bind("", "") + wire.Execute("") + wire.Sync())
                     * count)
        for _ in range(count):
            assert wire.errors(session.read_until()) == ["428C9"]


def test_ten_thousand_refusals_in_one_unit(ruled):
    with wire.connect(ruled("reject"), timeout=60) as session:
        session.send(wire.Parse("", SUPPLYING) * 10_000, wire.Sync(), wire.Query("SELECT 'alive'"))
        assert wire.errors(session.read_until()) == ["428C9"]
        assert session.read_until()[1].values() == [b"alive"]


def test_a_statement_is_known_by_the_first_63_bytes_of_its_name(ruled):
    proxy = ruled("observe")
    with wire.connect(proxy) as session:
        session.send(wire.Parse("s" * 100, SUPPLYING), wire.Sync()).read_until()
        for name in ("s" * 63, "s" * 63 + "other"):
            session.send(wire.Bind("", name), wire.Execute(""), wire.Sync())
            assert not wire.errors(session.read_until())
    proxy.wait_for_audit(2, verdict="observed", protocol="extended")
