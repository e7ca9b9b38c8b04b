"""Who does not read is not read for: the proxy's memory stays where it is (DESIGN section 3)."""

import os
import select
import signal
import threading

import pytest

from lib import common, wire

ROOM_KB = 30 * 1024
ROWS = 200_000  # of a thousand bytes: about 200 MB


@pytest.fixture(params=["without_rules", pytest.param("with_rules", marks=pytest.mark.proxy)])
def endpoint(request):
    return request.getfixturevalue(
        "proxy" if request.param == "without_rules" else "strip_proxy")


def assert_others_go_on(endpoint):
    """On each of the proxy's threads."""
    sessions = [wire.connect(endpoint) for _ in range(8)]
    for session in sessions:
        assert session.rows("SELECT 1") == [["1"]]
        session.close()


def test_a_client_that_does_not_read_costs_no_memory(endpoint, server):
    with wire.connect(endpoint) as lazy:
        pid = lazy.rows("SELECT pg_backend_pid()")[0][0]
        before = endpoint.rss_kb()
        lazy.send(wire.Query(f"SELECT repeat('x', 1000) FROM generate_series(1, {ROWS})"))
        common.wait_until(
            lambda: server.backends(f"pid = {pid} AND wait_event = 'ClientWrite'"), 20,
            "the server waiting for its client")
        assert_others_go_on(endpoint)
        assert endpoint.rss_kb() - before < ROOM_KB
        # And then every byte is there.
        received = 0
        while received < ROWS * 1000:
            received += len(lazy.socket.recv(1 << 20))
        assert endpoint.rss_kb() - before < ROOM_KB


def test_a_server_that_does_not_read_costs_no_memory(endpoint):
    with wire.connect(endpoint) as busy:
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
        except BlockingIOError:
            pass
    return sent


def test_both_directions_at_once(endpoint):
    """A pipeline whose questions and answers are larger than all buffers between."""
    count = 2000
    with wire.connect(endpoint, timeout=60) as connection:
        batch = wire.Parse("s", "SELECT $1::text") + b"".join(
            wire.Bind("", "s", ["y" * 5000]) + wire.Execute("") for _ in range(count)) + wire.Sync()
        sender = threading.Thread(target=connection.socket.sendall, args=(batch,))
        sender.start()
        answers = connection.read_until("Z")
        sender.join()
        assert sum(answer.kind == "D" and len(answer.body) == 5006 for answer in answers) == count


def test_a_pipelining_client_that_does_not_read_costs_no_memory(endpoint):
    with wire.connect(endpoint, timeout=60) as connection:
        before = endpoint.rss_kb()
        one = wire.Query("SELECT repeat('z', 10000)")
        sent = _send_until_stuck(connection.socket, one, 20 << 20)
        assert_others_go_on(endpoint)
        assert endpoint.rss_kb() - before < ROOM_KB
        assert sent > 0
        connection.reset()
