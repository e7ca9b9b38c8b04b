"""What the cutover refuses, and by which check; a refusal changes nothing."""

import pytest

from lib import common, schema

CASES = {
    # name: (SQL as the owner, blocking checks, options, first major)
    "observe": ("", ["mode"], {"mode": "observe"}, 12),
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
    db.as_owner(sql)
    before = db.describe()
    plan = db.probe("plan", **options)
    assert plan.code == 1 and plan.blocking() == blocking, plan
    done = db.probe("cutover", **options)
    assert done.code == 1 and done.blocking() == blocking, done
    assert all(check["remedy"] for check in done.report["checks"]
               if check["verdict"] == "BLOCK" and check["id"] != "nulls")
    assert db.describe() == before and db.residue() == "" and not db.is_generated()


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
