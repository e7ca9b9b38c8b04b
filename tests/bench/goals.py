"""What DESIGN.md wants of a row's figures, and whether they have reached it."""

import statistics


def ratios(row, name, base):
    """A candidate's value as a multiple of another one's, in each round that has both."""
    mine, others = (row["values"].get(of, []) for of in (name, base))
    return [value / other for value, other in zip(mine, others) if other]


class Goal:
    """A bound for pgsluice's median: of its own value, of its ratio to another candidate, or that
    candidate's own median (`beside`)."""

    def __init__(self, text, limit=None, base=None, beside=None, at_least=False):
        self.text = text
        self.limit = limit
        self.base = base
        self.beside = beside
        self.at_least = at_least

    def figure(self, row):
        """What is compared with the limit; None when it was not measured."""
        values = ratios(row, "pgsluice", self.base) if self.base else row["values"].get("pgsluice")
        return statistics.median(values) if values else None

    def is_reached(self, row):
        """None when one of the two figures is missing."""
        figure, limit = self.figure(row), self.limit
        if self.beside:
            others = row["values"].get(self.beside)
            limit = statistics.median(others) if others else None
        if figure is None or limit is None:
            return None
        return figure >= limit if self.at_least else figure <= limit


def of_floor(limit):
    return Goal(f"<= {limit:.2f} of floor", limit, base="floor")


def of_pgbouncer(limit):
    return Goal(f"<= {limit:.2f} of pgbouncer", limit, base="pgbouncer")


def at_most(limit, unit):
    return Goal(f"<= {limit:g} {unit}", limit)


NONE = Goal("")
