"""What is wrong with a configuration is said in one line, before anything listens."""

import json
import os
import signal
import socket
import subprocess

import psycopg2
import pytest

from lib import common, schema, wire
from lib.proxy import Proxy, render_config, strip_rule

pytestmark = pytest.mark.proxy

USAGE = {2}
REFUSED = {1, 2}


def serve(config):
    """Runs `serve` on a configuration that must fail: (exit code, stderr's lines)."""
    done = subprocess.run([str(common.binary()), "serve", "--config", str(config)],
                          capture_output=True, text=True, timeout=30 * common.slowness())
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


def assert_fails(config, codes, *words):
    code, lines = serve(config)
    assert code in codes, lines
    assert len(lines) == 1, "not exactly one line:\n" + "\n".join(lines)
    for word in words:
        assert word in lines[0], f"{word!r} is not in: {lines[0]}"


@pytest.fixture
def settings(server):
    return {"listen": f"127.0.0.1:{common.free_port()}",
            "server": f"host={server.host} port={server.port}",
            "control": f"host={server.host} port={server.port} user=pgsluice dbname=app"}


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "pgsluice.ini"
        path.write_text(text)
        return path

    return write


def test_a_missing_file_is_named(tmp_path):
    assert_fails(tmp_path / "nowhere.ini", USAGE, "nowhere.ini")


@pytest.mark.parametrize("key,value", [
    ("worker", "2"), ("Workers ", "two"), ("workers", "0"), ("workers", "-1"), ("workers", "1000000"),
    ("workers", "2 threads"), ("listen", "nonsense"), ("listen", "127.0.0.1:99999"), ("listen", ""),
    ("listen", "127.0.0.1"), ("server", "no such keyword=1"), ("server", "host"),
    ("log_format", "xml"), ("client_tls", "perhaps"), ("max_client_conn", "many"),
    ("client_login_timeout", "soon"), ("audit_fsync", "sometimes"),
])
def test_a_bad_key_or_value_is_named_with_file_and_line(settings, written, key, value):
    settings[key] = value
    text = render_config(settings)
    line = text.splitlines().index(f"{key} = {value}") + 1
    assert_fails(written(text), USAGE, f"pgsluice.ini:{line}:", key.strip())


@pytest.mark.parametrize("key,value", [
    ("modus", "strip"), ("mode", "maybe"), ("mode", ""), ("on_mismatch", "ignore"),
    ("unqualified", "sometimes"), ("on_unparsed", "maybe"), ("table", "a.b.c.d"), ("table", ""), ("column", ""),
    ("expression", ""),
])
def test_a_bad_rule_is_named_with_file_and_line(settings, written, key, value):
    text = render_config(settings, [strip_rule(**{key: value})])
    line = text.splitlines().index(f"{key} = {value}") + 1
    assert_fails(written(text), USAGE, f"pgsluice.ini:{line}:", key)


@pytest.mark.parametrize("key", ["listen", "server"])
def test_a_missing_required_key_is_named(settings, written, key):
    del settings[key]
    assert_fails(written(render_config(settings)), USAGE, "pgsluice.ini", key)


@pytest.mark.parametrize("key", ["table", "column", "expression"])
def test_an_incomplete_rule_is_named(settings, written, key):
    assert_fails(written(render_config(settings, [strip_rule(**{"mode": "strip", key: None})])),
                 USAGE, "pgsluice.ini", key)


def test_a_rule_needs_a_control_connection(settings, written):
    del settings["control"]
    assert_fails(written(render_config(settings, [strip_rule()])), USAGE, "pgsluice.ini", "control")


def test_an_unknown_section_is_named(settings, written):
    assert_fails(written(render_config(settings) + "[ruel chunks]\ntable = chunks\n"), USAGE, "ruel")


def test_a_key_given_twice_is_named(settings, written):
    assert_fails(written(render_config(settings) + "workers = 1\nworkers = 2\n"), USAGE, "workers")


def test_a_line_that_is_no_setting_is_named(settings, written):
    assert_fails(written(render_config(settings) + "what is this\n"), USAGE, "pgsluice.ini:")


def test_a_port_in_use_is_named(settings, written):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings["listen"] = f"127.0.0.1:{port}"
        assert_fails(written(render_config(settings)), REFUSED, str(port))


def test_an_impossible_address_is_named(settings, written):
    settings["listen"] = "203.0.113.1:6432"  # nobody has it
    assert_fails(written(render_config(settings)), REFUSED, "203.0.113.1")


def test_an_impossible_socket_path_is_named(settings, written, tmp_path):
    settings["listen"] += f", unix:{tmp_path}/missing/.s.PGSQL.6432"
    assert_fails(written(render_config(settings)), REFUSED, "missing/.s.PGSQL.6432")


def test_an_audit_file_that_cannot_be_opened_is_named(settings, written, tmp_path):
    settings["audit"] = f"{tmp_path}/missing/audit.jsonl"
    assert_fails(written(render_config(settings, [strip_rule()])), REFUSED, "missing/audit.jsonl")


def test_an_unreachable_server_is_named(settings, written):
    port = common.free_port()
    settings["server"] = f"host=127.0.0.1 port={port}"
    assert_fails(written(render_config(settings)), REFUSED, str(port))


def test_an_unreachable_control_server_is_named(settings, written):
    port = common.free_port()
    settings["control"] = f"host=127.0.0.1 port={port} user=pgsluice dbname=app"
    assert_fails(written(render_config(settings, [strip_rule()])), REFUSED, str(port))


@pytest.mark.parametrize("password", ["password=wrong", ""], ids=["wrong", "missing"])
def test_a_wrong_control_password_is_said(settings, written, server, password, auth_roles):
    role = auth_roles["scram-sha-256"]
    settings["control"] = f"host={server.host} port={server.port} user={role} dbname=app {password}"
    assert_fails(written(render_config(settings, [strip_rule()])), REFUSED, "password")


@pytest.mark.parametrize("key,value", [
    ("table", "public.chanks"), ("table", "privat.chunks"), ("column", "partition_kay"),
    ("database", "epp")])
def test_what_the_server_does_not_have_is_named(settings, written, key, value):
    code, lines = serve(written(render_config(settings, [strip_rule(**{key: value})])))
    assert code in REFUSED and len(lines) == 1, lines
    assert value.rpartition(".")[2] in lines[0]


@pytest.mark.parametrize("port", ["99999", "0", "-1", "5432x", "5432,70000"])
def test_an_impossible_port_of_the_server_is_named(settings, written, port):
    hosts = "127.0.0.1,127.0.0.1" if "," in port else "127.0.0.1"
    settings["server"] = f"host={hosts} port={port}"
    assert_fails(written(render_config(settings)), USAGE, port.rpartition(",")[2], "1 to 65535")


MISTAKEN_EXPRESSIONS = {
    "mod(hashtext(collectoin_id::text), 100)": 'column "collectoin_id" does not exist',
    "mod(hashtextt(collection_id::text), 100)": "function hashtextt(text) does not exist",
    "mod(hashtext(collection_id::text), 100": "syntax error",
    "1; SELECT 2": "syntax error",
    "partition_key + 1": 'column "partition_key" does not exist',
}


@pytest.mark.parametrize("expression", MISTAKEN_EXPRESSIONS)
def test_an_expression_that_the_server_does_not_understand_is_named(settings, written, server,
                                                                    expression):
    """check refuses it; to serve in a mode that does without it is worth a warning."""
    rule = strip_rule(expression=expression)
    path = written(render_config(settings, [rule]))
    done = subprocess.run([str(common.binary()), "check", "--config", str(path)],
                          capture_output=True, text=True, timeout=30 * common.slowness())
    assert done.returncode == 1 and MISTAKEN_EXPRESSIONS[expression] in done.stderr, done.stderr
    proxy = Proxy(server, rules=[rule]).start()
    assert MISTAKEN_EXPRESSIONS[expression] in proxy.log()
    with wire.connect(proxy) as session:
        assert session.rows("SELECT 1") == [["1"]]
    assert proxy.stop() == 0


def test_an_expression_that_cannot_be_computed_is_refused(settings, written, server):
    schema.create_database(server, "mistaken")
    schema.create_chunks(server, "partitioned", "mistaken")
    rule = strip_rule("compute", database="mistaken", expression="mod(hashtextt(collection_id), 100)")
    assert_fails(written(render_config(settings, [rule])), REFUSED, "function hashtextt(character varying)")


def test_a_table_partitioned_by_the_column_cannot_be_stripped(settings, written, server):
    """Neither a trigger nor a generated column can compute it there (SQLSTATE 42P17)."""
    schema.create_database(server, "listed")
    schema.create_chunks(server, "partitioned", "listed")
    settings["control"] = f"host={server.host} port={server.port} user=pgsluice dbname=listed"
    text = render_config(settings, [strip_rule("strip", database="listed")])
    assert_fails(written(text), REFUSED, "chunks", "partition")


def test_a_partitioned_table_may_be_observed_and_rejected(server):
    schema.create_database(server, "listed2")
    schema.create_chunks(server, "partitioned", "listed2")
    control = f"host={server.host} port={server.port} user=pgsluice dbname=listed2"
    for mode in ("observe", "reject"):
        instance = Proxy(server, rules=[strip_rule(mode, database="listed2")], control=control).start()
        with wire.connect(instance, database="listed2") as session:
            codes = wire.errors(session.query(
                "INSERT INTO chunks (collection_id, partition_key, chunk_index, content)"
                " VALUES ('a', 0, 1, 'x')"))
            assert codes == ([] if mode == "observe" else ["428C9"])
        assert instance.stop() == 0


@pytest.mark.parametrize("arguments", [
    [], ["serve"], ["serve", "--config"], ["serve", "--config", "a", "--config", "b"],
    ["nonsense", "--config", "x"], ["serve", "--nonsense"], ["cutover"], ["cutover", "--config", "x"],
    ["verify", "chunks"], ["plan", "a", "b", "--config", "x"],
], ids=" ".join)
def test_bad_usage_is_exit_code_2(arguments):
    done = subprocess.run([str(common.binary()), *arguments], capture_output=True, text=True,
                          timeout=20 * common.slowness())
    assert done.returncode == 2
    assert done.stderr and not done.stdout


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_go_to_stdout(option):
    done = subprocess.run([str(common.binary()), option], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0
    assert "pgsluice" in done.stdout and not done.stderr


COMMANDS = ["serve", "check", "plan", "cutover", "rollback", "finish", "pause", "resume", "abort", "verify",
            "status", "audit verify", "audit report", "audit tail"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_its_help(command):
    long, short = (subprocess.run([str(common.binary()), *command.split(), option], capture_output=True, text=True,
                                  timeout=20) for option in ("--help", "-h"))
    assert long.returncode == 0 and f"pgsluice {command} " in long.stdout
    assert short.returncode == 0 and short.stdout == long.stdout


def test_check_says_what_each_rule_would_do(strip_proxy):
    done = strip_proxy.command("check")
    assert done.returncode == 0, done.stderr
    assert "chunks" in done.stdout and "strip" in done.stdout


# --- check: the way of a session to its server ---

SECRET = ("SCRAM-SHA-256$4096:klWz/536Qgkmmo+WLwZxUA==$wm/VdcMHTjKTMvqgkz1KMpfMV7NzZlHwtPZbwZjhxc0="
          ":MThlUbBa2ehRth6qt+BOWZOSslVzB/ia5p1wuoe8jG0=")
AUTH_QUERY = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1"


@pytest.fixture
def checked(server, tmp_path):
    """Runs check on a relay's configuration with more keys: the finished process."""
    superuser = f"host={server.host} port={server.port} user=postgres dbname=app"

    def run(*options, **keys):
        return Proxy(server, **{"control": superuser, **keys}).command_on_written("check", *options)
    return run


def report(done):
    """The exit code and what --json says."""
    return done.returncode, json.loads(done.stdout)


def test_check_reports_a_login_that_the_server_answers(checked):
    code, said = report(checked("--json"))
    assert code == 0 and said["login"] == {
        "client_tls": "disable", "server_tls": "prefer", "scram": "server"}
    assert [sorted(host) for host in said["hosts"]] == [["host", "port"]]
    text = checked().stdout
    assert "TLS            with clients: disable, with the server: prefer" in text
    assert "logins         SCRAM is answered by the server\n" in text


def test_check_reports_a_login_that_pgsluice_answers(checked, server, pki, tmp_path):
    (tmp_path / "users").write_text(f'"one" "{SECRET}"\n"two" "x"\n')
    (tmp_path / "users").chmod(0o600)
    keys = {"auth_file": tmp_path / "users", "auth_query": AUTH_QUERY, "client_tls": "require",
            "client_tls_cert": pki / "one.crt", "client_tls_key": pki / "one.key",
            "server": f"host=127.0.0.1,localhost port={server.port} sslmode=allow "
                      "target_session_attrs=read-write"}
    code, said = report(checked("--json", **keys))
    assert (code, said["summary"]) == (0, "ok: a relay without rules")
    assert said["login"] == {
        "client_tls": "require", "server_tls": "allow", "scram": "pgsluice",
        "auth_file_users": 2, "auth_query": "runs"}
    assert said["hosts"] == [
        {"host": name, "port": str(server.port), "role": "read-write"}
        for name in ("127.0.0.1", "localhost")]
    text = checked(**keys).stdout
    assert f"  host         localhost, port {server.port}: read-write\n" in text
    assert "SCRAM is answered by pgsluice; auth_file has 2 users; auth_query runs\n" in text


@pytest.mark.parametrize("keys, code, complaint", [
    ({"auth_file": "/nonexistent/users"}, 2, "auth_file: /nonexistent/users: No such file"),
    ({"auth_query": "SELECT no_such_function($1)"}, 1, "auth_query: function no_such_function"),
    ({"auth_query": "SELECT $1"}, 1, "auth_query gave"),
    ({"auth_query": AUTH_QUERY, "control": "{control} user=pgsluice dbname=app"}, 1,
     "permission denied for table pg_authid: the login of `control` needs a function"),
    ({"auth_query": AUTH_QUERY, "control": "{control} user=nobody dbname=app"}, 1,
     'auth_query: connection to server at "127.0.0.1"'),
    ({"client_tls": "allow", "client_tls_cert": "/nonexistent/crt", "client_tls_key": "/x"}, 2,
     "client_tls_cert: /nonexistent/crt: No such file"),
    ({"server": "{control} sslmode=verify-ca sslrootcert=/nonexistent/ca"}, 2,
     "sslrootcert: /nonexistent/ca: No such file"),
    ({"server": "{control} target_session_attrs=standby"}, 1,
     "no server is standby now (target_session_attrs). Of 1: 1 read-write."),
])
def test_check_says_why_nobody_could_log_in(checked, server, keys, code, complaint):
    control = f"host={server.host} port={server.port}"
    done = checked("--json", **{key: value.format(control=control) for key, value in keys.items()})
    assert report(done)[0] == code == report(done)[1]["exit"]
    assert complaint in done.stderr and complaint in report(done)[1]["summary"]


def test_sigterm_ends_with_0_and_removes_the_sockets(server):
    instance = Proxy(server).start()
    path = instance.dir / f".s.PGSQL.{instance.port}"
    assert path.is_socket()
    assert instance.stop() == 0
    assert not path.exists()


def test_sigterm_lets_transactions_finish_and_ends_idle_sessions(server):
    instance = Proxy(server).start()
    idle, busy = wire.connect(instance), wire.connect(instance)
    busy.query("CREATE TEMP TABLE t(a int)")
    busy.query("BEGIN")
    instance.process.terminate()
    last = idle.read_to_end()
    assert wire.errors(last) in ([], ["57P01"])
    assert wire.errors(busy.query("INSERT INTO t VALUES (1)")) == []
    answers = busy.send(wire.Query("COMMIT")).read_to_end()
    assert "CommandComplete COMMIT" in map(str, answers)
    assert wire.errors(answers) in ([], ["57P01"])
    assert instance.process.wait(10 * common.slowness()) == 0
    instance.assert_sane()


def test_a_stale_unix_socket_is_replaced(server):
    instance = Proxy(server).start()
    instance.kill9()
    instance.start()
    with wire.Connection(path=f"{instance.dir}/.s.PGSQL.{instance.port}") as connection:
        connection.start()
    assert instance.stop() == 0


def test_an_open_file_limit_is_survived(server):
    """When no more connections can be accepted, those that are there go on, and it recovers."""
    limited = Proxy(server)
    limited.write_config()
    command = ["sh", "-c", 'ulimit -n 40; exec "$0" serve --config "$1"',
               str(common.binary()), str(limited.config)]
    with open(limited.log_file, "ab") as log:
        limited.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                           env=os.environ)
    common.wait_until(limited._is_listening, 20, "pgsluice")
    with wire.connect(limited) as first:
        crowd = [wire.Connection.to(limited) for _ in range(60)]
        assert first.rows("SELECT 1") == [["1"]]
        for connection in crowd:
            connection.close()
        with wire.connect(limited) as last:
            assert last.rows("SELECT 1") == [["1"]]
    assert limited.is_alive()
    limited.kill9()


def test_the_server_may_be_reached_over_a_unix_socket(server, auth_roles, auth_password):
    instance = Proxy(server, **{"server": f"host={server.socket_dir} port={server.port}"}).start()
    for role in auth_roles.values():
        psycopg2.connect(**instance.params(user=role, password=auth_password)).close()
    assert instance.stop() == 0


def test_the_next_host_is_tried_when_the_first_is_away(server):
    instance = Proxy(server, **{
        "server": f"host=127.0.0.1,{server.host} port={common.free_port()},{server.port}"}).start()
    with wire.connect(instance) as session:
        assert session.rows("SELECT 1") == [["1"]]
    assert instance.stop() == 0


INSERT_WITH_KEY = ("INSERT INTO chunks (collection_id, partition_key, chunk_index, content)"
                   " VALUES ('a', 4711, 1, 'x')")


def test_sighup_brings_a_changed_rule_into_force_for_open_sessions(server):
    schema.clear_chunks(server)
    instance = Proxy(server, rules=[strip_rule("strip")]).start()
    with wire.connect(instance, user="app") as session:
        assert wire.errors(session.query(INSERT_WITH_KEY)) == []
        instance.rules = [strip_rule("reject")]
        instance.write_config()
        instance.process.send_signal(signal.SIGHUP)
        common.wait_until(lambda: wire.errors(session.query(INSERT_WITH_KEY)) == ["428C9"], 10,
                          "the changed rule")
    assert instance.stop() == 0


def test_sighup_with_a_bad_file_changes_nothing_and_says_why(server):
    schema.clear_chunks(server)
    instance = Proxy(server, rules=[strip_rule("reject")]).start()
    with wire.connect(instance, user="app") as session:
        instance.config.write_text("[pgsluice]\nworkers = none\n")
        mark = len(instance.log())
        instance.process.send_signal(signal.SIGHUP)
        common.wait_until(lambda: "pgsluice.ini:2" in instance.log()[mark:], 10, "the reason")
        assert wire.errors(session.query(INSERT_WITH_KEY)) == ["428C9"]
    assert instance.stop() == 0
