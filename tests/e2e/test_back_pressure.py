"""Who does not read is not read for: the proxy's memory stays where it is (DESIGN section 3)."""

import os
import select
import signal
import ssl

import pytest

from lib import common, schema, wire
from lib.pgserver import Server
from lib.pki import configure_server
from lib.proxy import Proxy

NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
ROOM_KB = 30 * 1024
ROWS = 200_000  # of a thousand bytes: about 200 MB


@pytest.fixture(scope="module")
def tls_on_both_sides(pki):
    """Clients of it begin with TLS. A sanitizer keeps what was freed; here it may keep little."""
    sanitizer = f"{os.environ.get('ASAN_OPTIONS', '')}:quarantine_size_mb=4"
    server = Server()
    configure_server(server, pki)
    server.start()
    schema.create_database(server)
    instance = Proxy(server, server=f"host={server.host} port={server.port} sslmode=require",
                     auth_type="passthrough", client_tls="require",
                     client_tls_cert=pki / "one.crt", client_tls_key=pki / "one.key",
                     environment={"ASAN_OPTIONS": sanitizer.lstrip(":")}).start()
    instance.by_tls = True
    yield instance
    instance.stop()
    server.stop()


ENDPOINTS = {"without_rules": "proxy", "with_rules": "strip_proxy", "with_tls": "tls_on_both_sides"}


@pytest.fixture(params=["without_rules", pytest.param("with_rules", marks=pytest.mark.proxy),
                        pytest.param("with_tls", marks=pytest.mark.proxy)])
def endpoint(request):
    return request.getfixturevalue(ENDPOINTS[request.param])


def connect(endpoint, timeout=20):
    connection = wire.Connection.to(endpoint, timeout=timeout)
    if getattr(endpoint, "by_tls", False):
        connection.start_tls()
    connection.start()
    return connection


def assert_others_go_on(endpoint):
    """On each of the proxy's threads."""
    sessions = [connect(endpoint) for _ in range(8)]
    for session in sessions:
        assert session.rows("SELECT 1") == [["1"]]
        session.close()


def test_a_client_that_does_not_read_costs_no_memory(endpoint):
    with connect(endpoint) as lazy:
        pid = lazy.rows("SELECT pg_backend_pid()")[0][0]
        before = endpoint.rss_kb()
        lazy.send(wire.Query(f"SELECT repeat('x', 1000) FROM generate_series(1, {ROWS})"))
        common.wait_until(
            lambda: endpoint.server.backends(f"pid = {pid} AND wait_event = 'ClientWrite'"), 20,
            "the server waiting for its client")
        assert_others_go_on(endpoint)
        assert endpoint.rss_kb() - before < ROOM_KB
        # And then every byte is there.
        received = 0
        while received < ROWS * 1000:
            received += len(lazy.socket.recv(1 << 20))
        assert endpoint.rss_kb() - before < ROOM_KB


def test_a_server_that_does_not_read_costs_no_memory(endpoint):
    with connect(endpoint) as busy:
        pid = int(busy.rows("SELECT pg_backend_pid()")[0][0])
        busy.query("CREATE TEMP TABLE t(a text)")
        busy.send(wire.Query("COPY t FROM STDIN")).read_until("G")
        before = endpoint.rss_kb()
        row = wire.CopyData("x" * 999 + "\n") * 100
        os.kill(pid, signal.SIGSTOP)
        try:
            sent = _send_until_stuck(busy.socket, row, 300 << 20)
            assert sent < 100 << 20, "300 MB were taken from the client although nobody read them"
            assert_others_go_on(endpoint)
            assert endpoint.rss_kb() - before < ROOM_KB
        finally:
            os.kill(pid, signal.SIGCONT)
        busy.socket.setblocking(True)
        rest = len(row) - sent % len(row)
        busy.send(row[len(row) - rest:], wire.CopyDone())
        answers = busy.read_until()
        assert f"COPY {(sent + rest) // len(row) * 100}" in str(answers[0])


def _send_until_stuck(sock, data, limit):
    """Sends `data` again and again until the other side has taken nothing for half a second."""
    sock.setblocking(False)
    sent = 0
    while sent < limit and select.select([], [sock], [], 0.5)[1]:
        try:
            sent += sock.send(data[sent % len(data):])
        except NOT_NOW:
            pass
    return sent


def _talk(sock, data):
    """Sends and receives in turns until ReadyForQuery; returns what was received."""
    sock.setblocking(False)
    sent, received = 0, bytearray()
    while not received.endswith(b"Z\0\0\0\5I"):
        assert any(select.select([sock], [sock][:sent < len(data)], [], 20 * common.slowness()))
        try:
            if sent < len(data):
                sent += sock.send(data[sent:sent + (1 << 16)])
        except NOT_NOW:
            pass
        try:
            while chunk := sock.recv(1 << 20):
                received += chunk
        except NOT_NOW:
            pass
    sock.setblocking(True)
    return received


def test_both_directions_at_once(endpoint):
    """A pipeline whose questions and answers are larger than all buffers between."""
    count = 2000
    with connect(endpoint, timeout=60) as connection:
        batch = wire.Parse("s", "SELECT $1::text") + b"".join(
            wire.Bind("", "s", ["y" * 5000]) + wire.Execute("") for _ in range(count)) + wire.Sync()
        before = endpoint.rss_kb()
        connection.buffer += _talk(connection.socket, batch)
        assert endpoint.rss_kb() - before < ROOM_KB
        answers = connection.read_until("Z")
        assert sum(answer.kind == "D" and len(answer.body) == 5006 for answer in answers) == count


def test_a_pipelining_client_that_does_not_read_costs_no_memory(endpoint):
    with connect(endpoint, timeout=60) as connection:
        before = endpoint.rss_kb()
        one = wire.Query("SELECT repeat('z', 10000)")
        sent = _send_until_stuck(connection.socket, one, 20 << 20)
        assert_others_go_on(endpoint)
        assert endpoint.rss_kb() - before < ROOM_KB
        assert sent > 0
        connection.reset()
