"""Timeouts and limits with PgBouncer's names: each ends its session with the server's error code."""

import time

import pytest

from lib import common, wire
from lib.proxy import Proxy

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
