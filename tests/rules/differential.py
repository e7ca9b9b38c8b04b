"""The differential test of the rules: what a client sends through the proxy, and the same without the
guarded column, sent to PostgreSQL itself. Rows, tags, descriptions, errors and tables must be the same.

A run has three databases on one server: the proxy stands in front of the first, the second takes the
statements without the column, the third has a plain column and tells the parameters' types that a
client's own text has. Every statement runs on the same rows: in a transaction that is rolled back, or
by itself, and the tables are filled anew.
"""

import re
import struct
import time
from collections import Counter
from itertools import groupby

from lib import common, schema
from lib.choices import Choices, shrink
from lib.proxy import Proxy, strip_rule
from lib.wire import (Bind, Close, Closed, Describe, Execute, Flush, Parse, Query, Sync, connect)
from sqltext import Gaps, Parameter, Text
from statements import COLUMNS, KEY, Statements, quoted

MORE_COLUMNS = """
ALTER TABLE chunks ALTER created_at SET DEFAULT '2026-01-01',
    ADD "Mixed Case" numeric, ADD "order" integer, ADD "größe, (x" text, ADD tags text[],
    ADD "quo""ted" boolean, ADD values integer, ADD set text, ADD "default" integer DEFAULT 7;
CREATE TABLE other (id serial PRIMARY KEY, partition_key integer, name varchar, content text,
                    pk integer, at timestamptz) WITH (autovacuum_enabled = off);
CREATE TABLE src (id integer PRIMARY KEY, name varchar, pk integer) WITH (autovacuum_enabled = off);
CREATE TABLE "Chunks" (id serial, partition_key integer);
CREATE SCHEMA app2;
CREATE TABLE app2.chunks (id integer, partition_key integer);
CREATE VIEW chunks_light AS SELECT collection_id, chunk_index, content FROM chunks;
ALTER VIEW chunks_light OWNER TO pgsluice;
"""

# A partitioned table is unique by what it is partitioned by only, and has no storage parameters. Its
# partitions have: statistics of one side alone would be another plan, and another order of rows.
WITHOUT_PARTITIONS = """
ALTER TABLE chunks SET (autovacuum_enabled = off);
CREATE UNIQUE INDEX ON chunks (document_id);
"""
WITH_PARTITIONS = "CREATE UNIQUE INDEX ON chunks (document_id, collection_id);" + "".join(
    f"ALTER TABLE IF EXISTS chunks_{n} SET (autovacuum_enabled = off);" for n in range(4))

FILL = """
TRUNCATE chunks, other, src, "Chunks", app2.chunks RESTART IDENTITY;
INSERT INTO chunks (id, collection_id, document_id, chunk_index, content, metadata, tags, values)
SELECT n, chr(96 + n), CASE WHEN n < 4 THEN 'd' || n END, n, 'content of ' || n,
       jsonb_build_object('a', n), ARRAY['t', n::text], n FROM generate_series(1, 6) AS n;
INSERT INTO other (id, partition_key, name, content, pk, at)
SELECT n, 4000 + n, 'name' || n, 'other, ' || n, 4000 + n, '2026-02-02' FROM generate_series(1, 4) AS n;
INSERT INTO src SELECT n, 'src' || n, 5000 + n FROM generate_series(1, 7, 2) AS n;
INSERT INTO app2.chunks VALUES (9, 9);
SELECT setval('chunks_id_seq', 1000), setval('other_id_seq', 1000), setval('"Chunks_id_seq"', 1000);
"""

SEQUENCES = ("SELECT setval('chunks_id_seq', 1000), setval('other_id_seq', 1000),"
         " setval('\"Chunks_id_seq\"', 1000)")

STATE = """SELECT
 (SELECT string_agg(concat_ws('|', {columns}), E'\\n' ORDER BY id, document_id, content) FROM chunks),
 (SELECT count(*) FROM chunks WHERE partition_key IS DISTINCT FROM {expression}),
 (SELECT string_agg(o::text, ' ' ORDER BY o::text) FROM other o),
 (SELECT string_agg(o::text, ' ' ORDER BY o::text) FROM "Chunks" o),
 (SELECT string_agg(o::text, ' ' ORDER BY o::text) FROM app2.chunks o)
""".format(columns=", ".join(f"quote_nullable({quoted(name)})" for name in COLUMNS),
           expression=schema.KEY)

# What a rule may refuse, as README and tests/rules/*.case have it: its words, and the tags of statements
# for which it may say so.
REFUSALS = {
    "its VALUES are sorted": "sorted",
    "its SELECT is sorted by one of its items": "sorted",
    "its SELECT is more than a plain list": "more than a list",
    "the value comes from more than a plain expression": "expression",
    "it names the column more than once or in part": "twice",
    "it sets the column more than once": "twice",
    "it has not one value for each column": "twice",
    "the value comes from a sub-select": "sub-select",
    "its INSERT has no column list": "merge by position",
    "the type of $n cannot be told without it, declare it or write a cast": "parameter",
}

INT4 = 23


class Case:
    """One test: what is sent, made of the choices alone."""

    def __init__(self, choices, major, shape):
        self.choices = choices
        self.statements = Statements(choices, major, shape)
        self.tags = self.statements.tags
        self.before = self.between = self.after = ""
        gaps = Gaps(choices)
        form = choices.draw(20)
        self.is_extended = form < 9 or form == 19
        self.is_prepared = form == 17
        self.statements.takes_parameters = self.is_extended or self.is_prepared
        if form == 15:
            items = self._several()
        elif form == 16 and shape != "moved":
            # Rows of another width are other plans.
            self.tags.add("EXPLAIN")
            items = ["EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off, BUFFERS off)",
                     self._statement()]
        elif form == 18:
            items = self._carried()
        else:
            items = self._statement()
        self.text = Text(items, gaps)
        self._number_parameters()
        self.is_framed = not choices.chance(15) and "COMMIT" not in self.tags
        if self.is_extended:
            self._choose_messages()
        if self.is_prepared:
            self._choose_types()

    def _statement(self):
        statements = self.statements
        kind = self.choices.draw(20)
        if kind < 9:
            return statements.insert()
        if kind < 14:
            return statements.update()
        if kind < 16 and statements.major >= 15:
            return statements.merge()
        if kind < 17:
            return statements.delete()
        return statements.select() if kind < 19 else statements.elsewhere()

    def _several(self):
        items = []
        for _ in range(self.choices.pick([2, 2, 3, 4])):
            items += [self._statement(), self.choices.pick([";", ";", ";", "; SELECT 1;", ";;"])]
        if self.choices.chance(20):
            self.tags.add("COMMIT")
            items = ["BEGIN;", items, "COMMIT"]
        elif self.choices.chance(10):
            items = ["SAVEPOINT x;", items, "ROLLBACK TO x"]
        return items

    def _carried(self):
        choices, statements = self.choices, self.statements
        form = choices.draw(4)
        if form == 0:
            statement = choices.pick([statements.insert, statements.update, statements.delete])()
            statement[-1] = "RETURNING partition_key, *" if choices.chance(50) else "RETURNING 1"
            return ["COPY (", statement, ") TO STDOUT"]
        if form == 1:
            return ["DECLARE k CURSOR FOR", statements.select(), "; FETCH ALL FROM k; CLOSE k"]
        if form == 2:
            return ["CREATE TEMP TABLE taken ON COMMIT DROP AS", statements.select(),
                    "; SELECT count(*) FROM taken"]
        return ["COPY (", statements.select(), ") TO STDOUT (FORMAT csv)"]

    def _number_parameters(self):
        """Numbers for the parameters of the client's text, in any order; who is of which text."""
        order, self.of_key, places = [], set(), Counter()
        for token, side, _ in self.text.tokens:
            if isinstance(token, Parameter) and side != "reference":
                if token.index not in order:
                    order.append(token.index)
                if side == "client":
                    self.of_key.add(token.index)
                places[token.index] += 1
        if self.choices.chance(30):
            order = self.choices.shuffled(order)
        self.numbers = {index: at + 1 for at, index in enumerate(order)}
        self.parameters = [self.statements.parameters[index] for index in order]
        if any(places[index] > 1 or self._is_in_expression(index) for index in self.of_key):
            self.tags.add("parameter")

    def _is_in_expression(self, index):
        """Whether the parameter is not the whole of a value that is left out."""
        tokens = self.text.tokens
        return any(isinstance(token, Parameter) and token.index == index and behind == "+"
                   for (token, _, _), (behind, _, _) in zip(tokens, tokens[1:]))

    def _choose_messages(self):
        choices = self.choices
        self.statement_name = choices.pick(["", "", "named"])
        self.describes_statement = not choices.chance(15)
        self.describes_portal = choices.chance(50)
        self.result_formats = choices.pick([(), (), (1,), (0,)])
        self.limit = choices.pick([0, 0, 0, 1, 2])
        self.flushes = choices.chance(10)
        self.executions = choices.pick([1, 1, 1, 2])
        self.declared = [each["type"] for each in self.parameters]
        if choices.chance(20):
            self.declared = []
        while self.declared and self.declared[-1] == 0 and choices.chance(50):
            self.declared.pop()
        self.values = [each["value"] for each in self.parameters]
        self.formats = []
        if choices.chance(20):
            self.formats = [self._in_binary(at) for at in range(len(self.values))]

    def _in_binary(self, at):
        is_int4 = at < len(self.declared) and self.declared[at] == INT4
        if not is_int4 or self.values[at] is None or not re.fullmatch(r"-?\d{1,9}", self.values[at]):
            return 0
        self.values[at] = struct.pack("!i", int(self.values[at]))
        return 1

    def _choose_types(self):
        self.declared = [each["type"] for each in self.parameters]
        if self.choices.chance(60):
            self.declared = []

    # What is sent

    def render(self, side, dbname):
        return self.text.render(side, self.numbers, dbname)

    def known_types(self, told):
        """The types that the reference must declare: told, of parameters whose place it lacks."""
        types = list(self.declared) + [0] * (len(self.parameters) - len(self.declared))
        for index in self.of_key:
            at = self.numbers[index] - 1
            types[at] = told[at] if told else types[at] or INT4
        return types

    def messages(self, side, dbname, types=()):
        text, _ = self.render(side, dbname)
        if self.is_prepared:
            return self._prepare_and_execute(text, types)
        if not self.is_extended:
            return [Query(text)]
        name = self.statement_name
        batch = [Parse(name, text, types)]
        if self.describes_statement:
            batch.append(Describe("S", name))
        if self.flushes:
            batch.append(Flush())
        for _ in range(self.executions):
            batch.append(Bind("", name, self.values, self.formats, self.result_formats))
            if self.describes_portal:
                batch.append(Describe("P", ""))
            batch += [Execute("", self.limit)] * (2 if self.limit else 1)
        return [*batch, Sync(), Close("S", name), Sync()]

    def _prepare_and_execute(self, text, types):
        names = {0: "unknown", 16: "bool", 20: "int8", 21: "int2", 23: "int4", 25: "text",
                 705: "unknown", 1009: "text[]", 1043: "varchar", 1114: "timestamp",
                 1184: "timestamptz", 1700: "numeric", 3802: "jsonb"}
        declared = f" ({', '.join(names[oid] for oid in types)})" if types else ""
        values = ", ".join("NULL" if each["value"] is None
                           else "'" + each["value"].replace("'", "''") + "'"
                           for each in self.parameters)
        execute = f"EXECUTE taken({values})" if values else "EXECUTE taken"
        return [Query(f"PREPARE taken{declared} AS {text}"), Query(execute)]


class Difference(Exception):
    """What differs, in one word for the kind of it, and told at length."""

    def __init__(self, kind, told):
        super().__init__(told)
        self.kind = kind


class Bench:
    """The three databases, the proxy, and a session with each."""

    def __init__(self, server, shape):
        self.server = server
        self.shape = shape
        self.names = {side: f"rules_{side}_{shape}" for side in "abt"}
        for side, name in self.names.items():
            schema.create_database(server, name)
            # The third tells the types of what a generated column would refuse.
            self._create_tables("trigger" if side == "t" or (side, shape) == ("a", "moved")
                                else "generated" if shape == "moved" else shape, name)
        control = f"host={server.host} port={server.port} user=pgsluice dbname={self.names['a']}"
        self.proxy = Proxy(server, rules=[strip_rule(database=self.names["a"])],
                           control=control).start()
        if shape == "moved":
            done = self.proxy.command("cutover", "chunks", "--yes")
            assert done.returncode == 0, done.stdout + done.stderr
        self._connect()

    def _create_tables(self, shape, dbname):
        schema.create_chunks(self.server, shape, dbname)
        self.server.psql(MORE_COLUMNS, dbname=dbname)
        self.server.psql(WITH_PARTITIONS if self.shape == "hashed" else WITHOUT_PARTITIONS,
                         dbname=dbname)
        self.server.psql(FILL, dbname=dbname)

    def _connect(self):
        # One way to join, so that rows come in one order.
        options = {"client_min_messages": "warning", "enable_hashjoin": "off",
                   "enable_mergejoin": "off", "enable_hashagg": "off"}
        self.client = connect(self.proxy, database=self.names["a"], **options)
        self.reference = connect(self.server, database=self.names["b"], **options)
        self.teller = connect(self.server, database=self.names["t"], **options)

    def reconnect(self):
        """When a session has ended; the server may have ended all of them, and is waited for."""
        for connection in (self.client, self.reference, self.teller):
            connection.close()
        deadline = time.monotonic() + 300
        while True:
            try:
                self._connect()
                self.fill()
                return
            except (AssertionError, Closed, ConnectionError, TimeoutError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def crashes_server(self, case, told):
        """Whether the text without the column, sent to PostgreSQL itself, ends its session."""
        body = [Query("BEGIN"), *case.messages("reference", self.names["b"], case.known_types(told)),
                Query("ROLLBACK")]
        try:
            self.reference.send(*body)
            for _ in range(sum(message[:1] in b"QS" for message in body)):
                self.reference.read_until("Z")
            return False
        except (Closed, ConnectionError):
            return True
        finally:
            self.reconnect()

    def close(self):
        for connection in (self.client, self.reference, self.teller):
            connection.close()
        self.proxy.stop()

    def tell_types(self, case):
        """The parameters' types of the client's text on a plain column; None where it is in error."""
        text, _ = case.render("client", self.names["t"])
        self.teller.send(Parse("", text, case.declared), Describe("S", ""), Sync())
        answers = {answer.kind: answer for answer in self.teller.read_until("Z")}
        return answers["t"].param_types() if "t" in answers else None

    def fill(self):
        for connection in (self.client, self.reference):
            connection.send(Query("ROLLBACK"), Query(FILL))
        for connection in (self.client, self.reference):
            connection.read_until("Z")
            answers = connection.read_until("Z")
            assert all(answer.kind != "E" for answer in answers), answers

    def exchange(self, case, told):
        """Both sides' answers: lists of messages, one list for each ReadyForQuery."""
        found = []
        for connection, side, dbname in ((self.client, "client", self.names["a"]),
                                         (self.reference, "reference", self.names["b"])):
            types = []
            if case.is_extended or case.is_prepared:
                types = case.declared if side == "client" else case.known_types(told)
            body = case.messages(side, dbname, types)
            if case.is_framed:
                body = [Query("BEGIN; " + SEQUENCES), *body, Query(STATE), Query("ROLLBACK")]
            else:
                body = [Query(SEQUENCES), *body, Query("COMMIT"), Query(STATE)]
            if case.is_prepared:
                body.append(Query("DEALLOCATE ALL"))
            ends = sum(message[:1] in b"QS" for message in body)
            connection.send(*body)
            found.append((connection, ends))
        answers = []
        for connection, ends in found:
            answers.append([connection.read_until("Z") for _ in range(ends)])
        return answers


class Run:
    """Statement after statement; counts, and collects what differs."""

    def __init__(self, bench, major, compares_positions=False):
        self.bench = bench
        self.major = major
        self.compares_positions = compares_positions
        self.counts = Counter()
        self.refusals = Counter()
        self.examples = {}
        self.differences = []

    def statement(self, seed, index):
        choices = Choices(seed=f"{seed}:{index}")
        try:
            self.check(choices, count=True)
        except Difference as difference:
            self._keep(difference, choices.made, seed, index)

    def _keep(self, difference, made, seed, index):
        def still_differs(candidate):
            try:
                self.check(Choices(replay=candidate))
            except Difference as other:
                return other.kind == difference.kind
            return False

        if any(kept.kind == difference.kind for kept, _, _ in self.differences):
            self.counts["like one before"] += 1
            return
        smallest = shrink(made, still_differs)
        try:
            self.check(Choices(replay=smallest))
            told = f"(not seen again)\n{difference}"
        except Difference as last:
            told = str(last)
        self.differences.append((difference, f"{seed}:{index}", told))

    def check(self, choices, count=False):
        case = Case(choices, self.major, self.bench.shape)
        told = None
        if case.parameters:
            told = self.bench.tell_types(case)
            if told is None and case.of_key:
                self.counts["skipped: the client's own text is in error"] += count
                return
        if "EXPLAIN" in case.tags:
            self.bench.fill()  # plans depend on what earlier statements have left in the files
        try:
            client, reference = self.bench.exchange(case, told)
        except (Closed, ConnectionError, TimeoutError) as error:
            texts = self._texts(case)
            self.bench.reconnect()
            if self.bench.crashes_server(case, told):
                self.counts["PostgreSQL itself crashes"] += count
                told_by_server = re.findall(r".*(?:terminated by signal|PANIC).*\n.*",
                                            self.bench.server.log())
                self.examples["crash"] = "\n".join([texts, *told_by_server[:3]])
                return
            raise Difference("closed", f"{texts}\n{error!r}\n{self.bench.proxy.log()[-2000:]}") from None
        if not case.is_framed:
            self.bench.fill()
        self._compare(case, told, client, reference, count)

    def _texts(self, case):
        client, _ = case.render("client", self.bench.names["a"])
        reference, _ = case.render("reference", self.bench.names["b"])
        how = "simple"
        if case.is_extended or case.is_prepared:
            how = (f"{'Parse' if case.is_extended else 'PREPARE'} types {case.declared} values "
                   f"{[each['value'] for each in case.parameters]}")
        return f"client ({how}):\n  {client}\nreference:\n  {reference}"

    def _compare(self, case, told, client, reference, count):
        refusal = self._refusal(client)
        if refusal is not None:
            self._check_refusal(case, refusal, client, reference, count)
            return
        shown = [self._ordered([self._shown(answer) for batch in side for answer in batch])
                 for side in (client, reference)]
        if told is not None and case.is_extended:
            self._check_types(case, told, client)
        for ours, theirs in zip(*shown):
            if ours != theirs:
                raise Difference(self._kind(ours, theirs), self._told(case, shown))
        if len(shown[0]) != len(shown[1]):
            raise Difference("number of messages", self._told(case, shown))
        self._check_keys(case, client)
        self._check_positions(case, client, reference, shown)
        if count:
            failed = any(answer.kind == "E" for batch in client for answer in batch)
            self.counts["the same error" if failed else "the same result"] += 1

    def _ordered(self, shown):
        """Of partitions, rows come in the order of the plan, which what is set may change: sorted."""
        if self.bench.shape != "hashed":
            return shown
        return [line for is_row, lines in groupby(shown, lambda line: line.startswith("DataRow"))
                for line in (sorted(lines) if is_row else lines)]

    def _told(self, case, shown):
        sides = ["\n".join(f"  {line}" for line in side) for side in shown]
        return f"{self._texts(case)}\nproxy:\n{sides[0]}\nserver:\n{sides[1]}"

    @staticmethod
    def _kind(ours, theirs):
        def word(line):
            match = re.match(r"ErrorResponse.*?C=(\w+)", line)
            return f"error {match[1]}" if match else line.split(" ")[0]

        return f"{word(ours)} instead of {word(theirs)}"

    def _shown(self, answer):
        """A message as text, without what differs between two databases."""
        if answer.kind == "T":
            return f"RowDescription {self._described(answer)}"
        text = answer.details()
        if answer.kind in "EN":
            text = re.sub(r", [pP]=\d+", "", text)
            if self.bench.shape == "moved":
                # A row in the table's own order; the indexes, in which order they were made.
                text = re.sub(r"D=Failing row contains \(.*?\)\., ", "", text, flags=re.DOTALL)
                text = re.sub(r"C=23505, .*", "C=23505", text, flags=re.DOTALL)
        for name in self.bench.names.values():
            text = text.replace(name, "{db}")
        return f"{answer.name} {text}"

    def _described(self, answer):
        """Columns with everything that the message says of them, but for OIDs of our own."""
        found, at = [], 2
        for name, _, _ in answer.columns():
            end = at + len(name.encode())
            table, attribute, kind, size, modifier, form = struct.unpack_from("!IhIhih", answer.body,
                                                                             end + 1)
            attribute = "*" if self.bench.shape == "moved" else attribute
            kind = kind if kind < 16384 else "ours"
            found.append(f"{name}:{bool(table)}/{attribute}/{kind}/{size}/{modifier}/{form}")
            at = end + 19
        return ", ".join(found)

    @staticmethod
    def _refusal(client):
        for batch in client:
            for answer in batch:
                if answer.kind == "E" and "pgsluice" in answer.body.decode(errors="replace"):
                    return answer.fields()
        return None

    def _check_refusal(self, case, refusal, client, reference, count):
        reason = refusal.get("D", refusal["M"]).rpartition("does not rewrite this statement: ")[2]
        reason = re.sub(r"\$\d+", "$n", reason.rstrip("."))
        tag = REFUSALS.get(reason)
        errors = [self._shown(answer) for batch in reference for answer in batch
                  if answer.kind == "E"]
        if refusal["C"] == "42601" and errors and f"M={refusal['M']}," in errors[0]:
            reason = "a syntax error, as the server's"
        elif tag not in case.tags or refusal["C"] != "428C9":
            raise Difference(f"refusal: {reason}", f"{self._texts(case)}\nproxy refuses:\n  {refusal}"
                             f"\nserver's errors: {errors}")
        if count:
            self.refusals[reason] += 1
            text = case.render("client", "app")[0]
            self.examples[reason] = min(self.examples.get(reason, text), text, key=len)

    def _check_types(self, case, told, client):
        for batch in client:
            for answer in batch:
                if answer.kind == "t" and answer.param_types() != told:
                    raise Difference("ParameterDescription", f"{self._texts(case)}\nproxy: "
                                     f"{answer.param_types()}\nserver, of the client's text: {told}")

    def _check_keys(self, case, client):
        for answer in client[-1 - case.is_framed - case.is_prepared]:
            if answer.kind == "D" and answer.values()[1] != b"0":
                raise Difference("wrong key", f"{self._texts(case)}\n{answer.values()[0]}")

    def _check_positions(self, case, client, reference, shown):
        if case.is_prepared or len(client) != len(reference):
            return
        for ours, theirs in zip((a for batch in client for a in batch),
                                (a for batch in reference for a in batch)):
            if theirs.kind not in "EN" or "P" not in theirs.fields():
                continue
            expected = self._position_in_client(case, int(theirs.fields()["P"]))
            if expected is None:
                continue
            is_same = ours.fields().get("P") == str(expected)
            self.counts["error positions right" if is_same else "error positions off"] += 1
            if self.compares_positions and not is_same:
                raise Difference("position", f"{self._told(case, shown)}\nposition "
                                 f"{ours.fields().get('P')} instead of {expected}")

    def _position_in_client(self, case, position):
        """Where in the client's text the token stands that begins at this character of the other."""
        _, theirs = case.render("reference", self.bench.names["b"])
        _, ours = case.render("client", self.bench.names["a"])
        index = dict(theirs).get(position - 1)
        return next((start + 1 for start, each in ours if each == index), None)

    def report(self):
        lines = [f"{count:8} {what}" for what, count in sorted(self.counts.items())]
        for reason, count in self.refusals.most_common():
            lines.append(f"{count:8} refused: {reason}\n         e.g. {self.examples[reason]}")
        if "crash" in self.examples:
            lines.append(f"PostgreSQL crashes on\n{self.examples['crash']}")
        return "\n".join(lines)
