"""The bench's figures as two text tables and as JSON."""

import json
import os
import statistics

CPU_LINE = "{:<32} {:>16} {:>22} {:>22} {:>13}"
OTHER_LINE = "{:<26} {:>14} {:>8} {:>17} {:>17} {:>17} {:>13}"


def ratios(row, name):
    """A candidate's cost as a multiple of the floor's, in each round."""
    return [mine / floor for mine, floor in zip(row["us"].get(name, []), row["us"]["floor"])]


def spread(values, digits=2):
    """Median (lowest..highest); the median alone when there is but one."""
    if not values:
        return "-"
    text = f"{statistics.median(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f}..{max(values):.{digits}f})"
    return text


class Results:
    def __init__(self, bench, cpu, others, seconds):
        self.cpu = cpu
        self.others = others
        self.seconds = seconds
        self.bench = bench

    def text(self):
        lines = []
        if self.cpu:
            lines += ["", CPU_LINE.format("CPU of the proxy", "floor, us", "pgsluice/floor",
                                          "pgbouncer/floor", "goal")]
        for row in self.cpu:
            unit = "/MB" if row["unit"].endswith("MB") else ""
            lines.append(CPU_LINE.format(
                row["work"], f"{statistics.median(row['us']['floor']):.1f}{unit}",
                spread(ratios(row, "pgsluice")), spread(ratios(row, "pgbouncer")), row["goal"]))
        if self.others:
            lines += ["", OTHER_LINE.format("", "unit", "direct", "floor", "pgsluice", "pgbouncer",
                                            "goal")]
        for row in self.others:
            direct = row["values"].get("direct")
            lines.append(OTHER_LINE.format(
                row["work"], row["unit"], f"{statistics.median(direct):.0f}" if direct else "",
                *(spread(row["values"].get(name, []), row["digits"])
                  for name in ("floor", "pgsluice", "pgbouncer")), row["goal"]))
        lines += ["", f"{self.bench.rounds} rounds of {self.bench.seconds:g} s, median (min..max) "
                  f"of their ratios; {os.cpu_count()} cores, {self.seconds:.0f} s in all"]
        lines += [f"note: {note}" for note in self.bench.notes]
        lines += [f"could not be run: {failure}" for failure in self.bench.failures]
        return "\n".join(lines)

    def json(self):
        cpu = [{**row, "ratios": {name: ratios(row, name) for name in row["us"]}}
               for row in self.cpu]
        return json.dumps({
            "cores": os.cpu_count(), "rounds": self.bench.rounds, "workers": self.bench.workers,
            "seconds_per_run": self.bench.seconds, "cpu": cpu, "others": self.others,
            "notes": self.bench.notes, "failures": self.bench.failures}, indent=2) + "\n"
