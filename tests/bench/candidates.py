"""What stands between the clients and the server in a measurement: the floor, pgsluice, PgBouncer.

Each serves all its sessions in one thread, so that CPU per transaction compares: two threads wake
up more often for the same work. What a process has used is read in nanoseconds from the scheduler.
Those that can speak TLS do so when a client asks for it; towards the server only when told.
"""

import atexit
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from lib import common, pki
from lib.proxy import Proxy, strip_rule

TICKS = os.sysconf("SC_CLK_TCK")


class Missing(Exception):
    """Something that the measurement needs is not on this machine."""


class Candidate:
    """A started process on a free TCP port; `name` heads its column."""

    host = "127.0.0.1"
    name = None
    has_tls = False

    def _await_listening(self, process):
        def is_listening():
            if process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {process.returncode} at its start")
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
            except OSError:
                return False
            return True

        common.wait_until(is_listening, 20, f"{self.name} on port {self.port}")

    def _start(self, command, **options):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, **options)
        self.process = process
        atexit.register(self.stop)
        self._await_listening(process)

    @property
    def pid(self):
        return self.process.pid

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def thread_cpu_ns(self):
        """CPU time of each thread so far, user and system, by thread id."""
        return {path.parent.name: int(path.read_text().split()[0])
                for path in Path(f"/proc/{self.pid}/task").glob("*/schedstat")}

    def cpu_ns(self):
        """CPU time of all threads so far, user and system."""
        try:
            return sum(self.thread_cpu_ns().values())
        except (OSError, IndexError):
            pass
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // TICKS

    def memory_kib(self):
        """What only this process has: its heap and stacks, no shared libraries."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1])
        raise RuntimeError(f"{self.name}: no Private_Dirty in smaps_rollup")


class Direct(Candidate):
    """No proxy at all: the server's own port."""

    name = "direct"

    def __init__(self, server):
        self.port = server.port

    def cpu_ns(self):
        return 0

    def stop(self):
        pass


class Floor(Candidate):
    """The byte pipe over libuv streams."""

    name = "floor"
    program = "bench_floor"

    def __init__(self, server, certificates=None):
        self.port = common.free_port()
        self._start([str(common.build_dir() / self.program), str(self.port), str(server.port)])


class FloorPoll(Floor):
    """The byte pipe over uv_poll with recv and send of its own."""

    name = "floor, uv_poll"
    program = "bench_floor_poll"


class Sluice(Candidate):
    """pgsluice with the rule on the owners' table in mode strip, and with its audit log."""

    name = "pgsluice"
    has_tls = True

    def __init__(self, server, certificates, workers=1, server_tls=False):
        sslmode = "require" if server_tls else "disable"
        self.proxy = Proxy(server, [strip_rule()], workers=workers, client_tls="allow",
                           auth_type="passthrough", client_tls_cert=certificates / "one.crt",
                           client_tls_key=certificates / "one.key",
                           server=f"host={server.host} port={server.port} sslmode={sslmode}")
        self.proxy.start()
        self.process = self.proxy.process
        self.port = self.proxy.port

    def stop(self):
        self.proxy.stop()


class PgBouncer(Candidate):
    """Debian's PgBouncer with session pooling and its other defaults.

    It gives a new client the server connection of one that has gone, so that its connection churn
    is another thing than the others'.
    """

    name = "pgbouncer"
    has_tls = True

    def __init__(self, server, certificates, server_tls=False):
        program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
        if program is None:
            raise Missing("pgbouncer is not installed")
        self.port = common.free_port()
        folder = common.scratch_dir("pgbouncer")
        user = common.server_user()  # it refuses root
        pki.place(certificates, "one", folder, user)
        (folder / "users").write_text('"app" ""\n"postgres" ""\n')
        (folder / "pgbouncer.ini").write_text("\n".join([
            "[databases]",
            f"* = host={server.host} port={server.port}",
            "[pgbouncer]",
            f"listen_addr = {self.host}",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "auth_type = trust",
            f"auth_file = {folder}/users",
            f"pidfile = {folder}/pgbouncer.pid",
            "pool_mode = session",
            "default_pool_size = 400",
            "max_client_conn = 1000",
            "ignore_startup_parameters = extra_float_digits",
            "client_tls_sslmode = allow",
            f"client_tls_cert_file = {folder}/server.crt",
            f"client_tls_key_file = {folder}/server.key",
            f"server_tls_sslmode = {'require' if server_tls else 'disable'}",
            "log_connections = 0",
            "log_disconnections = 0",
        ]) + "\n")
        if user:
            shutil.chown(folder, user)
        self._start([program, "-q", str(folder / "pgbouncer.ini")], user=user, cwd="/")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        super().stop()
