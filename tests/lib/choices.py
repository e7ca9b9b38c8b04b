"""Decisions of a generator of tests: drawn at random, or replayed; and how a failing run is shrunk.

A generator asks draw() for every decision that it takes, and 0 is always the simplest answer. So the
list of answers stands for the whole test, and what is made of a list with zeros in it, or with a part
missing, is a simpler test: shrinking knows nothing of what is generated.
"""

import random


class Choices:
    def __init__(self, seed=None, replay=None):
        self._dice = random.Random(seed) if replay is None else None
        self._replay = replay
        self.made = []

    def draw(self, count):
        """A number from 0 to count - 1. A replay that has come to its end gives 0."""
        if self._dice is not None:
            choice = self._dice.randrange(count)
        else:
            at = len(self.made)
            choice = min(self._replay[at], count - 1) if at < len(self._replay) else 0
        self.made.append(choice)
        return choice

    def pick(self, options):
        return options[self.draw(len(options))]

    def chance(self, percent):
        return self.draw(100) >= 100 - percent

    def shuffled(self, items):
        rest, found = list(items), []
        while rest:
            found.append(rest.pop(self.draw(len(rest))))
        return found


def _simpler(made, size):
    """Lists that are simpler than `made` by up to `size` answers in one place."""
    for start in range(0, len(made), size):
        yield made[:start] + made[start + size:]
        if any(made[start:start + size]):
            yield made[:start] + [0] * len(made[start:start + size]) + made[start + size:]


def shrink(made, still_fails, trials=800):
    """The simplest list found of which still_fails(list) is true; it is of `made`."""
    size = max(len(made) // 2, 1)
    while size > 0 and trials > 0:
        is_shrunk = False
        for candidate in _simpler(made, size):
            trials -= 1
            if trials <= 0:
                break
            if still_fails(candidate):
                made, is_shrunk = candidate, True
                break
        if not is_shrunk:
            size //= 2
    return made
