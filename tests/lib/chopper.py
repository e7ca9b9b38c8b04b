"""A TCP relay that passes bytes on in small random pieces, in both directions.

Put before or behind the proxy, it makes every message arrive cut at unlikely places.
"""

import random
import selectors
import socket
import threading

from . import common


class Chopper:
    """Listens on a free port and relays to (host, port) in pieces of 1..largest bytes."""

    def __init__(self, host, port, seed, largest=7):
        self.target = (host, port)
        self.random = random.Random(seed)
        self.largest = largest
        self.host = "127.0.0.1"
        self.port = common.free_port()
        self.listener = socket.create_server((self.host, self.port))
        self.stopping = False
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self.stopping = True
        self.listener.close()

    def _accept(self):
        while not self.stopping:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(near,), daemon=True).start()

    def _relay(self, near):
        far = socket.create_connection(self.target)
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with near, far, selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            try:
                while selector.get_map():
                    for key, _ in selector.select():
                        self._pass_on(selector, key.fileobj, key.data)
            except OSError:
                pass  # one side is gone: both are closed

    def _pass_on(self, selector, source, sink):
        data = source.recv(1 << 16)
        if not data:
            selector.unregister(source)
            sink.shutdown(socket.SHUT_WR)
            return
        # Long streams in larger pieces, or they would take minutes.
        largest = max(self.largest, len(data) // 100)
        at = 0
        while at < len(data):
            size = self.random.randint(1, largest)
            sink.sendall(data[at:at + size])
            at += size
