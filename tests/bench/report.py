"""The bench's figures as text tables and as JSON."""

import json
import os
import statistics

import cutover_report
import goals
from candidates import FloorPoll

CPU_LINE = "{:<33} {:>7} {:>9} {:>10}  {:>18} {:>18} {:>18}  {:<21} {}"
OTHER_LINE = "{:<33} {:>13} {:>7} {:>17} {:>17} {:>17}  {:<21} {}"
PIPE_LINE = "{:<33} {:>7} {:>9}  {:>18}"
MARKS = {True: "reached", False: "MISSED", None: "not measured"}


def median(row, name, digits):
    values = row["values"].get(name)
    return f"{statistics.median(values):.{digits}f}" if values else "-"


def spread(values, digits=2):
    """Median (lowest..highest); the median alone when there is but one."""
    if not values:
        return "-"
    text = f"{statistics.median(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f}..{max(values):.{digits}f})"
    return text


def mark(row):
    return MARKS[row["goal"].is_reached(row)] if row["goal"].text else ""


def cpu_line(row):
    unit = " (MB)" if row["unit"] == "us/MB" else ""
    return CPU_LINE.format(
        row["work"] + unit, *(median(row, name, 1) for name in ("floor", "pgsluice", "pgbouncer")),
        *(spread(goals.ratios(row, *pair)) for pair in (
            ("pgsluice", "floor"), ("pgsluice", "pgbouncer"), ("pgbouncer", "floor"))),
        row["goal"].text, mark(row)).rstrip()


def other_line(row):
    digits = row["digits"]
    direct = row["values"].get("direct")
    return OTHER_LINE.format(
        row["work"], row["unit"], f"{statistics.median(direct):.0f}" if direct else "",
        *(spread(row["values"].get(name), digits) for name in ("floor", "pgsluice", "pgbouncer")),
        row["goal"].text, mark(row)).rstrip()


def pipe_line(row):
    return PIPE_LINE.format(row["work"] + (" (MB)" if row["unit"] == "us/MB" else ""),
                            *(median(row, name, 1) for name in ("floor", FloorPoll.name)),
                            spread(goals.ratios(row, FloorPoll.name, "floor")))


class Results:
    def __init__(self, bench, cpu, pipes, others, cutovers, seconds):
        self.cpu = [row for row in cpu if row]
        self.pipes = [row for row in pipes if row]
        self.others = [row for row in others if row]
        self.cutovers = cutovers
        self.bench = bench
        self.seconds = seconds

    def text(self):
        lines = []
        if self.cpu:
            heads = (("CPU of the proxy, us per", "", "", "",
                      "pgsluice /", "pgsluice /", "pgbouncer /", "", ""),
                     ("transaction or MB", "floor", "pgsluice", "pgbouncer",
                      "floor", "pgbouncer", "floor", "goal", ""))
            lines += ["", *(CPU_LINE.format(*head).rstrip() for head in heads)]
            lines += map(cpu_line, self.cpu)
        if self.others:
            lines += ["", OTHER_LINE.format("", "unit", "direct", "floor", "pgsluice", "pgbouncer",
                                            "goal", "").rstrip()]
            lines += map(other_line, self.others)
        if self.pipes:
            lines += ["", PIPE_LINE.format("byte pipes, CPU in us", "streams", "uv_poll",
                                           "uv_poll / streams")]
            lines += map(pipe_line, self.pipes)
        if self.cutovers:
            lines += ["", *cutover_report.lines(self.cutovers)]
        return "\n".join(lines + self._closing_lines())

    def _closing_lines(self):
        rounds = (f"{self.bench.rounds} rounds of {self.bench.seconds:g} s, median (min..max) of "
                  "their ratios; " if self.cpu or self.pipes or self.others else "")
        lines = ["", f"{rounds}{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
                 f"{self.seconds:.0f} s in all"]
        marks = [mark(row) for row in self.cpu + self.others]
        marks += [MARKS[reached] for reached in cutover_report.verdicts(self.cutovers)]
        lines.append(f"goals: {marks.count('reached')} reached, {marks.count('MISSED')} missed")
        lines += [f"could not be measured: {failure}" for failure in self.bench.failures]
        return lines

    def json(self):
        def plain(row):
            goal = row["goal"]
            return {**row, "goal": {"text": goal.text, "figure": goal.figure(row),
                                    "reached": goal.is_reached(row)}}

        def with_ratios(row, bases):
            return {**plain(row), "ratios": {f"{name}/{base}": goals.ratios(row, name, base)
                                             for base in bases for name in row["values"]
                                             if name != base}}

        return json.dumps({
            "cores": os.cpu_count(), "rounds": self.bench.rounds, "workers": self.bench.workers,
            "seconds_per_run": self.bench.seconds,
            "cpu": [with_ratios(row, ("floor", "pgbouncer")) for row in self.cpu],
            "pipes": [with_ratios(row, ("floor",)) for row in self.pipes],
            "others": [plain(row) for row in self.others],
            "cutovers": self.cutovers,
            "failures": self.bench.failures}, indent=2) + "\n"
