"""Expressions over hashtext() as pgsluice evaluates them, against a real server: the text of random
values, and values of other types in the forms in which clients send them.
"""

import random
import struct
import uuid

import pytest

from lib import wire
from lib.copy_probe import CopyProbe

LETTERS = "abcXYZ  019_-%'\\äß日本語😀\t\n"
EXPRESSIONS = [
    "mod(hashtext({}::text), 100)",
    "hashtext({}::text) % 100",
    "mod(abs(hashtext({}::text)), 100)",
    "abs(hashtext({}::text)) % 100",
    "abs(mod(hashtext({}::text), 100))",
    "mod(mod(hashtext({}::text), 100) + 100, 100)",
    "(abs(hashtext({}::text)::bigint) % 64)::int",
    "pg_catalog.mod(pg_catalog.hashtext(CAST({} AS varchar)), -7)",
    "hashtext({}::text)",
]
OIDS = {"text": 25, "varchar": 1043, "varchar(3)": 1043, "char(3)": 1042, "int2": 21, "int4": 23,
        "int8": 20, "uuid": 2950}
TYPMODS = {"varchar(3)": 7, "char(3)": 7}


@pytest.fixture(scope="module")
def probe():
    instance = CopyProbe()
    yield instance
    instance.close()


@pytest.fixture(scope="module")
def session(server):
    return wire.connect(server)


def _literal(text):
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _of_server(session, expression, type_name, texts):
    """As the server has it for a column, so that what it does to a value when it stores it counts."""
    session.rows(f"CREATE TEMP TABLE v (n serial, c {type_name})")
    session.rows("INSERT INTO v (c) VALUES " + ", ".join(f"({_literal(text)})" for text in texts))
    rows = session.rows(f"SELECT {expression.format('c')} FROM v ORDER BY n")
    session.rows("DROP TABLE v")
    return [int(row[0]) for row in rows]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_random_texts_have_the_servers_value(probe, session, expression):
    rng = random.Random(expression)
    texts = ["".join(rng.choice(LETTERS) for _ in range(length))
             for length in [*range(40), 255, 1000] for _ in range(12)]
    assert _of_server(session, expression, "text", texts) == [
        probe.evaluate(expression.format("c"), text.encode()) for text in texts]


@pytest.mark.parametrize("type_name, texts", [
    ("int2", ["0", "-1", "32767", "-32768", " 7 ", "+7", "007", "-0"]),
    ("int4", ["0", "12", "2147483647", "-2147483648", "\t12\n"]),
    ("int8", ["0", "9223372036854775807", "-9223372036854775808", "000000000000000000000001"]),
    ("uuid", ["550e8400-e29b-41d4-a716-446655440000", "550E8400-E29B-41D4-A716-44665544ABCD"]),
    ("varchar", ["a", "a ", "ä  "]),
    ("varchar(3)", ["a", "a  ", "abc", "äöü"]),
    ("char(3)", ["a", "a  ", "abc", "abc     ", "ä"]),
])
def test_values_of_other_types_have_the_servers_value(probe, session, type_name, texts):
    expression = EXPRESSIONS[0]
    assert _of_server(session, expression, type_name, texts) == [
        probe.evaluate(expression.format("c"), text.encode(), OIDS[type_name],
                       TYPMODS.get(type_name, -1)) for text in texts]


@pytest.mark.parametrize("type_name, text", [
    ("int2", "32768"), ("int4", "2147483648"), ("int8", "9223372036854775808"), ("int4", "0x10"),
    ("int4", "1_000"), ("int4", ""), ("int4", "1 2"), ("uuid", "{550e8400e29b41d4a716446655440000}"),
    ("uuid", "550e8400-e29b-41d4-a716-44665544000g"), ("varchar(3)", "a    "), ("text", "a\0b"),
])
def test_what_only_the_server_knows_is_not_known(probe, type_name, text):
    assert probe.evaluate("mod(hashtext(c::text), 100)", text.encode(), OIDS[type_name],
                          TYPMODS.get(type_name, -1)) is None


def test_binary_values_have_the_servers_value(probe, session):
    expression = EXPRESSIONS[0]
    key = uuid.UUID("550e8400-e29b-41d4-a716-446655440000")
    for type_name, text, binary in [
            ("int2", "-5", struct.pack(">h", -5)), ("int4", "70000", struct.pack(">i", 70000)),
            ("int8", "-5000000000", struct.pack(">q", -5000000000)), ("uuid", str(key), key.bytes),
            ("text", "ä ", "ä ".encode())]:
        expected, = _of_server(session, expression, type_name, [text])
        assert probe.evaluate(expression.format("c"), binary, OIDS[type_name],
                              binary=True) == expected
