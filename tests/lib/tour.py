"""The drivers' tour: one program per driver, which walks through what applications do with it.

Each shows, by the driver's own API: a login by SCRAM, plain or with TLS whose certificate it verifies;
parameters and results of several types and NULL; INSERTs that supply a wrong key, with RETURNING; many
rows in its fastest ways; COPY; an error, the failed transaction and ROLLBACK; the cancellation of a
running statement; a result of megabytes; LISTEN, NOTIFY and notices; and as much of that simple,
prepared and in binary as it has. A program prints as its last line how many rows it has left in the
table, and for how many it has supplied a key.
"""

import functools
import json
import sys

from . import common, drivers
from .pgserver import DEBIAN_BIN, npm_install, npm_server_bin

POSTGRES_JS = "3.4.9"
GO_PATH = "/usr/share/gocode"  # where Debian's packages of Go sources are
OLDEST, NEWEST = 11, 18  # of the majors whose libpq is tried


def fetch():
    """Brings what comes from the npm registry: the drivers, and the oldest and newest libpq."""
    drivers.node_module()
    _postgres_js()
    for major in (OLDEST, NEWEST):
        npm_server_bin(major)


@functools.cache
def _postgres_js():
    return str(npm_install("postgres", POSTGRES_JS))


@functools.cache
def _go(source):
    """Builds a Go program from Debian's packages alone; what it compiles of them is kept."""
    binary = common.scratch_dir("go") / source.removesuffix(".go")
    drivers.run(["go", "build", "-o", str(binary), str(drivers.CLIENTS / source)],
                {"GO111MODULE": "off", "GOPATH": GO_PATH, "GOFLAGS": "", "CGO_ENABLED": "0",
                 "GOCACHE": str(common.cache_dir().resolve() / "go")}, timeout=170)
    return str(binary)


def _python(source, *more):
    return lambda settings: (
        [sys.executable, str(drivers.CLIENTS / source), json.dumps(settings), *more],
        {"PSQL": str(DEBIAN_BIN / "psql"), "PGBENCH": str(DEBIAN_BIN / "pgbench")})


def _program(*start, **environment):
    """A program whose only argument is the settings; the environment's values may be functions."""
    return lambda settings: (
        [*(word() if callable(word) else word for word in start), json.dumps(settings)],
        {name: value() for name, value in environment.items()})


def _jdbc(settings):
    url = f"jdbc:postgresql://{settings['host']}:{settings['port']}/{settings['database']}"
    return drivers.java("Tour", url, settings["user"], settings["password"],
                        settings["application"], settings["ca"] if settings["tls"] else ""), {}


def _source(name):
    return str(drivers.CLIENTS / name)


DRIVERS = {
    "psql": _python("psql_client.py"),
    "pgbench": _python("pgbench_client.py"),
    "psycopg2": _python("psycopg2_client.py"),
    "psycopg3": _python("psycopg3_client.py"),
    "asyncpg": _python("asyncpg_client.py"),
    "sqlalchemy-psycopg2": _python("sqlalchemy_client.py", "psycopg2"),
    "sqlalchemy-asyncpg": _python("sqlalchemy_client.py", "asyncpg"),
    "node-postgres": _program("node", _source("node_postgres_client.js"),
                              DRIVER_MODULE=drivers.node_module),
    "postgres.js": _program("node", _source("postgres_js_client.js"), DRIVER_MODULE=_postgres_js),
    "pgjdbc": _jdbc,
    "pgx": _program(lambda: _go("pgx_client.go")),
    "DBD::Pg": _program("perl", _source("dbd_pg_client.pl")),
    "psqlODBC": _python("odbc_client.py"),
}


def libpq_of(major):
    """The environment in which programs load the libpq of this major instead of Debian's."""
    return {"LD_LIBRARY_PATH": str(npm_server_bin(major).resolve().parent / "lib")}


def walk(driver, settings, **environment):
    """Runs a driver's program with these settings; returns its report."""
    command, its_own = DRIVERS[driver](settings)
    output = drivers.run(command, {**its_own, **environment}, timeout=90)
    return json.loads(output.splitlines()[-1])
