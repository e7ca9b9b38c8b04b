-- The throw-away schema of deploy/quickstart: the owners' table with its trigger, and a second, small
-- one that a stricter rule guards. Run by psql as a superuser in an empty database, with the variables
-- app_password and seed_rows.
\set ON_ERROR_STOP on
SET client_min_messages = warning;

CREATE ROLE pgsluice LOGIN;
GRANT pg_read_all_stats TO pgsluice; -- to name the sessions that stand in a cutover's way
CREATE ROLE app LOGIN PASSWORD :'app_password';
SELECT format('GRANT ALL ON DATABASE %I TO pgsluice', current_database()) \gexec
GRANT ALL ON SCHEMA public TO pgsluice;

SET ROLE pgsluice;

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
);
CREATE INDEX chunks_collection ON chunks (collection_id, partition_key);

CREATE FUNCTION compute_partition_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.partition_key := mod(hashtext(NEW.collection_id::text), 100);
    RETURN NEW;
END $$;
CREATE TRIGGER compute_partition_key_trigger BEFORE INSERT ON chunks
    FOR EACH ROW EXECUTE FUNCTION compute_partition_key();

CREATE TABLE notes (
    id            bigserial PRIMARY KEY,
    collection_id varchar NOT NULL,
    note_key integer NOT NULL,
    body          text NOT NULL
);
CREATE FUNCTION compute_note_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.note_key := mod(hashtext(NEW.collection_id::text), 100);
    RETURN NEW;
END $$;
CREATE TRIGGER compute_note_key_trigger BEFORE INSERT ON notes
    FOR EACH ROW EXECUTE FUNCTION compute_note_key();

GRANT SELECT, INSERT, UPDATE, DELETE ON chunks, notes TO app;
GRANT USAGE ON SEQUENCE chunks_id_seq, notes_id_seq TO app;

INSERT INTO chunks (collection_id, document_id, chunk_index, content, metadata)
SELECT 'collection-' || n % 300, 'seed-' || n, n, repeat('lorem ipsum ', 30),
       jsonb_build_object('source', 'seed')
FROM generate_series(1, :seed_rows) n;
ANALYZE chunks;
