"""The bake time of a swap: the old table follows, whatever ends, and is dropped when it was said so.

PGSLUICE_TEST_BAKE=1 runs all of it: killed proxies and servers, backlogs, two proxies.
"""

import json
import os
import time

import pytest

from lib import common
from lib.proxy import Proxy, strip_rule

from ledger import Ledger, ManyRows, SingleRows
from test_ledger import is_generated, method, run
from test_swap_load import PAUSE, SWAP, front, own_server, residue, start, table
from workers import Churn, RepeatableChurn

__all__ = ["front", "own_server", "table"]

pytestmark = [
    pytest.mark.proxy,
    pytest.mark.skipif(common.pg_major() < 12, reason="generated columns need PostgreSQL 12"),
]

thorough = pytest.mark.skipif("PGSLUICE_TEST_BAKE" not in os.environ,
                              reason="PGSLUICE_TEST_BAKE is not set")
WORKERS = (SingleRows, SingleRows, ManyRows, Churn, RepeatableChurn)


def bake(front):
    swaps = json.loads(run(front, "status", "--json").stdout)["swaps"]
    assert len(swaps) <= 1
    return swaps[0] if swaps else None


def wait_in_step(front, timeout=20):
    """Until nothing waits for the old table."""
    return common.wait_until(lambda: (swap := bake(front)) and swap["waiting"] == 0 and swap["in_step"]
                             and swap, timeout, "the old table in step")


def differences(server):
    """Rows that are not the same in the two tables, the column apart."""
    columns = "id, collection_id, document_id, chunk_index, content"
    return server.psql(f"SELECT count(*) FROM ((SELECT {columns} FROM chunks EXCEPT SELECT {columns} FROM"
                       f" chunks_pgsluice_old) UNION ALL (SELECT {columns} FROM chunks_pgsluice_old EXCEPT"
                       f" SELECT {columns} FROM chunks)) q")


def test_the_log_stays_short_under_load_and_a_rollback_takes_over(table, front):
    with Ledger(front, table, workers=WORKERS, pause=PAUSE) as ledger:
        run(front, *SWAP)
        waiting = []
        for _ in range(4):
            ledger.wait_for_writes(300)
            waiting.append(bake(front)["waiting"])
        swap = bake(front)
        assert swap["phase"] == "baking" and swap["back"] and swap["since"] and swap["until"] is None
        assert swap["followed"] > 500 and swap["trouble"] is None, swap
        text = run(front, "status").stdout
        assert "phase baking" in text and "waiting" in text, text
        # Each turn leaves what has come since the last: a second's writes, with room for a busy machine.
        assert max(waiting) < 2000 * common.slowness(), waiting
        run(front, "rollback", "chunks")
        assert not is_generated(table) and not ledger.errors, ledger.errors[:5]
        ledger.wait_for_writes(100)
    ledger.check()
    assert residue(table) == "pgsluice"


@thorough
def test_a_killed_proxy_goes_on_following_when_it_is_back(table, front):
    run(front, *SWAP)
    wait_in_step(front)
    front.kill9()
    table.psql("DELETE FROM chunks WHERE id <= 100; INSERT INTO chunks (collection_id, chunk_index, content)"
               " SELECT 'a', n, 'while nobody looked' FROM generate_series(1, 5000) n")
    front.restart()
    assert wait_in_step(front)["followed"] >= 5100
    assert differences(table) == "0"
    table.restart("immediate")
    table.psql("UPDATE chunks SET content = 'after the crash' WHERE id BETWEEN 200 AND 300")
    common.wait_until(lambda: differences(table) == "0", 30, "a follower that has come back")
    assert bake(front)["trouble"] is None
    finished = run(front, "finish", "chunks")
    assert "the old table is dropped" in finished.stdout
    assert bake(front) is None and residue(table) == "pgsluice" and method(front) == "generated"


def test_a_bake_time_that_is_over_drops_the_old_table(table, front):
    run(front, *SWAP, "--bake", "3s")
    swap = bake(front)
    assert swap["phase"] == "baking" and swap["until"], swap
    assert table.psql("SELECT bake_until - flipped_at FROM pgsluice.swap") == "00:00:03"
    common.wait_until(lambda: bake(front) is None, 30, "the end of the bake time")
    assert is_generated(table) and residue(table) == "pgsluice"
    last = json.loads(run(front, "status", "--json").stdout)["last_cutover"]
    assert last["command"] == "finish" and last["exit"] == 0, last
    front.wait_for_audit(1, event="cutover", step="bake-over")
    front.wait_for_audit(1, event="cutover", step="finished")


@thorough
def test_a_bake_time_ends_while_no_proxy_runs(table, front):
    run(front, *SWAP, "--bake", "2s")
    front.kill9()
    time.sleep(2.5)
    assert table.psql("SELECT to_regclass('chunks_pgsluice_old') IS NOT NULL") == "t"
    front.restart()
    common.wait_until(lambda: bake(front) is None, 30, "the end of the bake time")
    assert table.psql("SELECT to_regclass('chunks_pgsluice_old') IS NULL") == "t"


@thorough
def test_rollback_and_finish_come_in_between_two_turns(table, front):
    """While the follower has a backlog to work off, and never rests."""
    run(front, *SWAP)
    for command in (["rollback", "chunks"], SWAP, ["finish", "chunks"]):
        table.psql("INSERT INTO chunks (collection_id, chunk_index, content)"
                   " SELECT 'b', n, 'backlog' FROM generate_series(1, 30000) n")
        common.wait_until(lambda: table.psql("SELECT count(*) FROM chunks WHERE content = 'backlog'")
                          != "0", 10, "a backlog")
        run(front, *command)
    assert is_generated(table) and residue(table) == "pgsluice"
    assert table.psql("SELECT count(*) FROM chunks WHERE content = 'backlog'") == "90000"


@thorough
def test_of_two_proxies_one_follows_and_the_other_takes_over(table, front):
    second = Proxy(table, rules=[strip_rule("strip")]).start()
    try:
        run(front, *SWAP)
        wait_in_step(front)
        followers = ("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid ="
                     " (hashtext('pgsluice.bake')::bigint & 4294967295)::oid")
        common.wait_until(lambda: table.psql(followers) == "1", 15, "one follower")
        front.kill9()
        table.psql("DELETE FROM chunks WHERE id <= 100")
        common.wait_until(lambda: differences(table) == "0", 30, "the other follower")
        assert "the old table follows" in second.log()
        assert second.command("rollback", "chunks").returncode == 0
        assert table.psql("SELECT count(*) FROM chunks") == "19900"
    finally:
        second.stop()


@thorough
def test_what_cannot_follow_is_said_and_tried_again(table, front):
    run(front, *SWAP)
    wait_in_step(front)
    table.psql("ALTER TABLE chunks_pgsluice_old ADD CONSTRAINT narrow CHECK (content <> 'wide') NOT VALID")
    table.psql("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'wide')")
    swap = common.wait_until(lambda: (swap := bake(front))["trouble"] and swap, 20, "trouble")
    assert "narrow" in swap["trouble"] and swap["waiting"] == 1
    assert "does not follow for now" in front.log()
    assert table.psql("SELECT count(*) FROM chunks WHERE content = 'wide'") == "1"
    table.psql("ALTER TABLE chunks_pgsluice_old DROP CONSTRAINT narrow")
    assert wait_in_step(front)["trouble"] is None
    assert differences(table) == "0" and "follows again" in front.log()


@thorough
def test_an_interrupted_swap_with_a_bake_time_bakes_not(table, front):
    command = start(front, *SWAP, "--bake", "1s", "--pause", "50ms")
    time.sleep(1)
    command.kill()
    command.communicate(timeout=20)
    common.wait_until(lambda: residue(table) == "", 20, "the end of the swap")
    assert not is_generated(table)
