"""The gate: what waits, what never waits, and every way in which a wait ends (DESIGN section 4)."""

import signal
import time

import pytest

from lib import common, schema, wire
from lib.gate import Gate
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

INSERT = "INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', {}, 'x')"


@pytest.fixture
def proxy(server):
    schema.clear_chunks(server)
    instance = Proxy(server, rules=[strip_rule()], hold_ttl="2s").start()
    yield instance
    Gate(instance).release()
    assert instance.stop() == 0


@pytest.fixture
def gate(proxy):
    return Gate(proxy)


def rows(server):
    return server.psql("SELECT count(*) FROM chunks").strip()


def test_a_write_waits_and_goes_on_when_the_gate_opens(server, proxy, gate):
    with wire.connect(proxy, user="app") as session:
        gate.hold()
        session.send(wire.Query(INSERT.format(1)))
        gate.wait_for_held()
        assert session.is_quiet()
        assert rows(server) == "0"
        gate.release()
        assert "C" in [m.kind for m in session.read_until()]
    assert rows(server) == "1"
    assert gate.state()["held"] == 0


@pytest.mark.parametrize("messages", [
    [wire.Parse("", INSERT.format(1)), wire.Bind("", ""), wire.Execute(), wire.Sync()],
    [wire.Bind("", "prepared"), wire.Execute(), wire.Sync()],
    [wire.Query("EXECUTE by_text")],
], ids=["parse", "bind_of_a_named_statement", "sql_execute"])
def test_every_road_to_a_write_waits(server, proxy, gate, messages):
    with wire.connect(proxy, user="app") as session:
        session.send(wire.Parse("prepared", INSERT.format(1)), wire.Sync())
        session.read_until()
        session.query("PREPARE by_text AS " + INSERT.format(1))
        gate.hold()
        session.send(*messages)
        gate.wait_for_held()
        assert rows(server) == "0"
        gate.release()
        assert not wire.errors(session.read_until())
    assert rows(server) == "1"


def test_reads_and_other_tables_never_wait(proxy, gate):
    with wire.connect(proxy, user="app") as session:
        session.query("CREATE TEMP TABLE other (a int)")
        gate.hold()
        assert session.rows("SELECT count(*) FROM chunks") == [["0"]]
        assert not wire.errors(session.query("INSERT INTO other VALUES (1)"))
        assert gate.state()["held_total"] == 0


def test_a_session_inside_a_transaction_never_waits(server, proxy, gate):
    with wire.connect(proxy, user="app") as session:
        session.query("BEGIN")
        gate.hold()
        assert not wire.errors(session.query(INSERT.format(1)))
        assert not wire.errors(session.query("COMMIT"))
    assert rows(server) == "1"


def test_a_pipelined_write_behind_an_open_transaction_never_waits(server, proxy, gate):
    with wire.connect(proxy, user="app") as session:
        gate.hold()
        session.send(wire.Query("BEGIN"), wire.Query("SELECT pg_sleep(0.2)"),
                     wire.Query(INSERT.format(1)), wire.Query("COMMIT"))
        for _ in range(4):
            assert not wire.errors(session.read_until())
    assert rows(server) == "1"


def test_a_pipelined_write_behind_a_finished_statement_waits(server, proxy, gate):
    with wire.connect(proxy, user="app") as session:
        gate.hold()
        session.send(wire.Query("SELECT pg_sleep(0.2)"), wire.Query(INSERT.format(1)))
        session.read_until()
        gate.wait_for_held()
        assert rows(server) == "0"
        gate.release()
        session.read_until()
    assert rows(server) == "1"


def test_the_hold_ends_with_its_time_to_live(server, proxy, gate):
    with wire.connect(proxy, user="app") as session:
        gate.hold(ttl_ms=300)
        began = time.monotonic()
        assert not wire.errors(session.query(INSERT.format(1)))
        waited = time.monotonic() - began
    assert 0.15 < waited < 0.3 + 0.2 * common.slowness()
    assert gate.state()["expired_total"] == 1
    assert rows(server) == "1"


def test_more_than_may_be_held_go_to_the_server(server):
    """PostgreSQL's lock is the fence for them; those that are held stay so."""
    schema.clear_chunks(server)
    instance = Proxy(server, rules=[strip_rule()], hold_ttl="20s", max_held_clients=2).start()
    gate = Gate(instance)
    gate.hold(ttl_ms=20000)
    sessions = [wire.connect(instance, user="app") for _ in range(5)]
    for n, session in enumerate(sessions):
        session.send(wire.Query(INSERT.format(n)))
        common.wait_until(lambda: gate.state()["held"] + gate.state()["overflow_total"] == n + 1)
    for session in sessions[2:]:
        assert not wire.errors(session.read_until())
    assert rows(server) == "3"
    state = gate.state()
    assert (state["held"], state["overflow_total"]) == (2, 3)
    sessions[0].cancel()  # makes a place
    assert wire.errors(sessions[0].read_until()) == ["57014"]
    sessions[4].send(wire.Query(INSERT.format(4)))
    gate.wait_for_held(2)
    gate.release()
    for session in (sessions[1], sessions[4]):
        assert not wire.errors(session.read_until())
    assert rows(server) == "5"
    for session in sessions:
        session.close()
    assert instance.stop() == 0


def test_a_held_client_that_goes_away_is_never_executed(server, proxy, gate):
    for leave in ("close", "reset"):
        session = wire.connect(proxy, user="app")
        gate.hold()
        session.send(wire.Query(INSERT.format(1)))
        gate.wait_for_held()
        getattr(session, leave)()
        gate.wait_for_held(0)
        gate.release()
    time.sleep(0.2)
    assert rows(server) == "0"
    assert gate.state()["dropped_total"] == 2


def test_a_held_query_can_be_cancelled_and_the_session_goes_on(server, proxy, gate):
    with wire.connect(proxy, user="app") as session:
        gate.hold()
        session.send(wire.Query(INSERT.format(1)))
        gate.wait_for_held()
        session.cancel()
        answer = session.read_until()
        assert wire.errors(answer) == ["57014"]
        assert answer[-1].body == b"I"
        assert session.rows("SELECT 1") == [["1"]]
    assert rows(server) == "0"


def test_a_held_batch_can_be_cancelled_and_is_skipped_to_its_sync(server, proxy, gate):
    with wire.connect(proxy, user="app") as session:
        gate.hold()
        session.send(wire.Parse("", INSERT.format(1)), wire.Bind("", ""), wire.Execute())
        gate.wait_for_held()
        session.cancel()
        assert session.read().sqlstate == "57014"
        session.send(wire.Execute(), wire.Sync(), wire.Query("SELECT 2"))
        assert [m.kind for m in session.read_until()] == ["Z"]
        assert [m.values() for m in session.read_until() if m.kind == "D"] == [[b"2"]]
    assert rows(server) == "0"


def test_a_held_batch_with_a_large_value_can_be_cancelled(server, proxy, gate):
    """A Bind is held by its name alone; what is behind the name is still to come when it is dropped."""
    value = "x" * 300_000
    with wire.connect(proxy, user="app") as session:
        session.send(wire.Parse("s", INSERT.format(1).replace("'x'", "$1")), wire.Sync())
        session.read_until()
        gate.hold()
        session.send(wire.Bind("", "s", [value])[:70_000])
        gate.wait_for_held()
        session.cancel()
        assert session.read().sqlstate == "57014"
        session.send(wire.Bind("", "s", [value])[70_000:], wire.Execute(), wire.Sync())
        assert [m.kind for m in session.read_until()] == ["Z"]
        gate.release()
        session.send(wire.Bind("", "s", [value]), wire.Execute(), wire.Sync())
        assert not wire.errors(session.read_until())
    assert rows(server) == "1"


@pytest.mark.parametrize("cut", [6, 8, 11, 200, 70_000])
def test_a_long_bind_goes_through_wherever_it_is_cut(server, cut):
    schema.clear_chunks(server)
    small = Proxy(server, rules=[strip_rule()], max_packet_size="64kB").start()
    with wire.connect(small, user="app") as session:
        session.send(wire.Parse("s", INSERT.format(1).replace("'x'", "$1")), wire.Sync())
        session.read_until()
        bind = wire.Bind("", "s", ["x" * 300_000])
        session.send(bind[:cut])
        time.sleep(0.05)
        session.send(bind[cut:], wire.Execute(), wire.Sync())
        assert not wire.errors(session.read_until())
    assert small.stop() == 0
    assert rows(server) == "1"


def test_a_repeatable_read_session_waits_also_to_read(proxy, gate):
    """Its snapshot would be older than an in-place rewrite, and see an empty table."""
    with wire.connect(proxy, user="app") as session:
        gate.hold()
        session.send(wire.Query("BEGIN ISOLATION LEVEL REPEATABLE READ"))
        gate.wait_for_held()
        gate.release()
        session.read_until()
        session.query("SELECT 1")
        assert gate.state()["snapshots"] == 1
        session.query("COMMIT")
        assert gate.state()["snapshots"] == 0


def test_writes_in_flight_are_counted_until_their_transaction_ends(proxy, gate):
    with wire.connect(proxy, user="app") as session:
        session.query("BEGIN")
        session.query(INSERT.format(1))
        assert gate.state()["inflight_writes"] == 1
        session.query("ROLLBACK")
        assert gate.state()["inflight_writes"] == 0
        session.query("BEGIN")
        session.query(INSERT.format(1))
    common.wait_until(lambda: gate.state()["inflight_writes"] == 0, 5, "the session's end")


def test_many_held_sessions_are_all_released(server, proxy, gate):
    sessions = [wire.connect(proxy, user="app") for _ in range(80)]
    gate.hold()
    for n, session in enumerate(sessions):
        session.send(wire.Query(INSERT.format(n)))
    gate.wait_for_held(80)
    gate.release()
    for session in sessions:
        assert not wire.errors(session.read_until())
        session.close()
    assert rows(server) == "80"


# --- a configuration taken up while it runs ---

def reload(proxy, mode):
    proxy.rules = [strip_rule(mode)]
    proxy.write_config()
    proxy.process.send_signal(signal.SIGHUP)


@pytest.fixture
def computing(server):
    """Where statements are others after the flip."""
    schema.clear_chunks(server)
    instance = Proxy(server, rules=[strip_rule("compute")], hold_ttl="2s").start()
    yield instance
    Gate(instance).release()
    assert instance.stop() == 0


def begin(session):
    """A transaction that has not come to the table yet."""
    for sql in ("CREATE TEMP TABLE other (a int)", "BEGIN", "INSERT INTO other VALUES (1)"):
        assert not wire.errors(session.query(sql)), sql


@pytest.mark.parametrize("messages", [
    [wire.Query(INSERT.format(1))],
    [wire.Bind("", "prepared"), wire.Execute(), wire.Sync()],
    [wire.Parse("", "INSERT INTO other VALUES (2)"), wire.Bind("", ""), wire.Execute(),
     wire.Parse("", INSERT.format(1)), wire.Bind("", ""), wire.Execute(), wire.Sync()],
], ids=["query", "bind", "inside_a_batch"])
def test_under_compute_the_first_write_of_a_transaction_waits(server, computing, messages):
    """After the flip it is another text."""
    gate = Gate(computing)
    with wire.connect(computing, user="app") as session:
        session.send(wire.Parse("prepared", INSERT.format(1)), wire.Sync())
        session.read_until()
        begin(session)
        gate.hold()
        session.send(*messages)
        gate.wait_for_held()
        gate.release()
        assert not wire.errors(session.read_until())
        assert not wire.errors(session.query("COMMIT"))
    assert rows(server) == "1"


@pytest.mark.parametrize("first", [
    [wire.Query(INSERT.format(1))],
    [wire.Query("SELECT count(*) FROM chunks")],
    [wire.Bind("", "reads_chunks"), wire.Execute(), wire.Sync()],
    [wire.Describe("S", "reads_chunks"), wire.Sync()],
    [wire.Query("ROLLBACK"), wire.Query("BEGIN ISOLATION LEVEL REPEATABLE READ"),
     wire.Query("SELECT 1")],
], ids=["insert", "select", "prepared_select", "describe", "snapshot"])
def test_under_compute_a_transaction_that_the_flip_waits_for_passes(server, computing, first):
    gate = Gate(computing)
    with wire.connect(computing, user="app") as session:
        session.send(wire.Parse("reads_chunks", "SELECT count(*) FROM chunks"), wire.Sync())
        session.read_until()
        begin(session)
        for message in first:
            session.send(message)
        for message in first:
            if message[:1] in (b"Q", b"S"):
                session.read_until()
        gate.hold()
        assert not wire.errors(session.query(INSERT.format(2)))
        assert gate.state()["held_total"] == 0
        session.query("COMMIT")


@pytest.mark.parametrize("messages", [
    [wire.Query(INSERT.format(1))],
    [wire.Bind("", "prepared", ["x" * 200000]), wire.Execute(), wire.Sync()],
], ids=["query", "bind"])
def test_a_statement_held_inside_a_transaction_is_cancelled_by_the_server(server, computing, messages):
    gate = Gate(computing)
    with wire.connect(computing, user="app") as session:
        session.send(wire.Parse("prepared", INSERT.format(1).replace("'x'", "$1")), wire.Sync())
        session.read_until()
        begin(session)
        gate.hold()
        session.send(*messages)
        gate.wait_for_held()
        session.cancel()
        answer = session.read_until()
        assert wire.errors(answer) == ["57014"]
        assert wire.errors(session.query("SELECT 1")) == ["25P02"]
        gate.release()
        assert not wire.errors(session.query("ROLLBACK"))
        assert not wire.errors(session.query(INSERT.format(1)))
    assert rows(server) == "1"


def test_a_client_that_goes_away_while_held_inside_a_transaction_writes_nothing(server, computing):
    gate = Gate(computing)
    with wire.connect(computing, user="app") as session:
        begin(session)
        gate.hold()
        session.send(wire.Query(INSERT.format(1)))
        gate.wait_for_held()
    gate.wait_for_held(0)
    gate.release()
    assert rows(server) == "0"


def test_a_mode_changes_at_sighup_for_open_sessions(proxy):
    with wire.connect(proxy, user="app") as session:
        supplying = INSERT.format(1).replace("chunk_index", "partition_key, chunk_index").replace(
            "'a', ", "'a', 5, ")
        assert not wire.errors(session.query(supplying))
        reload(proxy, "reject")
        common.wait_until(lambda: wire.errors(session.query(supplying)), 5, "mode = reject")
        reload(proxy, "observe")
        common.wait_until(lambda: not wire.errors(session.query(supplying)), 5, "mode = observe")
    proxy.wait_for_audit(1, verdict="observed")


KEPT = "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) VALUES ('a', 5, $1, 'x')"


@pytest.mark.parametrize("mode,messages", [
    ("observe", (wire.Parse("s", KEPT), wire.Sync(), wire.Close("S", "s"), wire.Sync())),
    # What mode compute cannot make anew behind the client's back.
    ("compute", (wire.Query(f"PREPARE s (int) AS {KEPT}"), wire.Query("DEALLOCATE s"))),
    ("compute", (wire.Parse("s", KEPT + " " * 40000), wire.Sync(), wire.Close("S", "s"), wire.Sync())),
], ids=["observe", "compute-sql", "compute-long"])
def test_a_statement_prepared_while_the_key_is_sent_is_shown(proxy, gate, mode, messages):
    reload(proxy, mode)
    with wire.connect(proxy, user="app") as session:
        def prepared():
            session.send(*messages)
            session.read_until()
            session.read_until()
            return gate.state()["unstripped"] == 1
        common.wait_until(prepared, 5, f"mode = {mode}")
    common.wait_until(lambda: gate.state()["unstripped"] == 0, 5, "the session's end")


@pytest.mark.parametrize("broken", ["workers = 7", "colour = blue"])
def test_a_file_that_cannot_be_taken_up_changes_nothing(proxy, broken):
    proxy.config.write_text(proxy.config.read_text().replace("[rule", f"{broken}\n[rule", 1)
                            .replace("workers = 2\n", "" if "workers" in broken else "workers = 2\n")
                            .replace("mode = strip", "mode = reject"))
    proxy.process.send_signal(signal.SIGHUP)
    common.wait_until(lambda: "stays as it was" in proxy.log(), 5, "the refusal in the log")
    with wire.connect(proxy, user="app") as session:
        assert not wire.errors(session.query(
            "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
            "VALUES ('a', 5, 1, 'x')"))
