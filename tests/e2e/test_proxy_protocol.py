"""proxy_protocol = require: whose connection a load balancer hands on, and whom not to believe."""

import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time

import psycopg2
import pytest

from lib import common, wire
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
SOURCE = ("192.0.2.7", 54321)


def header(command=1, family=0x11, body=b""):
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(body)) + body


def tcp4(source=SOURCE, fields=b""):
    addresses = socket.inet_aton(source[0]) + socket.inet_aton("127.0.0.1")
    return header(body=addresses + struct.pack("!HH", source[1], 6432) + fields)


def tcp6(source=("2001:db8::7", 54321)):
    addresses = socket.inet_pton(socket.AF_INET6, source[0]) + socket.inet_pton(socket.AF_INET6, "::1")
    return header(family=0x21, body=addresses + struct.pack("!HH", source[1], 6432))


@pytest.fixture(scope="module")
def behind(server, pki):
    """A proxy that takes TLS too, records, and tells the server who its client is."""
    shutil.copy(pki / "one.crt", pki / "proxied.crt")
    shutil.copy(pki / "one.key", pki / "proxied.key")
    instance = Proxy(server, rules=[strip_rule("observe")], proxy_protocol="require",
                     application_name_add_host=1, client_tls="allow",
                     client_tls_cert=pki / "proxied.crt", client_tls_key=pki / "proxied.key").start()
    yield instance
    assert instance.stop() == 0


def connect(proxy, head, **params):
    """A session behind a header; its application_name says whom the proxy takes it for."""
    connection = wire.Connection.to(proxy)
    connection.send(head)
    connection.start(**params)
    return connection


def seen_as(session):
    name = session.rows("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()")
    return name[0][0].removeprefix("app - ")


def test_the_client_is_whom_the_header_names(behind):
    with connect(behind, tcp4()) as session:
        assert seen_as(session) == "192.0.2.7:54321"
    with connect(behind, tcp6()) as session:
        assert seen_as(session) == "[2001:db8::7]:54321"
    with connect(behind, header(family=0x31, body=bytes(216))) as session:
        assert seen_as(session) == "unix"


def test_a_header_that_names_nobody_leaves_the_connections_own_address(behind):
    for head in (header(command=0, family=0), header(family=0, body=b"abc")):
        with connect(behind, head) as session:
            host, port = session.socket.getsockname()
            assert seen_as(session) == f"{host}:{port}"


def test_fields_behind_the_address_are_read_over(behind):
    fields = b"\x02\0\x0bexample.com" + b"\x05\0\x04abcd" + b"\x04" + struct.pack("!H", 3000) + bytes(3000)
    with connect(behind, tcp4(fields=fields)) as session:
        assert seen_as(session) == "192.0.2.7:54321"


def test_the_audit_names_the_client(behind):
    mark = len(behind.audit_lines(client="192.0.2.99:7"))
    with connect(behind, tcp4(("192.0.2.99", 7)), user="app") as session:
        session.query("INSERT INTO chunks (collection_id, partition_key, chunk_index, content)"
                      " VALUES ('a', 1, 1, 'x')")
    behind.wait_for_audit(mark + 1, client="192.0.2.99:7")


def test_the_log_names_the_client(behind):
    with wire.Connection.to(behind) as connection:
        connection.send(tcp4(("192.0.2.98", 9)), struct.pack("!ii", 5, 0))
        assert wire.errors(connection.read_to_end()) == ["08P01"]
    common.wait_until(lambda: "client 192.0.2.98:9: 08P01" in behind.log(), 5, "the log line")


def test_a_header_may_come_in_pieces_and_with_what_follows(behind):
    generator = random.Random(7)
    for _ in range(20):
        with wire.Connection.to(behind) as connection:
            connection.send_in_pieces(tcp4() + wire.SSLRequest(), generator)
            assert connection.read_byte() == b"S"
    with wire.Connection.to(behind) as connection:
        connection.send(tcp4() + wire.StartupMessage() + wire.Query("SELECT 'here'"))
        answers = connection.read_until("Z") + connection.read_until("Z")
        assert any("here" in str(answer) for answer in answers)


def test_a_header_comes_ahead_of_an_ssl_request(behind):
    with wire.Connection.to(behind) as connection:
        connection.send(tcp4())
        connection.start_tls().start()
        assert seen_as(connection) == "192.0.2.7:54321"


@pytest.mark.parametrize("pause", [0, 0.1], ids=["at_once", "later"])
def test_a_header_comes_ahead_of_direct_tls(behind, pause):
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["postgresql"])
    with wire.Connection.to(behind) as connection:
        connection.send(tcp4())
        time.sleep(pause)
        connection.socket = context.wrap_socket(connection.socket)
        connection.start()
        assert seen_as(connection) == "192.0.2.7:54321"


def test_a_cancel_request_comes_behind_a_header_too(server, behind):
    with connect(behind, tcp4()) as session:
        session.send(wire.Query("SELECT pg_sleep(30)"))
        server.wait_until_active(session.pid)
        with wire.Connection.to(behind) as other:
            other.send(tcp4(), wire.CancelRequest(session.pid, session.key))
            other.read_to_end()
        assert wire.errors(session.read_until("Z")) == ["57014"]


BAD = {
    "missing": (wire.StartupMessage(), "does not begin with the PROXY protocol header"),
    "ssl_request": (wire.SSLRequest(), "does not begin with the PROXY protocol header"),
    "tls": (bytes.fromhex("16030100c8010000c40303") + bytes(190), "does not begin with"),
    "version_1": (b"PROXY TCP4 192.0.2.7 127.0.0.1 54321 6432\r\n", "PROXY protocol version 1"),
    "unknown_version": (SIGNATURE + b"\x31\x11\0\0", "its version is unknown"),
    "unknown_command": (SIGNATURE + b"\x22\x11\0\0", "its command is unknown"),
    "datagrams": (header(family=0x12, body=bytes(12)), "its family is unknown"),
    "too_short": (header(body=bytes(11)), "too short for its addresses"),
    "too_long": (SIGNATURE + b"\x21\x11\xff\xff", "it is too long"),
    "field_outside": (tcp4(fields=b"\x04\0\x09abc"), "a field ends outside of it"),
    "checksum": (tcp4(fields=b"\x03\0\x04\0\0\0\0"), "the checksum does not fit"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_header_is_refused_and_said(behind, kind):
    data, reason = BAD[kind]
    mark = len(behind.log())
    with wire.Connection.to(behind) as connection, connect(behind, tcp4()) as other:
        connection.send(data)
        assert wire.errors(connection.read_to_end()) == ["08P01"]
        assert other.rows("SELECT 1") == [["1"]]
    common.wait_until(lambda: reason in behind.log()[mark:], 5, f"the reason {reason!r}")


def test_psql_directly_is_told_why(behind):
    with pytest.raises(psycopg2.OperationalError, match="proxy_protocol = require"):
        psycopg2.connect(behind.dsn(sslmode="disable"))


def test_a_check_that_says_nothing_is_not_worth_a_line(behind):
    mark = len(behind.log())
    for data in (b"", header(command=0, family=0), tcp4()[:20]):
        with wire.Connection.to(behind) as connection:
            connection.send(data)
            time.sleep(0.05)
    with connect(behind, tcp4()) as session:
        assert session.rows("SELECT 1") == [["1"]]
    assert behind.log()[mark:] == ""


def from_address(proxy, source):
    connection = wire.Connection.to(proxy)
    connection.socket.close()
    connection.socket = socket.create_connection((proxy.host, proxy.port), timeout=connection.timeout,
                                                 source_address=(source, 0))
    return connection


def test_only_those_named_may_send_it(server):
    instance = Proxy(server, proxy_protocol="require", proxy_protocol_from="127.0.0.2, 10.0.0.0/8",
                     application_name_add_host=1).start()
    with from_address(instance, "127.0.0.2") as connection:
        connection.send(tcp4()).start()
        assert seen_as(connection) == "192.0.2.7:54321"
    for source in ("127.0.0.1", "127.0.0.3"):
        with from_address(instance, source) as connection:
            connection.send(tcp4() + wire.StartupMessage())
            assert wire.errors(connection.read_to_end()) == ["28000"]
        common.wait_until(lambda: f"client {source}:" in instance.log(), 5, "the log line")
    assert "proxy_protocol_from" in instance.log()
    assert instance.stop() == 0


def test_unix_sockets_need_it_only_where_they_are_named(server):
    instance = Proxy(server, proxy_protocol="require").start()
    path = f"{instance.dir}/.s.PGSQL.{instance.port}"
    with wire.Connection(path=path) as connection:
        connection.start()
    assert instance.stop() == 0
    instance = Proxy(server, proxy_protocol="require", proxy_protocol_from="unix",
                     application_name_add_host=1).start()
    path = f"{instance.dir}/.s.PGSQL.{instance.port}"
    with wire.Connection(path=path) as connection:
        connection.send(tcp4()).start()
        assert seen_as(connection) == "192.0.2.7:54321"
    with wire.Connection(path=path) as connection:
        connection.send(wire.StartupMessage())
        assert wire.errors(connection.read_to_end()) == ["08P01"]
    with wire.Connection.to(instance) as connection:
        connection.send(tcp4())
        assert wire.errors(connection.read_to_end()) == ["28000"]
    assert instance.stop() == 0


def test_half_a_header_is_not_waited_for_longer_than_a_login(server):
    instance = Proxy(server, proxy_protocol="require", client_login_timeout="500ms").start()
    for half in (b"", tcp4()[:7], tcp4()[:-1], tcp4()):
        with wire.Connection.to(instance) as connection:
            connection.send(half)
            began = time.monotonic()
            assert wire.errors(connection.read_to_end()) == ["57014"]
            assert 0.4 < time.monotonic() - began < 1 * common.slowness()
    assert instance.stop() == 0


def test_turning_it_on_needs_no_restart(server):
    instance = Proxy(server, application_name_add_host=1).start()
    with wire.connect(instance) as old:
        instance.settings["proxy_protocol"] = "require"
        instance.write_config()
        instance.process.send_signal(signal.SIGHUP)

        def refused():
            with wire.Connection.to(instance) as connection:
                return wire.errors([connection.send(wire.StartupMessage()).read()]) == ["08P01"]
        common.wait_until(refused, 5, "the new setting")
        assert old.rows("SELECT 1") == [["1"]]
        with connect(instance, tcp4()) as session:
            assert seen_as(session) == "192.0.2.7:54321"
    assert instance.stop() == 0


class Prepending:
    """A relay that puts a header ahead of each connection, as a load balancer does."""

    def __init__(self, proxy, head):
        self.proxy = proxy
        self.head = head
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            upstream = socket.create_connection((self.proxy.host, self.proxy.port))
            upstream.sendall(self.head)
            for one, other in ((client, upstream), (upstream, client)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            target.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


APPLICATION = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_a_driver_behind_a_relay(behind, auth_roles, auth_password, sslmode):
    with Prepending(behind, tcp4()) as relay:
        connection = psycopg2.connect(
            host="127.0.0.1", port=relay.port, dbname="app", sslmode=sslmode,
            user=auth_roles["scram-sha-256"], password=auth_password, application_name="driver")
        with connection, connection.cursor() as cursor:
            cursor.execute(APPLICATION)
            assert cursor.fetchone()[0] == "driver - 192.0.2.7:54321"
        connection.close()


HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend clients
    bind 127.0.0.1:{port}
    unique-id-format %ci-%cp
    default_backend pgsluice
backend pgsluice
    server one 127.0.0.1:{proxy} send-proxy-v2 proxy-v2-options crc32c,unique-id check inter 100ms
"""


@pytest.fixture
def haproxy(behind, tmp_path):
    port = common.free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, proxy=behind.port))
    process = subprocess.Popen(["/usr/sbin/haproxy", "-db", "-f", str(config)],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)

    def is_listening():
        assert process.poll() is None, "haproxy ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0
    common.wait_until(is_listening, 10, "haproxy")
    yield port
    process.kill()
    process.wait()


def test_haproxy_hands_clients_on(behind, haproxy):
    """Its own headers, with checksum and a field of its own, and its health checks."""
    mark = len(behind.log())
    time.sleep(0.5)  # for some checks
    connections = []
    for sslmode in ("disable", "require"):
        connection = psycopg2.connect(host="127.0.0.1", port=haproxy, dbname="app", user="postgres",
                                      sslmode=sslmode, application_name="through haproxy")
        connections.append(connection)
        own = socket.socket(fileno=connection.fileno())
        port = own.getsockname()[1]
        own.detach()
        with connection.cursor() as cursor:
            cursor.execute(APPLICATION)
            assert cursor.fetchone()[0] == f"through haproxy - 127.0.0.1:{port}"
    for connection in connections:
        connection.close()
    assert behind.log()[mark:] == ""
