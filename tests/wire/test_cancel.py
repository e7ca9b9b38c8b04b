"""CancelRequest: on every road, with every kind of key, while the statement runs and while it is held.

The connection that carries it is closed without a word, whatever it carried, as the server does.
"""

import socket
import ssl
import struct

import pytest

from lib import common, schema, wire
from lib.chopper import Chopper
from lib.proxy import Proxy, strip_rule
from lib.scripted_server import read_exactly
from lib.wire import Connection
from test_counting import ask

INSERT = "INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'x')"
PROTOCOL_3_2 = 3 << 16 | 2


def cancel(endpoint, packet, road="tcp"):
    """Sends the packet and returns what comes back until the other side closes."""
    if road == "unix":
        connection = Connection(path=f"{endpoint.socket_dir}/.s.PGSQL.{endpoint.port}")
    else:
        connection = Connection.to(endpoint)
    with connection:
        if road == "tls":
            connection.start_tls()
        elif road == "direct_tls":
            context = ssl._create_unverified_context()
            context.set_alpn_protocols(["postgresql"])
            connection.socket = context.wrap_socket(connection.socket)
        connection.send(packet)
        received = b""
        try:
            while chunk := connection.socket.recv(4096):
                received += chunk
        except ConnectionError:
            pass
        except socket.timeout:
            return "still open"
        return received


def begin(endpoint, session_version, tls=False):
    session = Connection.to(endpoint)
    if tls:
        session.start_tls()
    session.start(version=session_version)
    return session


def run_for_ever(session):
    """A statement that has begun when this returns."""
    session.send(wire.Query("DO $$ BEGIN RAISE NOTICE 'begun'; PERFORM pg_sleep(60); END $$"))
    session.read_until("N")


ROADS = ["tcp", "unix", "tls", "direct_tls"]


@pytest.mark.proxy
@pytest.mark.parametrize("session_version", [wire.PROTOCOL_3_0, PROTOCOL_3_2], ids=["3.0", "3.2"])
@pytest.mark.parametrize("road", ROADS)
def test_a_running_statement_is_cancelled_by_every_road(road, session_version, newest_proxy):
    with begin(newest_proxy, session_version, tls=True) as session:
        assert len(session.key) == (32 if session_version == PROTOCOL_3_2 else 4)
        run_for_ever(session)
        assert cancel(newest_proxy, wire.CancelRequest(session.pid, session.key), road) == b""
        assert wire.errors(session.read_until()) == ["57014"]
        assert session.rows("SELECT 1") == [["1"]]


@pytest.mark.proxy
@pytest.mark.parametrize("session_version", [wire.PROTOCOL_3_0, PROTOCOL_3_2], ids=["3.0", "3.2"])
@pytest.mark.parametrize("road", ROADS)
def test_a_held_statement_is_cancelled_by_every_road(road, session_version, newest, newest_proxy):
    schema.clear_chunks(newest)
    with begin(newest_proxy, session_version, tls=road == "tls") as session:
        assert ask(newest_proxy, command="hold", table="chunks", ttl_ms=20000)["exit"] == 0
        try:
            session.send(wire.Query(INSERT), wire.Query("SELECT 'behind it'"))
            common.wait_until(lambda: ask(newest_proxy, command="status")["gates"][0]["held"] == 1)
            for wrong in wrong_keys(session.pid, session.key):
                assert cancel(newest_proxy, wrong, road) == b""
            assert session.is_quiet()
            assert cancel(newest_proxy, wire.CancelRequest(session.pid, session.key), road) == b""
            assert wire.errors(session.read_until()) == ["57014"]
            assert session.read_until()[1].values() == [b"behind it"]
        finally:
            ask(newest_proxy, command="release", table="chunks")
    assert newest.psql("SELECT count(*) FROM chunks") == "0"


def wrong_keys(pid, key):
    """Packets that name a session of the server's, or nearly."""
    other = bytes(byte ^ 0xFF for byte in key)
    return [
        wire.CancelRequest(pid, other),
        wire.CancelRequest(pid, key[:-1] + other[-1:]),
        wire.CancelRequest(pid, key + b"\0"),
        wire.CancelRequest(pid, key[:-1]),
        wire.CancelRequest(pid, key[:1]),
        wire.CancelRequest(pid, b""),
        wire.CancelRequest(pid, bytes(256)),
        wire.CancelRequest(pid, key * 40),
        wire.CancelRequest(pid, bytes(257)),
        wire.CancelRequest(pid, bytes(9000)),
        wire.CancelRequest(pid ^ 1, key),
        wire.CancelRequest(0, bytes(len(key))),
        struct.pack("!ii", 8, wire.CANCEL_REQUEST_CODE),
        struct.pack("!iih", 10, wire.CANCEL_REQUEST_CODE, 7),
    ]


@pytest.mark.parametrize("which", ["server", "newest"])
@pytest.mark.parametrize("session_version", [wire.PROTOCOL_3_0, PROTOCOL_3_2], ids=["3.0", "3.2"])
def test_a_wrong_key_does_nothing_and_is_not_answered(which, session_version, request):
    server = request.getfixturevalue(which)
    endpoints = [server]
    if not common.is_direct():
        endpoints.append(request.getfixturevalue(
            "proxy" if which == "server" else "newest_proxy"))
    for endpoint in endpoints:
        with begin(endpoint, session_version) as session:
            run_for_ever(session)
            for packet in wrong_keys(session.pid, session.key):
                assert cancel(endpoint, packet) == b""
            assert session.is_quiet()
            session.cancel()
            assert wire.errors(session.read_until()) == ["57014"]


def test_the_key_of_an_ended_session_does_nothing(proxy):
    ended = wire.connect(proxy)
    key = wire.CancelRequest(ended.pid, ended.key)
    ended.send(wire.Terminate()).read_to_end()
    with wire.connect(proxy) as session:
        run_for_ever(session)
        assert cancel(proxy, key) == b""
        assert session.is_quiet()
        session.cancel()
        assert wire.errors(session.read_until()) == ["57014"]


@pytest.mark.proxy
def test_one_sessions_key_does_not_reach_another_that_is_held(server):
    schema.clear_chunks(server)
    instance = Proxy(server, rules=[strip_rule()], hold_ttl="20s").start()
    with wire.connect(instance) as held, wire.connect(instance) as other:
        assert ask(instance, command="hold", table="chunks", ttl_ms=20000)["exit"] == 0
        held.send(wire.Query(INSERT))
        common.wait_until(lambda: ask(instance, command="status")["gates"][0]["held"] == 1)
        run_for_ever(other)
        other.cancel()
        assert wire.errors(other.read_until()) == ["57014"]
        assert held.is_quiet()
        assert ask(instance, command="release", table="chunks")["exit"] == 0
        assert not wire.errors(held.read_until())
    assert instance.stop() == 0


@pytest.mark.proxy
def test_a_cancel_meets_what_runs_ahead_of_a_write_that_waits(server):
    """The write waits for the answer to what is before it; then it is held, and can be cancelled too."""
    schema.clear_chunks(server)
    instance = Proxy(server, rules=[strip_rule()], hold_ttl="20s").start()
    with wire.connect(instance) as session:
        assert ask(instance, command="hold", table="chunks", ttl_ms=20000)["exit"] == 0
        run_for_ever(session)
        session.send(wire.Query(INSERT), wire.Query("SELECT 'alive'"))
        assert session.is_quiet()
        for _ in range(2):
            session.cancel()
            assert wire.errors(session.read_until()) == ["57014"]
            common.wait_until(lambda: ask(instance, command="status")["gates"][0]["held_total"] == 1)
        assert session.read_until()[1].values() == [b"alive"]
    assert instance.stop() == 0
    assert server.psql("SELECT count(*) FROM chunks") == "0"


def test_a_cancel_between_statements_does_nothing(proxy):
    with wire.connect(proxy) as session:
        for n in range(20):
            session.cancel()
            assert session.rows(f"SELECT {n}") == [[str(n)]]


def test_a_request_in_pieces_and_one_with_bytes_behind_it(proxy):
    with wire.connect(proxy) as session:
        for extra in (b"", b"more bytes than there should be"):
            run_for_ever(session)
            packet = wire.CancelRequest(session.pid, session.key) + extra
            with Connection.to(proxy) as other:
                for byte in packet:
                    try:
                        other.send(bytes([byte]))
                    except ConnectionError:
                        break
                other.read_to_end()
            assert wire.errors(session.read_until()) == ["57014"]


LEAVES = {"closes": lambda connection: connection.close(),
          "half_closes": lambda connection: connection.half_close(),
          "resets": lambda connection: connection.reset()}


@pytest.mark.parametrize("leave", LEAVES)
def test_a_request_whose_client_does_not_wait_is_carried_out(leave, proxy):
    for _ in range(5):
        with wire.connect(proxy) as session:
            run_for_ever(session)
            other = Connection.to(proxy)
            other.send(wire.CancelRequest(session.pid, session.key))
            LEAVES[leave](other)
            assert wire.errors(session.read_until()) == ["57014"]
            other.close()


@pytest.mark.proxy
def test_the_connection_of_a_request_ends_when_the_servers_does(server):
    """Who waits for that sends the next statement only when the signal is on its way."""
    listener = socket.create_server(("127.0.0.1", 0))
    instance = Proxy(server, server=f"host=127.0.0.1 port={listener.getsockname()[1]}").start()
    packet = wire.CancelRequest(1, b"abcd")
    with listener, Connection.to(instance) as client:
        client.send(packet)
        other, _ = listener.accept()
        while not (asked := other.recv(8)):
            other, _ = listener.accept()  # that one only asked whether the proxy is there
        assert asked == wire.SSLRequest()
        other.sendall(b"N")
        assert read_exactly(other, len(packet)) == packet
        other.sendall(wire.message("R", bytes(4)))  # no server answers; this is for nobody
        assert client.is_quiet(0.5)
        other.close()
        assert client.read_to_end() == []
    assert instance.stop() == 0


@pytest.mark.proxy
def test_a_cancel_for_a_server_that_is_gone_is_closed_all_the_same(server):
    gone = Chopper(server.host, server.port, 0)
    instance = Proxy(server, server=f"host={gone.host} port={gone.port}").start()
    gone.stop()
    assert cancel(instance, wire.CancelRequest(1, bytes(4))) == b""
    assert instance.stop() == 0


