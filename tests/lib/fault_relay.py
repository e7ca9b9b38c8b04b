"""A TCP relay that fails on request: resets, swallows everything, or loses one answer."""

import contextlib
import select
import socket
import struct
import threading
import time

from . import common


class FaultRelay:
    """Listens on a free port and relays to (host, port), until it is told otherwise."""

    def __init__(self, host, port):
        self.target = (host, port)
        self.host = "127.0.0.1"
        self.port = common.free_port()
        self.pairs = []
        self.hole = False
        self.watched = None  # see lose()
        self.listener = socket.create_server((self.host, self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        # A thread that waits in accept() is woken by shutdown() alone.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.reset()

    def reset(self):
        """Ends every connection there is with an RST to both sides; new ones are relayed."""
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            pair.reset()

    def black_hole(self, patience=25):
        """From now on nothing passes, not even the end of a connection; nobody is told. After `patience`
        seconds both ends find out, as by the keepalives of a control connection (three at 5 s after 10 s of
        silence), which the kernel goes on to answer here."""
        self.hole = True
        for pair in self.pairs:
            pair.dead = True
            timer = threading.Timer(patience, pair.reset)
            timer.daemon = True
            timer.start()

    def heal(self):
        """New connections pass again; those from before and within the hole never will."""
        self.hole = False

    def lose(self, what, mark):
        """The next bytes of a client that contain `mark` meet with an accident: `what` is

        request  half of them pass, then both sides are reset
        answer   they pass; when the server has answered to the end, the client is reset
        silence  they pass; the server's answers are swallowed
        """
        self.watched = (what, mark)

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self.target)
            except OSError:
                near.close()  # the server is down
                continue
            pair = Pair(self, near, far)
            pair.dead = self.hole
            self.pairs.append(pair)
            threading.Thread(target=pair.run, daemon=True).start()


class Pair:
    """One connection: the client's end and the server's."""

    def __init__(self, relay, near, far):
        self.relay = relay
        self.near = near
        self.far = far
        self.dead = False
        self.loses = None  # answer or silence, once the request has passed
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reset(self):
        for end in (self.near, self.far):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()

    def run(self):
        with contextlib.suppress(OSError, ValueError):  # closed by reset()
            while True:
                if self.dead:
                    if self.near.fileno() < 0:
                        return
                    time.sleep(0.02)
                    continue
                for source in select.select([self.near, self.far], [], [], 0.05)[0]:
                    if not self.dead and not self._pass_on(source):
                        return
        if not self.dead:
            self.near.close()
            self.far.close()

    def _pass_on(self, source):
        data = source.recv(1 << 16)
        if self.dead:
            return True  # what came while the hole was opened is lost as well
        if not data:
            self.near.close()
            self.far.close()
            return False
        if source is self.near:
            return self._forward(data)
        if self.loses is None:
            self.near.sendall(data)
        elif self.loses == "answer" and data[-6:-1] == b"Z\0\0\0\5":
            self.reset()
            return False
        return True

    def _forward(self, data):
        watched = self.relay.watched
        if watched is None or watched[1] not in data:
            self.far.sendall(data)
            return True
        self.relay.watched = None
        if watched[0] == "request":
            self.far.sendall(data[:len(data) // 2])
            self.reset()
            return False
        self.loses = watched[0]
        self.far.sendall(data)
        return True
