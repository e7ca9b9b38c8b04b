"""pgbench on the drivers' tour (tour.py): simple, extended, prepared and pipelined statements.

Each transaction supplies a wrong key and fails when the one that RETURNING gives is not right.
"""

import os
import tempfile

import tour

PGBENCH = os.environ.get("PGBENCH", "pgbench")
CLIENTS, TRANSACTIONS = 4, 25

SCRIPT = rf"""
\set n random(1, 1000)
BEGIN;
{tour.INSERT} VALUES ('a', :n, :n, 'pgbench') RETURNING partition_key AS k \gset
SELECT 1 / CASE WHEN :k = {tour.KEYS['a']} THEN 1 ELSE 0 END;
SELECT repeat('x', 20000), NULL, :n;
COMMIT;
"""

PIPELINE = rf"""
\set n random(1, 1000)
\startpipeline
{tour.INSERT} VALUES ('b', :n, :n, 'pipelined');
SELECT count(*) FROM generate_series(1, :n);
{tour.INSERT} VALUES ('b', :n, :n, 'pipelined'), ('a', 7, :n, 'pipelined');
\endpipeline
"""


def bench(environment, mode, script):
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        output = tour.run([PGBENCH, "-n", "-M", mode, "-f", file.name, "-c", str(CLIENTS), "-j", "2",
                           "-t", str(TRANSACTIONS)], environment)
    count = CLIENTS * TRANSACTIONS
    assert f"number of transactions actually processed: {count}/{count}" in output, output
    assert "number of failed transactions: 0 " in output, output
    return count


def main():
    environment = {**os.environ, **tour.libpq_environment(tour.settings())}
    tally = tour.Tally()
    for mode in ("simple", "extended", "prepared"):
        tally.wrote(bench(environment, mode, SCRIPT))
    for mode in ("extended", "prepared"):
        tally.wrote(3 * bench(environment, mode, PIPELINE))
    tally.report()


main()
