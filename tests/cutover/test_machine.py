"""The cutover machine on a real server: there and back, what it carries over, and who it waits for."""

import socket
import threading
import time

import psycopg2
import pytest

from conftest import Background
from lib import common
from lib.schema import COLUMNS, KEY

pytestmark = pytest.mark.majors(12, 99)


def insert(db, sql):
    with psycopg2.connect(db.dsn()) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def test_there_and_back_many_times(db):
    before = db.describe()
    rows = db.digest()
    for _ in range(5):
        done = db.probe("cutover")
        assert done.code == 0, done
        assert done.report["schema_changes"] == 1
        assert db.is_generated()
        assert db.describe() == before
        assert db.digest() == rows
        assert db.psql("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'chunks'::regclass") == "0"
        assert db.psql("SELECT to_regprocedure('compute_partition_key()') IS NULL") == "t"
        assert db.catalog() == (0, 1, True, COLUMNS, [])
        verified = db.probe("verify")
        assert verified.code == 0 and verified.report["method"] == "generated", verified

        back = db.probe("rollback")
        assert back.code == 0, back
        assert not db.is_generated()
        assert db.describe() == before
        assert db.digest() == rows
        assert db.catalog() == (0, 0, True, COLUMNS, [])
        verified = db.probe("verify")
        assert verified.code == 0 and verified.report["method"] == "trigger", verified
        assert verified.report["trigger"] == "compute_partition_key_trigger"
    assert "CREATE TRIGGER compute_partition_key_trigger BEFORE INSERT ON public.chunks" in db.psql(
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'chunks'::regclass")


def test_inserts_work_as_the_owners_want(db):
    assert db.probe("cutover").code == 0
    assert insert(db, "INSERT INTO chunks (collection_id, document_id, chunk_index, content) "
                  "VALUES ('test-coll', 'd', 0, 'x') RETURNING partition_key") == [(96,)]
    with pytest.raises(psycopg2.Error) as refused:
        insert(db, "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
               "VALUES ('test-coll', 96, 0, 'x') RETURNING id")
    assert refused.value.pgcode == ("428C9" if common.pg_major() >= 14 else "42601")
    db.psql("UPDATE chunks SET collection_id = 'a' WHERE collection_id = 'test-coll'")
    assert db.psql("SELECT partition_key FROM chunks WHERE collection_id = 'a'") == "57"
    assert db.probe("rollback").code == 0
    assert insert(db, "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
                  "VALUES ('test-coll', 1, 0, 'x') RETURNING partition_key") == [(96,)]


def test_a_second_cutover_has_nothing_to_do(db):
    assert db.probe("cutover").code == 0
    again = db.probe("cutover")
    assert again.code == 0 and "already" in again.summary, again
    other = db.probe("cutover", expression="mod(hashtext(document_id::text), 100)")
    assert other.code == 1 and other.blocking() == ["generated"], other
    assert db.psql("SELECT count(*) FROM pgsluice.run") == "1"


def test_plan_changes_nothing(db):
    before = db.describe()
    plan = db.probe("plan")
    assert plan.code == 0, plan
    assert any("GENERATED ALWAYS AS" in line for line in plan.report["sql"])
    assert db.describe() == before and db.residue() == "" and not db.is_generated()


RICH = """
CREATE INDEX by_key ON chunks (partition_key);
CREATE INDEX by_key_desc ON chunks (partition_key DESC NULLS LAST, created_at) WITH (fillfactor = 70);
CREATE INDEX partial ON chunks (document_id) WHERE partition_key > 10;
CREATE INDEX computed ON chunks ((partition_key * 2), lower(document_id));
CREATE INDEX covering ON chunks (chunk_index) INCLUDE (partition_key);
CREATE INDEX unrelated ON chunks (document_id);
ALTER INDEX computed ALTER COLUMN 1 SET STATISTICS 77;
ALTER TABLE chunks ADD CONSTRAINT again UNIQUE (id, partition_key) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE chunks ADD CONSTRAINT outside EXCLUDE USING btree (id WITH =, partition_key WITH =);
ALTER TABLE chunks ADD CONSTRAINT in_range CHECK (partition_key BETWEEN -99 AND 99);
ALTER TABLE chunks ADD CONSTRAINT not_yet CHECK (partition_key <> 12345) NOT VALID;
CREATE UNIQUE INDEX identity ON chunks (id, collection_id, partition_key);
ALTER TABLE chunks REPLICA IDENTITY USING INDEX identity;
ALTER TABLE chunks CLUSTER ON by_key;
CREATE STATISTICS together (ndistinct, dependencies) ON collection_id, partition_key FROM chunks;
ALTER TABLE chunks ALTER COLUMN partition_key SET STATISTICS 250;
ALTER TABLE chunks ALTER COLUMN partition_key SET (n_distinct = 199);
ALTER TABLE chunks ALTER COLUMN partition_key SET DEFAULT 7;
COMMENT ON TABLE chunks IS 'the table';
COMMENT ON COLUMN chunks.partition_key IS 'it''s the "key"; $1 \\ $$';
COMMENT ON INDEX by_key IS 'an index';
COMMENT ON CONSTRAINT chunks_pkey ON chunks IS 'the primary key';
COMMENT ON CONSTRAINT in_range ON chunks IS 'a check';
COMMENT ON STATISTICS together IS 'statistics';
GRANT SELECT (partition_key), UPDATE (partition_key) ON chunks TO app WITH GRANT OPTION;
GRANT REFERENCES (partition_key) ON chunks TO PUBLIC;
CREATE TABLE pointers (id bigint, collection_id varchar, partition_key int,
    CONSTRAINT to_chunks FOREIGN KEY (id, collection_id, partition_key) REFERENCES chunks
    ON DELETE CASCADE DEFERRABLE);
COMMENT ON CONSTRAINT to_chunks ON pointers IS 'incoming';
CREATE TABLE keys (partition_key int PRIMARY KEY);
INSERT INTO keys SELECT generate_series(-99, 99);
ALTER TABLE chunks ADD CONSTRAINT outgoing FOREIGN KEY (partition_key) REFERENCES keys;
ALTER TABLE chunks ENABLE ROW LEVEL SECURITY;
CREATE POLICY positive ON chunks AS RESTRICTIVE FOR SELECT TO app USING (partition_key >= 0);
CREATE POLICY everything ON chunks USING (true) WITH CHECK (partition_key IS NOT NULL);
COMMENT ON POLICY positive ON chunks IS 'a policy';
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER on_key AFTER UPDATE OF partition_key ON chunks FOR EACH ROW EXECUTE FUNCTION noted();
CREATE TRIGGER on_value AFTER INSERT ON chunks FOR EACH ROW WHEN (NEW.partition_key = 0)
    EXECUTE FUNCTION noted();
ALTER TABLE chunks DISABLE TRIGGER on_key;
ALTER TABLE chunks ENABLE ALWAYS TRIGGER on_value;
COMMENT ON TRIGGER on_key ON chunks IS 'a trigger';
CREATE VIEW shown WITH (security_barrier = true) AS SELECT id, partition_key AS "the Key" FROM chunks;
CREATE VIEW shown_too AS SELECT "the Key", count(*) FROM shown GROUP BY 1;
CREATE VIEW unrelated_view AS SELECT id FROM chunks;
COMMENT ON VIEW shown IS 'a view';
COMMENT ON COLUMN shown."the Key" IS 'a column of a view';
GRANT SELECT ON shown TO app WITH GRANT OPTION;
GRANT SELECT ("the Key") ON shown_too TO app;
REVOKE DELETE ON shown FROM pgsluice;
COMMENT ON TRIGGER compute_partition_key_trigger ON chunks IS 'by compute_partition_key';
COMMENT ON FUNCTION compute_partition_key() IS 'a function';
REVOKE ALL ON FUNCTION compute_partition_key() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION compute_partition_key() TO app;
"""


def test_everything_that_stands_on_the_column_is_put_back(db):
    db.as_owner(RICH)
    others = ("pointers", "keys", "shown", "shown_too", "unrelated_view")
    function = ("SELECT pg_get_functiondef(p), proacl, obj_description(p, 'pg_proc'), proowner "
                "FROM pg_proc, to_regprocedure('compute_partition_key()') p WHERE oid = p")
    trigger = ("SELECT pg_get_triggerdef(oid), tgenabled, obj_description(oid, 'pg_trigger') "
               "FROM pg_trigger WHERE tgname LIKE 'compute%'")
    default = "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef d JOIN pg_attribute a " \
              "ON attrelid = adrelid AND attnum = adnum WHERE attname = 'partition_key' " \
              "AND adrelid = 'chunks'::regclass"
    before = db.describe(*others)
    code_before = db.psql(function + ";" + trigger + ";" + default)
    rows = db.digest()
    done = db.probe("cutover")
    assert done.code == 0, done
    assert db.is_generated()
    assert db.describe(*others) == before
    assert db.digest() == rows
    back = db.probe("rollback")
    assert back.code == 0, back
    assert db.describe(*others) == before
    assert db.psql(function + ";" + trigger + ";" + default) == code_before
    assert db.digest() == rows


@pytest.mark.majors(13, 99)
def test_newer_properties_are_put_back(db):
    db.as_owner("CREATE STATISTICS together ON collection_id, partition_key FROM chunks;"
                "ALTER STATISTICS together SET STATISTICS 33;")
    if common.pg_major() >= 14:
        db.as_owner("CREATE STATISTICS computed ON (partition_key + 1), document_id FROM chunks")
    if common.pg_major() >= 15:
        db.as_owner("CREATE UNIQUE INDEX nulls ON chunks (id, document_id, partition_key) "
                    "NULLS NOT DISTINCT")
    if common.pg_major() >= 18:
        db.as_owner("ALTER TABLE chunks RENAME CONSTRAINT chunks_partition_key_not_null TO filled;"
                    "COMMENT ON CONSTRAINT filled ON chunks IS 'not null'")
    before = db.describe()
    done = db.probe("cutover")
    assert done.code == 0, done
    assert db.describe() == before
    assert db.probe("rollback").code == 0
    assert db.describe() == before


def test_a_function_that_others_use_stays(db):
    db.as_owner("CREATE TABLE other (collection_id text, partition_key int);"
                "CREATE TRIGGER t BEFORE INSERT ON other FOR EACH ROW "
                "EXECUTE FUNCTION compute_partition_key()")
    done = db.probe("cutover")
    assert done.code == 0, done
    assert "stays" in done.check("function")["evidence"]
    assert db.psql("INSERT INTO other VALUES ('a', 1) RETURNING partition_key") == "57"
    assert db.probe("rollback").code == 0
    assert db.probe("verify").report["method"] == "trigger"


def test_columns_keep_their_order_for_applications(db):
    db.as_owner("ALTER TABLE chunks DROP COLUMN metadata")
    before = [name for name in COLUMNS if name != "metadata"]
    assert db.catalog()[2:4] == (False, before)
    assert db.probe("cutover").code == 0
    db.as_owner("ALTER TABLE chunks ADD COLUMN added int; ALTER TABLE chunks DROP COLUMN chunk_index;"
                "ALTER TABLE chunks RENAME COLUMN content TO body")
    expected = ["id", "collection_id", "partition_key", "document_id", "body", "created_at", "added"]
    assert db.catalog()[2:4] == (True, expected)
    assert db.probe("rollback").code == 0
    assert db.catalog()[2:4] == (True, expected)
    assert db.probe("cutover").code == 0
    assert db.catalog()[2:4] == (True, expected)
    # Built anew with the same columns in another order: the recorded one means nothing any more.
    db.as_owner("CREATE TABLE public.fresh (body text, id bigint, partition_key int, collection_id varchar);"
                "DROP TABLE chunks; ALTER TABLE public.fresh RENAME TO chunks")
    assert db.catalog()[2:4] == (False, ["body", "id", "partition_key", "collection_id"])


def test_a_table_from_a_dump_keeps_its_order(db):
    assert db.probe("cutover").code == 0
    # What pg_dump and restore would do: other identifiers, no holes, the catalog's order.
    db.as_owner(f"CREATE TABLE public.restored (LIKE chunks); ALTER TABLE public.restored DROP COLUMN partition_key;"
                f"ALTER TABLE public.restored ADD COLUMN partition_key int GENERATED ALWAYS AS ({KEY}) STORED;"
                "DROP TABLE chunks; ALTER TABLE public.restored RENAME TO chunks")
    assert db.catalog()[2:4] == (True, COLUMNS)


def test_strange_names_and_another_schema(db):
    table = """"S p"."T'a""b%s" """
    db.as_owner(f"""
        CREATE SCHEMA "S p";
        CREATE TABLE {table} ("Src" text NOT NULL, "K'$1%I" text COLLATE "C" NOT NULL,
            n numeric, PRIMARY KEY ("Src", "K'$1%I"));
        CREATE FUNCTION "S p"."f n"() RETURNS trigger LANGUAGE plpgsql AS $$
            begin
              -- the key
              NEW."K'$1%I" = upper(NEW."Src") || '--x'; RETURN NEW; END $$;
        CREATE TRIGGER "T'r" BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW
            EXECUTE FUNCTION "S p"."f n"();
        CREATE INDEX "i'x" ON {table} ("K'$1%I");
        CREATE VIEW "v'w" AS SELECT "K'$1%I" FROM {table};
        COMMENT ON INDEX "S p"."i'x" IS 'it''s %s';
        INSERT INTO {table} ("Src") VALUES ('a'), ('b')""")
    options = dict(schema="S p", table="T'a\"b%s", column="K'$1%I",
                   expression="upper(\"Src\") || '--x' -- a comment")
    keys = f"""SELECT "K'$1%I" FROM {table} ORDER BY 1"""
    done = db.probe("cutover", **options)
    assert done.code == 0, done
    assert db.psql(keys) == "A--x\nB--x"
    assert db.probe("verify", **options).report["method"] == "generated"
    back = db.probe("rollback", **options)
    assert back.code == 0, back
    db.psql(f"""INSERT INTO {table} ("Src") VALUES ('c')""")
    assert db.psql(keys) == "A--x\nB--x\nC--x"


def test_values_that_are_equal_but_not_the_same_stop_it(db):
    db.as_owner("CREATE TABLE amounts (id int PRIMARY KEY, a numeric, k numeric);"
                "INSERT INTO amounts VALUES (1, 1.0, 1.00)")
    options = dict(table="amounts", column="k", expression="a")
    refused = db.probe("cutover", **options)
    assert refused.code == 1 and refused.blocking() == ["values"], refused
    db.as_owner("UPDATE amounts SET k = 1.0")
    assert db.probe("cutover", **options).code == 0


def test_rollback_of_what_was_never_cut_over(db):
    refused = db.probe("rollback")
    assert refused.code == 1 and "never cut over" in refused.summary, refused
    assert db.probe("cutover").code == 0
    assert db.probe("rollback").code == 0
    again = db.probe("rollback")
    assert again.code == 1 and "already" in again.summary, again


def test_it_waits_for_a_transaction_that_has_the_table(db):
    blocker = psycopg2.connect(db.dsn(application_name="blocker"))
    blocker.cursor().execute("SELECT count(*) FROM chunks")
    process = db.start_probe("cutover")
    stalls = []

    def read():
        began = time.monotonic()
        with psycopg2.connect(db.dsn()) as connection, connection.cursor() as cursor:
            began = time.monotonic()
            cursor.execute("SELECT count(*) FROM chunks")
        stalls.append(time.monotonic() - began)
        time.sleep(0.002)

    with Background(read) as reader:
        time.sleep(2.5)
        assert process.poll() is None
        blocked = max(stalls)
        blocker.commit()
        out, err = process.communicate(timeout=60)
    blocker.close()
    assert process.returncode == 0, out + err
    assert "backoff" in err and "blocker" in err
    assert reader.errors == []
    # An attempt may stall a reader for its lock timeout (here it is not even tried), no longer.
    assert blocked < 0.5 * common.slowness(), blocked


def test_readers_are_not_stalled_longer_than_the_lock_timeout(db):
    """Without the right to see other sessions, the lock is tried although somebody has the table."""
    db.server.psql("REVOKE pg_read_all_stats FROM pgsluice", dbname="postgres")
    try:
        blocker = psycopg2.connect(db.dsn())
        blocker.cursor().execute("SELECT count(*) FROM chunks")
        stalls = []
        connection = psycopg2.connect(db.dsn())
        connection.autocommit = True
        cursor = connection.cursor()

        def read():
            began = time.monotonic()
            cursor.execute("SELECT 1 FROM chunks LIMIT 1")
            stalls.append(time.monotonic() - began)
            time.sleep(0.001)

        process = db.start_probe("cutover")
        with Background(read) as reader:
            time.sleep(4)
            while_blocked = max(stalls)
            blocker.commit()
            out, err = process.communicate(timeout=60)
        blocker.close()
        connection.close()
        assert process.returncode == 0, out + err
        assert "lock timeout" in err
        assert reader.errors == []
        assert 0.05 < while_blocked < 0.3 + 0.3 * common.slowness(), while_blocked
    finally:
        db.server.psql("GRANT pg_read_all_stats TO pgsluice", dbname="postgres")


def test_it_waits_for_old_snapshots_that_would_see_an_empty_table(db):
    holder = psycopg2.connect(db.dsn())
    holder.set_session(isolation_level="REPEATABLE READ")
    cursor = holder.cursor()
    cursor.execute("SELECT 1")  # takes the snapshot; the table has not been touched
    process = db.start_probe("cutover")
    time.sleep(2)
    assert process.poll() is None
    cursor.execute("SELECT count(*) FROM chunks")
    assert cursor.fetchone()[0] == 2000
    holder.commit()
    holder.close()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert "older snapshot" in err


def test_abort_while_waiting_leaves_nothing(db):
    before = db.describe()
    blocker = psycopg2.connect(db.dsn())
    blocker.cursor().execute("SELECT count(*) FROM chunks")
    began = time.monotonic()
    aborted = db.probe("cutover", abort_after=1500)
    took = time.monotonic() - began
    blocker.rollback()
    blocker.close()
    assert aborted.code == 1 and "aborted" in aborted.summary, aborted
    assert took < 2.5 * common.slowness()
    assert db.describe() == before and db.residue() == "" and not db.is_generated()


def make_slow(db, seconds=0.001):
    """An expression that takes its time, so that a test can do something meanwhile."""
    db.as_owner(f"""
        CREATE FUNCTION slow(text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
        BEGIN
            -- Slow only in the transaction of the flip, which keeps this setting.
            IF current_setting('pgsluice.before', true) <> '' THEN
                PERFORM pg_sleep({seconds});
            END IF;
            RETURN mod(hashtext($1), 100);
        END $$;
        CREATE OR REPLACE FUNCTION compute_partition_key() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.partition_key := slow(NEW.collection_id); RETURN NEW; END $$;
        """)
    return "slow(collection_id)"


def test_abort_during_the_flip_leaves_nothing(db):
    expression = make_slow(db, 0.005)
    before = db.describe()
    aborted = db.probe("cutover", expression=expression, abort_phase="flip", abort_after=700,
                       max_hold=60000)
    assert aborted.code == 1 and "aborted" in aborted.summary, aborted
    assert "flip" in aborted.progress and "backoff" not in aborted.progress
    assert db.describe() == before and db.residue() == "" and not db.is_generated()


def test_a_flip_that_takes_too_long_is_cancelled(db):
    expression = make_slow(db, 0.002)
    before = db.describe()
    late = db.probe("cutover", expression=expression, max_hold=700)
    assert late.code == 1 and "--max-hold" in late.summary, late
    assert db.describe() == before and db.residue() == "" and not db.is_generated()


def test_a_backend_killed_during_the_flip_is_found_out_and_tried_again(db):
    expression = make_slow(db, 0.002)
    process = db.start_probe("cutover", expression=expression, max_hold=60000)
    # The flip is the only one with the exclusive lock.
    pid = common.wait_until(lambda: db.psql(
        "SELECT pid FROM pg_locks WHERE relation = 'chunks'::regclass "
        "AND mode = 'AccessExclusiveLock' AND granted"), 20)
    db.psql(f"SELECT pg_terminate_backend({pid})")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert "in-doubt" in err
    assert db.is_generated()


class Cutter:
    """A relay that hides from the client what the server answers to the message with the flip."""

    def __init__(self, server):
        self.server = server
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.cuts = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection((self.server.host, self.server.port))
            state = {"cut": False}
            for source, sink, outgoing in ((near, far, True), (far, near, False)):
                threading.Thread(target=self.pump, args=(source, sink, outgoing, state),
                                 daemon=True).start()

    def pump(self, source, sink, outgoing, state):
        try:
            while data := source.recv(1 << 16):
                if outgoing and self.cuts == 0 and b"SAVEPOINT pgsluice_flip; SET" in data:
                    self.cuts += 1
                    state["cut"] = True
                if not outgoing and state["cut"]:
                    source.settimeout(0.5)  # the server finishes; nobody hears of it
                    try:
                        while source.recv(1 << 16):
                            pass
                    except OSError:
                        pass
                    break
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


def test_a_commit_whose_answer_is_lost_is_found_out(db):
    cutter = Cutter(db.server)
    done = db.probe("cutover", host="127.0.0.1", port=cutter.port)
    cutter.listener.close()
    assert cutter.cuts == 1
    assert done.code == 0, done
    assert "in-doubt" in done.progress and "backoff" not in done.progress
    assert db.is_generated()
    assert db.psql("SELECT count(*) FROM pgsluice.run") == "1"
    cutter = Cutter(db.server)
    back = db.probe("rollback", host="127.0.0.1", port=cutter.port)
    cutter.listener.close()
    assert back.code == 0 and "in-doubt" in back.progress, back
    assert not db.is_generated()


def test_two_at_once_flip_once(db):
    processes = [db.start_probe("cutover") for _ in range(3)]
    results = [(*process.communicate(timeout=120), process.returncode) for process in processes]
    assert any(code == 0 and "exclusive lock" in out for out, _, code in results), results
    assert all(code in (0, 1) for _, _, code in results), results
    assert db.is_generated()
    assert db.psql("SELECT count(*) FROM pgsluice.run") == "1"


def test_writers_notice_nothing_and_lose_nothing(db):
    done = []

    def writer(number):
        connection = psycopg2.connect(db.dsn())
        connection.autocommit = True
        cursor = connection.cursor()
        count = iter(range(1 << 30))

        def step():
            i = next(count)
            cursor.execute("INSERT INTO chunks (collection_id, document_id, chunk_index, content) "
                           "VALUES (%s, %s, %s, 'w')", (f"c{i % 50}", f"writer {number}", i))
            done.append((f"writer {number}", i))
        return step

    workers = [Background(writer(number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for _ in range(3):
        for command in ("cutover", "rollback"):
            result = db.probe(command)
            assert result.code == 0, result
    for worker in workers:
        worker.stopping.set()
        worker.join(30)
    assert [error for worker in workers for error in worker.errors] == []
    there = db.psql("SELECT document_id, chunk_index FROM chunks WHERE content = 'w'").splitlines()
    assert sorted(there) == sorted(f"{who}|{number}" for who, number in done)
    assert db.psql(f"SELECT count(*) FROM chunks WHERE partition_key IS DISTINCT FROM {KEY}") == "0"
