"""Random statements, each as the two texts of sqltext.py: INSERT, UPDATE, DELETE, MERGE, SELECT, and what
carries them. Whatever a rule may refuse is tagged, so that no other refusal goes unnoticed.

The tables are those of differential.py: chunks (guarded), other, src, and app2.chunks, which has the
guarded names and is not guarded.
"""

from literals import BULK_KEYS, LITERALS, Values
from sqltext import Client, Only, Reference, listed

KEY = "partition_key"

# In the table's order.
COLUMNS = {
    "id": "bigint", "collection_id": "text", KEY: "int", "document_id": "text",
    "chunk_index": "int", "content": "text", "metadata": "jsonb", "created_at": "timestamptz",
    "Mixed Case": "numeric", "order": "int", "größe, (x": "text", "tags": "text[]",
    'quo"ted': "bool", "values": "int", "set": "text", "default": "int",
}
REQUIRED = ["collection_id", "chunk_index", "content"]
RESERVED = ["order", "default"]
BARE = [name for name in COLUMNS if name.isidentifier() and name.isascii() and name not in RESERVED
        and name.islower()]

TABLES = ["chunks", "chunks", "public.chunks", '"chunks"', 'PUBLIC."chunks"', "Chunks",
          'U&"\\0063hunks"', "{db}.public.chunks", "public . chunks", "U&\"!0063hunks\" UESCAPE '!'"]
ALIASES = ["c", "c2", '"C d"', "other", "\"values\"", "excluded_", "ch", 'U&"\\0061lias"']

SOURCE_COLUMNS = {"text": ["o.name", "o.content"], "int": ["o.id", "o.pk"], "bigint": ["o.id+1000"],
                  "jsonb": ["NULL::jsonb"], "timestamptz": ["o.at"], "numeric": ["o.id"],
                  "text[]": ["ARRAY[o.name]"], "bool": ["o.id>2"]}


# Of these an application sees that the column has moved.
def whole_rows(visible):
    return visible, f"({visible}).*", f"row_to_json({visible})->>'id'"


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


class Statements(Values):
    """One statement of each call; `tags` says what the rules may refuse of it, and more."""

    def __init__(self, choices, major, shape):
        super().__init__(choices)
        self.major = major
        self.shape = shape
        self.tags = set()
        self.sub_selects_left = None  # to assign from, where they are counted

    # Names

    def name(self, column):
        """A column's name in one of its spellings."""
        form = self.choices.draw(8) if self.choices.chance(50) else 0
        if form == 5:
            return 'U&' + quoted("".join(f"\\{ord(c):04x}" if c in "aeo(" else c for c in column))
        if form == 6:
            escaped = "".join(f"!{ord(c):04x}" if c in "pcs" else c for c in column)
            return "U&" + quoted(escaped) + " UESCAPE '!'"
        if column not in BARE or form == 4:
            return quoted(column)
        return [column, column, column.upper(), column.title()][form % 4]

    def table(self):
        return self.choices.pick(TABLES) if self.choices.chance(50) else "chunks"

    def target(self, keyword="AS"):
        """(relation with its alias, the name that it goes by then)."""
        relation = self.table()
        if not self.choices.chance(35):
            # In an expression the table's own name will do, however it was spelled.
            return relation, "chunks"
        alias = self.choices.pick(ALIASES)
        return [relation, keyword, alias], alias

    # INSERT

    def columns_without_key(self):
        columns = list(REQUIRED)
        for column in COLUMNS:
            if column not in columns and column != KEY and self.choices.chance(25):
                columns.append(column)
        return self.choices.shuffled(columns)

    def insert(self, depth=0):
        relation, visible = self.target()
        form = self.choices.draw(20)
        overriding = ""
        if self.choices.chance(10):
            overriding = self.choices.pick(["OVERRIDING SYSTEM VALUE", "OVERRIDING USER VALUE"])
        if form == 19:
            source = self._only_the_key(overriding)
        elif form == 18:
            source = "DEFAULT VALUES"
        elif form >= 14:
            source = self._positional(overriding)
        elif form >= 9:
            source = self._insert_select(overriding)
        else:
            source = self._insert_values(overriding)
        return [self.with_clause(depth), "INSERT INTO", relation, source, self.on_conflict(visible),
                self.returning(visible)]

    def _key_of_rows(self, count, allows_default=True):
        found = []
        for _ in range(count):
            if allows_default and self.choices.chance(10):
                found.append("DEFAULT")
            else:
                found.append(self.key()[0])
        return found

    def _row_count(self):
        return self.choices.pick([1, 1, 1, 2, 2, 3, 4, 40, 200]) if self.choices.chance(40) else 1

    def _values(self, columns, position, count, allows_default=True):
        """VALUES rows; the guarded column's at `position`, or None: the statement has none."""
        keys = self._key_of_rows(count, allows_default) if position is not None else []
        rows = []
        for row in range(count):
            if row > 1 and count >= 40:
                rows.append(self._bulk_row(columns, position, row, allows_default))
                continue
            items = [self.value(COLUMNS[column],
                                allows_default=allows_default and column not in REQUIRED)
                     for column in columns]
            if position is not None:
                items.insert(position, Client(keys[row]))
            rows.append(["(", listed(items), ")"])
        return ["VALUES", listed(rows)]

    def _bulk_row(self, columns, position, row, allows_default):
        """A row as bulk loads have it, of plain literals."""
        plain = {"id": [str(2000 + row)], "document_id": ["NULL"], "text": LITERALS["text"][:8],
                 "int": ["1", "-5", "7::int", "5.0", "'12'"], KEY: BULK_KEYS[:None if allows_default else -1]}
        items = [self.choices.pick(plain.get(column) or plain.get(COLUMNS[column])
                                   or LITERALS[COLUMNS[column]][:1]) for column in columns]
        if position is not None:
            items.insert(position, Client(self.choices.pick(plain[KEY])))
        return ["(", listed(items), ")"]

    def _insert_values(self, overriding):
        columns = self.columns_without_key()
        position = None if self.choices.chance(8) else self.choices.draw(len(columns) + 1)
        names = [self.name(column) for column in columns]
        if position is not None:
            names.insert(position, Client(self.name(KEY)))
        form = self.choices.draw(30)
        # Rows that are a query have no DEFAULT, and a parameter there the type of all rows' values.
        values = self._values(columns, position, self._row_count(), allows_default=form < 26)
        if 26 <= form < 29 and self.takes_parameters:
            self.tags.add("parameter")
        if form == 29:
            values = ["(", values, ")"]
        elif form == 28:
            values = [values, "LIMIT 2"]
        elif form == 27 and position is not None:
            self.tags.add("sorted")
            values = [values, "ORDER BY 1"]
        elif form == 26:
            values = ["WITH", self.choices.pick(["w", "values(a)", "chunks"]), "AS (SELECT 1)", values]
        return ["(", listed(names), ")", overriding, values]

    def _only_the_key(self, overriding):
        # The others are NOT NULL, so the server will refuse it; how, is compared.
        rows = listed([["(", Client(key), Reference("DEFAULT"), ")"]
                       for key in self._key_of_rows(self._row_count())])
        return ["(", self.name(KEY), ")", overriding, "VALUES", rows]

    def _positional(self, overriding):
        """Without a column list, of as many columns as there are values."""
        width = self.choices.pick([7, 6, 8, 9, len(COLUMNS), 3, 2])
        columns = list(COLUMNS)[:width]
        position = columns.index(KEY) if KEY in columns else None
        columns = [column for column in columns if column != KEY]
        values = self._values(columns, position, self._row_count())
        if self.choices.chance(5):
            values = ["(", values, ")"]
        names = ", ".join(quoted(column) for column in columns)
        return [Reference("(", names, ")"), overriding, values]

    def _select_list(self, columns, position):
        """Items of a SELECT from other o, or of no table."""
        has_from = self.choices.chance(60)
        items = []
        for column in columns:
            kind = COLUMNS[column]
            item = (self.choices.pick(SOURCE_COLUMNS[kind]) if has_from and self.choices.chance(60)
                    else self.value(kind, depth=1))
            items.append([item, self.choices.pick(["", "", "AS x", "AS \"from\"", "AS where"])])
        if position is not None:
            key, is_plain = self.key(["o.pk", "o.id", "o.partition_key"] if has_from else [])
            if not is_plain:
                self.tags.add("expression")
            items.insert(position, Client(key, self.choices.pick(["", "", "AS k", "AS partition_key"])))
        return items, has_from

    def _insert_select(self, overriding):
        columns = self.columns_without_key()
        position = None if self.choices.chance(8) else self.choices.draw(len(columns) + 1)
        names = [self.name(column) for column in columns]
        is_positional = self.choices.chance(15)
        if is_positional:
            columns = [column for column in list(COLUMNS)[:7] if column != KEY]
            position = 2
        elif position is not None:
            names.insert(position, Client(self.name(KEY)))
        items, has_from = self._select_list(columns, position)
        form = self.choices.draw(20)
        distinct = ""
        if form == 19 and position is not None:
            self.tags.add("more than a list")
            distinct = "DISTINCT"
        query = ["SELECT", distinct, listed(items)]
        if has_from:
            query += [self.choices.pick(["FROM other o", "FROM other AS o", "FROM public.other o"])]
            if self.choices.chance(40):
                query += ["WHERE", self.value("bool", depth=1)]
            if form < 15:
                query += ["ORDER BY", self.choices.pick(["o.id", "o.id DESC NULLS LAST", "o.name, o.id"])]
            elif form == 15 and position is not None:
                self.tags.add("sorted")
                query += ["ORDER BY 1"]
            if self.choices.chance(20):
                query += ["LIMIT 2"]
        if form == 18 and position is not None:
            self.tags.add("more than a list")
            query = ["(", query, ") UNION ALL (", query, ")"]
        if self.choices.chance(10):
            query = ["(", query, ")"]
        if self.choices.chance(10):
            query = [self.choices.pick(["WITH w AS (SELECT 1)", "WITH chunks AS (SELECT 1)"]), query]
        if is_positional:
            quoted_names = ", ".join(quoted(column) for column in columns)
            return [Reference("(", quoted_names, ")"), overriding, query]
        return ["(", listed(names), ")", overriding, query]

    def on_conflict(self, visible):
        if not self.choices.chance(30):
            return ""
        arbiters = ["(document_id)", "(document_id)", "(document_id) WHERE true",
                    "(id, collection_id, partition_key)", "ON CONSTRAINT chunks_pkey",
                    '( "document_id" COLLATE "default" )']
        if self.choices.chance(30):
            arbiter = self.choices.pick(["", *arbiters])
            return ["ON CONFLICT", arbiter, "DO NOTHING"]
        reads = ["EXCLUDED.partition_key", "excluded.chunk_index", f"{visible}.partition_key"]
        return ["ON CONFLICT", self.choices.pick(arbiters), "DO UPDATE SET",
                self.assignments(visible, reads),
                ["WHERE", self.choices.pick([f"{visible}.partition_key IS NOT NULL",
                                             "EXCLUDED.partition_key IS NOT NULL",
                                             f"{visible}.id>0", "false"])]
                if self.choices.chance(25) else ""]

    # SET lists

    def assignments(self, visible, reads):
        """What follows SET; without the guarded column, another is set to itself when none is left."""
        others = [column for column in COLUMNS
                  if column not in (KEY, "collection_id", "id", "document_id", "created_at")]
        if self.choices.chance(10):
            others.append("document_id")
        chosen = self.choices.shuffled(others)[:self.choices.pick([1, 1, 2, 3, 0])]
        items, parts = [], [(column, self._assigned(column)) for column in chosen]
        has_key = not self.choices.chance(12) or not parts
        while parts:
            size = self.choices.pick([1, 1, 1, 2, 3]) if len(parts) > 1 else 1
            row, parts = parts[:size], parts[size:]
            if size == 1 and self.choices.chance(85):
                items.append([self.name(row[0][0]), "=", row[0][1]])
            else:
                items.append(self._row_assignment(row, has_key and not parts))
                has_key = has_key and bool(parts)
        if has_key:
            items.insert(self.choices.draw(len(items) + 1), self._key_assignment(reads))
        if all(isinstance(item, Only) for item in items):
            items.append(Reference(f"created_at = {visible}.created_at"))
        return listed(items)

    def _assigned(self, column):
        return self.value(COLUMNS[column], allows_default=column not in REQUIRED)

    def _key_assignment(self, reads):
        form = self.choices.draw(40)
        value = "DEFAULT" if form < 3 else self.key(reads)[0]
        item = [self.name(KEY), "=", value]
        if form == 39:
            self.tags.add("twice")
            item = [item, ",", item]
        elif form == 38:
            item = ["(", self.name(KEY), ") = ROW(", value, ")"]
        elif form == 37 and self._may_assign_sub_select():
            self.tags.add("sub-select")
            item = ["(", self.name(KEY), ") = (SELECT 4711)"]
        return Client(item)

    def _row_assignment(self, row, takes_key):
        names = [self.name(column) for column, _ in row]
        values = [value for _, value in row]
        keyword = self.choices.pick(["ROW", "ROW", ""]) if len(row) > 1 else "ROW"
        if takes_key and self.choices.chance(70):
            at = self.choices.draw(len(names) + 1)
            names.insert(at, Client(self.name(KEY)))
            if self.choices.chance(10) and self._may_assign_sub_select():
                # A row of one value needs ROW; a sub-select hides the values.
                self.tags.add("sub-select")
                plain = ["NULL" if value == "DEFAULT" else value for value in values]
                plain.insert(at, Client("4711"))
                return ["(", listed(names), ") = (SELECT", listed(plain), ")"]
            values.insert(at, Client(self.key()[0]))
        elif takes_key:
            # The caller has left the key to this row: it goes beside it.
            return [Client(self.name(KEY), "=", self.key()[0], ","),
                    "(", listed(names), ") =", keyword, "(", listed(values), ")"]
        return ["(", listed(names), ") =", keyword, "(", listed(values), ")"]

    def _may_assign_sub_select(self):
        if self.sub_selects_left is None:
            return True
        self.sub_selects_left -= 1
        return self.sub_selects_left >= 0

    # UPDATE, DELETE, MERGE

    def condition(self, visible):
        return self.choices.pick([
            f"{visible}.id=1", f"{visible}.id NOT IN (1,2)", f"{visible}.partition_key=57",
            "true", f"{visible}.chunk_index>-1", f"{visible}.content LIKE '%a%'",
            f"{visible}.metadata->>'a' IS NULL", f"{visible}.partition_key BETWEEN -99 AND 99",
            f"{visible}.document_id='d1'", f"\"{KEY}\" IS NOT NULL", "false",
            f"EXISTS (SELECT * FROM chunks x WHERE x.id={visible}.id)"])

    def where(self, visible):
        if not self.choices.chance(75):
            return ""
        if self.takes_parameters and self.choices.chance(30):
            return ["WHERE", f"{visible}.id <", self.parameter("bigint")]
        more = ["AND", self.value("bool", depth=1)] if self.choices.chance(20) else ""
        return ["WHERE", self.condition(visible), more]

    def update(self, depth=0):
        relation, visible = self.target(self.choices.pick(["AS", ""]))
        only = self.choices.pick(["", "", "", "ONLY"])
        reads = [f"{visible}.partition_key", f"{visible}.chunk_index", f"{visible}.id"]
        has_from = self.choices.chance(20) and visible != "other"
        source, condition = "", self.where(visible)
        if has_from:
            source = ["FROM", self.choices.pick(["other o", "other AS o JOIN src s ON s.id=o.id",
                                                 "(SELECT * FROM other) o"])]
            condition = ["WHERE", f"o.id={visible}.id", "AND", self.condition(visible)]
            reads.append("o.pk")
        return [self.with_clause(depth), "UPDATE", only, relation, "SET",
                self.assignments(visible, reads), source, condition,
                self.returning(visible)]

    def delete(self, depth=0):
        relation, visible = self.target(self.choices.pick(["AS", ""]))
        if self.choices.chance(20) and visible != "other":
            return [self.with_clause(depth), "DELETE FROM", relation, "USING other o WHERE",
                    f"o.id={visible}.id AND", self.condition(visible),
                    self.returning(visible)]
        return [self.with_clause(depth), "DELETE FROM", self.choices.pick(["", "ONLY"]), relation,
                self.where(visible), self.returning(visible)]

    def merge(self, depth=0):
        relation, visible = self.target(self.choices.pick(["AS", ""]))
        if visible == "other":
            relation, visible = "chunks c", "c"
        reads = [f"{visible}.partition_key", "s.pk", "s.id"]
        whens = []
        # PostgreSQL 15.20 ends with a segmentation fault on two that assign from sub-selects.
        self.sub_selects_left = 1
        for _ in range(self.choices.pick([1, 2, 2, 3])):
            condition = self.choices.pick(["", "", "AND s.id>2", f"AND {self.choices.pick(['true', '1=1'])}"])
            form = self.choices.draw(10)
            if form < 4:
                whens.append(["WHEN NOT MATCHED", condition, "THEN", self._merge_insert()])
            elif form < 8:
                whens.append(["WHEN MATCHED", condition, "THEN UPDATE SET",
                              self.assignments(visible, reads)])
            else:
                whens.append(self.choices.pick(["WHEN MATCHED AND s.id=1 THEN DELETE",
                                                "WHEN MATCHED AND s.id=2 THEN DO NOTHING",
                                                "WHEN NOT MATCHED AND s.id=5 THEN DO NOTHING"]))
        self.sub_selects_left = None
        source = self.choices.pick(["src s", "src AS s", "(SELECT * FROM src) s",
                                    "(VALUES (1, 'v', 5), (50, 'w', 6)) s(id, name, pk)"])
        return [self.with_clause(depth, allows_recursive=False), "MERGE INTO", relation, "USING",
                source, f"ON {visible}.id=s.id", whens]

    def _merge_insert(self):
        form = self.choices.draw(20)
        if form == 19:
            return "INSERT DEFAULT VALUES"
        columns = self.columns_without_key()
        position = None if self.choices.chance(10) else self.choices.draw(len(columns) + 1)
        if form == 18:
            self.tags.add("merge by position")
            columns, position = [column for column in list(COLUMNS)[:7] if column != KEY], 2
        items = [self.choices.pick(["s.name", self.value("text", depth=1)])
                 if COLUMNS[column] == "text"
                 else self.value(COLUMNS[column], depth=1, allows_default=column not in REQUIRED)
                 for column in columns]
        names = [self.name(column) for column in columns]
        if position is not None:
            names.insert(position, Client(self.name(KEY)))
            key = "DEFAULT" if self.choices.chance(10) else self.key(["s.pk", "s.id"])[0]
            items.insert(position, Client(key))
        listing = ["(", listed(names), ")"]
        if form == 18:
            listing = Reference("(", ", ".join(quoted(column) for column in columns), ")")
        overriding = self.choices.pick(["", "", "", "OVERRIDING USER VALUE"])
        return ["INSERT", listing, overriding, "VALUES (", listed(items), ")"]

    # What may stand around or behind

    def returning(self, visible):
        if not self.choices.chance(50):
            return ""
        if self.choices.chance(25):
            return "RETURNING *"
        items = [f"{visible}.id", f"{visible}.partition_key", f"{visible}.content AS c",
                 f"{visible}.*", f"({visible}.*)", f"{visible}.partition_key::text AS partition_key",
                 f"to_jsonb({visible})", f"{visible}.metadata->>'a' AS \"order\"", "1 AS one",
                 f"(SELECT count(*) FROM chunks WHERE {visible}.id>0)", f"{visible}.\"größe, (x\""]
        return ["RETURNING", listed([self.choices.pick(items)
                                     for _ in range(self.choices.pick([1, 1, 2, 3]))])]

    def with_clause(self, depth, allows_recursive=True):
        """WITH in front of a statement; data-modifying below, but only at the top (as SQL has it)."""
        if depth > 2 or not self.choices.chance(20 if depth == 0 else 8):
            return ""
        queries = []
        for index in range(self.choices.pick([1, 1, 2, 3])):
            name = self.choices.pick([f"w{index}", f"w{index}", f'"W {index}"', f"chunks{index}"])
            if depth == 0 and self.choices.chance(50):
                query = self.data_modifying(depth + 1)
            else:
                query = self.select(depth + 1)
            queries.append([name, "AS", self.choices.pick(["", "MATERIALIZED", "NOT MATERIALIZED"]),
                            "(", query, ")"])
        recursive = "RECURSIVE" if allows_recursive and self.choices.chance(10) else ""
        return ["WITH", recursive, listed(queries)]

    def data_modifying(self, depth=0):
        return self.choices.pick([self.insert, self.insert, self.update, self.delete])(depth)

    # What a rule must leave alone

    def select(self, depth=0):
        relation, visible = self.target(self.choices.pick(["AS", ""]))
        items = self.choices.pick([
            "*", f"{visible}.*", "count(*)", f"{visible}.partition_key, {visible}.id", "1, *",
            f"{visible}", f"row_to_json({visible})->>'id'", f"({visible}).*", f"{visible}.id AS chunks",
            f"max({visible}.partition_key)", f"{visible}.content||'partition_key'",
            f"(SELECT x.* FROM (SELECT partition_key) x)", "DISTINCT partition_key",
            f"{visible}.metadata->'a'->>0, {visible}.\"Mixed Case\"*-1",
            "row_number() OVER (PARTITION BY partition_key ORDER BY id), *",
            "count(*) FILTER (WHERE id>1)", f"{visible}.tags[1], {visible}.tags[1:2]"])
        if self.shape == "moved" and items in whole_rows(visible):
            items = f"{visible}.*"
        plain = items in ("*", f"{visible}.*", "1, *", f"{visible}", f"({visible}).*",
                          f"{visible}.partition_key, {visible}.id")
        order = f"ORDER BY {visible}.id" if plain else ""
        if items == "DISTINCT partition_key":
            order = "ORDER BY 1"
        form = self.choices.draw(12)
        if form == 11 and depth == 0 and plain:
            return ["TABLE", self.choices.pick(["chunks", "public.chunks", "ONLY chunks"]), "ORDER BY id"]
        if form == 10:
            return ["SELECT", items, "FROM (SELECT * FROM", relation, ")", "AS",
                    visible if visible != "chunks" else "chunks", order]
        if form == 9 and visible != "other":
            relation = [relation, self.choices.pick(["JOIN other o ON o.id=", "LEFT JOIN other o ON o.id="]),
                        f"{visible}.id"]
            if "partition_key" in items or "id" in items:
                items = f"{visible}.*, o.id"
                order = f"ORDER BY {visible}.id"
        locking = "FOR UPDATE" if order and form == 8 else ""
        return [self.with_clause(depth) if depth < 2 else "", "SELECT", items, "FROM", relation,
                self.where(visible) if "FROM" not in items else "", order,
                "LIMIT 3" if order and self.choices.chance(20) else "", locking]

    def elsewhere(self, _depth=0):
        """Statements on tables that are not guarded, which have the guarded names in them."""
        key = self.key()[0]
        return self.choices.pick([
            ["INSERT INTO app2.chunks (id, partition_key) VALUES (1,", key, ") RETURNING *"],
            ["UPDATE app2.chunks SET partition_key = 1, id =", self.value("int"), "RETURNING id"],
            ["INSERT INTO other (partition_key, name) VALUES (", key, ", 'chunks') RETURNING *"],
            ["UPDATE other AS chunks SET partition_key = 3 FROM public.chunks c WHERE c.id=chunks.id"
             " RETURNING chunks.partition_key"],
            ["INSERT INTO other (name, pk) SELECT content, partition_key FROM chunks ORDER BY id"
             " RETURNING *"],
            ['INSERT INTO "Chunks" (partition_key) VALUES (', key, ") RETURNING *"],
            ["DELETE FROM other USING chunks WHERE chunks.id=other.id RETURNING other.id"],
            ["SELECT", self.value("text"), "AS chunks,", self.value("int"), "AS partition_key"],
            ["SELECT", self.value("jsonb"), ", 'chunks' AS x,", self.value("bool")],
        ] + [
            # Before the cutover nobody knows the columns of a view.
            ["INSERT INTO chunks_light (collection_id, chunk_index, content) VALUES ('a', 1,",
             self.value("text"), ") RETURNING *"],
        ] * (self.shape != "trigger"))
