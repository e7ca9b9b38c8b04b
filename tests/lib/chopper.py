"""Relays that pass bytes on in pieces, so that messages arrive cut at unlikely places.

Chopper cuts at random, before or behind the proxy; Cutter once, where it is told to.
"""

import fcntl
import random
import selectors
import socket
import struct
import termios
import threading
import time

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
            if end.family != socket.AF_UNIX:
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
        # A server that refuses a message by its first byte ends, and resets the connection when more
        # of it comes: its last words would be lost. So what a client sends last goes in one piece.
        last = 5 if sink.getpeername() == self.target else 0
        at = 0
        while at < len(data):
            size = self.random.randint(1, largest)
            if len(data) - at - size < last:
                size = len(data) - at
            sink.sendall(data[at:at + size])
            at += size


def send_cut_at(sock, data, offset):
    """Sends over a unix socket in two pieces; the second when the peer has read the first."""
    if 0 < offset < len(data):
        sock.sendall(data[:offset])
        end = time.monotonic() + 20 * common.slowness()
        while struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0] > 0:
            if time.monotonic() > end:
                raise TimeoutError("the other side does not read")
            time.sleep(0.0001)
        data = data[offset:]
    sock.sendall(data)


class Cutter(Chopper):
    """Stands between the proxy and its server on a unix socket, and cuts what the server sends at
    `offset` bytes from the beginning of each connection. Made for one connection at a time."""

    def __init__(self, host, port):
        self.target = (host, port)
        self.dir = common.scratch_dir("cutter")
        self.port = common.free_port()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{self.dir}/.s.PGSQL.{self.port}")
        self.listener.listen(64)
        self.stopping = False
        self.offset = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _relay(self, near):
        self.near, self.to_go = near, self.offset
        super()._relay(near)

    def _pass_on(self, selector, source, sink):
        data = source.recv(1 << 16)
        if not data:
            selector.unregister(source)
            sink.shutdown(socket.SHUT_WR)
        elif sink is self.near:
            send_cut_at(sink, data, self.to_go)
            self.to_go -= len(data)
        else:
            sink.sendall(data)
