"""psql on the drivers' tour (tour.py): simple statements, PREPARE, \\gdesc, \\copy, Ctrl-C."""

import os
import signal
import subprocess
import time

import tour

PSQL = [os.environ.get("PSQL", "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1"]

SCRIPT = rf"""
SELECT 'types', -42::int4, 2::int8 ^ 40, 'grüße', true, 0.1::float8, 12345678901234567890.5,
       '\x00ff'::bytea, '{{1,2,3}}'::int4[], NULL;
{tour.INSERT} VALUES ('a', 4711, 1, 'literal') RETURNING 'key', partition_key;
{tour.INSERT} VALUES ('b', NULL, 2, 'null'), ('a', 7, 3, 'two') RETURNING 'key', partition_key;
INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'partition_key');
PREPARE plus AS SELECT 'prepared', $1::int + 1;
EXECUTE plus(41);
SELECT 1 AS n, 'x'::text AS t \gdesc
\copy chunks ({tour.WITHOUT_KEY}) FROM pstdin
BEGIN;
{tour.INSERT} VALUES ('a', 1, 1, 'rolled back');
\set ON_ERROR_STOP off
SELECT 1/0;
SELECT 1;
\set ON_ERROR_STOP on
ROLLBACK;
LISTEN news;
NOTIFY news, 'extra';
{tour.LARGE};
\set FETCH_COUNT 500
{tour.LARGE};
"""


def script(environment):
    copied = "".join("\t".join(map(str, row)) + "\n" for row in tour.rows_without_key(1000))
    with subprocess.Popen([*PSQL, "-f", "-"], env=environment, text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as psql:
        # "pstdin" is psql's own standard input, where the script comes from too.
        head, tail = SCRIPT.split("pstdin\n")
        output, errors = psql.communicate(f"{head}pstdin\n{copied}\\.\n{tail}", timeout=60)
    assert psql.returncode == 0, errors
    lines = output.splitlines()
    assert lines[0] == (r"types|-42|1099511627776|grüße|t|0.1|12345678901234567890.5|\x00ff|"
                        r"{1,2,3}|")
    assert [line for line in lines if line.startswith("key")] == ["key|57", "key|-88", "key|57"]
    assert "prepared|42" in lines and "n|integer" in lines
    assert "division by zero" in errors and "transaction is aborted" in errors
    assert any(line.startswith('Asynchronous notification "news" with payload "extra"')
               for line in lines)
    assert sum(line.endswith("xxx") for line in lines) == 6000


def cancels(environment):
    """Ctrl-C: libpq's PQcancel, on a connection of its own."""
    with subprocess.Popen([*PSQL, "-c", "SELECT 'connected'", "-c", tour.SLEEP], env=environment,
                          text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as psql:
        assert psql.stdout.readline() == "connected\n"
        time.sleep(0.5)
        psql.send_signal(signal.SIGINT)
        errors = psql.communicate(timeout=30)[1]
    assert psql.returncode == 1 and "canceling statement due to user request" in errors, errors


def main():
    given = tour.settings()
    environment = {**os.environ, **tour.libpq_environment(given)}
    tally = tour.Tally()
    encrypted = tour.run([*PSQL, "-c", r"\conninfo"], environment)
    assert ("SSL connection" in encrypted) == given["tls"], encrypted
    script(environment)
    tally.wrote(3)
    tally.wrote(1001, supplied=False)
    tally.wrote(1, committed=False)
    cancels(environment)
    tally.report()


main()
