"""asyncpg on the drivers' tour (tour.py): always prepared and binary."""

import asyncio
import io
import json
import ssl

import asyncpg
import tour


async def connect(given):
    context = ssl.create_default_context(cafile=given["ca"]) if given["tls"] else False
    connection = await asyncpg.connect(
        host=given["host"], port=given["port"], database=given["database"], user=given["user"],
        password=given["password"], ssl=context,
        server_settings={"application_name": given["application"]})
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps,
                                    decoder=json.loads)
    return connection


async def types(connection):
    names = [*tour.VALUES, "jsonb"]
    values = [*tour.VALUES.values(), {"a": [1, None]}]
    statement = await connection.prepare(
        "SELECT " + ", ".join(f"${n}::{name}" for n, name in enumerate(names, 1)))
    for _ in range(8):
        assert list(await statement.fetchrow(*values)) == values


async def inserts(connection, tally):
    returning = " RETURNING collection_id, partition_key"
    # Without arguments: the simple protocol.
    assert await connection.execute(tour.INSERT + "VALUES ('a', 1, 1, 'x')") == "INSERT 0 1"
    tally.wrote(1)
    statement = await connection.prepare(tour.INSERT + "VALUES ($1, $2, $3, $4)" + returning)
    assert [kind.name for kind in statement.get_parameters()] == ["varchar", "int4", "int4", "text"]
    for n, (collection, key) in enumerate([("a", tour.WRONG), ("b", None), ("a", 1)]):
        assert tour.is_right([tuple(row) for row in await statement.fetch(collection, key, n, "one")])
        tally.wrote(1)
    await connection.executemany(tour.INSERT + "VALUES ($1, $2, $3, $4)", tour.rows(500))
    tally.wrote(500)
    assert await connection.copy_records_to_table(
        "chunks", records=tour.rows_without_key(1000),
        columns=tour.WITHOUT_KEY.split(", ")) == "COPY 1000"
    tally.wrote(1000, supplied=False)


async def rolls_back(connection, tally):
    try:
        async with connection.transaction():
            await connection.execute(tour.INSERT + "VALUES ($1, 1, 1, 'rolled back')", "a")
            tally.wrote(1, committed=False)
            try:
                await connection.fetch("SELECT 1/$1::int", 0)
                raise AssertionError("no error")
            except asyncpg.DivisionByZeroError:
                pass
            await connection.fetch("SELECT $1::int", 1)
        raise AssertionError("no error")
    except asyncpg.InFailedSQLTransactionError:
        pass


async def cancels(connection):
    try:
        await connection.fetch(tour.SLEEP, timeout=0.5)  # the driver sends a CancelRequest
        raise AssertionError("not cancelled")
    except asyncio.TimeoutError:
        assert await connection.fetchval("SELECT 1") == 1


async def reads_much(connection):
    assert sum(len(row[1]) for row in await connection.fetch(tour.LARGE)) == 3_000_000
    async with connection.transaction():
        rows = [row async for row in connection.cursor(tour.LARGE, prefetch=500)]
    assert len(rows) == 3000
    out = io.BytesIO()
    await connection.copy_from_query(tour.LARGE, output=out, format="binary")
    assert len(out.getvalue()) > 3_000_000


async def hears(connection):
    notices, news = [], asyncio.Queue()
    connection.add_log_listener(lambda _, message: notices.append(message.message))
    await connection.add_listener("news", lambda *args: news.put_nowait(args[3]))
    await connection.execute(tour.NOTICE)
    await connection.execute("NOTIFY news, 'extra'")
    assert await asyncio.wait_for(news.get(), 10) == "extra"
    assert notices == ["hear, hear"]


async def main():
    tally = tour.Tally()
    connection = await connect(tour.settings())
    await types(connection)
    await inserts(connection, tally)
    await rolls_back(connection, tally)
    await cancels(connection)
    await reads_much(connection)
    await hears(connection)
    await connection.reset()
    await connection.close()
    tally.report()


asyncio.run(main())
