"""The cutover by swap on a real server, without a proxy: rows that are copied while others change."""

import pytest

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
        assert db.describe() == before, set(db.describe()) ^ set(before)
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
