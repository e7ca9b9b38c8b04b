"""Several servers behind one proxy: failover on connect, target_session_attrs, ways to reach one."""

import threading
import time

import psycopg2
import pytest

from lib import common, wire
from lib.pgserver import Server
from lib.proxy import Proxy

pytestmark = pytest.mark.proxy


@pytest.fixture(scope="module")
def primary():
    instance = Server().start()
    yield instance
    instance.stop()


@pytest.fixture(scope="module")
def standby(primary):
    instance = Server(standby_of=primary).start()
    yield instance
    instance.stop()


@pytest.fixture
def in_front_of():
    """Starts a proxy in front of (host, port) pairs, with more of libpq's keywords and more keys."""
    started = []

    def start(endpoints, keywords="", **keys):
        hosts = ",".join(getattr(end, "host", "127.0.0.1") for end in endpoints)
        ports = ",".join(str(getattr(end, "port", end)) for end in endpoints)
        control = f"host={hosts} port={ports} user=postgres dbname=postgres" if keywords else None
        started.append(Proxy(endpoints[-1], **{
            "server": f"host={hosts} port={ports} {keywords}", "control": control, **keys}).start())
        return started[-1]
    yield start
    for instance in started:
        assert instance.stop() == 0


def connect(proxy, **more):
    return psycopg2.connect(**proxy.params("postgres", **more))


def ask(proxy, sql, **more):
    connection = connect(proxy, **more)
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0]
    finally:
        connection.close()


def port_of(proxy):
    return ask(proxy, "SELECT inet_server_port()")


# --- failover on connect ---

def test_a_host_that_refuses_connections_is_passed_over(in_front_of, primary):
    proxy = in_front_of([common.free_port(), primary])
    assert port_of(proxy) == primary.port
    assert "could not connect to server" in proxy.log()


def test_a_host_that_does_not_take_logins_yet_is_passed_over(in_front_of, primary):
    """libpq goes to the next host at 57P03, here a standby without hot_standby."""
    cold = Server(standby_of=primary, settings={"hot_standby": "off"}).start("standby")
    proxy = in_front_of([cold, primary])
    assert port_of(proxy) == primary.port
    cold.stop()


def test_the_last_host_speaks_for_itself(in_front_of, primary):
    proxy = in_front_of([common.free_port(), primary])
    with pytest.raises(psycopg2.OperationalError, match='role "nobody" does not exist'):
        connect(proxy, user="nobody")


# --- target_session_attrs ---

@pytest.mark.parametrize("attrs, wanted", [
    ("read-write", "primary"), ("primary", "primary"), ("read-only", "standby"),
    ("standby", "standby"), ("prefer-standby", "standby"),
])
@pytest.mark.parametrize("standby_first", [True, False])
def test_target_session_attrs_chooses(in_front_of, primary, standby, attrs, wanted, standby_first):
    servers = [standby, primary] if standby_first else [primary, standby]
    proxy = in_front_of(servers, f"target_session_attrs={attrs}")
    assert port_of(proxy) == {"primary": primary, "standby": standby}[wanted].port


def test_prefer_standby_takes_a_primary_where_there_is_no_standby(in_front_of, primary):
    proxy = in_front_of([common.free_port(), primary], "target_session_attrs=prefer-standby")
    assert port_of(proxy) == primary.port


def test_no_server_of_the_wanted_kind(in_front_of, primary):
    proxy = in_front_of([primary], "target_session_attrs=standby")
    with pytest.raises(psycopg2.OperationalError, match="no server is standby now"):
        connect(proxy)


def refusal(proxy):
    with pytest.raises(psycopg2.OperationalError) as refused:
        connect(proxy)
    return str(refused.value)


def test_a_control_login_that_fails_is_pointed_at(in_front_of, primary):
    proxy = in_front_of([primary], "target_session_attrs=read-write",
                        control=f"host=127.0.0.1 port={primary.port} user=nobody dbname=postgres")
    told = refusal(proxy)
    assert "no server is read-write now (target_session_attrs)" in told
    assert "1 cannot be asked with the login of `control`; pgsluice's log says why" in told
    assert 'role "nobody" does not exist' in proxy.log()


def test_what_there_is_instead_is_said(in_front_of, primary, standby):
    told = refusal(in_front_of([standby], "target_session_attrs=primary"))
    assert "Of 1: 1 standby." in told


def test_a_server_that_hangs_is_no_candidate(in_front_of):
    """Nor does it keep the proxy from ending."""
    hanging = Server().start()
    proxy = in_front_of([hanging], "target_session_attrs=read-write")
    left = wire.connect(proxy, database="postgres")
    left.query("BEGIN")
    try:
        with hanging.hanging():
            common.wait_until(lambda: "cannot be asked what it is (login of control): the server does "
                              "not answer" in proxy.log(), 5, "the answer that does not come")
            assert "1 cannot be asked" in refusal(proxy)
            left.send(wire.Terminate()).close()
            started = time.monotonic()
            assert proxy.stop() == 0
            assert time.monotonic() - started < 5 * common.slowness()
    finally:
        hanging.stop()


def test_ports_that_do_not_fit_the_hosts_are_refused(primary):
    with pytest.raises(RuntimeError, match="server: 3 ports for 2 hosts"):
        Proxy(primary, server="host=127.0.0.1,127.0.0.1 port=1,2,3").start()


def test_a_primary_that_is_read_only_by_default_takes_no_writers(in_front_of, primary):
    primary.psql("ALTER SYSTEM SET default_transaction_read_only = on", "postgres")
    primary.reload()
    try:
        proxy = in_front_of([primary], "target_session_attrs=read-write")
        with pytest.raises(psycopg2.OperationalError, match="no server is read-write now"):
            connect(proxy)
        proxy = in_front_of([primary], "target_session_attrs=primary")
        assert port_of(proxy) == primary.port
    finally:
        primary.psql("SET default_transaction_read_only = off;"
                     "ALTER SYSTEM RESET default_transaction_read_only", "postgres")
        primary.reload()


def test_new_sessions_follow_a_failover(in_front_of):
    old = Server().start()
    new = Server(standby_of=old).start()
    proxy = in_front_of([old, new], "target_session_attrs=read-write")
    session = connect(proxy)
    assert port_of(proxy) == old.port
    old.stop("immediate")
    with pytest.raises(psycopg2.OperationalError), session.cursor() as cursor:
        cursor.execute("SELECT 1")
    with pytest.raises(psycopg2.OperationalError):
        connect(proxy)
    new.promote()

    def reached():
        try:
            return port_of(proxy) == new.port
        except psycopg2.OperationalError:
            return False
    started = time.monotonic()
    common.wait_until(reached, 10, "the new primary")
    assert time.monotonic() - started < 3 * common.slowness()
    assert ask(proxy, "SELECT pg_is_in_recovery()") is False
    new.stop()


def test_a_cancel_request_goes_to_the_sessions_own_host(in_front_of, primary, standby):
    proxy = in_front_of([standby, primary], "target_session_attrs=read-write")
    connection = connect(proxy)
    timer = threading.Timer(0.3, connection.cancel)
    timer.start()
    started = time.monotonic()
    with pytest.raises(psycopg2.errors.QueryCanceled), connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(20)")
    assert time.monotonic() - started < 10
    timer.join()
    connection.close()


def test_target_session_attrs_needs_control(primary):
    with pytest.raises(RuntimeError, match="control: is missing.*target_session_attrs"):
        Proxy(primary, server=f"host=127.0.0.1 port={primary.port} "
                              "target_session_attrs=primary").start()


# --- unix sockets on the server's side ---

def test_a_unix_socket_and_a_tcp_host_in_one_list(in_front_of, primary):
    proxy = Proxy(primary, server=f"host={primary.socket_dir},127.0.0.1 port={primary.port}").start()
    assert ask(proxy, "SELECT inet_server_port()") is None
    with wire.Connection.to(proxy) as connection:
        connection.start(database="postgres")
    assert proxy.stop() == 0
