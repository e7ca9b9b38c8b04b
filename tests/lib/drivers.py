"""The drivers that are not Python: node-postgres and JDBC, run as programs."""

import functools
import json
import os
import shutil
import subprocess

from . import common
from .pgserver import npm_install

CLIENTS = common.TESTS / "e2e" / "clients"
JDBC_JAR = "/usr/share/java/postgresql.jar"
NODE_POSTGRES = "8.13.1"


def run(command, environment=None, timeout=60, **options):
    """Runs a client program; its stderr becomes the failure's text."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          timeout=timeout * common.slowness(),
                          env={**os.environ, **(environment or {})}, **options)
    assert done.returncode == 0, f"{command[0]} {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


@functools.cache
def node_module():
    return str(npm_install("pg", NODE_POSTGRES))


def node(scenario, endpoint, over="tcp", user="postgres", password="", database="app"):
    settings = {"host": endpoint.socket_dir if over == "unix" else endpoint.host,
                "port": endpoint.port, "user": user, "password": password, "database": database}
    output = run(["node", str(CLIENTS / "driver.js"), scenario, json.dumps(settings)],
                 {"PG_MODULE": node_module()})
    return json.loads(output.splitlines()[-1])


@functools.cache
def _java_classes():
    folder = common.scratch_dir("java")
    run(["javac", "-encoding", "UTF-8", "-cp", JDBC_JAR, "-d", str(folder),
         *map(str, sorted(CLIENTS.glob("*.java")))])
    return str(folder)


def java(main, *arguments):
    """The command that runs one of the Java clients."""
    return [shutil.which("java"), "-Xshare:auto", "-XX:TieredStopAtLevel=1",
            "-cp", f"{_java_classes()}:{JDBC_JAR}", main, *arguments]


def jdbc(scenario, endpoint, user="postgres", password="", database="app"):
    url = f"jdbc:postgresql://{endpoint.host}:{endpoint.port}/{database}"
    output = run(java("Driver", scenario, url, user, password))
    return dict(pair.split("=", 1) for pair in output.split())
