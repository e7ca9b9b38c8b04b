"""Starts and stops pgsluice for a test, with a configuration written for it."""

import atexit
import json
import os
import signal
import socket
import subprocess

from . import common


def strip_rule(mode="strip", **more):
    """The rule on the owners' table, as a configuration section."""
    rule = {
        "name": "chunks",
        "database": "app",
        "table": "public.chunks",
        "column": "partition_key",
        "expression": "mod(hashtext(collection_id::text), 100)",
        "mode": mode,
    }
    rule.update(more)
    return {key: value for key, value in rule.items() if value is not None}


def render_config(settings, rules=()):
    """The INI text; `settings` are the keys of [pgsluice], a None leaves a key out."""
    lines = ["[pgsluice]"]
    lines += [f"{key} = {value}" for key, value in settings.items() if value is not None]
    for rule in rules:
        rule = dict(rule)
        lines += ["", f"[rule {rule.pop('name')}]"]
        lines += [f"{key} = {value}" for key, value in rule.items()]
    return "\n".join(lines) + "\n"


class Proxy:
    """One pgsluice process in front of the server `target`, on a free TCP port and a unix socket.

    rules: dictionaries as strip_rule() gives. Any other keyword is a key of [pgsluice] and replaces
    the default; None leaves the key out. `program` is another than pgsluice, to serve with.
    """

    def __init__(self, target, rules=(), environment=None, program=None, **settings):
        self.server = target
        self.rules = list(rules)
        self.environment = environment or {}
        self.program = program or common.binary()
        self.host = "127.0.0.1"
        self.port = common.free_port()
        self.dir = common.scratch_dir("pgsluice")
        self.socket_dir = str(self.dir)
        self.config = self.dir / "pgsluice.ini"
        self.admin = self.dir / "admin"
        self.audit_file = self.dir / "audit.jsonl"
        self.log_file = self.dir / "pgsluice.log"
        self.process = None
        self.settings = {
            "listen": f"{self.host}:{self.port}, unix:{self.dir}/.s.PGSQL.{self.port}",
            "server": f"host={target.host} port={target.port}",
            "control": f"host={target.host} port={target.port} user=pgsluice dbname=app"
                       if rules else None,
            "workers": 2,
            "admin": f"unix:{self.admin}",
            "audit": str(self.audit_file) if rules else None,
            **settings,
        }
        atexit.register(self.kill9)

    def write_config(self):
        self.config.write_text(render_config(self.settings, self.rules))

    def start(self):
        self.write_config()
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                [str(self.program), "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.dir,
                env={**os.environ, **self.environment})
        (self.dir / "pgsluice.pid").write_text(f"{self.process.pid}\n")
        common.wait_until(self._is_listening, 20, f"pgsluice on port {self.port}")
        return self

    def _is_listening(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"pgsluice ended with {self.process.returncode}:\n{self.log()}")
        path = f"{self.dir}/.s.PGSQL.{self.port}"
        try:
            socket.create_connection((self.host, self.port), timeout=1).close()
            if path in self.settings["listen"]:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(path)
        except OSError:
            return False
        return True

    def stop(self, timeout=40):
        """SIGTERM, and the exit code. Fails when a sanitizer found something."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout * common.slowness())
            except subprocess.TimeoutExpired:
                self.kill9()
                raise
        self.assert_sane()
        return self.process.returncode

    def kill9(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def restart(self):
        self.stop()
        return self.start()

    @property
    def pid(self):
        return self.process.pid

    def is_alive(self):
        return self.process.poll() is None

    def rss_kb(self):
        return common.rss_kb(self.pid)

    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def assert_sane(self):
        """The process did not die of a signal, and no sanitizer reported."""
        log = self.log()
        for word in ("AddressSanitizer", "LeakSanitizer", "ThreadSanitizer", "runtime error:"):
            assert word not in log, f"{word} in pgsluice's log:\n{log[-8000:]}"
        code = self.process.poll()
        assert code is None or code >= 0 or code == -signal.SIGKILL, (
            f"pgsluice died of signal {-code}:\n{log[-4000:]}")

    def params(self, dbname="app", user="postgres", **more):
        return dict(host=self.host, port=self.port, dbname=dbname, user=user, **more)

    def dsn(self, dbname="app", user="postgres", **more):
        return " ".join(f"{key}={value}"
                        for key, value in self.params(dbname, user, **more).items())

    def audit_lines(self, **match):
        """The audit records whose fields equal `match`, as dictionaries."""
        if not self.audit_file.exists():
            return []
        # A line that is just being written has no end yet.
        whole, _, _ = self.audit_file.read_text().rpartition("\n")
        records = [json.loads(line) for line in whole.splitlines()]
        return [record for record in records
                if all(record.get(key) == value for key, value in match.items())]

    def wait_for_audit(self, count, timeout=5, **match):
        """Polls until at least `count` such records are written (the writer is a thread)."""
        return common.wait_until(
            lambda: (lines := self.audit_lines(**match)) and len(lines) >= count and lines,
            timeout, f"{count} audit records {match}")

    def command(self, *arguments, timeout=120):
        """Runs a command of the binary with this configuration; returns the finished process."""
        return subprocess.run(
            [str(common.binary()), *arguments, "--config", str(self.config)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout * common.slowness())

    def command_on_written(self, *arguments):
        """The same without a proxy that was started."""
        self.write_config()
        return self.command(*arguments)


class Direct:
    """Stands in for a relay-only proxy with PGSLUICE_DIRECT=1: the server itself."""

    def __init__(self, server):
        self.server = server
        self.dir = server.dir
        for name in ("host", "port", "socket_dir", "params", "dsn", "log"):
            setattr(self, name, getattr(server, name))

    def start(self):
        return self

    def stop(self):
        return 0

    def kill9(self):
        pass

    def is_alive(self):
        return True

    def assert_sane(self):
        pass

    @property
    def pid(self):
        return self.server.pid

    def rss_kb(self):
        return 0


def relay(server, **settings):
    """A started proxy without rules, or the server itself when the tests prove themselves."""
    return Direct(server) if common.is_direct() else Proxy(server, **settings).start()
