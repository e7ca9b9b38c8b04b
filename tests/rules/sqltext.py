"""Two texts of one statement: what the client sends, and the same without the guarded column.

A statement is made of nested lists of SQL; Client(...) and Reference(...) mark what only one of the two
texts has. What stands between two tokens (blanks, comments, nothing) is drawn once, for both.
"""

import random
import re

TOKEN = re.compile(r"""
    \s+
  | (?P<token>
      # What the parser takes for one word with the next must not have a comment between.
      NOT\s+(?:IN|LIKE|ILIKE|BETWEEN|SIMILAR)\b | NULLS\s+(?:FIRST|LAST)\b
    | WITH\s+(?:TIME|ORDINALITY)\b
    | [uU]&(?:'(?:[^']|'')*'|"(?:[^"]|"")*")(?:\s*UESCAPE\s*'.')?
    | [eE]'(?:[^'\\]|\\.|'')*'
    | [nNbBxX]?'(?:[^']|'')*'(?:[ ]*\n[ ]*'(?:[^']|'')*')*
    | "(?:[^"]|"")*"
    | \$(?P<tag>[a-zA-Z_]*)\$.*?\$(?P=tag)\$
    | \$\d+ | \{db\}
    | 0x[0-9A-Fa-f]+ | \d+(?:\.\d*)?(?:[eE][+-]?\d+)? | \.\d+(?:[eE][+-]?\d+)?
    | \w[\w$]*
    | :: | :=
    | [-+*/<>=~!@#%^&|`?]+
    | [](),;[.:]
    )""", re.VERBOSE | re.DOTALL)

OPERATORS = "+-*/<>=~!@#%^&|`?:"

GAPS = [" ", "", "", "\n", "\t ", "  ", " /* c */ ", "/**/", " -- c\n", "/* partition_key, */",
        " -- chunks (partition_key\n", "/* a /* ' nested */ \" */", "/*;*/", "\r\n", "/*)*/", "\f",
        " --\n", "/* $1 $$ */", "/* ä 漢 😀 */"]


class Parameter:
    """$n; its number is settled when the statement is complete."""

    def __init__(self, index):
        self.index = index


class Only:
    def __init__(self, side, items):
        self.side = side
        self.items = items


def Client(*items):
    """Only the client's text has it."""
    return Only("client", items)


def Reference(*items):
    """Only the text without the column has it."""
    return Only("reference", items)


def listed(items, separator=","):
    """The items with a separator between those that a side has."""
    found, counts = [], {"client": 0, "reference": 0}
    for item in items:
        sides = [item.side] if isinstance(item, Only) else list(counts)
        behind = [side for side in sides if counts[side] > 0]
        if len(behind) == 2:
            found.append(separator)
        else:
            found += [Only(side, [separator]) for side in behind]
        found.append(item)
        for side in sides:
            counts[side] += 1
    return found


def split(sql):
    """The tokens of a piece of SQL."""
    at, found = 0, []
    while at < len(sql):
        match = TOKEN.match(sql, at)
        if match is None:
            raise ValueError(f"no token at {sql[at:]!r} of {sql!r}")
        if match["token"]:
            found.append(match["token"])
        at = match.end()
    return found


def _flatten(items, side):
    if isinstance(items, str):
        for token in split(items):
            yield token, side
    elif isinstance(items, Parameter):
        yield items, side
    elif isinstance(items, Only):
        for item in items.items:
            yield from _flatten(item, items.side)
    else:
        for item in items:
            yield from _flatten(item, side)


def _is_word(char):
    return char.isalnum() or char in "_$" or char >= "\x80"


def _must_part(before, after):
    """Whether two tokens without anything between would read as something else."""
    last, first = before[-1], after[0]
    if _is_word(last):
        return _is_word(first) or first in "'\"" or (first == "." and last.isdigit())
    if last in "'\"" and first in "'\"":
        return True
    if last == ".":
        return first.isdigit() or (len(before) > 1 and _is_word(first))
    return last in OPERATORS and first in OPERATORS


class Gaps:
    """What stands between tokens. Two decisions for all of a text, so that it is shrunk at once."""

    def __init__(self, choices):
        self.noise = choices.draw(4)
        self.dice = random.Random(choices.draw(1 << 16))

    def next(self):
        """A gap, or None for the usual one."""
        if self.noise < 2:
            return None if self.noise == 0 else " "
        return self.dice.choice(GAPS) if self.noise == 3 or self.dice.random() < 0.3 else " "


class Text:
    """A statement with its gaps; render() gives either side's text."""

    def __init__(self, items, gaps):
        self.tokens = [(token, side, gaps.next()) for token, side in _flatten(items, None)]

    @staticmethod
    def _usual_gap(before, token):
        return "" if before in ("(", ".", "", "[", "::") or token in (",", ")", ".", ";", "]", "::") else " "

    def render(self, side, numbers=(), dbname="app"):
        """(text, starts): the text, and where its tokens begin: [(offset, index of the token)]."""
        text, starts, before = "", [], ""
        for index, (token, only, gap) in enumerate(self.tokens):
            if only not in (None, side):
                continue
            if isinstance(token, Parameter):
                token = f"${numbers[token.index]}"
            elif token == "{db}":
                token = dbname
            if gap is None:
                gap = self._usual_gap(before, token)
            if before and ((gap == "" and _must_part(before, token))
                           or (gap.startswith("--") and before.endswith("-"))):
                gap = " " + gap
            text += gap if before or gap.strip() else ""
            starts.append((len(text), index))
            text += token
            before = token
        return text, starts
