"""Rows of strings and None as COPY reads them."""

ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


def text_of(rows):
    def field(value):
        return "\\N" if value is None else "".join(ESCAPES.get(c, c) for c in value)
    return "".join("\t".join(map(field, row)) + "\n" for row in rows)


def csv_of(rows, header=None):
    """`header` is the names of the first line; None: there is none."""
    def field(value):
        return "" if value is None else '"' + value.replace('"', '""') + '"'
    lines = [] if header is None else [",".join(header)]
    return "\n".join(lines + [",".join(map(field, row)) for row in rows]) + "\n"
