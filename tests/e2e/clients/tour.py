"""What the Python clients of the drivers' tour share: their settings, its values, their report.

The tour is the same walk for every driver, each by the driver's own API; tests/lib/tour.py says what
it shows. A client is a program: its argument is the settings as JSON, the last line that it prints is
its report as JSON, and what it finds wrong is an exception.
"""

import datetime
import decimal
import json
import subprocess
import sys
import threading
import uuid

INSERT = "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
WITHOUT_KEY = "collection_id, chunk_index, content"
WRONG = 4711
KEYS = {"a": 57, "b": -88}  # what the expression gives
SLEEP = "SELECT pg_sleep(60)"
LARGE = "SELECT n, repeat('x', 1000) FROM generate_series(1, 3000) n"
NOTICE = "DO $$ BEGIN RAISE NOTICE 'hear, hear'; END $$"

# A value of each type, by its name in SQL; jsonb is left to each driver's way with it.
VALUES = {
    "int4": -42,
    "int8": 2 ** 40,
    "text": "grüße, it's \\ \"quoted\" 表",
    "bool": True,
    "float8": 0.1,
    "numeric": decimal.Decimal("12345678901234567890.5"),
    "date": datetime.date(2026, 2, 28),
    "timestamptz": datetime.datetime(2026, 2, 28, 12, 30, 1, 500, tzinfo=datetime.timezone.utc),
    "bytea": bytes(range(256)),
    "uuid": uuid.UUID("5b9c5dd5-24a5-4b3e-9d1f-0f6f3a1f9d51"),
    "int4[]": [1, 2, 3],
    "varchar": None,
}


def settings():
    return json.loads(sys.argv[1])


def libpq_params(given):
    """The settings as libpq's keywords. In certificates, old ones find only names, no addresses."""
    tls = {"sslmode": "verify-full", "sslrootcert": given["ca"]} if given["tls"] else {
        "sslmode": "disable"}
    return {"host": "localhost", "hostaddr": given["host"], "port": given["port"],
            "dbname": given["database"], "user": given["user"], "password": given["password"],
            "application_name": given["application"], **tls}


def libpq_environment(given):
    """The settings as libpq's environment variables, for programs that it is in."""
    names = {"password": "PGPASSWORD", "application_name": "PGAPPNAME", "dbname": "PGDATABASE"}
    return {names.get(key, f"PG{key.upper()}"): str(value)
            for key, value in libpq_params(given).items()}


def rows(count, collection="a"):
    """As many rows that supply a wrong key each, for executemany and its like."""
    return [(collection, WRONG + n, n, f"row {n}") for n in range(count)]


def rows_without_key(count, collection="b"):
    return [(collection, n, f"copied {n}") for n in range(count)]


def run(command, environment, **more):
    """Runs a program that is to succeed, and returns its standard output."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120,
                          **more)
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {done.stderr}"
    return done.stdout


def cancel_soon(cancel):
    """Calls cancel() in half a second, on a thread that ends when the server has closed its connection.

    A client joins it before its next statement: PostgreSQL signals the process and then its group, and
    on a busy machine the second signal may arrive when the first has long been answered.
    """
    timer = threading.Timer(0.5, cancel)
    timer.start()
    return timer


class Tally:
    """Counts what the client has done, for the report."""

    def __init__(self):
        self.rows = 0
        self.supplied = 0

    def wrote(self, count, supplied=True, committed=True):
        self.rows += count if committed else 0
        self.supplied += count if supplied else 0

    def report(self, **more):
        print(json.dumps({"rows": self.rows, "supplied": self.supplied, **more}))


def is_right(returned):
    """True: the rows (collection, key) that RETURNING gave have the expression's keys."""
    return all(KEYS[collection] == key for collection, key in returned)
