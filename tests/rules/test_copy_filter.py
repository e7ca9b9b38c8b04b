"""COPY streams without a column, against a real server.

The same stream goes into a table as it is, with all columns in the list, and filtered, cut into
pieces at random, with a list without the columns that were removed. The server must answer the
second as it answered the first: the same rows in the other columns, or an error with the same
SQLSTATE (with several faults another one may come first, as characters are checked ahead of lines).
The values that the filter reports must be those that the server has read.
"""

import random
import struct

import pytest

from lib import wire
from lib.copy_probe import NOT_AT_HAND, CopyOptions, CopyProbe

NAMES = ["f0", "f1", "f2", "f3"]
ENCODINGS = {"UTF8": "utf-8", "SJIS": "cp932", "GBK": "gbk", "BIG5": "big5", "GB18030": "gb18030",
             "UHC": "cp949", "LATIN1": "latin-1"}
# Characters of which a byte looks like a backslash, a bar, a digit, a letter.
LETTERS = {
    "UTF8": "äß日本語😀", "SJIS": "表ソ能十ポｱｲ日本", "GBK": "誠乗俓中文", "BIG5": "許功蓋中文",
    "GB18030": "㐀㐁誠中文", "UHC": "갂갃똠한글", "LATIN1": "äÿé",
}
NOT_ENCODED = ("22021", "22P05")
LINE_ENDS = [b"\n", b"\n", b"\r\n", b"\r"]


@pytest.fixture(scope="module")
def probe():
    instance = CopyProbe()
    yield instance
    instance.close()


class Reference:
    """A session with the server, for COPYs that leave nothing behind."""

    def __init__(self, server):
        self.major = server.major
        self.copies = 0
        self.wire = wire.connect(server)
        self.wire.rows("CREATE TEMP TABLE t (n serial, f0 text, f1 text, f2 text, f3 text)")
        self.wire.rows("CREATE TEMP TABLE b (n serial, f0 int8, f1 int4, f2 text, f3 numeric)")

    def copy(self, table, columns, options, stream):
        """The first error or None, and the rows as lists of bytes in the stream's encoding."""
        names = ", ".join(columns)
        encoding = "UTF8" if options.format == "binary" else options.encoding
        batch = [wire.Query("BEGIN"),
                 wire.Query(f"COPY {table} ({names}) FROM STDIN {options.sql()}"),
                 wire.CopyData(stream), wire.CopyDone(),
                 wire.Query(f"SET LOCAL client_encoding = {encoding};"
                            f"SELECT {', '.join(NAMES)} FROM {table} ORDER BY n"),
                 wire.Query("ROLLBACK")]
        if self.copies % 50 == 0:
            self.wire.rows("TRUNCATE t, b")  # of rows that were rolled back
        self.copies += 1
        self.wire.send(*batch)
        answers = [answer for _ in range(4) for answer in self.wire.read_until("Z")]
        failed = [answer for answer in answers if answer.kind == "E"]
        if failed:
            return failed[0], []
        return None, [answer.values() for answer in answers if answer.kind == "D"]


@pytest.fixture(scope="module")
def reference(server):
    return Reference(server)


def without(items, removed):
    gone = {index for index, _ in removed}
    return [item for index, item in enumerate(items) if index not in gone]


def is_in_doubt(value, encoding):
    """Whether the server may have refused it for its bytes."""
    if not isinstance(value, bytes):
        return value is NOT_AT_HAND
    try:
        return b"\0" in value or not value.decode(ENCODINGS[encoding]).isascii()
    except UnicodeDecodeError:
        return True


def has_marker_behind_nothing(options, stream):
    """A line with an end marker in front of which nothing would be left: see copy_text.c."""
    return options.format == "text" and b"\\." in stream


def compare(probe, reference, options, stream, rng, table="t"):
    """True when the stream was a good one."""
    columns = NAMES[:options.width]
    filtered = probe.filter(stream, options, rng.randrange(1 << 30),
                            rng.choice([1, 2, 3, 7, 50, 1 << 16]), rng.choice([8, 9, 64]))
    before, rows = reference.copy(table, columns, options, stream)
    after, rows_without = reference.copy(table, without(columns, options.removed), options,
                                         filtered.stream)
    story = f"{options.sql()} {options.width} {options.removed}\n{stream!r}\n{filtered.stream!r}"
    gone = [index for index, _ in options.removed]
    if before is not None:
        if after is None and before.sqlstate in NOT_ENCODED and any(
                is_in_doubt(value, options.encoding) for row in filtered.values for value in row):
            return False  # what is removed is not looked at
        if after is None and any(f"column {NAMES[index]}" in str(before) for index in gone):
            return False
        assert after is not None, f"{before}\n{story}"
        states = {before.sqlstate, after.sqlstate}
        if options.format != "binary" and not states.intersection(NOT_ENCODED):
            assert len(states) == 1, f"{before}\n{after}\n{story}"
        return False
    if after is not None and has_marker_behind_nothing(options, stream):
        assert after.sqlstate == "22P04", f"{after}\n{story}"
        return False
    assert after is None, f"{after}\n{story}"
    for row, left, values in zip(rows, rows_without, filtered.values, strict=True):
        for index, name in enumerate(columns):
            assert left[index] == (None if index in gone else row[index]), f"{name}\n{story}"
        if table == "t":
            for value, index in zip(values, gone, strict=True):
                assert value == row[index] or value is NOT_AT_HAND, story
    assert filtered.rows == len(rows), story
    return True


def random_value(rng, encoding):
    alphabet = "abcNx01.\\\\\n\r\t,;|'\"\" " + LETTERS[encoding]
    length = rng.choice([0, 0, 1, 1, 2, 3, 6, rng.randrange(80)])
    return "".join(rng.choice(alphabet) for _ in range(length))


def text_field(rng, value, options, line_end):
    """One of the ways to write a value; None is NULL."""
    if value is None:
        return options.null.encode()
    encoded = b""
    for letter in value:
        raw = letter.encode(ENCODINGS[options.encoding])
        if letter in "\n\r\t" and rng.random() < 0.7:
            encoded += {"\n": b"\\n", "\r": b"\\r", "\t": b"\\t"}[letter]
        elif letter in "\n\r" and raw == line_end:
            encoded += b"\\" + raw
        elif letter in "\n\r":
            encoded += {"\n": b"\\012", "\r": b"\\x0d"}[letter]
        elif letter in ("\\", options.delimiter):
            encoded += b"\\" + raw
        elif rng.random() < 0.03 and raw < b"\x80" and letter not in "bfnrtvx01":
            encoded += b"\\" + (raw if raw != b"." else b"x2E")
        else:
            encoded += raw
    return encoded


def csv_field(rng, value, options):
    if value is None:
        return options.null.encode()
    special = options.delimiter + options.quote + "\r\n"
    must = any(letter in special for letter in value) or value == options.null or value == "\\."
    if not must and rng.random() < 0.6:
        return value.encode(ENCODINGS[options.encoding])
    escaped = value
    if options.escape != options.quote:
        escaped = escaped.replace(options.escape, options.escape * 2)
    escaped = escaped.replace(options.quote, options.escape + options.quote)
    return (options.quote + escaped + options.quote).encode(ENCODINGS[options.encoding])


def good_stream(rng, options):
    """Rows as clients write them, with an end of either kind."""
    line_end = rng.choice(LINE_ENDS)
    delimiter = options.delimiter.encode()
    lines = []
    if options.header:
        lines.append(delimiter.join(name.encode() for name in NAMES[:options.width]))
    for _ in range(rng.choice([0, 1, 1, 2, 5, 20])):
        values = [None if rng.random() < 0.15 else random_value(rng, options.encoding)
                  for _ in range(options.width)]
        if options.format == "csv":
            lines.append(delimiter.join(csv_field(rng, value, options) for value in values))
        else:
            lines.append(delimiter.join(text_field(rng, value, options, line_end)
                                        for value in values))
    stream = b"".join(line + line_end for line in lines)
    if rng.random() < 0.2:
        stream += b"\\." + line_end + rng.choice([b"", b"what comes now is not read"])
    elif rng.random() < 0.2:
        stream = stream.removesuffix(line_end)
    return stream


def spoiled(rng, stream, options):
    """With a fault or two, somewhere."""
    special = [options.delimiter.encode(), options.quote.encode(), options.escape.encode(), b"\n",
               b"\r", b"\r\n", b"\\", b"\\.", b"\\.\n", b"a", b"\0", b"\x81"]
    data = bytearray(stream)
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            data[at:at] = rng.choice(special)
        elif kind == 1:
            del data[at:at + rng.choice([1, 1, 2, 5])]
        elif kind == 2:
            data[at:at + 1] = rng.choice(special)
        else:
            del data[at:]
    return bytes(data)


def random_options(rng, format, encoding, major):
    width = rng.choice([2, 2, 3, 4])
    gone = sorted(rng.sample(range(width), rng.choice([1, 1, 1, 2]) if width > 2 else 1))
    has_header = major >= 15 or format == "csv"
    header = rng.choice([None, None, None, "true", "match" if major >= 15 else "true"])
    options = dict(encoding=encoding, header=header if has_header else None,
                   has_end_marker=major < 18)
    if format == "csv":
        options.update(delimiter=rng.choice([",", ",", ";", "|", "\t"]),
                       quote=rng.choice(['"', '"', "'"]), null=rng.choice(["", "", "NULL", "\\N"]),
                       escape=rng.choice([None, None, "\\", "'"]))
    else:
        options.update(delimiter=rng.choice(["\t", "\t", "|", ",", ";"]),
                       null=rng.choice(["\\N", "\\N", "", "NULL"]))
    return CopyOptions(format, width, [(index, NAMES[index]) for index in gone], **options)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("format", ["text", "csv"])
def test_rows_and_errors_are_those_of_the_whole_stream(probe, reference, format, encoding):
    rng = random.Random(f"{format} {encoding}")
    good = 0
    for round in range(240):
        options = random_options(rng, format, encoding, reference.major)
        stream = good_stream(rng, options)
        if round % 2:
            stream = spoiled(rng, stream, options)
        good += compare(probe, reference, options, stream, rng)
    assert good >= 100


def binary_stream(reference, rng):
    rows = rng.choice([0, 1, 3, 30])
    wire_ = reference.wire
    answers = wire_.query(
        "COPY (SELECT i::int8, CASE WHEN i % 3 > 0 THEN i END::int4, repeat('x', i % 90),"
        f" CASE WHEN i % 7 > 0 THEN i / 7.0 END FROM generate_series(1, {rows}) i)"
        " TO STDOUT (FORMAT binary)")
    return b"".join(answer.body for answer in answers if answer.kind == "d")


def spoiled_binary(rng, stream):
    data = bytearray(stream)
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(4)
    if kind == 0:
        data[at:at] = bytes(rng.randrange(1, 6))
    elif kind == 1:
        del data[at:at + rng.choice([1, 2, 4, 6])]
    elif kind == 2:
        data[at:at + 1] = rng.choice([b"\0", b"\1", b"\xff", b"\x80"])
    else:
        del data[at:]
    return bytes(data)


@pytest.mark.parametrize("gone", [[0], [1], [2], [3], [0, 1], [1, 3], [2, 3], [0, 1, 2]])
def test_binary_rows_and_errors_are_those_of_the_whole_stream(probe, reference, gone):
    rng = random.Random(f"binary {gone}")
    options = CopyOptions("binary", 4, [(index, NAMES[index]) for index in gone])
    good = 0
    for round in range(150):
        stream = binary_stream(reference, rng)
        if round % 3:
            stream = spoiled_binary(rng, stream)
        good += compare(probe, reference, options, stream, rng, table="b")
    assert good >= 50


def test_a_binary_row_that_lacks_a_field_stays_wrong(probe, reference):
    options = CopyOptions("binary", 2, [(1, "f1")])
    header = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    eight = struct.pack("!iq", 8, 1)
    for row in (struct.pack("!h", 1) + eight,  # as many as the table is told to expect
                struct.pack("!h", 2) + eight,
                struct.pack("!h", 2) + eight + struct.pack("!i", 4) + b"\0\0",
                struct.pack("!h", 2) + eight + struct.pack("!i", -5),
                struct.pack("!h", 3) + eight + struct.pack("!iiii", 4, 1, 4, 1)):
        good = struct.pack("!h", 2) + eight + struct.pack("!ii", 4, 5)
        filtered = probe.filter(header + good + row, options)
        answer, _ = reference.copy("b", ["f0"], options, filtered.stream)
        assert answer is not None and answer.sqlstate == "22P04", row


@pytest.mark.parametrize("stream, width, gone", [
    (b"5,\\.\nx,y\n", 2, 0),  # would be an end marker up to PostgreSQL 17
    (b"\\.,5\nx,y\n", 2, 1),
    (b'5,\\."a,\nb",c\nx,y,z\n', 3, 0),
    (b"5,\\.x\n5,\\\n5,\\\\.\n", 2, 0),
    (b"\\.x,5\n\\,5\n", 2, 1),
    (b"\\.,5\nx,y\n", 3, 1),  # a field is missing
    (b"\\.\nx,y\n", 2, 0),
    (b"\\.\nx,y\n", 2, 1),
    (b"x,y\n\\.\nx\n", 2, 1),
    (b"x,y\r\n\\.\r\nx\r\n", 2, 0),
    (b"5,", 2, 0),  # an empty line at the end of the data is a row, none is not
    (b"5,\n5,", 2, 0),
    (b"5,\r\n5,", 2, 0),
    (b'x,"5\ny,6\n', 2, 1),  # the quotes never end
    (b'"5\nx,y\n', 2, 0),
    (b"x\n", 2, 0), (b"x", 2, 0), (b"\n", 2, 0), (b"\n", 2, 1), (b"x\n", 2, 1), (b"x,y,z\n", 2, 1),
    (b"1,a\r5,\nfoo", 2, 0),  # CR and LF would become one line end
])
def test_csv_that_would_become_something_else(probe, reference, stream, width, gone):
    options = CopyOptions("csv", width, [(gone, NAMES[gone])],
                          has_end_marker=reference.major < 18)
    for seed in range(20):
        compare(probe, reference, options, stream, random.Random(seed))


@pytest.mark.parametrize("stream, width, gone", [
    (b"5\t", 2, 0), (b"5\t\n5\t", 2, 0), (b"x\n", 2, 0), (b"x\n", 2, 1), (b"\n", 2, 0),
    (b"x\\", 2, 1), (b"x\ty\\", 2, 1), (b"x\ty\\", 2, 0), (b"\\", 2, 0),
    (b"x\t5\\\n6\ny\t\\\t\n", 2, 1),  # line end and delimiter behind a backslash
    (b"x\t\\.\n", 2, 1), (b"x\t5\\.\ny\tz\n", 2, 0), (b"x\ty\n\\.\nz", 2, 0),
    (b"x\\.\n", 2, 1),  # one field too few in front of the end
    (b"x\t5\r\ny\t6\r", 2, 1), (b"x\t5\r\ny\t6\n", 2, 1), (b"x\t5\ny\t6\r\n", 2, 1),
    (b"x\t5\ry\t6\n", 2, 0), (b"\t5\r\n", 2, 1),
])
def test_text_that_would_become_something_else(probe, reference, stream, width, gone):
    options = CopyOptions("text", width, [(gone, NAMES[gone])])
    for seed in range(20):
        compare(probe, reference, options, stream, random.Random(seed))


def test_a_row_before_a_marker_of_which_nothing_is_left_is_refused(probe, reference):
    """Up to PostgreSQL 17 the row is taken; without its field nobody could see it."""
    options = CopyOptions("text", 2, [(0, "f0")])
    filtered = probe.filter(b"5\t\\.\n", options)
    answer, _ = reference.copy("t", ["f1"], options, filtered.stream)
    assert answer.sqlstate == "22P04"


def test_a_header_with_another_name_is_refused(probe, reference):
    if reference.major < 15:
        pytest.skip("HEADER MATCH came with PostgreSQL 15")
    for format, delimiter in (("csv", ","), ("text", "\t")):
        options = CopyOptions(format, 2, [(1, "f1")], header="match")
        for name, sqlstate in (("f1", None), ("f2", "22P04"), ('"f1"', None), ("", "22P04")):
            if format == "text" and name.startswith('"'):
                continue
            stream = f"f0{delimiter}{name}\nx{delimiter}5\n".encode()
            filtered = probe.filter(stream, options, seed=1, piece=3)
            answer, rows = reference.copy("t", ["f0"], options, filtered.stream)
            assert (answer and answer.sqlstate) == sqlstate, stream
            assert sqlstate or rows == [[b"x", None, None, None]]
