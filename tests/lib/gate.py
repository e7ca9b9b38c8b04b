"""Holds and opens the gate of `chunks` over the admin socket, and reads its state."""

import json
import socket

from . import common


class Gate:
    def __init__(self, proxy):
        self.path = str(proxy.admin)

    def ask(self, **request):
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(10)
            admin.connect(self.path)
            admin.sendall(json.dumps(request).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                answer += admin.recv(65536)
        return json.loads(answer)["result"]

    def hold(self, ttl_ms=2000):
        assert self.ask(command="hold", table="chunks", ttl_ms=ttl_ms)["exit"] == 0

    def release(self):
        assert self.ask(command="release", table="chunks")["exit"] == 0

    def state(self):
        return self.ask(command="status")["gates"][0]

    def wait_for_held(self, count=1):
        common.wait_until(lambda: self.state()["held"] == count, 5, f"{count} held statements")
