"""on_mismatch = reject beside mode = compute: a wrong key is refused, a right one computed again."""

import pytest

from lib import schema, wire
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

DATABASE = "compute_mismatch"
INSERT = "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) VALUES "
COPY = "COPY chunks (collection_id, partition_key, chunk_index, content) FROM STDIN"
KEYS = {"a": 57, "coll-0": -24, "b": -88, "café": 54, "": -71}  # facts of PostgreSQL 11 to 18


@pytest.fixture(scope="module")
def proxy(server):
    schema.create_database(server, DATABASE)
    schema.create_chunks(server, "partitioned", DATABASE)
    schema.create_partitions(server, -99, 99, DATABASE)
    instance = Proxy(
        server, rules=[strip_rule("compute", database=DATABASE, on_mismatch="reject")],
        control=f"host={server.host} port={server.port} user=pgsluice dbname={DATABASE}").start()
    yield instance
    assert instance.stop() == 0


@pytest.fixture
def session(server, proxy):
    with wire.connect(proxy, database=DATABASE) as session:
        yield session
    assert schema.wrong_keys(server, DATABASE) == 0
    server.psql("DELETE FROM chunks", DATABASE)


def assert_refused(messages, expected, row=""):
    error, = [message for message in messages if message.kind == "E"]
    assert error.sqlstate == "428C9"
    assert f'"partition_key"{row} is not the one that it is computed to' in error.fields()["M"]
    assert f"computed, to {expected} here" in error.fields()["D"]


def execute(session, *values):
    session.send(wire.Parse("", INSERT + "($1, $2, 1, 'x')"), wire.Bind("", "", list(values)),
                 wire.Execute(), wire.Sync())
    return session.read_until()


def copy(session, rows):
    data = "".join(f"{name}\t{key}\t1\tx\n" for name, key in rows).encode()
    session.send(wire.Query(COPY), wire.CopyData(data), wire.CopyDone())
    return session.read_until()


def test_statements(session):
    for name, key in KEYS.items():
        session.rows(INSERT + f"('{name}', {key}, 1, 'x')")
        assert_refused(session.query(INSERT + f"('{name}', {key + 1}, 1, 'x')"), key)
        assert not wire.errors(execute(session, name, key))
        assert_refused(execute(session, name, key + 1), key)
    assert_refused(session.query("UPDATE chunks SET collection_id = 'a', partition_key = 5"), 57)
    assert session.rows("SELECT count(*) FROM chunks") == [[str(2 * len(KEYS))]]


def test_bulk_loads(session):
    rows = [f"('a', {57 if n != 300 else 1}, {n}, 'x')" for n in range(500)]
    assert_refused(session.query(INSERT + ", ".join(rows)), 57, " of row 301")
    del rows[300]
    session.rows(INSERT + ", ".join(rows))
    assert session.rows("SELECT count(*) FROM chunks") == [["499"]]


def test_copy(proxy, session):
    assert_refused(copy(session, [("a", 57), ("b", 88)]), -88, " of row 2")
    assert not wire.errors(copy(session, KEYS.items()))
    assert session.rows("SELECT count(*) FROM chunks") == [[str(len(KEYS))]]
    refused, loaded = proxy.wait_for_audit(2, event="copied")
    assert (refused["verdict"], refused["matched"], refused["mismatched"]) == ("refused", 1, 1)
    assert (loaded["verdict"], loaded["matched"], loaded["mismatched"]) == ("computed", 5, 0)
