"""What there may be of connections, where they come from, how they spread and what the server sees."""

import json
import os
import signal
import socket
import stat
import subprocess

import psycopg2
import pytest

from lib import common, wire
from lib.proxy import Proxy

pytestmark = pytest.mark.proxy


@pytest.fixture
def proxy_with(server):
    """Starts a proxy with the given keys."""
    started = []

    def start(**keys):
        started.append(Proxy(server, **keys).start())
        return started[-1]
    yield start
    for instance in started:
        assert instance.stop() == 0


def reload(proxy, **keys):
    proxy.settings.update(keys)
    proxy.write_config()
    mark = len(proxy.log())
    proxy.process.send_signal(signal.SIGHUP)
    common.wait_until(lambda: "SIGHUP: the configuration was reloaded" in proxy.log()[mark:], 5,
                      "the new configuration")


# --- limits ---

def refusal(proxy, **who):
    """The error that a start-up is answered with, or None when it may go on."""
    with wire.Connection.to(proxy) as connection:
        answer = connection.send(wire.StartupMessage(**who)).read()
        return answer.fields() if answer.kind == "E" else None


def test_a_user_may_have_only_so_many_connections(proxy_with):
    proxy = proxy_with(max_user_client_connections=2, workers=4)
    first, second = wire.connect(proxy, user="app"), wire.connect(proxy, user="app", database="postgres")
    error = refusal(proxy, user="app")
    assert error["S"] == "FATAL" and error["C"] == "53300"
    assert error["M"].startswith('too many connections for role "app" (max_user_client_connections = 2)')
    with wire.connect(proxy, user="postgres") as other:
        assert other.rows("SELECT 1") == [["1"]]
    second.close()
    common.wait_until(lambda: refusal(proxy, user="app") is None, 5, "room for another")
    first.close()


def test_a_database_may_have_only_so_many_connections(proxy_with):
    proxy = proxy_with(max_db_client_connections=2)
    with wire.connect(proxy, user="app"), wire.connect(proxy, user="postgres"):
        error = refusal(proxy, user="postgres")
        assert error["C"] == "53300"
        assert error["M"].startswith(
            'too many connections for database "app" (max_db_client_connections = 2)')
        wire.connect(proxy, database="postgres").close()


def test_cancel_requests_are_not_counted(server, proxy_with):
    proxy = proxy_with(max_user_client_connections=1, max_db_client_connections=1)
    with wire.connect(proxy) as session:
        for _ in range(3):
            session.send(wire.Query("SELECT pg_sleep(30)"))
            server.wait_until_active(session.pid)
            session.cancel()
            assert wire.errors(session.read_until("Z")) == ["57014"]
        assert refusal(proxy)["C"] == "53300"


def test_a_database_that_is_not_named_is_the_users(proxy_with):
    proxy = proxy_with(max_db_client_connections=1)
    with wire.connect(proxy, user="postgres", database="postgres"):
        assert refusal(proxy, user="postgres", database=None)["C"] == "53300"


def test_what_the_server_cuts_from_a_name_does_not_get_round_the_limit(server, proxy_with):
    proxy = proxy_with(max_user_client_connections=1)
    name = "u" * 63
    server.psql(f"CREATE ROLE {name} LOGIN")
    try:
        with wire.connect(proxy, user=name + "x"):
            assert refusal(proxy, user=name + "y")["C"] == "53300"
    finally:
        server.psql(f"DROP ROLE {name}")


ENDS = {
    "terminate": lambda s: s.send(wire.Terminate()),
    "close": lambda s: s.close(),
    "reset": lambda s: s.reset(),
    "half_close": lambda s: s.half_close(),
    "in_a_statement": lambda s: s.send(wire.Query("SELECT pg_sleep(30)")).reset(),
    "in_a_transaction": lambda s: (s.query("BEGIN"), s.close()),
    "by_the_server": lambda s: s.send(wire.Query("SELECT pg_terminate_backend(pg_backend_pid())")),
    "nonsense": lambda s: s.send(b"Q\0\0\0\1"),
}


@pytest.mark.parametrize("end", ENDS)
def test_every_way_to_end_makes_room_again(proxy_with, end):
    proxy = proxy_with(max_user_client_connections=2, max_db_client_connections=2)
    sessions = []
    for _ in range(6):
        sessions.append(common.wait_until(lambda: attempt(proxy), 5, "room for a session"))
        ENDS[end](sessions[-1])
    for session in sessions:
        session.close()
    with common.wait_until(lambda: attempt(proxy), 5, "room"), \
            common.wait_until(lambda: attempt(proxy), 5, "room"):
        assert refusal(proxy)["C"] == "53300"


def attempt(proxy, **who):
    connection = wire.Connection.to(proxy)
    try:
        connection.start(**who)
        return connection
    except AssertionError:
        connection.close()
        return None


def test_a_login_that_fails_makes_room_again(proxy_with, auth_roles):
    proxy = proxy_with(max_user_client_connections=1)
    role = auth_roles["password"]

    def fails():
        with wire.Connection.to(proxy) as connection:
            connection.send(wire.StartupMessage(user=role))
            if connection.read().kind == "R":
                connection.send(wire.PasswordMessage("wrong"))
                return wire.errors(connection.read_to_end()) == ["28P01"]
            return False  # the one before is just going
    for _ in range(4):
        common.wait_until(fails, 5, "room")


def test_a_server_that_is_away_makes_room_again(server):
    away = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(server, max_user_client_connections=1,
                  server=f"host=127.0.0.1 port={away.getsockname()[1]} sslmode=disable").start()
    away.close()
    for _ in range(3):
        assert common.wait_until(lambda: refusal(proxy), 5)["C"] == "08001"
    assert proxy.stop() == 0


def test_limits_are_taken_at_sighup_and_drop_nobody(proxy_with):
    proxy = proxy_with()
    sessions = [wire.connect(proxy) for _ in range(3)]
    reload(proxy, max_user_client_connections=2)
    assert refusal(proxy)["C"] == "53300"
    assert all(session.rows("SELECT 1") == [["1"]] for session in sessions)
    reload(proxy, max_user_client_connections=4)
    assert refusal(proxy) is None
    reload(proxy, max_user_client_connections=0, max_db_client_connections=1)
    assert "database" in refusal(proxy)["M"]
    for session in sessions:
        session.close()


# --- how they spread ---

def by_worker(proxy):
    done = proxy.command("status", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["counters"]["sessions_by_worker"]


def wait_for_spread(proxy, expected):
    common.wait_until(lambda: by_worker(proxy) == expected, 5, f"sessions by worker {expected}",
                      every=0.1)


def test_sixteen_connections_are_eight_on_each_of_two_workers(proxy_with):
    proxy = proxy_with(workers=2)
    wait_for_spread(proxy, [0, 0])
    sessions = [wire.connect(proxy) for _ in range(16)]
    assert by_worker(proxy) == [8, 8]
    for session in sessions:
        session.close()


def test_a_burst_spreads_as_evenly(proxy_with):
    proxy = proxy_with(workers=4)
    wait_for_spread(proxy, [0, 0, 0, 0])
    burst = [socket.socket() for _ in range(16)]
    for connection in burst:
        connection.setblocking(False)
        connection.connect_ex((proxy.host, proxy.port))
    wait_for_spread(proxy, [4, 4, 4, 4])
    for connection in burst:
        connection.close()


def test_a_worker_that_lost_its_connections_gets_the_next_ones(proxy_with):
    proxy = proxy_with(workers=2)
    wait_for_spread(proxy, [0, 0])
    sessions = [wire.connect(proxy) for _ in range(16)]
    for session in sessions[1::2]:  # the workers took turns
        session.close()
    wait_for_spread(proxy, [8, 0])
    more = [wire.connect(proxy) for _ in range(8)]
    assert by_worker(proxy) == [8, 8]
    for session in sessions[::2] + more:
        session.close()


# --- unix sockets ---

def psql(host, port, sql="SELECT 1"):
    done = subprocess.run(["psql", "-XAtq", "-h", str(host), "-p", str(port), "-U", "postgres", "-d",
                           "app", "-c", sql], capture_output=True, text=True,
                          timeout=20 * common.slowness())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_psql_goes_through_unix_sockets_on_both_sides(server, proxy_with):
    proxy = proxy_with(server=f"host={server.socket_dir} port={server.port}")
    assert psql(proxy.socket_dir, proxy.port) == "1"
    peer = psql(proxy.socket_dir, proxy.port,
                "SELECT client_addr IS NULL FROM pg_stat_activity WHERE pid = pg_backend_pid()")
    assert peer == "t"


def test_a_socket_in_the_abstract_namespace(server):
    proxy = Proxy(server)
    proxy.settings["listen"] += f", unix:@pgsluice-test-{os.getpid()}/.s.PGSQL.{proxy.port}"
    proxy.start()
    assert psql(f"@pgsluice-test-{os.getpid()}", proxy.port) == "1"
    assert proxy.stop() == 0


def listening_file(proxy):
    return proxy.dir / f".s.PGSQL.{proxy.port}"


@pytest.mark.parametrize("key,mode", [(None, 0o777), ("0700", 0o700), ("0660", 0o660)])
def test_the_sockets_file_has_its_mode(proxy_with, key, mode):
    proxy = proxy_with(unix_socket_mode=key)
    assert stat.S_IMODE(listening_file(proxy).stat().st_mode) == mode


def starts_with(proxy):
    """A second proxy, on the unix socket of the first: its exit code and what it says."""
    other = Proxy(proxy.server)
    other.settings["listen"] = f"127.0.0.1:{other.port}, unix:{listening_file(proxy)}"
    other.write_config()
    done = other.command("serve", timeout=20)
    return done.returncode, done.stderr


def test_a_socket_that_is_in_use_is_left_alone(proxy_with):
    proxy = proxy_with()
    code, said = starts_with(proxy)
    assert code == 1 and str(listening_file(proxy)) in said and "in use" in said
    assert psql(proxy.socket_dir, proxy.port) == "1"


def test_a_socket_whose_queue_is_full_is_in_use_too(proxy_with):
    """Whoever looks whether somebody listens must not wait in that queue."""
    proxy = Proxy(proxy_with().server)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(listening_file(proxy)))
        listener.listen(0)
        waiting = []
        while True:
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            if waiting[-1].connect_ex(str(listening_file(proxy))) != 0:
                break
        code, said = starts_with(proxy)
        assert code == 1 and "in use" in said
        for connection in waiting:
            connection.close()


def test_a_file_that_is_no_socket_is_left_alone(server):
    proxy = Proxy(server)
    listening_file(proxy).write_text("mine")
    code, said = starts_with(proxy)
    assert code == 1 and str(listening_file(proxy)) in said
    assert listening_file(proxy).read_text() == "mine"


def test_too_long_a_path_is_named(server):
    proxy = Proxy(server)
    proxy.settings["listen"] = f"unix:/{'x' * 107}"
    proxy.write_config()
    done = proxy.command("serve", timeout=20)
    assert done.returncode == 2 and "longer than the 107 bytes" in done.stderr


# --- application_name_add_host ---

NAME = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"


def own_address(session):
    return ":".join(map(str, session.socket.getsockname()))


def test_the_server_is_told_the_clients_address(proxy_with):
    proxy = proxy_with(application_name_add_host=1)
    with wire.connect(proxy, application_name="loader") as session:
        assert session.rows(NAME) == [[f"loader - {own_address(session)}"]]
        assert session.parameters["application_name"] == f"loader - {own_address(session)}"
        session.query("SET application_name = 'mine'")
        assert session.rows(NAME) == [["mine"]]
        session.query("RESET application_name")
        assert session.rows(NAME) == [[f"loader - {own_address(session)}"]]


def test_a_client_without_a_name_is_called_app(proxy_with):
    proxy = proxy_with(application_name_add_host=1)
    for params in ({}, {"application_name": ""}):
        with wire.connect(proxy, **params) as session:
            assert session.rows(NAME) == [[f"app - {own_address(session)}"]]


def test_every_other_parameter_stays_what_it_was(proxy_with):
    proxy = proxy_with(application_name_add_host=1)
    with wire.connect(proxy, options="-c work_mem=5MB", application_name="x", DateStyle="German",
                      search_path="a, b") as session:
        assert session.rows("SHOW work_mem") + session.rows("SHOW search_path") == [["5MB"], ["a, b"]]
        assert session.rows("SHOW datestyle") == [["German, DMY"]]
        assert session.rows(NAME) == [[f"x - {own_address(session)}"]]


def test_a_unix_client_is_told_by_its_process(proxy_with):
    proxy = proxy_with(application_name_add_host=1)
    with wire.Connection(path=str(listening_file(proxy))) as session:
        session.start(application_name="x")
        expected = f"x - unix({os.getpid()}@{socket.gethostname()}):{proxy.port}"
        assert session.rows(NAME) == [[expected[:63]]]


def test_a_packet_that_would_become_too_long_goes_as_it_is(proxy_with):
    proxy = proxy_with(application_name_add_host=1)
    params = {"application_name": "long", "options": "-c work_mem=5MB"}
    room = 10000 - len(wire.StartupMessage(**params))
    params["options"] += " " * room
    assert len(wire.StartupMessage(**params)) == 10000
    with wire.connect(proxy, **params) as session:
        assert session.rows(NAME) == [["long"]]


def test_a_malformed_packet_is_the_servers_to_refuse(server, proxy_with):
    proxy = proxy_with(application_name_add_host=1)
    packet = b"\0\0\0\x1b\0\3\0\0user\0postgres\0\0tail!"
    answers = []
    for endpoint in (server, proxy):
        with wire.Connection.to(endpoint) as connection:
            answers.append([str(answer) for answer in connection.send(packet).read_to_end()])
    assert answers[0] == answers[1] and "08P01" in answers[0][0]


def test_psycopg2_too_and_only_when_asked(proxy_with):
    proxy = proxy_with()
    connection = psycopg2.connect(proxy.dsn(application_name="plain"))
    with connection.cursor() as cursor:
        cursor.execute(NAME)
        assert cursor.fetchone()[0] == "plain"
    connection.close()


# --- TCP ---

def keepalive_timers(pid):
    """Seconds until the next keepalive probe, of each established TCP connection of a process."""
    inodes = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(entry.path)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    with open(f"/proc/{pid}/net/tcp") as table:
        for line in list(table)[1:]:
            fields = line.split()
            if fields[9] in inodes and fields[3] == "01":
                kind, _, when = fields[5].partition(":")
                found.append(int(when, 16) / os.sysconf("SC_CLK_TCK") if kind == "02" else None)
    return found


@pytest.mark.parametrize("keys,low,high", [
    ({"tcp_keepidle": 100}, 80, 100), ({"tcp_keepidle": "5min"}, 280, 300), ({}, 7000, 7200)])
def test_keepalive_is_tuned_on_both_legs(proxy_with, keys, low, high):
    if not keys and open("/proc/sys/net/ipv4/tcp_keepalive_time").read().strip() != "7200":
        pytest.skip("the system's own keepalive is not Linux' default")
    proxy = proxy_with(**keys)
    with wire.connect(proxy):
        common.wait_until(lambda: len(keepalive_timers(proxy.pid)) == 2, 5, "two connections")
        for timer in keepalive_timers(proxy.pid):
            assert timer is not None and low <= timer <= high


def test_without_keepalive_there_is_no_timer(proxy_with):
    proxy = proxy_with(tcp_keepalive=0, tcp_keepidle=100)
    with wire.connect(proxy):
        common.wait_until(lambda: keepalive_timers(proxy.pid) == [None, None], 5, "no timers")
