"""A PostgreSQL client of raw messages: what the tests send is what is on the wire.

Frontend messages are built by functions named as in the PostgreSQL documentation ("Message Formats");
each returns bytes. Backend messages are read one by one and shown as one line of text.
"""

import hashlib
import re
import select
import socket
import ssl
import struct
import time

from . import common

PROTOCOL_3_0 = 3 << 16
SSL_REQUEST_CODE = 80877103
GSSENC_REQUEST_CODE = 80877104
CANCEL_REQUEST_CODE = 80877102
FIRST_NORMAL_OID = 16384


# Frontend messages

def _cstr(text):
    return (text if isinstance(text, bytes) else text.encode()) + b"\0"


def message(kind, body=b""):
    """Any message: a type letter, the length, the body."""
    return kind.encode() + struct.pack("!i", len(body) + 4) + body


def StartupMessage(user="postgres", database="app", version=PROTOCOL_3_0, **params):
    body = struct.pack("!i", version)
    for key, value in {"user": user, "database": database, **params}.items():
        if value is not None:
            body += _cstr(key) + _cstr(value)
    return struct.pack("!i", len(body) + 5) + body + b"\0"


def SSLRequest():
    return struct.pack("!ii", 8, SSL_REQUEST_CODE)


def GSSENCRequest():
    return struct.pack("!ii", 8, GSSENC_REQUEST_CODE)


def CancelRequest(pid, key):
    return struct.pack("!iii", 12 + len(key), CANCEL_REQUEST_CODE, pid)[:12] + key


def Query(sql):
    return message("Q", _cstr(sql))


def Parse(name, sql, types=()):
    return message("P", _cstr(name) + _cstr(sql)
                   + struct.pack(f"!H{len(types)}I", len(types), *types))


def Bind(portal, statement, values=(), formats=(), results=()):
    """Values: None is NULL, bytes go as they are, everything else as its text."""
    body = _cstr(portal) + _cstr(statement)
    body += struct.pack(f"!H{len(formats)}H", len(formats), *formats)
    body += struct.pack("!H", len(values))
    for value in values:
        if value is None:
            body += struct.pack("!i", -1)
        else:
            raw = value if isinstance(value, bytes) else str(value).encode()
            body += struct.pack("!i", len(raw)) + raw
    body += struct.pack(f"!H{len(results)}H", len(results), *results)
    return message("B", body)


def Describe(kind, name):
    return message("D", kind.encode() + _cstr(name))


def Execute(portal="", limit=0):
    return message("E", _cstr(portal) + struct.pack("!i", limit))


def Close(kind, name):
    return message("C", kind.encode() + _cstr(name))


def Sync():
    return message("S")


def Flush():
    return message("H")


def Terminate():
    return message("X")


def CopyData(data):
    return message("d", data if isinstance(data, bytes) else data.encode())


def CopyDone():
    return message("c")


def CopyFail(reason):
    return message("f", _cstr(reason))


def FunctionCall(oid, values=(), formats=(), result=0):
    body = struct.pack("!I", oid) + struct.pack(f"!H{len(formats)}H", len(formats), *formats)
    body += struct.pack("!H", len(values))
    for value in values:
        if value is None:
            body += struct.pack("!i", -1)
        else:
            raw = value if isinstance(value, bytes) else str(value).encode()
            body += struct.pack("!i", len(raw)) + raw
    return message("F", body + struct.pack("!H", result))


def PasswordMessage(password):
    return message("p", _cstr(password))


def md5_password(user, password, salt):
    inner = hashlib.md5((password + user).encode()).hexdigest()
    return "md5" + hashlib.md5(inner.encode() + salt).hexdigest()


# Backend messages

NAMES = {
    "R": "Authentication", "K": "BackendKeyData", "2": "BindComplete", "3": "CloseComplete",
    "C": "CommandComplete", "d": "CopyData", "c": "CopyDone", "G": "CopyInResponse",
    "H": "CopyOutResponse", "W": "CopyBothResponse", "D": "DataRow", "I": "EmptyQueryResponse",
    "E": "ErrorResponse", "V": "FunctionCallResponse", "v": "NegotiateProtocolVersion",
    "n": "NoData", "N": "NoticeResponse", "A": "NotificationResponse",
    "t": "ParameterDescription", "S": "ParameterStatus", "1": "ParseComplete",
    "s": "PortalSuspended", "Z": "ReadyForQuery", "T": "RowDescription",
}


def _short(raw):
    """Long values by length and digest, so that a difference is still one."""
    if len(raw) > 200:
        return f"<{len(raw)} bytes {hashlib.sha256(raw).hexdigest()[:16]}>"
    return repr(raw)[1:]


def _cstrings(raw):
    return [part.decode(errors="replace") for part in raw.split(b"\0")[:-1]]


class Message:
    """One backend message: its type letter, its body, and ways to look at it."""

    def __init__(self, kind, body):
        self.kind = kind
        self.body = body
        self.name = NAMES.get(kind, f"Unknown({kind!r})")

    def fields(self):
        """Of an ErrorResponse or NoticeResponse: {"S": "ERROR", "C": "42601", ...}."""
        return {part[:1].decode(): part[1:].decode(errors="replace")
                for part in self.body.split(b"\0") if part}

    @property
    def sqlstate(self):
        return self.fields().get("C")

    def values(self):
        """Of a DataRow: the columns' bytes, None for NULL."""
        count = struct.unpack_from("!H", self.body)[0]
        found, at = [], 2
        for _ in range(count):
            size = struct.unpack_from("!i", self.body, at)[0]
            at += 4
            found.append(None if size < 0 else self.body[at:at + size])
            at += max(size, 0)
        return found

    def columns(self):
        """Of a RowDescription: (name, type oid, format) of each column."""
        count = struct.unpack_from("!H", self.body)[0]
        found, at = [], 2
        for _ in range(count):
            end = self.body.index(b"\0", at)
            name = self.body[at:end].decode()
            type_oid, _size, _mod, fmt = struct.unpack_from("!IhiH", self.body, end + 7)
            found.append((name, type_oid, fmt))
            at = end + 19
        return found

    def param_types(self):
        """Of a ParameterDescription: the type OIDs."""
        count = struct.unpack_from("!H", self.body)[0]
        return list(struct.unpack_from(f"!{count}I", self.body, 2))

    def details(self):
        """The body as text; what differs from one session to the next is masked."""
        body = self.body
        if self.kind == "K":
            return f"pid=*, key of {len(body) - 4} bytes"
        if self.kind in "EN":
            fields = self.fields()
            if fields.get("C") == "57014":
                fields.pop("W", None)  # where a cancel meets the statement is chance
            text = ", ".join(f"{key}={value}" for key, value in fields.items())
            return re.sub(r"pg_temp_\d+", "pg_temp_*", text)
        if self.kind == "Z":
            return {"I": "idle", "T": "in transaction", "E": "failed"}[body.decode()]
        if self.kind == "C":
            return _cstrings(body)[0]
        if self.kind == "S":
            return "=".join(_cstrings(body))
        if self.kind == "D":
            return ", ".join("NULL" if value is None else _short(value)
                             for value in self.values())
        if self.kind == "T":
            return ", ".join(f"{name}:{oid}/{fmt}" for name, oid, fmt in self.columns())
        if self.kind == "t":
            return ", ".join(map(str, self.param_types()))
        if self.kind == "A":
            return "pid=*, " + ", ".join(_cstrings(body[4:]))
        return _short(body) if body else ""

    def comparable(self):
        """The bytes, without what differs from one session to the next by its nature: process ids
        and cancel keys, the OIDs and names of what the session itself has created."""
        body = self.body
        if self.kind == "K":
            body = bytes(len(body))
        elif self.kind == "A":
            body = bytes(4) + body[4:]
        elif self.kind in "EN":
            if self.sqlstate == "57014":
                # Where a cancel meets the statement is chance.
                body = b"\0".join(part for part in body.split(b"\0") if part[:1] != b"W")
            body = re.sub(rb"pg_temp_\d+", b"pg_temp_*", body)
        elif self.kind == "T":
            body = self._without_own_oids()
        return self.kind.encode() + struct.pack("!i", len(body) + 4) + body

    def _without_own_oids(self):
        """Of a RowDescription: the OIDs of tables and types that initdb has not made are masked."""
        body, at = bytearray(self.body), 2
        for _ in range(struct.unpack_from("!H", body)[0]):
            at = body.index(b"\0", at) + 1
            for oid_at in (at, at + 6):
                if struct.unpack_from("!I", body, oid_at)[0] >= FIRST_NORMAL_OID:
                    struct.pack_into("!I", body, oid_at, FIRST_NORMAL_OID)
            at += 18
        return bytes(body)

    def __str__(self):
        details = self.details()
        return f"{self.name} {details}" if details else self.name

    __repr__ = __str__


class Closed(Exception):
    """The other side has closed the connection."""


class Connection:
    """One connection to a server or a proxy. `path` makes it a unix socket."""

    def __init__(self, host="127.0.0.1", port=None, path=None, timeout=20):
        self.address = path or (host, port)
        self.timeout = timeout * common.slowness()
        if path:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(self.timeout)
            self.socket.connect(path)
        else:
            self.socket = socket.create_connection((host, port), timeout=self.timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.pid = None
        self.key = None
        self.parameters = {}

    @classmethod
    def to(cls, endpoint, **options):
        """To a Server or Proxy, over TCP."""
        return cls(endpoint.host, endpoint.port, **options)

    def start_tls(self):
        """Asks for TLS, and goes on through it; whose certificate it is does not matter here."""
        self.send(SSLRequest())
        if self.read_byte() != b"S":
            raise AssertionError("TLS was refused")
        self.socket = ssl._create_unverified_context().wrap_socket(self.socket)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def reset(self):
        """Closes with RST, as a killed machine would seem to."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)

    def send(self, *messages):
        self.socket.sendall(b"".join(messages))
        return self

    def send_in_pieces(self, data, random, largest=7):
        """Sends in pieces of 1..largest bytes, each a write of its own."""
        at = 0
        while at < len(data):
            size = random.randint(1, largest)
            self.socket.sendall(data[at:at + size])
            at += size
            if random.random() < 0.05:
                time.sleep(0.0005)  # lets the receiver see the piece alone

    def _fill(self, count):
        while len(self.buffer) < count:
            chunk = self.socket.recv(1 << 16)
            if not chunk:
                raise Closed(f"closed with {len(self.buffer)} bytes of an unfinished message")
            self.buffer += chunk

    def _take(self, count):
        self._fill(count)
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def read_byte(self):
        """The one-byte answer to an SSLRequest or GSSENCRequest."""
        return self._take(1)

    def read(self):
        """The next message; raises Closed, or socket.timeout."""
        self._fill(5)
        size = struct.unpack_from("!i", self.buffer, 1)[0]
        assert size >= 4, f"a message of length {size} from the server"
        whole = self._take(size + 1)
        received = Message(chr(whole[0]), whole[5:])
        if received.kind == "K":
            self.pid = struct.unpack_from("!i", received.body)[0]
            self.key = received.body[4:]
        elif received.kind == "S":
            self.parameters.update([_cstrings(received.body)[:2]])
        return received

    def read_until(self, kind="Z"):
        """All messages up to and with the first of this type."""
        found = [self.read()]
        while found[-1].kind != kind:
            found.append(self.read())
        return found

    def read_to_end(self):
        """All messages until the other side closes (a reset counts as a close)."""
        found = []
        while True:
            try:
                found.append(self.read())
            except (Closed, ConnectionError):
                return found

    def is_quiet(self, seconds=0.2):
        """True when nothing arrives for so long."""
        return not self.buffer and not select.select([self.socket], [], [], seconds)[0]

    def start(self, user="postgres", database="app", password=None, **params):
        """Start-up and authentication up to the first ReadyForQuery; returns all messages."""
        self.send(StartupMessage(user, database, **params))
        received = []
        while True:
            answer = self.read()
            received.append(answer)
            if answer.kind == "E":
                raise AssertionError(f"start-up failed: {answer}")
            if answer.kind == "R":
                method = struct.unpack_from("!i", answer.body)[0]
                if method == 3:
                    self.send(PasswordMessage(password))
                elif method == 5:
                    self.send(PasswordMessage(md5_password(user, password, answer.body[4:8])))
                else:
                    assert method == 0, f"authentication method {method}"
            if answer.kind == "Z":
                return received

    def query(self, sql):
        """A simple query; returns the messages up to ReadyForQuery."""
        return self.send(Query(sql)).read_until("Z")

    def rows(self, sql):
        """A simple query's rows as lists of text; raises on an error."""
        answers = self.query(sql)
        for answer in answers:
            assert answer.kind != "E", str(answer)
        return [[value if value is None else value.decode() for value in answer.values()]
                for answer in answers if answer.kind == "D"]

    def cancel(self):
        """Sends a CancelRequest for this session, on a connection of its own."""
        other = (Connection(path=self.address) if isinstance(self.address, str)
                 else Connection(*self.address))
        with other:
            other.send(CancelRequest(self.pid, self.key))
            try:
                other.read_to_end()
            except socket.timeout:
                raise AssertionError("the cancel connection stays open") from None


def connect(endpoint, user="postgres", database="app", password=None, timeout=20, **params):
    """A session, ready for its first query."""
    connection = Connection.to(endpoint, timeout=timeout)
    connection.start(user, database, password, **params)
    return connection


def errors(messages):
    """The SQLSTATEs of the ErrorResponses among `messages`."""
    return [answer.sqlstate for answer in messages if answer.kind == "E"]


def names(messages):
    return [answer.name for answer in messages]
