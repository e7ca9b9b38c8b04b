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
"""


def catalog(db, column="partition_key", hidden=()):
    """Sorted lines of the whole database. `hidden`: of relations whose names begin so."""
    out = subprocess.run([str(PSQL), "-XAt", "-v", "ON_ERROR_STOP=1", "-d", db.dsn()], text=True,
                         input="SET search_path = pg_catalog;" + CATALOG.replace("@COLUMN@", column.replace("'", "''")),
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


def without_partitioning(dumped):
    """A dump's lines without how the table is cut into partitions, for where that is to change."""
    return sorted(line.partition("FOR VALUES")[0].partition("PARTITION BY")[0] for line in dumped)


# Of the table that is put aside.
ASIDE = ("_pgsluice_old", "_pgsluice_new", "pgsluice_n", "pgsluice_o", "compute_partition_key_trigger")


def differences(before, after):
    return "\n".join([f"- {line}" for line in before if line not in after] +
                     [f"+ {line}" for line in after if line not in before])


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
    db.as_owner(RICH)
    for since, sql in SINCE.items():
        if common.pg_major() >= since:
            db.as_owner(sql)
    yield db


def test_everything_comes_along_there_and_back_and_there(rich):
    db = rich
    before_all, before, dumped = catalog(db), catalog(db, hidden=ASIDE), dump(db)
    rows = db.digest()
    for command in ("there", "back", "there"):
        report = swap(db, command)
        assert differences(before, catalog(db, hidden=ASIDE)) == ""
        assert differences(dumped, dump(db)) == ""
        assert db.digest() == rows
        assert db.is_generated() == (command == "there")
        if command == "back":
            swap(db, "drop")
            assert catalog(db) == before_all
    assert report["key"] == "id"





def partitioned(db, partition_by="LIST (partition_key)", more="",
                key="id, collection_id, partition_key", identity=""):
    """The owners' table, partitioned."""
    db.as_owner(f"""
        DROP TABLE chunks;
        CREATE TABLE chunks (id bigint {identity}, collection_id varchar NOT NULL,
            partition_key integer NOT NULL, document_id varchar, chunk_index integer NOT NULL,
            content text NOT NULL, metadata jsonb, created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY ({key})) PARTITION BY {partition_by};
        {more}""")


ABS_KEY = "abs(hashtext(collection_id::text) % 100)"


def test_hundred_list_partitions_become_hash_partitions(db):
    # Identity columns of partitioned tables are for 17 and newer.
    identity = "GENERATED ALWAYS AS IDENTITY" if common.pg_major() >= 17 else "DEFAULT nextval('ids')"
    db.as_owner("CREATE SEQUENCE ids")
    partitioned(db, identity=identity, more="ALTER SEQUENCE ids OWNED BY chunks.id;" + "".join(
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
    dumped = without_partitioning(dump(db))
    for command in ("there", "back"):
        report = swap(db, command, **options)
        assert report["key"] == "id, collection_id, partition_key"
        assert differences(before, kept(catalog(db, hidden=ASIDE))) == ""
        assert differences(dumped, without_partitioning(dump(db))) == ""
        assert db.digest() == rows
        assert db.is_generated() == (command == "there")
        assert db.psql("SELECT pg_get_partkeydef('chunks'::regclass)") == (
            "HASH (collection_id)" if command == "there" else "LIST (partition_key)")
        assert db.psql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'chunks'::regclass") == "100"
        if command == "there":
            assert db.psql("INSERT INTO chunks (collection_id, chunk_index, content) VALUES "
                           "('a', 1, 'x') RETURNING partition_key") == "57"
            db.psql("DELETE FROM chunks WHERE collection_id = 'a'")
    swap(db, "drop", **options)
    assert db.psql("SELECT count(*) FROM pg_class WHERE relname LIKE '%pgsluice%'") == "0"


def test_other_partitionings_are_kept(db):
    partitioned(db, partition_by="RANGE (chunk_index)", key="id, collection_id, chunk_index", more="""
        ALTER TABLE chunks ALTER COLUMN content SET STORAGE EXTERNAL;
        CREATE TABLE low PARTITION OF chunks FOR VALUES FROM (MINVALUE) TO (100) WITH (fillfactor = 90);
        CREATE TABLE rest PARTITION OF chunks DEFAULT;
        CREATE TABLE high (gone int, content text NOT NULL, id bigint NOT NULL, metadata jsonb,
            partition_key int NOT NULL, collection_id varchar NOT NULL, document_id varchar,
            chunk_index int NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
        ALTER TABLE high DROP COLUMN gone;
        ALTER TABLE high ALTER COLUMN content SET STORAGE EXTERNAL;
        ALTER TABLE chunks ATTACH PARTITION high FOR VALUES FROM (100) TO (MAXVALUE);
        COMMENT ON TABLE low IS 'low'""")
    db.as_owner("""
        CREATE INDEX by_key ON chunks (partition_key);
        CREATE INDEX low_only ON low (lower(content) text_pattern_ops) WHERE partition_key > 3;
        CREATE UNIQUE INDEX " ON public.low USING " ON low (id) INCLUDE (partition_key) WITH (fillfactor = 70);
        CREATE INDEX twice_a ON low (document_id);
        CREATE INDEX twice_b ON low (document_id);
        CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER after_all AFTER INSERT OR UPDATE ON chunks FOR EACH ROW EXECUTE FUNCTION noted();
        COMMENT ON TRIGGER after_all ON chunks IS 'of the table';
        INSERT INTO chunks (id, collection_id, partition_key, chunk_index, content) SELECT i, 'coll-' || i,
            mod(hashtext('coll-' || i), 100), i, 'x' FROM generate_series(1, 300) i""")

    def kept(column="partition_key"):
        # The columns of partitions get the order of the table's, and NOT NULL its names (18).
        return [line for line in catalog(db, column, hidden=ASIDE)
                if not line.startswith(("column|public.high|", "constraint|public.high|high_"))
                and not ("|n|NOT NULL" in line and "public.high" in line)]

    before, dumped, rows = kept(), dump(db), db.digest()
    for command in ("there", "back", "there"):
        swap(db, command, trigger="")
        assert differences(before, kept()) == ""
        assert differences(dumped, dump(db)) == ""
        assert db.digest() == rows
        if command == "there":
            # What a partition gets or loses meanwhile is for the way back.
            db.as_owner("DROP INDEX twice_a; CREATE INDEX newest ON low (chunk_index, created_at)")
        else:
            db.as_owner("DROP INDEX newest; CREATE INDEX twice_a ON low (document_id)")
        before, dumped = kept(), dump(db)
    # A partition that is added while the other table is kept goes there as well.
    db.as_owner("ALTER TABLE chunks DETACH PARTITION high; DROP TABLE high")
    assert "partition public.high_pgsluice_old" in shadow(db, "back", trigger="")["refusals"][0]["what"]
    swap(db, "drop")
    swap(db, "create", trigger="", column="document_id", expression="collection_id")
    db.as_owner("CREATE TABLE high PARTITION OF chunks FOR VALUES FROM (100) TO (200)")
    before = kept("document_id")
    swap(db, "there", trigger="", column="document_id", expression="collection_id")
    assert differences(before, kept("document_id")) == ""


# What a partition may not have of its own, by SQL that gives it to the partition {p}, and the reason.
REFUSED_OF_PARTITIONS = [
    ("CREATE INDEX of_its_own ON {p} (content); COMMENT ON INDEX of_its_own IS 'own'", "it has an index of "
     "its own with a comment, a tablespace, statistics targets or a mark, or that is not valid"),
    ("ALTER TABLE {p} ADD CONSTRAINT unique_here UNIQUE (id)", "it has a constraint of its own"),
    ("CLUSTER {p} USING {p}_pkey", "one of its indexes has options of its own, or is the CLUSTER mark"),
    ("ALTER TABLE {p} ADD CONSTRAINT own CHECK (content <> '')", "it has a constraint of its own"),
    ("CREATE TABLE pointing (id bigint, c varchar, i int, FOREIGN KEY (id, c, i) REFERENCES {p})",
     "a foreign key points to it"),
    ("CREATE TRIGGER own AFTER INSERT ON {p} FOR EACH ROW EXECUTE FUNCTION noted()",
     "it has a trigger of its own"),
    ("ALTER TABLE {p} ENABLE ROW LEVEL SECURITY", "it has policies of its own"),
    ("GRANT SELECT (content) ON {p} TO app", "it has grants on columns, or that are not its owner's"),
    ("ALTER TABLE {p} ALTER COLUMN content SET DEFAULT 'own'",
     "its columns have options or defaults of their own"),
    ("COMMENT ON COLUMN {p}.content IS 'own'",
     "comments on its columns, indexes or constraints, or labels"),
    ("CREATE MATERIALIZED VIEW kept AS SELECT id FROM {p}",
     "views, policies, publications, statistics objects, functions or sequences depend on it"),
    ("DROP TABLE {p}; CREATE TABLE {p} PARTITION OF chunks FOR VALUES IN ({n}) PARTITION BY HASH (id); "
     "CREATE TABLE below PARTITION OF {p} FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
     "it is partitioned itself, or no plain table"),
]


def test_what_partitions_have_of_their_own_is_refused_by_their_name(db):
    partitioned(db, partition_by="LIST (chunk_index)", key="id, collection_id, chunk_index", more="".join(
        f"CREATE TABLE p{n} PARTITION OF chunks FOR VALUES IN ({n});"
        for n in range(len(REFUSED_OF_PARTITIONS) + 1)))
    db.as_owner("CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    assert shadow(db, "plan", trigger="")["refusals"] == []
    for n, (sql, _) in enumerate(REFUSED_OF_PARTITIONS):
        db.as_owner(sql.format(p=f"p{n}", n=n))
    before = catalog(db)
    report = shadow(db, "there", trigger="")
    assert report["code"] == 1
    assert {r["what"]: r["why"] for r in report["refusals"]} == {
        f"partition public.p{n}": why for n, (_, why) in enumerate(REFUSED_OF_PARTITIONS)}
    assert catalog(db) == before


# What cannot be carried over, by SQL that makes it and the name under which it is refused.
REFUSED = [
    ("ALTER TABLE chunks ADD COLUMN next int GENERATED ALWAYS AS (partition_key + 1) STORED",
     "generated column next"),
    ("CREATE MATERIALIZED VIEW kept AS SELECT id FROM chunks", "materialized view public.kept"),
    ("CREATE FUNCTION rows_of() RETURNS SETOF chunks LANGUAGE sql AS 'SELECT * FROM chunks'",
     "function rows_of()"),
    ("CREATE TABLE holder (c chunks)", "column c of table holder"),
    ("CREATE VIEW whole AS SELECT c FROM chunks c", "column c of view whole"),
    ("CREATE TABLE pointing (t regclass DEFAULT 'chunks'::regclass)",
     "default value for column t of table pointing"),
    ("CREATE TRIGGER early BEFORE UPDATE ON chunks FOR EACH ROW WHEN (NEW.partition_key > 0) "
     "EXECUTE FUNCTION compute_partition_key()", "trigger early on public.chunks"),
    ("CREATE TABLE halves (k int PRIMARY KEY); ALTER TABLE chunks ADD CONSTRAINT cascading FOREIGN KEY "
     "(partition_key) REFERENCES halves ON UPDATE CASCADE NOT VALID",
     "foreign key cascading of public.chunks"),
    ("CREATE TABLE many (id bigint, collection_id varchar, partition_key int, CONSTRAINT many_to FOREIGN "
     "KEY (id, collection_id, partition_key) REFERENCES chunks) PARTITION BY HASH (id)",
     "foreign key many_to of public.many"),
    ("CREATE TABLE chunks_pgsluice_old (x int)", "public.chunks"),
]


def test_what_cannot_come_along_is_refused_by_name(db):
    assert shadow(db, "plan")["refusals"] == []
    db.as_owner("COMMENT ON TYPE chunks IS 'a row'")
    assert shadow(db, "plan")["refusals"] == [
        {"what": "public.chunks", "why": "its row type has grants or a comment"}]
    db.as_owner("COMMENT ON TYPE chunks IS NULL; CREATE TABLE child () INHERITS (chunks)")
    assert {"what": "public.chunks", "why": "it has parents or children by inheritance"} in \
        shadow(db, "plan")["refusals"]
    db.as_owner("DROP TABLE child;" + ";".join(sql for sql, _ in REFUSED))
    before = catalog(db)
    report = shadow(db, "there")
    assert report["code"] == 1
    assert sorted({r["what"] for r in report["refusals"]}) == sorted(name for _, name in REFUSED)
    assert catalog(db) == before


def test_rows_without_identity_are_refused(db):
    db.as_owner("ALTER TABLE chunks DROP CONSTRAINT chunks_pkey;"
                "CREATE UNIQUE INDEX nullable ON chunks (id, document_id);"
                "CREATE UNIQUE INDEX partial ON chunks (id) WHERE id > 0")
    assert [r["what"] for r in shadow(db, "plan")["refusals"]] == ["identity of rows"]
    db.as_owner("CREATE UNIQUE INDEX whole ON chunks (id, collection_id)")
    assert shadow(db, "plan")["key"] == "id, collection_id"


def test_what_belongs_to_others_is_refused(db):
    db.psql("""
        CREATE VIEW theirs AS SELECT id FROM chunks;
        CREATE TABLE their_table (chunk bigint);
        CREATE UNIQUE INDEX ids ON chunks (id);
        ALTER TABLE their_table ADD CONSTRAINT their_key FOREIGN KEY (chunk) REFERENCES chunks (id);
        GRANT SELECT ON chunks TO app WITH GRANT OPTION;
        CREATE FUNCTION secret() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        REVOKE ALL ON FUNCTION secret() FROM PUBLIC;
        CREATE TRIGGER secret AFTER INSERT ON chunks FOR EACH ROW EXECUTE FUNCTION secret();
        CREATE PUBLICATION everything FOR ALL TABLES;
        SELECT pg_create_logical_replication_slot('listener', 'pgoutput')""")
    try:
        db.psql("SET ROLE app; GRANT SELECT ON chunks TO pg_monitor")
        refused = {r["what"]: r["why"] for r in shadow(db, "plan")["refusals"]}
    finally:
        db.psql("SELECT pg_drop_replication_slot('listener')")
    assert refused == {
        "view public.theirs": "public.theirs belongs to another role",
        "foreign key their_key of public.their_table": "public.their_table belongs to another role",
        "trigger secret on public.chunks": "the control role may not execute its function",
        "public.chunks": "it has grants that are not its owner's",
        "publication everything": "it publishes every table, and so the shadow as well: its "
                                  "subscribers would stop"}


def test_abort_and_finish_leave_nothing(rich):
    db = rich
    before = catalog(db)
    swap(db, "create")
    assert catalog(db) != before
    swap(db, "drop")
    assert catalog(db) == before
    swap(db, "there")
    swap(db, "drop")
    assert db.psql("SELECT relname FROM pg_class WHERE relname LIKE '%pgsluice%' UNION ALL "
                   "SELECT stxname FROM pg_statistic_ext WHERE stxname LIKE '%pgsluice%' UNION ALL "
                   "SELECT conname FROM pg_constraint WHERE conname LIKE '%pgsluice%'") == ""
    assert differences(before, catalog(db)) == "\n".join(
        line for line in map("- {}".format, before) if "compute_partition_key_trigger" in line)


def test_a_plan_tells_what_would_be_done_and_does_nothing(rich):
    before = catalog(rich)
    outline = swap(rich, "plan")["outline"]
    text = "\n".join(outline)
    assert catalog(rich) == before
    for words in ('CREATE TABLE "public"."chunks_pgsluice_new"', "GENERATED ALWAYS AS (mod(hashtext(",
                  "CREATE UNIQUE INDEX", "ANALYZE", "DROP TRIGGER on_key", "CREATE TRIGGER on_key",
                  "RENAME TO chunks_pgsluice_old", "CREATE OR REPLACE VIEW other.grouped",
                  "VALIDATE CONSTRAINT to_chunks"):
        assert words in text, words
    assert outline[-1].startswith("ALTER TABLE")


def test_numbers_go_on_where_they_were(rich):
    db = rich
    def insert():
        return [int(x) for x in db.psql(
            "INSERT INTO chunks (collection_id, document_id, chunk_index, content) "
            "VALUES ('a', 'd', 99, 'x') RETURNING id, number, line, ticket").split("|")]

    before = insert()
    for command in ("there", "back", "there"):
        swap(db, command)
        after = insert()
        # A sequence with a cache gives each session its own four numbers.
        assert [b - a for a, b in zip(before, after)] == [1, 12, 1, 1]
        assert db.psql("SELECT pg_get_serial_sequence('chunks', 'id'), pg_get_serial_sequence("
                       "'chunks', 'number')") == "public.chunks_id_seq|public.numbers"
        before = after


def test_a_change_behind_its_back_stops_the_flip(rich):
    db = rich
    swap(db, "create")
    db.as_owner("CREATE INDEX late ON chunks (content); CREATE STATISTICS late_too ON chunk_index, ticket FROM chunks;"
                "ALTER TABLE chunks ADD CONSTRAINT newest CHECK (chunk_index > -5); DROP INDEX covering")
    before = catalog(db, hidden=ASIDE)
    swap(db, "there")
    assert differences(before, catalog(db, hidden=ASIDE)) == ""
    db.as_owner("CREATE INDEX later ON chunks (word); DROP INDEX late; GRANT SELECT (id) ON chunks TO app;"
                "COMMENT ON COLUMN chunks.word IS 'new'; DROP VIEW checked; ALTER TABLE chunks DROP CONSTRAINT newest;"
                "CREATE TRIGGER newer AFTER DELETE ON chunks FOR EACH ROW EXECUTE FUNCTION noted()")
    before = catalog(db, hidden=ASIDE)
    swap(db, "back")
    assert differences(before, catalog(db, hidden=ASIDE)) == ""
    db.as_owner("ALTER TABLE chunks ADD COLUMN surplus int")
    refused = shadow(db, "there")["refusals"]
    assert [r["what"] for r in refused] == ["chunks_pgsluice_new"]
    swap(db, "drop")
    swap(db, "there")


def test_strange_names(db):
    table = """"S p"."T'a""b%s$$ {from} a name that is quite long, with umlauts: äöüäöüäö" """
    db.as_owner(f"""
        CREATE SCHEMA "S p";
        CREATE TABLE {table} ("Src" text NOT NULL, "K'$1%I" text COLLATE "C" NOT NULL,
            n serial, PRIMARY KEY ("Src", "K'$1%I"), CONSTRAINT "c'k%s" CHECK ("Src" <> '%s{{to}}'));
        CREATE INDEX "i'x{{name_text}}" ON {table} ("K'$1%I");
        CREATE VIEW "v'w" AS SELECT "K'$1%I" FROM {table};
        COMMENT ON INDEX "S p"."i'x{{name_text}}" IS 'it''s %s';
        INSERT INTO {table} ("Src", "K'$1%I") VALUES ('a', 'A--x'), ('b', 'B--x')""")
    name = db.psql("SELECT relname FROM pg_class WHERE relname LIKE 'T''a%' AND relkind = 'r'")
    options = dict(schema="S p", table=name, column="K'$1%I", trigger="",
                   expression="upper(\"Src\") || '--x' -- a comment")
    before = catalog(db, column="K'$1%I", hidden=ASIDE)
    for command in ("there", "back", "there"):
        swap(db, command, **options)
        assert differences(before, catalog(db, column="K'$1%I", hidden=ASIDE)) == ""
    db.psql(f"""INSERT INTO {table} ("Src") VALUES ('c')""")
    assert db.psql(f"""SELECT "K'$1%I", n FROM {table} ORDER BY 1""") == "A--x|1\nB--x|2\nC--x|3"
    swap(db, "drop", **options)
    assert db.psql("SELECT count(*) FROM pg_class WHERE relname LIKE '%pgsluice%'") == "0"
