"""The console: what psql and drivers see in the database "pgsluice" (proxy/admin/console.h)."""

import asyncio
import os
import re
import signal
import struct
import subprocess
import threading
import time

import asyncpg
import psycopg2
import pytest

from lib import common, schema, wire
from lib.gate import Gate
from lib.pgserver import PSQL
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

INSERT = "INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', {}, 'x')"
COMMANDS = ["HELP", "CLIENTS", "CONFIG", "CUTOVER", "DATABASES", "GATES", "HOSTS", "RULES", "STATS",
            "TOTALS", "VERSION"]
USERS = '"root" "secret of root"\n"watcher" "secret of watcher"\n"other" "secret of other"\n'


@pytest.fixture(scope="module")
def proxy(server, tmp_path_factory):
    schema.clear_chunks(server)
    auth_file = tmp_path_factory.mktemp("console") / "users"
    auth_file.write_text(USERS)
    instance = Proxy(server, rules=[strip_rule()], hold_ttl="20s", auth_file=auth_file,
                     admin_users="root, somebody", stats_users="watcher").start()
    yield instance
    assert instance.stop() == 0


@pytest.fixture
def gate(proxy):
    yield (gate := Gate(proxy))
    gate.release()


def psql(proxy, *arguments, text=None, user="pgsluice", host=None, password=None):
    return subprocess.run(
        [str(PSQL), "-X", "-h", host or proxy.socket_dir, "-p", str(proxy.port), "-U", user,
         "pgsluice", *arguments], input=text, capture_output=True, text=True,
        env={**os.environ, "PGPASSWORD": password or ""}, timeout=30 * common.slowness())


def connect(proxy, user="root", password=None, host=None):
    connection = psycopg2.connect(host=host or proxy.host, port=proxy.port, dbname="pgsluice",
                                  user=user, password=password or f"secret of {user}")
    connection.autocommit = True
    return connection


def local(proxy):
    """A console without a driver between."""
    session = wire.Connection(path=f"{proxy.socket_dir}/.s.PGSQL.{proxy.port}")
    session.start("pgsluice", "pgsluice")
    return session


def table(connection, command):
    """The rows as dictionaries."""
    with connection.cursor() as cursor:
        cursor.execute(command)
        return [dict(zip([column.name for column in cursor.description], row))
                for row in cursor.fetchall()]


@pytest.fixture
def console(proxy):
    connection = connect(proxy)  # as a context it would begin a transaction
    yield connection
    connection.close()


# --- psql ---

def test_psql_shows_every_table(proxy):
    arguments = [word for command in COMMANDS
                 for word in ("-c", f"SHOW {command}", "-c", f"  show\n{command.lower()} ; ")]
    done = psql(proxy, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(re.findall(r"\(\d+ rows?\)", done.stdout)) == 2 * len(COMMANDS)


def test_psql_in_a_session_of_its_own(proxy):
    done = psql(proxy, "-Atq", text="show version;\n;\n\\x on\nSHOW VERSION;\n\\echo alive\n")
    assert done.stderr == ""
    version = done.stdout.splitlines()[0]
    assert version.startswith("pgsluice ")
    assert done.stdout.splitlines() == [version, f"version|{version}", "alive"]


def test_psql_watches(proxy):
    with subprocess.Popen(
            [str(PSQL), "-XAt", "-h", proxy.socket_dir, "-p", str(proxy.port), "-U", "pgsluice",
             "pgsluice"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write("SHOW VERSION \\watch 0.1\n")
        process.stdin.flush()
        seen = [process.stdout.readline() for _ in range(10)]
        process.send_signal(signal.SIGTERM)
    assert len([line for line in seen if line.startswith("pgsluice ")]) >= 2


@pytest.mark.parametrize("text, words", [
    ("SELECT 1", "invalid command 'SELECT 1'"),
    ("SHOW", "invalid command 'SHOW'"),
    ("SHOW TABLES", "invalid command 'SHOW TABLES'"),
    ("SHOW GATES chunks", "invalid command"),
    ("SHOW 'gates'", "invalid command"),
    ("RELOAD now", "invalid command"),
    ("BEGIN", "invalid command 'BEGIN'"),
    ("SHOW VERSION; SHOW GATES", "one command at a time"),
    ("x" * 5000, "invalid command"),
])
def test_what_is_no_command_is_refused_with_a_hint(proxy, text, words):
    with local(proxy) as session:
        answers = session.query(text)
        (error,) = [answer.fields() for answer in answers if answer.kind == "E"]
        assert (error["S"], error["C"]) == ("ERROR", "42601")
        assert words in error["M"] and "SHOW HELP" in error["H"]
        assert session.rows("SHOW VERSION")


# --- what is shown ---

def test_columns_are_typed(console):
    with console.cursor() as cursor:
        cursor.execute("SHOW GATES")
        types = {column.name: column.type_code for column in cursor.description}
    assert (types["table"], types["held"], types["ttl_left_ms"]) == (25, 20, 20)


def test_a_holding_gate_is_visible_with_those_who_wait(proxy, gate, console):
    with wire.connect(proxy, user="app", application_name="writer") as session:
        gate.hold(ttl_ms=20000)
        session.send(wire.Query(INSERT.format(1)))
        gate.wait_for_held()
        time.sleep(0.05)
        (shown,) = table(console, "SHOW GATES")
        assert (shown["rule"], shown["database"], shown["table"]) == ("chunks", "app",
                                                                      "public.chunks")
        assert (shown["state"], shown["held"]) == ("holding", 1)
        assert 0 < shown["ttl_left_ms"] <= 20000
        (waiting,) = [client for client in table(console, "SHOW CLIENTS")
                      if client["wait_for"] == "gate"]
        assert waiting["user"] == "app" and waiting["database"] == "app"
        assert waiting["application_name"] == "writer" and waiting["state"] == "waiting"
        assert waiting["server_pid"] == session.pid
        assert waiting["wait"] * 1_000_000 + waiting["wait_us"] >= 50_000
        gate.release()
        assert not wire.errors(session.read_until())
        (shown,) = table(console, "SHOW GATES")
        assert (shown["state"], shown["held"], shown["ttl_left_ms"]) == ("open", 0, 0)
        assert shown["held_total"] >= 1 and shown["max_held_ms"] >= 50


def test_clients_of_every_worker_and_their_states(proxy, console):
    sessions = [wire.connect(proxy, user="app", application_name=f"client {n}") for n in range(6)]
    try:
        sessions[0].query("BEGIN")
        sessions[1].send(wire.Query("SELECT pg_sleep(10)"))

        def states():
            return {client["application_name"]: client["state"]
                    for client in table(console, "SHOW CLIENTS")}
        common.wait_until(lambda: states().get("client 1") == "active", 5, "an active client")
        assert states() | {"client 0": "idle in transaction", "client 2": "idle"} == states()
        shown = table(console, "SHOW CLIENTS")
        assert {client["worker"] for client in shown} == {0, 1}
        assert {session.pid for session in sessions} <= {client["server_pid"] for client in shown}
        (own,) = [client for client in shown if client["state"] == "console"]
        assert (own["user"], own["database"], own["server_pid"]) == ("root", "pgsluice", None)
    finally:
        sessions[1].cancel()
        for session in sessions:
            session.close()


def test_rules_settings_and_counters(proxy, console):
    (rule,) = table(console, "SHOW RULES")
    assert (rule["column"], rule["mode"], rule["on_mismatch"]) == ("partition_key", "strip", "strip")
    assert rule["expression"] == "mod(hashtext(collection_id::text), 100)"
    config = {row["key"]: row["value"] for row in table(console, "SHOW CONFIG")}
    assert config["hold_ttl"] == "20" and config["stats_users"] == "watcher"
    assert config["listen"] == proxy.settings["listen"]
    assert config["control"] is None  # it may hold a password
    totals = {row["name"]: row["value"] for row in table(console, "SHOW TOTALS")}
    stats = table(console, "SHOW STATS")
    assert [row["worker"] for row in stats] == [0, 1]
    assert totals["sessions"] == sum(row["sessions"] for row in stats) >= 1
    assert table(console, "SHOW DATABASES") == [{"name": "app", "rules": 1}]
    assert [host["host"] for host in table(console, "SHOW HOSTS")] == [proxy.server.host]


def test_help_names_every_command(console):
    shown = [row["command"] for row in table(console, "SHOW HELP")]
    assert shown == [f"SHOW {name}" for name in COMMANDS] + ["RELOAD", "SHUTDOWN"]


def test_a_cutover_is_shown_with_its_outcome(server, console, proxy):
    before = table(console, "SHOW CUTOVER")
    done = proxy.command("cutover", "chunks", "--yes", "--json")
    (shown,) = table(console, "SHOW CUTOVER")
    assert before == []
    assert (shown["command"], shown["rule"], shown["exit"]) == ("cutover", "chunks",
                                                                done.returncode)
    assert shown["outcome"] and shown["started"] <= shown["ended"]
    if done.returncode == 0:
        assert proxy.command("rollback", "chunks").returncode == 0


# --- drivers ---

def test_psycopg2_without_autocommit_is_told_what_to_do(proxy):
    connection = psycopg2.connect(host=proxy.host, port=proxy.port, dbname="pgsluice", user="root",
                                  password="secret of root")
    with pytest.raises(psycopg2.errors.SyntaxError, match="turn autocommit on"):
        connection.cursor().execute("SHOW GATES")
    connection.close()


def test_asyncpg_executes_simple_queries_and_is_refused_others(proxy):
    async def run():
        connection = await asyncpg.connect(host=proxy.host, port=proxy.port, database="pgsluice",
                                           user="root", password="secret of root")
        assert await connection.execute("SHOW GATES") == "SHOW"
        with pytest.raises(asyncpg.FeatureNotSupportedError):
            await connection.fetch("SHOW GATES")
        assert await connection.execute("SHOW VERSION") == "SHOW"
        await asyncio.wait_for(connection.close(), 5)
    asyncio.run(run())


def test_a_newer_protocol_is_negotiated_down(proxy):
    with wire.Connection(path=f"{proxy.socket_dir}/.s.PGSQL.{proxy.port}") as session:
        session.send(wire.StartupMessage("pgsluice", "pgsluice", version=3 << 16 | 2))
        first = session.read()
        assert (first.kind, first.body) == ("v", struct.pack("!II", 3 << 16, 0))
        assert session.read_until()[-1].body == b"I"


# --- who may ---

def refusal(**how):
    with pytest.raises(psycopg2.OperationalError) as raised:
        connect(**how)
    return str(raised.value)


def test_a_wrong_password_is_refused_as_by_the_server(proxy):
    expected = 'password authentication failed for user "root"'
    assert expected in refusal(proxy=proxy, user="root", password="wrong")
    assert 'user "nobody"' in refusal(proxy=proxy, user="nobody")


def test_a_user_in_no_list_is_refused(proxy):
    assert "not allowed" in refusal(proxy=proxy, user="other")


def test_over_a_unix_socket_other_names_need_their_password(proxy):
    assert psql(proxy, "-c", "SHOW VERSION").returncode == 0
    assert psql(proxy, "-c", "SHOW VERSION", user="root").returncode == 2
    assert psql(proxy, "-c", "SHOW VERSION", user="root", password="secret of root"
                ).returncode == 0
    over_tcp = psql(proxy, "-c", "SHOW VERSION", host=proxy.host, password="x")
    assert 'password authentication failed for user "pgsluice"' in over_tcp.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another system user")
def test_another_system_user_is_not_let_in_without_a_password(proxy):
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", str(PSQL), "-Xw", "-h", proxy.socket_dir,
         "-p", str(proxy.port), "-U", "pgsluice", "pgsluice", "-c", "SHOW VERSION"],
        capture_output=True, text=True, timeout=30, env={**os.environ, "HOME": "/"})
    assert done.returncode == 2 and "password" in done.stderr


def test_stats_users_may_only_show(proxy):
    connection = connect(proxy, user="watcher")
    assert table(connection, "SHOW GATES")
    for command in ("RELOAD", "SHUTDOWN"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="admin access needed"):
            connection.cursor().execute(command)
    connection.close()


def test_without_secrets_the_console_is_refused_and_says_what_to_set(server):
    instance = Proxy(server, admin_users="root").start()
    with pytest.raises(psycopg2.OperationalError, match="admin_users or stats_users, and auth_file"):
        connect(instance)
    assert psql(instance, "-c", "SHOW GATES").returncode == 0
    assert instance.stop() == 0


def test_reload_and_shutdown(server):
    instance = Proxy(server, rules=[strip_rule()]).start()
    instance.rules = [strip_rule("reject")]
    instance.write_config()
    with local(instance) as session:
        assert [m.kind for m in session.query("RELOAD;")] == ["C", "Z"]
        common.wait_until(lambda: session.rows("SHOW RULES")[0][4] == "reject", 5, "the new mode")
        assert session.query("SHUTDOWN")[0].kind == "C"
        assert wire.errors(session.read_to_end()) == ["57P01"]
    instance.process.wait(20 * common.slowness())
    assert instance.stop() == 0


def test_the_console_is_open_when_max_client_conn_is_reached(server):
    instance = Proxy(server, max_client_conn=2).start()
    held = [wire.connect(instance) for _ in range(2)]
    with pytest.raises(AssertionError, match="too many clients"):
        wire.connect(instance)
    with local(instance) as session:
        assert len(session.rows("SHOW CLIENTS")) == 3
    for session in held:
        session.close()
    assert instance.stop() == 0


def test_over_tls_the_login_is_bound_to_the_certificate(server, pki, tmp_path):
    (auth_file := tmp_path / "users").write_text(USERS)
    instance = Proxy(server, client_tls="require", client_tls_cert=pki / "one.crt",
                     client_tls_key=pki / "one.key", auth_file=auth_file,
                     stats_users="watcher").start()
    connection = psycopg2.connect(host=instance.host, port=instance.port, dbname="pgsluice",
                                  user="watcher", password="secret of watcher",
                                  sslmode="require", channel_binding="require")
    connection.autocommit = True
    (own,) = table(connection, "SHOW CLIENTS")
    assert own["tls"] == "TLSv1.3"
    connection.close()
    with pytest.raises(psycopg2.OperationalError, match="TLS connections only"):
        psycopg2.connect(host=instance.host, port=instance.port, dbname="pgsluice",
                         user="watcher", password="secret of watcher", sslmode="disable")
    assert instance.stop() == 0


# --- floods and faults ---

@pytest.mark.parametrize("messages, sqlstate", [
    ([wire.Parse("", "SHOW GATES"), wire.Bind("", ""), wire.Execute(), wire.Sync()], "0A000"),
    ([wire.FunctionCall(1)], "0A000"),
])
def test_extended_queries_are_refused_up_to_their_sync(proxy, messages, sqlstate):
    with local(proxy) as session:
        session.send(*messages, wire.Query("SHOW VERSION"))
        assert wire.errors(session.read_until()) == [sqlstate]
        assert not wire.errors(session.read_until())


@pytest.mark.parametrize("bytes_", [
    b"Q\0\0\0\x03", b"Q\xff\xff\xff\xff", b"Q\0\1\0\0" + bytes(65536), b"\x01\0\0\0\4",
    b"Q\0\0\0\x06ab", b"Q\0\0\0\4",
], ids=["short", "negative", "long", "type", "no_nul", "empty"])
def test_malformed_messages_end_the_session_and_nothing_else(proxy, bytes_):
    with local(proxy) as session:
        session.send(bytes_)
        assert wire.errors(session.read_to_end()) == ["08P01"]
    assert proxy.is_alive()


def test_other_messages_mean_nothing(proxy):
    with local(proxy) as session:
        session.send(wire.Flush(), wire.CopyData(b"x"), wire.CopyDone(), wire.Query("SHOW VERSION"))
        assert not wire.errors(session.read_until())


def test_commands_in_pieces_and_many_at_once(proxy):
    with local(proxy) as session:
        for byte in wire.Query("SHOW CLIENTS"):
            session.send(bytes([byte]))
        assert not wire.errors(session.read_until())
        session.send(*[wire.Query(f"SHOW {COMMANDS[n % len(COMMANDS)]}") for n in range(200)])
        for _ in range(200):
            assert not wire.errors(session.read_until())


def test_a_slow_reader_makes_no_queue_grow(proxy):
    before = proxy.rss_kb()
    flood = wire.Query("SHOW CLIENTS") * 1000 + wire.Query("SHOW CONFIG") * 3000
    with local(proxy) as session:
        thread = threading.Thread(target=session.send, args=(flood,))
        thread.start()
        time.sleep(1)
        assert proxy.rss_kb() - before < 20_000 * common.slowness()
        with local(proxy) as other:
            assert other.rows("SHOW VERSION")
        for _ in range(4000):
            assert not wire.errors(session.read_until())
        thread.join()


def test_a_hundred_consoles_while_sessions_come_and_go(proxy):
    stop = threading.Event()
    failures = []

    def load():
        while not stop.is_set():
            with wire.connect(proxy, user="app") as session:
                for n in range(5):
                    if wire.errors(session.query(INSERT.format(n))):
                        failures.append("load")

    def watch(n):
        with local(proxy) as session:
            for command in COMMANDS:
                if wire.errors(session.query(f"SHOW {command}")):
                    failures.append(command)
            if n % 3 == 0:
                session.send(wire.Query("SHOW CLIENTS"))  # and goes away

    loads = [threading.Thread(target=load) for _ in range(4)]
    watchers = [threading.Thread(target=watch, args=(n,)) for n in range(100)]
    for thread in loads + watchers:
        thread.start()
    for thread in watchers:
        thread.join()
    stop.set()
    for thread in loads:
        thread.join()
    assert not failures
    with local(proxy) as session:
        common.wait_until(lambda: len(session.rows("SHOW CLIENTS")) == 1, 5, "one client left")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_shutdown_while_lists_are_under_way(server, number):
    instance = Proxy(server, workers=4).start()
    consoles = [local(instance) for _ in range(8)]
    for session in consoles:
        session.send(wire.Query("SHOW CLIENTS") * 200)
    instance.process.send_signal(number)
    for session in consoles:
        session.read_to_end()
        session.close()
    instance.process.wait(20 * common.slowness())
    assert instance.stop() == 0
