"""Whole sessions made up at random, played on the server and through the proxy: every byte that comes
back is the same (I15), also where the streams are cut, and with rules that do not concern them.

PGSLUICE_TEST_SESSIONS is how many sessions each endpoint plays (default 20), PGSLUICE_TEST_SEED the
first one's seed; a failure names the seed of its session.
"""

import os
import random

import pytest

from lib import common, wire
from lib.chopper import Chopper, Cutter, send_cut_at
from lib.proxy import Proxy, strip_rule
from lib.sessions import Session
from lib.wire import Connection

SEED = int(os.environ.get("PGSLUICE_TEST_SEED", "20261125"))
SESSIONS = int(os.environ.get("PGSLUICE_TEST_SESSIONS", "20"))
GUARDED = ("chunks", "partition_key")


def play(endpoint, session, arrivals=None, dice=None, tls=False):
    """Plays a session: the replies, and how many of them had come after each step.

    With `arrivals` each step waits for that many, without it until nothing more comes for a moment;
    where it waits has no influence on what comes. `dice` cuts what is sent.
    """
    received, counts = [], []
    with Connection.to(endpoint) as connection:
        if tls:
            connection.start_tls()
        received += connection.start()
        for n, step in enumerate(session.steps):
            if dice is not None:
                connection.send_in_pieces(step, dice, dice.choice([1, 2, 7, len(step) // 10 + 1]))
            else:
                connection.send(step)
            if n == len(session.steps) - 1:
                break
            wanted = len(received) + 10 ** 9 if arrivals is None else arrivals[n]
            while len(received) < wanted:
                if arrivals is None and connection.is_quiet(0.003):
                    break
                received.append(connection.read())
            counts.append(len(received))
        if not tls:
            connection.half_close()
        elif not session.steps[-1].endswith(wire.Terminate()):
            connection.send(wire.Terminate())
        received += connection.read_to_end()
    return received, counts


def compare(expected, received, seed):
    where = f"session with PGSLUICE_TEST_SEED={seed}"
    for n, (wanted, got) in enumerate(zip(expected, received)):
        if wanted.comparable() != got.comparable():
            pytest.fail(f"{where}: reply {n} differs\n  server: {wanted}\n  proxy:  {got}\n"
                        f"  ahead of it: {expected[max(0, n - 3):n]}", pytrace=False)
    if len(expected) != len(received):
        longer = max(expected, received, key=len)
        pytest.fail(f"{where}: {len(expected)} replies of the server, {len(received)} of the proxy; "
                    f"then: {longer[min(len(expected), len(received)):][:3]}", pytrace=False)


@pytest.fixture(scope="module")
def chopped(server):
    """Starts proxies behind which the server's bytes come in pieces."""
    chopper = Chopper(server.host, server.port, SEED)
    started = []

    def start(**options):
        started.append(Proxy(server, server=f"host={chopper.host} port={chopper.port}",
                             **options).start())
        return started[-1]
    yield start
    for instance in started:
        instance.stop()
    chopper.stop()


def tls_keys(pki):
    return dict(client_tls="allow", client_tls_cert=pki / "one.crt", client_tls_key=pki / "one.key")


def differ(server, endpoint, seeds, names=None, cut=False, tls=False):
    for seed in seeds:
        session = Session(seed, names)
        expected, arrivals = play(server, session)
        dice = random.Random(seed) if cut else None
        try:
            received, _ = play(endpoint, session, arrivals, dice, tls)
        except (wire.Closed, OSError) as error:
            pytest.fail(f"session with PGSLUICE_TEST_SEED={seed}: {error!r}", pytrace=False)
        compare(expected, received, seed)


def seeds(offset):
    """Each endpoint has sessions of its own; a given seed is everybody's first."""
    given = "PGSLUICE_TEST_SEED" in os.environ
    first = SEED if given else SEED + 100_000 * offset
    return range(first, first + SESSIONS)


def test_without_rules(server, proxy):
    differ(server, proxy, seeds(0))


@pytest.mark.proxy
def test_without_rules_cut(server, chopped):
    differ(server, chopped(), seeds(1), cut=True)


@pytest.mark.proxy
def test_without_rules_cut_over_tls(server, chopped, pki):
    differ(server, chopped(**tls_keys(pki)), seeds(2), cut=True, tls=True)


@pytest.mark.proxy
def test_with_a_rule_whose_names_are_not_there(server, strip_proxy):
    differ(server, strip_proxy, seeds(3))


@pytest.mark.proxy
@pytest.mark.parametrize("mode", ["strip", "reject"])
def test_with_a_rule_whose_names_are_mentioned_cut(mode, server, chopped):
    differ(server, chopped(rules=[strip_rule(mode)]), seeds(4), names=GUARDED, cut=True)


# Short sessions, one with something of everything, one for a rule.
EVERYTHING = [
    wire.Parse("", "SELECT generate_series(1, 3)"), wire.Bind("", ""), wire.Flush(),
    wire.Execute("", 2), wire.Bind("", "nobody"), wire.Execute(""), wire.Sync(),
    wire.Query("BEGIN; COPY documents FROM STDIN; COPY documents TO STDOUT; ROLLBACK"),
    wire.CopyData("a\t1\n"), wire.CopyData("b\t2\n"), wire.CopyDone(),
    wire.Query("LISTEN l; NOTIFY l, 'n'; SET timezone TO 'Asia/Tokyo'"),
    wire.FunctionCall(177, ["2", "3"]),
    wire.Query("DO $$ BEGIN RAISE NOTICE 'x'; END $$; SELECT nothing"), wire.Terminate(),
]
GUARDED_WRITES = [
    wire.Query("BEGIN; INSERT INTO chunks (collection_id, partition_key, chunk_index, content)"
               " VALUES ('a', 7, 1, 'x') RETURNING partition_key"),
    wire.Parse("s", "INSERT INTO chunks (collection_id, partition_key, chunk_index, content)"
                    " VALUES ($1, $2, 2, 'x') RETURNING partition_key"),
    wire.Describe("S", "s"), wire.Bind("p", "s", ["b", "99"]), wire.Execute("p"), wire.Sync(),
    wire.Query("ROLLBACK /* chunks */"), wire.Close("S", "s"), wire.Terminate(),
]


def replies_cut_at(path, messages, offset):
    """All in one stream, start-up included, cut at one place."""
    with Connection(path=path) as connection:
        send_cut_at(connection.socket, wire.StartupMessage() + b"".join(messages), offset)
        return connection.read_to_end()


@pytest.mark.proxy
@pytest.mark.parametrize("messages, rules", [(EVERYTHING, []), (GUARDED_WRITES, [strip_rule()])],
                         ids=["without_rules", "with_a_rule"])
def test_one_cut_at_each_offset_of_both_streams(messages, rules, server):
    """The trigger replaces what the client supplies: the replies are the same with stripping."""
    cutter = Cutter(server.host, server.port)
    instance = Proxy(server, rules=rules, server=f"host={cutter.dir} port={cutter.port}").start()
    expected = replies_cut_at(f"{server.socket_dir}/.s.PGSQL.{server.port}", messages, 0)
    sent = len(wire.StartupMessage() + b"".join(messages))
    replied = sum(5 + len(answer.body) for answer in expected)
    try:
        for offset in range(max(sent, replied)):
            cutter.offset = offset
            received = replies_cut_at(f"{instance.dir}/.s.PGSQL.{instance.port}", messages, offset)
            compare(expected, received, f"none: both streams cut at {offset}")
        if rules:
            instance.wait_for_audit(2 * offset, verdict="stripped")
    finally:
        assert instance.stop() == 0
        cutter.stop()
