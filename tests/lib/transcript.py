"""Transcripts: what a client sends and which messages answer, as a text file.

    # A comment.
    -> Query("SELECT 1")
    <- RowDescription DataRow CommandComplete ReadyForQuery(idle)

`->` is a frontend message, written as a call of a function of wire.py. Lines that follow each other
are sent in one write; they are sent when the first `<-` line is reached.
`<-` names the backend messages that must come, in order, on one line or several; `DataRow*3` is three
of them, `(BindComplete DataRow)*3` is the pair three times, and what stands in parentheses behind a
name must occur in the message's text.
`one:`, `two:` in front of an arrow name the session when there are several. Each has a start-up of its
own; sessions are opened in the order of their first line.

Besides messages, these can be sent:
    cancel()        a CancelRequest for this session, on a connection of its own
    half_close()    shutdown(SHUT_WR) after what was sent so far
    closed          (after `<-`) the other side closes the connection
A line `startup: user=..., application_name=...` sets the parameters of the sessions' start-up, and
`needs: PostgreSQL 14` the first major on which the transcript is right.
"""

import hashlib
import re
import socket

from . import wire

_LINE = re.compile(r"(?:(\w+):\s*)?(->|<-)\s*(.*)")
_GROUP = re.compile(r"(?:^|(?<=\s))\(([^()]*)\)\*(\d+)")
_WANTED = re.compile(r"([A-Z]\w+|closed)(?:\*(\d+))?(?:\(([^()]*)\))?")
_BUILDERS = {name: getattr(wire, name) for name in (
    "Query", "Parse", "Bind", "Describe", "Execute", "Close", "Sync", "Flush", "Terminate",
    "CopyData", "CopyDone", "CopyFail", "FunctionCall", "message")}


class _Action:
    def __init__(self, name):
        self.name = name


_SCOPE = {"__builtins__": {}, "bytes": bytes, "range": range, "str": str,
          "cancel": lambda: _Action("cancel"), "half_close": lambda: _Action("half_close"),
          **_BUILDERS}


class Failure(AssertionError):
    pass


class Transcript:
    def __init__(self, path):
        self.path = path
        self.steps = []  # (line number, session, "->" or "<-", text)
        self.startup = {}
        self.needs = 0
        for number, line in enumerate(path.read_text().splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            if line.startswith("startup:"):
                pairs = line.removeprefix("startup:").split(",")
                self.startup.update(tuple(map(str.strip, pair.split("=", 1))) for pair in pairs)
                continue
            if line.startswith("needs: PostgreSQL"):
                self.needs = int(line.split()[-1])
                continue
            match = _LINE.fullmatch(line)
            if not match:
                raise ValueError(f"{path.name}:{number}: neither '->' nor '<-': {line}")
            self.steps.append((number, match[1] or "one", match[2], match[3]))

    def replay(self, connect, send=None):
        """Plays the transcript and returns the replies, a line each: decoded, and a digest of the
        bytes, so that two replays are the same only where every byte is.

        connect() opens a wire.Connection; send(connection, data) replaces its send.
        """
        send = send or (lambda connection, data: connection.send(data))
        sessions, outbox, shown = {}, {}, []
        try:
            for number, name, arrow, text in self.steps:
                where = f"{self.path.name}:{number}"
                if name not in sessions:
                    sessions[name] = connect()
                    outbox[name] = b""
                    for answer in sessions[name].start(**self.startup):
                        shown.append(f"{name} start-up {answer}")
                session = sessions[name]
                if arrow == "->":
                    sent = eval(text, _SCOPE)  # test data of this repository
                    if not isinstance(sent, _Action):
                        outbox[name] += sent
                        continue
                    self._flush(session, outbox, name, send)
                    getattr(session, sent.name)()
                    continue
                self._flush(session, outbox, name, send)
                text = _GROUP.sub(lambda group: " ".join([group[1]] * int(group[2])), text)
                for wanted, count, inside in _WANTED.findall(text):
                    for _ in range(int(count or 1)):
                        shown.append(f"{where} {name} "
                                     + self._expect(session, where, wanted, inside))
            self._check_nothing_left(sessions)
        finally:
            for session in sessions.values():
                session.close()
        return shown

    def _check_nothing_left(self, sessions):
        """After the last ReadyForQuery, a Sync has to be answered at once."""
        last = {name: text for _, name, arrow, text in self.steps if arrow == "<-"}
        for name, session in sessions.items():
            if re.search(r"ReadyForQuery(\([^()]*\))?$", last.get(name, "")):
                session.send(wire.Sync())
                self._expect(session, f"{self.path.name}, after its end", "ReadyForQuery", "")

    @staticmethod
    def _flush(session, outbox, name, send):
        if outbox[name]:
            data, outbox[name] = outbox[name], b""
            send(session, data)

    @staticmethod
    def _expect(session, where, wanted, inside):
        try:
            answer = session.read()
        except (wire.Closed, ConnectionError) as closed:
            if wanted == "closed":
                return "closed"
            raise Failure(f"{where}: {wanted} expected, but: {closed}") from None
        except socket.timeout:
            raise Failure(f"{where}: {wanted} expected, but nothing came") from None
        if answer.name != wanted or inside not in str(answer):
            raise Failure(f"{where}: {wanted}({inside}) expected, but: {answer}")
        return f"{answer} {hashlib.sha256(answer.comparable()).hexdigest()[:16]}"
