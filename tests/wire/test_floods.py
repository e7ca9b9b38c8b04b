"""Clients that are slow, silent, many, or gone without a word: they cost little, for a bounded time, and
nobody else notices (I16)."""

import ctypes
import fcntl
import resource
import signal
import socket
import statistics
import struct
import threading
import time
from pathlib import Path

import pytest

from lib import common, wire
from lib.proxy import Proxy
from lib.wire import Connection

pytestmark = pytest.mark.proxy

MANY = 3000
IDLE_KB = 4  # of memory for a connection that has sent nothing of use
TLS_KB = 60  # and for one in the middle of a handshake


@pytest.fixture(scope="module", autouse=True)
def enough_descriptors():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MANY + 500
    if before[0] < wanted:
        if before[1] < wanted:
            pytest.skip("too few file descriptors are allowed here")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def start(server):
    """Starts proxies with the given settings."""
    started = []

    def start(**settings):
        started.append(Proxy(server, **{"max_client_conn": 2 * MANY, **settings}).start())
        return started[-1]
    yield start
    for instance in started:
        assert instance.stop() == 0


def descriptors(proxy):
    return len(list(Path(f"/proc/{proxy.pid}/fd").iterdir()))


def descriptors_at_rest(proxy):
    """Once the connections by which the test saw it listen are gone."""
    counts = [-1, -2]
    while counts[-1] != counts[-2]:
        counts.append(descriptors(proxy))
        time.sleep(0.1)
    return counts[-1]


class Bystander(threading.Thread):
    """A well-behaved session that asks all the time, and how long each answer took it."""

    def __init__(self, proxy):
        super().__init__(daemon=True)
        self.session = wire.connect(proxy)
        self.waits, self.ending = [], False
        self.start()

    def run(self):
        while not self.ending:
            began = time.monotonic()
            self.session.rows("SELECT 1")
            self.waits.append(time.monotonic() - began)
            time.sleep(0.002)

    def end(self):
        common.wait_until(lambda: len(self.waits) > 20 or not self.is_alive(), 10, "its answers")
        self.ending = True
        self.join(20)
        self.session.close()
        return self.waits


def assert_small(waits):
    """A flood's own work is done in between, but never much of it at a time."""
    assert len(waits) > 20
    assert statistics.median(waits) < 0.05 * common.slowness()
    assert max(waits) < 0.5 * common.slowness()


def sanitizers():
    """By how much their shadow of the memory makes it more."""
    return 6 if common.slowness() > 1 else 1


def pause_for_the_proxy(proxy, count):
    common.wait_until(lambda: descriptors(proxy) >= count, 20, f"{count} connections accepted")


FLOODS = {
    "silent": b"",
    "half_a_long_packet": struct.pack("!ii", 10_000, wire.PROTOCOL_3_0) + b"user\0" + b"x" * 5000,
}


@pytest.mark.parametrize("beginning", FLOODS.values(), ids=FLOODS)
def test_thousands_that_never_start(beginning, start):
    proxy = start(client_login_timeout=f"{3 * common.slowness():g}s")
    before, memory = descriptors_at_rest(proxy), proxy.rss_kb()
    bystander = Bystander(proxy)
    flood = []
    for _ in range(MANY):
        flood.append(socket.create_connection((proxy.host, proxy.port), timeout=20))
        flood[-1].sendall(beginning)
    pause_for_the_proxy(proxy, before + MANY)
    grown = proxy.rss_kb() - memory
    allowed = MANY * (IDLE_KB + len(beginning) / 1024) * sanitizers()
    assert grown < allowed, f"{grown} KB for {MANY} connections"
    # Without a word of theirs they are told, and closed, and everything is as before.
    common.wait_until(lambda: descriptors(proxy) <= before + 2, 20, "the descriptors' return")
    assert_small(bystander.end())
    common.wait_until(lambda: descriptors(proxy) <= before, 5, "the bystander's end")
    for connection in flood:
        connection.close()


def test_thousands_of_garbage(start):
    """Each is refused at once; connections come and go without leaving anything behind."""
    proxy = start()
    garbage = [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, bytes(8), b"\x16\x03\x01" + bytes(300)]
    for packet in garbage * 50:
        _say(proxy, packet)
    before, memory = descriptors_at_rest(proxy), proxy.rss_kb()
    bystander = Bystander(proxy)
    for n in range(MANY):
        _say(proxy, garbage[n % len(garbage)])
    assert_small(bystander.end())
    common.wait_until(lambda: descriptors(proxy) <= before, 10, "the descriptors' return")
    assert proxy.rss_kb() - memory < 4096 * sanitizers()


def _say(proxy, packet):
    with socket.create_connection((proxy.host, proxy.port), timeout=20) as connection:
        connection.sendall(packet)
        try:
            while connection.recv(4096):
                pass
        except ConnectionError:
            pass


def test_hundreds_in_the_middle_of_a_tls_handshake(start, pki):
    count = 500
    proxy = start(client_login_timeout=f"{3 * common.slowness():g}s", client_tls="allow", client_tls_cert=pki / "one.crt",
                  client_tls_key=pki / "one.key")
    with Connection.to(proxy) as first:
        first.start_tls().start()
    before, memory = descriptors_at_rest(proxy), proxy.rss_kb()
    bystander = Bystander(proxy)
    flood = []
    for _ in range(count):
        flood.append(socket.create_connection((proxy.host, proxy.port), timeout=20))
        flood[-1].sendall(wire.SSLRequest())
        assert flood[-1].recv(1) == b"S"
        flood[-1].sendall(bytes.fromhex("16030100c8010000c40303"))  # and no more of its ClientHello
    grown = proxy.rss_kb() - memory
    assert grown < count * TLS_KB * sanitizers(), f"{grown} KB for {count}"
    common.wait_until(lambda: descriptors(proxy) <= before + 2, 20, "the descriptors' return")
    assert_small(bystander.end())
    for connection in flood:
        connection.close()


def test_more_connections_than_descriptors(server, start):
    """Accepting pauses; the sessions that are there go on, and later ones get in."""
    proxy = start(workers=1)
    bystander = Bystander(proxy)
    resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (descriptors(proxy) + 20,) * 2)
    flood = [socket.create_connection((proxy.host, proxy.port), timeout=20) for _ in range(200)]
    common.wait_until(lambda: "cannot accept" in proxy.log(), 10, "the end of the descriptors")
    time.sleep(0.3)
    for connection in flood:
        connection.close()
    assert_small(bystander.end())

    def gets_in():
        try:
            with wire.connect(proxy) as session:
                return session.rows("SELECT 1") == [["1"]]
        except AssertionError:
            return False  # no descriptor for the server's side yet
    common.wait_until(gets_in, 10, "room for a session")


def test_thousands_of_cancel_requests_for_nobody(server, start):
    """What a server that is too busy to take them leaves waiting is bounded; who has a session is
    not refused."""
    proxy = start()
    bystander = Bystander(proxy)
    with wire.connect(proxy) as session:
        session.send(wire.Query("SELECT pg_sleep(60)"))
        server.wait_until_active(session.pid)
        before = descriptors(proxy)
        server.process.send_signal(signal.SIGSTOP)  # its postmaster: the sessions go on
        try:
            for n in range(MANY):
                with Connection.to(proxy) as other:
                    other.send(wire.CancelRequest(n, b"none"))
            with Connection.to(proxy) as other:
                other.send(wire.CancelRequest(session.pid, session.key))
            assert session.is_quiet(0.5)
            assert descriptors(proxy) - before < 2 * 300
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert wire.errors(session.read_until()) == ["57014"]
    common.wait_until(lambda: descriptors(proxy) <= before, 20, "the descriptors' return")
    assert_small(bystander.end())


# --- slow ones ---

def test_a_startup_packet_byte_by_byte_is_as_good_as_any(start):
    proxy = start()
    with Connection.to(proxy) as slow:
        for byte in wire.SSLRequest():
            slow.send(bytes([byte]))
            time.sleep(0.01)
        assert slow.read_byte() == b"N"
        for byte in wire.StartupMessage()[:-1]:
            slow.send(bytes([byte]))
            time.sleep(0.01)
        slow.send(b"\0")
        slow.read_until("Z")
        assert slow.rows("SELECT 1") == [["1"]]


def test_a_byte_a_second_does_not_put_off_the_login_timeout(start):
    """Neither before the packet is whole nor while a password is awaited."""
    proxy = start(client_login_timeout="3s")
    password = wire.PasswordMessage("never finished")
    with Connection.to(proxy) as slow, Connection.to(proxy) as slower:
        slower.send(wire.StartupMessage(user="auth_password"))
        assert slower.read().kind == "R"
        began = time.monotonic()
        try:
            for byte, other in zip(wire.StartupMessage(), password):
                slow.send(bytes([byte]))
                slower.send(bytes([other]))
                time.sleep(0.9)
                if time.monotonic() - began > 4.5:
                    break
        except ConnectionError:
            pass
        for connection in (slow, slower):
            assert set(wire.errors(connection.read_to_end())) <= {"57014"}
        assert time.monotonic() - began < 6 * common.slowness()


# --- gone without a word ---

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
KERNEL_TIMES = {"tcp_keepalive_time": 1, "tcp_keepalive_intvl": 1, "tcp_keepalive_probes": 2,
                "tcp_retries2": 3}


def in_a_network_of_its_own(function):
    """Calls it in a thread with a network namespace, where nothing but its own loopback is."""
    outcome = []

    def run():
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
                outcome.append("unshare")
                return
            _set_loopback(IFF_UP)
            for name, value in KERNEL_TIMES.items():
                Path(f"/proc/sys/net/ipv4/{name}").write_text(str(value))
        except OSError:
            outcome.append("unshare")
            return
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if outcome[0] == "unshare":
        pytest.skip("may not make a network namespace")
    if outcome[0] is not None:
        raise outcome[0]


def sessions_of(server):
    """The number of its client sessions, asked over its unix socket."""
    with Connection(path=f"{server.socket_dir}/.s.PGSQL.{server.port}") as connection:
        connection.start()
        return int(connection.rows("SELECT count(*) FROM pg_stat_activity WHERE backend_type = "
                                   "'client backend' AND pid <> pg_backend_pid()")[0][0])


def _set_loopback(flags):
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags))


@pytest.mark.parametrize("doing", ["in_a_transaction", "before_the_login", "running"])
def test_a_client_whose_machine_is_gone_is_forgotten(doing, server):
    """The network between them goes down: no FIN, no RST. Keepalive tells, or an answer that nobody
    acknowledges, each in the kernel's own time, which is short in this namespace. The server is
    reached by a unix socket."""
    def lose_a_client():
        sessions = sessions_of(server)
        instance = Proxy(server, server=f"host={server.socket_dir} port={server.port}").start()
        try:
            before = descriptors_at_rest(instance)
            if doing == "before_the_login":
                client = Connection.to(instance)
                client.send(wire.StartupMessage()[:9])
            else:
                client = wire.connect(instance)
                client.query("BEGIN")
            if doing == "running":
                client.send(wire.Query("SELECT pg_sleep(600)"))
            common.wait_until(lambda: descriptors(instance) > before, 5, "the connection")
            _set_loopback(0)
            common.wait_until(lambda: descriptors(instance) <= before, 15, "the client's end")
            if doing != "running":
                # What runs is the server's to end: it looks for its client when it has something
                # to say, as without a proxy between.
                common.wait_until(lambda: sessions_of(server) <= sessions, 5, "the session's end")
            client.close()
        finally:
            instance.kill9()
    try:
        in_a_network_of_its_own(lose_a_client)
    finally:
        server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()", "postgres")


@pytest.mark.parametrize("where", ["idle", "with_a_result_under_way"])
def test_a_client_that_resets_takes_nothing_along(where, proxy, server):
    sessions, before = len(server.backends()), descriptors_at_rest(proxy)
    clients = [wire.connect(proxy) for _ in range(20)]
    for client in clients:
        if where != "idle":
            client.send(wire.Query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
            client.read()
        client.reset()
    common.wait_until(lambda: len(server.backends()) <= sessions, 10, "the sessions' end")
    common.wait_until(lambda: descriptors(proxy) <= before, 10, "the descriptors' return")
