"""TLS with clients: every client_tls, certificates, direct TLS, and the relay through it."""

import json
import shutil
import signal
import socket
import ssl
import struct

import psycopg2
import pytest

from lib import common, wire
from lib import pki as certificates
from lib.pki import configure_server
from lib.pgserver import Server
from lib.proxy import Proxy

pytestmark = pytest.mark.proxy


@pytest.fixture
def tls_proxy(server, pki):
    """Starts a proxy with the given client_tls and more keys."""
    started = []

    def start(mode, **keys):
        shutil.copy(pki / "one.crt", pki / "server.crt")
        shutil.copy(pki / "one.key", pki / "server.key")
        started.append(Proxy(server, client_tls=mode, client_tls_cert=pki / "server.crt",
                             client_tls_key=pki / "server.key", **keys).start())
        return started[-1]
    yield start
    for instance in started:
        assert instance.stop() == 0


def connect(proxy, user="postgres", **more):
    return psycopg2.connect(proxy.dsn("postgres", user, **more))


def ask(proxy, sql, **more):
    with connect(proxy, **more) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        answer = cursor.fetchone()[0]
    connection.close()
    return answer


def test_allow_takes_both(tls_proxy):
    proxy = tls_proxy("allow")
    assert ask(proxy, "SELECT 1", sslmode="require") == 1
    assert ask(proxy, "SELECT 1", sslmode="disable") == 1


def test_require_refuses_plain_connections(tls_proxy):
    proxy = tls_proxy("require")
    assert ask(proxy, "SELECT 1", sslmode="prefer") == 1
    with pytest.raises(psycopg2.OperationalError, match="TLS connections only"):
        connect(proxy, sslmode="disable")


def test_clients_can_verify_the_proxy(tls_proxy, pki):
    proxy = tls_proxy("require")
    assert ask(proxy, "SELECT 1", sslmode="verify-full", sslrootcert=pki / "ca.crt") == 1


def certificate(pki, name):
    (pki / f"{name}.key").chmod(0o600)
    return {"sslmode": "require", "sslcert": pki / f"{name}.crt", "sslkey": pki / f"{name}.key"}


def test_verify_ca_demands_a_certificate(tls_proxy, pki):
    proxy = tls_proxy("verify-ca", client_tls_ca=pki / "ca.crt")
    assert ask(proxy, "SELECT 1", **certificate(pki, "stranger")) == 1
    with pytest.raises(psycopg2.OperationalError):
        connect(proxy, sslmode="require", sslcert="/nonexistent", sslkey="/nonexistent")


def test_verify_full_demands_the_users_name(tls_proxy, pki):
    proxy = tls_proxy("verify-full", client_tls_ca=pki / "ca.crt")
    assert ask(proxy, "SELECT 1", **certificate(pki, "postgres")) == 1
    with pytest.raises(psycopg2.OperationalError, match="certificate authentication failed"):
        connect(proxy, **certificate(pki, "stranger"))


def test_a_revoked_certificate_is_refused(tls_proxy, pki):
    keys = {"client_tls_ca": pki / "ca.crt"}
    assert ask(tls_proxy("verify-ca", **keys), "SELECT 1", **certificate(pki, "revoked")) == 1
    proxy = tls_proxy("verify-ca", **keys, client_tls_crl=pki / "ca.crl")
    assert ask(proxy, "SELECT 1", **certificate(pki, "stranger")) == 1
    with pytest.raises(psycopg2.OperationalError, match="certificate revoked"):
        connect(proxy, **certificate(pki, "revoked"))


def test_an_old_version_is_refused(tls_proxy):
    old = {"sslmode": "require", "ssl_max_protocol_version": "TLSv1.2"}
    assert ask(tls_proxy("require"), "SELECT 1", **old) == 1
    with pytest.raises(psycopg2.OperationalError, match="protocol version"):
        connect(tls_proxy("require", client_tls_min_version="TLSv1.3"), **old)


def test_only_the_ciphers_asked_for(tls_proxy):
    wanted = "ECDHE-ECDSA-CHACHA20-POLY1305"
    proxy = tls_proxy("require", client_tls_ciphers=wanted)
    context = ssl._create_unverified_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with wire.Connection.to(proxy) as connection:
        connection.send(wire.SSLRequest())
        assert connection.read_byte() == b"S"
        with context.wrap_socket(connection.socket) as tls:
            assert tls.cipher()[0] == wanted


def test_scram_passes_through_when_the_server_leg_is_plain(tls_proxy):
    from conftest import AUTH_PASSWORD, AUTH_ROLES
    proxy = tls_proxy("require")
    connection = psycopg2.connect(**proxy.params("postgres", AUTH_ROLES["scram-sha-256"]),
                                  password=AUTH_PASSWORD, sslmode="require")
    connection.close()


def test_large_data_goes_both_ways(tls_proxy):
    proxy = tls_proxy("require")
    text = "x" * 5_000_000
    with connect(proxy, sslmode="require") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT %s || %s", (text, text))
        assert cursor.fetchone()[0] == text + text
        cursor.execute("SELECT repeat('y', 1000) FROM generate_series(1, 50000)")
        assert sum(len(row[0]) for row in cursor) == 50_000_000
    connection.close()


def test_many_small_statements(tls_proxy):
    proxy = tls_proxy("require")
    with connect(proxy, sslmode="require") as connection, connection.cursor() as cursor:
        for n in range(500):
            cursor.execute("SELECT %s", (n,))
            assert cursor.fetchone()[0] == n
    connection.close()


def test_a_new_certificate_is_taken_at_sighup_and_nobody_is_dropped(tls_proxy, pki):
    proxy = tls_proxy("require")
    old = connect(proxy, sslmode="require")
    shutil.copy(pki / "two.crt", pki / "server.crt")
    shutil.copy(pki / "two.key", pki / "server.key")
    proxy.process.send_signal(signal.SIGHUP)

    def subject():
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        with socket.create_connection((proxy.host, proxy.port), timeout=10) as raw:
            raw.sendall(wire.SSLRequest())
            assert raw.recv(1) == b"S"
            with context.wrap_socket(raw, server_hostname="localhost") as tls:
                return dict(part[0] for part in tls.getpeercert()["subject"])["commonName"]
    common.wait_until(lambda: subject() == "two", 5, "the new certificate")
    with old.cursor() as cursor:
        cursor.execute("SELECT 1")
    old.close()


def direct(proxy, alpn):
    context = ssl._create_unverified_context()
    if alpn:
        context.set_alpn_protocols(alpn)
    raw = socket.create_connection((proxy.host, proxy.port), timeout=10)
    return context.wrap_socket(raw)


def test_direct_tls_with_alpn(tls_proxy):
    proxy = tls_proxy("require")
    with direct(proxy, ["postgresql"]) as tls:
        assert tls.selected_alpn_protocol() == "postgresql"
        tls.sendall(wire.StartupMessage(database="postgres"))
        received = b""
        while not received.endswith(b"Z\0\0\0\5I"):
            received += tls.recv(65536)
        tls.sendall(wire.Query("SELECT 42"))
        assert b"42" in tls.recv(65536)


@pytest.mark.parametrize("alpn", [None, ["h2"]])
def test_direct_tls_without_our_alpn_is_closed(tls_proxy, alpn):
    proxy = tls_proxy("require")
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        with direct(proxy, alpn) as tls:
            tls.sendall(wire.StartupMessage(database="postgres"))
            if tls.recv(100) == b"":
                raise EOFError


def test_bytes_ahead_of_the_handshake_are_refused(tls_proxy):
    proxy = tls_proxy("allow")
    with wire.Connection.to(proxy) as connection:
        connection.send(wire.SSLRequest() + wire.StartupMessage())
        assert wire.errors(connection.read_to_end()) == ["08P01"]


def test_garbage_instead_of_a_handshake_ends_only_its_connection(tls_proxy):
    proxy = tls_proxy("require")
    other = connect(proxy, sslmode="require")
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(600), b"\0" * 100):
        with socket.create_connection((proxy.host, proxy.port), timeout=10) as raw:
            raw.sendall(wire.SSLRequest())
            assert raw.recv(1) == b"S"
            raw.sendall(garbage)
            try:
                while raw.recv(4096):
                    pass
            except ConnectionError:
                pass
    with other.cursor() as cursor:
        cursor.execute("SELECT 1")
    other.close()


def test_a_cancel_request_over_tls(tls_proxy):
    proxy = tls_proxy("require")
    with connect(proxy, sslmode="require") as connection, connection.cursor() as cursor:
        with socket.create_connection((proxy.host, proxy.port), timeout=10) as raw:
            raw.sendall(wire.SSLRequest())
            assert raw.recv(1) == b"S"
            with ssl._create_unverified_context().wrap_socket(raw) as tls:
                tls.sendall(wire.CancelRequest(connection.get_backend_pid(), struct.pack("!i", 1)))
                assert tls.recv(1) == b""
        cursor.execute("SELECT 1")  # the key was wrong: nothing was cancelled
    connection.close()


# --- towards the server ---

@pytest.fixture(scope="session")
def tls_server(pki):
    """A server with TLS, and a role that logs in by SCRAM."""
    instance = Server(auth=["host all auth_scram 127.0.0.1/32 scram-sha-256",
                            "hostssl all only_tls 127.0.0.1/32 trust",
                            "hostnossl all only_tls 127.0.0.1/32 reject",
                            "hostssl all only_plain 127.0.0.1/32 reject",
                            "host all never 127.0.0.1/32 reject",
                            "hostssl all stranger 127.0.0.1/32 cert",
                            "local all all trust", "host all all 127.0.0.1/32 trust"])
    configure_server(instance, pki)
    instance.start()
    instance.psql("CREATE ROLE auth_scram LOGIN PASSWORD 'secret'; CREATE ROLE only_tls LOGIN;"
                  "CREATE ROLE only_plain LOGIN; CREATE ROLE never LOGIN;"
                  "CREATE ROLE stranger LOGIN",
                  "postgres")
    yield instance
    instance.stop()


@pytest.fixture
def proxy_to(tls_server):
    """Starts a proxy whose `server` has the given keywords beside host and port."""
    started = []

    def start(keywords, **keys):
        server = f"host=127.0.0.1 port={tls_server.port} {keywords}"
        started.append(Proxy(tls_server, **{"server": server, **keys}).start())
        return started[-1]
    yield start
    for instance in started:
        assert instance.stop() == 0


IS_TLS = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.mark.parametrize("keywords, tls", [
    ("", True), ("sslmode=disable", False), ("sslmode=prefer", True), ("sslmode=require", True),
    ("sslmode=verify-ca sslrootcert={pki}/ca.crt", True),
    ("sslmode=verify-full sslrootcert={pki}/ca.crt", True),
    ("sslmode=require ssl_min_protocol_version=TLSv1.3", True),
])
def test_sslmode_towards_the_server(proxy_to, pki, keywords, tls):
    proxy = proxy_to(keywords.format(pki=pki))
    assert ask(proxy, IS_TLS) is tls
    checked = json.loads(proxy.command("check", "--json").stdout)
    mode = (keywords.split(" ")[0] or "sslmode=prefer").removeprefix("sslmode=")
    assert checked["exit"] == 0 and checked["login"]["server_tls"] == mode


def test_a_server_without_tls_is_taken_by_prefer_only(server):
    for keywords, works in (("sslmode=prefer", True), ("sslmode=require", False)):
        proxy = Proxy(server, **{"server": f"host=127.0.0.1 port={server.port} {keywords}"}).start()
        if works:
            assert ask(proxy, "SELECT 1") == 1
        else:
            with pytest.raises(psycopg2.OperationalError, match="does not support TLS"):
                connect(proxy)
        assert proxy.stop() == 0


def test_a_server_that_cannot_be_verified_is_refused(proxy_to, pki):
    proxy = proxy_to(f"sslmode=verify-ca sslrootcert={pki}/stranger.crt")
    with pytest.raises(psycopg2.OperationalError, match="certificate verify failed"):
        connect(proxy)


def test_the_proxy_shows_its_certificate_to_the_server(proxy_to, pki):
    certificate(pki, "stranger")
    proxy = proxy_to(f"sslmode=require sslcert={pki}/stranger.crt sslkey={pki}/stranger.key")
    assert ask(proxy, IS_TLS, user="stranger") is True
    with pytest.raises(psycopg2.OperationalError, match="valid client certificate"):
        connect(proxy_to("sslmode=require"), user="stranger")


def test_a_server_whose_certificate_is_revoked_is_refused(pki):
    server = Server()
    configure_server(server, pki, "revoked")
    server.start()
    trust = f"host=127.0.0.1 port={server.port} sslmode=verify-ca sslrootcert={pki}/ca.crt"
    proxy = Proxy(server, server=trust).start()
    assert ask(proxy, IS_TLS) is True
    assert proxy.stop() == 0
    proxy = Proxy(server, server=f"{trust} sslcrl={pki}/ca.crl").start()
    with pytest.raises(psycopg2.OperationalError, match="certificate verify failed"):
        connect(proxy)
    assert proxy.stop() == 0
    server.stop()


def test_verify_full_is_for_the_name_although_an_address_is_given(proxy_to, pki):
    """As libpq: hostaddr says where to connect, host whose certificate it must be."""
    keywords = f"hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={pki}/ca.crt"
    assert ask(proxy_to(f"host=localhost {keywords}"), IS_TLS) is True
    proxy = proxy_to(f"host=other.example {keywords}")
    with pytest.raises(psycopg2.OperationalError,
                       match='server "other.example".*certificate verify failed: hostname mismatch'):
        connect(proxy)


def test_a_certificate_that_has_expired_is_named(tls_server, proxy_to, pki, tmp_path):
    certificates.expire(pki, "one", tmp_path)
    certificates.place(tmp_path, "one", tls_server.data, tls_server.user)
    tls_server.reload()
    try:
        proxy = proxy_to(f"sslmode=verify-ca sslrootcert={pki}/ca.crt")
        common.wait_until(lambda: "certificate has expired" in words(proxy), 5, "the reload")
    finally:
        certificates.place(pki, "one", tls_server.data, tls_server.user)
        tls_server.reload()


def words(proxy):
    with pytest.raises(psycopg2.OperationalError) as refused:
        connect(proxy)
    return str(refused.value)


@pytest.mark.parametrize("keyword, complaint", [
    ("sslrootcert=/nonexistent/ca", "server: sslrootcert: /nonexistent/ca: No such file or directory"),
    ("sslcert=/nonexistent/crt", "server: sslcert: /nonexistent/crt: No such file or directory"),
    ("sslcrl=/nonexistent/crl", "server: sslcrl: /nonexistent/crl: No such file or directory"),
])
def test_a_file_of_the_servers_side_that_is_missing_is_named(server, keyword, complaint):
    with pytest.raises(RuntimeError) as ended:
        Proxy(server, server=f"host=127.0.0.1 port={server.port} sslmode=verify-ca "
                             f"sslrootcert=/etc/ssl/certs/ca-certificates.crt {keyword}").start()
    assert complaint in str(ended.value)


def test_scram_works_for_a_plain_client_although_the_server_offers_channel_binding(proxy_to):
    proxy = proxy_to("sslmode=require")
    connection = psycopg2.connect(**proxy.params("postgres", "auth_scram"), password="secret")
    connection.close()


@pytest.mark.parametrize("role, keywords, works", [
    ("only_tls", "sslmode=require", True), ("only_tls", "sslmode=disable", False),
    ("only_tls", "sslmode=allow", True), ("only_tls", "sslmode=prefer", True),
    ("only_plain", "sslmode=require", False), ("only_plain", "sslmode=disable", True),
    ("only_plain", "sslmode=allow", True), ("only_plain", "sslmode=prefer", True),
])
def test_a_role_that_the_server_takes_one_way_only(proxy_to, role, keywords, works):
    """As libpq: what allow and prefer begin with is tried the other way when the server refuses it."""
    proxy = proxy_to(keywords)
    if works:
        assert ask(proxy, IS_TLS, user=role) is (role == "only_tls")
    else:
        with pytest.raises(psycopg2.OperationalError, match="rejects connection"):
            connect(proxy, user=role)


def test_a_role_that_the_server_takes_in_no_way_is_told_once(proxy_to):
    for keywords in ("sslmode=allow", "sslmode=prefer"):
        with pytest.raises(psycopg2.OperationalError, match="rejects connection") as refused:
            connect(proxy_to(keywords), user="never")
        assert str(refused.value).count("FATAL") == 1


@pytest.mark.parametrize("major, works", [(15, False), (17, True), (18, True)])
def test_direct_tls_towards_the_server(pki, major, works):
    """sslnegotiation=direct: PostgreSQL 17 and later take the handshake unasked."""
    server = Server(major=major)
    configure_server(server, pki)
    server.start()
    proxy = Proxy(server, server=f"host=127.0.0.1 port={server.port} sslmode=verify-full "
                                 f"sslrootcert={pki}/ca.crt sslnegotiation=direct").start()
    if works:
        assert ask(proxy, IS_TLS) is True
    else:
        with pytest.raises(psycopg2.OperationalError, match='server "127.0.0.1"'):
            connect(proxy)
    assert proxy.stop() == 0
    server.stop()


def test_direct_tls_towards_the_server_needs_tls(server):
    with pytest.raises(RuntimeError, match='weak sslmode "prefer"'):
        Proxy(server, server=f"host=127.0.0.1 port={server.port} sslnegotiation=direct").start()


def test_large_data_goes_both_ways_to_the_server(proxy_to):
    text = "x" * 5_000_000
    with connect(proxy_to("sslmode=require")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT %s || %s", (text, text))
        assert cursor.fetchone()[0] == text + text
        cursor.execute("SELECT repeat('y', 1000) FROM generate_series(1, 50000)")
        assert sum(len(row[0]) for row in cursor) == 50_000_000
    connection.close()


@pytest.mark.parametrize("key, value", [
    ("client_tls_cert", "/nonexistent/crt"), ("client_tls_key", "/nonexistent/key"),
    ("client_tls_ca", "/nonexistent/ca"), ("client_tls_ciphers", "NO-SUCH-CIPHER"),
])
def test_what_cannot_be_used_is_said_at_start(server, pki, key, value):
    settings = {"client_tls": "allow", "client_tls_cert": pki / "one.crt",
                "client_tls_key": pki / "one.key", key: value}
    with pytest.raises(RuntimeError) as ended:
        Proxy(server, **settings).start()
    text = str(ended.value)
    assert "ended with 2" in text and key in text and value in text
