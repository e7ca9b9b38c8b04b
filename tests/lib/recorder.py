"""A TCP relay that keeps what passes towards the server: put behind the proxy, it tells what it sent."""

import socket
import threading

from . import common


class Recorder:
    """Listens on a free port and relays to (host, port); the last connection's bytes are kept."""

    def __init__(self, host, port):
        self.target = (host, port)
        self.host = "127.0.0.1"
        self.port = common.free_port()
        self.sent = bytearray()
        self.listener = socket.create_server((self.host, self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self.listener.close()

    def mark(self):
        return len(self.sent)

    def since(self, mark):
        return bytes(self.sent[mark:])

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            sent = self.sent = bytearray()
            for source, sink, kept in ((near, far, sent), (far, near, None)):
                threading.Thread(target=self._pass_on, args=(source, sink, kept),
                                 daemon=True).start()

    @staticmethod
    def _pass_on(source, sink, kept):
        try:
            while data := source.recv(1 << 16):
                if kept is not None:
                    kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other side is gone
