"""The work that is measured: what runs against the owners' table through each candidate.

A work has a name, DESIGN's goal for it, and run(candidate, count), which does that much of it with
every client and returns how many units (transactions, or MB) it has been and the seconds they took,
without the sessions' start. Through the floor and PgBouncer runs what reaches the server behind
pgsluice: where the rule strips the key, the statement without it. A work with TLS from the clients
runs without it through the floor, which has none.
"""

import re
import struct
import subprocess
import time

import goals
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
    """rows: what the table holds before each run; those that only read fill it once. tls: from the
    clients; server_tls: towards the server as well."""

    clients = 1
    unit = "transaction"

    def __init__(self, name, goal, rows, tls=False, server_tls=False):
        self.name = name
        self.goal = goal
        self.rows = rows
        self.reads_only = rows > 0
        self.tls = tls
        self.server_tls = server_tls

    def has_tls(self, candidate):
        return self.tls and candidate.has_tls

    def prepare(self, server, first):
        if first or not self.reads_only:
            fill(server, self.rows)


class Pgbench(Work):
    """A pgbench script. `reference` is what the candidates without rules run."""

    def __init__(self, name, goal, script, reference=None, mode="simple", clients=16, rows=0,
                 new_connections=False, **tls):
        super().__init__(name, goal, rows, **tls)
        self.script = script
        self.reference = reference or script
        self.mode = mode
        self.clients = clients
        self.new_connections = new_connections

    def command(self, candidate, count):
        script = self.script if candidate.name == "pgsluice" else self.reference
        folder = common.scratch_dir("script")
        (folder / "script").write_text(script)
        content = f"'{CONTENT}'" if self.mode == "simple" else CONTENT
        sslmode = "require" if self.has_tls(candidate) else "disable"
        return [str(PGBENCH), "-n", "-M", self.mode, "-f", str(folder / "script"),
                "-D", f"content={content}", "-c", str(self.clients), "-j", "1", "-t", str(count),
                *(["-C"] if self.new_connections else []),
                f"host={candidate.host} port={candidate.port} user=app dbname=app "
                f"sslmode={sslmode}"]

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
    """One client that drains a result, or sends a COPY; the unit is a MB that the client has sent
    or got. `reference` is what the candidates without rules run."""

    unit = "MB"

    def __init__(self, name, goal, sql, reference=None, rows=0, **tls):
        super().__init__(name, goal, rows, **tls)
        self.sql = sql
        self.reference = reference or sql


    def run(self, candidate, count):
        amount = 0
        sql = self.sql if candidate.name == "pgsluice" else self.reference
        data = copy_data(sql) if "FROM STDIN" in sql else b""
        with open_session(candidate, self.has_tls(candidate)) as session:
            started = time.monotonic()
            for _ in range(count):
                session.send(wire.Query(sql))
                if data:
                    await_copy_in(session)
                    session.send(data, b"c\0\0\0\4")
                amount += len(data) + drain(session.socket)
            took = time.monotonic() - started
        return amount / 1e6, took


def copy_data(sql):
    """CopyData of 8 KiB each, 3 MB together."""
    key = "42\t" if "partition_key" in sql else ""
    row = f"collection 7\t{key}document 7\t7\t{CONTENT}\n".encode()
    piece = row * (8192 // len(row))
    return (b"d" + struct.pack("!i", len(piece) + 4) + piece) * 400


def await_copy_in(session):
    answer = session.read()
    if answer.kind != "G":
        raise RuntimeError(f"COPY was not begun: {answer}")


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


def open_session(candidate, tls):
    session = wire.Connection.to(candidate, timeout=60)
    if tls:
        session.start_tls()
    session.start(user="app")
    return session


COPY_IN = f"COPY chunks ({COLUMNS}) FROM STDIN"
COPY_IN_KEY = COPY_IN.replace(",", ", partition_key,", 1)
BULK = "SELECT * FROM chunks"


def cpu_works():
    """Those that are compared by CPU per unit."""
    single = goals.of_floor(1.10)
    return [
        Pgbench("SELECT one row, simple", single, SELECT, rows=10000),
        Pgbench("SELECT one row, prepared", single, SELECT, mode="prepared", rows=10000),
        Pgbench("INSERT one row, simple", single, INSERT),
        Pgbench("INSERT one row, prepared", single, INSERT, mode="prepared"),
        Pgbench("INSERT, key stripped, simple", goals.of_floor(1.6), INSERT_KEY, INSERT),
        Pgbench("INSERT, key stripped, prepared", goals.of_floor(1.15), INSERT_BOUND_KEY, INSERT,
                mode="prepared"),
        Pgbench("INSERT 1000 rows", goals.of_floor(1.3), many_rows(1000, False), clients=4),
        Pgbench("INSERT 1000 rows, keys stripped", goals.of_pgbouncer(1), many_rows(1000, True),
                many_rows(1000, False), clients=4),
        Transfer("COPY in", goals.of_floor(1.2), COPY_IN),
        Transfer("COPY in, keys stripped", goals.of_floor(2.5), COPY_IN_KEY, COPY_IN),
        Transfer("COPY out", goals.of_floor(1.1), "COPY chunks TO STDOUT", rows=20000),
        Transfer("SELECT 20000 rows", goals.of_floor(1.1), BULK, rows=20000),
        Pgbench("pipeline of 20 SELECTs", goals.of_floor(1.15), PIPELINE, mode="prepared",
                clients=8, rows=10000),
        Pgbench("TLS: SELECT one row, prepared", goals.at_most(30, "us"), SELECT, mode="prepared",
                rows=10000, tls=True),
        Transfer("TLS: SELECT 20000 rows", goals.at_most(1500, "us/MB"), BULK, rows=20000,
                 tls=True),
        Transfer("TLS: COPY in", goals.NONE, COPY_IN, tls=True),
        Pgbench("TLS on both legs: SELECT one row", goals.NONE, SELECT, mode="prepared", rows=10000,
                tls=True, server_tls=True),
        Transfer("TLS on both legs: 20000 rows", goals.NONE, BULK, rows=20000, tls=True,
                 server_tls=True),
    ]


def pipe_works():
    """Those by which the two byte pipes are compared."""
    return [
        Pgbench("uv_poll: SELECT one row, prepared", goals.NONE, SELECT, mode="prepared",
                rows=10000),
        Transfer("uv_poll: COPY in", goals.NONE, COPY_IN),
        Transfer("uv_poll: SELECT 20000 rows", goals.NONE, BULK, rows=20000),
    ]


def system_call_works():
    """One client each. DESIGN has no figure: no more calls than the floor's but for timers. Where a
    key is stripped the audit log's writer comes on top, so that row has no goal."""
    as_floor = goals.of_floor(1.05)
    return [
        Pgbench("system calls: SELECT, simple", as_floor, SELECT, clients=1, rows=10000),
        Pgbench("system calls: SELECT, prepared", as_floor, SELECT, mode="prepared", clients=1,
                rows=10000),
        Pgbench("system calls: pipeline of 20", as_floor, PIPELINE, mode="prepared", clients=1,
                rows=10000),
        Pgbench("system calls: INSERT, stripped", goals.NONE, INSERT_BOUND_KEY, INSERT,
                mode="prepared", clients=1),
        Pgbench("system calls: SELECT, TLS", as_floor, SELECT, mode="prepared", clients=1,
                rows=10000, tls=True),
    ]


def session_work(tls):
    return Pgbench("session", goals.NONE, "SELECT 1;\n", rows=1, tls=tls)


def latency_work():
    return Pgbench("added latency, one client", goals.Goal("<= pgbouncer's", beside="pgbouncer"),
                   SELECT, mode="prepared", clients=1, rows=10000)


def churn_work():
    return Pgbench("connection churn", goals.Goal(">= 0.95 of direct", 0.95, at_least=True),
                   "SELECT 1;\n", clients=8, rows=1, new_connections=True)


def shared_work():
    return Pgbench("busier of two workers", goals.Goal("<= 0.55", 0.55), SELECT, mode="prepared",
                   rows=10000)
