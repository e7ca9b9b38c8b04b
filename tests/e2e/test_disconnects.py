"""Ends of connections that nobody planned: each side dies in turn, and the proxy lives."""

import os
import signal
import socket
import struct
import subprocess
import time

import psycopg2
import pytest

from lib import common, schema, wire
from lib.pgserver import PSQL, Server
from lib.proxy import Proxy, relay, strip_rule

LOST = {"08006", "08003", "08001", "57P01", "57P02", "57P03"}


@pytest.fixture(scope="module")
def mortal_server():
    """A server of its own, since its sessions are killed."""
    instance = Server().start()
    schema.create_database(instance)
    yield instance
    instance.stop("immediate")


@pytest.fixture(scope="module")
def mortal(mortal_server):
    instance = relay(mortal_server)
    yield instance
    instance.stop()


def test_a_client_that_closes_without_terminate_leaves_no_backend(proxy, server):
    before = len(server.backends())
    for leave in (wire.Connection.close, wire.Connection.reset):
        for _ in range(5):
            leave(wire.connect(proxy))
    server.wait_for_backends(before)


def test_a_killed_client_leaves_no_backend(proxy, server):
    sleep = f"SELECT pg_sleep({common.slowness()}) /* killed */"
    ours = "query LIKE '%/* killed */'"
    clients = [subprocess.Popen(
        [str(PSQL), "-XAtq", "-d", proxy.dsn(), "-c", sleep, "-c", sleep],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(4)]
    server.wait_for_backends(4, ours)
    for client in clients:
        client.kill()
        client.wait()
    server.wait_for_backends(0, ours)


def test_a_client_killed_in_the_middle_of_a_message_leaves_no_backend(proxy, server):
    before = len(server.backends())
    connection = wire.connect(proxy)
    connection.query("CREATE TEMP TABLE t(a text)")
    connection.send(wire.Query("COPY t FROM STDIN")).read_until("G")
    connection.send(wire.CopyData("some\n"), wire.CopyData("x" * 1000)[:500])
    connection.reset()
    server.wait_for_backends(before)


def test_a_client_killed_with_a_large_result_under_way_leaves_no_backend(proxy, server):
    before = len(server.backends())
    connection = wire.connect(proxy)
    connection.send(wire.Query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
    connection.read()
    connection.reset()
    server.wait_for_backends(before)


def test_terminate_in_the_middle_of_copy_leaves_no_backend(proxy, server):
    before = len(server.backends())
    connection = wire.connect(proxy)
    connection.query("CREATE TEMP TABLE t(a text)")
    connection.send(wire.Query("COPY t FROM STDIN")).read_until("G")
    connection.send(wire.CopyData("some\n"), wire.Terminate())
    connection.close()
    server.wait_for_backends(before)


def test_a_terminated_backend_speaks_its_last_words(proxy, server):
    with wire.connect(proxy) as connection:
        pid = connection.rows("SELECT pg_backend_pid()")[0][0]
        server.psql(f"SELECT pg_terminate_backend({pid})")
        last = connection.read_to_end()
        assert wire.errors(last) == ["57P01"]


def test_a_terminated_backend_in_mid_query_speaks_its_last_words(proxy, server):
    with wire.connect(proxy) as connection:
        pid = connection.rows("SELECT pg_backend_pid()")[0][0]
        connection.send(wire.Query("SELECT pg_sleep(60)"))
        common.wait_until(lambda: server.backends(f"pid = {pid} AND wait_event = 'PgSleep'"))
        server.psql(f"SELECT pg_terminate_backend({pid})")
        assert wire.errors(connection.read_to_end()) == ["57P01"]


@pytest.mark.proxy
def test_a_killed_backend_is_reported_as_a_lost_connection(mortal, mortal_server):
    """kill -9 of one backend ends all sessions of the server; the proxy says 08006 for each."""
    victim, bystander = wire.connect(mortal), wire.connect(mortal)
    pid = int(victim.rows("SELECT pg_backend_pid()")[0][0])
    victim.send(wire.Query("SELECT pg_sleep(60)"))
    os.kill(pid, signal.SIGKILL)
    for connection in (victim, bystander):
        last = connection.read_to_end()
        assert last and last[-1].kind in "EN", f"closed without a word: {last}"
        assert {answer.sqlstate for answer in last if answer.kind in "EN"} <= LOST
        connection.close()
    assert "08006" in wire.errors(last) or "57P02" in str(last)
    common.wait_until(lambda: _can_log_in(mortal), 20, "the server's recovery")
    assert mortal.is_alive()


def _can_log_in(endpoint):
    try:
        psycopg2.connect(**endpoint.params(), connect_timeout=5).close()
        return True
    except psycopg2.OperationalError:
        return False


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill9"])
def test_the_proxy_survives_the_servers_restart(mortal, mortal_server, mode):
    idle, busy = wire.connect(mortal), wire.connect(mortal)
    busy.send(wire.Query("SELECT pg_sleep(60)"))
    if mode == "kill9":
        mortal_server.kill9()
    else:
        mortal_server.stop(mode)
    for connection in (idle, busy):
        last = connection.read_to_end()
        assert {answer.sqlstate for answer in last if answer.kind == "E"} <= LOST
        connection.close()

    # While the server is away: an error, at once.
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(**mortal.params(), connect_timeout=10)
    assert mortal.is_alive()

    mortal_server.start()
    with wire.connect(mortal) as connection:
        assert connection.rows("SELECT 1") == [["1"]]


@pytest.mark.proxy
def test_without_a_server_the_client_gets_an_error_message(mortal, mortal_server):
    mortal_server.stop()
    try:
        with wire.Connection.to(mortal) as connection:
            connection.send(wire.StartupMessage())
            last = connection.read_to_end()
            assert [answer.kind for answer in last] == ["E"]
            assert last[0].sqlstate in LOST and last[0].fields()["S"] == "FATAL"
    finally:
        mortal_server.start()


def test_half_a_message_then_silence_holds_up_nobody(proxy):
    with wire.connect(proxy) as stalled, wire.connect(proxy) as other:
        stalled.send(wire.Query("SELECT 'late'")[:7])
        for _ in range(20):
            assert other.rows("SELECT 1") == [["1"]]
        stalled.send(wire.Query("SELECT 'late'")[7:])
        assert wire.names(stalled.read_until()) == [
            "RowDescription", "DataRow", "CommandComplete", "ReadyForQuery"]


def test_many_sessions_come_and_go(proxy, server):
    before = len(server.backends())
    for _ in range(3):
        sessions = [wire.connect(proxy) for _ in range(60)]
        for number, session in enumerate(sessions):
            session.send(wire.Query(f"SELECT {number}"))
        for number, session in enumerate(sessions):
            assert str(number) in str(session.read_until()[1])
            session.close()
    server.wait_for_backends(before)


@pytest.mark.proxy
def test_memory_is_given_back_when_sessions_end(proxy, server):
    def burst():
        sessions = [wire.connect(proxy) for _ in range(50)]
        for session in sessions:
            session.query("SELECT '" + "x" * 200000 + "'")
        for session in sessions:
            session.close()

    before = len(server.backends())
    burst()
    server.wait_for_backends(before)
    resident = proxy.rss_kb()
    for _ in range(5):
        burst()
    server.wait_for_backends(before)
    if common.slowness() == 1:
        assert proxy.rss_kb() - resident < 10 * 1024


def test_a_reset_while_connecting_is_harmless(proxy, server):
    before = len(server.backends())
    for _ in range(50):
        raw = socket.create_connection((proxy.host, proxy.port))
        raw.send(wire.StartupMessage())
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
    server.wait_for_backends(before)


@pytest.mark.proxy
@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_client_ahead_of_its_login_is_neither_read_nor_forgotten(server, ending):
    """What it sends before the server has said a word waits, at no cost, and its end is seen."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10 * common.slowness())
    proxy = Proxy(server, server=f"host=127.0.0.1 port={listener.getsockname()[1]} sslmode=disable")
    proxy.start()
    listener.accept()[0].close()  # it has looked whether there is a server
    try:
        with wire.Connection.to(proxy) as client:
            client.send(wire.StartupMessage())
            upstream, _ = listener.accept()
            upstream.settimeout(10 * common.slowness())
            assert upstream.recv(1000) == wire.StartupMessage()
            client.send(wire.Query("SELECT 1"))
            before = common.cpu_seconds(proxy.process.pid)
            time.sleep(0.3)
            assert common.cpu_seconds(proxy.process.pid) - before < 0.1
            if ending == "reset":
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                         struct.pack("ii", 1, 0))
        with upstream:
            assert upstream.recv(1000) == b""
    finally:
        proxy.stop()
        listener.close()


@pytest.mark.proxy
def test_a_cutover_whose_server_hangs_does_not_keep_the_proxy_from_ending():
    """It waits for a lock when every process of the server stops; a cancel request gets no answer."""
    server = Server().start()
    schema.create_database(server)
    schema.create_chunks(server)
    proxy = Proxy(server, rules=[strip_rule()]).start()
    locker = wire.connect(server)
    locker.query("BEGIN")
    locker.query("LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE")
    cutover = subprocess.Popen([str(common.binary()), "cutover", "chunks", "--yes", "--config",
                                str(proxy.config)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    common.wait_until(lambda: server.backends("wait_event_type = 'Lock'"), 10, "the cutover to wait")
    try:
        with server.hanging():
            proxy.process.send_signal(signal.SIGINT)
            assert proxy.process.wait(20 * common.slowness()) == 0
            assert cutover.wait(20 * common.slowness()) != 0
    finally:
        proxy.kill9()
        server.stop("immediate")
