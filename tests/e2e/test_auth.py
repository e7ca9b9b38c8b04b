"""SCRAM logins that the proxy answers itself, from auth_file or auth_query, with TLS on either side."""

import concurrent.futures
import signal
import time

import psycopg2
import pytest

from lib import common, schema, wire
from lib.pgserver import Server
from lib.pki import configure_server
from lib.proxy import Proxy
from lib.tls_relay import TlsRelay

pytestmark = pytest.mark.proxy

PASSWORD = "it's \"secret\""
# SASLprep makes "IX" of the Roman numeral and nothing of the soft hyphen.
LETTERS = "pass\u00adw\u00f6rd \u2168"

ROLES = '''
SET password_encryption = 'scram-sha-256';
CREATE ROLE one LOGIN PASSWORD '{password}';
CREATE ROLE two LOGIN PASSWORD '{password}';
CREATE ROLE "odd ""name""" LOGIN PASSWORD '{password}';
CREATE ROLE letters LOGIN PASSWORD '{letters}';
CREATE ROLE expired LOGIN PASSWORD '{password}' VALID UNTIL '2020-01-01';
CREATE ROLE without LOGIN;
CREATE ROLE asker LOGIN;
SET password_encryption = 'md5';
CREATE ROLE by_md5 LOGIN PASSWORD '{password}';
CREATE ROLE by_password LOGIN PASSWORD '{password}';
'''

IN_FILE = ("one", "two", "expired", "by_md5", 'odd "name"')


@pytest.fixture(scope="module")
def server(pki):
    instance = Server(auth=[
        "host all by_md5 127.0.0.1/32 md5", "host all by_password 127.0.0.1/32 password",
        "host all asker 127.0.0.1/32 trust", "host all all 127.0.0.1/32 scram-sha-256"])
    configure_server(instance, pki)
    instance.start()
    instance.psql(ROLES.format(password=PASSWORD.replace("'", "''"), letters=LETTERS)
                  + schema.SECRET_OF, "postgres")
    yield instance
    instance.stop()


def secret_of(server, role):
    return server.psql(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'", "postgres")


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


def write_auth_file(path, server, **more):
    secrets = {**{role: secret_of(server, role) for role in IN_FILE}, **more}
    path.write_text("; users of the tests\n\n" + "".join(
        f"{quoted(role)} {quoted(secret)}\n" for role, secret in secrets.items()))
    path.chmod(0o600)


class Legs:
    """Starts proxies with these legs' TLS and this source of secrets."""

    def __init__(self, server, pki, auth_file):
        self.server = server
        self.pki = pki
        self.auth_file = auth_file
        self.started = []

    def start(self, client="tls", upstream="tls", source="auth_file", port=None, **keys):
        sslmode = "require" if upstream == "tls" else "disable"
        port = port or self.server.port
        settings = {"server": f"host=127.0.0.1 port={port} sslmode={sslmode}", "control": None}
        if client == "tls":
            settings.update(client_tls="require", client_tls_cert=self.pki / "one.crt",
                            client_tls_key=self.pki / "one.key")
        if source == "auth_file":
            settings["auth_file"] = self.auth_file
        elif source == "auth_query":
            settings["auth_query"] = schema.AUTH_QUERY
            settings["control"] = f"host=127.0.0.1 port={self.server.port} user=asker dbname=postgres"
        self.started.append(Proxy(self.server, **{**settings, **keys}).start())
        return self.started[-1]


@pytest.fixture
def legs(server, pki, tmp_path):
    write_auth_file(tmp_path / "users", server)
    instance = Legs(server, pki, tmp_path / "users")
    yield instance
    for proxy in instance.started:
        assert proxy.stop() == 0


def connect(endpoint, user="one", password=PASSWORD, **more):
    return psycopg2.connect(host=endpoint.host, port=endpoint.port, dbname="postgres", user=user,
                            password=password, **more)


def who(endpoint, **more):
    connection = connect(endpoint, **more)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user")
            return cursor.fetchone()[0]
    finally:
        connection.close()


def words(endpoint, **more):
    """How a login is refused, the same for the proxy and the server; by TLS unless said otherwise."""
    more.setdefault("sslmode", "require")
    with pytest.raises(psycopg2.OperationalError) as refused:
        connect(endpoint, **more)
    return str(refused.value).replace(str(endpoint.port), "PORT")


# --- who gets in ---

@pytest.mark.parametrize("source", ["auth_file", "auth_query"])
@pytest.mark.parametrize("upstream", ["plain", "tls"])
@pytest.mark.parametrize("client", ["plain", "tls"])
def test_scram_works_on_every_pair_of_legs_for_clients_at_their_defaults(legs, client, upstream,
                                                                         source):
    proxy = legs.start(client, upstream, source)
    assert who(proxy) == "one"
    assert who(proxy, channel_binding="disable") == "one"
    if client == "tls":
        assert who(proxy, channel_binding="require") == "one"
    else:
        assert "channel binding required" in words(proxy, channel_binding="require",
                                                   sslmode="disable")


@pytest.mark.parametrize("source", ["auth_file", "auth_query"])
@pytest.mark.parametrize("login", [
    {"password": "wrong"}, {"password": ""}, {"user": "nobody"}, {"user": "without"},
    {"user": "expired"},
])
def test_others_stay_out_in_the_servers_words(server, legs, source, login):
    assert words(legs.start(source=source), **login) == words(server, **login)


def test_a_role_that_expires_stays_out_from_then_on(server, legs):
    proxy = legs.start(source="auth_query")
    assert who(proxy, user="two") == "two"
    server.psql("ALTER ROLE two VALID UNTIL '2020-01-01'", "postgres")
    assert words(proxy, user="two") == words(server, user="two")
    server.psql("ALTER ROLE two VALID UNTIL 'infinity'", "postgres")
    assert who(proxy, user="two") == "two"


def test_names_are_quoted_in_the_file_as_pgbouncer_does(legs):
    assert who(legs.start(), user='odd "name"') == 'odd "name"'


def test_a_password_in_the_file(server, legs):
    write_auth_file(legs.auth_file, server, letters=LETTERS, one=PASSWORD)
    proxy = legs.start()
    assert who(proxy) == "one"
    assert who(proxy, user="letters", password=LETTERS) == "letters"
    assert who(proxy, user="letters", password="passw\u00f6rd IX") == "letters"
    assert words(proxy, password="wrong") == words(server, password="wrong")


@pytest.mark.parametrize("user", ["by_md5", "by_password"])
def test_md5_and_password_go_on_to_the_server(server, legs, user):
    proxy = legs.start()
    assert who(proxy, user=user) == user
    assert words(proxy, user=user, password="wrong") == words(server, user=user, password="wrong")


def test_many_log_in_at_once(legs):
    proxy = legs.start(source="auth_query")
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        names = list(pool.map(lambda n: who(proxy, user=("one", "two")[n % 2]), range(100)))
    assert names == ["one", "two"] * 50


# --- the file and the query change ---

def test_a_secret_that_is_no_more_the_servers(server, legs):
    write_auth_file(legs.auth_file, server)
    proxy = legs.start()
    new = "another " + PASSWORD
    server.psql(f"ALTER ROLE one PASSWORD '{new.replace(chr(39), chr(39) * 2)}'", "postgres")
    try:
        assert "password authentication failed" in words(proxy, password=new)
        assert words(proxy) == words(server)
        assert 'user "one": the server has another SCRAM secret' in proxy.log()
        write_auth_file(legs.auth_file, server)
        proxy.process.send_signal(signal.SIGHUP)
        common.wait_until(lambda: "configuration was reloaded" in proxy.log(), 5, "the reload")
        assert who(proxy, password=new) == "one"
    finally:
        server.psql("SET password_encryption = 'scram-sha-256'; ALTER ROLE one PASSWORD "
                    f"'{PASSWORD.replace(chr(39), chr(39) * 2)}'", "postgres")


def test_a_broken_file_changes_nothing_at_sighup(legs):
    proxy = legs.start()
    legs.auth_file.write_text('"one" no quotes\n')
    proxy.process.send_signal(signal.SIGHUP)
    common.wait_until(lambda: "stays as it was" in proxy.log(), 5, "the reload")
    assert f"{legs.auth_file}:1: not a line" in proxy.log()
    assert who(proxy) == "one"


@pytest.mark.parametrize("content, complaint", [
    ('"one" "x"\n"two"\n', ':2: not a line of the form "user" "secret"'),
    ('"one" "x"\n"one" "y"\n', ':2: user "one" is there twice'),
    (None, "No such file"),
])
def test_a_file_that_cannot_be_used_is_said_at_start(legs, content, complaint):
    if content is None:
        legs.auth_file.unlink()
    else:
        legs.auth_file.write_text(content)
    with pytest.raises(RuntimeError) as ended:
        legs.start()
    assert "ended with 2" in str(ended.value) and complaint in str(ended.value)


def test_a_query_that_fails(legs):
    proxy = legs.start(source="auth_query", auth_query="SELECT no_such_function($1)")
    assert 'the secret of user "one" cannot be looked up now' in words(proxy)
    assert "no_such_function" in proxy.log()


@pytest.mark.parametrize("query, complaint", [
    ("SELECT $1::text", "1 rows of 1 columns"),
    ("SELECT $1::text, 'x' FROM generate_series(1, 2)", "2 rows of 2 columns"),
])
def test_a_query_of_another_shape(legs, query, complaint):
    proxy = legs.start(source="auth_query", auth_query=query)
    assert "cannot be looked up now" in words(proxy)
    assert complaint in proxy.log()


def test_the_query_goes_on_after_its_connection_was_lost(server, legs):
    proxy = legs.start(source="auth_query")
    assert who(proxy) == "one"
    server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'asker'",
                "postgres")
    assert who(proxy) == "one"


# --- channel binding on both sides ---

def test_somebody_between_the_client_and_the_proxy_is_noticed(server, legs, pki):
    proxy = legs.start()
    relay = TlsRelay(proxy.host, proxy.port, pki, "two")
    assert who(relay, sslmode="require", channel_binding="disable") == "one"
    assert "SCRAM channel binding check failed" in words(relay, sslmode="require")
    relay.stop()


def test_somebody_between_the_proxy_and_the_server_is_noticed(server, legs, pki):
    relay = TlsRelay(server.host, server.port, pki, "two")
    proxy = legs.start(port=relay.port)
    assert "SCRAM channel binding check failed" in words(proxy)
    relay.stop()


# --- what a client may do wrong ---

def scram_login(endpoint, *messages):
    """Raw SASL messages after the offer; returns the offer and what came of them."""
    with wire.Connection.to(endpoint) as connection:
        connection.start_tls()
        connection.send(wire.StartupMessage("one", "postgres"))
        offer = connection.read()
        for message in messages:
            connection.send(message)
        return offer.body, [(answer.name, answer.sqlstate, answer.fields().get("M"),
                             answer.fields().get("D"))
                            for answer in connection.read_to_end() if answer.name == "ErrorResponse"]


def initial(mechanism, data):
    length = (-1 if data is None else len(data)).to_bytes(4, "big", signed=True)
    return wire.message("p", mechanism.encode() + b"\0" + length + (data or b""))


PLUS = "SCRAM-SHA-256-PLUS"
PLAIN = "SCRAM-SHA-256"


@pytest.mark.parametrize("messages", [
    [initial("NO-SUCH-MECHANISM", b"n,,n=,r=abc")],
    [initial(PLAIN, b"y,,n=,r=abc")],
    [initial(PLAIN, b"p=tls-server-end-point,,n=,r=abc")],
    [initial(PLUS, b"n,,n=,r=abc")],
    [initial(PLUS, b"p=tls-unique,,n=,r=abc")],
    [initial(PLAIN, b"n,a=somebody,n=,r=abc")],
    [initial(PLAIN, b"n,,m=extension,n=,r=abc")],
    [initial(PLAIN, b"n,,n=,r=a\x01c")],
    [initial(PLAIN, b"")],
    [initial(PLAIN, b"x")],
    [initial(PLAIN, b"n,,n=,r=abc"), wire.message("p", b"c=biws,r=other,p=AAAA")],
    [initial(PLAIN, b"n,,n=,r=abc"), wire.message("p", b"nonsense")],
    [initial(PLAIN, None), wire.message("p", b"nonsense")],
    [wire.Query("SELECT 1")],
    [wire.message("p", b"")],
    [wire.message("p", b"x" * 5000)],
    [wire.message("p", initial(PLAIN, b"n,,n=,r=abc")[5:] + b"behind")],
])
def test_a_malformed_login_is_refused_as_the_server_does(server, legs, messages):
    assert scram_login(legs.start(), *messages) == scram_login(server, *messages)


def test_who_leaves_in_the_middle_leaves_nothing_behind(server, legs):
    proxy = legs.start(source="auth_query")
    for messages in ([], [initial(PLAIN, b"n,,n=,r=abc")]):
        connection = wire.Connection.to(proxy)
        connection.start_tls()
        connection.send(wire.StartupMessage("one", "postgres"))
        for message in messages:
            connection.read()
            connection.send(message)
        connection.reset()
    assert who(proxy) == "one"
    server.wait_for_backends(0, "usename = 'one'")


def test_who_says_nothing_is_sent_away(legs):
    proxy = legs.start(client_login_timeout=1)
    with wire.Connection.to(proxy) as connection:
        connection.start_tls()
        connection.send(wire.StartupMessage("one", "postgres"))
        started = time.monotonic()
        assert wire.errors(connection.read_to_end()) == ["57014"]
        assert time.monotonic() - started < 4 * common.slowness()


# --- what cannot work is refused at start ---

def test_tls_on_both_sides_needs_a_source_of_secrets(legs):
    with pytest.raises(RuntimeError) as ended:
        legs.start(source=None)
    assert "ended with 2" in str(ended.value) and "auth_file or auth_query" in str(ended.value)


def test_passthrough_with_tls_on_both_sides_serves_who_does_not_bind(legs):
    proxy = legs.start(source=None, auth_type="passthrough")
    assert who(proxy, channel_binding="disable") == "one"
    assert who(proxy, user="by_md5") == "by_md5"
    assert "channel binding" in words(proxy)


@pytest.mark.parametrize("keys, complaint", [
    ({"auth_type": "scram-sha-256", "source": None}, "scram-sha-256 needs auth_file or auth_query"),
    ({"auth_type": "passthrough"}, "with passthrough auth_file is never looked at"),
    ({"source": "auth_query", "control": None}, "auth_query runs on it"),
    ({"auth_type": "cert"}, '"cert" is not one of'),
])
def test_combinations_that_cannot_work(legs, keys, complaint):
    with pytest.raises(RuntimeError) as ended:
        legs.start(**keys)
    assert complaint in str(ended.value)
