"""Small things that every suite needs: where files go, free ports, waiting for a condition."""

import atexit
import os
import pwd
import random
import shutil
import socket
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
TESTS = REPO / "tests"


def build_dir():
    return Path(os.environ.get("PGSLUICE_BUILD", REPO / "build"))


def binary():
    return Path(os.environ.get("PGSLUICE_BIN", build_dir() / "pgsluice"))


def cache_dir():
    path = Path(os.environ.get("PGSLUICE_CACHE", REPO / "build" / ".cache"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def is_direct():
    """True: the tests run against PostgreSQL itself, without the proxy, to prove the tests."""
    return os.environ.get("PGSLUICE_DIRECT") == "1"


def pg_major():
    return int(os.environ.get("PGSLUICE_TEST_PG", "15"))


def slowness():
    """Factor for every time limit: sanitizers make the proxy several times slower."""
    return float(os.environ.get("PGSLUICE_TEST_SLOWNESS", "1"))


def scratch_dir(prefix):
    """A new directory that other users can enter; gone when the process ends."""
    path = Path(tempfile.mkdtemp(prefix=prefix + "-", dir=os.environ.get("PGSLUICE_TMP")))
    path.chmod(0o755)
    owner = os.getpid()

    def remove():
        # Forked children inherit the handler, but not the directory.
        if os.getpid() == owner and os.environ.get("PGSLUICE_KEEP") != "1":
            shutil.rmtree(path, ignore_errors=True)

    atexit.register(remove)
    return path


def server_user():
    """The user that PostgreSQL runs as (it refuses root), or None for ourselves."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            pass
    raise RuntimeError("no unprivileged user to run PostgreSQL as")


_ports_given = set()


def free_port():
    """A TCP port below the ephemeral range, so that no outgoing connection takes it meanwhile."""
    while True:
        port = random.randrange(15000, 32000)
        if port in _ports_given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _ports_given.add(port)
        return port


def wait_until(condition, timeout=10, what="condition", every=0.02):
    """Polls until condition() is true, and returns what it returned."""
    end = time.monotonic() + timeout * slowness()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not true within {timeout * slowness():g} s")
        time.sleep(every)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def children_of(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in task.read_text().split()]
        except OSError:
            pass
    return found


def cpu_seconds(pid):
    """Of user and system time that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid):
    """Resident memory of a process in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
