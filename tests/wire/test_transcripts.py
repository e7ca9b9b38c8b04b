"""Every transcript, replayed against PostgreSQL and through the proxy: the replies are the same.

Then once more with the bytes cut at random places, before and behind the proxy (invariant I15).
"""

import os
import random
from pathlib import Path

import pytest

from lib import common, schema
from lib.chopper import Chopper
from lib.proxy import Proxy
from lib.transcript import Transcript
from lib.wire import Connection

HERE = Path(__file__).parent
SEED = int(os.environ.get("PGSLUICE_TEST_SEED", "20261123"))


def transcripts(folder):
    found = [Transcript(path) for path in sorted((HERE / folder).glob("*.txt"))]
    return [pytest.param(transcript, id=transcript.path.stem) for transcript in found
            if transcript.needs <= common.pg_major()]


def over_tcp(endpoint):
    return lambda: Connection.to(endpoint)


def over_unix(endpoint):
    return lambda: Connection(path=f"{endpoint.socket_dir}/.s.PGSQL.{endpoint.port}")


def compare(expected, received):
    for wanted, got in zip(expected, received):
        if got != wanted:
            pytest.fail(f"replies differ\n  server: {wanted}\n  proxy:  {got}", pytrace=False)
    assert len(received) == len(expected)


@pytest.fixture(scope="module")
def answers(server):
    """The server's own replies to a transcript, asked once."""
    known = {}

    def ask(transcript):
        if transcript.path not in known:
            known[transcript.path] = transcript.replay(over_tcp(server))
        return known[transcript.path]

    return ask


@pytest.mark.parametrize("transcript", transcripts("transcripts"))
def test_replies_through_the_proxy_equal_the_servers(transcript, answers, proxy):
    compare(answers(transcript), transcript.replay(over_tcp(proxy)))


@pytest.mark.parametrize("transcript", transcripts("transcripts"))
def test_replies_over_a_unix_socket_equal_the_servers(transcript, answers, proxy):
    compare(answers(transcript), transcript.replay(over_unix(proxy)))


def send_cut(seed):
    dice = random.Random(seed)

    def send(connection, data):
        if len(data) <= 4000:
            connection.send_in_pieces(data, dice, dice.choice([1, 3, 20]))
        else:
            connection.send_in_pieces(data, dice, len(data) // 200)

    return send


@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
@pytest.mark.parametrize("transcript", transcripts("transcripts"))
def test_a_client_that_sends_in_pieces_gets_the_same_replies(transcript, seed, answers, proxy):
    compare(answers(transcript), transcript.replay(over_tcp(proxy), send_cut(seed)))


@pytest.fixture(scope="module")
def behind_chopper(server):
    """A proxy whose server's bytes arrive in pieces."""
    chopper = Chopper(server.host, server.port, SEED)
    if common.is_direct():
        yield chopper
    else:
        instance = Proxy(server, server=f"host={chopper.host} port={chopper.port}").start()
        yield instance
        instance.stop()
    chopper.stop()


@pytest.mark.parametrize("transcript", transcripts("transcripts"))
def test_a_server_whose_bytes_come_in_pieces_changes_nothing(transcript, answers, behind_chopper):
    compare(answers(transcript), transcript.replay(over_tcp(behind_chopper)))


@pytest.fixture(scope="module")
def tls_relay(server, pki):
    instance = Proxy(server, client_tls="allow", client_tls_cert=pki / "one.crt",
                     client_tls_key=pki / "one.key").start()
    yield instance
    instance.stop()


@pytest.mark.proxy
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "in_pieces"])
@pytest.mark.parametrize("transcript", [
    case for case in transcripts("transcripts") if case.id != "half_close"])  # TLS has none
def test_replies_over_tls_equal_the_servers(transcript, cut, answers, tls_relay):
    send = send_cut(SEED) if cut else None
    compare(answers(transcript),
            transcript.replay(lambda: Connection.to(tls_relay).start_tls(), send))


@pytest.mark.proxy
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "in_pieces"])
@pytest.mark.parametrize("transcript", transcripts("strip"))
def test_stripping_is_invisible_to_the_client(transcript, cut, server, strip_proxy):
    """I13: on the trigger's table the replies are what they are without the proxy."""
    schema.clear_chunks(server)
    expected = transcript.replay(over_tcp(server))
    schema.clear_chunks(server)
    send = send_cut(SEED) if cut else None
    compare(expected, transcript.replay(over_tcp(strip_proxy), send))
    assert schema.wrong_keys(server) == 0


@pytest.mark.parametrize("transcript", transcripts("strip"))
def test_strip_transcripts_are_what_the_server_does(transcript, server):
    schema.clear_chunks(server)
    transcript.replay(over_tcp(server))


@pytest.fixture(scope="module")
def ruled_relay(server):
    """A proxy with a rule on another table: it judges, and has nothing to change."""
    server.psql("CREATE TABLE IF NOT EXISTS guarded (t int, a int, n int);"
                "ALTER TABLE guarded OWNER TO pgsluice")
    instance = Proxy(server, rules=[{
        "name": "guarded", "database": "app", "table": "public.guarded", "column": "n",
        "expression": "t + 1", "mode": "observe"}]).start()
    yield instance
    instance.stop()


@pytest.mark.proxy
@pytest.mark.parametrize("transcript", transcripts("transcripts"))
def test_a_rule_that_does_not_match_changes_nothing(transcript, answers, ruled_relay):
    compare(answers(transcript), transcript.replay(over_tcp(ruled_relay)))
