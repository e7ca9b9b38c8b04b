"""The shape of the original application: a table PARTITION BY LIST (partition_key) with a partition for
each value, which neither a trigger nor a generated column can serve. Under mode compute, clients may omit
the key or get it wrong, on every road."""

import asyncio
import io

import asyncpg
import psycopg2
import psycopg2.extras
import pytest

from lib import common, schema
from lib.pgserver import Server
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

# partitions: (expression, first value, last value)
SHAPES = {
    100: ("abs(mod(hashtext(collection_id::text), 100))", 0, 99),
    199: ("mod(hashtext(collection_id::text), 100)", -99, 99),
}
ROWS = 600  # of as many collections: nearly every partition gets some
WRONG = 7  # a key that some partition takes


@pytest.fixture(scope="module", params=[None, 18], ids=["tested", "18"])
def cluster(request, server):
    if request.param in (None, common.pg_major()):
        if request.param is not None:
            pytest.skip("the tested server is that one")
        yield server
        return
    instance = Server(major=request.param).start()
    yield instance
    instance.stop()


@pytest.fixture(scope="module", params=SHAPES)
def partitioned(request, cluster):
    database = f"partitions_{request.param}"
    expression, first, last = SHAPES[request.param]
    schema.create_database(cluster, database)
    schema.create_chunks(cluster, "partitioned", database)
    schema.create_partitions(cluster, first, last, database)
    proxy = Proxy(
        cluster, rules=[strip_rule("compute", database=database, expression=expression)],
        control=f"host={cluster.host} port={cluster.port} user=pgsluice dbname={database}").start()
    yield proxy, database, request.param
    assert proxy.stop() == 0


def by_simple_statements(proxy, database, key):
    connection = psycopg2.connect(**proxy.params(database, user="app"))
    with connection, connection.cursor() as cursor:
        for n in range(ROWS):
            cursor.execute(*insert([f"c{n}", n, "it's"], key))
    connection.close()


def by_many_rows(proxy, database, key):
    connection = psycopg2.connect(**proxy.params(database, user="app"))
    columns, _ = row_of([], key)
    rows = [row_of([f"c{n}", n, "many"], key)[1] for n in range(ROWS)]
    with connection, connection.cursor() as cursor:
        psycopg2.extras.execute_values(cursor, f"INSERT INTO chunks ({columns}) VALUES %s", rows,
                                       page_size=200)
    connection.close()


def by_prepared_statement(proxy, database, key):
    columns, row = row_of(["c", 1, "x"], key)

    async def main():
        connection = await asyncpg.connect(host=proxy.host, port=proxy.port, database=database, user="app")
        places = ", ".join(f"${at + 1}" for at in range(len(row)))
        await connection.executemany(f"INSERT INTO chunks ({columns}) VALUES ({places})",
                                     [row_of([f"c{n}", n, "x"], key)[1] for n in range(ROWS)])
        await connection.close()

    asyncio.run(main())


def by_copy(proxy, database, key):
    connection = psycopg2.connect(**proxy.params(database, user="app"))
    columns, _ = row_of([], key)
    lines = ["\t".join(map(str, row_of([f"c{n}", n, "copied"], key)[1])) for n in range(ROWS)]
    with connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY chunks ({columns}) FROM STDIN", io.StringIO("\n".join(lines)))
    connection.close()


def row_of(values, key):
    """The columns' names and a row, the key in front of them if it is to be there."""
    names = "collection_id, chunk_index, content"
    return (names, values) if key is None else ("partition_key, " + names, [key, *values])


def insert(values, key):
    columns, row = row_of(values, key)
    return f"INSERT INTO chunks ({columns}) VALUES ({', '.join(['%s'] * len(row))})", row


@pytest.mark.parametrize("key", [None, WRONG], ids=["omitted", "wrong"])
@pytest.mark.parametrize("write", [by_simple_statements, by_many_rows, by_prepared_statement, by_copy],
                         ids=lambda way: way.__name__)
def test_rows_go_where_the_expression_says(cluster, partitioned, write, key):
    proxy, database, partitions = partitioned
    write(proxy, database, key)
    expression = SHAPES[partitions][0]
    found = cluster.psql(
        f"SELECT count(*), count(*) FILTER (WHERE partition_key = {expression}), count(DISTINCT tableoid),"
        " count(DISTINCT collection_id) FROM chunks", dbname=database).split("|")
    cluster.psql("DELETE FROM chunks", dbname=database)
    assert [found[0], found[1], found[3]] == [str(ROWS)] * 3
    assert int(found[2]) > 0.8 * partitions


def test_without_the_proxy_the_same_insert_fails(cluster, partitioned):
    _, database, _ = partitioned
    with psycopg2.connect(**cluster.params(database, user="app")) as connection, \
            connection.cursor() as cursor, pytest.raises(psycopg2.errors.CheckViolation):
        cursor.execute(*insert(["c1", 1, "x"], None))
