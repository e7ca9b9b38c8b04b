"""The work that is measured: what runs against the owners' table through each candidate.

A work has a name, DESIGN's goal for it, and run(candidate, count), which does that much of it with
every client and returns how many units (transactions, or MB) it has been and the seconds they took,
without the sessions' start. Through the floor and PgBouncer runs what reaches the server behind
pgsluice: where the rule strips the key, the statement without it.
"""

import re
import struct
import subprocess
import time

from lib import common, wire
from lib.pgserver import PGBENCH

CONTENT = "lorem ipsum dolor sit amet " * 7
COLUMNS = "collection_id, document_id, chunk_index, content"
SELECT = ("\\set id random(1, 10000)\n"
          "SELECT collection_id, chunk_index, content FROM chunks WHERE id = :id;\n")
NUMBERS = "\\set c random(1, 300)\n\\set d random(1, 1000000)\n"
INSERT = NUMBERS + f"INSERT INTO chunks ({COLUMNS}) VALUES (:c, :d, 7, :content);\n"
INSERT_KEY = (NUMBERS + f"INSERT INTO chunks ({COLUMNS.replace(',', ', partition_key,', 1)}) "
              "VALUES (:c, 42, :d, 7, :content);\n")
# Prepared, the key is a parameter, as an application binds it.
INSERT_BOUND_KEY = "\\set key 42\n" + INSERT_KEY.replace("42, :d", ":key, :d")
PIPELINE = "\\startpipeline\n" + SELECT * 20 + "\\endpipeline\n"


def many_rows(count, with_key):
    """One INSERT of about 260 bytes a row; its first row is another one each time."""
    columns = COLUMNS.replace(",", ", partition_key,", 1) if with_key else COLUMNS
    key = "42, " if with_key else ""
    rows = [f"('collection {n % 300}', {key}'document {n}', {n}, '{CONTENT}{n:028}')"
            for n in range(count)]
    rows[0] = rows[0].replace("'document 0'", "':d'")
    return f"{NUMBERS}INSERT INTO chunks ({columns}) VALUES {', '.join(rows)};\n"


def fill(server, rows):
    """Leaves exactly so many rows in the table."""
    server.psql(
        "TRUNCATE chunks RESTART IDENTITY;"
        f"INSERT INTO chunks ({COLUMNS}) SELECT 'collection ' || n % 300, 'document ' || n, n, "
        f"'{CONTENT}' FROM generate_series(1, {rows}) n;")
    if rows:
        server.psql("VACUUM ANALYZE chunks")


class Work:
    """rows: what the table holds before each run; those that only read fill it once."""

    rows = 0
    reads_only = False
    clients = 1
    unit = "transaction"

    def __init__(self, name, goal):
        self.name = name
        self.goal = goal

    def prepare(self, server, first):
        if first or not self.reads_only:
            fill(server, self.rows)


class Pgbench(Work):
    """A pgbench script. `reference` is what the candidates without rules run."""

    def __init__(self, name, goal, script, reference=None, mode="simple", clients=16, rows=0,
                 new_connections=False):
        super().__init__(name, goal)
        self.script = script
        self.reference = reference or script
        self.mode = mode
        self.clients = clients
        self.rows = rows
        self.reads_only = rows > 0
        self.new_connections = new_connections

    def command(self, candidate, count):
        script = self.script if candidate.name == "pgsluice" else self.reference
        folder = common.scratch_dir("script")
        (folder / "script").write_text(script)
        content = f"'{CONTENT}'" if self.mode == "simple" else CONTENT
        return [str(PGBENCH), "-n", "-M", self.mode, "-f", str(folder / "script"),
                "-D", f"content={content}", "-c", str(self.clients), "-j", "1", "-t", str(count),
                "-h", candidate.host, "-p", str(candidate.port), "-U", "app",
                *(["-C"] if self.new_connections else []), "app"]

    def run(self, candidate, count):
        return count_of(self.command(candidate, count), self.clients * count)


def count_of(command, expected, cwd=None):
    """Runs pgbench; every transaction must have come through. Returns the count and seconds."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)
    found = re.search(r"actually processed: (\d+)", done.stdout)
    if done.returncode != 0 or found is None or int(found[1]) != expected:
        raise RuntimeError(f"pgbench: {(done.stderr or done.stdout).strip()[-400:]}")
    return expected, expected / float(re.search(r"^tps = ([\d.]+)", done.stdout, re.M)[1])


class Transfer(Work):
    """One client that drains a result, or sends a COPY; the unit is a MB on the wire."""

    unit = "MB"

    def __init__(self, name, goal, sql, rows):
        super().__init__(name, goal)
        self.sql = sql
        self.rows = rows
        self.reads_only = rows > 0
        self.copy_data = b""
        if "FROM STDIN" in sql:
            row = f"collection 7\tdocument 7\t7\t{CONTENT}\n".encode()
            piece = row * (8192 // len(row))
            self.copy_data = (b"d" + struct.pack("!i", len(piece) + 4) + piece) * 400

    def run(self, candidate, count):
        amount = 0
        with wire.connect(candidate, user="app", timeout=60) as session:
            started = time.monotonic()
            for _ in range(count):
                session.send(wire.Query(self.sql))
                if self.copy_data:
                    session.read_until("G")
                    session.send(self.copy_data, b"c\0\0\0\4")
                amount += len(self.copy_data) + drain(session.socket)
            took = time.monotonic() - started
        return amount / 1e6, took


def drain(sock):
    """Reads to the end of a simple query's answer, and returns its length."""
    end, length, tail = b"Z\0\0\0\5I", 0, b""
    while not tail.endswith(end):
        piece = sock.recv(1 << 18)
        if not piece:
            raise RuntimeError("the connection was closed in a transfer")
        length += len(piece)
        tail = (tail + piece[-200:])[-200:]
    if b"CERROR\0" in tail:
        raise RuntimeError(f"the transfer failed: {tail!r}")
    return length


def cpu_works():
    """Those that are compared by CPU per unit."""
    single, stripped_simple, stripped_prepared = "<= 1.10", "<= 1.6", "<= 1.15"
    return [
        Pgbench("SELECT one row, simple", single, SELECT, rows=10000),
        Pgbench("SELECT one row, prepared", single, SELECT, mode="prepared", rows=10000),
        Pgbench("INSERT one row, simple", single, INSERT),
        Pgbench("INSERT one row, prepared", single, INSERT, mode="prepared"),
        Pgbench("INSERT, key stripped, simple", stripped_simple, INSERT_KEY, INSERT),
        Pgbench("INSERT, key stripped, prepared", stripped_prepared, INSERT_BOUND_KEY, INSERT,
                mode="prepared"),
        Pgbench("INSERT 1000 rows", "<= 1.3", many_rows(1000, False), clients=4),
        Pgbench("INSERT 1000 rows, keys stripped", "< pgbouncer", many_rows(1000, True),
                many_rows(1000, False), clients=4),
        Transfer("COPY in", "<= 1.2", f"COPY chunks ({COLUMNS}) FROM STDIN", rows=0),
        Transfer("COPY out", "<= 1.1", "COPY chunks TO STDOUT", rows=20000),
        Transfer("SELECT 20000 rows", "<= 1.1", "SELECT * FROM chunks", rows=20000),
        Pgbench("pipeline of 20 SELECTs", "<= 1.15", PIPELINE, mode="prepared", clients=8,
                rows=10000),
    ]


def session_work():
    return Pgbench("session", "", "SELECT 1;\n", rows=1)


def latency_work():
    return Pgbench("added latency, one client", "<= pgbouncer", SELECT, mode="prepared", clients=1,
                   rows=10000)


def churn_work():
    return Pgbench("connection churn", ">= 0.95", "SELECT 1;\n", clients=8, rows=1,
                   new_connections=True)
