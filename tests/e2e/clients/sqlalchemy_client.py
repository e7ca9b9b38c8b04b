"""SQLAlchemy on the drivers' tour (tour.py), Core and ORM, over psycopg2 or over asyncpg.

A second argument names the driver below it. The model knows the key as a plain column, as the
models of applications that compute it themselves do.
"""

import asyncio
import ssl
import sys

import sqlalchemy as sa
import tour
from sqlalchemy import orm
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

Base = orm.declarative_base()


class Chunk(Base):
    __tablename__ = "chunks"
    id = sa.Column(sa.BigInteger, primary_key=True)
    collection_id = sa.Column(sa.String, nullable=False)
    partition_key = sa.Column(sa.Integer)
    chunk_index = sa.Column(sa.Integer, nullable=False)
    content = sa.Column(sa.Text, nullable=False)
    created_at = sa.Column(sa.DateTime(timezone=True), server_default=sa.func.now())


def chunk(row):
    return dict(zip(["collection_id", "partition_key", "chunk_index", "content"], row))


def types(connection):
    bound = [sa.bindparam(f"p{n}", value, sa_type) for n, (value, sa_type) in enumerate([
        (tour.VALUES["int4"], sa.Integer), (tour.VALUES["int8"], sa.BigInteger),
        (tour.VALUES["text"], sa.Text), (tour.VALUES["bool"], sa.Boolean),
        (tour.VALUES["float8"], sa.Float), (tour.VALUES["numeric"], sa.Numeric),
        (tour.VALUES["date"], sa.Date), (tour.VALUES["timestamptz"], sa.DateTime(timezone=True)),
        (tour.VALUES["bytea"], sa.LargeBinary), (tour.VALUES["varchar"], sa.String)])]
    row = connection.execute(sa.select(*(sa.cast(one, one.type) for one in bound))).one()
    assert list(row) == [one.value for one in bound], row


def core(connection, tally):
    table = Chunk.__table__
    for row in [("a", tour.WRONG, 1, "core"), ("b", None, 2, "core")]:
        returned = connection.execute(table.insert().values(chunk(row)).returning(
            table.c.collection_id, table.c.partition_key)).all()
        assert tour.is_right(returned)
        tally.wrote(1)
    connection.execute(table.insert(), [chunk(row) for row in tour.rows(300)])
    tally.wrote(300)
    connection.execute(table.insert().values([chunk(row) for row in tour.rows(50)]))
    tally.wrote(50)
    connection.commit()


def by_orm(connection, tally):
    with orm.Session(connection, future=True) as session:
        one = Chunk(**chunk(("b", tour.WRONG, 1, "orm")))
        session.add(one)
        session.flush()
        tally.wrote(1)
        session.refresh(one)
        assert one.id and one.created_at and one.partition_key == tour.KEYS["b"]
        session.add_all([Chunk(**chunk(row)) for row in tour.rows(100)])
        session.flush()
        tally.wrote(100)
        # An UPDATE that leaves the key alone; the unit of work names only what has changed.
        one.content = "changed"
        session.commit()
        assert session.query(Chunk).filter_by(content="changed").one().partition_key == tour.KEYS["b"]
        returned = session.execute(sa.insert(Chunk).values(chunk(("a", 1, 1, "orm")))
                                   .returning(Chunk.collection_id, Chunk.partition_key)).all()
        assert tour.is_right(returned)
        tally.wrote(1)
        session.commit()


def rolls_back(connection, tally):
    connection.execute(Chunk.__table__.insert().values(chunk(("a", 1, 1, "rolled back"))))
    tally.wrote(1, committed=False)
    with connection.begin_nested() as savepoint:
        try:
            connection.execute(sa.text("SELECT 1/0"))
            raise AssertionError("no error")
        except sa.exc.DBAPIError as error:
            assert "division by zero" in str(error)
        savepoint.rollback()
    assert connection.execute(sa.text("SELECT 1")).scalar() == 1
    connection.rollback()


def reads_much(connection):
    result = connection.execution_options(stream_results=True).execute(sa.text(tour.LARGE))
    assert sum(len(row[1]) for row in result) == 3_000_000
    connection.rollback()


def walk(connection, tally):
    types(connection)
    core(connection, tally)
    by_orm(connection, tally)
    rolls_back(connection, tally)
    reads_much(connection)


def url(given, driver):
    return URL.create(f"postgresql+{driver}", given["user"], given["password"], given["host"],
                      given["port"], given["database"])


def over_psycopg2(given, tally):
    params = tour.libpq_params(given)
    connect_args = {key: params[key] for key in params if key.startswith(("ssl", "app"))}
    engine = sa.create_engine(url(given, "psycopg2"), connect_args=connect_args, future=True,
                              executemany_mode="values_plus_batch")
    with engine.connect() as connection:
        walk(connection, tally)
    engine.dispose()


async def over_asyncpg(given, tally):
    context = ssl.create_default_context(cafile=given["ca"]) if given["tls"] else False
    engine = create_async_engine(url(given, "asyncpg"), connect_args={
        "ssl": context, "server_settings": {"application_name": given["application"]}})
    async with engine.connect() as connection:
        await connection.run_sync(walk, tally)
    await engine.dispose()


def main():
    given = tour.settings()
    tally = tour.Tally()
    if sys.argv[2] == "asyncpg":
        asyncio.run(over_asyncpg(given, tally))
    else:
        over_psycopg2(given, tally)
    tally.report()


main()
