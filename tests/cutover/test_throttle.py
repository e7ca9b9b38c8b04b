"""A swap gives way: to the applications' own writes when they become slow, and to an operator's pause."""

import json
import os
import signal
import statistics
import time

import psycopg2
import pytest

from lib import common

from ledger import Ledger, PreparedRows, SingleRows
from test_ledger import is_generated, run
from test_swap_load import SWAP, front, own_server, residue, start, table, wait_for_copy

__all__ = ["front", "own_server", "table"]

pytestmark = [
    pytest.mark.proxy,
    pytest.mark.skipif(common.pg_major() < 12, reason="generated columns need PostgreSQL 12"),
]


def under_way(front):
    return json.loads(run(front, "status", "--json").stdout)["cutover"]


def copied(server):
    return int(server.psql("SELECT copied FROM pgsluice.swap"))


def waiting(server):
    oid = server.psql("SELECT relation FROM pgsluice.swap")
    return int(server.psql(f"SELECT count(*) FROM pgsluice.log_{oid}"))


def wait_for_text(front, words, timeout=30):
    return common.wait_until(lambda: (job := under_way(front)) and words in job["text"] and job, timeout,
                             words)


def test_a_paused_swap_rests_follows_and_goes_on(table, front):
    done = front.command("pause", "chunks")
    assert done.returncode == 1 and "no cutover" in done.stderr + done.stdout
    command = start(front, *SWAP, "--pause", "100ms")
    wait_for_copy(table)
    assert "paused" in run(front, "pause", "chunks").stdout
    assert wait_for_text(front, "paused")["paused"]
    before = copied(table)
    table.psql("INSERT INTO chunks (collection_id, chunk_index, content)"
               " SELECT 'a', n, 'meanwhile' FROM generate_series(1, 3000) n")
    common.wait_until(lambda: waiting(table) == 0, 10, "a log that is replayed")
    assert copied(table) == before and command.poll() is None
    assert run(front, "resume", "chunks").stdout == "resumed\n"
    text, _ = command.communicate(timeout=60 * common.slowness())
    assert command.returncode == 0, text
    assert table.psql("SELECT count(*) FROM chunks WHERE content = 'meanwhile'") == "3000"


def test_a_paused_swap_does_not_flip_and_can_be_interrupted(table, front):
    reader = psycopg2.connect(**front.params(user="app"))
    with reader.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT count(*) FROM documents")
        command = start(front, *SWAP)
        wait_for_text(front, "waiting for older snapshots")
        run(front, "pause", "chunks")
        reader.commit()
    reader.close()
    assert wait_for_text(front, "paused")["phase"] == "gate"
    time.sleep(1)
    assert not is_generated(table)
    # Nobody is kept from anything meanwhile.
    assert table.psql("SELECT count(*) FROM pg_locks WHERE relation = 'chunks'::regclass AND mode"
                      " LIKE '%Exclusive%' AND mode <> 'RowExclusiveLock'") == "0"
    command.send_signal(signal.SIGINT)
    text, _ = command.communicate(timeout=30)
    assert command.returncode == 1 and "nothing changed" in text, text
    assert residue(table) == "" and not is_generated(table)


def test_slow_writes_slow_the_copying_down_until_they_are_quick_again(table, front):
    """The writes become slow by a trigger's function, which takes no lock to be replaced."""
    slow = ("CREATE OR REPLACE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep({}); RETURN NEW; END $$")
    table.psql(slow.format(0) + "; ALTER FUNCTION be_slow() OWNER TO pgsluice; CREATE TRIGGER be_slow"
               " BEFORE INSERT ON chunks FOR EACH ROW EXECUTE PROCEDURE be_slow()")
    # So many rows that the copying lasts: a flip would find that the function is another one.
    table.psql("INSERT INTO chunks (collection_id, chunk_index, content)"
               " SELECT 'more', n, repeat('x', 200) FROM generate_series(1, 60000) n")
    with Ledger(front, table, workers=(SingleRows,) * 4 + (PreparedRows,) * 2, pause=0.005) as ledger:
        command = start(front, *SWAP, "--pause", "300ms")
        wait_for_copy(table)
        table.psql(slow.format(0.08))
        job = wait_for_text(front, "waiting: writes take")
        took, before = [float(word.split()[-1]) for word in job["text"].split("waiting: ")[1]
                        .replace(" before", "").split(" ms")[:2]]
        assert took > 80 and before < 60, job["text"]
        at = copied(table)
        common.wait_until(lambda: copied(table) > at, 30, "a copying that makes progress")
        table.psql(slow.format(0))
        text, _ = command.communicate(timeout=120 * common.slowness())
        assert command.returncode == 0, text
    ledger.check()


def percentile(latencies, share):
    return sorted(latencies)[int(len(latencies) * share)] * 1000


@pytest.mark.timeout(3600)
@pytest.mark.skipif("PGSLUICE_THROTTLE_ROWS" not in os.environ, reason="PGSLUICE_THROTTLE_ROWS is not set")
def test_what_the_throttle_is_worth(table, front):
    """Writes' latencies while rows are copied, with the throttle and (a limit of a minute) without."""
    rows = int(os.environ["PGSLUICE_THROTTLE_ROWS"])
    table.psql("INSERT INTO chunks (collection_id, document_id, chunk_index, content)"
               " SELECT 'collection ' || n % 37, 'base', n, repeat('x', 500)"
               f" FROM generate_series(1, {rows}) n; ANALYZE chunks; CHECKPOINT")
    found = {"with": [], "without": []}
    seconds = {"with": [], "without": []}
    with Ledger(front, table, workers=(SingleRows,) * 4 + (PreparedRows,) * 4, pause=0.005) as ledger:
        for _ in range(3):
            for name, more in (("with", ()), ("without", ("--max-write-latency", "60s"))):
                command = start(front, *SWAP, *more)
                wait_for_copy(table)
                begin = time.monotonic()
                common.wait_until(lambda: table.psql("SELECT phase <> 'copy' FROM pgsluice.swap") == "t",
                                  600, "the end of the copying")
                end = time.monotonic()
                found[name] += [e.latency for e in list(ledger.entries) if e.sent > begin and 0 < e.done < end]
                seconds[name].append(end - begin)
                command.send_signal(signal.SIGINT)
                command.communicate(timeout=60)
                time.sleep(2)
    for name, latencies in found.items():
        print(f"{name}: copied in {[round(s, 1) for s in seconds[name]]} s; {len(latencies)} writes, p50"
              f" {percentile(latencies, 0.5):.1f} ms, p95 {percentile(latencies, 0.95):.1f}, p99"
              f" {percentile(latencies, 0.99):.1f}, max {max(latencies) * 1000:.0f};"
              f" {len(latencies) / sum(seconds[name]):.0f} writes/s")
    assert statistics.median(found["with"]) > 0
