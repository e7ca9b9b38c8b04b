"""A cutover that something interrupts: the table is as before or as after, whole, with nothing left over,
and the next attempt works (invariants I1, I2, I6, I7, I8, I10, I14)."""

import select
import signal
import subprocess
import time

import psycopg2
import pytest

from lib import common, schema
from lib.pgserver import Server
from lib.proxy import Proxy, strip_rule

pytestmark = [
    pytest.mark.proxy,
    pytest.mark.skipif(common.pg_major() < 12, reason="generated columns need PostgreSQL 12"),
]

ROWS = 20000
# Moments of an attempt, in seconds after its first output; what happens at each depends on the machine.
MOMENTS = (0.05, 0.2, 0.3, 0.4, 0.6)


@pytest.fixture
def own_server():
    instance = Server().start()
    schema.create_database(instance)
    schema.create_chunks(instance)
    instance.psql(
        "INSERT INTO chunks (collection_id, chunk_index, content)"
        f" SELECT 'collection ' || n % 37, n, repeat('x', 100) FROM generate_series(1, {ROWS}) n;"
        "ANALYZE chunks; GRANT pg_read_all_stats TO pgsluice")
    yield instance
    instance.stop()


@pytest.fixture
def front(own_server):
    instance = Proxy(own_server, rules=[strip_rule()]).start()
    yield instance
    instance.stop()


def catalog(server):
    """What is to be as before or as after: columns, constraints, triggers, functions, grants."""
    return server.psql("""
        SELECT string_agg(x, E'\\n' ORDER BY x) FROM (
        SELECT 'column ' || attname || ' ' || atttypid::regtype || ' ' || attnotnull || ' '
               || attgenerated::text || ' '
               || array(SELECT a::text FROM unnest(attacl) a ORDER BY 1)::text
          FROM pg_attribute WHERE attrelid = 'chunks'::regclass AND attnum > 0 AND NOT attisdropped
        UNION ALL SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid)
          FROM pg_constraint WHERE conrelid = 'chunks'::regclass
        UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) || tgenabled::text FROM pg_trigger
          WHERE tgrelid = 'chunks'::regclass AND NOT tgisinternal
        UNION ALL SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc
          WHERE proname = 'compute_partition_key'
        UNION ALL SELECT 'table ' || array(SELECT a::text FROM unnest(relacl) a ORDER BY 1)::text
               || relowner::regrole FROM pg_class
          WHERE oid = 'chunks'::regclass) _(x)""")


def begin(proxy, command):
    arguments = ["cutover", "chunks", "--yes", "--max-hold", "3s"]
    if command == "rollback":
        arguments = ["rollback", "chunks", "--max-hold", "3s"]
    return subprocess.Popen([str(common.binary()), *arguments, "--config", str(proxy.config)],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def let_run(command, seconds):
    """Until so long after its first output: a process takes long to start under a sanitizer."""
    ready, _, _ = select.select([command.stdout], [], [], 30 * common.slowness())
    assert ready, "the command says nothing"
    time.sleep(seconds)


def end(command):
    text, _ = command.communicate(timeout=60 * common.slowness())
    return command.returncode, text


def wait_for_quiet(server):
    """Nobody holds a lock on the table any more."""
    common.wait_until(lambda: server.psql(
        "SELECT count(*) FROM pg_locks WHERE relation = 'chunks'::regclass") == "0", 10,
        "no lock left on the table")


class Eras:
    """The catalog of both eras, learned from an undisturbed cutover and rollback."""

    def __init__(self, proxy):
        self.server = proxy.server
        self.plain = catalog(self.server)
        code, text = end(begin(proxy, "cutover"))
        assert code == 0, text
        self.generated = catalog(self.server)
        code, text = end(begin(proxy, "rollback"))
        assert code == 0, text
        assert catalog(self.server) == self.plain

    def now(self):
        seen = catalog(self.server)
        assert seen in (self.plain, self.generated), f"neither before nor after:\n{seen}"
        assert schema.wrong_keys(self.server) == 0
        return "generated" if seen == self.generated else "plain"


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_proxy_that_is_killed_leaves_the_table_whole(own_server, front, moment):
    eras = Eras(front)
    for command in ("cutover", "rollback"):
        if eras.now() == ("generated" if command == "cutover" else "plain"):
            continue
        running = begin(front, command)
        let_run(running, moment)
        front.kill9()
        code, text = end(running)
        assert code in (0, 4), text
        wait_for_quiet(own_server)
        before = eras.now()
        front.start()
        assert front.command("verify", "chunks").returncode == 0
        if code == 0:
            assert before == ("generated" if command == "cutover" else "plain")
    # whatever happened, the way is free
    code, text = end(begin(front, "rollback" if eras.now() == "generated" else "cutover"))
    assert code == 0, text


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_server_that_restarts_leaves_the_table_whole(own_server, front, moment):
    eras = Eras(front)
    running = begin(front, "cutover")
    let_run(running, moment)
    own_server.restart("immediate")
    code, text = end(running)
    assert code in (0, 1), text
    wait_for_quiet(own_server)
    assert eras.now() == ("generated" if code == 0 else "plain"), text
    assert front.is_alive()
    if code != 0:
        code, text = end(begin(front, "cutover"))
        assert code == 0, text


def test_what_is_done_outlasts_a_crash_although_commits_are_asynchronous(own_server, front):
    """The server of the tests has synchronous_commit = off; here nobody else writes its WAL in time."""
    assert own_server.psql("SHOW synchronous_commit") == "off"
    own_server.psql("ALTER SYSTEM SET wal_writer_delay = '10s'")
    own_server.reload()
    eras = Eras(front)
    for command, era in (("cutover", "generated"), ("rollback", "plain")):
        code, text = end(begin(front, command))
        assert code == 0, text
        own_server.restart("immediate")
        assert eras.now() == era


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_aborts_without_residue(own_server, front, moment):
    eras = Eras(front)
    running = begin(front, "cutover")
    let_run(running, moment)
    running.send_signal(signal.SIGINT)
    code, text = end(running)
    assert eras.now() == ("generated" if code == 0 else "plain"), text
    assert code in (0, 1, -signal.SIGINT), text  # by the signal itself before anything was asked for


def test_an_idle_transaction_delays_the_cutover_and_is_not_killed(own_server, front):
    eras = Eras(front)
    blocker = psycopg2.connect(front.dsn(user="app"))
    blocker.cursor().execute("SELECT count(*) FROM chunks")
    running = begin(front, "cutover")
    time.sleep(2)
    assert running.poll() is None, end(running)
    with psycopg2.connect(front.dsn(user="app")) as other, other.cursor() as cursor:
        began = time.monotonic()
        cursor.execute("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'x')")
        cursor.execute("SELECT count(*) FROM chunks")
        assert time.monotonic() - began < 2 * common.slowness()  # I12: lock timeout, not the blocker
    other.close()
    blocker.commit()
    code, text = end(running)
    assert code == 0, text
    assert eras.now() == "generated"
    blocker.cursor().execute("SELECT 1")  # I11
    blocker.close()


def test_a_client_of_the_admin_socket_that_vanishes_aborts_its_cutover(own_server, front):
    eras = Eras(front)
    blocker = psycopg2.connect(front.dsn(user="app"))
    blocker.cursor().execute("SELECT count(*) FROM chunks")
    running = begin(front, "cutover")
    time.sleep(1)
    running.kill()
    running.communicate()
    blocker.commit()
    blocker.close()
    wait_for_quiet(own_server)
    time.sleep(1)
    assert eras.now() == "plain"
    assert '"cutover":null' in front.command("status", "--json").stdout.replace(" ", "")
