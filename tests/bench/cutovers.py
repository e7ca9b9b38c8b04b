"""Cutovers by swap and rollbacks in turn, under an open-loop load through the proxy.

The load (open_load.c) never stops in between, so that all sessions with their prepared statements
live through all of it, and each of its rows must be in the table once. Between two cutovers the load
runs as long without one: what a statement costs then is subtracted from what it costs in a cutover.
"""

import bisect
import dataclasses
import datetime
import json
import re
import signal
import struct
import subprocess
import time

from lib import common, schema
from lib.pgserver import Server
from lib.proxy import Proxy, strip_rule

RECORD = struct.Struct("=qqqIIc5s2x")  # struct record of open_load.c
ACKNOWLEDGED = b"00000"
SWAP = ("cutover", "chunks", "--yes", "--strategy", "swap")
ROLLBACK = ("rollback", "chunks")
SETTLE = 0.5  # seconds before and after the ledger is put aside
PATIENCE = 60  # seconds for one cutover
SOAK_FROM = 101  # so many cutovers, and more, are run for the zeros and not for the milliseconds

# As in production: a COMMIT is on the disk.
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
           "shared_buffers": "256MB", "max_connections": "260"}


@dataclasses.dataclass
class Plan:
    """How much of what."""

    cutovers: int
    writes: int  # a second
    reads: int
    rows: int
    writers: int = 160
    readers: int = 40
    control: bool = True

    @classmethod
    def of(cls, options):
        count = options.cutovers or (4 if options.quick else 20)
        if count >= SOAK_FROM:
            return cls(count, options.writes or 200, 50, 2000, control=False)
        return cls(count, options.writes or 2000, 300, 50000)


@dataclasses.dataclass
class Turn:
    """One cutover or rollback; times are seconds since the epoch."""

    command: str
    begin: float
    end: float
    holds: list  # (begin, end) of each attempt; the last one is the flip's
    gate_ms: float
    lock_ms: float | None
    held: int
    control: float | None = None  # when the window behind it began that is as long as this turn

    @property
    def release(self):
        return self.holds[-1][1]


class OpenLoad:
    """The running generator."""

    def __init__(self, proxy, plan):
        self.log = common.scratch_dir("load") / "log"
        target = f"host={proxy.host} port={proxy.port} user=app dbname=app sslmode=disable"
        self.errors = open(self.log.with_name("errors"), "w+")
        self.process = subprocess.Popen(
            [str(common.build_dir() / "bench_open_load"), target,
             *map(str, (plan.writers, plan.writes, plan.readers, plan.reads, plan.rows)),
             str(self.log)], stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.backends = set(map(int, self.process.stdout.readline().split()))
        if len(self.backends) != plan.writers + plan.readers:
            raise RuntimeError(f"the load did not start: {self.said()}")

    def said(self):
        self.errors.seek(0)
        return self.errors.read().strip()[-600:]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def records(self):
        return RECORD.iter_unpack(self.log.read_bytes())


class Sample:
    """The statements of one kind by when they were due."""

    def __init__(self, pairs):
        pairs.sort()
        self.due = [due for due, _ in pairs]
        self.done = sorted(done for _, done in pairs)
        self.pairs = pairs

    def latencies(self, begin, end):
        """In ms, of those that were due from `begin` on and before `end`."""
        first, last = (bisect.bisect_left(self.due, at) for at in (begin, end))
        return [(done - due) * 1e3 for due, done in self.pairs[first:last]]

    def completed(self, begin, end):
        return bisect.bisect_left(self.done, end) - bisect.bisect_left(self.done, begin)


class Ledger:
    """What was sent and what is there. Rows that are there are put aside from time to time, so that the
    table stays as large as it was."""

    aside = ("WITH gone AS (DELETE FROM chunks WHERE document_id <> 'base' RETURNING document_id,"
             " chunk_index) INSERT INTO settled SELECT * FROM gone")

    def __init__(self, server):
        self.server = server
        server.psql("CREATE TABLE settled (document_id varchar, chunk_index integer)")

    def put_aside(self):
        self.server.psql(self.aside)

    def compare(self, records):
        """Counts of what must be 0."""
        self.put_aside()
        stored = [tuple(map(int, line.split("\t"))) for line in
                  self.server.psql("COPY settled TO STDOUT").splitlines()]
        acknowledged, sent, errors = set(), set(), {}
        for _, _, _, session, number, kind, state in records:
            if kind == b"w":
                sent.add((session, number))
                if state == ACKNOWLEDGED:
                    acknowledged.add((session, number))
            if state != ACKNOWLEDGED:
                name = state.decode().strip("\0") or "no answer"
                errors[name] = errors.get(name, 0) + 1
        present = set(stored)
        return {"sent": len(sent), "acknowledged": len(acknowledged), "errors": errors,
                "lost": len(acknowledged - present), "doubled": len(stored) - len(present),
                "not_sent": len(present - sent),
                "wrong_keys": schema.wrong_keys(self.server)}


class Steps:
    """The cutovers' steps in the audit log, each read once: it is a long file."""

    def __init__(self, proxy):
        self.file = proxy.audit_file
        self.at = 0

    def of(self, run):
        """[(step, seconds since the epoch)] of one run."""
        with open(self.file, "rb") as audit:
            audit.seek(self.at)
            whole, newline, _ = audit.read().rpartition(b"\n")
        self.at += len(whole) + len(newline)
        records = (json.loads(line) for line in whole.splitlines() if b'"cutover"' in line)
        return [(record["step"], datetime.datetime.fromisoformat(
                    record["time"].replace("Z", "+00:00")).timestamp())
                for record in records
                if record.get("event") == "cutover" and record.get("run") == run]


def hold_windows(steps, gate_ms):
    """When the gate held, attempt by attempt: until the next step that opens it."""
    windows, since = [], None
    for step, at in steps:
        if step == "hold":
            since = at
        elif since is not None and step in ("backoff", "release", "failed"):
            windows.append((since, since + gate_ms / 1e3 if step == "release" else at))
            since = None
    return windows


class Cutovers:
    """The server, the proxy, the load, and the turns."""

    def __init__(self, plan, workers):
        self.plan = plan
        self.turns = []
        self.failures = []
        self.server = Server(settings=DURABLE)
        self.server.start()
        schema.create_database(self.server)
        self.server.psql("GRANT pg_read_all_stats TO pgsluice")
        schema.create_chunks(self.server)
        self.server.psql(
            "INSERT INTO chunks (collection_id, document_id, chunk_index, content)"
            " SELECT 'collection ' || n % 300, 'base', n, repeat('x', 150)"
            f" FROM generate_series(1, {plan.rows}) n")
        self.server.psql("VACUUM ANALYZE chunks")
        self.ledger = Ledger(self.server)
        self.proxy = Proxy(self.server, [strip_rule()], workers=workers).start()
        self.steps = Steps(self.proxy)

    def run(self, progress):
        """All turns; `progress` is told of each."""
        load = OpenLoad(self.proxy, self.plan)
        try:
            time.sleep(1)
            for number in range(self.plan.cutovers):
                is_over = not self._turn()
                progress(number + 1, self)
                if is_over or load.process.poll() is not None or len(self.failures) > 5:
                    self.failures.append(f"ended after {number + 1} cutovers: {load.said()}")
                    break
            alive = set(self.server.backends())
        finally:
            load.stop()
        self.records = list(load.records())
        self.zeros = self.ledger.compare(self.records)
        self.zeros["killed"] = len(load.backends - alive)
        self.zeros["server_log"] = len(re.findall(r"app@app (?:ERROR|FATAL|PANIC)",
                                                  self.server.log()))
        self.writes, self.reads = (
            Sample([(due / 1e9, done / 1e9) for due, _, done, _, _, kind, state in self.records
                    if kind == wanted and state == ACKNOWLEDGED]) for wanted in (b"w", b"r"))
        self.proxy.stop()
        self.server.stop()

    def _is_generated(self):
        return self.server.psql("SELECT attgenerated FROM pg_attribute WHERE attrelid = "
                                "'chunks'::regclass AND attname = 'partition_key'") == "s"

    def _turn(self):
        """Forward or back, the ledger, and as long a time without a cutover. False when it has not
        come to its end: the load is more than the machine can do beside the copying."""
        command = ROLLBACK if self._is_generated() else SWAP
        begin = time.time()
        try:
            done = self.proxy.command(*command, "--json", timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.failures.append(f"{command[0]}: not done after {PATIENCE} s; --writes for less load")
            return False
        end = time.time()
        if done.returncode != 0:
            self.failures.append(f"{command[0]}: exit code {done.returncode}: "
                                 f"{(done.stdout + done.stderr)[-400:]}")
            return True
        report = json.loads(done.stdout)
        hold = report["hold"]
        self.turns.append(turn := Turn(
            command[0], begin, end, hold_windows(self.steps.of(report["run"]), hold["gate_ms"]),
            hold["gate_ms"], hold.get("lock_ms"), hold["held_statements"]))
        if not self.plan.control:
            self.ledger.put_aside()
            return True
        time.sleep(SETTLE)
        self.ledger.put_aside()
        time.sleep(SETTLE)
        turn.control = time.time()
        time.sleep(end - begin)
        return True
