"""Mode compute over a flip from LIST (partition_key) to HASH (collection_id) and back: prepared statements of open
sessions are made anew behind their clients' backs."""

import io
import itertools
import json
import os
import time

import psycopg
import pytest

from lib import common, schema, wire
from lib.proxy import Proxy, strip_rule

from ledger import (WITHOUT_KEY, Copies, Ledger, ManyRows, PreparedReader, PreparedRows, Psycopg2Worker, Reader,
                    SingleRows, SnapshotReader, Transactions, Worker)
from test_ledger import execute_all, is_generated, prepare_all, run
from test_swap_load import own_server

__all__ = ["own_server"]

pytestmark = [
    pytest.mark.proxy,
    pytest.mark.skipif(common.pg_major() < 12, reason="generated columns need PostgreSQL 12"),
]

BASE_ROWS = 500
SWAP = ["cutover", "chunks", "--yes", "--strategy", "swap", "--max-hold", "2s"]
BACK = ["rollback", "chunks"]


@pytest.fixture
def table(own_server):
    own_server.psql("DROP SCHEMA IF EXISTS pgsluice CASCADE; DROP TABLE IF EXISTS"
                    " chunks_pgsluice_new, chunks_pgsluice_old CASCADE", dbname="app")
    schema.create_chunks(own_server, "partitioned")
    own_server.psql("ALTER TABLE chunks_0 OWNER TO pgsluice; ALTER TABLE chunks_rest OWNER TO pgsluice")
    own_server.psql(
        "INSERT INTO chunks (collection_id, partition_key, document_id, chunk_index, content)"
        f" SELECT c, {schema.KEY.replace('collection_id', 'c')}, 'base', n, 'x'"
        f" FROM generate_series(1, {BASE_ROWS}) n, format('collection %s', n % 37) c; ANALYZE chunks")
    return own_server


@pytest.fixture
def front(table):
    instance = Proxy(table, rules=[strip_rule("compute")]).start()
    yield instance
    instance.stop()


def flip(proxy, server):
    """There, or back."""
    forward = not is_generated(server)
    run(proxy, *(SWAP if forward else BACK))
    assert is_generated(server) == forward


def test_prepared_statements_outlive_the_flip_and_its_rollback(table, front):
    failures = []
    with wire.connect(front, user="app") as session:
        prepare_all(session)
        failures += execute_all(session, "before")
        flip(front, table)
        failures += execute_all(session, "after the swap")
        failures += execute_all(session, "after the swap, again")
        flip(front, table)
        failures += execute_all(session, "after the rollback")
        flip(front, table)
        failures += execute_all(session, "after the second swap")
    with wire.connect(front, user="app") as session:
        prepare_all(session)
        failures += execute_all(session, "prepared after the swap")
        flip(front, table)
        failures += execute_all(session, "prepared after the swap, after the rollback")
    assert not failures, "\n".join(failures)
    assert schema.wrong_keys(table) == 0


class Psycopg3Rows(Worker):
    """A statement that the driver prepares after some executions, in transactions that come to the table last."""

    def open(self, stack):
        self.connection = stack.enter_context(psycopg.connect(**self.ledger.target))
        self.connection.prepare_threshold = 2

    def step(self):
        with self.entry(2) as entry, self.connection.transaction():
            self.connection.execute(
                "INSERT INTO documents VALUES (%s, 2) ON CONFLICT (id)"
                " DO UPDATE SET chunk_count = documents.chunk_count + 2", (self.name,))
            time.sleep(0.005)
            for row in self.rows(entry.first, 2, False):
                self.connection.execute(f"{WITHOUT_KEY} VALUES (%s, %s, %s, %s)", row)


class Pipelines(Worker):
    """psycopg 3's pipeline mode: some statements behind another, few Syncs."""

    def open(self, stack):
        self.connection = stack.enter_context(psycopg.connect(**self.ledger.target, autocommit=True))
        self.connection.prepare_threshold = 2

    def step(self):
        with self.entry(4) as entry, self.connection.pipeline():
            self.connection.execute("UPDATE documents SET chunk_count = 0 WHERE id = 'none'")
            for row in self.rows(entry.first, 4, False):
                self.connection.execute(f"{WITHOUT_KEY} VALUES (%s, %s, %s, %s)", row)


class AsyncpgMany(PreparedRows):
    """asyncpg's executemany: one Parse, many Binds in one batch; rows in order."""

    def step(self):
        with self.entry(5) as entry:
            self.loop.run_until_complete(
                self.with_key.executemany(list(self.rows(entry.first, 5, True))))


class RawRows(Worker):
    """A named statement whose portal and types the client knows: Bind, Execute, Sync, with binary results."""

    def open(self, stack):
        self.session = stack.enter_context(wire.connect(self.ledger.endpoint, user="app"))
        self.session.send(wire.Parse("s", f"{WITHOUT_KEY} VALUES ($1, $2, $3, $4) RETURNING partition_key"),
                          wire.Describe("S", "s"), wire.Sync())
        self.described = [m.body for m in self.session.read_until() if m.kind == "t"]

    def step(self):
        with self.entry() as entry:
            row, = self.rows(entry.first, 1, False)
            answer = self.session.send(wire.Bind("", "s", row, results=[1]), wire.Execute(), wire.Sync()).read_until()
            assert [m.kind for m in answer] == ["2", "D", "C", "Z"], answer
        if entry.first % 50 == 0:
            answer = self.session.send(wire.Describe("S", "s"), wire.Sync()).read_until()
            assert [m.body for m in answer if m.kind == "t"] == self.described


class CopiesWithKey(Copies):
    """COPY that sends a key, and one without a list of columns."""

    def step(self):
        with self.entry(4) as entry:
            rows = list(self.rows(entry.first, 4, True))
            columns = "collection_id, partition_key, document_id, chunk_index, content"
            self.cursor.copy_expert(f"COPY chunks ({columns}) FROM STDIN", io.StringIO(
                "".join("\t".join(map(str, row)) + "\n" for row in rows)))


class LateTransactions(Transactions):
    """Open for a while before they come to the table."""

    def _write(self, first, document):
        self.cursor.execute("SELECT count(*) FROM documents")
        time.sleep(0.01)
        super()._write(first, document)


WRITERS = (SingleRows, ManyRows, Copies, CopiesWithKey, Transactions, LateTransactions, PreparedRows, PreparedRows,
           AsyncpgMany, Psycopg3Rows, Psycopg3Rows, Pipelines, RawRows)
READERS = (Reader, SnapshotReader, PreparedReader)
PAUSE = 0.03


def test_no_client_notices_the_flip_nor_the_rollback(table, front):
    spans = []
    flips = int(os.environ.get("PGSLUICE_REPREPARE_FLIPS", 3))
    with Ledger(front, table, workers=WRITERS + READERS, pause=PAUSE) as ledger:
        for command, layout in itertools.islice(itertools.cycle(((SWAP, "HASH"), (BACK, "LIST"))), flips):
            ledger.wait_for_writes(300)
            begin = time.monotonic()
            done = run(front, *command)
            spans.append((command[0], begin, time.monotonic(), done.stdout))
            assert not ledger.errors, ledger.errors[:5]
            assert layout in table.psql("SELECT pg_get_partkeydef('chunks'::regclass)")
        ledger.wait_for_writes(300)
    ledger.check()
    for name, begin, end, text in spans:
        gate = [line.strip() for line in text.splitlines() if line.startswith(("  attempts", "  lock  ", "  gate"))]
        print(f"{name}: {end - begin:.2f} s, slowest write {ledger.slowest(begin, end) * 1000:.0f} ms; {gate}")


def test_what_cannot_be_made_anew_is_waited_for(table, front):
    with wire.connect(front, user="app") as session:
        session.query(f"PREPARE s (text) AS {WITHOUT_KEY} VALUES ($1, 'd', 1, 'x')")
        done = run(front, *SWAP, codes=(1,))
        assert "1 sessions hold prepared statements" in done.stderr + done.stdout, done.stdout + done.stderr
        assert "let these sessions reconnect" in done.stdout, done.stdout
        assert not is_generated(table)
        assert not wire.errors(session.query("EXECUTE s ('a')"))


class LockThenWrite(Psycopg2Worker):
    """Has a row that others wait for when it comes to the table."""

    autocommit = False

    def step(self):
        with self.entry() as entry:
            self._lock()
            time.sleep(0.01)
            self._write(entry)
            self.connection.commit()

    def _lock(self):
        self.cursor.execute("UPDATE documents SET chunk_count = chunk_count + 1 WHERE id = 'shared'")

    def _write(self, entry):
        self.cursor.execute(f"{WITHOUT_KEY} VALUES %s", tuple(self.rows(entry.first, 1, False)))


class WriteThenLock(LockThenWrite):
    """Has the table when it waits for the row."""

    def step(self):
        with self.entry() as entry:
            self._write(entry)
            self._lock()
            self.connection.commit()


def test_a_held_transaction_that_a_write_in_flight_waits_for_delays_the_flip_only(table, front):
    """The drain does not end then; the gate opens, and it is tried again."""
    table.psql("INSERT INTO documents VALUES ('shared', 0)")
    with Ledger(front, table, workers=(LockThenWrite,) * 3 + (WriteThenLock,) * 3, pause=PAUSE) as ledger:
        for command in (SWAP, BACK):
            done = json.loads(run(front, *command, "--json").stdout)
            print(f"{command[0]}: {done['attempts']} attempts, {done['hold']}")
            assert not ledger.errors, ledger.errors[:5]
        ledger.wait_for_writes(50)
    ledger.check()


@pytest.mark.timeout(3600)
@pytest.mark.skipif("PGSLUICE_LIST_ROWS" not in os.environ, reason="PGSLUICE_LIST_ROWS is not set")
def test_a_large_table_of_a_hundred_partitions(own_server):
    """A million rows, say, in LIST (partition_key); a partition for each absolute value."""
    rows = int(os.environ["PGSLUICE_LIST_ROWS"])
    server = own_server
    schema.create_chunks(server, "partitioned")
    server.psql("""
        DROP TABLE chunks_0, chunks_rest;
        DO $$ BEGIN
            FOR n IN 0..99 LOOP
                EXECUTE format('CREATE TABLE chunks_%s PARTITION OF chunks FOR VALUES IN (%s)', n,
                               CASE WHEN n = 0 THEN '0' ELSE n || ', ' || -n END);
                EXECUTE format('ALTER TABLE chunks_%s OWNER TO pgsluice', n);
            END LOOP;
        END $$;""")
    for part in range(10):
        server.psql(
            "INSERT INTO chunks (collection_id, partition_key, document_id, chunk_index, content)"
            f" SELECT c, {schema.KEY.replace('collection_id', 'c')}, 'base', n, repeat('x', 500)"
            f" FROM generate_series({part}, {rows - 1}, 10) n, format('collection %s', n % 5000) c")
    server.psql("CREATE INDEX ON chunks (document_id, chunk_index); ANALYZE chunks")
    front = Proxy(server, rules=[strip_rule("compute")]).start()
    try:
        with Ledger(front, server, workers=WRITERS + (PreparedReader,), pause=8 * PAUSE) as ledger:
            quiet = time.monotonic()
            ledger.wait_for_writes(500, timeout=120)
            for command in (SWAP, BACK):
                begin = time.monotonic()
                done = front.command(*command, "--json", timeout=1800)
                end = time.monotonic()
                assert done.returncode == 0, done.stdout + done.stderr
                report = json.loads(done.stdout)
                print(f"{command[0]} of {rows} rows: {end - begin:.1f} s; {report['summary']}; copy"
                      f" {report.get('copy')}, compare {report.get('compared')}, attempts {report['attempts']}, hold"
                      f" {report['hold']}; slowest write {ledger.slowest(begin, end) * 1000:.0f} ms (before:"
                      f" {ledger.slowest(quiet, begin) * 1000:.0f}); {len(ledger.errors)} errors")
            ledger.wait_for_writes(200, timeout=120)
        ledger.check()
        assert server.psql("SELECT count(*) FROM chunks WHERE document_id = 'base'") == str(rows)
    finally:
        front.stop()
