"""Texts that name nothing guarded go on byte for byte, whoever can read them, and so do the answers.

The texts: unguarded.sql, over the grammar of PostgreSQL 15 to 18, and the SQL that PostgreSQL itself is
installed with: its system views and functions, and its extensions' scripts.
"""

import re
from pathlib import Path

import pytest

from lib import schema
from lib.proxy import Proxy, strip_rule
from lib.recorder import Recorder
from lib.wire import CopyFail, Describe, Parse, Query, Sync, connect

pytestmark = pytest.mark.proxy

HERE = Path(__file__).parent
SHARE = Path("/usr/share/postgresql/15")

TABLES = """
CREATE TABLE t (a serial PRIMARY KEY, b text, c integer);
INSERT INTO t SELECT n, 'b' || n FROM generate_series(1, 5) AS n;
CREATE TABLE one AS SELECT 1 AS a;
SELECT setval('t_a_seq', 100);
"""


def own_texts():
    lines = (HERE / "unguarded.sql").read_text().splitlines()
    # The head of the file says what it is.
    while lines[0].startswith("-- "):
        lines.pop(0)
    return re.split(r"\n(?! )", "\n".join(lines))


def server_texts():
    """Cut where a line ends with a semicolon, which a function's body does not survive whole."""
    found = []
    for path in [*sorted(SHARE.glob("*.sql")), *sorted(SHARE.glob("extension/*.sql"))]:
        found += re.split(r"(?<=;)\n", path.read_text())
    return found


@pytest.fixture(scope="module")
def sides(server):
    """(recorder, through the proxy, directly): sessions on two like databases."""
    for name in ("unguarded_a", "unguarded_b"):
        schema.create_database(server, name)
        schema.create_chunks(server, "trigger", name)
        server.psql(TABLES, dbname=name)
    recorder = Recorder(server.host, server.port)
    control = f"host={server.host} port={server.port} user=pgsluice dbname=unguarded_a"
    proxy = Proxy(server, rules=[strip_rule(database="unguarded_a")], control=control,
                  server=f"host={recorder.host} port={recorder.port}").start()
    options = {"extra_float_digits": "1"}
    through = connect(proxy, database="unguarded_a", **options)
    directly = connect(server, database="unguarded_b", **options)
    yield recorder, through, directly
    through.close()
    directly.close()
    proxy.stop()
    recorder.stop()


def shown(answers):
    """As text, without OIDs of our own and the databases' names."""
    lines = []
    for answer in answers:
        text = re.sub(r":\d{5,}/", ":ours/", answer.details())
        lines.append(f"{answer.name} {text}".replace("unguarded_a", "db").replace("unguarded_b", "db"))
    return lines


def exchange(connection, messages):
    """The answers. A COPY that waits for data is told that there is none: so one Query at a time."""
    found, batch = [], []
    for at, message in enumerate(messages, 1):
        batch.append(message)
        if message[:1] == b"Q" or at == len(messages):
            connection.send(*batch)
            for _ in range(sum(each[:1] in b"QS" for each in batch)):
                found += answers_to_one(connection)
            batch = []
    return found


def answers_to_one(connection):
    found = []
    while not found or found[-1].kind != "Z":
        found.append(connection.read())
        if found[-1].kind == "G":
            connection.send(CopyFail("no data"))
    return found


def check(sides, messages):
    recorder, through, directly = sides
    before = recorder.mark()
    received = shown(exchange(through, messages))
    assert received == shown(exchange(directly, messages))
    sent = recorder.since(before)
    if CopyFail("no data") in sent:
        sent = sent.replace(CopyFail("no data"), b"")
    assert sent == b"".join(messages)


@pytest.mark.parametrize("text", own_texts())
def test_own_texts_pass_untouched(sides, text):
    check(sides, [Query("BEGIN"), Query(text), Query("ROLLBACK")])
    check(sides, [Parse("", text), Describe("S", ""), Sync()])


def test_the_servers_own_scripts_pass_untouched(sides):
    texts = server_texts()
    assert len(texts) > 2000
    for at in range(0, len(texts), 30):
        check(sides, [message for text in texts[at:at + 30] for message in (Parse("", text), Sync())])
