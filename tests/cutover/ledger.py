"""A load that keeps a ledger: what was sent, what was acknowledged, and afterwards what is there.

Each worker is a thread with a real driver and a session of its own. A worker numbers its rows; every
row carries (worker, number) in document_id and chunk_index, so that each acknowledged row can be found
in the table, exactly once (invariants I1 and I2), in the order of its sending (I3), with the right key
(I8). Readers check what they see while the load runs (I5). Any error is kept (I4).

    ledger = Ledger(proxy, server)
    with ledger:                       # the load runs
        ...                            # cutovers
    ledger.check()                     # raises AssertionError with what is wrong

A fault that takes the proxy or the server away breaks connections: with `breakable` the workers connect
again, and what was under way has an unknown outcome: it is there as a whole, or not at all. While the disk is
full the server refuses writes: with `refusals`, SQLSTATEs, such a statement has failed as a whole.
"""

import asyncio
import contextlib
import dataclasses
import io
import itertools
import threading
import time

import asyncpg
import psycopg2
import psycopg2.extras

from lib import common
from lib.schema import KEY

WITH_KEY = "INSERT INTO chunks (collection_id, partition_key, document_id, chunk_index, content)"
WITHOUT_KEY = "INSERT INTO chunks (collection_id, document_id, chunk_index, content)"


@dataclasses.dataclass
class Entry:
    """One statement or transaction that writes the rows first..first + count - 1 of a worker."""

    worker: str
    first: int
    count: int
    sent: float
    done: float = 0.0
    # acknowledged | undone (the rows must not be there) | unknown (the client did not await the
    # answer, or lost its connection) | failed | nothing yet
    outcome: str = ""
    error: str = ""

    @property
    def latency(self):
        return self.done - self.sent


@dataclasses.dataclass
class Read:
    """One reading transaction."""

    worker: str
    sent: float
    done: float


def rows_of_entry(entry):
    return [(entry.worker, number) for number in range(entry.first, entry.first + entry.count)]


def sqlstate(error):
    return getattr(error, "pgcode" if isinstance(error, psycopg2.Error) else "sqlstate", "")


def is_break(error):
    """The connection is lost, or cannot be had: not an answer to the statement."""
    if isinstance(error, (OSError, asyncpg.InterfaceError)):
        return True
    code = sqlstate(error)
    if isinstance(error, psycopg2.Error) and code is None:
        return True
    return str(code)[:2] == "08" or code in ("57P01", "57P02", "57P03")


def collection(number):
    return f"collection {number % 37}"


class Worker(threading.Thread):
    """Runs step() until the ledger stops it. `pause` bounds its rate."""

    def __init__(self, ledger, name, pause):
        super().__init__(name=name, daemon=True)
        self.ledger = ledger
        self.pause = pause
        self.next = 0

    def run(self):
        try:
            while not self.ledger.stopping.is_set():
                self.work()
        except Exception as error:  # what a client must never see
            self.ledger.errors.append(f"{self.name}: {type(error).__name__}: {error}".strip())
        finally:
            self.finish()

    def work(self):
        """One session, to the end of the load, or of the connection."""
        try:
            with contextlib.ExitStack() as stack:
                self.open(stack)
                while not self.ledger.stopping.wait(self.pause):
                    self.step()
        except Exception as error:
            if not self.breaks(error) and not self.is_refused(error):
                raise
            self.ledger.stopping.wait(0.05)

    def breaks(self, error):
        return self.ledger.breakable and is_break(error)

    def is_refused(self, error):
        return sqlstate(error) in self.ledger.refusals

    def finish(self):
        pass

    def check(self, server):
        """For what the ledger's own comparison does not see."""

    @contextlib.contextmanager
    def entry(self, count=1):
        """Keeps the ledger around one write; acknowledged at its end unless the outcome was set."""
        entry = Entry(self.name, self.next, count, time.monotonic())
        self.next += count
        self.ledger.entries.append(entry)
        try:
            yield entry
        except Exception as error:
            if self.is_refused(error):
                entry.outcome = "undone"
            elif not self.breaks(error):
                entry.outcome = "failed"
            elif entry.outcome != "undone":
                entry.outcome = "unknown"
            entry.error = f"{type(error).__name__}: {error}".strip()
            raise
        finally:
            entry.done = time.monotonic()
        entry.outcome = entry.outcome or "acknowledged"

    @contextlib.contextmanager
    def reading(self):
        sent = time.monotonic()
        try:
            yield
        except Exception as error:
            if self.is_refused(error):
                raise AssertionError(f"a read was refused: {error}") from error
            raise
        self.ledger.reads.append(Read(self.name, sent, time.monotonic()))

    def rows(self, first, count, wrong_key):
        for number in range(first, first + count):
            row = (collection(number), self.name, number, f"content of {self.name} {number}")
            yield row[:1] + (4711,) + row[1:] if wrong_key else row


class Psycopg2Worker(Worker):
    """Simple protocol: the driver puts literals into the text."""

    autocommit = True

    def open(self, stack):
        self.connection = psycopg2.connect(**self.ledger.target)
        stack.callback(self.connection.close)
        self.connection.autocommit = self.autocommit
        self.cursor = self.connection.cursor()


class SingleRows(Psycopg2Worker):
    """One row a statement; every second supplies a key, a wrong one."""

    def step(self):
        with self.entry() as entry:
            supplied = self.ledger.supply_key and entry.first % 2 == 0
            row, = self.rows(entry.first, 1, supplied)
            self.cursor.execute(
                f"{WITH_KEY if supplied else WITHOUT_KEY} VALUES %s RETURNING partition_key", (row,))
            assert self.cursor.rowcount == 1


class ManyRows(Psycopg2Worker):
    """Twenty rows a statement, with and without the key."""

    def step(self):
        with self.entry(20) as entry:
            supplied = self.ledger.supply_key and entry.first % 40 == 0
            psycopg2.extras.execute_values(
                self.cursor, f"{WITH_KEY if supplied else WITHOUT_KEY} VALUES %s",
                list(self.rows(entry.first, 20, supplied)))
            assert self.cursor.rowcount == 20


class Copies(Psycopg2Worker):
    """COPY without the key."""

    def step(self):
        with self.entry(20) as entry:
            lines = "".join("\t".join(map(str, row)) + "\n"
                            for row in self.rows(entry.first, 20, False))
            self.cursor.copy_expert(
                "COPY chunks (collection_id, document_id, chunk_index, content) FROM STDIN",
                io.StringIO(lines))
            assert self.cursor.rowcount == 20


class Transactions(Psycopg2Worker):
    """Several statements, two tables; every fifth transaction is rolled back by the client."""

    autocommit = False

    def step(self):
        first = self.next
        if first % 10 == 8:
            self._write(first, "abandoned")
            self.connection.rollback()
        with self.entry(2) as entry:
            self._write(entry.first, self.name)
            self.connection.commit()

    def check(self, server):
        agree = server.psql(
            f"SELECT coalesce(max(chunk_count), 0) = (SELECT count(*) FROM chunks WHERE document_id ="
            f" '{self.name}') FROM documents WHERE id = '{self.name}'", dbname=self.ledger.dbname)
        assert agree == "t", f"{self.name}: the two tables disagree"

    def _write(self, first, document):
        self.cursor.execute(
            "INSERT INTO documents VALUES (%s, 2) ON CONFLICT (id)"
            " DO UPDATE SET chunk_count = documents.chunk_count + 2", (self.name,))
        for row in self.rows(first, 2, False):
            self.cursor.execute(f"{WITHOUT_KEY} VALUES %s", ((row[0], document) + row[2:],))
        self.cursor.execute("UPDATE chunks SET metadata = '{}' WHERE document_id = %s"
                            " AND chunk_index = %s", (document, first))


class PreparedRows(Worker):
    """Extended protocol: a prepared statement for the whole session, the key bound or left out."""

    def open(self, stack):
        self.loop = asyncio.new_event_loop()
        stack.callback(self.loop.close)
        target = dict(self.ledger.target)
        target["database"] = target.pop("dbname")
        self.connection = self.loop.run_until_complete(asyncpg.connect(**target))
        stack.callback(lambda: self.loop.run_until_complete(self.connection.close()))
        prepare = self.connection.prepare
        self.without = self.loop.run_until_complete(prepare(
            f"{WITHOUT_KEY} VALUES ($1, $2, $3, $4) RETURNING partition_key"))
        self.with_key = self.loop.run_until_complete(prepare(
            f"{WITH_KEY} VALUES ($1, $2, $3, $4, $5) RETURNING partition_key"))

    def step(self):
        with self.entry() as entry:
            supplied = self.ledger.supply_key and entry.first % 2 == 0
            row, = self.rows(entry.first, 1, supplied)
            statement = self.with_key if supplied else self.without
            self.loop.run_until_complete(statement.fetchval(*row))


class Reader(Psycopg2Worker):
    """READ COMMITTED: what was acknowledged before the question is in the answer."""

    def step(self):
        expected = self.ledger.acknowledged_rows()
        with self.reading():
            self.cursor.execute("SELECT count(*) FROM chunks WHERE document_id <> 'base'")
        seen = self.cursor.fetchone()[0]
        if seen < expected:
            raise AssertionError(f"saw {seen} rows although {expected} were acknowledged")


class SnapshotReader(Psycopg2Worker):
    """REPEATABLE READ: a transaction that took its snapshot before it touches the table."""

    autocommit = False

    def step(self):
        expected = self.ledger.acknowledged_rows()
        with self.reading():
            self.cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            self.cursor.execute("SELECT count(*) FROM documents")
            self.ledger.stopping.wait(0.02)
            counts = []
            for _ in range(2):
                self.cursor.execute("SELECT count(*) FROM chunks WHERE document_id <> 'base'")
                counts.append(self.cursor.fetchone()[0])
            self.connection.commit()
        if counts[0] != counts[1] or counts[0] < expected:
            raise AssertionError(f"a snapshot saw {counts} rows although {expected} were acknowledged")


class PreparedReader(Worker):
    """A prepared statement for the whole session that names its columns, the key among them."""

    sql = "SELECT id, partition_key FROM chunks WHERE collection_id = $1 ORDER BY id DESC LIMIT 5"

    def open(self, stack):
        PreparedRows.open(self, stack)
        self.statement = self.loop.run_until_complete(self.connection.prepare(self.sql))
        self.turn = itertools.count()

    def step(self):
        with self.reading():
            self.loop.run_until_complete(self.statement.fetch(collection(next(self.turn))))


class PreparedStarReader(PreparedReader):
    """The same with SELECT *: its result type changes when a cutover moves the column."""

    sql = "SELECT * FROM chunks WHERE collection_id = $1 ORDER BY id DESC LIMIT 5"


WRITERS = (SingleRows, SingleRows, ManyRows, Copies, Transactions, PreparedRows, PreparedRows)
READERS = (Reader, SnapshotReader, PreparedReader)


class Ledger:
    """The load against `endpoint` (a Proxy or Server); `server` is asked for the truth."""

    def __init__(self, endpoint, server, workers=WRITERS + READERS, pause=0.004, supply_key=True,
                 dbname="app", breakable=False, refusals=()):
        self.breakable = breakable
        self.refusals = refusals
        self.server = server
        self.endpoint = endpoint
        self.dbname = dbname
        self.target = endpoint.params(dbname, user="app")
        self.supply_key = supply_key
        self.entries = []
        self.reads = []
        self.errors = []
        self.stopping = threading.Event()
        self.workers = [kind(self, f"{kind.__name__} {number}", pause)
                        for number, kind in enumerate(workers)]

    def __enter__(self):
        for worker in self.workers:
            worker.start()
        self.wait_for_writes(50)
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for worker in self.workers:
            worker.join(30 * common.slowness())
            if worker.is_alive():
                self.errors.append(f"{worker.name}: still waits for an answer")

    def acknowledged_rows(self):
        return sum(entry.count for entry in list(self.entries) if entry.outcome == "acknowledged")

    def rows_of(self, outcome):
        return {row for entry in self.entries if entry.outcome == outcome
                for row in rows_of_entry(entry)}

    def wait_for_writes(self, count, timeout=20):
        """Until `count` more rows are acknowledged: the load really runs."""
        wanted = self.acknowledged_rows() + count
        common.wait_until(lambda: self.errors or self.acknowledged_rows() >= wanted, timeout,
                          f"{count} more acknowledged rows")

    def slowest(self, begin=0.0, end=float("inf")):
        """The largest latency of writes under way between two times, in seconds."""
        return max((entry.latency for entry in self.entries
                    if entry.done >= begin and entry.sent <= end and entry.done), default=0.0)

    def silence(self, begin, end):
        """The longest time between two times in which nothing was acknowledged, in seconds."""
        done = sorted(entry.done for entry in list(self.entries)
                      if entry.outcome == "acknowledged" and begin < entry.done < end)
        return max(later - earlier for earlier, later in zip([begin, *done], [*done, end]))

    def slowest_read(self, begin=0.0, end=float("inf")):
        return max((read.done - read.sent for read in self.reads
                    if read.done >= begin and read.sent <= end), default=0.0)

    def check(self):
        """Compares the ledger with the table."""
        assert not self.errors, "clients saw errors:\n" + "\n".join(self.errors[:10])
        unfinished = [entry for entry in self.entries if entry.outcome in ("", "failed")]
        assert not unfinished, f"not acknowledged: {unfinished[:5]}"
        if self.rows_of("unknown"):  # what vanished clients have sent may still be at work
            common.wait_until(lambda: not self.server.backends("usename = 'app' AND state = 'active'"),
                              20, "the end of all statements")

        stored = [line.split("\t") for line in self.server.psql(
            "COPY (SELECT document_id, chunk_index, id FROM chunks WHERE document_id <> 'base'"
            " ORDER BY id) TO STDOUT", dbname=self.dbname).splitlines()]
        found = [(worker, int(number)) for worker, number, _ in stored]
        present = set(found)
        sent = self.rows_of("acknowledged")
        lost = sent - present
        assert not lost, f"I1: {len(lost)} acknowledged rows are lost: {sorted(lost)[:10]}"
        assert len(found) == len(present), "I2: rows are there twice"
        undone = present & self.rows_of("undone")
        assert not undone, f"rows of statements that failed: {sorted(undone)[:10]}"
        extra = present - sent - self.rows_of("unknown")
        assert not extra, f"rows that nobody sent: {sorted(extra)[:10]}"
        halves = [entry for entry in self.entries if entry.outcome == "unknown"
                  and len({row in present for row in rows_of_entry(entry)}) > 1]
        assert not halves, f"parts of transactions: {halves[:5]}"

        last = {}
        for worker, number in filter(sent.__contains__, found):
            assert number > last.get(worker, -1), f"I3: {worker} {number} is out of order"
            last[worker] = number

        wrong = self.server.psql(
            f"SELECT count(*) FROM chunks WHERE partition_key IS DISTINCT FROM {KEY}"
            " OR content IS DISTINCT FROM 'content of ' || document_id || ' ' || chunk_index"
            "    AND document_id <> 'base'", dbname=self.dbname)
        assert wrong == "0", f"I8: {wrong} rows with a wrong key or content"

        for worker in self.workers:
            worker.check(self.server)
