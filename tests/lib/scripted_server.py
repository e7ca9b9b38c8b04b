"""A server that does in its login what no real one will: be silent, lie, break off, at any step.

It speaks the login by SCRAM rightly (scram.py) up to the step where a test's deviation takes over.
"""

import socket
import struct
import threading

from . import common, wire
from .scram import OFFER, OK, ScramServer

READY = (wire.message("S", b"server_version\x0015.0\0") + wire.message("K", b"\0\0\0\1abcd") +
         wire.message("Z", b"I"))
TURNS = ("offer", "challenge", "verdict", "grant", "ready")


class ScriptedServer:
    """Listens on a port. deviations: {user: (turn, function)}; in that turn the function gets the
    connection and what would have been right, and when it returns the connection ends."""

    def __init__(self, password):
        self.host = "127.0.0.1"
        self.port = common.free_port()
        self.password = password
        self.deviations = {}
        self.open = 0
        self.lock = threading.Lock()
        self.listener = socket.create_server((self.host, self.port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with self.lock:
            self.open += 1
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._login(connection)
        except (OSError, EOFError):
            pass
        finally:
            connection.close()
            with self.lock:
                self.open -= 1

    def _login(self, connection):
        startup = read_packet(connection)
        if startup == wire.SSLRequest()[4:]:
            connection.sendall(b"N")
            startup = read_packet(connection)
        user = startup[4:].split(b"\0")[1].decode()
        turn, deviate = self.deviations.get(user, (None, None))
        scram = ScramServer(self.password)
        turns = [lambda: OFFER, lambda: scram.challenge(read_message(connection)),
                 lambda: scram.verdict(read_message(connection)), lambda: OK, lambda: READY]
        for name, say in zip(TURNS, turns):
            reply = say()
            if name == turn:
                deviate(connection, reply)
                return
            connection.sendall(reply)
        while connection.recv(65536):
            pass


def read_exactly(connection, size):
    got = b""
    while len(got) < size:
        chunk = connection.recv(size - len(got))
        if not chunk:
            raise EOFError
        got += chunk
    return got


def read_packet(connection):
    return read_exactly(connection, struct.unpack("!i", read_exactly(connection, 4))[0] - 4)


def read_message(connection):
    head = read_exactly(connection, 5)
    return read_exactly(connection, struct.unpack("!i", head[1:])[0] - 4)


# --- deviations ---

def silent(connection, _):
    while connection.recv(65536):
        pass


def close(_connection, _reply):
    pass


def reset(connection, _):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def saying(*pieces):
    """Sends these bytes, and then only listens."""
    def say(connection, reply):
        for piece in pieces:
            connection.sendall(piece)
        silent(connection, reply)
    return say
