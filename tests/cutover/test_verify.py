"""The points of acceptance that `verify` checks: each can fail."""

import json

import psycopg2
import pytest

from lib import common, schema
from lib.proxy import Proxy, strip_rule


def verdicts(result):
    return {check["id"]: check["verdict"] for check in result.report["checks"]}


@pytest.mark.majors(12, 99)
def test_before_and_after_the_cutover(db):
    before = db.probe("verify")
    assert before.code == 0 and before.report["method"] == "trigger", before
    found = verdicts(before)
    assert (found["generated"], found["no-trigger"], found["no-function"], found["inserts"],
            found["values"]) == ("WARN", "WARN", "WARN", "PASS", "PASS"), before
    assert not before.report["accepted"]
    rows = db.psql("SELECT count(*) FROM chunks")
    assert db.probe("cutover").code == 0
    after = db.probe("verify")
    assert after.code == 0 and after.report["method"] == "generated", after
    found = verdicts(after)
    # 300 collections are not even, and the probe has no audit log
    assert found.pop("distribution") == "WARN" and found.pop("clients") == "WARN"
    assert set(found.values()) == {"PASS"}, after
    assert db.psql("SELECT count(*) FROM chunks") == rows


@pytest.mark.majors(12, 99)
def test_what_is_left_of_the_trigger(db):
    assert db.probe("cutover").code == 0
    db.as_owner("CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS "
                "'BEGIN NEW.partition_key := 5; RETURN NEW; END'")
    assert verdicts(db.probe("verify"))["no-function"] == "WARN"
    db.as_owner("CREATE TRIGGER again BEFORE INSERT ON chunks FOR EACH ROW EXECUTE FUNCTION again()")
    wrong = db.probe("verify")
    assert wrong.code == 1 and wrong.blocking() == ["no-trigger"], wrong


@pytest.mark.majors(12, 99)
def test_inserts_that_fail(db):
    assert db.probe("cutover").code == 0
    db.as_owner("ALTER TABLE chunks ADD CONSTRAINT never CHECK (content = 'nothing') NOT VALID")
    wrong = db.probe("verify")
    assert wrong.code == 1 and wrong.blocking() == ["inserts"], wrong
    assert "never" in wrong.check("inserts")["evidence"]


def test_inserts_that_get_another_key(db):
    db.as_owner("CREATE OR REPLACE FUNCTION compute_partition_key() RETURNS trigger LANGUAGE plpgsql "
                "AS 'BEGIN NEW.partition_key := 1000; RETURN NEW; END'")
    wrong = db.probe("verify")
    assert wrong.code == 1 and wrong.blocking() == ["inserts"], wrong


def test_nothing_to_copy(db):
    db.psql("TRUNCATE chunks")
    assert verdicts(db.probe("verify"))["inserts"] == "WARN"


def test_an_even_distribution(db):
    db.as_owner("DROP TRIGGER compute_partition_key_trigger ON chunks;"
                "UPDATE chunks SET partition_key = id % 100")
    even = db.probe("verify", expression="(id % 100)::int")
    assert even.check("distribution")["verdict"] == "PASS", even
    assert even.report["values"]["skew"] == 1


@pytest.mark.majors(12, 99)
def test_who_still_supplies_the_key(db, pg):
    proxy = Proxy(pg, rules=[strip_rule("strip", database=db.name)]).start()
    try:
        assert verify(proxy)["clients"]["verdict"] == "PASS"
        supply(proxy, db)
        proxy.wait_for_audit(1, event="supplied")
        found = verify(proxy)["clients"]
        assert found["verdict"] == "WARN" and "old loader (app)" in found["evidence"], found
        done = proxy.command("cutover", "chunks", "--yes", "--max-hold", "10s")
        assert done.returncode == 0, done.stdout + done.stderr
        assert verify(proxy)["clients"]["verdict"] == "PASS"
        supply(proxy, db)
        proxy.wait_for_audit(2, event="supplied")
        assert verify(proxy)["clients"]["verdict"] == "WARN"
    finally:
        proxy.stop()


def supply(proxy, db):
    connection = psycopg2.connect(**proxy.params(db.name, "app"), application_name="old loader")
    with connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
                       "VALUES ('a', 5, 1, 'x')")
    connection.close()


def verify(proxy):
    done = proxy.command("verify", "chunks", "--json")
    report = json.loads(done.stdout)
    return {check["id"]: check for check in report["checks"]}


@pytest.mark.majors(11, 11)
def test_version_11(db):
    verified = db.probe("verify")
    assert verified.code == 0 and common.pg_major() == 11
    found = verdicts(verified)
    assert (found["generated"], found["no-trigger"], found["no-function"], found["inserts"]) == \
        ("PASS", "PASS", "PASS", "PASS"), verified


@pytest.mark.majors(12, 99)
def test_the_partitioned_table(db, pg):
    schema.create_chunks(pg, "partitioned", db.name)
    db.psql("INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
            f"SELECT 'a', {schema.KEY.replace('collection_id', chr(39) + 'a' + chr(39))}, 1, 'x'")
    verified = db.probe("verify")
    assert verified.code == 0 and verified.check("inserts")["verdict"] == "WARN", verified
    assert "no partition" in verified.check("inserts")["evidence"] or \
        "violates" in verified.check("inserts")["evidence"]
