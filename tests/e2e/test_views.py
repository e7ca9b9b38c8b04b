"""Writes that reach the guarded table by another name: views, views over views, rules, triggers in their
place, partitions and children. What the catalog knows of them decides what becomes of the column."""

import io

import psycopg2
import psycopg2.errors
import pytest

from lib import common, schema
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.proxy

VIEWS = r"""
CREATE VIEW light AS SELECT id, collection_id, chunk_index, content FROM chunks;
CREATE VIEW "Renamed {TARGETENTRY" AS SELECT c.id, c.partition_key AS "p k :resno 9", c.collection_id AS
    coll, c.chunk_index, c.content, length(c.content) AS partition_key
    FROM chunks c WHERE c.partition_key IN (SELECT k.partition_key FROM chunks k) OR c.id > 0;
CREATE VIEW over (content, key, chunk_index, collection_id) AS
    SELECT content, "p k :resno 9", chunk_index, coll FROM "Renamed {TARGETENTRY";
CREATE VIEW over_light AS SELECT * FROM light;

CREATE VIEW by_trigger AS SELECT id, partition_key, collection_id, chunk_index, content FROM chunks;
CREATE FUNCTION by_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chunks (collection_id, chunk_index, content)
    VALUES (NEW.collection_id, NEW.chunk_index, NEW.content);
    RETURN NEW;
END $$;
CREATE TRIGGER by_trigger INSTEAD OF INSERT ON by_trigger FOR EACH ROW EXECUTE FUNCTION by_trigger();
CREATE VIEW by_opaque_trigger AS SELECT id, collection_id, chunk_index, content, 4711 AS pk FROM chunks;
CREATE FUNCTION by_opaque_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chunks (collection_id, PARTITION_KEY, chunk_index, content)
    VALUES (NEW.collection_id, NEW.pk, NEW.chunk_index, NEW.content);
    RETURN NEW;
END $$;
CREATE TRIGGER by_opaque_trigger INSTEAD OF INSERT ON by_opaque_trigger
    FOR EACH ROW EXECUTE FUNCTION by_opaque_trigger();
CREATE VIEW over_opaque AS SELECT collection_id, chunk_index, content FROM by_opaque_trigger;

CREATE TABLE feed (collection_id text, chunk_index int, content text, partition_key int);
CREATE RULE feed AS ON INSERT TO feed DO INSTEAD
    INSERT INTO chunks (collection_id, chunk_index, content)
    VALUES (NEW.collection_id, NEW.chunk_index, NEW.content);
CREATE TABLE opaque_feed (collection_id text, chunk_index int, content text, pk int);
CREATE RULE feed AS ON INSERT TO opaque_feed DO INSTEAD
    INSERT INTO chunks (collection_id, chunk_index, content, partition_key)
    VALUES (NEW.collection_id, NEW.chunk_index, NEW.content, DEFAULT);
CREATE TABLE feed_of_a_view (key int, collection_id text, chunk_index int, content text);
CREATE RULE feed AS ON INSERT TO feed_of_a_view DO INSTEAD
    INSERT INTO over VALUES (NEW.content, NEW.key, NEW.chunk_index, NEW.collection_id);
"""
VALUES = "('a', 1, 'x')"
COLUMNS = "collection_id, chunk_index, content"


@pytest.fixture(scope="module", params=["trigger", "generated", "hashed"])
def database(request, server):
    if request.param != "trigger" and common.pg_major() < 12:
        pytest.skip("generated columns need PostgreSQL 12 or newer")
    name = f"views_{request.param}"
    schema.create_database(server, name)
    schema.create_chunks(server, request.param, name)
    views = VIEWS
    if request.param != "trigger":
        # A rule that gives a generated column DEFAULT is one that PostgreSQL takes.
        views = views.replace("(NEW.content, NEW.key,", "(NEW.content, DEFAULT,")
    if request.param != "hashed":
        views += "CREATE TABLE chunks_child () INHERITS (chunks);"
    server.psql(views, dbname=name)
    return name


@pytest.fixture(scope="module")
def proxy(server, database):
    instance = Proxy(
        server, rules=[strip_rule(database=database)],
        control=f"host={server.host} port={server.port} user=pgsluice dbname={database}").start()
    yield instance
    assert instance.stop() == 0


@pytest.fixture
def cursor(server, proxy, database):
    schema.clear_chunks(server, database)
    connection = psycopg2.connect(proxy.dsn(database))
    connection.autocommit = True
    with connection.cursor() as cursor:
        yield cursor
    connection.close()
    assert schema.wrong_keys(server, database) == 0


def stored(cursor):
    cursor.execute("SELECT collection_id, chunk_index, content FROM chunks ORDER BY id")
    return cursor.fetchall()


RENAMED = '"Renamed {TARGETENTRY"'


@pytest.mark.parametrize("statement", [
    f"INSERT INTO light ({COLUMNS}) VALUES {VALUES}",
    f"INSERT INTO over_light ({COLUMNS}) VALUES {VALUES}",
    f"INSERT INTO {RENAMED} (coll, chunk_index, content) VALUES {VALUES}",
    f'INSERT INTO public.{RENAMED} (coll, "p k :resno 9", chunk_index, content) VALUES (\'a\', 4711, 1, \'x\')',
    f"INSERT INTO {RENAMED} VALUES (DEFAULT, 4711, 'a', 1, 'x')",
    "INSERT INTO over VALUES ('x', 4711, 1, 'a')",
    "INSERT INTO over (content, key, chunk_index, collection_id) SELECT 'x', 4711, 1, 'a'",
    f"INSERT INTO by_trigger ({COLUMNS}) VALUES {VALUES}",
    f"INSERT INTO by_trigger ({COLUMNS}, partition_key) VALUES ('a', 1, 'x', 4711)",
    f"INSERT INTO feed ({COLUMNS}) VALUES {VALUES}",
    f"INSERT INTO feed VALUES ('a', 1, 'x', 4711)",
])
def test_a_row_arrives_and_the_key_does_not(cursor, statement):
    cursor.execute(statement)
    assert stored(cursor) == [("a", 1, "x")]


@pytest.mark.parametrize("statement", [
    'UPDATE {view} SET "p k :resno 9" = 4711, content = \'y\'',
    'UPDATE {view} AS "v w" SET "p k :resno 9" = 4711',
    'UPDATE {view} SET ("p k :resno 9", content) = (4711, \'y\')',
])
def test_an_update_through_a_view(cursor, statement):
    cursor.execute(f"INSERT INTO light ({COLUMNS}) VALUES {VALUES}")
    cursor.execute(statement.format(view=RENAMED))
    assert cursor.rowcount == 1
    assert stored(cursor) == [("a", 1, "y" if "'y'" in statement else "x")]


@pytest.mark.parametrize("relation", ["by_opaque_trigger", "over_opaque", "opaque_feed", "feed_of_a_view"])
def test_what_cannot_be_known_is_refused_before_the_cutover(cursor, database, relation):
    statement = f"INSERT INTO {relation} ({COLUMNS}) VALUES {VALUES}"
    if database == "views_trigger":
        with pytest.raises(psycopg2.errors.GeneratedAlways) as refused:
            cursor.execute(statement)
        assert f'through "{relation}" it may write the column' in refused.value.diag.message_detail
        assert refused.value.diag.message_hint == (
            'Write to table "public.chunks" itself, and leave the column out.')
    elif relation.endswith("opaque_trigger") or relation == "over_opaque":
        # The server's own refusal of what the trigger does.
        with pytest.raises(psycopg2.errors.GeneratedAlways) as refused:
            cursor.execute(statement)
        assert "pgsluice" not in str(refused.value)
    else:
        cursor.execute(statement)
        assert stored(cursor) == [("a", 1, "x")]


def test_a_partition_and_a_child(server, proxy, database, cursor):
    if database == "views_hashed":
        [part] = [part for part in range(4) if server.psql(
            f"SELECT satisfies_hash_partition('chunks'::regclass, 4, {part}, 'a'::varchar)",
            dbname=database) == "t"]
        relation = f"chunks_{part}"
    else:
        relation = "chunks_child"
    statement = f"INSERT INTO {relation} VALUES (DEFAULT, 'a', 4711, NULL, 1, 'x')"
    if database == "views_trigger":
        with pytest.raises(psycopg2.errors.GeneratedAlways, match="cannot be taken out") as refused:
            cursor.execute(statement)
        assert 'nothing computes the column for "chunks_child"' in refused.value.diag.message_detail
        return
    cursor.execute(statement)
    assert stored(cursor) == [("a", 1, "x")]


def test_a_merge_through_a_view(cursor):
    if common.pg_major() < 17:
        pytest.skip("MERGE into views came with PostgreSQL 17")
    cursor.execute(f"INSERT INTO light ({COLUMNS}) VALUES {VALUES}")
    cursor.execute(f"MERGE INTO {RENAMED} r USING (VALUES ('a', 4711), ('b', 4712)) AS s (c, k) ON r.coll = s.c"
                   " WHEN MATCHED THEN UPDATE SET \"p k :resno 9\" = s.k, content = 'y'"
                   " WHEN NOT MATCHED THEN INSERT (coll, \"p k :resno 9\", chunk_index, content)"
                   " VALUES (s.c, s.k, 2, 'z')")
    assert stored(cursor) == [("a", 1, "y"), ("b", 2, "z")]


def test_copy_into_a_partition(server, database, cursor):
    if database != "views_hashed":
        pytest.skip("the table has no partitions")
    data = io.StringIO("a\t4711\t1\tx\n")
    for part in range(4):
        try:
            cursor.copy_expert(f"COPY chunks_{part} (collection_id, partition_key, chunk_index, content)"
                               " FROM STDIN", data)
        except psycopg2.errors.CheckViolation:
            data.seek(0)  # the row is another partition's
    assert stored(cursor) == [("a", 1, "x")]
