"""How a connection begins: protocol versions and options, encryption requests, TLS. The proxy does what
the server behind it does, and takes cancel keys of any length."""

import socket
import ssl
import struct
import threading

import pytest

from lib import common, wire
from lib.proxy import Proxy
from lib.wire import Connection

pytestmark = pytest.mark.proxy


def version(major, minor):
    return major << 16 | minor


PACKETS = {
    "3.0": wire.StartupMessage(),
    "3.1": wire.StartupMessage(version=version(3, 1)),
    "3.2": wire.StartupMessage(version=version(3, 2)),
    "3.3": wire.StartupMessage(version=version(3, 3)),
    "3.9999": wire.StartupMessage(version=version(3, 9999)),
    "3.0_with_an_option": wire.StartupMessage(**{"_pq_.foo": "bar"}),
    "3.0_with_options": wire.StartupMessage(**{"_pq_.b": "", "_pq_.a": "x" * 300}),
    "3.2_with_an_option": wire.StartupMessage(version=version(3, 2), **{"_pq_.foo": "bar"}),
    "3.9999_with_an_option": wire.StartupMessage(version=version(3, 9999), **{"_pq_.foo": "bar"}),
    "4.0": wire.StartupMessage(version=version(4, 0)),
    "4.0_without_anything": struct.pack("!iHH", 8, 4, 0),
    "7.3": wire.StartupMessage(version=version(7, 3)),
    "1234.9999": wire.StartupMessage(version=version(1234, 9999)),
}


def beginning(endpoint, packet):
    """Every message up to ReadyForQuery or the end, as bytes without the pid and key."""
    with Connection.to(endpoint) as connection:
        connection.send(packet)
        try:
            return [answer.comparable() for answer in connection.read_until("Z")]
        except wire.Closed:
            return "closed"


def everything(endpoint, packet):
    """What a refused client sees, to the last message."""
    with Connection.to(endpoint) as connection:
        return [answer.comparable() for answer in connection.send(packet).read_to_end()]


@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS)
@pytest.mark.parametrize("which", ["server", "newest"])
def test_versions_are_negotiated_as_by_the_server(which, packet, request):
    server = request.getfixturevalue(which)
    proxy = request.getfixturevalue("proxy" if which == "server" else "newest_proxy")
    look = everything if struct.unpack_from("!H", packet, 4)[0] > 3 else beginning
    expected = look(server, packet)
    assert look(proxy, packet) == expected
    if which == "newest" and packet is PACKETS["3.2"]:
        assert any(answer.startswith(b"K\0\0\0\x28") for answer in expected), "no long key"
    if which == "newest" and packet is PACKETS["3.9999"]:
        assert expected[1].startswith(b"v") or expected[0].startswith(b"v")


@pytest.mark.parametrize("minor", [0, 1])
def test_protocol_2_is_refused_in_its_own_form(minor, newest, newest_proxy):
    """As by PostgreSQL 14 and later; what an older server takes for protocol 2 is refused as well."""
    def words(endpoint):
        with Connection.to(endpoint) as connection:
            connection.send(wire.StartupMessage(version=version(2, minor)))
            received = b""
            while chunk := connection.socket.recv(4096):
                received += chunk
            return received
    for endpoint in (newest, newest_proxy):
        assert words(endpoint).startswith(
            f"EFATAL:  unsupported frontend protocol 2.{minor}: server supports 3.0 to 3.".encode())


# --- encryption requests ---

def negotiate(endpoint, requests, tls=False):
    """The answers to requests one by one, and what comes of a startup packet then."""
    with Connection.to(endpoint) as connection:
        if tls:
            connection.start_tls()
        answers = []
        for request in requests:
            answer = connection.send(request).read_byte()
            if answer == b"E":
                connection.buffer[:0] = answer
                return answers + wire.errors(connection.read_to_end())
            answers.append(answer)
        connection.start()
        return answers + connection.rows("SELECT 1")


S, G = wire.SSLRequest(), wire.GSSENCRequest()


@pytest.mark.parametrize("requests, expected", [
    ([S], [b"N", ["1"]]),
    ([G], [b"N", ["1"]]),
    ([S, G], [b"N", b"N", ["1"]]),
    ([G, S], [b"N", b"N", ["1"]]),
    ([S, S], [b"N", "0A000"]),
    ([G, G], [b"N", "0A000"]),
    ([S, G, G], [b"N", b"N", "0A000"]),
    ([G, S, S], [b"N", b"N", "0A000"]),
], ids=["S", "G", "SG", "GS", "SS", "GG", "SGG", "GSS"])
def test_encryption_is_declined_once_each(requests, expected, server, proxy):
    assert negotiate(proxy, requests) == expected
    if G not in requests:  # the server may have GSSAPI
        assert negotiate(server, requests) == expected


@pytest.mark.parametrize("request_again", [S, G], ids="SG")
def test_encryption_within_encryption_is_refused(request_again, newest, newest_proxy):
    assert negotiate(newest, [request_again], tls=True) == ["0A000"]
    assert negotiate(newest_proxy, [request_again], tls=True) == ["0A000"]


def test_gss_is_declined_ahead_of_tls(newest, newest_proxy):
    for endpoint in (newest, newest_proxy):
        with Connection.to(endpoint) as connection:
            assert connection.send(G).read_byte() == b"N"
            connection.start_tls().start()
            assert connection.rows("SELECT 1") == [["1"]]


def test_bytes_ahead_of_the_handshake_reach_no_session(newest_proxy):
    """Whether they come with the request or right behind the answer, as a man in the middle may."""
    with Connection.to(newest_proxy) as connection:
        connection.send(S + wire.StartupMessage() + wire.Query("SELECT 1"))
        assert wire.errors(connection.read_to_end()) == ["08P01"]
    with Connection.to(newest_proxy) as connection:
        assert connection.send(S).read_byte() == b"S"
        connection.send(wire.StartupMessage())
        with pytest.raises((OSError, wire.Closed)):
            connection.socket = ssl._create_unverified_context().wrap_socket(connection.socket)
            connection.start()


def alpn(endpoint, protocols, ask):
    """What a TLS client with these ALPN protocols selects, "refused", or a session's answer."""
    context = ssl._create_unverified_context()
    if protocols:
        context.set_alpn_protocols(protocols)
    with Connection.to(endpoint) as connection:
        if ask:
            assert connection.send(S).read_byte() == b"S"
        try:
            connection.socket = context.wrap_socket(connection.socket)
            connection.start()
            return connection.socket.selected_alpn_protocol(), connection.rows("SELECT 1")
        except (OSError, wire.Closed):
            return "refused"


@pytest.mark.parametrize("ask", [True, False], ids=["asked_for", "direct"])
@pytest.mark.parametrize("protocols", [None, ["postgresql"], ["h2"], ["h2", "postgresql"]],
                         ids=["none", "ours", "another", "both"])
def test_alpn_is_looked_at_as_by_the_server(protocols, ask, newest, newest_proxy):
    assert alpn(newest_proxy, protocols, ask) == alpn(newest, protocols, ask)


# --- cancel keys of any length ---

class KeyServer:
    """Announces a key of the given length, and keeps the first packet of every other connection."""

    def __init__(self, length):
        self.key = bytes(range(1, length + 1)) if length < 256 else b"\xfe" * length
        self.packets = []
        self.host, self.port = "127.0.0.1", common.free_port()
        self.listener = socket.create_server((self.host, self.port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        kept = []
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            packet = client.recv(1 << 16)
            if packet[4:8] == struct.pack("!i", wire.CANCEL_REQUEST_CODE):
                self.packets.append(packet)
                client.close()
                continue
            client.sendall(wire.message("R", bytes(4))
                           + wire.message("K", struct.pack("!i", 4711) + self.key)
                           + wire.message("Z", b"I"))
            kept.append(client)


@pytest.mark.parametrize("length", [4, 5, 16, 32, 100, 255, 256])
def test_keys_pass_in_both_directions_by_their_length(length, server):
    fake = KeyServer(length)
    instance = Proxy(server, server=f"host={fake.host} port={fake.port} sslmode=disable").start()
    try:
        with Connection.to(instance) as session:
            session.start(version=version(3, 2))
            assert (session.pid, session.key) == (4711, fake.key)
            session.cancel()
        assert fake.packets == [wire.CancelRequest(4711, fake.key)]
    finally:
        fake.listener.close()
        assert instance.stop() == 0
