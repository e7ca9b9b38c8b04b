"""Error positions: the server's are about the edited text, the client's about what it wrote.

What is expected is never written down as a number: a word of the client's text stands where the error
is, and the position must be that word's, or what the server says of the client's own text.
"""

import pytest

from lib import common, schema, wire
from lib.pgserver import Server
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

HEAD = "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "


@pytest.fixture(scope="module")
def strip(server):
    database = "positions"
    schema.create_database(server, database)
    schema.create_chunks(server, "trigger", database)
    instance = Proxy(
        server, rules=[strip_rule("strip", database=database)],
        control=f"host={server.host} port={server.port} user=pgsluice dbname={database}").start()
    yield instance, database
    instance.stop()


@pytest.fixture
def session(strip):
    with wire.connect(strip[0], user="app", database=strip[1]) as connection:
        yield connection


def complaints(answers):
    return [answer for answer in answers if answer.kind in "EN"]


def position(answers):
    """Of the only error or notice; None: it has none."""
    found = complaints(answers)
    assert len(found) == 1, str(answers)
    place = found[0].fields().get("P")
    return None if place is None else int(place)


def place_of(text, word="nocol"):
    """In characters, from 1."""
    return text.rindex(word) + 1


def at_once(session, text, values=()):
    """Parse, Bind, Describe and Execute in one batch."""
    return session.send(wire.Parse("", text), wire.Bind("", "", values), wire.Describe("P", ""),
                        wire.Execute(), wire.Sync()).read_until()


# (text, the word at which the server points)
ERRORS = {
    "undefined_column_in_front": (HEAD + "VALUES (nocol, 4711, 1, 'x')", "nocol"),
    "undefined_column_behind": (HEAD + "VALUES ('a', 4711, nocol, 'x')", "nocol"),
    "undefined_column_in_the_list": (
        "INSERT INTO chunks (collection_id, partition_key, nocol) VALUES ('a', 4711, 1)", "nocol"),
    "second_row": (HEAD + "VALUES ('a', 4711, 1, 'x'), ('b', 4712, nocol, 'y')", "nocol"),
    "third_row": (HEAD + "VALUES ('a', 4711, 1, 'x'), ('b', 47, 2, 'y'), (nocol, 0, 1, 'z')", "nocol"),
    "bad_integer": (HEAD + "VALUES ('a', 4711, 'nocol', 'x')", "'nocol'"),
    "bad_integer_in_the_second_row": (
        HEAD + "VALUES ('a', 4711, '1', 'x'), ('a', 4711, 'nocol', 'x')", "'nocol'"),
    "too_many_values": (HEAD + "VALUES ('a', 4711, 1, 'x', 99)", "99)"),
    "returning": (HEAD + "VALUES ('a', 4711, 1, 'x') RETURNING id, nocol", "nocol"),
    "function_in_returning": (HEAD + "VALUES ('a', 4711, 1, 'x') RETURNING nocol(id)", "nocol"),
    "on_conflict": (HEAD + "VALUES ('a', 4711, 1, 'x') ON CONFLICT (nocol) DO NOTHING", "(nocol)"),
    "on_conflict_update": (
        HEAD + "VALUES ('a', 4711, 1, 'x') ON CONFLICT (id, collection_id, partition_key) "
        "DO UPDATE SET partition_key = 1, content = nocol", "nocol"),
    "update_where": ("UPDATE chunks SET partition_key = 4711, content = 'x' WHERE nocol = 1", "nocol"),
    "update_set": ("UPDATE chunks SET content = nocol, partition_key = 4711", "nocol"),
    "with": ("WITH w AS (" + HEAD + "VALUES ('a', 4711, 1, 'x') RETURNING id) SELECT nocol FROM w",
             "nocol"),
    "inside_with": ("WITH w AS (" + HEAD + "VALUES ('a', 4711, nocol, 'x') RETURNING id) SELECT 1",
                    "nocol"),
    "insert_select": (HEAD + "SELECT 'a', 4711, nocol, 'x' FROM documents", "nocol"),
    "positional": ("INSERT INTO chunks VALUES (1, 'a', 4711, 'd', nocol, 'x')", "nocol"),
    "positional_in_front": ("INSERT INTO chunks VALUES (nocol, 'a', 4711, 'd', 1, 'x')", "nocol"),
    "comment": (HEAD + "/* ä */ VALUES ('a', /* , */ 4711, -- ß\n nocol, 'x')", "nocol"),
    "letters": (HEAD + "VALUES ('äöü€𝄞', 4711, nocol, 'x')", "nocol"),
    "letters_in_what_goes": (HEAD + "VALUES ('a', length('äöü€𝄞'), nocol, 'x')", "nocol"),
    "letters_in_a_name": (HEAD + "VALUES ('a', 4711, 1, 'x') RETURNING id AS \"é\", nocol", "nocol"),
    "no_literal_is_left": (HEAD + "SELECT nocol, 4711, id, document_id FROM chunks", "nocol"),
    "explain": ("EXPLAIN " + HEAD + "VALUES ('a', 4711, nocol, 'x')", "nocol"),
    "rows_for_a_bulk_load": (
        HEAD + "VALUES " + ", ".join(f"('a', 4711, {n}, 'é{'x' * 300}')" for n in range(9))
        + " RETURNING nocol", "nocol"),
    "bulk_load_of_bad_rows": (
        HEAD + "VALUES " + ", ".join(f"('a', 4711, '{n if n != 7 else 'nocol'}', 'é{'x' * 300}')"
                                     for n in range(9)), "'nocol'"),
    "behind_very_many_rows": (
        HEAD + "VALUES " + ", ".join(f"('a', 4711, {n}, 'é')" for n in range(500))
        + " RETURNING nocol", "nocol"),
    "behind_many_rows_that_are_no_bulk_load": (
        HEAD + "VALUES " + ", ".join(f"('a', 4711, {n} + 1, 'é')" for n in range(100))
        + " RETURNING nocol", "nocol"),
}


@pytest.mark.parametrize("way", ["simple", "extended", "again"])
@pytest.mark.parametrize("text,word", ERRORS.values(), ids=ERRORS)
def test_an_error_points_into_the_clients_text(session, text, word, way):
    ask = session.query if way == "simple" else lambda sql: at_once(session, sql)
    if way == "again":  # the verdict comes from the cache, with other literals in its place
        ask(text.replace("'a'", "'another one'").replace("4711", "99999999"))
    answers = ask(text)
    assert position(answers) == place_of(text, word), str(answers)


def test_the_position_is_the_one_of_the_same_statement_without_the_key(session):
    """As a switch: both errors stand at the same distance from the end of the text."""
    for tail in ("1, nocol)", "nocol, 'x')", "1, 'x') RETURNING (SELECT 1 FROM nocol)"):
        bare = "INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', " + tail
        keyed = HEAD + "VALUES ('a', 4711, " + tail
        assert (len(keyed) - position(session.query(keyed))
                == len(bare) - position(session.query(bare)))


def test_an_error_in_a_long_statement_is_right_or_nowhere(session):
    for row in (1, 20, 30, 60, 499):
        text = HEAD + "VALUES " + ", ".join(
            f"('a', 4711, {n if n != row else 'nocol'}, 'é')" for n in range(500))
        found = position(session.query(text))
        assert found in (None, place_of(text))
        if row <= 20:
            assert found is not None


def test_an_error_that_quotes_more_than_the_proxys_buffer(session):
    for size in (10_000, 70_000, 3_000_000):
        text = HEAD + f"VALUES ('a', 4711, 'nocol{'x' * size}', 'é')"
        assert position(session.query(text)) == place_of(text, "'nocol")
    assert session.rows("SELECT 1") == [["1"]]


def test_an_error_without_a_position_stays_without(session):
    answers = session.query(HEAD + "VALUES ('a', 4711, 1 / 0, 'x')")
    assert wire.errors(answers) == ["22012"]
    assert position(answers) is None


def test_all_other_fields_stay(session, server, strip):
    text = HEAD + "VALUES ('a', 4711, nocol, 'x')"
    bare = "INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', nocol, 'x')"
    expected = server_fields(server, strip[1], bare)
    found = complaints(session.query(text))[0].fields()
    assert found.pop("P") == str(place_of(text))
    expected.pop("P")
    assert found == expected


def server_fields(server, database, text):
    with wire.connect(server, user="app", database=database) as direct:
        return complaints(direct.query(text))[0].fields()


def test_the_list_added_to_a_positional_insert_stands_where_it_was_added(session, server, strip):
    """The server points at a column of the list that the client has not written."""
    server.psql("ALTER TABLE chunks RENAME document_id TO document", dbname=strip[1])
    text = "INSERT INTO chunks VALUES (1, 'a', 4711, 'd', 1, 'x')"
    try:
        answers = session.query(text)
        assert wire.errors(answers) == ["42703"]
        assert position(answers) == place_of(text, "VALUES")
    finally:
        server.psql("ALTER TABLE chunks RENAME document TO document_id", dbname=strip[1])


def test_a_star_that_was_written_out(session):
    text = "SELECT 'é', chunks.*, nocol FROM chunks WHERE id = $1"
    assert position(session.send(wire.Parse("", text), wire.Sync()).read_until()) == place_of(text)
    text = "SELECT * FROM chunks WHERE nocol = $1"
    assert position(session.send(wire.Parse("", text), wire.Sync()).read_until()) == place_of(text)
    text = HEAD + "VALUES ($1, $2, 1, 'x') RETURNING *, nocol"
    assert position(session.send(wire.Parse("", text), wire.Sync()).read_until()) == place_of(text)


# Which text an error is about

def test_several_statements_in_one_query(session):
    insert = HEAD + "VALUES ('a', 4711, 1, 'x')"
    text = f"SELECT 'é'; {insert}; SELECT nocol; {insert}"
    assert position(session.query(text)) == place_of(text)
    text = f"SELECT 'é'; {insert}; {insert.replace(' 1,', ' nocol,')}; SELECT 1"
    assert position(session.query(text)) == place_of(text)


def test_an_error_about_another_text_of_the_batch_is_left_alone(session):
    edited = HEAD + "VALUES ('a', 4711, 1, 'x')"
    for plain in ("SELECT 1, 2, 3, 4, nocol", "SELECT nocol FROM chunks"):
        answers = session.send(
            wire.Parse("", edited), wire.Bind("", ""), wire.Execute(),
            wire.Parse("", plain), wire.Bind("", ""), wire.Execute(), wire.Sync()).read_until()
        assert position(answers) == place_of(plain)
        wrong = HEAD + "VALUES ('a', 4711, nocol, 'x')"
        answers = session.send(
            wire.Parse("p", plain.replace("nocol", "1")), wire.Bind("", "p"), wire.Describe("P", ""),
            wire.Execute(), wire.Close("S", "p"), wire.Parse("", wrong), wire.Bind("", ""),
            wire.Execute(), wire.Sync()).read_until()
        assert position(answers) == place_of(wrong)


def test_pipelined_batches_are_told_apart(session):
    texts = [HEAD + f"VALUES ('a', {10 ** n}, nocol, 'x')" if n % 3 else f"SELECT {n}, {10 ** n}, nocol"
             for n in range(9)] * 20
    session.send(*[message for text in texts for message in (wire.Parse("", text), wire.Sync())])
    for text in texts:
        assert position(session.read_until()) == place_of(text)
    session.send(*[wire.Query(text) for text in texts])
    for text in texts:
        assert position(session.read_until()) == place_of(text)


def test_more_pipelined_batches_than_are_remembered(session):
    """A position that cannot be told goes; none is ever wrong, and later ones are right again."""
    count = 3000
    text = HEAD + "VALUES ('a', 4711, nocol, 'x')"
    session.send(*[message for _ in range(count) for message in (wire.Parse("", text), wire.Sync())])
    found = [position(session.read_until()) for _ in range(count)]
    assert set(found) <= {None, place_of(text)}
    assert position(session.query(text)) == place_of(text)


def test_a_query_in_an_open_batch(session):
    edited = HEAD + "VALUES ('a', 4711, 1, 'x')"
    for text in ("SELECT 1, nocol", HEAD + "VALUES ('a', 4711, nocol, 'x')"):
        answers = session.send(wire.Parse("", edited), wire.Bind("", ""), wire.Execute(),
                               wire.Query(text)).read_until()
        assert position(answers) == place_of(text)


def test_a_prepared_statement_that_no_longer_fits_its_table(session, server, strip):
    """The server analyses it again when it is described or bound."""
    text = HEAD + "VALUES ($1, $2, 1, 'é') RETURNING document_id, *"
    other = "SELECT 1, document_id FROM chunks"
    assert wire.errors(session.send(wire.Parse("named", text), wire.Parse("other", other),
                                    wire.Parse("", text), wire.Sync()).read_until()) == []
    server.psql("ALTER TABLE chunks RENAME document_id TO document", dbname=strip[1])
    try:
        expected = place_of(text, "document_id")
        for name in ("named", ""):
            answers = session.send(wire.Describe("S", name), wire.Sync()).read_until()
            assert (wire.errors(answers), position(answers)) == (["42703"], expected)
            answers = session.send(wire.Bind("", name, ["a", 4711]), wire.Execute(),
                                   wire.Sync()).read_until()
            assert (wire.errors(answers), position(answers)) == (["42703"], expected)
        for message in (wire.Bind("", "other"), wire.Describe("S", "other")):
            answers = session.send(message, wire.Sync()).read_until()
            assert position(answers) == place_of(other, "document_id")
    finally:
        server.psql("ALTER TABLE chunks RENAME document TO document_id", dbname=strip[1])


def test_sql_prepare(session, server, strip):
    """Such a text is analysed at Execute; and EXECUTE's errors are about it, not about EXECUTE."""
    text = "PREPARE p AS " + HEAD + "VALUES ('é', 4711, nocol, 'x')"
    assert position(session.query(text)) == place_of(text)
    assert position(at_once(session, text)) == place_of(text)
    text = "PREPARE p AS " + HEAD + "VALUES ('é', 4711, 1, 'x') RETURNING document_id"
    assert wire.errors(session.query(text)) == []
    server.psql("ALTER TABLE chunks RENAME document_id TO document", dbname=strip[1])
    try:
        assert position(session.query("EXECUTE p")) is None
        assert position(at_once(session, "EXECUTE p")) is None
    finally:
        server.psql("ALTER TABLE chunks RENAME document TO document_id", dbname=strip[1])


def test_the_unnamed_portal_outlives_its_statement(session):
    text = "PREPARE p2 AS " + HEAD + "VALUES ('é', 4711, nocol, 'x')"
    answers = session.send(wire.Parse("", text), wire.Bind("", ""), wire.Parse("", "SELECT 1"),
                           wire.Execute(), wire.Sync()).read_until()
    assert position(answers) == place_of(text)


def test_a_copy_between(session):
    """libpq's COPY: its first Sync is not taken for one."""
    text = HEAD + "VALUES ('a', 4711, nocol, 'x')"
    good = HEAD + "VALUES ('a', 4711, 1, 'x')"
    session.send(wire.Parse("good", good), wire.Parse("", "COPY documents FROM STDIN"),
                 wire.Bind("", ""), wire.Execute(), wire.Sync())
    session.read_until("G")
    session.send(wire.CopyDone(), wire.Sync())
    assert wire.errors(session.read_until()) == []
    assert position(at_once(session, text)) == place_of(text)
    assert position(at_once(session, "SELECT 1, nocol")) == place_of("SELECT 1, nocol")


def test_a_refusal_keeps_its_own(strip):
    """A syntax error that the proxy itself reports, behind statements that were edited."""
    with wire.connect(strip[0], user="app", database=strip[1]) as session:
        broken = "INSERT INTO chunks (collection_id) VALUES ('é', ) nocol"
        assert position(session.query(broken)) == place_of(broken, ")")
        good = HEAD + "VALUES ('a', 4711, 1, 'x')"
        answers = session.send(wire.Parse("", good), wire.Bind("", ""), wire.Execute(),
                               wire.Parse("", broken), wire.Sync()).read_until()
        assert position(answers) == place_of(broken, ")")


# Characters

def test_a_warning_has_a_position_too(session):
    session.query("SET standard_conforming_strings = off")
    text = HEAD + "VALUES ('é', 4711, 1, 'a\\\\b')"
    answers = session.query(text)
    assert (wire.errors(answers), position(answers)) == ([], place_of(text, "'a"))


@pytest.mark.parametrize("encoding,codec,letters", [
    ("LATIN1", "latin-1", "äöüß"), ("WIN1252", "cp1252", "ä€"), ("KOI8R", "koi8-r", "пример"),
    ("EUC_JP", "euc_jp", "表ソｿ日本語丂"), ("EUC_KR", "euc_kr", "한국어"), ("UTF8", "utf-8", "ä€語𝄞"),
    ("SQL_ASCII", "utf-8", "ä€語𝄞"),
])
def test_characters_of_other_encodings(strip, server, encoding, codec, letters):
    """The server itself says what is right: of the client's text it would complain at the same place."""
    text = HEAD + f"VALUES ('{letters}', length('{letters}'), nocol, '{letters}')"
    broken = f"INSERT INTO chunks (collection_id) VALUES ('{letters}', ) nocol '{letters}'"
    for query, word in ((text, "nocol"), (broken, ") nocol")):
        message = wire.message("Q", query.encode(codec) + b"\0")
        found = []
        for endpoint in (strip[0], server):
            with wire.connect(endpoint, user="app", database=strip[1],
                              client_encoding=encoding) as session:
                found.append(position(session.send(message).read_until()))
        assert found == [place_of(query, word)] * 2


@pytest.mark.parametrize("server_encoding", ["SQL_ASCII", "LATIN1", "EUC_JP", "EUC_JIS_2004"])
@pytest.mark.parametrize("client_encoding", ["UTF8", "SQL_ASCII", "LATIN1", "EUC_JP"])
def test_servers_of_other_encodings(server, server_encoding, client_encoding):
    """As the server counts, or not at all."""
    database = f"positions_{server_encoding}_{client_encoding}".lower()
    server.psql(f"CREATE DATABASE {database} ENCODING '{server_encoding}' LC_COLLATE 'C' "
                "LC_CTYPE 'C' TEMPLATE template0; "
                f"GRANT ALL ON DATABASE {database} TO pgsluice", dbname="postgres")
    server.psql("GRANT ALL ON SCHEMA public TO PUBLIC", dbname=database)
    schema.create_chunks(server, "trigger", database)
    proxy = Proxy(
        server, rules=[strip_rule("strip", database=database)],
        control=f"host={server.host} port={server.port} user=pgsluice dbname={database}").start()
    try:
        codec = {"LATIN1": "latin-1", "EUC_JP": "euc_jp"}.get(client_encoding, "utf-8")
        for letters in ("xyz", "äé" if codec != "euc_jp" else "表ソ"):
            text = HEAD + f"VALUES ('{letters}', length('{letters}'), nocol, '{letters}')"
            message = wire.message("Q", text.encode(codec) + b"\0")
            found = []
            for endpoint in (proxy, server):
                with wire.Connection.to(endpoint) as session:
                    try:
                        session.start("app", database, client_encoding=client_encoding)
                    except AssertionError:
                        found.append("no such conversion")
                        continue
                    found.append([(answer.sqlstate, answer.fields().get("P"))
                                  for answer in session.send(message).read_until()
                                  if answer.kind == "E"])
            if found[0] != found[1]:
                assert server_encoding == "EUC_JIS_2004" and letters != "xyz"
                assert found[0] == [(found[1][0][0], None)]
    finally:
        proxy.stop()
        server.psql(f"DROP DATABASE {database} WITH (FORCE)", dbname="postgres")
