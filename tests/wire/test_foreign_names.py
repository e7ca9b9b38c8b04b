"""Guarded names with letters beyond ASCII are other bytes in another client_encoding: there a text that may
have them is refused, and one that cannot goes on."""

import pytest

from lib import wire
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

COLUMNS = "(collection_id, partition_key) VALUES ('a', 1)"
TEXTS = {
    "table": f"INSERT INTO schlüssel {COLUMNS}",
    "folded": f"INSERT INTO SCHLüSSEL {COLUMNS}",
    "quoted": f'INSERT INTO "schlüssel" {COLUMNS}',
    "schema": f"INSERT INTO bücher.shelf {COLUMNS}",
    "view": f"INSERT INTO übersicht {COLUMNS}",
    "column": "UPDATE drawers SET größe = 1",
}
RULES = [
    strip_rule(name="table", table="public.schlüssel", expression="length(collection_id)"),
    strip_rule(name="schema", table="bücher.shelf", expression="length(collection_id)"),
    strip_rule(name="view", table="public.papers", expression="length(collection_id)"),
    strip_rule(name="column", table="public.drawers", column="größe",
               expression="length(collection_id)"),
]
TABLES = {"public.schlüssel": "partition_key", "bücher.shelf": "partition_key",
          "public.papers": "partition_key", "public.drawers": "größe"}


@pytest.fixture(scope="module")
def proxy(server):
    server.psql("CREATE SCHEMA bücher; CREATE TABLE notes (content text);"
                "CREATE FUNCTION speaks(encoding text) RETURNS text LANGUAGE sql AS "
                "$$SELECT set_config('client_encoding', encoding, false)$$;"
                "GRANT USAGE ON SCHEMA bücher TO app; GRANT ALL ON notes TO app;" + "".join(
                    f"CREATE TABLE {table} (collection_id text, {column} integer);"
                    f"GRANT ALL ON {table} TO app;" for table, column in TABLES.items())
                + "CREATE VIEW übersicht AS SELECT * FROM papers; GRANT ALL ON übersicht TO app;"
                + "INSERT INTO drawers VALUES ('a')")
    instance = Proxy(server, rules=RULES).start()
    yield instance
    assert instance.stop() == 0
    server.psql("DROP VIEW übersicht; DROP TABLE notes, schlüssel, papers, drawers;"
                "DROP SCHEMA bücher CASCADE; DROP FUNCTION speaks(text)")


def keys(server):
    """How many keys have come from a client."""
    return sum(int(server.psql(f"SELECT count({column}) FROM {table}"))
               for table, column in TABLES.items())


def send(client, text, encoding, extended):
    raw = text.encode(encoding)
    message = (wire.Parse("", raw) + wire.Bind("", "") + wire.Execute() + wire.Sync() if extended
               else wire.Query(raw))
    return wire.errors(client.send(message).read_until("Z"))


@pytest.mark.parametrize("extended", [False, True], ids=["query", "parse"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_names_are_known_in_the_servers_encoding(text, extended, server, proxy):
    with wire.connect(proxy) as client:
        assert send(client, text, "utf-8", extended) == []
    assert keys(server) == 0


@pytest.mark.parametrize("extended", [False, True], ids=["query", "parse"])
@pytest.mark.parametrize("encoding,codec", [("LATIN1", "latin-1"), ("WIN1252", "cp1252"),
                                            ("GBK", "gbk")])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_that_may_have_such_a_name_is_refused(text, encoding, codec, extended, server, proxy):
    if codec == "gbk":
        text = text.replace("größe", "grü")  # GBK has no more of it, which the proxy does not know
    with wire.connect(proxy) as client:
        client.query(f"SET client_encoding = {encoding}")
        assert send(client, text, codec, extended) == ["0A000"]
        assert send(client, "INSERT INTO notes VALUES ('plain')", codec, extended) == []
    assert keys(server) == 0


def test_a_long_text_is_refused_as_well(server, proxy):
    with wire.connect(proxy) as client:
        client.query("SET client_encoding = LATIN1")
        text = f"/*{'x' * 500_000}*/ {TEXTS['table']}"
        assert send(client, text, "latin-1", False) == ["0A000"]
        assert send(client, f"/*{'x' * 500_000}*/ SELECT 1", "latin-1", False) == []
    assert keys(server) == 0


def test_the_refusal_says_what_to_do(proxy):
    with wire.connect(proxy) as client:
        client.query("SET client_encoding = LATIN1")
        answers = client.query(TEXTS["table"].encode("latin-1"))
        said = str(next(answer for answer in answers if answer.kind == "E"))
    assert "cannot be judged in this client_encoding" in said and "Set client_encoding to UTF8" in said


def test_a_client_may_change_its_encoding_back_and_forth(server, proxy):
    with wire.connect(proxy) as client:
        for encoding, codec, expected in (("LATIN1", "latin-1", ["0A000"]), ("UTF8", "utf-8", []),
                                          ("LATIN1", "latin-1", ["0A000"])):
            client.send(wire.Query(f"SELECT speaks('{encoding}')")
                        + wire.Query(TEXTS["table"].encode(codec)))
            client.read_until("Z")
            assert wire.errors(client.read_until("Z")) == expected, encoding
    assert keys(server) == 0


def test_a_database_with_plain_names_minds_no_encoding(server):
    server.psql("CREATE TABLE plain (collection_id text, partition_key integer); GRANT ALL ON plain TO app")
    instance = Proxy(server, rules=[strip_rule(table="public.plain",
                                               expression="length(collection_id)")]).start()
    try:
        with wire.connect(instance) as client:
            client.query("SET client_encoding = LATIN1")
            text = "INSERT INTO plain (collection_id, partition_key) VALUES ('ü', 1)"
            assert send(client, text, "latin-1", True) == []
        assert server.psql("SELECT * FROM plain") == "ü|"
    finally:
        assert instance.stop() == 0
        server.psql("DROP TABLE plain")
