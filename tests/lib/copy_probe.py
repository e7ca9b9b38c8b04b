"""The COPY filters of rules/ and its evaluation of expressions, through the program copy_probe."""

import struct
import subprocess

from . import common

FORMATS = {"text": 0, "csv": 1, "binary": 2}
HEADERS = {None: 0, "true": 1, "match": 2}
NULL = None
NOT_AT_HAND = object()


def _int(value):
    return struct.pack("<I", value)


def _bytes(value):
    return _int(len(value)) + value


class Filtered:
    """What is left of a stream, and the values that each row had for the fields of interest."""

    def __init__(self, rows, stream, values):
        self.rows = rows
        self.stream = stream
        self.values = values


class CopyProbe:
    def __init__(self):
        self.process = subprocess.Popen([str(common.build_dir() / "copy_probe")],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self):
        """Raises when it has failed, as under a sanitizer."""
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(30) == 0

    def _ask(self, request):
        self.process.stdin.write(request)
        self.process.stdin.flush()

    def _read(self, count):
        data = self.process.stdout.read(count)
        assert len(data) == count, "copy_probe has ended"
        return data

    def _read_int(self):
        return struct.unpack("<i", self._read(4))[0]

    def evaluate(self, expression, value, type_oid=25, typmod=-1, binary=False):
        """The expression's value where its column has `value` (bytes); None: it cannot be known."""
        self._ask(b"E" + _bytes(expression.encode()) + _int(type_oid)
                  + struct.pack("<i", typmod) + _int(binary) + _bytes(value))
        kind, result = self._read_int(), self._read_int()
        return result if kind == 2 else None

    def filter(self, stream, options, seed=0, piece=1 << 16, runs=64):
        """options: a CopyOptions; seed: of the pieces' sizes, which are at most `piece`."""
        fields = b"".join(_int(index) + _int(0) + _bytes(name.encode())
                          for index, name in options.removed)
        self._ask(b"C" + _int(FORMATS[options.format]) + _bytes(options.encoding.encode())
                  + _int(HEADERS[options.header]) + _int(options.width)
                  + _int(options.has_end_marker) + _int(ord(options.delimiter))
                  + _int(ord(options.quote)) + _int(ord(options.escape))
                  + _bytes(options.null.encode()) + _int(len(options.removed)) + fields
                  + _int(seed) + _int(piece) + _int(runs) + _bytes(stream))
        rows = self._read_int()
        out = self._read(self._read_int())
        return Filtered(rows, out, self._values(self._read(self._read_int()),
                                                len(options.removed)))

    @staticmethod
    def _values(data, width):
        values, at = [], 0
        while at < len(data):
            size = struct.unpack_from("<i", data, at)[0]
            at += 4
            values.append({-1: NULL, -2: NOT_AT_HAND}.get(size, data[at:at + max(size, 0)]))
            at += max(size, 0)
        return [values[row:row + width] for row in range(0, len(values), width)]


class CopyOptions:
    """A COPY's options, for the filter and as SQL. removed: pairs of index and column name."""

    def __init__(self, format, width, removed, encoding="UTF8", header=None, delimiter=None,
                 quote='"', escape=None, null=None, has_end_marker=True):
        self.format = format
        self.width = width
        self.removed = removed
        self.encoding = encoding
        self.header = header
        self.delimiter = delimiter or {"csv": ","}.get(format, "\t")
        self.quote = quote
        self.escape = escape or quote
        self.null = ("" if format == "csv" else "\\N") if null is None else null
        self.has_end_marker = has_end_marker

    def sql(self):
        def literal(text):
            return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"

        if self.format == "binary":
            return "(FORMAT binary)"
        options = [f"FORMAT {self.format}", f"ENCODING {literal(self.encoding)}",
                   f"DELIMITER {literal(self.delimiter)}", f"NULL {literal(self.null)}"]
        if self.header:
            options.append(f"HEADER {self.header}")
        if self.format == "csv":
            options += [f"QUOTE {literal(self.quote)}", f"ESCAPE {literal(self.escape)}"]
        return "(" + ", ".join(options) + ")"
