"""Mode compute over a flip from LIST (partition_key) to HASH (collection_id) and back: prepared statements of open
sessions are made anew behind their clients' backs."""

import json

import pytest

from lib import common, schema, wire
from lib.pgserver import Server
from lib.proxy import Proxy, strip_rule

from test_ledger import execute_all, is_generated, prepare_all, run

pytestmark = [
    pytest.mark.proxy,
    pytest.mark.skipif(common.pg_major() < 12, reason="generated columns need PostgreSQL 12"),
]

BASE_ROWS = 500
SWAP = ["cutover", "chunks", "--yes", "--strategy", "swap", "--max-hold", "2s"]
BACK = ["rollback", "chunks"]


@pytest.fixture(scope="module")
def own_server():
    instance = Server().start()
    schema.create_database(instance)
    instance.psql("GRANT pg_read_all_stats TO pgsluice")
    yield instance
    instance.stop()


@pytest.fixture
def table(own_server):
    own_server.psql("DROP SCHEMA IF EXISTS pgsluice CASCADE; DROP TABLE IF EXISTS"
                    " chunks_pgsluice_new, chunks_pgsluice_old CASCADE", dbname="app")
    schema.create_chunks(own_server, "partitioned")
    own_server.psql("ALTER TABLE chunks_0 OWNER TO pgsluice; ALTER TABLE chunks_rest OWNER TO pgsluice")
    own_server.psql(
        "INSERT INTO chunks (collection_id, partition_key, document_id, chunk_index, content)"
        f" SELECT c, {schema.KEY.replace('collection_id', 'c')}, 'base', n, 'x'"
        f" FROM generate_series(1, {BASE_ROWS}) n, format('collection %s', n % 37) c; ANALYZE chunks")
    return own_server


@pytest.fixture
def front(table):
    instance = Proxy(table, rules=[strip_rule("compute")]).start()
    yield instance
    instance.stop()


def flip(proxy, server):
    """There, or back."""
    forward = not is_generated(server)
    run(proxy, *(SWAP if forward else BACK))
    assert is_generated(server) == forward


def test_prepared_statements_outlive_the_flip_and_its_rollback(table, front):
    failures = []
    with wire.connect(front, user="app") as session:
        prepare_all(session)
        failures += execute_all(session, "before")
        flip(front, table)
        failures += execute_all(session, "after the swap")
        failures += execute_all(session, "after the swap, again")
        flip(front, table)
        failures += execute_all(session, "after the rollback")
        flip(front, table)
        failures += execute_all(session, "after the second swap")
    with wire.connect(front, user="app") as session:
        prepare_all(session)
        failures += execute_all(session, "prepared after the swap")
        flip(front, table)
        failures += execute_all(session, "prepared after the swap, after the rollback")
    assert not failures, "\n".join(failures)
    assert schema.wrong_keys(table) == 0
