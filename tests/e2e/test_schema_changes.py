"""Statements right behind DDL that went through the proxy: they are judged by the columns of after, not by
those of before; and where nobody but the server can know these, without them or not at all."""

import pytest

from lib import common, schema, wire
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

DATABASE = "changing"
NEW = "INSERT INTO chunks VALUES ({id}, 'a', 4711, 1, 'x', NULL, now(){more}) RETURNING partition_key{names}"
DROPPED = "ALTER TABLE chunks DROP COLUMN document_id"


@pytest.fixture(scope="module")
def proxy(server):
    schema.create_database(server, DATABASE)
    schema.create_chunks(server, "trigger", DATABASE)
    instance = Proxy(server, rules=[strip_rule(database=DATABASE)],
                     control=f"host={server.host} port={server.port} user=pgsluice dbname={DATABASE}").start()
    yield instance
    assert instance.stop() == 0


def reread(connection):
    """DDL that changes nothing, so that the catalog is read after what the test did past the proxy."""
    assert not wire.errors(connection.query("ALTER TABLE chunks ALTER content SET STORAGE extended"))


@pytest.fixture
def session(server, proxy):
    with wire.connect(proxy, database=DATABASE) as connection:
        schema.create_chunks(server, "trigger", DATABASE)
        reread(connection)
        yield connection
        connection.query("ROLLBACK")
        assert schema.wrong_keys(server, DATABASE) == 0


def changes():
    """DDL and an INSERT of all columns that there are then, in turns."""
    yield DROPPED, NEW.format(id=1, more="", names="")
    yield "ALTER TABLE chunks ADD COLUMN one text", NEW.format(id=2, more=", 'o'", names=", one")
    yield "ALTER TABLE chunks RENAME one TO two", NEW.format(id=3, more=", 'o'", names=", two")
    yield "ALTER TABLE chunks DROP COLUMN two, ADD two int", NEW.format(id=4, more=", 2", names=", two")


WANTED = [["57"], ["57", "o"], ["57", "o"], ["57", "2"]]


def test_the_session_that_changed_the_table_goes_on_at_once(session):
    assert [(session.query(change), session.rows(insert))[1][0]
            for change, insert in changes()] == WANTED


def test_all_in_one_go(session):
    session.send(*(wire.Query(text) for pair in changes() for text in pair))
    found = []
    for _ in WANTED:
        answers = session.read_until() + session.read_until()
        assert not wire.errors(answers), answers
        found += [[value.decode() for value in answer.values()] for answer in answers if answer.kind == "D"]
    assert found == WANTED


def test_another_session_goes_on_at_once(session, proxy):
    with wire.connect(proxy, database=DATABASE) as other:
        assert [(session.query(change), other.rows(insert))[1][0]
                for change, insert in changes()] == WANTED


def refusal(answers):
    failed = [answer.fields() for answer in answers if answer.kind == "E"]
    assert [fields["C"] for fields in failed] == ["428C9"], answers
    assert failed[0]["H"] == "Write a column list, or commit the change of the table first."
    return failed[0]["D"]


@pytest.mark.parametrize("text", [NEW.format(id=1, more="", names=""), "COPY chunks FROM STDIN"])
def test_in_the_same_transaction_a_column_list_is_needed(session, text):
    session.query("BEGIN")
    session.query(DROPPED)
    assert "its table was changed just before it" in refusal(session.query(text))
    session.query("ROLLBACK; BEGIN")
    session.query(DROPPED)
    assert session.rows("INSERT INTO chunks (collection_id, partition_key, chunk_index, content)"
                        " VALUES ('a', 4711, 1, 'x') RETURNING partition_key") == [["57"]]
    session.query("COMMIT")
    assert session.rows(NEW.format(id=9, more="", names="")) == [["57"]]


def test_in_the_same_text_too(session):
    refusal(session.query(f"{DROPPED}; {NEW.format(id=1, more='', names='')}"))


def test_in_the_same_batch_too(session):
    session.send(wire.Parse("", DROPPED), wire.Bind("", ""), wire.Execute(""),
                 wire.Parse("", NEW.format(id=1, more="", names="")), wire.Bind("", ""), wire.Execute(""),
                 wire.Sync())
    refusal(session.read_until())


def test_a_star_in_the_same_transaction_is_the_servers(session):
    """In a Parse it is written out otherwise."""
    session.query("BEGIN")
    session.query("ALTER TABLE chunks DROP COLUMN document_id, ADD COLUMN extra int")
    session.send(wire.Parse("", "SELECT * FROM chunks"), wire.Describe("S", ""), wire.Sync())
    described = next(answer for answer in session.read_until() if answer.kind == "T")
    assert [name for name, _, _ in described.columns()] == [
        "id", "collection_id", "partition_key", "chunk_index", "content", "metadata", "created_at", "extra"]


def test_a_generated_column_is_guarded_by_the_server_meanwhile(session, server):
    if common.pg_major() < 12:
        pytest.skip("generated columns need PostgreSQL 12 or newer")
    schema.create_chunks(server, "generated", DATABASE)
    reread(session)
    session.query("BEGIN")
    session.query("ALTER TABLE chunks RENAME content TO body")
    insert = "INSERT INTO chunks VALUES (1, 'a', {key}, NULL, 1, 'x') RETURNING partition_key"
    assert session.rows(insert.format(key="DEFAULT")) == [["57"]]
    answers = session.query(insert.format(key="4711"))
    assert wire.errors(answers) == ["428C9"] and "pgsluice" not in str(answers)


def test_what_cannot_be_read_again_is_not_waited_for_without_end(session, server):
    """The catalog keeps what it knew of a table that is gone."""
    session.query("DROP TABLE chunks")
    assert wire.errors(session.query("INSERT INTO chunks VALUES (1)")) == ["42P01"]
    session.query("CREATE TABLE chunks (id int, collection_id text, partition_key int)")
    assert session.rows("INSERT INTO chunks VALUES (1, 'a', 7) RETURNING id") == [["1"]]
    schema.create_chunks(server, "trigger", DATABASE)
