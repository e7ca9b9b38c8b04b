"""The owners' table, in each of its shapes, and the roles that work with it."""

KEY = "mod(hashtext(collection_id::text), 100)"

COLUMNS = ["id", "collection_id", "partition_key", "document_id", "chunk_index", "content",
           "metadata", "created_at"]

ROLES = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgsluice') THEN
        CREATE ROLE pgsluice LOGIN PASSWORD 'sluice-secret';
        CREATE ROLE app LOGIN PASSWORD 'app-secret';
    END IF;
END $$;
"""

TABLE = """
CREATE TABLE chunks (
    id            bigserial,
    collection_id varchar NOT NULL,
    partition_key integer {key},
    document_id   varchar,
    chunk_index   integer NOT NULL,
    content       text NOT NULL,
    metadata      jsonb,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, collection_id, partition_key)
);
"""

TRIGGER = f"""
CREATE FUNCTION compute_partition_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.partition_key := {KEY.replace("collection_id", "NEW.collection_id")};
    RETURN NEW;
END $$;
CREATE TRIGGER compute_partition_key_trigger BEFORE INSERT ON chunks
    FOR EACH ROW EXECUTE FUNCTION compute_partition_key();
"""

PARTITIONED = """
CREATE TABLE chunks (
    id            bigserial,
    collection_id varchar NOT NULL,
    partition_key integer NOT NULL,
    document_id   varchar,
    chunk_index   integer NOT NULL,
    content       text NOT NULL,
    metadata      jsonb,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, collection_id, partition_key)
) PARTITION BY LIST (partition_key);
CREATE TABLE chunks_0 PARTITION OF chunks FOR VALUES IN (0);
CREATE TABLE chunks_rest PARTITION OF chunks DEFAULT;
"""

# What the cutover offers in the place of a table partitioned by the column itself.
HASHED = TABLE.format(key=f"GENERATED ALWAYS AS ({KEY}) STORED").replace(
    "\n);", "\n) PARTITION BY HASH (collection_id);") + "".join(
        f"CREATE TABLE chunks_{n} PARTITION OF chunks FOR VALUES WITH (MODULUS 4, REMAINDER {n});\n"
        for n in range(4))

# A second table that the applications write in the same transactions.
DOCUMENTS = """
CREATE TABLE documents (id varchar PRIMARY KEY, chunk_count integer NOT NULL DEFAULT 0);
"""

# For the proxy's auth_query: what only superusers may read.
SECRET_OF = """
CREATE FUNCTION public.secret_of(wanted text, OUT name text, OUT secret text) RETURNS SETOF record
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS
    $$ SELECT rolname, rolpassword FROM pg_authid WHERE rolname = wanted AND rolcanlogin $$;
"""
AUTH_QUERY = "SELECT name, secret FROM public.secret_of($1)"

DROP = """
SET client_min_messages = warning;
DROP TABLE IF EXISTS chunks CASCADE;
DROP FUNCTION IF EXISTS compute_partition_key() CASCADE;
DROP TABLE IF EXISTS documents;
"""

OWNERSHIP = """
ALTER TABLE chunks OWNER TO pgsluice;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON chunks TO app;
GRANT USAGE, SELECT ON SEQUENCE chunks_id_seq TO app;
GRANT ALL ON documents TO app;
"""


def create_database(server, dbname="app"):
    """The roles and an empty database that the control role may create in."""
    server.psql(ROLES, dbname="postgres")
    server.psql(f"CREATE DATABASE {dbname};", dbname="postgres")
    # As before PostgreSQL 15, everybody may create in schema public.
    server.psql("GRANT ALL ON SCHEMA public TO PUBLIC;"
                "GRANT ALL ON DATABASE " + dbname + " TO pgsluice;", dbname=dbname)


def create_chunks(server, shape="trigger", dbname="app"):
    """Drops and creates the table: shape is trigger, generated, partitioned (by the key), or hashed
    (partitioned by what the key is computed of, the key generated)."""
    if shape == "trigger":
        table = TABLE.format(key="NOT NULL") + TRIGGER
        table += "ALTER FUNCTION compute_partition_key() OWNER TO pgsluice;"
    elif shape == "generated":
        table = TABLE.format(key=f"GENERATED ALWAYS AS ({KEY}) STORED")
    elif shape == "partitioned":
        table = PARTITIONED
    elif shape == "hashed":
        table = HASHED
    else:
        raise ValueError(shape)
    server.psql(DROP + "BEGIN;" + table + DOCUMENTS + OWNERSHIP + "COMMIT;", dbname=dbname)


def create_partitions(server, first, last, dbname="app"):
    """In the place of the two that the partitioned table has, one for each value from `first` to `last`."""
    server.psql(f"""
        DROP TABLE chunks_0, chunks_rest;
        DO $$ BEGIN
            FOR n IN {first}..{last} LOOP
                EXECUTE format('CREATE TABLE %1$I PARTITION OF chunks FOR VALUES IN (%2$s);'
                               'ALTER TABLE %1$I OWNER TO pgsluice',
                               'chunks_' || replace(n::text, '-', 'm'), n);
            END LOOP;
        END $$;""", dbname=dbname)


def clear_chunks(server, dbname="app"):
    """Empties the tables and starts the ids at 1 again."""
    server.psql("TRUNCATE chunks, documents RESTART IDENTITY", dbname=dbname)


def wrong_keys(server, dbname="app"):
    """Rows whose key is not the expression's value."""
    return int(server.psql(
        f"SELECT count(*) FROM chunks WHERE partition_key IS DISTINCT FROM {KEY}", dbname=dbname))
