"""Random statements through the rules (differential.py): a short run, always of the same statements.

RULES_STATEMENTS=100000 makes it a long one, RULES_FIRST=n begins at the n-th, PGSLUICE_TEST_SEED=n makes
it another one; RULES_POSITIONS=1 compares the positions in errors too. A failure says what to set to
see it again.
"""

import os

import pytest

from differential import Bench, Run
from lib import common

SEED = os.environ.get("PGSLUICE_TEST_SEED", "20261123")
STATEMENTS = int(os.environ.get("RULES_STATEMENTS", "500"))
FIRST = int(os.environ.get("RULES_FIRST", "0"))
POSITIONS = os.environ.get("RULES_POSITIONS") == "1"

pytestmark = [pytest.mark.proxy, pytest.mark.timeout(120 + STATEMENTS * common.slowness())]


@pytest.mark.parametrize("shape", ["trigger", "generated", "moved", "hashed"])
def test_statements_mean_what_they_mean_without_the_column(server, shape, capsys):
    if shape != "trigger" and common.pg_major() < 12:
        pytest.skip("generated columns need PostgreSQL 12 or newer")
    bench = Bench(server, shape)
    try:
        run = Run(bench, common.pg_major(), POSITIONS)
        for index in range(FIRST, FIRST + STATEMENTS):
            run.statement(SEED, index)
            if len(run.differences) >= 10:
                break
    finally:
        bench.close()
    if "RULES_STATEMENTS" in os.environ:
        with capsys.disabled():
            print(f"\n{shape}, PostgreSQL {common.pg_major()}, seed {SEED}:\n{run.report()}")
    if run.differences:
        pytest.fail("\n\n".join(
            f"{difference.kind}, PGSLUICE_TEST_SEED={name.partition(':')[0]} "
            f"RULES_FIRST={name.partition(':')[2]} RULES_STATEMENTS=1\n{told}"
            for difference, name, told in run.differences), pytrace=False)
