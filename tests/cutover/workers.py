"""Workers of the ledger that write in less usual ways: pipelines, several statements in one message,
isolated transactions, statements that are cancelled, clients that vanish.
"""

import io
import itertools
import random
import threading

import psycopg
import psycopg2

from lib import wire

from ledger import WITHOUT_KEY, WITH_KEY, Psycopg2Worker, Transactions, Worker

DEPTH = 5  # of a pipeline


class PipelinedRows(Worker):
    """psycopg's pipeline mode: prepared statements, one Sync and so one transaction for all."""

    def open(self, stack):
        self.connection = psycopg.connect(**self.ledger.target, autocommit=True)
        stack.callback(self.connection.close)

    def step(self):
        with self.entry(DEPTH) as entry, self.connection.pipeline():
            cursors = [self.connection.execute(
                f"{WITHOUT_KEY} VALUES (%s, %s, %s, %s) RETURNING chunk_index", row, prepare=True)
                for row in self.rows(entry.first, DEPTH, False)]
        numbers = [cursor.fetchone()[0] for cursor in cursors]
        assert numbers == list(range(entry.first, entry.first + DEPTH)), numbers


class CopyReader(Psycopg2Worker):
    """COPY TO, which leaves out a generated column or refuses it, with and without a list of columns."""

    def step(self):
        for columns, width in (("", 8), (" (partition_key, id)", 2)):
            out = io.StringIO()
            with self.reading():
                self.cursor.copy_expert(f"COPY chunks{columns} TO STDOUT", out)
            line = out.getvalue().partition("\n")[0]
            assert line.count("\t") == width - 1, f"COPY{columns}: {line}"


class WireWorker(Worker):
    """Raw messages."""

    def open(self, stack):
        self.session = wire.connect(self.ledger.endpoint, self.ledger.target["user"],
                                    self.ledger.dbname)
        stack.callback(self.session.close)


class PipelinedSyncs(WireWorker):
    """A Sync, and so a transaction, for each of several statements that are sent at once; every
    second supplies the key. The answers come in the order of the statements."""

    def open(self, stack):
        super().open(stack)
        self.session.send(
            wire.Parse("without", f"{WITHOUT_KEY} VALUES ($1, $2, $3, $4) RETURNING chunk_index"),
            wire.Parse("with", f"{WITH_KEY} VALUES ($1, $2, $3, $4, $5) RETURNING chunk_index"),
            wire.Sync())
        assert wire.errors(self.session.read_until("Z")) == []

    def step(self):
        with self.entry(DEPTH) as entry:
            for number in range(entry.first, entry.first + DEPTH):
                supplied = self.ledger.supply_key and number % 2 == 0
                row, = self.rows(number, 1, supplied)
                self.session.send(wire.Bind("", "with" if supplied else "without", list(map(str, row))),
                                  wire.Execute(), wire.Sync())
            answers = [self.session.read_until("Z") for _ in range(DEPTH)]
            numbers = [int(message.values()[0]) for answer in answers for message in answer
                       if message.kind == "D"]
            assert numbers == list(range(entry.first, entry.first + DEPTH)), answers


class MultiStatements(Psycopg2Worker):
    """Several statements in one simple query: an implicit transaction over both tables, or a whole
    transaction with its BEGIN and COMMIT."""

    def open(self, stack):
        super().open(stack)
        self.cursor.execute("INSERT INTO documents VALUES (%s, 0) ON CONFLICT DO NOTHING",
                            (self.name,))

    def step(self):
        with self.entry(2) as entry:
            rows = self.rows(entry.first, 2, False)
            inserts = [self.text(f"{WITHOUT_KEY} VALUES %s", row) for row in rows]
            update = self.text("UPDATE documents SET chunk_count = chunk_count + 2 WHERE id = %s",
                               self.name)
            statements = [inserts[0], update, inserts[1]]
            if entry.first % 4 == 0:
                statements = ["BEGIN", *statements, "COMMIT"]
            self.cursor.execute("; ".join(statements))

    def text(self, sql, value):
        return self.cursor.mogrify(sql, (value,)).decode()

    check = Transactions.check


class Churn(Psycopg2Worker):
    """Updates, deletes and inserts rows of its own, and knows what they must be in the end. A
    snapshot of the whole transaction is taken before the table is touched."""

    autocommit = False
    isolation = "READ COMMITTED"
    number = itertools.count()

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.turns = itertools.count()
        self.first = None
        self.rows_now = {}
        self.attempt = None  # what the rows will be

    def open(self, stack):
        super().open(stack)
        if self.first is None:
            self.first = 1_000_000_000 + 1_000_000 * next(Churn.number)
        elif self.attempt is not None:
            self.find_out()

    def find_out(self):
        """The last transaction broke off: it has happened as a whole, or not at all."""
        stored = self.stored(self.ledger.server)
        assert stored in (self.rows_now, self.attempt), f"{self.name} is half done"
        self.rows_now, self.attempt = stored, None

    def step(self):
        turn = next(self.turns)
        rows = dict(self.rows_now)
        try:
            self.cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {self.isolation}")
            self.cursor.execute("SELECT count(*) FROM documents")
            self.change(turn, rows)
            self.attempt = rows
            self.connection.commit()
        except psycopg2.errors.SerializationFailure:
            # What any SERIALIZABLE transaction must expect, cutover or not; never otherwise.
            self.connection.rollback()
            self.attempt = None
            if self.isolation != "SERIALIZABLE":
                raise
            return
        self.rows_now, self.attempt = rows, None

    def change(self, turn, rows):
        new = self.first + turn
        self.cursor.execute(
            "INSERT INTO chunks (id, collection_id, document_id, chunk_index, content)"
            " VALUES (%s, %s, 'base', 1, %s)", (new, f"collection {turn % 37}", f"new {turn}"))
        rows[new] = f"new {turn}"
        if turn % 3 == 0:
            self.cursor.execute("UPDATE chunks SET content = %s WHERE id = %s",
                                (f"changed {turn}", new - 6))
            if new - 6 in rows:
                rows[new - 6] = f"changed {turn}"
        if turn % 5 == 0:
            self.cursor.execute("UPDATE chunks SET id = %s WHERE id = %s", (-new, new))
            rows[-new] = rows.pop(new)
        if turn % 4 == 0:
            self.cursor.execute("DELETE FROM chunks WHERE id = %s", (new - 11,))
            rows.pop(new - 11, None)

    def stored(self, server):
        return {int(key): value for key, value in (line.split("\t") for line in server.psql(
            f"COPY (SELECT id, content FROM chunks WHERE abs(id) BETWEEN {self.first} AND"
            f" {self.first + 999_999}) TO STDOUT", dbname=self.ledger.dbname).splitlines())}

    def check(self, server):
        if self.attempt is not None:
            self.find_out()
        assert self.stored(server) == self.rows_now, self.name


class RepeatableChurn(Churn):
    isolation = "REPEATABLE READ"


class SerializableChurn(Churn):
    isolation = "SERIALIZABLE"


class Cancelled(Psycopg2Worker):
    """Statements that a CancelRequest may reach: before, while or after they run, or while they are
    held at the gate. An error is 57014 and means that the row is not there."""

    def open(self, stack):
        super().open(stack)
        self.random = random.Random(self.name)
        self.cancelled = 0

    def step(self):
        cancel = threading.Timer(self.random.uniform(0, 0.012), self.connection.cancel)
        with self.entry() as entry:
            row, = self.rows(entry.first, 1, False)
            cancel.start()
            try:
                self.cursor.execute(f"{WITHOUT_KEY} SELECT %s, %s, %s, %s FROM pg_sleep(0.005)", row)
            except psycopg2.errors.QueryCanceled:
                entry.outcome = "undone"
                self.cancelled += 1
        cancel.join()

    def check(self, _):
        some = 0 < self.cancelled < self.next
        assert some or self.next < 50, f"{self.cancelled} of {self.next} were cancelled"


class Vanishing(Worker):
    """Clients that go away without a word, each with a connection of its own: with half a message sent,
    inside a transaction (its rows must not be there), or without awaiting the answer (all of its
    rows are there, or none)."""

    def open(self, stack):
        self.turns = itertools.count()

    def step(self):
        session = wire.connect(self.ledger.endpoint, self.ledger.target["user"],
                               self.ledger.dbname)
        turn = next(self.turns)
        with self.entry(2) as entry:
            values = ", ".join("('{}', '{}', {}, '{}')".format(*row)
                               for row in self.rows(entry.first, 2, False))
            insert = f"{WITHOUT_KEY} VALUES {values}"
            entry.outcome = "unknown" if turn % 4 < 2 else "undone"
            if turn % 4 == 0:
                session.send(wire.Query(insert))
            elif turn % 4 == 1:
                assert wire.errors(session.query(f"BEGIN; {insert}")) == []
                session.send(wire.Query("COMMIT"))
            elif turn % 4 == 2:
                assert wire.errors(session.query(f"BEGIN; {insert}")) == []
            else:
                session.send(wire.Query(insert)[:-20])
            if turn % 8 < 4:
                session.reset()
            else:
                session.close()


# Beside the ledger's own WRITERS.
UNUSUAL = (PipelinedRows, PipelinedSyncs, MultiStatements, Cancelled, Vanishing, Churn,
           RepeatableChurn, SerializableChurn)
