"""For the tests of the cutover machine: a database for each test, and the probe that runs one command."""

import json
import os
import re
import subprocess
import threading

import pytest

from lib import common, schema
from lib.pgserver import PSQL, Server

PROBE = common.build_dir() / "cutover_probe"


class Result:
    """What one command of the probe gave."""

    def __init__(self, done):
        self.code = done.returncode
        self.progress = done.stderr
        try:
            self.report = json.loads(done.stdout)
        except json.JSONDecodeError:
            raise AssertionError(f"no report ({done.returncode}):\n{done.stdout}\n{done.stderr}")

    @property
    def summary(self):
        return self.report["summary"]

    def check(self, name):
        found = [check for check in self.report["checks"] if check["id"] == name]
        return found[0] if found else None

    def blocking(self):
        return sorted(c["id"] for c in self.report["checks"] if c["verdict"] == "BLOCK")

    def __repr__(self):
        return f"exit {self.code}: {self.summary}\n{json.dumps(self.report, indent=1)}\n{self.progress}"


class Database:
    """An empty database of its own on the shared server, owned by the control role."""

    count = 0

    def __init__(self, server):
        Database.count += 1
        self.server = server
        self.name = f"cut{Database.count}"
        schema.create_database(server, self.name)
        server.psql(f"ALTER DATABASE {self.name} OWNER TO pgsluice;"
                    "GRANT pg_read_all_stats TO pgsluice;", dbname="postgres")

    def drop(self):
        self.server.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                         f"WHERE datname = '{self.name}';"
                         f"DELETE FROM pg_db_role_setting WHERE setdatabase = (SELECT oid "
                         f"FROM pg_database WHERE datname = '{self.name}');", dbname="postgres")
        common.wait_until(self._try_drop, 10, "DROP DATABASE")

    def _try_drop(self):
        try:
            self.server.psql(f"DROP DATABASE {self.name}", dbname="postgres")
        except RuntimeError:
            return False
        return True

    def psql(self, sql, user="postgres"):
        return self.server.psql(sql, dbname=self.name, user=user)

    def as_owner(self, sql):
        return self.psql(sql, user="pgsluice")

    def dsn(self, user="postgres", **more):
        return self.server.dsn(self.name, user, **more)

    def fill(self, rows=2000):
        self.psql("INSERT INTO chunks (collection_id, document_id, chunk_index, content) "
                  "SELECT 'coll-' || i % 300, 'doc-' || i, i, repeat('x', 100) "
                  f"FROM generate_series(1, {rows}) i")

    def probe(self, command, host=None, port=None, user="pgsluice", timeout=120, **options):
        """Runs the probe to its end."""
        process = self.start_probe(command, host, port, user, **options)
        out, err = process.communicate(timeout=timeout * common.slowness())
        return Result(subprocess.CompletedProcess(process.args, process.returncode, out, err))

    def start_probe(self, command, host=None, port=None, user="pgsluice", **options):
        conninfo = (f"host={host or self.server.host} port={port or self.server.port} user={user} "
                    "dbname=postgres application_name=probe")
        words = [f"{key}={value}" for key, value in dict(database=self.name, **options).items()]
        return subprocess.Popen([str(PROBE), command, conninfo, *words], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def catalog(self, **options):
        """How the rules see the table: (exit code, shape, reordered, columns, dependents)."""
        process = self.start_probe("catalog", **options)
        out, _ = process.communicate(timeout=60 * common.slowness())
        if process.returncode != 0:
            return process.returncode, out.strip()
        name, shape, reordered, *rest = out.split()
        assert name == self.name
        return (0, int(shape), reordered == "1", [word for word in rest if word[0] != "+"],
                [word[1:] for word in rest if word[0] == "+"])

    def describe(self, *relations):
        """What psql says of the relations: independent of the cutover's own comparison. The key's
        place among the columns, its default, the trigger that computes it and those of a swap are
        left out."""
        commands = []
        for relation in ("chunks", *relations):
            commands += ["-c", f"\\d+ {relation}", "-c",
                         f"SELECT '{relation}', r FROM pg_class, unnest(relacl) r "
                         f"WHERE oid = '{relation}'::regclass UNION ALL SELECT attname, r "
                         f"FROM pg_attribute, unnest(attacl) r WHERE attrelid = '{relation}'::regclass "
                         "AND NOT attisdropped"]
        commands += ["-c", "\\dX", "-c",
                     "SELECT indexrelid::regclass, indisclustered, indisreplident, indisvalid "
                     "FROM pg_index WHERE indrelid = 'chunks'::regclass ORDER BY 1", "-c",
                     "SELECT classoid::regclass, description FROM pg_description "
                     "WHERE objoid >= 16384 AND classoid <> 'pg_proc'::regclass ORDER BY 1, 2", "-c",
                     "SELECT conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint "
                     "WHERE connamespace = 'public'::regnamespace ORDER BY 1", "-c",
                     "SELECT attname, attstattarget, attnotnull FROM pg_attribute "
                     "WHERE attrelid = 'chunks'::regclass AND attnum > 0 AND NOT attisdropped "
                     "ORDER BY 1"]
        text = subprocess.run([str(PSQL), "-XA", "-d", self.dsn(), *commands],
                              capture_output=True, text=True, check=True).stdout
        lines = []
        for line in text.splitlines():
            if "compute_partition_key" in line or "pgsluice" in line or "Triggers" in line or \
                    re.fullmatch(r"\(\d+ rows?\)", line):
                continue
            if line.startswith("partition_key|integer"):
                words = line.split("|")
                words[4] = ""
                line = "|".join(words)
            lines.append(line)
        return sorted(lines)

    def digest(self):
        return self.psql("SELECT md5(string_agg(concat_ws('|', id, collection_id, partition_key, "
                         "document_id, chunk_index, content, metadata, created_at), ',' ORDER BY id))"
                         " FROM chunks")

    def is_generated(self):
        return self.psql("SELECT coalesce(to_jsonb(a) ->> 'attgenerated', '') = 's' "
                         "FROM pg_attribute a WHERE attrelid = 'chunks'::regclass "
                         "AND attname = 'partition_key'") == "t"

    def residue(self):
        """What an abort or a refusal might have left behind."""
        return self.psql("SELECT nspname FROM pg_namespace WHERE nspname = 'pgsluice' UNION ALL "
                         "SELECT relname FROM pg_class WHERE relname LIKE 'pgsluice%' UNION ALL "
                         "SELECT attname FROM pg_attribute WHERE attname LIKE 'pgsluice%' UNION ALL "
                         "SELECT conname FROM pg_constraint WHERE conname LIKE 'pgsluice%'")


class Background(threading.Thread):
    """Calls step() until stopped; keeps what it raised."""

    def __init__(self, step):
        super().__init__(daemon=True)
        self.step = step
        self.stopping = threading.Event()
        self.errors = []

    def run(self):
        while not self.stopping.is_set():
            try:
                self.step()
            except Exception as error:  # what the test is about to look at
                self.errors.append(f"{type(error).__name__}: {error}")
                return

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.join(30)


@pytest.fixture(scope="session")
def pg():
    instance = Server(settings={"wal_level": "logical"})
    instance.start()
    yield instance
    instance.stop()


@pytest.fixture
def db(pg):
    """A database with the owners' table in trigger mode, with rows."""
    if not PROBE.exists():
        pytest.fail(f"{PROBE} is not built")
    database = Database(pg)
    schema.create_chunks(pg, "trigger", database.name)
    database.fill()
    yield database
    if os.environ.get("PGSLUICE_KEEP") != "1":
        database.drop()


def pytest_runtest_setup(item):
    marker = item.get_closest_marker("majors")
    if marker and not marker.args[0] <= common.pg_major() <= marker.args[1]:
        pytest.skip(f"for PostgreSQL {marker.args[0]} to {marker.args[1]}")


def pytest_configure(config):
    config.addinivalue_line("markers", "majors(first, last): runs on these server majors only")
