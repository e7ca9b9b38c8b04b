"""Somebody in between: ends the client's TLS with a certificate of its own, and begins another one."""

import contextlib
import select
import socket
import ssl
import threading

from . import common, wire


class TlsRelay:
    """Listens on a free port and relays to (host, port); both ends ask for TLS by SSLRequest."""

    def __init__(self, host, port, folder, name):
        self.target = (host, port)
        self.host = "127.0.0.1"
        self.port = common.free_port()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
        self.listener = socket.create_server((self.host, self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(near,), daemon=True).start()

    def _relay(self, near):
        with contextlib.suppress(OSError):
            if near.recv(8) != wire.SSLRequest():
                near.close()
                return
            near.sendall(b"S")
            near = self.context.wrap_socket(near, server_side=True)
            far = socket.create_connection(self.target)
            far.sendall(wire.SSLRequest())
            assert far.recv(1) == b"S"
            far = ssl._create_unverified_context().wrap_socket(far)
            with near, far:
                _pass_on(near, far)


def _pass_on(near, far):
    """In one thread: OpenSSL's connections do not bear two."""
    while True:
        ready = [end for end in (near, far) if end.pending()]
        for source in ready or select.select([near, far], [], [])[0]:
            data = source.recv(1 << 16)
            if not data:
                return
            (far if source is near else near).sendall(data)
