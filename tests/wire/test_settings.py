"""Settings that change how a text is read, changed right ahead of it in the same pipeline: the proxy
reads the text as the server will, or refuses it.

TEXT is a SELECT to one who takes a backslash in a plain literal for itself, and an INSERT with a key to
one who takes it for an escape; SJIS_TEXT the same to one who reads LATIN1, and one who reads SJIS."""

import pytest

from lib import common, schema, wire
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

INSERT = ("INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
          "VALUES ($x$a$x$, 1, 1, $x$x$x$)")
TEXT = f"WITH c AS (SELECT '\\', $$') {INSERT} /*$$) SELECT 1 FROM chunks -- */"
SJIS_TEXT = b"SELECT E'\x95\\'; " + INSERT.encode() + b"; --'"
OFF = "standard_conforming_strings = off"
ON = "standard_conforming_strings = on"


@pytest.fixture(scope="module")
def proxy(server):
    schema.create_chunks(server)
    server.psql("CREATE FUNCTION escapes() RETURNS text LANGUAGE sql AS "
                "$$SELECT set_config('standard_conforming_strings', 'off', false)$$")
    server.psql("CREATE FUNCTION planned() RETURNS text IMMUTABLE LANGUAGE plpgsql AS "
                "$$BEGIN RETURN escapes(); END$$")
    server.psql("CREATE FUNCTION speaks(encoding text) RETURNS text LANGUAGE plpgsql AS "
                "$$BEGIN RETURN set_config('client_encoding', encoding, false); END$$")
    instance = Proxy(server, rules=[strip_rule()]).start()
    yield instance
    assert instance.stop() == 0
    server.psql("DROP FUNCTION speaks(text), planned(), escapes()")


def count(server):
    return int(server.psql("SELECT count(*) FROM chunks"))


def execute(text):
    return wire.Parse("", text) + wire.Bind("", "") + wire.Execute()


# What is sent and answered first, and what is sent together with the text.
CHANGES = {
    "set": ([], wire.Query(f"SET {OFF}")),
    "set_config": ([], wire.Query("SELECT set_config('standard_conforming_strings', 'off', false)")),
    "do": ([], wire.Query(f"DO $$BEGIN EXECUTE 'SET {OFF}'; END$$")),
    "function": ([], wire.Query("SELECT escapes()")),
    "extended_function": ([], execute("SELECT escapes()") + wire.Sync()),
    "several_statements": ([], wire.Query(f"SELECT 1; SET {OFF}; SELECT 2")),
    "extended": ([], execute(f"SET {OFF}") + wire.Sync()),
    "prepared": ([wire.Parse("s", f"SET {OFF}") + wire.Sync()],
                 wire.Bind("", "s") + wire.Execute() + wire.Sync()),
    "update_of_pg_settings": ([], wire.Query(
        "UPDATE pg_settings SET setting = 'off' WHERE name LIKE 'standard_conf%'")),
    "reset": ([wire.Query(f"SET {ON}")], wire.Query("RESET ALL")),
    "discard": ([wire.Query(f"SET {ON}")], wire.Query("DISCARD ALL")),
    "rollback": ([wire.Query("BEGIN"), wire.Query(f"SET {ON}")], wire.Query("ROLLBACK")),
    "rollback_to": ([wire.Query("BEGIN; SAVEPOINT a"), wire.Query(f"SET {ON}")],
                    wire.Query("ROLLBACK TO a")),
    "commit": ([wire.Query("BEGIN"), wire.Query(f"SET LOCAL {ON}")], wire.Query("COMMIT")),
    "error": ([wire.Query("BEGIN"), wire.Query(f"SET {ON}")],
              wire.Query("SELECT nothing") + wire.Query("ROLLBACK")),
}
STARTS_OFF = {"reset", "discard", "rollback", "rollback_to", "commit", "error"}


@pytest.mark.parametrize("extended", [False, True], ids=["query", "parse"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_text_behind_a_change_is_read_as_the_server_reads_it(change, extended, server, proxy):
    before, at_once = CHANGES[change]
    schema.clear_chunks(server)
    recorded = len(proxy.audit_lines())
    params = {"options": "-c standard_conforming_strings=off"} if change in STARTS_OFF else {}
    with wire.connect(proxy, **params) as session:
        for message in before:
            assert not wire.errors(session.send(message).read_until())
        session.send(at_once, execute(TEXT) + wire.Sync() if extended else wire.Query(TEXT))
        for _ in range(3 if change == "error" else 2):
            answers = session.read_until()
        assert [str(answer) for answer in answers if answer.kind in "CE"] == [
            "CommandComplete INSERT 0 1"]
        session.query("COMMIT")
    assert count(server) == 1
    records = common.wait_until(lambda: proxy.audit_lines()[recorded:])
    assert [record["verdict"] for record in records] == ["stripped"]


@pytest.mark.parametrize("how", ["startup", "set"])
def test_an_encoding_of_two_bytes_is_known_in_time(how, server, proxy):
    schema.clear_chunks(server)
    first = [] if how == "startup" else [wire.Query("SET client_encoding = SJIS")]
    with wire.Connection.to(proxy) as session:
        if how == "startup":
            session.send(wire.StartupMessage(client_encoding="windows932"), wire.Query(SJIS_TEXT))
            session.read_until()
        else:
            session.start(client_encoding="LATIN1")
            session.send(*first, wire.Query(SJIS_TEXT)).read_until()
        assert wire.errors(session.read_until()) == ["22021"]
    assert count(server) == 0


# Messages of one batch ahead of the text.
WITHIN = {
    "set": execute(f"SET {OFF}"),
    "names": execute("SET NAMES 'sjis'"),
    "set_config": execute("SELECT set_config('standard_conforming_strings', 'off', false)"),
    "other_spelling": execute("SET U&\"standard_conforming\\005fstrings\" = off"),
    "discard": execute("/* all */ DISCARD TEMP"),
}


@pytest.mark.parametrize("change", WITHIN)
def test_within_a_batch_it_is_refused_with_a_hint(change, server, proxy):
    schema.clear_chunks(server)
    with wire.connect(proxy) as session:
        answers = session.send(WITHIN[change], execute(TEXT), wire.Sync()).read_until()
        assert wire.errors(answers) == ["0A000"]
        error, = [answer.fields() for answer in answers if answer.kind == "E"]
        assert "Send a Sync" in error["H"]
        assert session.rows("SHOW standard_conforming_strings") == [["on"]]  # rolled back
        session.send(execute(TEXT), wire.Sync())
        assert not wire.errors(session.read_until())
    assert count(server) == 0


def test_within_a_batch_behind_the_end_of_a_transaction_it_is_refused(server, proxy):
    schema.clear_chunks(server)
    with wire.connect(proxy, options="-c standard_conforming_strings=off") as session:
        session.query("BEGIN")
        session.query(f"SET {ON}")
        session.send(execute("ROLLBACK"), execute(TEXT), wire.Sync())
        assert wire.errors(session.read_until()) == ["0A000"]
    assert count(server) == 0


def test_within_a_batch_behind_a_statement_prepared_before_it_is_refused(server, proxy):
    schema.clear_chunks(server)
    with wire.connect(proxy) as session:
        assert not wire.errors(session.send(wire.Parse("s", f"SET {OFF}"), wire.Sync()).read_until())
        session.send(wire.Bind("", "s"), wire.Execute(), execute(TEXT), wire.Sync())
        assert wire.errors(session.read_until()) == ["0A000"]
    assert count(server) == 0


# What is answered first; and messages of one batch ahead of the text, in which no setting is in sight.
UNSEEN = {
    "function": ([], execute("SELECT escapes()")),
    "bind_alone": ([], wire.Parse("", "SELECT planned()") + wire.Bind("", "")),
    "do": ([], execute("DO $$BEGIN PERFORM escapes(); END$$")),
    "sql_execute": ([wire.Query("PREPARE p AS SELECT escapes()")], execute("EXECUTE p")),
    "prepared": ([wire.Parse("s", "SELECT escapes()") + wire.Sync()],
                 wire.Bind("", "s") + wire.Execute()),
    "portal": ([wire.Query("BEGIN"), wire.Parse("", "SELECT escapes()") + wire.Bind("c", "") +
                wire.Sync()], wire.Execute("c")),
}


def assert_is_refused(answers):
    assert wire.errors(answers) == ["0A000"]
    error, = [answer.fields() for answer in answers if answer.kind == "E"]
    assert "Send a Sync" in error["H"]


@pytest.mark.parametrize("change", UNSEEN)
def test_within_a_batch_behind_a_function_that_changes_them_it_is_refused(change, server, proxy):
    before, ahead = UNSEEN[change]
    schema.clear_chunks(server)
    with wire.connect(proxy) as session:
        for message in before:
            assert not wire.errors(session.send(message).read_until())
        assert_is_refused(session.send(ahead, execute(TEXT), wire.Sync()).read_until())
    assert count(server) == 0


# A letter that ends with the first half of another one, whose second half is the backslash; or one that
# ends with a backslash. What is said first is what comes out in other encodings.
HALVES = {
    "SJIS": ("╕\\", True),
    "BIG5": ("表\\", True),
    "GBK": ("表\\", True),
    "GB18030": ("表\\", True),
    "SHIFT_JIS_2004": ("Á_", False),
}


# Pairs of a byte above 0x7f and one on which a lexer depends, like a quote, that a server converts to
# something without the latter.
SWALLOWED = """
CREATE FUNCTION pg_temp.swallows(pair bytea, client name, server name) RETURNS boolean LANGUAGE plpgsql
AS $$BEGIN
    RETURN position(substr(pair, 2) IN convert(pair, client, server)) = 0;
EXCEPTION WHEN OTHERS THEN RETURN false;
END$$;
SELECT count(*) FILTER (WHERE server NOT IN ('EUC_TW', 'MULE_INTERNAL')),
    count(*) FILTER (WHERE client = 'BIG5') > 0
FROM (SELECT DISTINCT pg_encoding_to_char(conforencoding) AS client, pg_encoding_to_char(contoencoding)
      AS server FROM pg_conversion WHERE conforencoding > pg_char_to_encoding('KOI8U')) AS conversions,
    generate_series(128, 255) AS first, unnest('{10,13,34,36,39,40,41,42,44,45,46,47}'::int[]) AS second
WHERE pg_temp.swallows(set_byte(set_byte('\\x0000'::bytea, 0, first), 1, second), client, server)
"""


@pytest.mark.parametrize("which", ["server", "newest"])
def test_no_quote_is_the_half_of_a_letter_but_of_big5s(which, request):
    """What rules/alike.h says of the servers' conversions, and where they are none of that kind."""
    with wire.connect(request.getfixturevalue(which)) as session:
        assert session.rows(SWALLOWED) == [["0", "t"]]


@pytest.fixture(scope="module")
def taiwanese(server):
    server.psql("CREATE DATABASE taiwanese ENCODING 'EUC_TW' LC_COLLATE 'C' LC_CTYPE 'C' "
                "TEMPLATE template0; GRANT ALL ON DATABASE taiwanese TO pgsluice", dbname="postgres")
    schema.create_chunks(server, dbname="taiwanese")
    control = f"host={server.host} port={server.port} user=pgsluice dbname=taiwanese"
    proxy = Proxy(server, rules=[strip_rule("strip", database="taiwanese")], control=control).start()
    yield proxy
    assert proxy.stop() == 0
    server.psql("DROP DATABASE taiwanese", dbname="postgres")


def test_where_quotes_can_be_halves_no_letter_stands_behind_another_statement(taiwanese):
    with wire.connect(taiwanese, database="taiwanese", client_encoding="EUC_TW") as session:
        for ahead in (execute("SELECT 1"), execute("SELECT 1") + wire.Sync()):
            text = wire.message("P", b"\0SELECT '\xc4\xa1' FROM chunks\0\0\0")
            answers = session.send(ahead, text, wire.Sync()).read_until()
            if ahead.endswith(wire.Sync()):
                assert not wire.errors(answers + session.read_until())
            else:
                assert_is_refused(answers)


@pytest.mark.parametrize("known", ["UTF8", "LATIN1"])
@pytest.mark.parametrize("encoding", HALVES)
def test_within_a_batch_behind_a_function_that_changes_the_encoding(encoding, known, server, proxy):
    letters, ends_sooner = HALVES[encoding]
    text = (f"WITH c AS (SELECT E'{letters}') {INSERT} /*') SELECT 1 FROM chunks -- */" if ends_sooner
            else f"WITH c AS (SELECT E'{letters}', $$') {INSERT} /*$$) SELECT 1 FROM chunks -- */")
    schema.clear_chunks(server)
    with wire.Connection.to(server) as session:
        session.start(client_encoding=known, options="-c backslash_quote=on")
        session.send(execute(f"SELECT speaks('{encoding}')"), execute(text), wire.Sync())
        assert not wire.errors(session.read_until())
    assert count(server) == 1  # so it is read
    schema.clear_chunks(server)
    with wire.Connection.to(proxy) as session:
        session.start(client_encoding=known, options="-c backslash_quote=on")
        session.send(execute(f"SELECT speaks('{encoding}')"), execute(text), wire.Sync())
        assert_is_refused(session.read_until())
    assert count(server) == 0


def test_the_statements_of_one_query_are_read_before_they_run(server, proxy):
    schema.clear_chunks(server)
    for endpoint in (server, proxy):
        with wire.connect(endpoint) as session:
            assert not wire.errors(session.query(f"SELECT escapes(); {TEXT}"))
    assert count(server) == 0


# Literals, and what they say.
HARMLESS = {
    "'ü'": "ü", "'表 ╕'": "表 ╕", "'Á_b'": "Á_b", "'it''s ü'": "it's ü", r"'C:\temp'": r"C:\temp",
    r"'a\\'": r"a\\", r"'ü\n'": r"ü\n", r"E'a\nb'": "a\nb", r"E'it\'s'": "it's", r"E'ü\n'": "ü\n",
    r"$$ü \$$": "ü \\", r"'x' /* ü \' */": "x", "'y' -- ü'": "y",
}


@pytest.mark.parametrize("ahead", ["BEGIN", "SELECT 1", "INSERT INTO chunks (collection_id, "
                                   "chunk_index, content) VALUES ('ü', 1, 'ü')", "SET application_name = 'ü'",
                                   "SET LOCAL client_encoding = 'UTF8'"])
def test_behind_other_statements_of_its_batch_nearly_every_text_goes_on(ahead, server, proxy):
    schema.clear_chunks(server)
    columns = '(collection_id, "partition_key", chunk_index, content)'
    with wire.connect(proxy) as session:
        session.query("SET client_encoding = 'UTF8'")
        messages = b"".join(execute(f"INSERT INTO chunks {columns} VALUES ('a', 5, 1, {literal}\n) "
                                    'RETURNING id AS "Größe", id grösse')
                            for literal in HARMLESS)
        session.send(execute("BEGIN"), execute(ahead), messages, execute("COMMIT"), wire.Sync())
        assert not wire.errors(session.read_until())
        rows = session.rows("SELECT content FROM chunks WHERE collection_id = 'a' ORDER BY id")
    assert [row[0] for row in rows] == list(HARMLESS.values())


def test_batches_that_change_nothing_go_on(server, proxy):
    insert = "INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('ä', 1, '\\n')"
    schema.clear_chunks(server)
    with wire.connect(proxy) as session:
        session.query("SET client_encoding = 'UTF8'; SET standard_conforming_strings = on")
        for _ in range(2):
            session.send(execute("BEGIN"), execute(insert), execute("SELECT 'set'"), execute(insert),
                         execute("COMMIT"), wire.Sync())
            assert not wire.errors(session.read_until())
    assert count(server) == 4


def test_a_pipeline_of_such_texts_keeps_its_order(server, proxy):
    schema.clear_chunks(server)
    with wire.connect(proxy) as session:
        for n in range(200):
            session.send(wire.Query("INSERT INTO chunks (collection_id, chunk_index, content) "
                                    f"VALUES ('ä', {n}, '\\')"))
        for _ in range(200):
            assert not wire.errors(session.read_until())
        assert session.rows("SELECT string_agg(chunk_index::text, ' ' ORDER BY id) FROM chunks") == [
            [" ".join(map(str, range(200)))]]
