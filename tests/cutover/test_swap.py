"""The cutover by swap on a real server, without a proxy: rows that are copied while others change."""

import psycopg2
import pytest

from lib import common, schema

pytestmark = pytest.mark.majors(12, 99)


def kept(db):
    """The tables of a swap that are there, beside the one that applications use."""
    return db.psql("SELECT coalesce(string_agg(relname, ' ' ORDER BY relname), '') FROM pg_class "
                   "WHERE relname LIKE 'chunks\\_pgsluice\\_%' AND relkind = 'r' OR relkind = 'r' "
                   "AND relnamespace = to_regnamespace('pgsluice') AND relname LIKE 'log\\_%'")


def test_there_and_back_and_there_again_and_finish(db):
    before = db.describe()
    for _ in range(2):
        rows = db.digest()
        done = db.probe("cutover", strategy="swap")
        assert done.code == 0, done
        assert done.report["strategy"] == "swap" and done.report["schema_changes"] == 1
        assert db.is_generated() and db.digest() == rows
        # The old table's NOT NULL constraints (18) have the same names.
        assert set(db.describe()) == set(before)
        db.fill(10)
        db.psql("DELETE FROM chunks WHERE id = (SELECT min(id) FROM chunks);"
                "UPDATE chunks SET content = 'new' WHERE id % 100 = 7;"
                "UPDATE chunks SET id = -id, collection_id = 'other' WHERE id % 100 = 8")
        rows = db.digest()
        back = db.probe("rollback")
        assert back.code == 0, back
        assert not db.is_generated() and db.digest() == rows
        assert db.describe() == before and kept(db) == ""
    done = db.probe("cutover", strategy="swap")
    assert done.code == 0, done
    assert "chunks_pgsluice_old" in kept(db)
    finished = db.probe("finish")
    assert finished.code == 0, finished
    assert kept(db) == "" and db.describe() == before
    assert db.psql("SELECT to_regprocedure('compute_partition_key()') IS NULL") == "t"
    back = db.probe("rollback")
    assert back.code == 0, back
    assert not db.is_generated() and db.digest() == rows and db.describe() == before


def test_auto_swaps_what_is_too_large_to_stop(db):
    plan = db.probe("plan", max_hold=41)
    assert plan.code == 0 and plan.report["strategy"] == "swap", plan
    assert any("CREATE TABLE" in line for line in plan.report["sql"])
    assert db.residue() == ""
    assert db.probe("plan").report["strategy"] == "inplace"


def test_an_abort_at_any_phase_leaves_nothing_behind(db):
    before, rows = db.describe(), db.digest()
    for phase in ("begin", "copy", "indexes", "compare", "gate", "arm"):
        done = db.probe("cutover", strategy="swap", abort_after=1, abort_phase=phase)
        assert done.code == 1 and "aborted" in done.summary, done
        assert db.residue() == "" and db.describe() == before and db.digest() == rows, (phase, done)


def test_a_row_that_gets_another_value_meanwhile_stops_the_swap(db):
    """An UPDATE of the column itself, which the trigger for INSERT does not see."""
    process = db.start_probe("cutover", strategy="swap", pause=300)
    common.wait_until(lambda: db.psql("SELECT to_regclass('pgsluice.swap') IS NOT NULL") == "t", 10,
                      "the beginning")
    db.psql("UPDATE chunks SET partition_key = 4711 WHERE id = 1500")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "another value" in out or "not the expression" in out, out + err
    assert db.residue() == "" and not db.is_generated()


def test_two_runs_do_not_get_into_each_others_way(db):
    first = db.start_probe("cutover", strategy="swap", pause=1500)
    common.wait_until(lambda: db.psql("SELECT to_regclass('pgsluice.swap') IS NOT NULL") == "t", 10,
                      "the beginning")
    for command in ("cutover", "rollback"):
        second = db.probe(command, strategy="swap")
        assert second.code == 1 and "under way" in second.summary, second
    out, err = first.communicate(timeout=60)
    assert first.returncode == 0, out + err
    assert db.is_generated()


def test_a_table_altered_since_is_begun_anew(db):
    process = db.start_probe("cutover", strategy="swap", pause=2000)
    common.wait_until(lambda: db.psql("SELECT to_regclass('pgsluice.swap') IS NOT NULL") == "t", 10,
                      "the beginning")
    process.kill()
    process.communicate()
    db.as_owner("ALTER TABLE chunks ADD COLUMN more int DEFAULT 7")
    done = db.probe("cutover", strategy="swap")
    assert done.code == 0 and "altered since" in done.progress, (done.summary, [
        check["evidence"] for check in done.report["checks"] if check["verdict"] == "BLOCK"])
    assert db.psql("SELECT count(*) FROM chunks WHERE more = 7") == "2000"


def test_writes_of_replication_are_captured(db):
    """session_replication_role = replica: ordinary triggers do not fire."""
    process = db.start_probe("cutover", strategy="swap", pause=500)
    common.wait_until(lambda: db.psql("SELECT to_regclass('pgsluice.swap') IS NOT NULL") == "t", 10,
                      "the beginning")
    db.psql("SET session_replication_role = replica; DELETE FROM chunks WHERE id < 100; "
            "UPDATE chunks SET content = 'replica' WHERE id = 100")
    rows = db.digest()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert db.digest() == rows


def test_a_long_index_build_says_how_far_it_is(db):
    """An index over a function that is slow for the cutover only."""
    db.as_owner("CREATE FUNCTION public.be_slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN"
                " IF current_setting('application_name') = 'probe' THEN PERFORM pg_sleep(0.003); END IF;"
                " RETURN $1; END $$; CREATE INDEX slow_one ON chunks (public.be_slow(chunk_index))")
    done = db.probe("cutover", strategy="swap")
    assert done.code == 0, done
    said = [line for line in done.progress.splitlines() if "indexes:" in line and "be_slow" in line]
    assert any(", for 2 s: building index: scanning table" in line for line in said), said
    times = [float(line.split()[0]) for line in done.progress.splitlines()]
    gaps = [after - before for before, after in zip(times, times[1:])]
    assert max(gaps) < 2500 * common.slowness(), done.progress


def test_a_table_partitioned_by_the_column(db, pg):
    """LIST by the column becomes HASH by what the expression reads; and back."""
    schema.create_chunks(pg, "partitioned", db.name)
    db.psql("ALTER TABLE chunks_0 OWNER TO pgsluice; ALTER TABLE chunks_rest OWNER TO pgsluice;"
            "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
            f"SELECT collection_id, {schema.KEY}, i, 'x' FROM (SELECT 'coll-' || i % 300 AS "
            "collection_id, i FROM generate_series(1, 2000) i) q; ANALYZE chunks")
    rows = db.digest()
    done = db.probe("cutover", mode="compute")
    assert done.code == 0 and done.report["strategy"] == "swap", (done.summary, [
        check["evidence"] for check in done.report["checks"] if check["verdict"] == "BLOCK"])
    assert db.is_generated() and db.digest() == rows
    assert "HASH" in db.psql("SELECT pg_get_partkeydef('chunks'::regclass)")
    db.psql("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'x');"
            "DELETE FROM chunks WHERE id % 10 = 3; UPDATE chunks SET collection_id = 'b' WHERE id = 7")
    rows = db.digest()
    back = db.probe("rollback", mode="compute")
    assert back.code == 0, back
    assert not db.is_generated() and db.digest() == rows
    assert "LIST" in db.psql("SELECT pg_get_partkeydef('chunks'::regclass)")


def test_a_truncated_partition_stays_truncated(db, pg):
    """Also when it happens after the rows were compared, and on the way back."""
    schema.create_chunks(pg, "partitioned", db.name)
    schema.create_partitions(pg, -99, 99, db.name)
    db.psql("INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
            f"SELECT collection_id, {schema.KEY}, i, 'x' FROM (SELECT 'coll-' || i % 300 AS "
            "collection_id, i FROM generate_series(1, 3000) i) q; ANALYZE chunks")
    full = [name for name in db.psql("SELECT DISTINCT tableoid::regclass FROM chunks").split()]
    with psycopg2.connect(db.dsn()) as snapshot, snapshot.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT count(*) FROM documents")
        process = db.start_probe("cutover", mode="compute", pause=20)
        common.wait_until(lambda: db.psql("SELECT to_regclass('pgsluice.swap') IS NOT NULL") == "t",
                          10, "the beginning")
        db.psql(f"TRUNCATE {full[0]}")
        while "waiting for older snapshots" not in process.stderr.readline():
            pass
        kept = db.psql(f"SELECT collection_id FROM {full[1]} LIMIT 1")
        db.psql(f"DELETE FROM {full[2]} WHERE id % 2 = 0; TRUNCATE {full[1]}, {full[2]};"
                "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
                f"SELECT collection_id, {schema.KEY}, 1, 'later' FROM (SELECT '{kept}' AS collection_id) q")
        rows = db.digest()
        snapshot.rollback()
    snapshot.close()
    out, err = process.communicate(timeout=60 * common.slowness())
    assert process.returncode == 0, out + err
    assert db.is_generated() and db.digest() == rows
    db.psql("TRUNCATE chunks_1; INSERT INTO chunks (collection_id, chunk_index, content)"
            " SELECT 'new-' || i, 1, 'x' FROM generate_series(1, 100) i; TRUNCATE chunks_2")
    rows = db.digest()
    back = db.probe("rollback", mode="compute")
    assert back.code == 0, back
    assert not db.is_generated() and db.digest() == rows


def test_a_partition_that_is_detached_after_the_comparison_stops_the_swap(db, pg):
    schema.create_chunks(pg, "partitioned", db.name)
    schema.create_partitions(pg, -99, 99, db.name)
    with psycopg2.connect(db.dsn()) as snapshot, snapshot.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT count(*) FROM documents")
        process = db.start_probe("cutover", mode="compute")
        while "waiting for older snapshots" not in process.stderr.readline():
            pass
        db.as_owner("ALTER TABLE chunks DETACH PARTITION chunks_7")
        snapshot.rollback()
    snapshot.close()
    out, err = process.communicate(timeout=60 * common.slowness())
    assert process.returncode == 1 and "the table has changed" in out, out + err
    assert not db.is_generated() and kept(db) == "" and db.residue() == ""
