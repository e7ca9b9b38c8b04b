"""Sessions made up at random, the same ones for the same seed: what a client sends, in steps.

A step is bytes that a client sends in one go before it looks at the answers. Every kind of message and
every way to be wrong that leaves the session usable is in it: the server's replies to the whole are
the same each time, so two endpoints can be compared by them.
"""

import random

from .wire import (Bind, Close, CopyData, CopyDone, CopyFail, Describe, Execute, Flush, FunctionCall,
                   Parse, Query, Sync, Terminate)

SETUP = ("CREATE TEMP TABLE t(a int PRIMARY KEY, b text);"
         "CREATE TEMP TABLE u(a int, b text);"
         "INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 20) AS n; LISTEN news")

# Statements by what they take: texts for Query and Parse, with the values for their parameters.
READS = [
    ("SELECT 1 AS one, NULL, 'text'", []),
    ("SELECT a, b FROM t ORDER BY a", []),
    ("SELECT n, repeat('x', n) FROM generate_series(1, 30) AS n", []),
    ("SELECT repeat('long ', 5000)", []),
    ("SELECT", []),
    ("SELECT 1 WHERE false", []),
    ("TABLE u", []),
    ("SHOW timezone", []),
    ("VALUES (1, 'a'), (2, 'b')", []),
    ("EXPLAIN (COSTS off) SELECT * FROM u", []),
    ("SELECT current_setting('application_name')", []),
]
WRITES = [
    ("INSERT INTO u VALUES (1, 'one'), (2, 'two')", []),
    ("INSERT INTO t SELECT max(a) + 1, 'more' FROM t RETURNING a, b", []),
    ("UPDATE t SET b = b || '!' WHERE a < 4", []),
    ("DELETE FROM u", []),
    ("TRUNCATE u", []),
    ("DO $$ BEGIN RAISE NOTICE 'said %', 1; RAISE WARNING 'warned'; END $$", []),
    ("CREATE TEMP TABLE IF NOT EXISTS u(a int)", []),
    ("NOTIFY news, 'from myself'", []),
    ("SELECT pg_notify('news', 'by function')", []),
]
FAILURES = [
    ("SELECT nothing", []),
    ("SELECT 1 / (5 - n) FROM generate_series(1, 9) AS n", []),
    ("INSERT INTO t VALUES (1, 'again')", []),
    ("SELECT * FROM missing", []),
    ("DO $$ BEGIN RAISE EXCEPTION 'raised' USING HINT = 'a hint', DETAIL = 'why'; END $$", []),
    ("SELECT 1 AS a; SELECT 2 AS b", []),  # one too many for Parse
]
SYNTAX_ERRORS = [("SELEC 1", []), ("SELECT 'unterminated", []), ("SELECT 1 FROM", [])]
TRANSACTIONS = [("BEGIN", []), ("COMMIT", []), ("ROLLBACK", []), ("BEGIN", []), ("COMMIT", []),
                ("SAVEPOINT s", []), ("ROLLBACK TO s", []), ("RELEASE s", [])]
SETTINGS = [
    ("SET timezone TO 'Asia/Tokyo'", []), ("SET timezone TO 'UTC'", []), ("RESET timezone", []),
    ("SET client_encoding TO 'LATIN1'", []), ("SET client_encoding TO 'UTF8'", []),
    ("SET standard_conforming_strings TO off", []), ("SET standard_conforming_strings TO on", []),
    ("SET application_name TO 'made up'", []), ("SET LOCAL datestyle TO 'German'", []),
    ("SELECT set_config('IntervalStyle', 'iso_8601', true)", []),
]
NOTHING = [("", []), (" ", []), ("-- nothing", []), (";", [])]
# Only for Parse: Query takes no parameters.
WITH_VALUES = [
    ("SELECT $1::int + 1", ["41"]), ("SELECT $1::text || $2", ["a", "b"]),
    ("SELECT $1::bytea", [b"\\x00ff"]), ("SELECT $1::int", [None]), ("SELECT $1::int", ["x"]),
    ("INSERT INTO u VALUES ($1, $2)", ["7", "seven"]), ("SELECT 1 / $1::int", ["0"]),
    ("SELECT n FROM generate_series(1, $1::int) AS n", ["12"]),
    ("SELECT length($1::text)", ["y" * 3000]),
]


def mentions(names):
    """Statements that no rule concerns and that name guarded things all the same."""
    table, column = names
    return [
        (f"SELECT 'INSERT INTO {table} ({column}) VALUES (1)'", []),
        (f"SELECT 1 /* {table}.{column} */ -- {table}", []),
        (f"SELECT a AS {column} FROM t AS {table} ORDER BY a LIMIT 2", []),
        (f'SELECT $tag$ UPDATE {table} SET {column} = 1 $tag$ AS "{column}"', []),
        (f"WITH {table} AS (SELECT 1 AS {column}) SELECT {column} FROM {table}", []),
        (f"SELECT E'{table}\\'{column}'", []),
        (f"SELECT nothing /* {table} */", []),
        (f"INSERT INTO u (b) VALUES ('{table} {column}')", []),
    ]


class Session:
    """steps: what is sent, ending with the client's end of the session. `names` are a guarded table
    and its column, to be mentioned without need."""

    def __init__(self, seed, names=None, steps=12):
        self.dice = random.Random(seed)
        self.statements = [READS, READS, WRITES, WRITES, FAILURES, TRANSACTIONS, SETTINGS, NOTHING]
        if names:
            self.statements += [mentions(names)] * 3
        else:
            # A text that names the table and cannot be read is refused with words of the rule's.
            self.statements.append(SYNTAX_ERRORS)
        self.steps = [Query(SETUP)]
        for _ in range(steps):
            self.steps.append(b"".join(self._step()))
        self.steps.append(self._ending())

    def _ending(self):
        """Terminate, in mid-unit sometimes; or nothing, and the connection is half-closed."""
        return self.dice.choice([Sync() + Terminate(), Terminate(), Sync(), b"".join(self._unit(b""))])

    def _text(self):
        return self.dice.choice(self.dice.choice(self.statements))[0]

    def _step(self):
        kind = self.dice.choice([self._queries, self._queries, self._units, self._units, self._units,
                                 self._copy_in, self._copy_in_extended, self._copy_out,
                                 self._function_calls, self._portals, self._strays])
        return kind()

    def _queries(self):
        for _ in range(self.dice.choice([1, 1, 1, 2, 5])):
            texts = [self._text() for _ in range(self.dice.choice([1, 1, 1, 2, 4]))]
            # What a line comment would swallow is on a line of its own.
            yield Query("\n;".join(texts))

    def _name(self):
        return self.dice.choice(["", "", "s1", "s2", "s" * 70])

    def _values(self, values):
        """Sometimes one too many, or of a format that there is not."""
        if self.dice.random() < 0.05:
            return dict(values=[*values, "1"])
        formats = self.dice.choice([[], [], [0], [0] * len(values)])
        results = self.dice.choice([[], [], [0], [1], [1, 0]])
        return dict(values=values, formats=formats, results=results)

    def _unit(self, end):
        """Messages of the extended protocol up to `end`."""
        name, portal = self._name(), self.dice.choice(["", "", "p1", "p2"])
        values = []
        if self.dice.random() < 0.85:
            source = self.dice.choice([*self.statements, WITH_VALUES, WITH_VALUES, WITH_VALUES])
            text, values = self.dice.choice(source)
            if name and self.dice.random() < 0.7:
                yield Close("S", name)
            yield Parse(name, text, self.dice.choice([[], [], [], [0], [23]]))
        if self.dice.random() < 0.3:
            yield Describe("S", self.dice.choice([name, name, self._name()]))
        for _ in range(self.dice.choice([1, 1, 1, 2, 3])):
            yield Bind(portal, name, **self._values(values))
            if self.dice.random() < 0.4:
                yield Describe("P", portal)
            if self.dice.random() < 0.2:
                yield Flush()
            yield Execute(portal, self.dice.choice([0, 0, 0, 1, 5]))
            if portal and self.dice.random() < 0.7:
                yield Close("P", portal)
        if self.dice.random() < 0.2:
            yield Close(self.dice.choice("SP"), self._name())
        yield end

    def _units(self):
        for _ in range(self.dice.choice([1, 1, 2, 6])):
            yield from self._unit(self.dice.choice([Sync()] * 6 + [b"", Sync() * 2]))
        yield self.dice.choice([Sync(), Sync(), Sync(), Flush(), b""])

    def _rows(self):
        """What a client sends after COPY ... FROM STDIN, right or wrong."""
        for n in range(self.dice.choice([0, 1, 3, 40])):
            row = self.dice.choice([f"{n}\trow {n}\n"] * 8 + [f"{n}\t", f"{n}\n", "\\N\t\\N\n", ""])
            if self.dice.random() < 0.02:
                row = "not a number\tx\n"
            yield CopyData(row)
            if self.dice.random() < 0.05:
                yield self.dice.choice([Flush(), Sync()])
        yield self.dice.choice([CopyDone()] * 5 + [CopyFail("no more")])

    def _copy_in(self):
        table = self.dice.choice(["u", "u", "u", "u (b, a)", "missing"])
        yield Sync()
        yield Query(f"COPY {table} FROM STDIN")
        yield from self._rows()

    def _copy_in_extended(self):
        # A name of its own, so that no other unit begins a COPY by chance.
        yield Close("S", "copy")
        yield Parse("copy", "COPY u FROM STDIN")
        yield Bind("copy", "copy")
        yield Execute("copy")
        yield self.dice.choice([b"", b"", Sync(), Flush()])
        yield from self._rows()
        yield Sync()

    def _copy_out(self):
        text = self.dice.choice([
            "COPY t TO STDOUT", "COPY (SELECT 1 / (5 - n) FROM generate_series(1, 9) AS n) TO STDOUT",
            "COPY t TO STDOUT (FORMAT csv, HEADER)", "COPY u TO STDOUT (FORMAT binary)"])
        if self.dice.random() < 0.5:
            yield Query(text)
        else:
            yield Parse("", text)
            yield Bind("", "")
            yield Execute("", self.dice.choice([0, 1]))
            yield Sync()

    def _function_calls(self):
        yield self.dice.choice([
            FunctionCall(177, ["2", "3"]), FunctionCall(177, ["2", "x"]), FunctionCall(177, ["2"]),
            FunctionCall(177, ["2", None]), FunctionCall(4000000000),
            FunctionCall(177, [b"\0\0\0\2", b"\0\0\0\3"], [1], 1)])

    def _portals(self):
        """Two portals read in portions, in turns."""
        yield Query(self.dice.choice(["BEGIN", "ROLLBACK; BEGIN", "SELECT 1"]))
        yield Parse("", "SELECT n FROM generate_series(1, $1::int) AS n")
        for portal in "xy":
            yield Bind(portal, "", [str(self.dice.randint(1, 6))])
        for _ in range(self.dice.randint(1, 6)):
            portal = self.dice.choice("xxyyz")
            yield self.dice.choice([Execute(portal, self.dice.choice([1, 2, 0]))] * 5
                                   + [Close("P", portal), Describe("P", portal), Sync(), Flush()])
        yield Sync()
        yield Query(self.dice.choice(["COMMIT", "ROLLBACK"]))

    def _strays(self):
        """What is ignored where it does not belong."""
        yield self.dice.choice([CopyDone(), CopyData("stray"), CopyFail("stray"), Flush(), Sync() * 3,
                                Close("S", "unknown") + Sync(), Execute("unknown") + Sync()])
