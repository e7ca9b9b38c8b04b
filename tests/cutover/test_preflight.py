"""What the cutover refuses, and by which check; a refusal changes nothing."""

import json
import time

import psycopg2
import pytest

from conftest import Database
from lib import common, schema
from lib.pgserver import Server
from lib.proxy import Proxy, strip_rule

CASES = {
    # name: (SQL as the owner, blocking checks, options, first major)
    "observe": ("", ["mode"], {"mode": "observe"}, 12),
    "compute": ("", ["mode"], {"mode": "compute"}, 12),
    "too large": ("", ["size"], {"max_hold": 41, "strategy": "inplace"}, 12),
    "wrong body": (
        "CREATE OR REPLACE FUNCTION compute_partition_key() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.partition_key := abs(mod(hashtext(NEW.collection_id::text), 100)); "
        "RETURN NEW; END'", ["trigger-body"], {}, 12),
    "side effects": (
        "CREATE TABLE log (t text); CREATE OR REPLACE FUNCTION compute_partition_key() "
        "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (''x''); "
        "NEW.partition_key := mod(hashtext(NEW.collection_id::text), 100); RETURN NEW; END'",
        ["trigger-body"], {}, 12),
    "only when null": (
        "CREATE OR REPLACE FUNCTION compute_partition_key() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF NEW.partition_key IS NULL THEN NEW.partition_key := "
        "mod(hashtext(NEW.collection_id::text), 100); END IF; RETURN NEW; END';"
        "UPDATE chunks SET collection_id = 'x', partition_key = mod(hashtext('x'), 100) "
        "WHERE id % 2 = 0", ["trigger-body"], {}, 12),
    "two columns": (
        "CREATE OR REPLACE FUNCTION compute_partition_key() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.partition_key := mod(hashtext(NEW.collection_id::text), 100); "
        "NEW.content := upper(NEW.content); RETURN NEW; END'", ["trigger-body"], {}, 12),
    "conditional": (
        "DROP TRIGGER compute_partition_key_trigger ON chunks; CREATE TRIGGER t BEFORE INSERT ON "
        "chunks FOR EACH ROW WHEN (NEW.id > 0) EXECUTE FUNCTION compute_partition_key()",
        ["trigger"], {}, 12),
    "two triggers": (
        "CREATE TRIGGER again BEFORE INSERT ON chunks FOR EACH ROW "
        "EXECUTE FUNCTION compute_partition_key()", ["trigger"], {}, 12),
    "a trigger that reads it": (
        "CREATE FUNCTION reads() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF NEW.partition_key > 5 THEN RETURN NULL; END IF; RETURN NEW; END';"
        "CREATE TRIGGER reads BEFORE INSERT ON chunks FOR EACH ROW EXECUTE FUNCTION reads()",
        ["trigger"], {}, 12),
    "drifted": ("UPDATE chunks SET partition_key = 1000 WHERE id IN (3, 4)", ["values"], {}, 12),
    "no expression": ("", ["expression"], {"expression": "nothing(collection_id)"}, 12),
    "volatile": ("", ["expression"], {"expression": "(random() * 100)::int"}, 12),
    "itself": ("", ["expression"], {"expression": "partition_key + 0"}, 12),
    "wrong type": ("", ["expression"], {"expression": "collection_id || 'x'"}, 12),
    "materialized view": (
        "CREATE MATERIALIZED VIEW m AS SELECT partition_key FROM chunks", ["dependents"], {}, 12),
    "over a view": (
        "CREATE VIEW v AS SELECT partition_key FROM chunks; "
        "CREATE MATERIALIZED VIEW m AS SELECT * FROM v", ["dependents"], {}, 12),
    "view with a trigger": (
        "CREATE VIEW v AS SELECT partition_key FROM chunks; CREATE FUNCTION f() RETURNS trigger "
        "LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER t INSTEAD OF INSERT ON v "
        "FOR EACH ROW EXECUTE FUNCTION f()", ["dependents"], {}, 12),
    "rule": (
        "CREATE TABLE o (k int); CREATE RULE r AS ON INSERT TO chunks DO ALSO "
        "INSERT INTO o VALUES (NEW.partition_key)", ["dependents"], {}, 12),
    "function": (
        "CREATE FUNCTION body() RETURNS int LANGUAGE SQL BEGIN ATOMIC "
        "SELECT max(partition_key) FROM chunks; END", ["dependents"], {}, 14),
    "generated from it": (
        "ALTER TABLE chunks ADD COLUMN g int GENERATED ALWAYS AS (partition_key + 1) STORED",
        ["dependents"], {}, 12),
    "sequence": (
        "CREATE SEQUENCE s OWNED BY chunks.partition_key", ["dependents"], {}, 12),
    "column list": (
        "CREATE PUBLICATION p FOR TABLE chunks (id, collection_id, partition_key)",
        ["dependents", "publications"], {}, 15),
    "publication": ("CREATE PUBLICATION p FOR TABLE chunks", ["publications"], {}, 12),
    "child": ("CREATE TABLE child () INHERITS (chunks)", ["inheritance"], {"strategy": "inplace"}, 12),
    "row type": ("CREATE TABLE holder (c chunks)", ["row-type"], {}, 12),
    "function that inserts": (
        "CREATE FUNCTION w() RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.chunks "
        "(collection_id, partition_key, chunk_index, content) VALUES (''a'', 1, 1, ''x''); END'",
        ["functions"], {}, 12),
    "function that updates": (
        "CREATE FUNCTION w() RETURNS void LANGUAGE SQL AS 'UPDATE chunks c SET content = ''x'', "
        "partition_key = 5 WHERE id = 1'", ["functions"], {}, 12),
    "lock timeout": ("ALTER ROLE app SET lock_timeout = '200ms'", ["lock-timeout"], {}, 12),
    "statement timeout": (
        "ALTER ROLE app SET statement_timeout = '0.25s'", ["statement-timeout"], {}, 12),
    "foreign key that writes": (
        "CREATE TABLE keys (k int PRIMARY KEY); INSERT INTO keys SELECT generate_series(-99, 99);"
        "ALTER TABLE chunks ADD FOREIGN KEY (partition_key) REFERENCES keys ON UPDATE CASCADE",
        ["dependents"], {}, 12),
}


@pytest.mark.parametrize("name", list(CASES))
def test_refused(db, name):
    sql, blocking, options, first = CASES[name]
    if common.pg_major() < first:
        pytest.skip(f"needs PostgreSQL {first}")
    (db.psql if sql.startswith("ALTER ROLE") else db.as_owner)(sql)
    before = db.describe()
    plan = db.probe("plan", **options)
    assert plan.code == 1 and plan.blocking() == blocking, plan
    done = db.probe("cutover", **options)
    assert done.code == 1 and done.blocking() == blocking, done
    assert all(check["remedy"] for check in done.report["checks"]
               if check["verdict"] == "BLOCK" and check["id"] != "nulls")
    assert db.describe() == before and db.residue() == "" and not db.is_generated()
    db.psql("ALTER ROLE app RESET ALL")


# What checks say that stop nothing: name: (SQL, [(check, verdict, words)], options, first major)
NOTED = {
    "as it is": ("", [
        ("column-order", "WARN", "content, metadata, created_at"),
        ("sequences", "PASS", "chunks_id_seq of id"),
        ("replica-identity", "PASS", "chunks_pkey contains the column"),
        ("disk", "WARN", "cannot be seen"),
        ("bypass", "PASS", "no other session"),
        ("maintenance", "PASS", "no VACUUM"),
        ("lock-timeout", "PASS", "sets lock_timeout"),
        ("wraparound", "PASS", "% of the way"),
        ("expression-functions", "PASS", "immutable"),
    ], {}, 12),
    "with this and that": (
        "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
        "CREATE TRIGGER after_all AFTER DELETE ON chunks FOR EACH ROW EXECUTE FUNCTION noted(); "
        "ALTER TABLE chunks DISABLE TRIGGER after_all;"
        "ALTER TABLE chunks ADD CONSTRAINT later CHECK (partition_key < 5000) NOT VALID;"
        "CREATE INDEX by_key ON chunks (partition_key);"
        "CREATE VIEW shown AS SELECT partition_key, count(*) FROM chunks GROUP BY 1;"
        "CREATE FUNCTION counts() RETURNS bigint LANGUAGE SQL AS "
        "'SELECT count(*) FROM chunks WHERE partition_key = 5';"
        "ALTER TABLE chunks REPLICA IDENTITY FULL", [
            ("other-triggers", "PASS", "after_all (after delete, noted, disabled)"),
            ("constraints", "PASS", "later, NOT VALID"),
            ("planner", "PASS", "by_key"),
            ("key-domain", "WARN", "constraint later CHECK ((partition_key < 5000)) NOT VALID, "
                                   "view shown"),
            ("functions", "WARN", "public.counts"),
            ("replica-identity", "PASS", "FULL"),
        ], {}, 12),
    "the last column": (
        "ALTER TABLE chunks DROP COLUMN partition_key CASCADE; ALTER TABLE chunks ADD partition_key "
        "int; UPDATE chunks SET partition_key = mod(hashtext(collection_id::text), 100);"
        "CREATE UNIQUE INDEX narrow ON chunks (id);"
        "ALTER TABLE chunks REPLICA IDENTITY USING INDEX narrow", [
            ("column-order", "PASS", "last"),
            ("replica-identity", "PASS", "narrow, without the column"),
        ], {}, 12),
    "published with it": (
        "CREATE PUBLICATION p FOR TABLE chunks WITH (publish_generated_columns = stored)",
        [("replica-identity", "WARN", "chunks_pkey contains the column")], {}, 18),
    "another type": (
        "", [("expression-type", "WARN", "bigint")],
        {"expression": "mod(hashtext(collection_id::text), 100)::bigint"}, 12),
    "functions of one's own": (
        "CREATE FUNCTION my_key(text) RETURNS int IMMUTABLE LANGUAGE SQL AS "
        "'SELECT mod(hashtext($1), 100)'; CREATE OR REPLACE FUNCTION compute_partition_key() "
        "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.partition_key := "
        "public.my_key(NEW.collection_id); RETURN NEW; END'",
        [("expression-functions", "WARN", "my_key(text)")],
        {"expression": "my_key(collection_id)"}, 12),
    "a whole hash": (
        "CREATE OR REPLACE FUNCTION compute_partition_key() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.partition_key := abs(hashtext(NEW.collection_id)) % 100; RETURN NEW; END'; "
        "UPDATE chunks SET partition_key = abs(hashtext(collection_id)) % 100",
        [("expression-range", "WARN", "22003")],
        {"expression": "abs(hashtext(collection_id)) % 100"}, 12),
    "timeouts": (
        "ALTER ROLE app SET statement_timeout = '30s'; ALTER ROLE app SET lock_timeout = '310'",
        [("statement-timeout", "PASS", "30000 ms (app)"),
         ("lock-timeout", "WARN", "app has lock_timeout = 310")], {}, 12),
}


@pytest.mark.parametrize("name", list(NOTED))
def test_noted(db, name):
    sql, expected, options, first = NOTED[name]
    if common.pg_major() < first:
        pytest.skip(f"needs PostgreSQL {first}")
    (db.psql if sql.startswith("ALTER ROLE") else db.as_owner)(sql)
    plan = db.probe("plan", **options)
    db.psql("ALTER ROLE app RESET ALL")
    assert plan.code == 0, plan
    for check, verdict, words in expected:
        found = plan.check(check)
        assert (found["verdict"], words in found["evidence"]) == (verdict, True), found


@pytest.mark.majors(12, 99)
def test_every_check_has_one_id_and_a_remedy_where_it_blocks(db):
    checks = db.probe("plan").report["checks"]
    ids = [check["id"] for check in checks]
    assert len(set(ids)) == len(ids) and len(ids) > 40, ids
    assert all(check["evidence"] for check in checks)


@pytest.mark.majors(12, 99)
def test_the_disk_is_looked_at_where_it_can_be(db):
    db.psql("GRANT pg_read_all_settings TO pgsluice")
    try:
        found = db.probe("plan").check("disk")
    finally:
        db.psql("REVOKE pg_read_all_settings FROM pgsluice")
    assert found["verdict"] == "PASS" and str(db.server.data) in found["evidence"], found


@pytest.mark.majors(12, 99)
def test_a_schema_that_takes_no_index(db):
    db.psql("ALTER SCHEMA public OWNER TO postgres; REVOKE ALL ON SCHEMA public FROM PUBLIC;"
            "GRANT USAGE ON SCHEMA public TO pgsluice, app")
    refused = db.probe("cutover")
    assert refused.code == 1 and refused.blocking() == ["table-schema"], refused


@pytest.mark.majors(12, 99)
def test_an_invalid_index(db):
    with pytest.raises(RuntimeError, match="could not create unique index"):
        db.as_owner("CREATE UNIQUE INDEX CONCURRENTLY broken ON chunks (collection_id)")
    refused = db.probe("cutover")
    assert refused.code == 1 and refused.blocking() == ["indexes"], refused
    assert "broken" in refused.check("indexes")["evidence"]


@pytest.mark.majors(12, 99)
def test_a_table_near_wraparound(db):
    """Its own limit is the least that there is, 100 000 transactions; no autovacuum comes between."""
    db.as_owner("VACUUM (FREEZE) chunks")
    db.as_owner("ALTER TABLE chunks SET (autovacuum_freeze_max_age = 100000)")
    db.psql("SET synchronous_commit = off; DO $$ BEGIN FOR i IN 1..91000 LOOP "
            "PERFORM txid_current(); COMMIT; END LOOP; END $$")
    refused = db.probe("plan")
    assert refused.code == 1 and refused.blocking() == ["wraparound"], refused
    db.as_owner("VACUUM (FREEZE) chunks")
    assert db.probe("plan").check("wraparound")["verdict"] == "PASS"


@pytest.mark.majors(12, 99)
def test_who_else_is_there(db):
    with psycopg2.connect(db.dsn("app", application_name="batch")) as other:
        found = db.probe("plan").check("bypass")
        assert found["verdict"] == "WARN" and "1 sessions" in found["evidence"], found
        found = db.probe("plan", proxied=0).check("bypass")
        assert "1 of 1 sessions" in found["evidence"], found
        assert "batch (app from 127.0.0.1)" in found["evidence"], found
        pid = other.get_backend_pid()
        assert db.probe("plan", proxied=pid).check("bypass")["verdict"] == "PASS"
    other.close()


@pytest.mark.majors(12, 99)
def test_maintenance_and_long_transactions(db):
    with psycopg2.connect(db.dsn("pgsluice")) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE chunks IN SHARE UPDATE EXCLUSIVE MODE")
        time.sleep(1.2)
        plan = db.probe("plan")
        assert plan.check("maintenance")["verdict"] == "WARN", plan
        assert f"ShareUpdateExclusiveLock, pid {other.get_backend_pid()}" in \
            plan.check("maintenance")["evidence"]
        assert f"pid {other.get_backend_pid()}" in plan.check("long-transactions")["evidence"]
    other.close()


@pytest.mark.majors(12, 99)
def test_a_subscribed_table(db, pg):
    db.psql("CREATE SUBSCRIPTION from_elsewhere CONNECTION 'dbname=nowhere' PUBLICATION p "
            "WITH (connect = false)")
    try:
        db.psql("INSERT INTO pg_subscription_rel SELECT oid, 'chunks'::regclass, 'i', '0/0' "
                "FROM pg_subscription WHERE subname = 'from_elsewhere'")
        refused = db.probe("cutover")
        assert refused.code == 1 and refused.blocking() == ["subscriptions"], refused
    finally:
        db.psql("ALTER SUBSCRIPTION from_elsewhere SET (slot_name = NONE)")
        db.psql("DROP SUBSCRIPTION from_elsewhere")


@pytest.mark.majors(12, 99)
def test_a_slot_of_somebody(db):
    db.psql("SELECT pg_create_logical_replication_slot('somebody', 'pgoutput')")
    try:
        found = db.probe("plan").check("replication-slots")
        assert found["verdict"] == "WARN" and "somebody (pgoutput)" in found["evidence"], found
    finally:
        db.psql("SELECT pg_drop_replication_slot('somebody')")


@pytest.mark.majors(12, 99)
def test_drift_is_explained(db):
    db.psql("UPDATE chunks SET collection_id = 'moved' WHERE id <= 3")
    found = db.probe("plan").check("values")
    assert found["verdict"] == "BLOCK" and "INSERT only" in found["evidence"], found
    assert "rows were updated" in found["evidence"]


@pytest.mark.majors(12, 99)
def test_values_of_another_formula_are_recognised(db):
    db.psql("UPDATE chunks SET partition_key = abs(mod(hashtext(collection_id::text), 100))")
    found = db.probe("plan").check("values")
    assert "without the sign" in found["evidence"], found


@pytest.mark.majors(12, 99)
def test_what_the_tickets_sql_would_do(db):
    db.as_owner(
        "CREATE VIEW grouped AS SELECT id, content FROM chunks GROUP BY id, collection_id, "
        "partition_key; CREATE INDEX by_key ON chunks (partition_key);"
        "CREATE POLICY p ON chunks USING (partition_key > 0);"
        "ALTER TRIGGER compute_partition_key_trigger ON chunks RENAME TO set_partition_key;"
        "UPDATE chunks SET partition_key = 1000 WHERE id = 7")
    plan = db.probe("plan")
    said = {}
    for sentence in plan.report["ticket"]:
        said.setdefault(sentence["step"], []).append(sentence["text"])
    assert "syntax error" in said["SET GENERATED"][0]
    assert "changes 1 stored keys" in said["UPDATE"][0]
    assert "view grouped" in said["DROP CONSTRAINT"][0]
    assert "index public.by_key" in said["DROP COLUMN"][0]
    assert "policy p" in said["DROP COLUMN"][1]
    assert "the trigger here is set_partition_key" in said["DROP TRIGGER"][0]
    assert "saves nothing" in said["temp_constraints"][0]
    assert "negative" in said["distribution"][0]
    assert ("rollback" in said) == (common.pg_major() == 12)
    text, _ = db.start_probe("plan", text="yes").communicate(timeout=60)
    assert "The ticket's own SQL, on this table:" in text
    # and it is true: the one statement that is said to be impossible is
    with pytest.raises(RuntimeError, match="syntax error"):
        db.as_owner("ALTER TABLE chunks ALTER COLUMN partition_key SET GENERATED ALWAYS AS "
                    f"({schema.KEY}) STORED")
    db.as_owner("BEGIN; ALTER TABLE chunks DROP CONSTRAINT chunks_pkey CASCADE; "
                "DO $$ BEGIN ASSERT to_regclass('grouped') IS NULL; END $$; ROLLBACK")


@pytest.mark.majors(12, 99)
def test_statements_that_the_server_remembers():
    server = Server(settings={"shared_preload_libraries": "pg_stat_statements"}).start()
    try:
        own = Database(server)
        schema.create_chunks(server, "trigger", own.name)
        own.fill(10)
        own.psql("CREATE EXTENSION pg_stat_statements")
        assert own.probe("plan").check("statements")["verdict"] == "PASS"
        own.psql("INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
                 "VALUES ('a', 1, 1, 'x')")
        own.psql("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'y')")
        own.psql("SELECT count(*) FROM chunks WHERE partition_key = 5")
        found = own.probe("plan").check("statements")
        assert found["verdict"] == "WARN" and found["evidence"].count("calls)") == 1, found
        assert "collection_id, partition_key, chunk_index" in found["evidence"]
    finally:
        server.stop()


@pytest.mark.majors(15, 15)  # the others' packages have no pg_basebackup
def test_a_standby_is_not_the_place():
    primary = Server().start()
    standby = None
    try:
        own = Database(primary)
        schema.create_chunks(primary, "trigger", own.name)
        standby = Server(standby_of=primary).start()
        refused = own.probe("cutover", host=standby.host, port=standby.port)
        assert refused.code == 1 and "primary" in refused.blocking(), refused
        common.wait_until(lambda: primary.psql("SELECT count(*) FROM pg_stat_replication",
                                               dbname=own.name) == "1", 10, "the standby")
        found = own.probe("plan").check("standbys")
        assert found["verdict"] == "WARN" and "streaming" in found["evidence"], found
    finally:
        if standby:
            standby.stop()
        primary.stop()


ACCEPTED = {
    "select into": "BEGIN SELECT mod(hashtext(NEW.collection_id::text), 100) INTO NEW.partition_key; "
                   "RETURN NEW; END;",
    "upper case": "BEGIN /* the key */ new.PARTITION_KEY := MOD(HASHTEXT(NEW.collection_id), 100); "
                  "RETURN NEW; END",
    "variable": "DECLARE h int; BEGIN h := hashtext(NEW.collection_id::text); "
                "NEW.partition_key := mod(h, 100); RETURN NEW; END",
}


@pytest.mark.majors(12, 99)
@pytest.mark.parametrize("name", list(ACCEPTED))
def test_other_spellings_of_the_same_trigger(db, name):
    db.as_owner("CREATE OR REPLACE FUNCTION compute_partition_key() RETURNS trigger "
                f"LANGUAGE plpgsql AS $$ {ACCEPTED[name]} $$")
    done = db.probe("cutover")
    assert done.code == 0 and done.check("trigger-body")["verdict"] == "PASS", done
    back = db.probe("rollback")
    assert back.code == 0, back
    assert db.psql("SELECT prosrc FROM pg_proc WHERE proname = 'compute_partition_key'").strip() \
        == ACCEPTED[name]


@pytest.mark.majors(12, 99)
def test_a_table_without_a_trigger(db):
    db.as_owner("DROP TRIGGER compute_partition_key_trigger ON chunks;"
                "DROP FUNCTION compute_partition_key()")
    assert db.probe("verify").report["method"] == "none"
    done = db.probe("cutover")
    assert done.code == 0 and done.check("trigger")["verdict"] == "WARN", done
    assert db.probe("rollback").code == 0
    assert db.probe("verify").report["method"] == "none"


@pytest.mark.majors(12, 99)
def test_partitioned_by_the_column(db, pg):
    schema.create_chunks(pg, "partitioned", db.name)
    refused = db.probe("cutover", strategy="inplace")
    assert refused.code == 1 and "table" in refused.blocking(), refused
    assert "42P17" in refused.check("table")["evidence"]
    assert "PARTITION BY HASH (collection_id)" in refused.check("table")["evidence"]
    assert db.catalog(mode="reject")[:2] == (0, 2)
    code, line = db.catalog(mode="strip")
    assert code == 1 and "42P17" in line and "\n" not in line


@pytest.mark.majors(12, 99)
def test_a_role_without_rights(db):
    db.psql("GRANT SELECT ON chunks TO app")
    refused = db.probe("cutover", user="app")
    assert refused.code == 1 and {"role", "state-schema"} <= set(refused.blocking()), refused
    assert db.residue() == "" and not db.is_generated()


@pytest.mark.majors(12, 99)
def test_drifted_rows_are_shown(db):
    db.psql("UPDATE chunks SET partition_key = 1000 WHERE id IN (3, 4)")
    refused = db.probe("cutover")
    values = refused.report["values"]
    assert values["mismatches"] == 2 and len(values["examples"]) == 2
    assert {example["stored"] for example in values["examples"]} == {1000}
    verified = db.probe("verify")
    assert verified.code == 1 and verified.report["values"]["mismatches"] == 2
    assert db.psql("SELECT count(*) FROM chunks WHERE partition_key = 1000") == "2"


@pytest.mark.majors(11, 11)
def test_version_11_keeps_its_trigger(db):
    for command in ("plan", "cutover"):
        refused = db.probe(command)
        assert refused.code == 3, refused
        assert refused.summary == ("generated columns need PostgreSQL 12 or newer; "
                                   "the trigger stays in place")
    assert db.residue() == ""
    verified = db.probe("verify")
    assert verified.code == 0 and verified.report["method"] == "trigger", verified


def test_verify_shows_the_distribution(db):
    verified = db.probe("verify")
    values = verified.report["values"]
    assert verified.code == 0 and values["rows"] == 2000 and values["mismatches"] == 0
    assert sum(entry["rows"] for entry in values["histogram"]) == 2000
    assert values["distinct"] == len(values["histogram"]) and values["skew"] > 1
    counts = [entry["rows"] for entry in values["histogram"]]
    assert counts == sorted(counts, reverse=True)


def test_the_catalog_names_what_writes_through(db):
    db.as_owner("CREATE VIEW v AS SELECT * FROM chunks; CREATE VIEW vv AS SELECT * FROM v;"
                "CREATE TABLE inbox (c text); CREATE RULE r AS ON INSERT TO inbox DO INSTEAD "
                "INSERT INTO chunks (collection_id, chunk_index, content) VALUES (NEW.c, 0, '');"
                "CREATE MATERIALIZED VIEW m AS SELECT * FROM chunks")
    assert db.catalog() == (0, 0, False, schema.COLUMNS, ["public.inbox", "public.v", "public.vv"])


def test_the_catalog_says_what_is_wrong(db):
    for options, words in ((dict(table="nope"), "does not exist"),
                           (dict(column="nope"), "no column"),
                           (dict(user="nobody_knows"), "nobody_knows"),
                           (dict(port=1), "port 1")):
        code, line = db.catalog(**options)
        assert code == 1 and words in line and "\n" not in line, (options, line)


@pytest.mark.majors(12, 99)
def test_the_proxy_knows_its_own_sessions(db, pg):
    proxy = Proxy(pg, rules=[strip_rule("strip", database=db.name)]).start()
    try:
        inside = psycopg2.connect(proxy.dsn(db.name, "app"))
        assert plan_through(proxy)["verdict"] == "PASS"
        outside = psycopg2.connect(db.dsn("app", application_name="batch"))
        found = plan_through(proxy)
        assert found["verdict"] == "WARN" and "1 of 2 sessions" in found["evidence"], found
        inside.close()
        outside.close()
    finally:
        proxy.stop()


def plan_through(proxy):
    report = json.loads(proxy.command("plan", "chunks", "--json").stdout)
    return next(check for check in report["checks"] if check["id"] == "bypass")
