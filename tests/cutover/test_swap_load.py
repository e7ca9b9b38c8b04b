"""The cutover by swap through the proxy: under load in every isolation level, killed and resumed, aborted."""

import json
import os
import signal
import subprocess
import time

import psycopg2
import pytest

from lib import common, schema, wire
from lib.pgserver import Server
from lib.proxy import Proxy, strip_rule

from ledger import READERS, WRITERS, Ledger, PreparedStarReader, SingleRows
from test_ledger import execute_all, is_generated, leftovers, method, prepare_all, run
from workers import UNUSUAL, CopyReader

pytestmark = [
    pytest.mark.proxy,
    pytest.mark.skipif(common.pg_major() < 12, reason="generated columns need PostgreSQL 12"),
]

BASE_ROWS = 20000
PAUSE = 0.02  # of each worker: what the machine can do beside the copying
SWAP = ["cutover", "chunks", "--yes", "--strategy", "swap", "--max-hold", "2s"]


WORKERS = WRITERS + READERS + UNUSUAL + (PreparedStarReader,)


@pytest.fixture(scope="module")
def own_server():
    instance = Server().start()
    schema.create_database(instance)
    instance.psql("GRANT pg_read_all_stats TO pgsluice")
    yield instance
    instance.stop()


@pytest.fixture
def table(own_server):
    own_server.psql("DROP SCHEMA IF EXISTS pgsluice CASCADE; DROP TABLE IF EXISTS"
                    " chunks_pgsluice_new, chunks_pgsluice_old CASCADE", dbname="app")
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


def residue(server):
    """What a swap has made and not taken away."""
    return server.psql(
        "SELECT coalesce(string_agg(x, ' '), '') FROM (SELECT nspname AS x FROM pg_namespace WHERE"
        " nspname = 'pgsluice' UNION ALL SELECT relname FROM pg_class WHERE relname LIKE '%pgsluice%'"
        " UNION ALL SELECT tgname FROM pg_trigger WHERE tgname LIKE 'pgsluice%') q")


def start(proxy, *arguments):
    return subprocess.Popen([str(common.binary()), *arguments, "--config", str(proxy.config)],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def wait_for_copy(server):
    """Until some rows, not all, are in the second table."""
    def copied():
        if server.psql("SELECT to_regclass('pgsluice.swap') IS NULL") == "t":
            return False
        return server.psql("SELECT count(*) FROM pgsluice.swap WHERE copied > 0 AND phase = 'copy'") == "1"
    common.wait_until(copied, 20, "rows that are copied")


def test_swaps_and_rollbacks_under_load_lose_nothing_and_disturb_nobody(table, front):
    spans = []
    with Ledger(front, table, workers=WORKERS, pause=PAUSE) as ledger:
        for command in (SWAP, ["rollback", "chunks"], SWAP, ["finish", "chunks"]):
            ledger.wait_for_writes(300)
            begin = time.monotonic()
            done = run(front, *command)
            spans.append((command[0], begin, time.monotonic(), done.stdout))
            assert not ledger.errors, ledger.errors[:5]
            forward = command[0] != "rollback"
            assert is_generated(table) == forward
            assert method(front) == ("generated" if forward else "trigger")
        ledger.wait_for_writes(300)
    ledger.check()
    for name, begin, end, text in spans:
        print(f"{name}: {end - begin:.2f} s, slowest write {ledger.slowest(begin, end) * 1000:.0f} ms,"
              f" slowest read {ledger.slowest_read(begin, end) * 1000:.0f} ms; {text.splitlines()[0:1]}")
        assert ledger.slowest(begin, end) < 6 * common.slowness()
    assert leftovers(table) == "0"
    run(front, "rollback", "chunks")
    assert method(front) == "trigger" and leftovers(table) == "2"


def test_prepared_statements_outlive_a_swap_and_its_rollback(table, front):
    failures = []
    with wire.connect(front, user="app") as session:
        prepare_all(session)
        failures += execute_all(session, "before")
        run(front, *SWAP)
        failures += execute_all(session, "after the swap")
        run(front, "rollback", "chunks")
        failures += execute_all(session, "after the rollback")
    assert not failures, "\n".join(failures)
    assert schema.wrong_keys(table) == 0


def test_copy_to_has_the_column_throughout_a_swap_and_its_rollback(table, front):
    """The proxy knows the new shape only some time after the flip; what it sends must suit both."""
    table.psql("DELETE FROM chunks WHERE id > 100")
    with Ledger(front, table, workers=(SingleRows,) + 3 * (CopyReader,), pause=PAUSE / 4) as ledger:
        for command in (SWAP, ["rollback", "chunks"]):
            reads = len(ledger.reads)
            run(front, *command)
            assert not ledger.errors, ledger.errors[:5]
            assert len(ledger.reads) > reads + 20
    ledger.check()


def test_a_swap_whose_proxy_was_killed_is_gone_on_with(table, front):
    command = start(front, *SWAP, "--pause", "100ms")
    wait_for_copy(table)
    front.kill9()
    command.communicate(timeout=20)
    copied = int(table.psql("SELECT copied FROM pgsluice.swap"))
    assert 0 < copied < BASE_ROWS
    # What is written while no proxy runs is captured all the same.
    table.psql("DELETE FROM chunks WHERE id <= 10; INSERT INTO chunks (collection_id, chunk_index,"
               " content) VALUES ('a', 1, 'while nobody looked')")
    front.restart()
    status = json.loads(run(front, "status", "--json").stdout)
    assert [(s["phase"], s["resumable"]) for s in status["swaps"]] == [("copying rows", True)]
    done = run(front, *SWAP)
    assert "going on where an earlier run has ended" in done.stderr
    assert is_generated(table)
    assert table.psql("SELECT count(*), count(*) FILTER (WHERE content = 'while nobody looked')"
                      " FROM chunks") == f"{BASE_ROWS - 9}|1"


def test_a_killed_swap_is_cleaned_up_by_rollback(table, front):
    command = start(front, *SWAP, "--pause", "100ms")
    wait_for_copy(table)
    front.kill9()
    command.communicate(timeout=20)
    front.restart()
    run(front, "rollback", "chunks")
    assert residue(table) == "" and method(front) == "trigger" and leftovers(table) == "2"


@pytest.mark.parametrize("how", ["Ctrl-C", "abort"])
def test_an_interrupted_swap_leaves_nothing_behind(table, front, how):
    with Ledger(front, table, workers=WORKERS, pause=PAUSE) as ledger:
        command = start(front, *SWAP, "--pause", "100ms")
        wait_for_copy(table)
        began = time.monotonic()
        if how == "Ctrl-C":
            command.send_signal(signal.SIGINT)
        else:
            assert "abort requested" in run(front, "abort", "chunks").stdout
        text, _ = command.communicate(timeout=30)
        took = time.monotonic() - began
        assert command.returncode == 1 and "nothing changed" in text, text
        ledger.wait_for_writes(100)
    ledger.check()
    assert residue(table) == "" and leftovers(table) == "2"
    assert took < 2 * common.slowness() + 1, f"{took:.1f} s"


def test_a_truncated_table_stays_truncated(table, front):
    command = start(front, *SWAP, "--pause", "100ms")
    wait_for_copy(table)
    table.psql("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'before');"
               "TRUNCATE chunks")
    table.psql("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'after')")
    text, _ = command.communicate(timeout=60)
    assert command.returncode == 0, text
    assert table.psql("SELECT string_agg(content, ' ') FROM chunks") == "after"
    table.psql("TRUNCATE chunks; INSERT INTO chunks (collection_id, chunk_index, content)"
               " VALUES ('a', 1, 'generated')")
    run(front, "rollback", "chunks")
    assert table.psql("SELECT string_agg(content, ' ') FROM chunks") == "generated"


def test_a_long_snapshot_delays_the_flip(table, front):
    """A REPEATABLE READ transaction that has not come to the table yet: it sees it whole."""
    reader = psycopg2.connect(**front.params(user="app"))
    with reader.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT count(*) FROM documents")
        command = start(front, *SWAP)
        time.sleep(4)
        assert command.poll() is None and not is_generated(table)
        table.psql("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'later')")
        cursor.execute("SELECT count(*) FROM chunks")
        assert cursor.fetchone()[0] == BASE_ROWS
        reader.commit()
    text, _ = command.communicate(timeout=60)
    assert command.returncode == 0, text
    assert table.psql("SELECT count(*) FROM chunks") == str(BASE_ROWS + 1)
    reader.close()


def test_a_server_that_crashes_meanwhile_is_waited_for(table, front):
    command = start(front, *SWAP, "--pause", "100ms")
    wait_for_copy(table)
    table.restart("immediate")
    table.psql("DELETE FROM chunks WHERE id <= 10")
    text, _ = command.communicate(timeout=60)
    assert command.returncode == 0 and "trying to go on" in text, text
    assert is_generated(table)
    assert table.psql("SELECT count(*) FROM chunks") == str(BASE_ROWS - 10)


@pytest.mark.timeout(3600)
@pytest.mark.skipif("PGSLUICE_SWAP_ROWS" not in os.environ, reason="PGSLUICE_SWAP_ROWS is not set")
def test_a_large_table(table, front):
    rows = int(os.environ["PGSLUICE_SWAP_ROWS"])
    for _ in range(10):
        table.psql("INSERT INTO chunks (collection_id, document_id, chunk_index, content)"
                   " SELECT 'collection ' || n % 37, 'base', n, repeat('x', 500)"
                   f" FROM generate_series(1, {rows // 10}) n")
    table.psql("CREATE INDEX ON chunks (document_id, chunk_index)")
    table.psql("CREATE INDEX ON chunks (created_at); ANALYZE chunks")
    # Without those that count all rows again and again.
    workers = WRITERS + UNUSUAL + (PreparedStarReader,)
    with Ledger(front, table, workers=workers, pause=PAUSE) as ledger:
        quiet = time.monotonic()
        ledger.wait_for_writes(2000, timeout=120)
        begin = time.monotonic()
        command = front.command(*SWAP, "--json", timeout=1800)
        end = time.monotonic()
        assert command.returncode == 0, command.stdout + command.stderr
        report = json.loads(command.stdout)
        print(f"{rows} rows: {end - begin:.1f} s; {report['summary']}; copy {report['copy']}, compare"
              f" {report['compared']}, hold {report['hold']}; slowest write"
              f" {ledger.slowest(begin, end) * 1000:.0f} ms (before: {ledger.slowest(quiet, begin) * 1000:.0f}),"
              f" slowest read {ledger.slowest_read(begin, end) * 1000:.0f} ms"
              f" (before: {ledger.slowest_read(quiet, begin) * 1000:.0f})")
        begin = time.monotonic()
        command = front.command("rollback", "chunks", timeout=1800)
        assert command.returncode == 0, command.stdout + command.stderr
        print(f"rollback: {time.monotonic() - begin:.1f} s")
    ledger.check()
