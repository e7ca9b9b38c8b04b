"""Faults at every state of a cutover: strategy x direction x state x fault.

The program with failpoints stops at a state, the fault happens there, and the cutover goes on. Then: what
`status` and the catalog say is whole; the gate is open within its time to live and traffic is normal within
two seconds; the command, run again, comes to its end; a rollback leaves no residue; and the ledger of the
load that ran all the while balances, without a client's error where the fault does not itself break clients.

Plain `tests/run` takes a few cells, those that need not wait for time limits; `tests/run cutover` takes all of
them (PGSLUICE_TEST_MATRIX=all), several at once.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
import warnings

import psycopg2
import pytest

from lib import common, schema
from lib.fault_relay import FaultRelay
from lib.pgserver import PSQL, Server
from lib.proxy import Proxy, strip_rule
from lib.small_disk import SmallDisk

from ledger import Copies, Ledger, ManyRows, PreparedRows, Reader, SingleRows, SnapshotReader, Transactions
from test_faults import catalog
from test_ledger import is_generated
from workers import Churn, RepeatableChurn

pytestmark = [
    pytest.mark.proxy,
    pytest.mark.timeout(240 * common.slowness()),
    pytest.mark.skipif(common.pg_major() < 12, reason="generated columns need PostgreSQL 12"),
]

FAILPOINTS = common.build_dir() / "pgsluice_failpoints"
BASE_ROWS = 3000
PAUSE = 0.06
MAX_HOLD_MS = round(1000 * common.slowness())
# DRAIN_MS + the last lock timeout + max hold + COMMIT_SLACK_MS of the machine, and 300 for this machine.
HOLD_MS = 200 + 300 + MAX_HOLD_MS + 300 + round(300 * common.slowness())
WORKERS = (SingleRows, ManyRows, Copies, Transactions, PreparedRows, Reader, SnapshotReader, Churn,
           RepeatableChurn)

NO_SPACE = "No space left on device"

# Autovacuum begins at this age, the least that can be set, and lasts some seconds.
WRAPAROUND_AGE = 100_000
SLOW_VACUUM = (f"autovacuum_freeze_max_age = {WRAPAROUND_AGE}, autovacuum_freeze_table_age = 0,"
               " autovacuum_freeze_min_age = 0, autovacuum_vacuum_cost_delay = 100,"
               " autovacuum_vacuum_cost_limit = 150, autovacuum_enabled = false")
BURN = """
CREATE PROCEDURE burn(count int) LANGUAGE plpgsql AS $$ BEGIN
    FOR n IN 1..count LOOP PERFORM txid_current(); COMMIT; END LOOP;
END $$"""

HOLD = ["--max-hold", f"{MAX_HOLD_MS}ms"]
INPLACE = ["cutover", "chunks", "--yes", "--strategy", "inplace", *HOLD]
SWAP = ["cutover", "chunks", "--yes", "--strategy", "swap", *HOLD]
BACK = ["rollback", "chunks", *HOLD]
FINISH = ["finish", "chunks"]

MACHINE = ["gate", "arm", "hold", "flip", "flip-sent", "release"]
# What is done before, the command, and its states.
ROUTES = {
    "inplace": ([], INPLACE, ["preflight", *MACHINE, "analyze"]),
    "inplace-back": ([INPLACE], BACK, MACHINE),
    "swap": ([], SWAP, ["begin", "begin-commit", "copy-commit", "copy", "replay-commit", "indexes", "compare",
                        "snapshots", *MACHINE, "validate"]),
    "swap-back": ([SWAP], BACK, ["replay", "replay-commit", "compare", "snapshots", *MACHINE, "validate",
                                 "clean-triggers", "clean-tables", "clean-log"]),
    "finish": ([SWAP], FINISH, ["finish", "clean-triggers", "clean-tables", "clean-log"]),
}


class Cell:
    """One route that has been stopped at one state, while a load runs."""

    def __init__(self, server, relay, proxy, ledger, command):
        self.server = server
        self.relay = relay
        self.proxy = proxy
        self.ledger = ledger
        self.command = command
        self.over = time.monotonic()  # when traffic had to be possible again

    def go_on(self):
        for file in (self.proxy.dir / "failpoints").glob("*.reached"):
            file.unlink()

    def control_pids(self):
        return self.server.backends("usename = 'pgsluice'")


def run_again(proxy, command):
    """Until it is done: what was cut off may still hold a lock for a moment."""
    def done():
        result = proxy.command(*command)
        texts.append(result.stdout + result.stderr)
        return result.returncode == 0
    texts = []
    try:
        common.wait_until(done, 60, f"{command[0]} comes to its end", every=0.5)
    except TimeoutError as error:
        raise AssertionError(f"{error}\n{texts[-1]}\n{proxy.log()[-3000:]}") from error


def kill_proxy(cell):
    cell.proxy.kill9()
    cell.go_on()
    cell.proxy.start()
    cell.over = time.monotonic()


def stop_proxy(cell):
    os.kill(cell.proxy.pid, signal.SIGSTOP)
    cell.go_on()
    time.sleep(2)
    os.kill(cell.proxy.pid, signal.SIGCONT)
    cell.over = time.monotonic()


def stop_command(cell):
    cell.command.send_signal(signal.SIGSTOP)
    cell.go_on()
    time.sleep(1.5)
    cell.command.send_signal(signal.SIGCONT)


def interrupt(cell):
    cell.command.send_signal(signal.SIGINT)
    cell.go_on()


def reset(cell):
    cell.relay.reset()
    cell.go_on()


def black_hole(cell):
    cell.relay.black_hole()
    cell.go_on()
    time.sleep(3)
    cell.relay.heal()


def terminate(cell):
    for pid in cell.control_pids():
        cell.server.psql(f"SELECT pg_terminate_backend({pid})", dbname="postgres")
    cell.go_on()


def wait_for_server(cell):
    def answers():
        try:
            return cell.server.psql("SELECT 1", dbname="postgres") == "1"
        except RuntimeError:
            return False
    common.wait_until(answers, 30, "the server's recovery")
    cell.over = time.monotonic()


def kill_backend(cell):
    os.kill(cell.control_pids()[0], signal.SIGKILL)
    cell.go_on()
    time.sleep(0.1)
    wait_for_server(cell)


def restart_server(cell):
    cell.server.stop("immediate")
    cell.go_on()
    cell.server.start()
    cell.over = time.monotonic()


def fill_disk(cell):
    """The tablespace has no block left until the command has ended or the time is over: error 53100 for whoever
    needs one, the applications among them."""
    if cell.server.disk is None:
        return limit_files(cell)
    mark = len(cell.server.log())
    cell.server.disk.fill()
    try:
        cell.go_on()
        common.wait_until(lambda: NO_SPACE in cell.server.log_since(mark), 10, "a full disk")
        with contextlib.suppress(subprocess.TimeoutExpired):
            cell.command.wait(3)
    finally:
        cell.server.disk.free()
        cell.over = time.monotonic()


def limit_files(cell):
    """Where nothing may be mounted: no file of the control backends may grow beyond a limit that is within a
    block, which is error 53100 as well."""
    warnings.warn("no disk of its own: the disk is full for the cutover alone, by a limit of files' sizes")
    for pid in cell.control_pids():
        subprocess.run(["prlimit", "--pid", str(pid), f"--fsize={(1 << 20) + 4096}:"], check=True,
                       user=cell.server.user)
    cell.go_on()


def lock_idly(cell):
    with psycopg2.connect(**cell.proxy.params(user="app")) as holder:
        holder.cursor().execute("SELECT FROM chunks LIMIT 1")
        cell.go_on()
        time.sleep(2)
    holder.close()


def in_background(*commands, server):
    return subprocess.Popen([str(PSQL), "-XAtq", "-d", server.dsn(), *(
        word for sql in commands for word in ("-c", sql))], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)


def select_long(cell):
    reader = in_background("SELECT pg_sleep(2) FROM chunks LIMIT 1", server=cell.server)
    time.sleep(0.2)
    cell.go_on()
    reader.communicate(timeout=60)
    assert reader.returncode == 0


def vacuum(cell):
    """Autovacuum against a wraparound, slow, which does not give way to who waits for its lock."""
    age(cell.server, WRAPAROUND_AGE)
    common.wait_until(lambda: cell.server.psql(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
        " AND query LIKE '%public.chunks% (to prevent wraparound)'") != "0", 10, "autovacuum")
    cell.go_on()


def age(server, transactions):
    """So many transactions happen."""
    server.psql(f"SET synchronous_commit = off; CALL burn({transactions})", dbname="postgres")


def lose(what):
    def inject(cell):
        cell.relay.lose(what, b"SAVEPOINT pgsluice_flip; SET")
        cell.go_on()
    return inject


# How it is done, whether clients' connections break, the states (all where none are named).
FAULTS = {
    "kill-proxy": (kill_proxy, True, None),
    "stop-proxy": (stop_proxy, False, None),
    "stop-command": (stop_command, False, None),
    "interrupt": (interrupt, False, None),
    "reset": (reset, False, None),
    "black-hole": (black_hole, False, None),
    "terminate": (terminate, False, None),
    "kill-backend": (kill_backend, True, None),
    "restart-server": (restart_server, True, None),
    "disk-full": (fill_disk, False, None),
    "idle-lock": (lock_idly, False, None),
    "long-select": (select_long, False, None),
    "autovacuum": (vacuum, False, None),
    "commit-unsent": (lose("request"), False, ["flip"]),
    "commit-answer": (lose("answer"), False, ["flip"]),
    "commit-silence": (lose("silence"), False, ["flip"]),
}

ALL = [(route, state, fault) for route in ROUTES for state in ROUTES[route][2] for fault in FAULTS
       if FAULTS[fault][2] is None or state in FAULTS[fault][2]]
SHORT = [
    ("inplace", "flip", "commit-answer"),
    ("inplace-back", "hold", "stop-proxy"),
    ("swap", "copy-commit", "disk-full"),
    ("swap", "flip", "kill-proxy"),
    ("swap-back", "flip-sent", "restart-server"),
    ("finish", "clean-tables", "terminate"),
]


def chosen(wish):
    """All cells, a few, or by a number so many, others with another PGSLUICE_TEST_SEED."""
    if wish.isdigit():
        seed = int(os.environ.get("PGSLUICE_TEST_SEED", common.pg_major()))
        return random.Random(seed).sample(ALL, min(int(wish), len(ALL)))
    return ALL if wish == "all" else SHORT


CELLS = chosen(os.environ.get("PGSLUICE_TEST_MATRIX", "short"))


@pytest.fixture(scope="module")
def small_disk():
    try:
        disk = SmallDisk("96m", common.server_user())
    except PermissionError as error:
        warnings.warn(str(error))
        disk = None
    yield disk
    if disk:
        disk.close()


@pytest.fixture(scope="module")
def matrix_server(small_disk):
    # What is acknowledged must outlast a crash; small segments of WAL leave room for a limit of files' sizes.
    instance = Server(settings={"synchronous_commit": "on", "restart_after_crash": "on",
                                "autovacuum_naptime": "1s"},
                      initdb_args=["--wal-segsize=1"], disk=small_disk).start()
    schema.create_database(instance)
    instance.psql("GRANT pg_read_all_stats TO pgsluice")
    instance.psql(BURN, dbname="postgres")
    if small_disk:
        instance.psql(f"CREATE TABLESPACE small LOCATION '{small_disk.path}'", dbname="postgres")
        instance.psql("GRANT CREATE ON TABLESPACE small TO PUBLIC;"
                      "ALTER DATABASE app SET default_tablespace = small")
    yield instance
    instance.stop("immediate")


@pytest.fixture
def table(matrix_server):
    matrix_server.psql("SET client_min_messages = error; DROP SCHEMA IF EXISTS pgsluice CASCADE;"
                       "DROP TABLE IF EXISTS chunks_pgsluice_new, chunks_pgsluice_old CASCADE")
    schema.create_chunks(matrix_server)
    matrix_server.psql(
        "INSERT INTO chunks (collection_id, document_id, chunk_index, content)"
        " SELECT 'collection ' || n % 37, 'base', n, repeat(md5(n::text), 20)"
        f" FROM generate_series(1, {BASE_ROWS}) n; ANALYZE chunks")
    return matrix_server


@pytest.fixture
def relay(table):
    instance = FaultRelay(table.host, table.port)
    yield instance
    instance.stop()


@pytest.fixture
def front(table, relay):
    instance = Proxy(table, rules=[strip_rule("strip")], program=FAILPOINTS, hold_ttl=f"{HOLD_MS}ms",
                     control=f"host={relay.host} port={relay.port} user=pgsluice dbname=app")
    folder = instance.dir / "failpoints"
    folder.mkdir()
    instance.environment["PGSLUICE_FAILPOINTS"] = str(folder)
    instance.start()
    yield instance
    for file in folder.glob("*"):
        file.unlink()
    instance.stop()


def residue(server):
    """Of a swap or a cutover that is over: all but the history in pgsluice.run and the empty pgsluice.swap."""
    return server.psql("""
        SELECT coalesce(string_agg(x, ' '), '') FROM (
        SELECT relname::text AS x FROM pg_class WHERE relname LIKE '%pgsluice%'
        UNION ALL SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'log\\_%'
          AND relnamespace = to_regnamespace('pgsluice')
        UNION ALL SELECT tgname FROM pg_trigger WHERE tgname LIKE '%pgsluice%'
        UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = to_regnamespace('pgsluice')
        UNION ALL SELECT 'advisory lock' FROM pg_locks WHERE locktype = 'advisory') q""")


def start(proxy, state, command):
    (proxy.dir / "failpoints" / state).touch()
    running = subprocess.Popen([str(common.binary()), *command, "--config", str(proxy.config)],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    reached = proxy.dir / "failpoints" / f"{state}.reached"
    try:
        common.wait_until(lambda: reached.exists() or running.poll() is not None, 60, state)
        assert reached.exists(), f"{state} was not reached:\n{running.communicate()[0]}"
    except BaseException:
        running.kill()
        raise
    return running


def comes_through(route, state, fault):
    """Whether the command itself outlasts the fault, without being run again."""
    if fault in ("kill-proxy", "interrupt", "disk-full") or state == "preflight":
        return False
    outage = fault in ("reset", "black-hole", "terminate", "kill-backend", "restart-server")
    return not outage or route == "swap" or state in MACHINE


def check_whole(cell, route):
    """What status says fits the catalog: before, after, or something to go on with."""
    status = json.loads(cell.proxy.command("status", "--json").stdout)
    assert status["cutover"] is None, status["cutover"]
    held = max(gate["max_held_ms"] for gate in status["gates"])
    assert held <= HOLD_MS, f"I6: held for {held} ms"
    assert all(gate["state"] == "open" for gate in status["gates"]), status["gates"]
    generated = is_generated(cell.server)
    swap = status["swaps"][0] if status["swaps"] else None
    if swap and generated:
        assert swap["back"] or route == "finish" or swap["phase"] == "cleaning up", swap
    elif swap:
        assert not swap["back"], swap
    assert schema.wrong_keys(cell.server) == 0
    return generated


@pytest.mark.parametrize("route,state,fault", CELLS, ids=["-".join(cell) for cell in CELLS])
def test_a_fault_at_a_state(table, relay, front, route, state, fault):
    before, command, _ = ROUTES[route]
    inject, breaks, _ = FAULTS[fault]
    plain = catalog(table)
    if fault == "autovacuum":
        table.psql(f"ALTER TABLE chunks SET ({SLOW_VACUUM}); CHECKPOINT")
    for earlier in before:
        run_again(front, earlier)
    refusals = ("53100",) if fault == "disk-full" and table.disk else ()
    with Ledger(front, table, workers=WORKERS, pause=PAUSE, breakable=breaks, refusals=refusals) as ledger:
        running = start(front, state, command)
        cell = Cell(table, relay, front, ledger, running)
        inject(cell)
        began = cell.over
        text, _ = running.communicate(timeout=90 * common.slowness())
        code = running.returncode
        ledger.wait_for_writes(50)
        end = time.monotonic()
        silence = ledger.silence(began, end)
        print(f"{route} {state} {fault}: exit code {code}, silence {silence:.2f} s; {text[-300:]}")
        assert code in (0, 1) or fault == "kill-proxy", text
        assert code == 0 or not comes_through(route, state, fault), text
        generated = check_whole(cell, route)
        relay.reset()
        if code == 0:
            assert generated == (command is not BACK), text
        assert silence < 2 * common.slowness(), f"no write for {silence:.1f} s"
        assert not ledger.errors, ledger.errors[:5]
        if generated == (command is BACK):
            run_again(front, command)
        assert is_generated(table) == (command is not BACK)
        if command is FINISH and fault != "kill-proxy":  # else the rollback ends it as well
            run_again(front, command)
        if command is not BACK:
            run_again(front, BACK)
        else:
            left = bool(json.loads(front.command("status", "--json").stdout)["swaps"])
            assert front.command(*FINISH).returncode == int(left)
            assert front.command(*BACK).returncode == int(not left)
        assert catalog(table) == plain
        ledger.wait_for_writes(50)
    ledger.check()
    common.wait_until(lambda: residue(table) == "", 10, "no residue: " + residue(table))


def keepalives(local=None, remote=None):
    """Seconds until the kernel asks after the other end, for each connection with such a port."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    established = [row for row in rows if row[3] == "01"
                   and local in (None, int(row[1].rpartition(":")[2], 16))
                   and remote in (None, int(row[2].rpartition(":")[2], 16))]
    timers = [row[5].split(":") for row in established]
    return [int(ticks, 16) / os.sysconf("SC_CLK_TCK") if kind == "02" else float("inf")
            for kind, ticks in timers]


def test_both_ends_soon_ask_after_a_host_that_vanished(table, relay, front):
    def is_soon():
        timers = keepalives(remote=relay.port), keepalives(local=table.port)
        return all(timers) and max(map(max, timers)) <= 10.5
    running = start(front, "arm", INPLACE)
    try:
        common.wait_until(is_soon, 10, "keepalives on the control connection")
    finally:
        (front.dir / "failpoints" / "arm.reached").unlink()
    assert running.wait(60) == 0


def test_what_is_installed_has_no_failpoints():
    assert b"PGSLUICE_FAILPOINTS" not in common.binary().read_bytes()
    assert b"PGSLUICE_FAILPOINTS" in FAILPOINTS.read_bytes()
