"""Cutover and rollback, again and again, while applications write: nothing fails, nothing is lost."""

import json
import threading
import time

import psycopg2
import pytest

from lib import common, schema, wire
from lib.pgserver import Server
from lib.proxy import Direct, Proxy, strip_rule

from ledger import READERS, WRITERS, Ledger, PreparedStarReader, rows_of_entry
from workers import UNUSUAL, Cancelled, Vanishing

ROUNDS = 3
BASE_ROWS = 5000


@pytest.fixture(scope="module")
def own_server():
    """A server of its own: other tests' sessions would be in the way of the locks."""
    instance = Server().start()
    schema.create_database(instance)
    yield instance
    instance.stop()


@pytest.fixture
def table(own_server):
    """The trigger's table with some rows in it."""
    schema.create_chunks(own_server)
    own_server.psql(
        "INSERT INTO chunks (collection_id, document_id, chunk_index, content)"
        f" SELECT 'collection ' || n % 37, 'base', n, repeat('x', 200) FROM generate_series(1, {BASE_ROWS}) n;"
        "ANALYZE chunks")
    return own_server


@pytest.fixture
def front(table):
    instance = Proxy(table, rules=[strip_rule("strip")]).start()
    yield instance
    instance.stop()


def run(proxy, *arguments, codes=(0,)):
    done = proxy.command(*arguments)
    assert done.returncode in codes, (
        f"{arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}\n{proxy.log()[-3000:]}")
    return done


def method(proxy):
    return json.loads(run(proxy, "verify", "chunks", "--json").stdout)["method"]


def is_generated(server):
    return server.psql("SELECT attgenerated FROM pg_attribute WHERE attrelid = 'chunks'::regclass"
                       " AND attname = 'partition_key'") == "s"


def leftovers(server):
    """Triggers and functions of the trigger era."""
    return server.psql("SELECT (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'chunks'::regclass)"
                       " + (SELECT count(*) FROM pg_proc WHERE proname = 'compute_partition_key')")


def test_the_ledger_balances_without_any_cutover(table):
    """The load itself, against the server."""
    workers = WRITERS + READERS + UNUSUAL + (PreparedStarReader,)
    with Ledger(Direct(table), table, workers=workers) as ledger:
        ledger.wait_for_writes(1000)
    ledger.check()
    assert len(ledger.reads) > 10


@pytest.mark.parametrize("damage,verdict", [
    ("DELETE FROM chunks WHERE id = (SELECT max(id) FROM chunks)", "I1"),
    ("INSERT INTO chunks (collection_id, document_id, chunk_index, content) SELECT collection_id,"
     " document_id, chunk_index, content FROM chunks ORDER BY id DESC LIMIT 1", "I2"),
    ("UPDATE chunks SET id = -id WHERE id = (SELECT max(id) FROM chunks WHERE document_id IN"
     " (SELECT document_id FROM chunks WHERE document_id <> 'base' GROUP BY 1 HAVING count(*) > 1))",
     "I3"),
    ("UPDATE chunks SET partition_key = 4711 WHERE id = 1", "I8"),
    ("UPDATE chunks SET content = 'changed' WHERE id = (SELECT max(id) FROM chunks)", "I8"),
])
def test_the_ledger_notices_damage(table, damage, verdict):
    with Ledger(Direct(table), table, workers=WRITERS) as ledger:
        ledger.wait_for_writes(100)
    ledger.check()
    table.psql(damage)
    with pytest.raises(AssertionError, match=verdict):
        ledger.check()


@pytest.mark.parametrize("outcome,damage,verdict", [
    ("undone", "INSERT INTO chunks (collection_id, document_id, chunk_index, content)"
     " VALUES ('a', '{0}', {1}, 'content of {0} {1}')", "statements that failed"),
    ("unknown", "DELETE FROM chunks WHERE document_id = '{0}' AND chunk_index = {1}",
     "parts of transactions"),
])
def test_the_ledger_notices_what_cancelled_and_vanished_clients_must_not_leave(table, outcome, damage,
                                                                             verdict):
    with Ledger(Direct(table), table, workers=WRITERS + (Cancelled, Vanishing)) as ledger:
        ledger.wait_for_writes(500)
    ledger.check()
    there = {tuple(line.split("\t")) for line in table.psql(
        "COPY (SELECT document_id, chunk_index FROM chunks) TO STDOUT").splitlines()}
    worker, number = next((worker, number) for entry in ledger.entries if entry.outcome == outcome
                          for worker, number in rows_of_entry(entry)
                          if outcome == "undone" or (worker, str(number)) in there)
    table.psql(damage.format(worker, number))
    with pytest.raises(AssertionError, match=verdict):
        ledger.check()


@pytest.mark.proxy
@pytest.mark.skipif(common.pg_major() < 12, reason="generated columns need PostgreSQL 12 or newer")
def test_cutovers_and_rollbacks_under_load_lose_nothing_and_disturb_nobody(table, front):
    primary_key = table.psql("SELECT pg_get_constraintdef(oid) FROM pg_constraint"
                             " WHERE conrelid = 'chunks'::regclass AND contype = 'p'")
    spans = []
    with Ledger(front, table, workers=WRITERS + READERS + UNUSUAL) as ledger:
        for _ in range(ROUNDS):
            for command in (["cutover", "chunks", "--yes", "--max-hold", "2s"], ["rollback", "chunks"]):
                ledger.wait_for_writes(300)
                begin = time.monotonic()
                run(front, *command)
                spans.append((command[0], begin, time.monotonic()))
                assert not ledger.errors, ledger.errors[:5]
                forward = command[0] == "cutover"
                assert is_generated(table) == forward
                assert method(front) == ("generated" if forward else "trigger")
                assert leftovers(table) == ("0" if forward else "2")
        ledger.wait_for_writes(300)
    ledger.check()
    assert primary_key == table.psql("SELECT pg_get_constraintdef(oid) FROM pg_constraint"
                                     " WHERE conrelid = 'chunks'::regclass AND contype = 'p'")
    for name, begin, end in spans:
        print(f"{name}: {end - begin:.2f} s, slowest write {ledger.slowest(begin, end) * 1000:.0f} ms,"
              f" slowest read {ledger.slowest_read(begin, end) * 1000:.0f} ms")
        # The hold's time-to-live and a lock timeout, with room for a busy machine.
        assert ledger.slowest(begin, end) < 6 * common.slowness()
    steps = [record["step"] for record in front.audit_lines(event="cutover")]
    assert steps, "the cutovers are not in the audit log"
    assert len(front.audit_lines(verdict="stripped")) > 0


WITH_KEY = "INSERT INTO chunks (collection_id, partition_key, document_id, chunk_index, content)"

# Prepared in one era and executed in the next: what a long-lived session has in its hands.
PREPARED = {
    "insert": ("INSERT INTO chunks (collection_id, document_id, chunk_index, content)"
               " VALUES ($1, $2, 1, 'x')", ["a", "insert"]),
    "insert_with_key": (WITH_KEY + " VALUES ($1, $2, $3, 1, 'x')", ["a", "4711", "insert_with_key"]),
    "insert_returning": (WITH_KEY + " VALUES ($1, $2, $3, 1, 'x') RETURNING id, partition_key",
                         ["a", "4711", "insert_returning"]),
    "insert_positional": ("INSERT INTO chunks VALUES (DEFAULT, $1, $2, $3, 1, 'x')",
                          ["a", "4711", "insert_positional"]),
    "insert_select": (WITH_KEY + " SELECT $1::varchar, $2::int, $3::varchar, 1, 'x'",
                      ["a", "4711", "insert_select"]),
    "update_key": ("UPDATE chunks SET partition_key = $1 WHERE id = 1", ["4711"]),
    "update_key_too": ("UPDATE chunks SET content = $1, partition_key = $2 WHERE id = 1",
                       ["changed", "4711"]),
    "upsert": (WITH_KEY.replace("(", "(id, ") + " VALUES (1, $1, $2, 'base', 1, 'x') ON CONFLICT"
               " (id, collection_id, partition_key) DO UPDATE SET partition_key = EXCLUDED.partition_key,"
               " content = EXCLUDED.content", ["collection 1", "4711"]),
    "select": ("SELECT id, partition_key FROM chunks WHERE id = $1", ["1"]),
    "select_star": ("SELECT * FROM chunks WHERE id = $1", ["1"]),
    "insert_returning_star": (WITH_KEY + " VALUES ($1, $2, $3, 1, 'x') RETURNING *",
                              ["a", "4711", "insert_returning_star"]),
}


def prepare_all(session):
    for name, (sql, _) in PREPARED.items():
        session.send(wire.Parse(name, sql), wire.Sync())
        assert wire.errors(session.read_until()) == [], name


def execute_all(session, era):
    """Runs each of PREPARED; what failed, in words."""
    failures = []
    for name, (_, values) in PREPARED.items():
        codes = wire.errors(session.send(
            wire.Bind("", name, values), wire.Execute(""), wire.Sync()).read_until())
        failures += [f"{name} {era}: {code}" for code in codes[:1]]
    return failures


@pytest.mark.proxy
@pytest.mark.skipif(common.pg_major() < 12, reason="generated columns need PostgreSQL 12 or newer")
def test_prepared_statements_outlive_cutover_and_rollback(table, front):
    """DESIGN section 5: after the flip, prepared statements of open sessions go on working."""
    failures = []

    with wire.connect(front, user="app") as session:
        prepare_all(session)
        failures += execute_all(session, "before")
        run(front, "cutover", "chunks", "--yes", "--max-hold", "2s")
        failures += execute_all(session, "after the cutover")
        run(front, "rollback", "chunks")
        failures += execute_all(session, "after the rollback")
    with wire.connect(front, user="app") as session:  # prepared in the generated era
        run(front, "cutover", "chunks", "--yes", "--max-hold", "2s")
        prepare_all(session)
        failures += execute_all(session, "prepared after the cutover")
        run(front, "rollback", "chunks")
        failures += execute_all(session, "prepared after the cutover, after the rollback")
    assert schema.wrong_keys(table) == 0
    misplaced = table.psql("SELECT count(*) FROM chunks WHERE document_id ~ '^[0-9-]+$' OR content <> 'x'"
                           " AND content <> 'changed' AND content !~ '^x+$'")
    assert misplaced == "0", "values have slipped into other columns"
    assert not failures, "\n".join(failures)


@pytest.mark.proxy
@pytest.mark.skipif(common.pg_major() < 12, reason="generated columns need PostgreSQL 12 or newer")
def test_a_cutover_that_has_to_wait_for_a_long_transaction_fails_no_client(table, front):
    """A session that holds a lock on the table for a while: attempts end and are tried again."""
    with Ledger(front, table) as ledger:
        holder = psycopg2.connect(**front.params(user="app"))
        with holder.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM chunks")
            ledger.wait_for_writes(100)
            # Either it gives up, with nothing changed, or it comes through when the holder is gone.
            release = threading.Timer(3, holder.commit)
            release.start()
            done = run(front, "cutover", "chunks", "--yes", "--max-hold", "2s", codes=(0, 1))
            release.join()
        holder.close()
        assert is_generated(table) == (done.returncode == 0)
        ledger.wait_for_writes(200)
    ledger.check()
    assert leftovers(table) == ("0" if done.returncode == 0 else "2")


@pytest.mark.proxy
@pytest.mark.skipif(common.pg_major() < 12, reason="generated columns need PostgreSQL 12 or newer")
def test_writers_that_never_supply_the_key_may_go_past_the_proxy(table, front):
    """The fence is PostgreSQL's lock: even writers that no gate holds lose nothing."""
    with Ledger(Direct(table), table, supply_key=False) as ledger:
        run(front, "cutover", "chunks", "--yes", "--max-hold", "2s", codes=(0, 1))
        ledger.wait_for_writes(200)
        if is_generated(table):
            run(front, "rollback", "chunks", codes=(0, 1))
        ledger.wait_for_writes(200)
    ledger.errors = [error for error in ledger.errors if not error.startswith("SnapshotReader")]
    ledger.check()


@pytest.mark.proxy
@pytest.mark.skipif(common.pg_major() != 11, reason="for PostgreSQL 11")
def test_on_postgresql_11_the_cutover_does_not_apply_and_nothing_changes(table, front):
    with Ledger(front, table) as ledger:
        done = run(front, "cutover", "chunks", "--yes", codes=(3,))
        assert "PostgreSQL 12" in done.stdout + done.stderr
        ledger.wait_for_writes(200)
    ledger.check()
    assert leftovers(table) == "2"
    assert method(front) == "trigger"
