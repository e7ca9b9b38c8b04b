"""The audit log: one JSON line per supplied key, who and what, and never a value (DESIGN section 6)."""

import json
import signal
import stat

import psycopg2
import pytest

from lib import common, schema, wire
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

INSERT = "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
SECRET = "tell-nobody-4711"


@pytest.fixture(params=["observe", "strip", "reject"])
def ruled(request, server):
    """(mode, proxy), with an audit file that is empty at first."""
    schema.clear_chunks(server)
    instance = Proxy(server, rules=[strip_rule(request.param)]).start()
    yield request.param, instance
    instance.stop()


VERDICTS = {"observe": "observed", "strip": "stripped", "reject": "refused"}


def test_a_record_tells_who_supplied_the_key_where_and_how(ruled):
    mode, proxy = ruled
    with wire.connect(proxy, user="app", application_name="nightly import") as session:
        pid = int(session.rows("SELECT pg_backend_pid()")[0][0])
        port = session.socket.getsockname()[1]
        session.query(INSERT + f"VALUES ('a', 4711, 1, '{SECRET}'), ('b', 4712, 2, 'x')")
    record, = proxy.wait_for_audit(1)
    assert record["verdict"] == VERDICTS[mode]
    assert record["mode"] == mode
    assert record["rule"] == "chunks"
    assert record["user"] == "app"
    assert record["database"] == "app"
    assert record["application_name"] == "nightly import"
    assert record["client"] == f"127.0.0.1:{port}"
    assert record["backend_pid"] == pid
    assert record["statement"] == "INSERT"
    assert record["protocol"] == "simple"
    assert record["rows"] == 2
    assert record["params"] == 0
    assert record.get("sqlstate") == ("428C9" if mode == "reject" else None)
    assert record["fingerprint"]
    assert "partition_key" in record["text"] and "?" in record["text"]
    assert {"seq", "time", "instance", "session"} <= record.keys()


def test_no_literal_gets_into_the_file(ruled):
    _, proxy = ruled
    with wire.connect(proxy, user="app") as session:
        for value in (f"'{SECRET}'", f"$${SECRET}$$", f"E'{SECRET}'", f"U&'{SECRET}'",
                      f"'{SECRET}'::text || 'x'"):
            session.query(INSERT + f"VALUES ('a', 471147, 1, {value}) -- {SECRET}")
        session.send(wire.Parse("", INSERT + f"VALUES ($1, $2, $3, '{SECRET}')"),
                     wire.Bind("", "", ["a", "471147", "1"]), wire.Execute(""), wire.Sync())
        session.read_until()
        session.send(wire.Parse("", INSERT + "VALUES ($1, $2, $3, $4)"),
                     wire.Bind("", "", ["a", "471147", "1", SECRET]), wire.Execute(""), wire.Sync())
        session.read_until()
    proxy.wait_for_audit(7)
    text = proxy.audit_file.read_text()
    assert SECRET not in text
    assert "471147" not in text


def test_parameters_are_counted(ruled):
    _, proxy = ruled
    with wire.connect(proxy, user="app") as session:
        session.send(wire.Parse("", INSERT + "VALUES ($1, $2, $3, $4), ($5, 7, $6, $7)"),
                     wire.Bind("", "", ["a", 1, 1, "x", "b", 2, "y"]), wire.Execute(""), wire.Sync())
        session.read_until()
    record, = proxy.wait_for_audit(1)
    assert (record["protocol"], record["rows"], record["params"]) == ("extended", 2, 1)


def test_each_execution_of_a_prepared_statement_is_a_record(ruled):
    """A refused statement is never prepared: one record, of the Parse."""
    mode, proxy = ruled
    with wire.connect(proxy, user="app") as session:
        session.send(wire.Parse("s", INSERT + "VALUES ($1, $2, $3, $4)"), wire.Sync())
        session.read_until()
        for n in range(3):
            session.send(wire.Bind("", "s", ["a", 1, n, "x"]), wire.Execute(""), wire.Sync())
            session.read_until()
        session.query(INSERT + "VALUES ('a', 1, 1, 'x')")
    records = proxy.wait_for_audit(1, protocol="simple") and proxy.audit_lines(protocol="extended")
    assert len(records) == (1 if mode == "reject" else 3)


def test_the_numbers_have_no_gap_and_lines_are_whole(ruled):
    _, proxy = ruled
    sessions = [wire.connect(proxy, user="app") for _ in range(10)]
    for n in range(20):
        for session in sessions:
            session.send(wire.Query(INSERT + f"VALUES ('a', {n}, {n}, 'x')"))
        for session in sessions:
            session.read_until()
    for session in sessions:
        session.close()
    records = proxy.wait_for_audit(200)
    assert len(records) == 200
    first = records[0]["seq"]
    assert [record["seq"] for record in records] == list(range(first, first + 200))
    assert len({record["session"] for record in records}) == 10


def test_no_key_no_record(ruled):
    _, proxy = ruled
    with wire.connect(proxy, user="app") as session:
        session.query("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'partition_key')")
        session.query("SELECT partition_key FROM chunks")
        session.query(INSERT + "VALUES ('a', 5, 1, 'x')")
    records = proxy.wait_for_audit(1)
    assert len(records) == 1


def test_the_file_survives_a_restart_and_is_private(ruled):
    _, proxy = ruled
    for _ in range(2):
        with wire.connect(proxy, user="app") as session:
            session.query(INSERT + "VALUES ('a', 5, 1, 'x')")
        proxy.restart()
    records = proxy.audit_lines(event="supplied")
    assert len(records) == 2
    assert records[1]["seq"] > records[0]["seq"]
    assert stat.S_IMODE(proxy.audit_file.stat().st_mode) == 0o600


def test_hostile_names_stay_inside_their_fields(ruled):
    """What a client chooses freely must not forge a line or a field."""
    _, proxy = ruled
    name = 'x","user":"postgres"}\n{"seq":1,"rule":"forged"} \\ \x01 é'
    with wire.connect(proxy, user="app", application_name=name) as session:
        session.query(INSERT + "VALUES ('a', 5, 1, 'x')")
    record, = proxy.wait_for_audit(1)
    assert record["user"] == "app"
    assert "forged" in record["application_name"]
    lines = proxy.audit_file.read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines) and len(lines) == 1


def test_a_changed_application_name_is_the_one_recorded(ruled):
    _, proxy = ruled
    connection = psycopg2.connect(**proxy.params(user="app", application_name="at first"))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SET application_name = 'later'")
        try:
            cursor.execute(INSERT + "VALUES ('a', 5, 1, 'x')")
        except psycopg2.Error:
            pass
    connection.close()
    record, = proxy.wait_for_audit(1)
    assert record["application_name"] == "later"


def test_a_prepared_statement_is_told_with_the_name_and_the_mode_of_each_execution(server):
    """What the records have in common is rendered once; what changes between them is not."""
    schema.clear_chunks(server)
    proxy = Proxy(server, rules=[strip_rule("observe")]).start()
    with wire.connect(proxy, user="app", application_name="at first") as session:
        session.send(wire.Parse("s", INSERT + "VALUES ($1, $2, $3, $4)"), wire.Sync())
        session.read_until()

        def execute(times=1):
            before = len(proxy.audit_lines(event="supplied"))
            for n in range(times):
                session.send(wire.Bind("", "s", ["a", 58, n, "x"]), wire.Execute(""), wire.Sync())
                session.read_until()
            return proxy.wait_for_audit(before + times)[before:]

        records = execute(2)
        session.query("SET application_name = 'la\"ter'")
        records += execute(2)
        session.query("BEGIN; SET LOCAL application_name = 'for a while'")
        records += execute()
        session.query("COMMIT")
        proxy.rules = [strip_rule("reject")]
        proxy.write_config()
        mark = len(proxy.log())
        proxy.process.send_signal(signal.SIGHUP)
        common.wait_until(lambda: "SIGHUP: the configuration was reloaded" in proxy.log()[mark:], 5,
                          "the changed mode")
        records += execute()
    proxy.stop()
    assert [record["application_name"] for record in records] == \
        ["at first", "at first", 'la"ter', 'la"ter', "for a while", 'la"ter']
    assert [record["mode"] for record in records] == ["observe"] * 5 + ["reject"]
    same = [{name: value for name, value in record.items()
             if name not in ("seq", "time", "application_name", "mode")} for record in records]
    assert same == [same[0]] * 6
    assert same[0]["verdict"] == "observed"
