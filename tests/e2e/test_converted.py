"""COPY of a table whose column a cutover has made a generated one: without a column list, clients that
knew it before still send it and want it, and clients that came later do not. Both must be served."""

import random
import struct

import pytest

from lib import common, schema, wire
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

COLUMNS = ["id", "collection_id", "partition_key", "document_id", "chunk_index", "content", "metadata",
           "created_at"]
KEY = COLUMNS.index("partition_key")
TIME = "2020-01-01 00:00:00+00"


@pytest.fixture(scope="module")
def proxy(server):
    if common.pg_major() < 12:
        pytest.skip("generated columns need PostgreSQL 12 or newer")
    for database in ("converted", "unconverted"):
        schema.create_database(server, database)
        schema.create_chunks(server, "trigger", database)
    instance = Proxy(
        server, rules=[strip_rule(database="converted")],
        control=f"host={server.host} port={server.port} user=pgsluice dbname=converted").start()
    done = instance.command("cutover", "chunks", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    yield instance
    assert instance.stop() == 0


@pytest.fixture
def session(server, proxy):
    schema.clear_chunks(server, "converted")
    with wire.connect(proxy, user="postgres", database="converted") as connection:
        yield connection
    assert schema.wrong_keys(server, "converted") == 0


def rows_of(count, knows_column, content="text"):
    rows = [[str(n), f"c{n % 5}", "4711", None if n % 2 else "d", str(n), content, "{}", TIME]
            for n in range(1, count + 1)]
    return rows if knows_column else [row[:KEY] + row[KEY + 1:] for row in rows]


def text_of(rows):
    return "".join("\t".join("\\N" if value is None else value for value in row) + "\n"
                   for row in rows).encode()


def csv_of(rows, header=None):
    lines = [",".join(header)] if header else []
    lines += [",".join("" if value is None else f'"{value}"' for value in row) for row in rows]
    return ("\n".join(lines) + "\n").encode()


def binary_of(rows):
    out = b"PGCOPY\n\377\r\n\0" + bytes(8)
    for row in rows:
        out += struct.pack("!h", len(row))
        for at, value in enumerate(row):
            if at == len(row) - 1:
                field = struct.pack("!q", 631152000000000)  # 2020, in microseconds since 2000
            elif at == len(row) - 2:
                field = b"\1{}"  # jsonb
            elif value is None:
                out += struct.pack("!i", -1)
                continue
            elif at == 0:
                field = struct.pack("!q", int(value))
            elif value.isdigit():
                field = struct.pack("!i", int(value))
            else:
                field = value.encode()
            out += struct.pack("!i", len(field)) + field
    return out + struct.pack("!h", -1)


def pieces(data, largest, seed=1):
    pick, at = random.Random(seed), 0
    while at < len(data):
        size = pick.randint(1, largest)
        yield data[at:at + size]
        at += size


def copy_in(session, options, data, largest=50):
    session.send(wire.Query(f"COPY chunks FROM STDIN {options}"),
                 *(wire.CopyData(piece) for piece in pieces(data, largest)), wire.CopyDone())
    return session.read_until("Z")


def stored(server):
    return server.psql("SELECT string_agg(concat_ws(',', id, collection_id, document_id, chunk_index,"
                       " length(content), metadata, extract(year FROM created_at AT TIME ZONE 'UTC')),"
                       " ' ' ORDER BY id) FROM chunks", dbname="converted")


def wanted(rows):
    return " ".join(
        ",".join([row[0], row[1], *(["d"] if row[-5] else []), row[-4], str(len(row[-3])), "{}", "2020"])
        for row in rows)


FORMS = {
    "text": ("", text_of),
    "csv": ("(FORMAT csv)", csv_of),
    "header": ("(FORMAT csv, HEADER)", lambda rows: csv_of(rows, ["whatever", "it says"])),
    "binary": ("(FORMAT binary)", binary_of),
}


@pytest.mark.parametrize("knows_column", [True, False], ids=["old client", "new client"])
@pytest.mark.parametrize("form", FORMS)
def test_copy_in_without_a_list(server, session, form, knows_column):
    options, encode = FORMS[form]
    rows = rows_of(40, knows_column)
    for largest in (1, 50, 100000):
        schema.clear_chunks(server, "converted")
        answers = copy_in(session, options, encode(rows), largest)
        assert not wire.errors(answers)
        assert stored(server) == wanted(rows)


def copy_in_prepared(session, options, data):
    session.send(wire.Parse("", f"COPY chunks FROM STDIN {options}"), wire.Bind("", ""),
                 wire.Execute(""), *(wire.CopyData(piece) for piece in pieces(data, 50)),
                 wire.CopyDone(), wire.Sync())
    return session.read_until("Z")


@pytest.mark.parametrize("copy", [copy_in, copy_in_prepared], ids=["simple", "extended"])
@pytest.mark.parametrize("form", FORMS)
def test_only_who_sends_the_column_is_on_record(server, proxy, session, form, copy):
    """Of a COPY without a list that is known when its first row has come, and not before."""
    options, encode = FORMS[form]
    before = len(proxy.audit_lines())
    assert not wire.errors(copy(session, options, encode(rows_of(3, False))))
    assert not wire.errors(copy(session, options, encode([]) if form != "csv" else b""))
    schema.clear_chunks(server, "converted")
    assert not wire.errors(copy(session, options, encode(rows_of(3, True))))
    told = proxy.wait_for_audit(before + 2)[before:]
    assert [(record["event"], record["verdict"], record["rows"]) for record in told] == [
        ("supplied", "stripped", 0), ("copied", "stripped", 3)]
    protocol = "simple" if copy is copy_in else "extended"
    assert told[0]["text"].startswith("COPY chunks FROM STDIN") and told[0]["protocol"] == protocol
    assert told[0]["fingerprint"] == told[1]["fingerprint"]


def test_several_copies_in_one_query_are_told_apart(proxy, session):
    """Those with a list when they begin, those without when their first row has come."""
    columns = ", ".join(COLUMNS)
    before = len(proxy.audit_lines())
    answers = []
    session.send(wire.Query(
        f"COPY chunks FROM STDIN; COPY chunks ({columns}) FROM STDIN; COPY chunks FROM STDIN"))
    for first, knows_column in ((1, False), (11, True), (21, True)):
        answers += session.read_until("G")
        rows = [[str(first), *row[1:]] for row in rows_of(1, knows_column)]
        session.send(wire.CopyData(text_of(rows)), wire.CopyDone())
    assert not wire.errors(answers + session.read_until("Z"))
    told = proxy.wait_for_audit(before + 4)[before:]
    assert [record["event"] for record in told] == ["supplied", "copied", "supplied", "copied"]


@pytest.mark.parametrize("form", FORMS)
def test_a_first_row_longer_than_what_is_kept(server, session, form):
    options, encode = FORMS[form]
    rows = rows_of(2, True, content="x" * 600_000)
    assert not wire.errors(copy_in(session, options, encode(rows), 20_000))
    assert stored(server) == wanted(rows)


@pytest.mark.parametrize("form", FORMS)
def test_no_rows_and_bad_rows(server, session, form):
    options, encode = FORMS[form]
    assert not wire.errors(copy_in(session, options, encode([]) if form != "csv" else b""))
    for row in (rows_of(1, True)[0] + ["x"], rows_of(1, False)[0][:-1]):
        assert wire.errors(copy_in(session, options, encode([row, row]))) == ["22P04"]
    assert stored(server) == ""


def test_copy_in_with_a_header_that_must_match(server, session):
    if common.pg_major() < 15:
        pytest.skip("HEADER MATCH came with PostgreSQL 15")
    for header in (COLUMNS, [name for name in COLUMNS if name != "partition_key"]):
        schema.clear_chunks(server, "converted")
        rows = rows_of(3, len(header) == len(COLUMNS))
        assert not wire.errors(copy_in(session, "(FORMAT csv, HEADER match)", csv_of(rows, header)))
        assert stored(server) == wanted(rows)


JOINS = [
    "SELECT * FROM chunks JOIN documents d ON d.id = chunks.document_id",
    "SELECT * FROM documents d, chunks c, generate_series(1, 2) AS n ORDER BY 1, 3",
    "SELECT *, 1 AS one FROM chunks a LEFT JOIN (chunks b CROSS JOIN documents) ON a.id = b.id + 1",
    "WITH w AS (SELECT * FROM chunks, documents) SELECT content FROM w",
    "UPDATE chunks c SET content = 'new' FROM documents d WHERE d.id = c.document_id RETURNING *",
    "DELETE FROM documents USING chunks c WHERE c.document_id = documents.id RETURNING *",
]


@pytest.mark.parametrize("text", JOINS)
def test_a_star_over_a_join_has_the_columns_where_they_were(server, session, text):
    """As on a table that was never converted."""
    def described(connection):
        connection.query("DELETE FROM documents; INSERT INTO documents VALUES ('d', 1), ('e', 2)")
        connection.query("TRUNCATE chunks RESTART IDENTITY")
        for n in (1, 2):
            assert not wire.errors(connection.query(
                "INSERT INTO chunks (collection_id, document_id, chunk_index, content, created_at)"
                f" VALUES ('c{n}', 'd', {n}, 'x', '{TIME}')"))
        answers = connection.query(text)
        assert not wire.errors(answers), answers
        return [answer.details() for answer in answers if answer.kind in "TDC"]

    with wire.connect(server, user="postgres", database="unconverted") as plain:
        expected = described(plain)
    assert described(session) == expected


def copied(session, text):
    session.send(wire.Query(text))
    answers = session.read_until("Z")
    assert not wire.errors(answers)
    return b"".join(answer.body for answer in answers if answer.kind == "d")


def test_copy_out_gives_what_it_gave_before(server, session):
    assert not wire.errors(copy_in(session, "", text_of(rows_of(1, True))))
    key = server.psql("SELECT partition_key FROM chunks", dbname="converted").encode()
    whole = copied(session, "COPY chunks TO STDOUT")
    assert whole.split(b"\t")[:3] == [b"1", b"c1", key] and whole.count(b"\t") == 7
    assert copied(session, "COPY public.chunks (partition_key, id) TO STDOUT") == key + b"\t1\n"
    assert copied(session, "COPY chunks (id) TO STDOUT (FORMAT csv)") == b"1\n"
    header = copied(session, "COPY chunks TO STDOUT WITH CSV HEADER").split(b"\n")[0]
    assert header.decode().split(",") == COLUMNS
