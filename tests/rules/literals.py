"""Values of every type, written in every way that SQL has. The first of each list is the simplest."""

from sqltext import Parameter

LITERALS = {
    "text": [
        "'a'", "''", "'it''s'", r"E'a\'b\\n'", r"E'\u00e4\x41\101'", r"U&'d\0061t\+000061'",
        "U&'d!0061' UESCAPE '!'", "$$plain$$", "$tag$ $$ 'x', (partition_key) $tag$",
        "'), (partition_key, 5'", "'-- no comment'", "'/* no comment */'", "'; DROP TABLE chunks'",
        "'$1'", "'häßlich – 漢字 😀'", "N'national'", "'a'\n  'b'", r"'back\slash'", r"'\'",
        "$a$),('$a$", "'x''),('", "'DEFAULT'", "'chunks'",
        "'INSERT INTO chunks (partition_key) VALUES (5)'", r"E'\\'", r"E'),(\''", r"e'\n\t'",
        "'\"'", "'{}'", "' '", "'\t\n'", "text 'typed'", "varchar(3) 'typed'",
    ],
    "int": [
        "1", "-5", "+5", "007", "0", "- -5", "5.0", ".5e1", "5.", "1E+2", "'12'", "int '5'", "1e0",
        "x'1F'::int", "B'101'::int", "2147483647", "$$7$$", "- 5", "-(-5)", "@-5", "~1", "1<<2",
        "-1*-1", "2147483648", "-2147483648", "'x'", "1.9999999999999999999999999",
    ],
    "jsonb": [
        "'{}'", """'{"a": [1, 2]}'""", """'{"partition_key": 5, "x": "), ("}'::jsonb""", "NULL",
        "jsonb_build_object('a', 1)", """'{"a":1}'::jsonb||'{"b":2}'""", "'[1,2]'::jsonb-0",
        """'{"a":{"b":1}}'::jsonb#>'{a}'""", "to_jsonb(ARRAY[1,2])", """jsonb '{"a":1}'-'a'""",
        """'{"a":{"b":1}}'::jsonb->'a'""", "'not json'", "'null'", '$${"q": "\\u0041"}$$',
        """to_jsonb('{"a":1}'::jsonb@>'{"a":1}')""", """to_jsonb('{"a":1}'::jsonb?'a')""",
        """to_jsonb('{"a":1}'::jsonb?|ARRAY['a','b'])""", "to_jsonb(ROW(1,'a'))",
    ],
    "timestamptz": [
        "'2020-01-01'", "timestamptz '2020-01-01 00:00+00'", "TIMESTAMP WITH TIME ZONE '2020-01-01'",
        "'2020-01-01'::timestamp AT TIME ZONE 'UTC'", "'2020-01-01'::timestamptz+interval '1 day'",
        "timestamptz '2020-01-01'-INTERVAL '1' DAY", "date '2020-02-29'", "'infinity'", "'epoch'",
        "CAST('2020-01-01' AS timestamp(3) WITH TIME ZONE)", "make_date(2020, 1, 1)", "'no date'",
    ],
    "numeric": ["1", "1.50", "'NaN'", "-.5e-3", "1/3.0", "1e100", "12345678901234567890.123",
                "numeric(3,1) '9.9'", "cast(7 AS numeric(10,2))", "round(2.5, 0)", "|/16", "2^0.5"],
    "text[]": ["'{a,b}'", "ARRAY['a','b']", "ARRAY[]::text[]", "NULL", """'{"a, (b",NULL}'""",
               "ARRAY['a']||'b'", "(ARRAY['a','b','c'])[2:3]", "string_to_array('a,b', ',')",
               "array_append(NULL, 'x')", "'[2:3]={x,y}'", "ARRAY(SELECT 'x')"],
    "bool": ["true", "false", "'t'", "1=1", "1<>1", "NOT true", "1 NOT IN (1,2)", "NULL IS NULL",
             "'a' LIKE 'a%'", "'a' NOT LIKE 'b'", "1 BETWEEN 0 AND 2", "(1,2)=(1,2)",
             "1 IS DISTINCT FROM 2", "'a'~'^a'", "'a'!~*'B'", "EXISTS (SELECT 1)",
             "1=ANY(ARRAY[1,2])", "1<ALL(SELECT 2)", "NULL"],
    "bigint": ["101", "DEFAULT", "'102'", "nextval('chunks_id_seq')", "103::bigint", "1",
               "9223372036854775807", "(SELECT 104)", "-1", "99999999999999999999"],
}

# More of a type, of other values: {name} stands for a value of that type.
EXPRESSIONS = {
    "text": ["({text})", "{text}::text", "{text}||{text}", "CAST({text} AS varchar(10))",
             "lower({text})", "coalesce(NULL, {text})", "CASE WHEN {bool} THEN {text} ELSE {text} END",
             "(SELECT {text})", "concat({text}, {int})", "substring({text} FROM 1 FOR 2)",
             "trim(BOTH 'x' FROM {text})", "(ARRAY[{text}])[1]", "format('%s', {int})",
             "nullif({text}, 'x')", "({jsonb})::jsonb->>'a'", "overlay({text} placing 'z' FROM 1)",
             "(WITH q AS (SELECT {text} AS z) SELECT z FROM q)", "left({text}, -1)",
             "(VALUES ({text}), ('z') LIMIT 1)", "md5({text})", "{int}::text", "replace({text}, ',', ')')",
             "(SELECT max(content) FROM chunks)", "{text} COLLATE \"C\"", "greatest({text}, 'b')",
             "(SELECT string_agg(x::text, ',' ORDER BY x) FROM generate_series(1, 3) AS x)",
             "(SELECT x.content FROM (SELECT * FROM chunks) x ORDER BY x.id LIMIT 1)",
             "current_setting('server_encoding')", "(SELECT name FROM other ORDER BY id LIMIT 1)"],
    "int": ["({int})", "{int}::int", "CAST({int} AS int)", "length({text})", "abs({int})",
            "mod({int}, 3)", "{int}%3", "({int})+({int})", "CASE {int} WHEN 1 THEN 2 ELSE {int} END",
            "(SELECT count(*) FROM generate_series(1, 3))", "array_length(ARRAY[{int},2], 1)",
            "({bool})::int", "coalesce({int}, 0)", "(SELECT max(partition_key) FROM chunks)",
            "extract(year FROM timestamptz '2020-06-01')", "position('b' IN {text})", "({int})[1]",
            "(SELECT {int})", "(SELECT count(*) FROM chunks WHERE partition_key = 57)",
            "cardinality(ARRAY[[1,2],[3,4]])", "1/0", "least({int}, 3)"],
    "jsonb": ["({jsonb})", "jsonb_build_object({text}, {int})", "to_jsonb({int}::int)",
              "(SELECT to_jsonb(c) - 'created_at' FROM chunks c ORDER BY id LIMIT 1)"],
    "timestamptz": ["({timestamptz})", "{timestamptz}::timestamptz"],
    "numeric": ["({numeric})", "{int}", "-({numeric})", "({numeric})*2"],
    "text[]": ["({text[]})", "ARRAY[{text},{text}]", "ARRAY[{text}, NULL]"],
    "bool": ["({bool})", "NOT ({bool})", "({bool}) AND ({bool})", "({bool}) OR ({bool})",
             "({bool}) IS NOT TRUE", "{int}>-1", "{int}<={int}"],
    "bigint": ["({bigint})", "{int}"],
}

# (type that a client may declare, or 0; texts)
PARAMETERS = {
    "text": ([0, 0, 25, 1043, 705], ["b", "", "it's, (", None, "漢字", "x" * 300]),
    "int": ([0, 0, 23, 20, 21], ["7", "-8", None, "0", "no number", "99999999999"]),
    "jsonb": ([0, 0, 3802, 705], ['{"p": 1}', None, "[]", "{"]),
    "timestamptz": ([0, 0, 1184, 1114], ["2021-01-01", None, "epoch", "never"]),
    "numeric": ([0, 0, 1700, 23], ["3", None, "4"]),
    "text[]": ([0, 0, 1009], ["{p,q}", None, "{"]),
    "bool": ([0, 0, 16], ["t", "f", None]),
    "bigint": ([0, 0, 20, 23], ["201", "202", "1", "203"]),
}

SQL_TYPES = {"text": "text", "int": "int", "bigint": "bigint", "jsonb": "jsonb", "bool": "boolean",
             "timestamptz": "timestamptz", "numeric": "numeric", "text[]": "text[]"}

# What a client may compute a key by: these may be taken out of a SELECT list too, ...
PLAIN_KEYS = [
    "4711", "NULL", "'4711'", "-4711", "(4711)", "- - 4711", "4711::bigint", "CAST('4711' AS int)",
    "abs(-4711)", "mod(hashtext('x'::text), 100)", "4711+1", "pg_catalog.abs(mod(7, 3))", "'abc'",
    "$$4711$$", r"E'47\x311'", "U&'4711'", "int '4711'", "4711.4", "1/0", "((4711))", "+4711",
    "'4711'::text::int", "ABS(HASHTEXT('a, b'))", "-4711*-1", "x'12'::int", "'),('", "'4711'\n '1'",
]
# ... these not.
OTHER_KEYS = [
    "CASE WHEN 1=1 THEN 4711 ELSE 0 END", "(SELECT 4711)", "coalesce(NULL, 4711)",
    "nextval('chunks_id_seq')::int", "(SELECT max(partition_key) FROM chunks)", "length('x, (y')",
    "(ARRAY[4711, 2])[1]", "extract(year FROM date '2020-01-01')", "(1 IN (1, 2))::int",
    "(VALUES (4711))", "(SELECT count(*) FROM (SELECT * FROM chunks) x)", "greatest(4711, 1)",
    "CASE 1 WHEN 1 THEN 4711 END", "(WITH w AS (SELECT 4711 AS v) SELECT v FROM w)",
    "position('a' IN 'ba')", "(1 NOT IN (1, 2))::int", "(ROW(1, 2) = ROW(1, 2))::int",
    "(NULL IS NULL)::int", "(1 BETWEEN 0 AND 2)::int", "nullif(4711, 5)",
]

# In rows of plain literals; DEFAULT last.
BULK_KEYS = ["4711", "NULL", "-4711", "'4711'", "4711::bigint", "+ 4711", "E'4711'", ".5e1", "DEFAULT"]


class Values:
    """Writes values with the generator's choices; parameters are its too."""

    def __init__(self, choices):
        self.choices = choices
        self.parameters = []  # dictionaries: kind, type, value
        self.takes_parameters = False

    def parameter(self, kind):
        """A new parameter, or one that was there before."""
        same = [index for index, each in enumerate(self.parameters) if each["kind"] == kind]
        if same and self.choices.chance(15):
            return Parameter(self.choices.pick(same))
        types, values = PARAMETERS[kind]
        self.parameters.append({"kind": kind, "type": self.choices.pick(types),
                                "value": self.choices.pick(values[:self.choices.pick([1, 3, 9])])})
        return Parameter(len(self.parameters) - 1)

    def value(self, kind, depth=0, allows_default=False):
        choices = self.choices
        if self.takes_parameters and choices.chance(40 if depth == 0 else 10):
            parameter = self.parameter(kind)
            return [parameter, "::" + SQL_TYPES[kind]] if choices.chance(25) else parameter
        if depth < 3 and choices.chance(30):
            return self._fill(choices.pick(EXPRESSIONS[kind]), depth)
        # The simplest ones are what makes a row that the server takes.
        options = LITERALS[kind] if choices.chance(50) else LITERALS[kind][:1]
        options = [each for each in options if allows_default or each != "DEFAULT"]
        if allows_default and choices.chance(5):
            return "DEFAULT"
        return choices.pick(options)

    def _fill(self, template, depth):
        found, rest = [], template
        while "{" in rest:
            before, _, rest = rest.partition("{")
            kind, _, rest = rest.partition("}")
            found += [before, self.value(kind, depth + 1)]
        return found + [rest]

    def key(self, columns=()):
        """(value for the guarded column, whether a SELECT list may be relieved of it)."""
        choices = self.choices
        if self.takes_parameters and choices.chance(50):
            return self._key_parameter()
        if columns and choices.chance(30):
            name = choices.pick(columns)
            return choices.pick([name, f"{name}::int", f"({name})", f"{name}+1", f"mod({name}, 7)"]), True
        if choices.chance(35):
            return choices.pick(OTHER_KEYS), False
        return choices.pick(PLAIN_KEYS if choices.chance(60) else PLAIN_KEYS[:1]), True

    def _key_parameter(self):
        form = self.choices.draw(8)
        if form == 5:
            return ["mod(hashtext(", self.parameter("text"), "::text), 100)"], True
        parameter = self.parameter("int")
        if form == 6:
            return [parameter, "+1"], True
        return [parameter, ["", "", "", "::int", "::bigint", "", "", "::text::int"][form]], True
