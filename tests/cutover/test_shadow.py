"""The shape of a swap on a real server: whatever stands on a table stands on the other one after it.

What is compared is what psql, pg_dump and the catalog say, not what the cutover itself compares.
"""

import json
import subprocess

import pytest

from lib import common
from lib.pgserver import DEBIAN_BIN, PSQL
from lib.schema import KEY

pytestmark = pytest.mark.majors(12, 99)

PROBE = common.build_dir() / "shadow_probe"


def shadow(db, command, schema="public", table="chunks", column="partition_key", expression=KEY,
           trigger="compute_partition_key_trigger"):
    """Runs the probe; returns its report, with "code"."""
    conninfo = f"host={db.server.host} port={db.server.port} user=pgsluice dbname=postgres"
    done = subprocess.run([str(PROBE), command, conninfo, db.name, schema, table, column, expression,
                           trigger], capture_output=True, text=True,
                          timeout=120 * common.slowness())
    report = json.loads(done.stdout)
    report["code"] = done.returncode
    return report


def swap(db, command, **options):
    report = shadow(db, command, **options)
    assert report["code"] == 0, json.dumps({key: report.get(key) for key in (
        "error", "sqlstate", "refusals")}, indent=1)
    return report


# Everything in the database by its name, without what tells the two shapes of the column apart.
CATALOG = r"""
SELECT 'comment', pg_describe_object(classoid, objoid, objsubid), description FROM pg_description
    WHERE objoid >= 16384;
SELECT 'class', c.oid::regclass, relkind, relpersistence, pg_get_userbyid(relowner),
    (SELECT spcname FROM pg_tablespace s WHERE s.oid = reltablespace), relam, relreplident,
    relrowsecurity, relforcerowsecurity, relchecks, relispartition, pg_get_expr(relpartbound, c.oid),
    (SELECT array_agg(o ORDER BY o) FROM unnest(reloptions) o),
    ARRAY(SELECT a::text FROM unnest(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's'
        ELSE 'r' END::"char", relowner))) a ORDER BY 1),
    (SELECT reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid)
    FROM pg_class c WHERE relnamespace >= 2200 AND relnamespace <> 'information_schema'::regnamespace
    AND relkind <> 't' AND relnamespace <> 99;
SELECT 'column', attrelid::regclass, row_number() OVER (PARTITION BY attrelid ORDER BY attnum), attname,
    format_type(atttypid, atttypmod), attnotnull, attidentity, attstorage, 
    (SELECT collname FROM pg_collation o WHERE o.oid = attcollation),
    attislocal, attinhcount, to_jsonb(a) ->> 'attcompression', to_jsonb(a) ->> 'attstattarget',
    (SELECT array_agg(o ORDER BY o) FROM unnest(attoptions) o WHERE o NOT LIKE 'pg\_attver%'),
    ARRAY(SELECT x::text FROM unnest(attacl) x ORDER BY 1),
    CASE WHEN attname <> '@COLUMN@' THEN attgenerated END,
    CASE WHEN attname <> '@COLUMN@' THEN pg_get_expr(adbin, adrelid) END
    FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid
    AND adnum = attnum WHERE attrelid >= 16384 AND attnum > 0 AND NOT attisdropped
    AND relnamespace <> 'pg_toast'::regnamespace;
SELECT 'index', indexrelid::regclass, pg_get_indexdef(indexrelid), indisclustered, indisreplident,
    indisvalid, indisprimary FROM pg_index WHERE indrelid >= 16384
    AND indrelid::regclass::text NOT LIKE 'pg_toast%';
SELECT 'constraint', conrelid::regclass, conname, contype, pg_get_constraintdef(oid), convalidated,
    condeferrable, condeferred, conislocal, coninhcount, connoinherit FROM pg_constraint
    WHERE connamespace >= 2200 AND oid >= 16384;
SELECT 'trigger', pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE NOT tgisinternal;
SELECT 'internal trigger', tgrelid::regclass, tgfoid::regproc, tgtype, tgenabled, conname
    FROM pg_trigger t JOIN pg_constraint c ON c.oid = tgconstraint WHERE tgisinternal;
SELECT 'policy', polrelid::regclass, polname, polcmd, polpermissive, polroles::regrole[],
    pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid) FROM pg_policy;
SELECT 'rule', ev_class::regclass, pg_get_ruledef(oid), ev_enabled FROM pg_rewrite WHERE oid >= 16384;
SELECT 'statistics', pg_get_statisticsobjdef(oid), to_jsonb(s) ->> 'stxstattarget',
    pg_get_userbyid(stxowner) FROM pg_statistic_ext s;
SELECT 'sequence', seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin,
    seqcache, seqcycle FROM pg_sequence;
SELECT 'owned', objid::regclass, refobjid::regclass, attname, deptype FROM pg_depend JOIN pg_attribute
    ON attrelid = refobjid AND attnum = refobjsubid WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i')
    AND objid IN (SELECT seqrelid FROM pg_sequence);
SELECT 'function', pg_get_functiondef(oid), proacl FROM pg_proc WHERE oid >= 16384
    AND prokind IN ('f', 'p');
SELECT 'publication', replace((to_jsonb(p))::text, '"@COLUMN@", ', '') FROM pg_publication_tables p;
SELECT 'extension', pg_describe_object(classid, objid, objsubid), refobjid FROM pg_depend
    WHERE deptype = 'x';
SELECT 'analyzed', relname, n_live_tup > 0 FROM pg_stat_user_tables WHERE false;
"""


def catalog(db, column="partition_key", hidden=()):
    """Sorted lines of the whole database. `hidden`: of relations whose names begin so."""
    out = subprocess.run([str(PSQL), "-XAt", "-v", "ON_ERROR_STOP=1", "-d", db.dsn()], text=True,
                         input="SET search_path = pg_catalog;" + CATALOG.replace("@COLUMN@", column),
                         capture_output=True, check=True).stdout
    return sorted(line for line in out.splitlines() if not any(name in line for name in hidden))


def dump(db):
    """What pg_dump says, without the column's shape and its trigger."""
    if common.pg_major() > 15 or not (DEBIAN_BIN / "pg_dump").exists():
        return []
    text = subprocess.run([str(DEBIAN_BIN / "pg_dump"), "--schema-only", "-d", db.dsn(),
                           "--exclude-table=*_pgsluice_*"], capture_output=True, text=True,
                          check=True).stdout
    return sorted(line.rstrip(",") for line in text.splitlines()
                  if not line.startswith(("    partition_key integer", "--", "\\"))
                  and "compute_partition_key_trigger" not in line)


# Of the table that is put aside.
ASIDE = ("_pgsluice_old", "_pgsluice_new", "pgsluice_o", "compute_partition_key_trigger")


def differences(before, after):
    return "\n".join([f"- {line}" for line in before if line not in after] +
                     [f"+ {line}" for line in after if line not in before])


def put(db, name):
    db.psql(f"INSERT INTO chunks (collection_id, document_id, chunk_index, content) "
            f"VALUES ('{name}', 'd', 0, 'x')")


RICH = """
CREATE SCHEMA other;
CREATE DOMAIN score AS numeric(6, 2) DEFAULT 1 CHECK (VALUE >= 0);
CREATE SEQUENCE loose START 7;
ALTER TABLE chunks ADD COLUMN gone int;
ALTER TABLE chunks DROP COLUMN gone;
ALTER TABLE chunks ADD COLUMN number integer GENERATED ALWAYS AS IDENTITY (START 5 INCREMENT 3 CACHE 4);
ALTER TABLE chunks ADD COLUMN line bigint NOT NULL GENERATED BY DEFAULT AS IDENTITY (MAXVALUE 99999 CYCLE);
ALTER TABLE chunks ADD COLUMN lowered text GENERATED ALWAYS AS (lower(content)) STORED;
ALTER TABLE chunks ADD COLUMN tags text[] DEFAULT '{a,"b c"}' NOT NULL;
ALTER TABLE chunks ADD COLUMN score score;
ALTER TABLE chunks ADD COLUMN ticket integer DEFAULT nextval('loose');
ALTER TABLE chunks ADD COLUMN word varchar(20) COLLATE "C" DEFAULT 'it''s';
ALTER TABLE chunks ADD COLUMN parent bigint;
ALTER TABLE chunks ADD COLUMN "A b""c" timestamp(3) without time zone DEFAULT '2020-01-01';
ALTER SEQUENCE loose OWNED BY chunks.ticket;
ALTER SEQUENCE chunks_number_seq RENAME TO numbers;
COMMENT ON SEQUENCE numbers IS 'a sequence';
GRANT USAGE ON SEQUENCE numbers TO app;
ALTER TABLE chunks SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, toast.autovacuum_enabled = false);
ALTER TABLE chunks ALTER COLUMN content SET STORAGE EXTERNAL;
ALTER TABLE chunks ALTER COLUMN partition_key SET STATISTICS 250;
ALTER TABLE chunks ALTER COLUMN document_id SET (n_distinct = 199, n_distinct_inherited = -0.5);
CREATE INDEX by_key ON chunks (partition_key);
CREATE INDEX by_key_desc ON chunks (partition_key DESC NULLS LAST, created_at) WITH (fillfactor = 70);
CREATE INDEX twice_a ON chunks (chunk_index);
CREATE INDEX twice_b ON chunks (chunk_index);
CREATE INDEX partial ON chunks (document_id) WHERE partition_key > 10 AND content <> ' USING ';
CREATE INDEX " ON public.chunks USING " ON chunks ((partition_key * 2), lower(document_id) text_pattern_ops);
CREATE INDEX covering ON chunks (chunk_index) INCLUDE (partition_key);
CREATE INDEX by_metadata ON chunks USING gin (metadata jsonb_path_ops);
ALTER INDEX " ON public.chunks USING " ALTER COLUMN 1 SET STATISTICS 77;
ALTER TABLE chunks ADD CONSTRAINT again UNIQUE (id, partition_key) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE chunks ADD CONSTRAINT alone UNIQUE (id) WITH (fillfactor = 60);
ALTER TABLE chunks ADD CONSTRAINT outside EXCLUDE USING btree (id WITH =, partition_key WITH =) WHERE (chunk_index > 3);
ALTER TABLE chunks ADD CONSTRAINT in_range CHECK (partition_key BETWEEN -99 AND 99);
ALTER TABLE chunks ADD CONSTRAINT not_yet CHECK (chunk_index > 50) NOT VALID;
ALTER TABLE chunks ADD CONSTRAINT unheard CHECK (chunk_index >= 0) NO INHERIT;
ALTER TABLE chunks ADD CONSTRAINT self FOREIGN KEY (parent) REFERENCES chunks (id) ON DELETE SET NULL;
CREATE UNIQUE INDEX identity ON chunks (id, collection_id, partition_key);
ALTER TABLE chunks REPLICA IDENTITY USING INDEX identity;
ALTER TABLE chunks CLUSTER ON by_key;
CREATE STATISTICS together (ndistinct, dependencies) ON collection_id, partition_key FROM chunks;
CREATE STATISTICS other.apart (mcv) ON document_id, chunk_index FROM chunks;
COMMENT ON TABLE chunks IS 'the table';
COMMENT ON COLUMN chunks.partition_key IS 'it''s the "key"; $1 \\ $$ $pgsluice0$';
COMMENT ON COLUMN chunks."A b""c" IS 'strange';
COMMENT ON INDEX by_key IS 'an index';
COMMENT ON INDEX chunks_pkey IS 'the index of the primary key';
COMMENT ON CONSTRAINT chunks_pkey ON chunks IS 'the primary key';
COMMENT ON CONSTRAINT in_range ON chunks IS 'a check';
COMMENT ON CONSTRAINT not_yet ON chunks IS 'another check';
COMMENT ON STATISTICS together IS 'statistics';
GRANT SELECT (partition_key), UPDATE (partition_key) ON chunks TO app WITH GRANT OPTION;
GRANT REFERENCES (id) ON chunks TO PUBLIC;
REVOKE DELETE ON chunks FROM pgsluice;
GRANT TRIGGER ON chunks TO app WITH GRANT OPTION;
CREATE TABLE pointers (id bigint, collection_id varchar, partition_key int,
    CONSTRAINT to_chunks FOREIGN KEY (id, collection_id, partition_key) REFERENCES chunks
    ON DELETE CASCADE DEFERRABLE);
COMMENT ON CONSTRAINT to_chunks ON pointers IS 'incoming';
INSERT INTO pointers SELECT id, collection_id, partition_key FROM chunks LIMIT 100;
CREATE TABLE unchecked (chunk bigint);
INSERT INTO unchecked VALUES (-1);
ALTER TABLE unchecked ADD CONSTRAINT never_checked FOREIGN KEY (chunk) REFERENCES chunks (id) NOT VALID;
CREATE TABLE keys (partition_key int PRIMARY KEY);
INSERT INTO keys SELECT generate_series(-99, 99);
ALTER TABLE chunks ADD CONSTRAINT outgoing FOREIGN KEY (partition_key) REFERENCES keys;
CREATE TABLE log (what text, at timestamptz DEFAULT now());
CREATE RULE noted AS ON UPDATE TO chunks WHERE NEW.chunk_index < 0 DO ALSO INSERT INTO log VALUES (OLD.content);
CREATE RULE asleep AS ON DELETE TO chunks DO ALSO NOTIFY chunks;
ALTER TABLE chunks DISABLE RULE asleep;
COMMENT ON RULE noted ON chunks IS 'a rule';
CREATE RULE elsewhere AS ON DELETE TO log DO ALSO UPDATE chunks SET chunk_index = chunk_index WHERE content = OLD.what;
COMMENT ON RULE elsewhere ON log IS 'a rule on another table';
ALTER TABLE log ENABLE ALWAYS RULE elsewhere;
ALTER TABLE chunks ENABLE ROW LEVEL SECURITY;
CREATE POLICY positive ON chunks AS RESTRICTIVE FOR SELECT TO app USING (partition_key >= -100);
CREATE POLICY everything ON chunks USING (id <> (SELECT coalesce(max(c.parent), 0) FROM chunks c WHERE c.id = 0)) WITH CHECK (partition_key IS NOT NULL);
COMMENT ON POLICY positive ON chunks IS 'a policy';
ALTER TABLE pointers ENABLE ROW LEVEL SECURITY;
CREATE POLICY pointing ON pointers TO app USING (EXISTS (SELECT FROM chunks WHERE chunks.id = pointers.id));
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER on_key AFTER UPDATE OF partition_key ON chunks FOR EACH ROW EXECUTE FUNCTION noted();
CREATE TRIGGER on_value AFTER INSERT ON chunks FOR EACH ROW WHEN (NEW.partition_key = 0)
    EXECUTE FUNCTION noted();
CREATE TRIGGER of_statement AFTER INSERT ON chunks REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT
    EXECUTE FUNCTION noted();
CREATE TRIGGER replicated AFTER DELETE ON chunks FOR EACH ROW EXECUTE FUNCTION noted('arg', 'it''s');
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON chunks DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION noted();
CREATE CONSTRAINT TRIGGER abroad AFTER INSERT ON log FROM chunks DEFERRABLE FOR EACH ROW EXECUTE FUNCTION noted();
ALTER TABLE chunks DISABLE TRIGGER on_key;
ALTER TABLE chunks ENABLE ALWAYS TRIGGER on_value;
ALTER TABLE chunks ENABLE REPLICA TRIGGER replicated;
COMMENT ON TRIGGER on_key ON chunks IS 'a trigger';
CREATE VIEW shown WITH (security_barrier = true) AS SELECT id, partition_key AS "the Key" FROM chunks;
CREATE VIEW shown_too AS SELECT "the Key", count(*) FROM shown GROUP BY 1;
CREATE VIEW other.grouped AS SELECT id, collection_id, partition_key, content, count(*) FROM chunks
    GROUP BY id, collection_id, partition_key;
CREATE VIEW checked AS SELECT * FROM chunks WHERE chunk_index > 0 WITH CASCADED CHECK OPTION;
CREATE VIEW written AS SELECT content FROM chunks;
CREATE RULE writes AS ON INSERT TO written DO INSTEAD INSERT INTO chunks (collection_id, chunk_index, content)
    VALUES ('v', 0, NEW.content);
COMMENT ON VIEW shown IS 'a view';
COMMENT ON COLUMN shown."the Key" IS 'a column of a view';
GRANT SELECT ON shown TO app WITH GRANT OPTION;
GRANT SELECT ("the Key") ON shown_too TO app;
REVOKE DELETE ON shown FROM pgsluice;
CREATE PUBLICATION plain FOR TABLE chunks, log WITH (publish = 'insert');
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO app;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
"""

SINCE = {
    13: "ALTER STATISTICS together SET STATISTICS 33;",
    14: "CREATE STATISTICS computed ON (partition_key + 1), document_id FROM chunks;"
        "ALTER TABLE chunks ALTER COLUMN document_id SET COMPRESSION pglz;"
        "CREATE FUNCTION counted(who text) RETURNS bigint LANGUAGE sql BEGIN ATOMIC "
        "SELECT count(*) FROM chunks WHERE collection_id = who; END;"
        "COMMENT ON FUNCTION counted(text) IS 'a function'; REVOKE ALL ON FUNCTION counted(text) FROM PUBLIC;",
    15: "CREATE UNIQUE INDEX nulls ON chunks (id, document_id, partition_key) NULLS NOT DISTINCT;"
        "CREATE PUBLICATION narrow FOR TABLE chunks (id, collection_id, \"A b\"\"c\") WHERE (id > 5) WITH (publish = 'insert');",
    18: "ALTER TABLE chunks RENAME CONSTRAINT chunks_partition_key_not_null TO filled;"
        "COMMENT ON CONSTRAINT filled ON chunks IS 'not null';"
        "ALTER TABLE chunks ADD CONSTRAINT later NOT NULL document_id NOT VALID;"
        "ALTER TABLE chunks ADD CONSTRAINT idle CHECK (chunk_index > 1000) NOT ENFORCED;"
        "ALTER TABLE chunks ADD COLUMN doubled int GENERATED ALWAYS AS (chunk_index * 2) VIRTUAL;"
        "ALTER TABLE unchecked ADD CONSTRAINT lax FOREIGN KEY (chunk) REFERENCES chunks (id) NOT ENFORCED;",
}


@pytest.fixture
def rich(db):
    db.psql("GRANT CREATE ON DATABASE " + db.name + " TO pgsluice")
    if common.pg_major() < 13:
        # A self-made trigger with the pk column in a row type is fine everywhere.
        pass
    db.as_owner(RICH)
    for since, sql in SINCE.items():
        if common.pg_major() >= since:
            db.as_owner(sql)
    yield db


def test_everything_comes_along_there_and_back_and_there(rich):
    db = rich
    before, dumped, rows = catalog(db, hidden=ASIDE), dump(db), db.digest()
    for command in ("there", "back", "there", "back"):
        report = swap(db, command)
        assert differences(before, catalog(db, hidden=ASIDE)) == ""
        assert differences(dumped, dump(db)) == ""
        assert db.digest() == rows
        assert db.is_generated() == (command == "there")
        if command == "back":
            swap(db, "drop")
            assert differences(before, catalog(db, hidden=ASIDE[-1:])) == ""
    assert report["key"] == "id"


PARTS = "PARTITION OF parts FOR VALUES"


def partitioned(db, count=100, partition_by="LIST (partition_key)", more=""):
    """The owners' table with partitions by their key, of rows that a trigger would agree with."""
    db.as_owner(f"""
        DROP TABLE chunks;
        CREATE TABLE chunks (id bigint GENERATED BY DEFAULT AS IDENTITY, collection_id varchar NOT NULL,
            partition_key integer NOT NULL, document_id varchar, chunk_index integer NOT NULL,
            content text NOT NULL, metadata jsonb, created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (id, collection_id, partition_key)) PARTITION BY {partition_by};
        {more}""")


ABS_KEY = "abs(hashtext(collection_id::text) % 100)"


def test_hundred_list_partitions_become_hash_partitions(db):
    if common.pg_major() < 17:
        # Identity columns of partitioned tables are for 17 and newer.
        identity = "ALTER TABLE chunks ALTER COLUMN id DROP IDENTITY; CREATE SEQUENCE ids OWNED BY " \
                   "chunks.id; ALTER TABLE chunks ALTER COLUMN id SET DEFAULT nextval('ids');"
    else:
        identity = ""
    partitioned(db, more=identity + "".join(
        f"CREATE TABLE chunks_p{i} PARTITION OF chunks FOR VALUES IN ({i});" for i in range(100)))
    db.as_owner(f"""
        CREATE INDEX by_document ON chunks (document_id) WHERE partition_key > 3;
        CREATE INDEX by_key ON chunks (partition_key);
        ALTER TABLE chunks ADD CONSTRAINT positive CHECK (partition_key >= 0);
        ALTER TABLE chunks_p7 SET (fillfactor = 55, toast.autovacuum_enabled = off);
        ALTER TABLE chunks_p8 REPLICA IDENTITY FULL;
        ALTER TABLE chunks_p9 REPLICA IDENTITY USING INDEX chunks_p9_pkey;
        ALTER INDEX chunks_p9_pkey RENAME TO strange;
        COMMENT ON TABLE chunks_p10 IS 'ten';
        GRANT SELECT ON chunks_p11 TO app;
        CREATE VIEW shown AS SELECT id, partition_key FROM chunks;
        CREATE TABLE pointers (id bigint, collection_id varchar, partition_key int,
            CONSTRAINT to_chunks FOREIGN KEY (id, collection_id, partition_key) REFERENCES chunks);
        INSERT INTO chunks (collection_id, partition_key, chunk_index, content) SELECT c, {ABS_KEY}, i, 'x'
            FROM generate_series(1, 3000) i, LATERAL (VALUES ('coll-' || i % 300)) v(collection_id),
            LATERAL (SELECT v.collection_id AS c) w;
        INSERT INTO pointers SELECT id, collection_id, partition_key FROM chunks LIMIT 50;""")
    options = dict(expression=ABS_KEY, trigger="")
    # Bounds are what changes. What the server makes of a foreign key for each partition that it
    # points to is not to be validated, and not dumped.
    def kept(lines):
        return [line.partition("FOR VALUES")[0] for line in lines
                if "pointers_id_collection_id_partition" not in line]

    before, rows = kept(catalog(db, hidden=ASIDE)), db.digest()
    for command in ("there", "back", "there"):
        report = swap(db, command, **options)
        assert differences(before, kept(catalog(db, hidden=ASIDE))) == ""
        assert db.digest() == rows
        assert db.is_generated() == (command == "there")
        assert db.psql("SELECT pg_get_partkeydef('chunks'::regclass)") == (
            "HASH (collection_id)" if command == "there" else "LIST (partition_key)")
        assert db.psql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'chunks'::regclass") == "100"
    assert report["key"] == "id, collection_id, partition_key"
    assert db.psql("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'x') "
                   "RETURNING partition_key") == "57"
    swap(db, "drop", **options)
    assert db.psql("SELECT count(*) FROM pg_class WHERE relname LIKE '%pgsluice%'") == "0"
