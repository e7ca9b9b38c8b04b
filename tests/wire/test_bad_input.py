"""Nonsense on the wire, from either side: it ends that connection and nobody else notices (I16).

Where PostgreSQL answers a client's nonsense with an error, the proxy's answer has the same SQLSTATE;
where it only closes the connection, the proxy may say 08P01 before it does, or 08006 when it had to
leave the judgement to the server.
"""

import os
import random
import socket
import struct
import threading

import pytest

from lib import common, wire
from lib.proxy import Proxy
from lib.wire import Connection

MAX_INT32 = 0x7FFFFFFF


def startup_of_length(length, body=b""):
    return struct.pack("!i", length) + body


BAD_STARTUPS = {
    "http": b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
    "tls_client_hello": bytes.fromhex("16030100c8010000c40303") + bytes(190),
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
    "text": b"hello there, is this a database?\r\n" * 10,
    "length_zero": startup_of_length(0),
    "length_three": startup_of_length(3),
    "length_seven": startup_of_length(7, b"abc"),
    "length_negative": startup_of_length(-1, bytes(16)),
    "length_over_the_limit": startup_of_length(10001, b"\0\3\0\0" + b"x" * 9993),
    "length_2_gb": startup_of_length(MAX_INT32, b"\0\3\0\0user\0postgres\0\0"),
    "protocol_2": wire.StartupMessage(version=2 << 16),
    "protocol_4": wire.StartupMessage(version=4 << 16),
    "no_user": wire.StartupMessage(user=None),
    "no_parameters": startup_of_length(9, b"\0\3\0\0\0"),
    "version_only": startup_of_length(8, b"\0\3\0\0"),
    "no_terminator": startup_of_length(22, b"\0\3\0\0user\0postgres\0"),
    "value_missing": startup_of_length(14, b"\0\3\0\0user\0\0"),
    "bytes_after_the_terminator": startup_of_length(27, b"\0\3\0\0user\0postgres\0\0tail!"),
    "cancel_without_key": startup_of_length(8, struct.pack("!i", wire.CANCEL_REQUEST_CODE)),
    "cancel_of_nobody": wire.CancelRequest(999999, b"\1\2\3\4"),
}

BAD_MESSAGES = {
    "length_zero": b"Q" + struct.pack("!i", 0),
    "length_three": b"Q" + struct.pack("!i", 3),
    "length_negative": b"Q" + struct.pack("!i", -1),
    "length_most_negative": b"Q" + struct.pack("!I", 0x80000000),
    "length_2_gb": b"Q" + struct.pack("!i", MAX_INT32) + b"SELECT 1",
    "parse_of_2_gb": b"P" + struct.pack("!i", MAX_INT32) + b"name\0SELECT 1\0",
    "sync_of_1_mb": b"S" + struct.pack("!i", (1 << 20) + 4) + bytes(1 << 20),
    "terminate_of_2_gb": b"X" + struct.pack("!i", MAX_INT32),
    "unknown_type": wire.message("@", b"whatever"),
    "type_zero": b"\0\0\0\0\4",
    "type_above_ascii": b"\xe4\0\0\0\4",
    "backends_message": wire.message("Z", b"I"),
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "stray_password": wire.PasswordMessage("secret"),
}

# Wrong inside, right outside: errors of an ordinary kind, and the session goes on.
WRONG_BODIES = {
    "query_without_terminator": wire.message("Q", b"SELECT 1"),
    "query_without_body": wire.message("Q"),
    "query_with_bytes_after_its_end": wire.message("Q", b"SELECT 1\0and more"),
    "parse_cut_short": wire.message("P", b"name\0SELECT 1"),
    "parse_with_more_types_than_bytes": wire.message("P", b"\0SELECT 1\0\x7f\xff"),
    "parse_with_negative_count": wire.message("P", b"\0SELECT 1\0\xff\xff"),
    "bind_cut_short": wire.message("B", b"\0\0\0"),
    "bind_with_value_past_the_end": wire.message(
        "B", b"\0\0" + struct.pack("!HHi", 0, 1, MAX_INT32)),
    "describe_of_unknown_kind": wire.message("D", b"Xname\0"),
    "execute_without_limit": wire.message("E", b"\0"),
    "close_of_unknown_kind": wire.message("C", b"Xname\0"),
    "sync_with_body": wire.message("S", b"body"),
    "function_call_cut_short": wire.message("F", b"\0\0"),
    "invalid_utf8": wire.message("Q", b"SELECT '\xff\xfe'\0"),
}


def what_happens(endpoint, first, second=b"", wait=5):
    """Sends, then reads to the end: (SQLSTATEs of the errors, "closed" or "open")."""
    connection = Connection.to(endpoint, timeout=wait)
    with connection:
        if second:
            connection.send(first).read_until("Z")
        try:
            connection.send(second or first)
        except ConnectionError:
            pass
        codes = []
        try:
            while True:
                answer = connection.read()
                if answer.kind == "E":
                    codes.append(answer.sqlstate)
        except socket.timeout:
            return codes, "open"
        except (wire.Closed, ConnectionError):
            return codes, "closed"


@pytest.fixture(scope="module")
def bystander(proxy):
    """A session that is there all the time and must never notice anything."""
    connection = wire.connect(proxy)
    connection.rows("CREATE TEMP TABLE mine AS SELECT 42 AS answer")
    yield connection
    connection.close()


@pytest.fixture(autouse=True)
def nobody_else_notices(proxy, bystander):
    yield
    assert proxy.is_alive(), proxy.log()[-2000:]
    assert bystander.rows("SELECT answer FROM mine") == [["42"]]
    with wire.connect(proxy) as newcomer:
        assert newcomer.rows("SELECT 1") == [["1"]]


@pytest.mark.parametrize("packet", BAD_STARTUPS.values(), ids=BAD_STARTUPS)
def test_a_bad_startup_packet_ends_its_connection(packet, server, proxy):
    expected, _ = what_happens(server, packet)
    codes, end = what_happens(proxy, packet)
    assert end == "closed"
    # The proxy may refuse the layout before the server would have refused the rest.
    assert codes == expected or (not expected and codes == ["08P01"])


@pytest.mark.parametrize("packet", BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_a_bad_message_ends_its_connection(packet, server, proxy):
    expected, servers_end = what_happens(server, wire.StartupMessage(), packet, wait=2)
    codes, end = what_happens(proxy, wire.StartupMessage(), packet, wait=2)
    assert end in ("closed", servers_end)  # PostgreSQL 11 waits for what was announced
    assert codes == expected or (not expected and codes in (["08P01"], ["08006"]))


@pytest.mark.parametrize("packet", WRONG_BODIES.values(), ids=WRONG_BODIES)
def test_a_wrong_body_is_answered_as_by_the_server(packet, server, proxy):
    def replies(endpoint):
        with wire.connect(endpoint) as connection:
            connection.send(packet, wire.Sync(), wire.Query("SELECT 'after'"))
            shown = []
            try:
                while "after" not in (answer := str(connection.read())):
                    shown.append(answer)
            except wire.Closed:
                shown.append("closed")
            return shown

    assert replies(proxy) == replies(server)


def test_a_query_in_the_middle_of_a_copy_is_the_servers_to_judge(server, proxy):
    """Since PostgreSQL 14 it ends the session: the server cannot tell where the client is."""
    def replies(endpoint):
        with wire.connect(endpoint) as connection:
            connection.query("CREATE TEMP TABLE t(a int)")
            connection.send(wire.Query("COPY t FROM STDIN")).read_until("G")
            connection.send(wire.CopyData("1\n"), wire.Query("SELECT 'lost'"))
            answers = [connection.read(), connection.read()]
            return [str(answer) for answer in answers]

    assert replies(proxy) == replies(server)


@pytest.mark.proxy
def test_ssl_and_gss_are_declined_and_startup_goes_on(proxy):
    with Connection.to(proxy) as connection:
        assert connection.send(wire.GSSENCRequest()).read_byte() == b"N"
        assert connection.send(wire.SSLRequest()).read_byte() == b"N"
        connection.start()
        assert connection.rows("SELECT 1") == [["1"]]


@pytest.mark.proxy
def test_ssl_is_declined_before_gss_as_well(proxy):
    with Connection.to(proxy) as connection:
        assert connection.send(wire.SSLRequest()).read_byte() == b"N"
        assert connection.send(wire.GSSENCRequest()).read_byte() == b"N"
        connection.start()


@pytest.mark.proxy
def test_negotiation_requests_without_end_are_cut_off(proxy):
    """A client may ask once for each kind of encryption, not for ever."""
    with Connection.to(proxy, timeout=5) as connection:
        with pytest.raises((wire.Closed, ConnectionError, socket.timeout)) as ended:
            for _ in range(1000):
                connection.send(wire.SSLRequest())
                if connection.read_byte() != b"N":
                    break
            connection.read_to_end()
            raise wire.Closed
        assert ended.type is not socket.timeout


def test_startup_in_one_write_with_the_first_query(server, proxy):
    """Allowed with trust: the client need not wait."""
    def replies(endpoint):
        with Connection.to(endpoint) as connection:
            connection.send(wire.StartupMessage(), wire.Query("SELECT 1"))
            return [str(answer) for answer in connection.read_until("Z") + connection.read_until("Z")]

    assert replies(proxy) == replies(server)


@pytest.mark.parametrize("length", [1, 4, 7, 8, 9, 20])
def test_a_truncated_startup_packet_is_forgotten_when_its_client_goes(length, proxy, server):
    sessions = len(server.backends())
    for leave in (Connection.close, Connection.reset):
        connection = Connection.to(proxy)
        connection.send(wire.StartupMessage()[:length])
        leave(connection)
    common.wait_until(lambda: len(server.backends()) <= sessions, 10, "the sessions' end")


def test_a_truncated_message_is_forgotten_when_its_client_goes(proxy, server):
    sessions = len(server.backends())
    for leave in (Connection.close, Connection.reset):
        for cut in (1, 4, 5, 9):
            connection = wire.connect(proxy)
            connection.send(wire.Query("SELECT 'never finished'")[:cut])
            leave(connection)
    common.wait_until(lambda: len(server.backends()) <= sessions, 10, "the sessions' end")


@pytest.mark.proxy
def test_a_client_that_never_starts_is_cut_off_after_the_login_timeout(server):
    instance = Proxy(server, client_login_timeout=1).start()
    try:
        for beginning in (b"", wire.StartupMessage()[:9]):
            with Connection.to(instance, timeout=10) as connection:
                connection.send(beginning)
                connection.read_to_end()  # would raise socket.timeout if it stayed open
        with wire.connect(instance) as session:
            assert session.is_quiet(1.3)  # the time is over once the session has begun
            assert session.rows("SELECT 1") == [["1"]]
    finally:
        instance.stop()


def test_announced_gigabytes_take_no_memory(proxy):
    before = proxy.rss_kb()
    connections = []
    for kind in "QPBd":
        for _ in range(5):
            connection = wire.connect(proxy)
            connection.send(kind.encode(), struct.pack("!i", 0x3FFFFFFF), b"x" * 1000)
            connections.append(connection)
    with wire.connect(proxy) as other:
        assert other.rows("SELECT 1") == [["1"]]
    assert proxy.rss_kb() - before < 20 * 1024
    for connection in connections:
        connection.close()


def test_random_bytes_after_startup(proxy):
    """Fifty sessions of noise, always the same noise."""
    dice = random.Random(7)
    for _ in range(50):
        with wire.connect(proxy, timeout=5) as connection:
            try:
                connection.send(dice.randbytes(dice.randint(1, 3000)))
                connection.half_close()
                connection.read_to_end()
            except (ConnectionError, AssertionError):
                pass


class FakeServer:
    """Answers the start-up as told and then sends what it is given."""

    def __init__(self, data):
        self.data = data
        self.host, self.port = "127.0.0.1", common.free_port()
        self.listener = socket.create_server((self.host, self.port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                client.settimeout(10)
                try:
                    client.recv(1 << 16)
                    client.sendall(self.data)
                    while client.recv(1 << 16):
                        pass
                except OSError:
                    pass


GREETING = (wire.message("R", struct.pack("!i", 0)) + wire.message("K", struct.pack("!ii", 1, 2))
            + wire.message("Z", b"I"))

BAD_SERVERS = {
    "garbage_instead_of_a_greeting": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "length_zero": GREETING + b"D\0\0\0\0",
    "length_three": GREETING + b"D\0\0\0\3",
    "length_negative": GREETING + b"D\xff\xff\xff\xff",
    "length_most_negative": GREETING + b"T\x80\0\0\0",
    "ready_for_query_without_status": GREETING + b"Z\0\0\0\4",
    "ready_for_query_of_2_gb": GREETING + b"Z\x7f\xff\xff\xff",
    "backend_key_data_cut_short": wire.message("R", bytes(4)) + wire.message("K", b"\0"),
    "parameter_status_without_end": GREETING + wire.message("S", b"client_encoding"),
}


@pytest.mark.proxy
@pytest.mark.parametrize("data", BAD_SERVERS.values(), ids=BAD_SERVERS)
def test_a_server_that_sends_nonsense_ends_only_its_own_session(data, server):
    """The client is closed, or gets the bytes as they are; the proxy lives."""
    fake = FakeServer(data)
    instance = Proxy(server, server=f"host={fake.host} port={fake.port}").start()
    try:
        for _ in range(3):
            with Connection.to(instance, timeout=0.5) as connection:
                connection.send(wire.StartupMessage())
                try:
                    connection.read_to_end()
                except (AssertionError, KeyError, ValueError, socket.timeout, struct.error):
                    pass
        assert instance.is_alive(), instance.log()[-2000:]
        assert common.rss_kb(instance.pid) < 200 * 1024 or "asan" in os.environ.get(
            "PGSLUICE_BUILD", "")
    finally:
        fake.listener.close()
        instance.stop()
