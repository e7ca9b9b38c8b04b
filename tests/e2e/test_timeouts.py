"""Timeouts and limits with PgBouncer's names: each ends its session with the server's error code."""

import json
import signal
import socket
import threading
import time

import pytest

from lib import common, schema, wire
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy


@pytest.fixture
def proxy_with(server):
    """Starts a proxy with the given keys."""
    started = []

    def start(**keys):
        started.append(Proxy(server, **keys).start())
        return started[-1]
    yield start
    for instance in started:
        assert instance.stop() == 0


def last_words(session):
    """The error code with which the proxy closes the session, and how long that took."""
    began = time.monotonic()
    codes = wire.errors(session.read_to_end())
    return codes, time.monotonic() - began


def test_an_idle_session_is_closed(proxy_with):
    with wire.connect(proxy_with(client_idle_timeout="1s")) as session:
        codes, waited = last_words(session)
    assert codes == ["57P05"]
    assert 0.9 < waited < 3.5 * common.slowness()


def test_a_busy_session_is_not_idle(proxy_with):
    with wire.connect(proxy_with(client_idle_timeout="1s")) as session:
        assert session.rows("SELECT pg_sleep(2.5)") == [[""]]
        session.query("BEGIN")
        assert session.is_quiet(2.5)
        assert not wire.errors(session.query("COMMIT"))


def test_a_session_idle_in_its_transaction_is_closed(proxy_with):
    proxy = proxy_with(idle_transaction_timeout="1s")
    with wire.connect(proxy) as session, wire.connect(proxy) as other:
        session.query("BEGIN")
        assert last_words(session)[0] == ["25P03"]
        assert other.rows("SELECT 1") == [["1"]]


def test_a_statement_that_takes_too_long_is_ended(server, proxy_with):
    proxy = proxy_with(query_timeout="1s")
    with wire.connect(proxy) as session:
        assert session.rows("SELECT 1") == [["1"]]
        session.send(wire.Query("SELECT pg_sleep(30)"))
        assert last_words(session)[0] == ["57014"]


def test_a_silent_start_is_ended(proxy_with):
    proxy = proxy_with(client_login_timeout="1s")
    with wire.Connection.to(proxy) as silent, wire.connect(proxy) as other:
        codes, waited = last_words(silent)
        assert codes == ["57014"] and waited < 3.5 * common.slowness()
        assert other.rows("SELECT 1") == [["1"]]


def test_a_login_that_stops_half_way_is_ended(proxy_with, auth_roles):
    proxy = proxy_with(client_login_timeout="500ms")
    role = auth_roles["scram-sha-256"]
    for sent in (wire.StartupMessage(user=role), wire.StartupMessage()[:20], wire.SSLRequest()):
        with wire.Connection.to(proxy) as half:
            half.send(sent)
            if sent == wire.SSLRequest():
                assert half.read_byte() == b"N"
            codes, waited = last_words(half)
            assert codes == ["57014"] and 0.4 < waited < 1 * common.slowness()


@pytest.mark.parametrize("key,begin,code", [
    ("client_idle_timeout", None, "57P05"), ("idle_transaction_timeout", "BEGIN", "25P03"),
    ("idle_transaction_timeout", "BEGIN; SELECT nonsense", "25P03"),
    ("query_timeout", "SELECT pg_sleep(30)", "57014")])
def test_short_timeouts_are_met_in_time(proxy_with, key, begin, code):
    with wire.connect(proxy_with(**{key: "300ms"})) as session:
        if key == "query_timeout":
            session.send(wire.Query(begin))
        elif begin:
            for statement in begin.split(";"):
                session.query(statement)
        codes, waited = last_words(session)
    assert codes == [code] and 0.25 < waited < 0.8 * common.slowness()


def test_a_statement_is_timed_from_its_start_whatever_the_client_sends(proxy_with):
    with wire.connect(proxy_with(query_timeout="500ms")) as session:
        session.query("CREATE TEMP TABLE t (a text)")
        began = time.monotonic()
        session.send(wire.Query("COPY t FROM STDIN")).read_until("G")
        while session.is_quiet(0.1):
            session.send(wire.CopyData("x\n"))
            assert time.monotonic() - began < 5 * common.slowness()
        assert wire.errors(session.read_to_end()) == ["57014"]
        assert 0.4 < time.monotonic() - began


def test_each_of_several_statements_sent_at_once_has_its_time(proxy_with):
    with wire.connect(proxy_with(query_timeout="1s")) as session:
        session.send(*[wire.Query("SELECT pg_sleep(0.4)")] * 4)
        for _ in range(4):
            assert not wire.errors(session.read_until("Z"))


def test_a_client_that_does_not_take_its_answer_is_ended_too(proxy_with):
    proxy = proxy_with(query_timeout="500ms")
    with wire.connect(proxy) as session:
        session.send(wire.Query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
        common.wait_until(lambda: "57014" in proxy.log(), 5, "the end of the statement")
        assert "Z" not in [answer.kind for answer in session.read_to_end()]


def test_replication_is_no_statement(proxy_with):
    with wire.connect(proxy_with(query_timeout="300ms"), replication="database") as session:
        position = session.rows("IDENTIFY_SYSTEM")[0][2]
        session.send(wire.Query(f"START_REPLICATION PHYSICAL {position}")).read_until("W")
        time.sleep(0.8)
        session.send(wire.CopyDone())
        assert not wire.errors(session.read_until("Z"))
        session.send(wire.Query("SELECT pg_sleep(30)"))
        assert last_words(session)[0] == ["57014"]


def test_a_statement_that_was_held_is_timed_from_its_release(server, proxy_with):
    schema.clear_chunks(server)
    proxy = Proxy(server, rules=[strip_rule()], query_timeout="600ms", hold_ttl="2s").start()
    with wire.connect(proxy, user="app") as session, socket.socket(socket.AF_UNIX) as admin:
        admin.connect(str(proxy.admin))
        admin.sendall(json.dumps({"command": "hold", "table": "chunks", "ttl_ms": 1000}).encode() + b"\n")
        assert json.loads(admin.recv(65536).splitlines()[-1])["result"]["exit"] == 0
        began = time.monotonic()
        answers = session.query("INSERT INTO chunks (collection_id, chunk_index, content)"
                                " SELECT 'a', 1, 'x' FROM pg_sleep(0.3)")
        assert not wire.errors(answers)
        assert time.monotonic() - began > 1
    assert proxy.stop() == 0


def test_timeouts_are_taken_at_sighup(proxy_with):
    proxy = proxy_with()
    with wire.connect(proxy) as session:
        proxy.settings["client_idle_timeout"] = "300ms"
        proxy.write_config()
        proxy.process.send_signal(signal.SIGHUP)
        codes, waited = last_words(session)
    assert codes == ["57P05"] and waited < 2 * common.slowness()


class Silent:
    """A server that takes connections, and with `full` not even those; it never says a word."""

    def __init__(self, full=False):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port = self.listener.getsockname()[1]
        self.kept = []
        if full:
            for _ in range(4):
                self.kept.append(socket.socket())
                self.kept[-1].setblocking(False)
                self.kept[-1].connect_ex(("127.0.0.1", self.port))
        else:
            threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        try:
            while True:
                self.kept.append(self.listener.accept()[0])
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.kept:
            connection.close()


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
def test_a_server_that_says_nothing_is_given_up(proxy_with, sslmode):
    with Silent() as server:
        proxy = proxy_with(server_connect_timeout="500ms",
                           server=f"host=127.0.0.1 port={server.port} sslmode={sslmode}")
        with wire.Connection.to(proxy) as connection:
            connection.send(wire.StartupMessage())
            codes, waited = last_words(connection)
        assert codes == ["08001"] and 0.4 < waited < 1 * common.slowness()


@pytest.mark.parametrize("full", [True, False], ids=["connect", "tls_request"])
def test_the_next_server_is_tried_when_one_takes_too_long(server, proxy_with, full):
    with Silent(full) as silent:
        proxy = proxy_with(server_connect_timeout="500ms",
                           server=f"host=127.0.0.1,{server.host} port={silent.port},{server.port}")
        with wire.connect(proxy) as session:
            assert session.rows("SELECT 1") == [["1"]]


def test_a_login_that_waits_for_the_client_is_no_slow_server(proxy_with, auth_roles, auth_password):
    proxy = proxy_with(server_connect_timeout="300ms")
    with wire.Connection.to(proxy) as connection:
        connection.send(wire.StartupMessage(user=auth_roles["password"])).read_until("R")
        time.sleep(0.8)
        answers = connection.send(wire.PasswordMessage(auth_password)).read_until("Z")
        assert not wire.errors(answers)


def attempt(proxy):
    try:
        return wire.connect(proxy)
    except AssertionError:
        return None


def test_more_clients_than_allowed_are_refused(proxy_with):
    proxy = proxy_with(max_client_conn=2)

    def patiently():
        """The connection by which the test saw it listen may not be gone yet."""
        return common.wait_until(lambda: attempt(proxy), 5, "room for a client")
    with patiently() as first, patiently():
        with wire.Connection.to(proxy) as third:
            third.send(wire.StartupMessage())
            assert wire.errors(third.read_to_end()) == ["53300"]
        assert first.rows("SELECT 1") == [["1"]]
