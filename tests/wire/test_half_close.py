"""A client that sends no more, but reads on: everything it has sent is executed and answered, also
what the proxy was still thinking about when the client's end came."""

import time

import pytest

from lib import common, schema, wire
from lib.proxy import Direct, Proxy, strip_rule

INSERT = "INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'x')"
ROWS = 300_000


@pytest.fixture(scope="module")
def endpoint(server):
    schema.create_chunks(server)
    instance = (Direct(server) if common.is_direct()
                else Proxy(server, rules=[strip_rule()]).start())
    yield instance
    assert instance.stop() == 0


def text_that_takes_long():
    return INSERT + ", ('a', 1, 'x')" * (ROWS - 1)


def pipeline_in_doubt(session):
    """The Bind is about one statement or another: that depends on what the server answers."""
    session.send(wire.Parse("s", INSERT), wire.Sync()).read_until()
    session.send(wire.Query("SELECT pg_sleep(0.3)"), wire.Parse("s", "SELECT 1"), wire.Sync(),
                 wire.Bind("", "s"), wire.Execute(), wire.Sync())


def one_large_query(session):
    session.send(wire.Query(text_that_takes_long()), wire.Query("SELECT 'behind it'"))


CASES = {"large_text": (one_large_query, ["I", "I"], ROWS),
         "pipeline_in_doubt": (pipeline_in_doubt, ["I", "I", "I"], 1)}


@pytest.mark.parametrize("case", CASES)
def test_what_was_sent_before_is_executed_and_answered(case, endpoint, server):
    send, expected, stored = CASES[case]
    schema.clear_chunks(server)
    with wire.connect(endpoint, timeout=60) as session:
        send(session)
        session.half_close()
        answers = session.read_to_end()
    assert [answer.body.decode() for answer in answers if answer.kind == "Z"] == expected
    assert server.psql("SELECT count(*) FROM chunks") == str(stored)


def test_one_text_is_executed_for_a_client_that_is_gone(endpoint, server):
    """Of several, the server reads no more after the first answer that nobody takes."""
    schema.clear_chunks(server)
    with wire.connect(endpoint, timeout=60) as session:
        session.send(wire.Query(text_that_takes_long()))
    common.wait_until(lambda: server.psql("SELECT count(*) FROM chunks") == str(ROWS), 30,
                      "the rows")


@pytest.mark.proxy
def test_a_client_that_has_gone_costs_no_turns(endpoint, server):
    """Its end is not told again and again while the server works."""
    schema.clear_chunks(server)
    with wire.connect(endpoint) as session:
        session.send(wire.Parse("s", INSERT), wire.Sync()).read_until()
        session.send(wire.Query("SELECT pg_sleep(1)"), wire.Parse("s", "SELECT 1"), wire.Sync(),
                     wire.Bind("", "s"), wire.Execute(), wire.Sync())
        session.half_close()
        before = common.cpu_seconds(endpoint.pid)
        time.sleep(0.8)
        assert common.cpu_seconds(endpoint.pid) - before < 0.2
        session.read_to_end()


def test_a_goodbye_behind_a_sync_that_a_copy_swallows_waits_for_the_last_answer(endpoint, server):
    """Whether a Sync among CopyData counts is the server's to say; what comes behind is answered all the same."""
    with wire.connect(endpoint, timeout=60) as session:
        session.send(wire.Parse("", "COPY chunks (collection_id, chunk_index, content) FROM STDIN"),
                     wire.Bind("", ""), wire.Execute(), wire.Sync(), wire.CopyData("a\t1\tx\n"), wire.CopyDone(),
                     wire.Sync(), wire.Query("SELECT 'first'"), wire.Query("SELECT pg_sleep(1), 'last'"),
                     wire.Terminate())
        answers = session.read_until()
        answers += session.read_until()
        session.half_close()
        answers += session.read_to_end()
    assert "last" in str([answer for answer in answers if answer.kind == "D"][-1])
