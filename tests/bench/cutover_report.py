"""The figures of the cutovers: percentiles by class of statement, against DESIGN's goals."""

import math

NEAR = 0.1  # seconds around a hold
DIP = 0.1  # seconds after the release in which the server must not be slower
ZEROS = ("errors", "lost", "doubled", "killed")
LINE = "{:<44} {:>7}  {:>8} {:>8} {:>8}   {:>8} {:>8} {:>8}   {:<14} {}"


def percentile(values, share):
    """Nearest rank; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def three(values):
    """p50, p99 and the largest."""
    return [percentile(values, share) for share in (0.5, 0.99, 1)]


def minus(mine, others):
    return [None if None in pair else pair[0] - pair[1] for pair in zip(mine, others)]


def without(window, holes):
    """The parts of a window outside `holes`, which are in order."""
    begin, end = window
    for hole_begin, hole_end in holes:
        if hole_begin > begin:
            yield begin, min(hole_begin, end)
        begin = max(begin, hole_end)
    if begin < end:
        yield begin, end


def near(turn):
    return [(begin - NEAR, end + NEAR) for begin, end in turn.holds]


def around(turn):
    """Near a hold, but not in it."""
    for window in near(turn):
        yield from without(window, turn.holds)


def rest(turn):
    """The cutover without its holds: preflight, copying, comparing, cleaning up."""
    return without((turn.begin, turn.end), near(turn))


# Name, kind, windows of a turn, goals in ms for p50, p99 and max of what a cutover adds.
CLASSES = (
    ("write due in the hold", "writes", lambda turn: turn.holds, (8, 30, 100)),
    ("write due within 100 ms of it", "writes", around, None),
    ("write due while copying, comparing", "writes", rest, None),
    ("read due within 100 ms of a hold, or in it", "reads", near, (0, 10, 50)),
    ("read due while copying, comparing", "reads", rest, None),
)


def row_of_class(cutovers, name, kind, windows, goal):
    """Latencies in the windows, and in the same windows of the times without a cutover."""
    sample = getattr(cutovers, kind)
    inside, control = [], []
    for turn in cutovers.turns:
        for begin, end in windows(turn):
            inside += sample.latencies(begin, end)
            if turn.control is not None:
                shift = turn.control - turn.begin
                control += sample.latencies(begin + shift, end + shift)
    added = minus(three(inside), three(control))
    return {"name": name, "count": len(inside), "latency_ms": three(inside),
            "control_ms": three(control), "added_ms": added, "goal_ms": goal,
            "reached": is_reached(added, goal)}


def is_reached(figures, goal):
    """None when there is no goal, or no figure. A goal of 0 is reached when it rounds to it."""
    if goal is None or None in figures:
        return None
    return all(figure <= (most or 0.5) for figure, most in zip(figures, goal))


def row_of_turns(cutovers, name, member, goal=None):
    values = [getattr(turn, member) for turn in cutovers.turns]
    values = [value for value in values if value is not None]
    return {"name": name, "count": len(values), "latency_ms": three(values), "goal_ms": goal,
            "reached": is_reached(three(values), goal)}


def throughput(cutovers):
    """Statements completed in the 100 ms after a release, against those of the same time without a
    cutover; what was held comes on top."""
    after = control = 0
    for turn in cutovers.turns:
        if turn.control is not None:
            shifted = turn.release + turn.control - turn.begin
            for sample in (cutovers.writes, cutovers.reads):
                after += sample.completed(turn.release, turn.release + DIP)
                control += sample.completed(shifted, shifted + DIP)
    return after / control if control else None


def figures(cutovers):
    """Everything as plain data. Without control windows there is nothing to hold against the goals but
    what must be 0."""
    plan, turns = cutovers.plan, cutovers.turns
    rows = [row_of_turns(cutovers, "exclusive lock held", "lock_ms",
                         (6, 15, 50) if plan.control else None),
            row_of_turns(cutovers, "gate holding", "gate_ms"),
            *(row_of_class(cutovers, *of_class) for of_class in CLASSES)]
    zeros = dict(cutovers.zeros)
    share = throughput(cutovers)
    seconds = (cutovers.records[-1][0] - cutovers.records[0][0]) / 1e9 if cutovers.records else 0
    return {
        "cutovers": len(turns), "forward": sum(turn.command == "cutover" for turn in turns),
        "attempts": sum(len(turn.holds) for turn in turns),
        "held_statements": sum(turn.held for turn in turns),
        "seconds": [turn.end - turn.begin for turn in turns],
        "rows": plan.rows, "control": plan.control, "sessions": [plan.writers, plan.readers],
        "wanted_per_second": [plan.writes, plan.reads],
        "done_per_second": [len(sample.due) / seconds if seconds else 0
                            for sample in (cutovers.writes, cutovers.reads)],
        "rows_of_figures": rows, "throughput_after_release": share,
        "throughput_reached": None if share is None else share >= 0.9,
        "zeros": zeros,
        "zeros_reached": not (zeros["errors"] or any(zeros[name] for name in ZEROS[1:])
                              or zeros["not_sent"] or zeros["wrong_keys"] or zeros["server_log"]),
        "failures": cutovers.failures}


def mark(reached):
    return {True: "reached", False: "MISSED", None: ""}[reached]


def line(row):
    def words(values):
        return ["-" if value is None else f"{value:.2f}" for value in values]

    blank = ["", "", ""]
    goal = "" if row["reached"] is None else "<= " + "/".join(map(str, row["goal_ms"]))
    return LINE.format(row["name"], row["count"], *words(row["latency_ms"]),
                       *(words(row["added_ms"]) if "added_ms" in row else blank), goal,
                       mark(row["reached"])).rstrip()


def verdicts(found):
    """Of each goal whether it is reached."""
    if found is None:
        return []
    each = [row["reached"] for row in found["rows_of_figures"]]
    each += [found["throughput_reached"], found["zeros_reached"]]
    return [reached for reached in each if reached is not None]


def lines(found):
    seconds = found["seconds"] or [0]
    (writers, readers), done = found["sessions"], found["done_per_second"]
    wanted, zeros = found["wanted_per_second"], found["zeros"]
    shown = [
        f"{found['cutovers']} cutovers by swap ({found['forward']} forward, the others back) of "
        f"{found['rows']} rows and what is written meanwhile, every COMMIT on the disk; "
        f"{found['attempts']} holds, {found['held_statements']} statements held",
        f"load: {writers} sessions write, {readers} read, open loop: {done[0]:.0f} and {done[1]:.0f} "
        f"a second of {wanted[0]} and {wanted[1]} wanted; a cutover takes "
        f"{min(seconds):.1f} to {max(seconds):.1f} s, "
        + ("and as long a time without one follows it" if found["control"]
           else "and the next one follows at once"),
        "",
        LINE.format("ms", "", "", "in all", "", "", "added", "", "", "").rstrip(),
        LINE.format("", "count", "p50", "p99", "max", "p50", "p99", "max", "goal", "").rstrip(),
        *map(line, found["rows_of_figures"]), ""]
    share = found["throughput_after_release"]
    if share is not None:
        shown.append(f"statements done in the 100 ms after the release: {share:.2f} of those without "
                     f"a cutover (goal: >= 0.90, {mark(found['throughput_reached'])})")
    shown.append(
        f"{zeros['sent']} writes sent, {zeros['acknowledged']} acknowledged; "
        f"errors {sum(zeros['errors'].values())}, lost {zeros['lost']}, doubled {zeros['doubled']}, "
        f"sessions killed {zeros['killed']} (goal: 0, {mark(found['zeros_reached'])}); "
        f"rows nobody sent {zeros['not_sent']}, wrong keys {zeros['wrong_keys']}, errors of these "
        f"sessions in the server's log {zeros['server_log']}")
    shown += [f"{count} errors {state}" for state, count in zeros["errors"].items()]
    shown += [f"a cutover failed: {failure}" for failure in found["failures"]]
    return shown
