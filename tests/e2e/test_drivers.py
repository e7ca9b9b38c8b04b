"""The drivers that applications use, through a proxy without rules: as if it were not there."""

import asyncio
import io
import json
import re
import threading

import asyncpg
import psycopg2
import psycopg2.extras
import pytest

from lib import common, drivers
from lib.pgserver import PGBENCH, PSQL

TRANSPORTS = ["tcp", "unix"]
METHODS = ["trust", "password", "md5", "scram-sha-256"]


def address(endpoint, over):
    return endpoint.socket_dir if over == "unix" else endpoint.host


def psql(endpoint, *what, over="tcp", user="postgres", password=""):
    """psql with `what` on its command line: "-c", "SELECT 1" or "-f", a file."""
    return drivers.run(
        [str(PSQL), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", address(endpoint, over),
         "-p", str(endpoint.port), "-U", user, "-d", "app", *what],
        {"PGPASSWORD": password})


def psycopg2_connect(endpoint, over="tcp", user="postgres", password=""):
    return psycopg2.connect(host=address(endpoint, over), port=endpoint.port, dbname="app",
                            user=user, password=password)


async def asyncpg_connect(endpoint, over="tcp", user="postgres", password=""):
    return await asyncpg.connect(host=address(endpoint, over), port=endpoint.port, database="app",
                                 user=user, password=password)


@pytest.fixture(params=METHODS)
def login(request, auth_roles, auth_password):
    return {"user": auth_roles[request.param], "password": auth_password}


@pytest.mark.parametrize("over", TRANSPORTS)
def test_psql_logs_in_by_every_method(proxy, login, over):
    assert psql(proxy, "-c", "SELECT current_user", over=over, **login) == login["user"] + "\n"


@pytest.mark.parametrize("over", TRANSPORTS)
def test_psycopg2_logs_in_by_every_method(proxy, login, over):
    with psycopg2_connect(proxy, over, **login) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        assert cursor.fetchone() == (login["user"],)
    connection.close()


@pytest.mark.parametrize("over", TRANSPORTS)
def test_asyncpg_logs_in_by_every_method(proxy, login, over):
    async def main():
        connection = await asyncpg_connect(proxy, over, **login)
        assert await connection.fetchval("SELECT current_user") == login["user"]
        await connection.close()

    asyncio.run(main())


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_wrong_password_is_refused_in_the_servers_words(server, proxy, auth_roles, method):
    def words(endpoint):
        with pytest.raises(psycopg2.OperationalError) as refused:
            psycopg2_connect(endpoint, user=auth_roles[method], password="wrong")
        return str(refused.value).replace(str(endpoint.port), "PORT")

    assert words(proxy) == words(server)


def test_an_unknown_database_is_refused_in_the_servers_words(proxy):
    with pytest.raises(psycopg2.OperationalError, match='database "nowhere" does not exist'):
        psycopg2.connect(**proxy.params("nowhere"))


@pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer"])
def test_clients_that_only_prefer_tls_go_on_without(proxy, sslmode):
    connection = psycopg2.connect(**proxy.params(sslmode=sslmode))
    connection.close()


@pytest.mark.proxy
def test_a_client_that_requires_tls_is_told_that_there_is_none(proxy):
    with pytest.raises(psycopg2.OperationalError, match="does not support SSL"):
        psycopg2.connect(**proxy.params(sslmode="require"))


@pytest.mark.parametrize("over", TRANSPORTS)
def test_psql_script(proxy, tmp_path, over):
    data = tmp_path / "data.csv"
    data.write_text("1,one\n2,two\n")
    script = tmp_path / "script.sql"
    script.write_text(rf"""
        CREATE TEMP TABLE t(a int, b text);
        \copy t FROM '{data}' (FORMAT csv)
        \copy t TO '{tmp_path}/out.csv' (FORMAT csv)
        \d t
        \dt chunks
        \lo_import '{data}'
        \lo_export :LASTOID '{tmp_path}/lo.csv'
        \lo_unlink :LASTOID
        BEGIN;
        SAVEPOINT s;
        \set ON_ERROR_STOP off
        SELECT 1/0;
        \set ON_ERROR_STOP on
        ROLLBACK TO s;
        COMMIT;
        LISTEN news;
        NOTIFY news, 'extra';
        SELECT n FROM generate_series(1, 3) n \gdesc
        SELECT 'SELECT ' || n FROM generate_series(1, 3) n \gexec
        SELECT count(*) FROM t;
    """)
    output = psql(proxy, "-f", str(script), over=over)
    assert (tmp_path / "out.csv").read_text() == data.read_text()
    assert (tmp_path / "lo.csv").read_text() == data.read_text()
    assert output.endswith("n|integer\n1\n2\n3\n2\n")
    assert 'Asynchronous notification "news" with payload "extra" received' in output


@pytest.fixture(scope="module")
def pgbench_tables(proxy):
    drivers.run([str(PGBENCH), "-h", proxy.host, "-p", str(proxy.port), "-U", "postgres",
                 "-i", "-q", "-s", "1", "app"])


PIPELINE = r"""
\set aid random(1, 100000)
\startpipeline
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
\endpipeline
"""


@pytest.mark.parametrize("over", TRANSPORTS)
@pytest.mark.parametrize("mode", ["simple", "extended", "prepared", "pipeline"])
def test_pgbench(proxy, pgbench_tables, tmp_path, mode, over):
    options = ["-M", mode, "-b", "tpcb-like"]
    if mode == "pipeline":
        script = tmp_path / "pipeline.sql"
        script.write_text(PIPELINE)
        options = ["-M", "extended", "-f", str(script)]
    output = drivers.run(
        [str(PGBENCH), "-h", address(proxy, over), "-p", str(proxy.port), "-U", "postgres",
         "-n", "-c", "8", "-j", "2", "-t", "40", *options, "app"])
    assert "number of transactions actually processed: 320/320" in output
    assert "number of failed transactions: 0 (0.000%)" in output


@pytest.mark.parametrize("over", TRANSPORTS)
def test_psycopg2(proxy, over):
    connection = psycopg2_connect(proxy, over)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE t(a int, b text)")
        psycopg2.extras.execute_values(cursor, "INSERT INTO t VALUES %s",
                                       [(n, f"row {n}") for n in range(1000)])
        cursor.copy_expert("COPY t FROM STDIN", io.StringIO("1000\tcopied\n" * 5000))
        out = io.StringIO()
        cursor.copy_expert("COPY t TO STDOUT (FORMAT csv)", out)
        assert out.getvalue().count("\n") == 6000
        cursor.execute("DO $$ BEGIN RAISE NOTICE 'hear, hear'; END $$")
        assert connection.notices == ["NOTICE:  hear, hear\n"]
    connection.commit()
    with connection.cursor("on_the_server") as cursor:
        cursor.itersize = 100
        cursor.execute("SELECT a FROM t")
        assert sum(1 for _ in cursor) == 6000
    connection.commit()
    with connection.cursor() as cursor:
        with pytest.raises(psycopg2.errors.DivisionByZero):
            cursor.execute("SELECT 1/0")
        with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
            cursor.execute("SELECT 1")
    connection.rollback()
    large = connection.lobject()
    large.write(b"x" * 100000)
    large.seek(0)
    assert len(large.read()) == 100000
    large.unlink()
    connection.commit()
    connection.close()


def test_psycopg2_hears_notifications_of_another_session(proxy):
    listener, speaker = psycopg2_connect(proxy), psycopg2_connect(proxy)
    for connection in (listener, speaker):
        connection.autocommit = True
    listener.cursor().execute("LISTEN news")
    speaker.cursor().execute("NOTIFY news, 'extra'")

    def heard():
        listener.poll()
        return listener.notifies

    assert common.wait_until(heard, 5, "the notification")[0].payload == "extra"
    listener.close()
    speaker.close()


@pytest.mark.parametrize("over", TRANSPORTS)
def test_psycopg2_cancels(proxy, server, over):
    connection = psycopg2_connect(proxy, over)
    pid = connection.get_backend_pid()

    def cancel_when_it_sleeps():
        common.wait_until(lambda: server.backends(f"pid = {pid} AND wait_event = 'PgSleep'"))
        connection.cancel()

    thread = threading.Thread(target=cancel_when_it_sleeps)
    thread.start()
    with connection.cursor() as cursor:
        with pytest.raises(psycopg2.errors.QueryCanceled):
            cursor.execute("SELECT pg_sleep(30)")
        thread.join()
        connection.rollback()
        cursor.execute("SELECT 1")
    connection.close()


@pytest.mark.parametrize("over", TRANSPORTS)
def test_asyncpg(proxy, over):
    async def main():
        connection = await asyncpg_connect(proxy, over)
        notices, news = [], []
        connection.add_log_listener(lambda _, message: notices.append(message.message))
        await connection.add_listener("news", lambda *args: news.append(args[3]))
        await connection.execute("CREATE TEMP TABLE t(a int, b text, j jsonb)")
        await connection.executemany("INSERT INTO t VALUES ($1, $2, $3)",
                                     [(n, f"row {n}", json.dumps({"n": n})) for n in range(500)])
        await connection.copy_records_to_table("t", records=[(n, None, None) for n in range(500)])
        out = io.BytesIO()
        await connection.copy_from_query("SELECT * FROM t", output=out, format="csv")
        assert out.getvalue().count(b"\n") == 1000
        statement = await connection.prepare("SELECT a, b FROM t WHERE a = $1 AND b IS NOT NULL")
        for n in range(20):
            assert tuple(await statement.fetchrow(n)) == (n, f"row {n}")
        async with connection.transaction():
            rows = [row async for row in connection.cursor("SELECT a FROM t", prefetch=50)]
        assert len(rows) == 1000
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connection.fetch("SELECT 1/0")
        with pytest.raises(asyncio.TimeoutError):  # the driver sends a CancelRequest
            await connection.fetch("SELECT pg_sleep(30)", timeout=0.3)
        await connection.execute("DO $$ BEGIN RAISE NOTICE 'hear, hear'; END $$")
        await connection.execute("NOTIFY news, 'extra'")
        await connection.execute("SELECT 1")
        assert notices == ["hear, hear"]
        assert news == ["extra"]
        await connection.reset()
        await connection.close()

    asyncio.run(main())


def test_asyncpg_pool_opens_and_closes_many_sessions(proxy, server):
    sessions = len(server.backends())

    async def main():
        async with asyncpg.create_pool(host=proxy.host, port=proxy.port, database="app",
                                       user="postgres", min_size=5, max_size=30) as pool:
            answers = await asyncio.gather(*(pool.fetchval("SELECT $1::int", n)
                                             for n in range(500)))
            assert answers == list(range(500))

    asyncio.run(main())
    server.wait_for_backends(sessions)


@pytest.mark.parametrize("over", TRANSPORTS)
def test_node_postgres(proxy, over):
    assert drivers.node("relay", proxy, over) == {"ok": True}


def test_node_postgres_logs_in_by_every_method(proxy, login):
    assert drivers.node("relay", proxy, **login) == {"ok": True}


def test_jdbc(proxy):
    assert drivers.jdbc("relay", proxy) == {"ok": "yes"}


def test_jdbc_logs_in_by_every_method(proxy, login):
    if login["user"].endswith("trust"):
        pytest.skip("covered by test_jdbc")
    assert drivers.jdbc("relay", proxy, **login) == {"ok": "yes"}


@pytest.mark.skipif(common.pg_major() > 15, reason="pg_dump 15 refuses newer servers")
def test_pg_dump_and_restore_through_the_proxy(proxy, tmp_path):
    dump = drivers.run([str(PSQL.parent / "pg_dump"), "-t", "chunks", proxy.dsn()])
    assert "CREATE TABLE public.chunks" in dump
    restored = re.sub(r"public\.", "restored.", dump)
    script = tmp_path / "restore.sql"
    script.write_text("DROP SCHEMA IF EXISTS restored CASCADE; CREATE SCHEMA restored;\n"
                      "CREATE FUNCTION restored.compute_partition_key() RETURNS trigger"
                      " LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';\n" + restored)
    psql(proxy, "-f", str(script))
    psql(proxy, "-c", "DROP SCHEMA restored CASCADE")
