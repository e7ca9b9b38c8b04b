"""Logins in which either side fails, lies, is silent or goes away, at every step of them.

What a real server will not do is said by lib/scripted_server.py; everything else happens between
real clients and real servers.
"""

import concurrent.futures
import os
import signal
import socket
import time

import pytest

from lib import common, scripted_server, wire
from lib.pgserver import Server
from lib.proxy import Proxy
from lib.scram import ScramClient, ScramServer
from lib.scripted_server import ScriptedServer, saying

pytestmark = pytest.mark.proxy

PASSWORD = "secret"
QUERY = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1"
TIMEOUT = 2  # client_login_timeout, seconds; server_connect_timeout is half of it


@pytest.fixture(scope="module")
def scripted():
    instance = ScriptedServer(PASSWORD)
    yield instance
    instance.stop()


@pytest.fixture(scope="module")
def proxy_at(tmp_path_factory):
    """Starts a proxy that answers SCRAM for the users of its auth_file, who are all `PASSWORD`'s."""
    started = []

    def start(server, secret, **keys):
        users = tmp_path_factory.mktemp("auth") / "users"
        users.write_text("".join(f'"{user}" "{secret}"\n' for user in USERS))
        users.chmod(0o600)
        settings = {"auth_file": users, "client_login_timeout": TIMEOUT, "workers": 1,
                    "server_connect_timeout": TIMEOUT // 2, **keys}
        started.append(Proxy(server, **settings).start())
        return started[-1]
    yield start
    for instance in started:
        assert instance.stop() == 0


USERS = ["good"] + [f"user{n}" for n in range(64)]


@pytest.fixture(scope="module")
def lied_to(scripted, proxy_at):
    """In front of the scripted server."""
    return proxy_at(scripted, ScramServer(PASSWORD).secret)


@pytest.fixture(scope="module")
def real():
    instance = Server(auth=["host all asker 127.0.0.1/32 trust",
                            "host all all 127.0.0.1/32 scram-sha-256"]).start()
    roles = "".join(f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}';" for user in USERS[:4])
    instance.psql(f"SET password_encryption = 'scram-sha-256'; {roles}"
                  "CREATE ROLE asker LOGIN SUPERUSER", "postgres")
    yield instance
    instance.stop()


@pytest.fixture(scope="module")
def honest(real, proxy_at):
    """In front of the real server, whose roles all have PASSWORD."""
    return proxy_at(real, PASSWORD)


class Login:
    """A login by hand: each method goes on by one step; what the client was told is in `heard`."""

    def __init__(self, proxy, user="good"):
        self.connection = wire.Connection.to(proxy)
        self.user = user
        self.scram = ScramClient(PASSWORD)
        self.heard = []

    def read(self):
        self.heard.append(self.connection.read())
        return self.heard[-1]

    def startup(self):
        self.connection.send(wire.StartupMessage(self.user, "postgres"))
        return self

    def offered(self):
        assert self.startup().read().body.startswith(b"\0\0\0\x0a"), self.heard
        return self

    def challenged(self):
        self.offered().connection.send(self.scram.initial())
        assert self.read().body.startswith(b"\0\0\0\x0b"), self.heard
        return self

    def proved(self):
        self.challenged().connection.send(self.scram.final(self.heard[-1].body))
        return self

    def to_end(self):
        """Everything to the end of the connection; the SQLSTATE that ended it."""
        with self.connection:
            self.heard += self.connection.read_to_end()
        return (wire.errors(self.heard) or [None])[0]

    def was_let_in(self):
        return any(answer.kind == "R" and answer.body == b"\0\0\0\0" for answer in self.heard)


def run(proxy, user):
    """A whole login: the SQLSTATE that ended it ("" for none), the seconds, whether it was granted."""
    login = Login(proxy, user)
    started = time.monotonic()
    try:
        login.proved()
        while login.read().kind != "Z":
            pass
        login.connection.close()
        return "", time.monotonic() - started, login.was_let_in()
    except (AssertionError, wire.Closed, ConnectionError):
        code = (wire.errors(login.heard) or [login.to_end()])[0]
        return code, time.monotonic() - started, login.was_let_in()


def descriptors(proxy):
    return len(os.listdir(f"/proc/{proxy.pid}/fd"))


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    """Every connection and descriptor that the test's proxy had more than before is gone again, and
    others log in as before."""
    used = [request.getfixturevalue(name) for name in ("lied_to", "honest")
            if name in request.fixturenames]
    before = {proxy: (assert_serves(proxy), descriptors(proxy))[1] for proxy in used}
    yield
    for proxy in used:
        assert_serves(proxy)
        common.wait_until(lambda: descriptors(proxy) <= before[proxy], 5, "no descriptors left over")
        proxy.assert_sane()


def assert_serves(proxy):
    code, _, let_in = run(proxy, "good")
    assert (code, let_in) == ("", True)


# --- the server ---

ERROR = wire.message("E", b"SFATAL\0VFATAL\0C28P01\0Mno such luck\0\0")
NOTICE = wire.message("N", b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0")


def authentication(code, data=b""):
    return wire.message("R", code.to_bytes(4, "big") + data)


DEVIATIONS = {
    "closes": (scripted_server.close, {"08006"}),
    "resets": (scripted_server.reset, {"08006"}),
    "an error": (saying(ERROR), {"28P01"}),
    "an error in two pieces": (saying(ERROR[:7], ERROR[7:]), {"28P01"}),
    "garbage": (saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), {"08P01"}),
    "a length that cannot be": (saying(b"R\0\0\0\0"), {"08P01"}),
    "a huge message": (saying(authentication(11, b"x" * 100000)), {"08P01"}),
    "an endless message": (saying(b"R\x10\0\0\0" + b"x" * 70000), {"08P01"}),
    "only a code's half": (saying(wire.message("R", b"\0\0")), {"08P01"}),
    "another method": (saying(authentication(5, b"salt")), {"08P01"}),
    "the offer again": (saying(scripted_server.OFFER), {"08P01"}),
    "a nonsense challenge": (saying(authentication(11, b"nonsense")), {"08P01"}),
    "a nonsense verdict": (saying(authentication(12, b"v=QQ==")), {"08P01"}),
    "ready at once": (saying(scripted_server.READY), {"08P01"}),
    "a grant behind a parameter": (
        saying(scripted_server.READY[:-6] + scripted_server.OK), {"08P01"}),
    "a notice, then nothing": (saying(NOTICE), {"57014"}),
    "nothing": (scripted_server.silent, {"57014"}),
}


# In the offer's turn what cannot be read goes on to the client, as without the proxy.
AT_OFFER = {
    "closes": {"08006"}, "resets": {"08006"}, "an error": {"28P01"}, "an error in two pieces": {"28P01"},
    "a length that cannot be": {"08P01"}, "nothing": {"08001"},
}


def cases():
    for turn in ("challenge", "verdict", "grant"):
        for name, (deviate, codes) in DEVIATIONS.items():
            yield turn, name, deviate, codes
    for name, codes in AT_OFFER.items():
        yield "offer", name, DEVIATIONS[name][0], codes


def test_a_server_that_deviates(scripted, lied_to):
    """At every turn of it; all at once, so that the silent ones are waited for together."""
    expected = {}
    for user, (turn, name, deviate, codes) in zip(USERS[1:], cases(), strict=False):
        scripted.deviations[user] = (turn, deviate)
        expected[user] = (turn, name, codes)
    assert len(expected) == len(list(cases()))
    with concurrent.futures.ThreadPoolExecutor(len(expected)) as pool:
        results = dict(zip(expected, pool.map(lambda user: run(lied_to, user), expected)))
    wrong = [f"{expected[user]}: {result}" for user, result in results.items()
             if result[0] not in expected[user][2] or result[2] or
             result[1] > (TIMEOUT + 3) * common.slowness()]
    assert not wrong, "\n".join(wrong)
    common.wait_until(lambda: scripted.open == 0, 5, "the server's connections to end")


def test_a_client_that_is_gone_when_the_login_is_granted(scripted, lied_to):
    """The proxy sees the grant first, and cannot hand it on."""
    def grant_to_nobody(connection, reply):
        os.kill(lied_to.pid, signal.SIGSTOP)
        connection.sendall(reply)
        time.sleep(0.1)
        login.connection.reset()
        time.sleep(0.1)
        os.kill(lied_to.pid, signal.SIGCONT)
        scripted_server.silent(connection, reply)
    for user in USERS[1:4]:
        scripted.deviations[user] = ("grant", grant_to_nobody)
        login = Login(lied_to, user).proved()
        common.wait_until(lambda: scripted.open == 0, 5, "the server's connection to end")
        assert lied_to.is_alive()
        assert_serves(lied_to)


# --- the client ---

JUNK = b"\0\0\0\0junk"
LEAVING = {
    "closes": lambda connection: connection.close(),
    "resets": lambda connection: connection.reset(),
    "half-closes": lambda connection: connection.half_close(),
    "sends junk and closes": lambda connection: connection.send(JUNK).close(),
    "sends half a message and closes": lambda connection: connection.send(b"p\0\0\0\x40half").close(),
}


@pytest.mark.parametrize("step", ["startup", "offered", "challenged", "proved"])
@pytest.mark.parametrize("how", LEAVING)
def test_a_client_that_goes_away(real, honest, step, how):
    login = Login(honest)
    getattr(login, step)()
    LEAVING[how](login.connection)
    real.wait_for_backends(0, "usename = 'good'", timeout=TIMEOUT + 3)
    login.connection.close()


@pytest.mark.parametrize("how", LEAVING)
def test_a_client_that_goes_away_while_the_server_thinks(scripted, lied_to, how):
    for user, turn in zip(USERS[1:], ("offer", "challenge", "verdict", "grant")):
        scripted.deviations[user] = (turn, scripted_server.silent)
        login = Login(lied_to, user)
        {"offer": login.startup, "challenge": login.startup}.get(turn, login.proved)()
        LEAVING[how](login.connection)
        common.wait_until(lambda: scripted.open == 0, TIMEOUT, "the server's connection to end")
        login.connection.close()


@pytest.mark.parametrize("step", ["offered", "challenged"])
@pytest.mark.parametrize("junk", [JUNK, wire.Query("SELECT 1"), wire.message("p", b"x" * 3000),
                                  b"p\xff\xff\xff\xff", b"p\0\0\0\0"],
                         ids=["no type", "a query", "too long", "endless", "too short"])
def test_a_client_that_sends_junk(honest, step, junk):
    login = Login(honest)
    getattr(login, step)().connection.send(junk)
    assert login.to_end() in ("08P01", "28P01")
    assert not login.was_let_in()


def test_what_a_client_sends_too_early_waits_for_its_turn(honest):
    """Even a whole login that is sent before the server has answered anything."""
    login = Login(honest)
    login.connection.send(wire.StartupMessage("good", "postgres") + login.scram.initial())
    login.read()
    login.connection.send(login.scram.final(login.read().body) + wire.Query("SELECT 7"))
    login.heard += login.connection.read_until("Z") + login.connection.read_until("Z")
    assert [answer.values() for answer in login.heard if answer.kind == "D"] == [[b"7"]]
    login.connection.close()


def test_a_client_that_is_silent(real, honest):
    logins = [getattr(Login(honest), step)() for step in ("startup", "offered", "challenged")]
    assert [login.to_end() for login in logins] == ["57014"] * 3
    real.wait_for_backends(0, "usename = 'good'")


# --- who is there is not to be told from who is not ---

def challenge_of(endpoint, user):
    """Salt and iterations that a login is asked with, and how a wrong password ends it."""
    login = Login(endpoint, user)
    login.scram.password = "wrong"
    login.proved()
    asked = login.heard[1].body[4:].split(b",", 1)[1]
    return asked, login.to_end(), login.heard[-1].fields()["M"].replace(user, "USER")


@pytest.mark.parametrize("user", ["nobody", "user1", "not_in_the_file"])
def test_a_login_is_asked_as_by_the_server_whoever_it_is(real, honest, user):
    assert challenge_of(honest, user) == challenge_of(real, user)


def test_a_password_is_not_derived_with_any_number_of_iterations(scripted, proxy_at):
    """A server asks for two billions: of a password in auth_file no secret is made."""
    proxy = proxy_at(scripted, PASSWORD)
    challenge = b"i=2000000000"

    def ask_for_more(connection, reply):
        more = reply[5:].replace(b"i=4096", challenge)
        saying(wire.message("R", more))(connection, reply)
    scripted.deviations["user1"] = ("challenge", ask_for_more)
    assert run(proxy, "user1")[0] == "58000"
    assert "asks for 2000000000 iterations" in proxy.log()
    assert_serves(proxy)


# --- servers that go away or hang ---

def test_a_server_that_restarts_in_the_middle(real, honest):
    login = Login(honest).challenged()
    real.restart("immediate")
    login.connection.send(login.scram.final(login.heard[-1].body))
    assert login.to_end() in ("57P01", "57P02", "08006")


@pytest.fixture(scope="module")
def asking(real, proxy_at, tmp_path_factory):
    """In front of the real server; users are looked up by auth_query at a server that may hang."""
    control = Server(auth="trust").start()
    control.psql("".join(f"CREATE ROLE {user} LOGIN PASSWORD '{ScramServer(PASSWORD).secret}';"
                         for user in USERS[1:4]), "postgres")
    yield control, lambda **keys: proxy_at(
        real, PASSWORD, auth_query=QUERY, client_login_timeout=20,
        control=f"host={control.host} port={control.port} user=postgres dbname=postgres", **keys)
    control.stop("immediate")


def test_a_control_server_that_hangs(real, asking):
    """Who needs it waits for one answer, not for as many as there are logins before; who does not
    need it logs in; nobody waits longer than the proxy lives."""
    control, start = asking
    proxy = start()
    strangers = ["stranger"] * 8
    assert run(proxy, "stranger")[0] == "28P01"
    with control.hanging(), concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(run, proxy, user) for user in strangers]
        time.sleep(0.2)
        started = time.monotonic()
        assert_serves(proxy)
        assert time.monotonic() - started < 1 * common.slowness()
        for code, seconds, let_in in [task.result() for task in waiting]:
            assert (code, let_in) == ("58000", False) and seconds < 7 * common.slowness()
        assert "auth_query: the server does not answer" in proxy.log()
        last = pool.submit(run, proxy, "stranger")
        time.sleep(0.3)
        started = time.monotonic()
        proxy.process.send_signal(signal.SIGTERM)
        assert last.result()[0] == "57P01"
        assert proxy.process.wait(10 * common.slowness()) == 0
        assert time.monotonic() - started < 3 * common.slowness()
    real.wait_for_backends(0, "usename = 'stranger'")


def test_a_control_server_that_is_gone(real, asking):
    control, start = asking
    proxy = start(workers=2)
    control.stop("immediate")
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        results = list(pool.map(lambda _: run(proxy, "stranger"), range(60)))
    assert {code for code, _, _ in results} == {"58000"}
    assert max(seconds for _, seconds, _ in results) < 4 * common.slowness()
    assert "auth_query: connection to server" in proxy.log()
    control.start()
    assert run(proxy, "stranger")[0] == "28P01"


def test_sigterm_and_sighup_during_logins(real, proxy_at):
    proxy = proxy_at(real, PASSWORD, workers=2)
    logins = [getattr(Login(proxy, user), step)() for user in USERS[:3]
              for step in ("startup", "offered", "challenged")]
    users = proxy.settings["auth_file"]
    users.write_text(users.read_text().replace(f'"{PASSWORD}"', '"another"'))
    proxy.process.send_signal(signal.SIGHUP)
    common.wait_until(lambda: "configuration was reloaded" in proxy.log(), 5, "the reload")
    last = logins.pop()
    last.connection.send(last.scram.final(last.heard[-1].body))
    last.heard += last.connection.read_until("Z")
    assert last.was_let_in()
    proxy.process.send_signal(signal.SIGTERM)
    assert {login.to_end() for login in logins} == {"57P01"}
    last.connection.close()
    assert proxy.process.wait(5 * common.slowness()) == 0
    real.wait_for_backends(0, "usename LIKE 'user%'")
