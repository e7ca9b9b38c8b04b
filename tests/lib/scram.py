"""SCRAM-SHA-256 without channel binding, in both roles, message by message (RFC 5802, RFC 7677).

The tests have it say right messages where a driver or a server would go on by itself, so that it can
stop, or say something else, at any of them.
"""

import base64
import hashlib
import hmac
import os

from . import wire

MECHANISM = b"SCRAM-SHA-256"
OFFER = wire.message("R", b"\0\0\0\x0a" + MECHANISM + b"\0\0")
OK = wire.message("R", b"\0\0\0\0")


def _keys(password, salt, iterations):
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return client_key, hashlib.sha256(client_key).digest(), hmac.digest(salted, b"Server Key", "sha256")


def _attributes(text):
    return dict(part.split(b"=", 1) for part in text.split(b",") if b"=" in part)


def _b64(raw):
    return base64.b64encode(raw)


class ScramClient:
    """What a client sends: initial(), then final() with what it was asked."""

    def __init__(self, password, nonce=None):
        self.password = password
        self.bare = b"n=,r=" + (nonce or _b64(os.urandom(18)))

    def initial(self):
        first = b"n,," + self.bare
        return wire.message("p", MECHANISM + b"\0" + len(first).to_bytes(4, "big") + first)

    def final(self, challenge):
        """`challenge`: the body of AuthenticationSASLContinue, with its code."""
        server_first = challenge[4:]
        asked = _attributes(server_first)
        client_key, stored_key, self.server_key = _keys(
            self.password, base64.b64decode(asked[b"s"]), int(asked[b"i"]))
        without_proof = b"c=biws,r=" + asked[b"r"]
        self.text = b",".join([self.bare, server_first, without_proof])
        signature = hmac.digest(stored_key, self.text, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        return wire.message("p", without_proof + b",p=" + _b64(proof))


class ScramServer:
    """What a server sends: challenge() for the client's first message, verdict() for its last."""

    def __init__(self, password, salt=b"0123456789abcdef", iterations=4096):
        self.salt = salt
        self.iterations = iterations
        self.client_key, self.stored_key, self.server_key = _keys(password, salt, iterations)

    @property
    def secret(self):
        """As in pg_authid.rolpassword."""
        return (f"SCRAM-SHA-256${self.iterations}:{_b64(self.salt).decode()}"
                f"${_b64(self.stored_key).decode()}:{_b64(self.server_key).decode()}")

    def challenge(self, body):
        """`body`: of the SASLInitialResponse."""
        self.bare = body[len(MECHANISM) + 1 + 4 + 3:]
        nonce = _attributes(self.bare)[b"r"] + _b64(os.urandom(18))
        self.first = b"r=%s,s=%s,i=%d" % (nonce, _b64(self.salt), self.iterations)
        return wire.message("R", b"\0\0\0\x0b" + self.first)

    def verdict(self, body):
        """`body`: of the SASLResponse; raises AssertionError when its proof is wrong."""
        without_proof, _, proof = body.partition(b",p=")
        text = b",".join([self.bare, self.first, without_proof])
        signature = hmac.digest(self.stored_key, text, "sha256")
        key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature))
        assert hashlib.sha256(key).digest() == self.stored_key, "the proof is wrong"
        return wire.message("R", b"\0\0\0\x0c" + b"v=" +
                            _b64(hmac.digest(self.server_key, text, "sha256")))
