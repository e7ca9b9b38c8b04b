"""The ways to measure: each takes the bench and a work, and returns rows for the report.

A row holds a work's name, the unit, the goal, and "values": one figure a round for each candidate.
"""

import re
import shutil
import signal
import statistics
import subprocess
import time

import goals
import works
from candidates import Floor, FloorPoll, Missing, PgBouncer, Sluice
from lib import common, wire


def row_of(work, unit, values, digits=2, **more):
    return {"work": work.name, "unit": unit, "goal": work.goal, "digits": digits, "values": values,
            **more}


def in_rounds(bench, work, candidates, measure):
    """What measure(candidate) gave in each round, by name; a candidate that fails drops out."""
    values = {candidate.name: [] for candidate in candidates}
    for number in range(bench.rounds):
        at = number % len(candidates)
        for candidate in candidates[at:] + candidates[:at]:
            if candidate.name not in values:
                continue
            try:
                values[candidate.name].append(measure(candidate))
            except Exception as failure:  # the others can still be compared
                bench.failures.append(f"{work.name}, {candidate.name}: {failure}")
                del values[candidate.name]
    return values


def cost(candidate, work, count):
    """CPU nanoseconds, units and seconds of one run."""
    before = candidate.cpu_ns()
    units, took = work.run(candidate, count)
    time.sleep(0.02)  # the proxy still closes its sessions
    return candidate.cpu_ns() - before, units, took


def count_for(bench, work, candidate):
    """How much work lasts for the wanted time."""
    count = 1
    while True:
        _, took = work.run(candidate, count)
        if took > bench.seconds / 2:
            return max(3, round(count * bench.seconds / took))
        count *= 4


def measure_cpu(bench, work, candidates):
    """Microseconds of CPU per unit, without the sessions' own start."""
    work.prepare(bench.server, True)
    count = count_for(bench, work, bench.floor)

    def measure(candidate):
        work.prepare(bench.server, False)
        spent, units, took = cost(candidate, work, count)
        spent -= work.clients * session_cost(bench, candidate, work.has_tls(candidate))
        return spent / units / 1000, units / took

    pairs = in_rounds(bench, work, candidates, measure)
    values = {name: [spent for spent, _ in pair] for name, pair in pairs.items()}
    rates = {name: [rate for _, rate in pair] for name, pair in pairs.items()}
    unit = "us/MB" if work.unit == "MB" else "us"
    return row_of(work, unit, values, 1, units_per_second=rates)


def session_cost(bench, candidate, tls):
    """CPU nanoseconds of a session's start and end, measured once."""
    if (candidate, tls) not in bench.session_costs:
        work = works.session_work(tls)
        costs = [cost(candidate, work, 1)[0] / work.clients for _ in range(5)]
        bench.session_costs[candidate, tls] = statistics.median(costs)
    return bench.session_costs[candidate, tls]


def minus(values, name):
    """The values of the others less this one's, round by round."""
    return {other: [mine - base for mine, base in zip(of, values[name])]
            for other, of in values.items() if other != name}


def measure_latency(bench, work):
    """What each candidate adds to the median of the direct latency, in microseconds."""
    work.prepare(bench.server, True)
    count = count_for(bench, work, bench.floor)

    def measure(candidate):
        folder = common.scratch_dir("latency")
        *command, conninfo = work.command(candidate, count)
        works.count_of([*command, "-l", conninfo], count, cwd=folder)
        log = next(folder.glob("pgbench_log.*")).read_text()
        return statistics.median(int(line.split()[2]) for line in log.splitlines())

    medians = in_rounds(bench, work, [bench.direct, *bench.proxies], measure)
    return row_of(work, "us, p50", {"direct": medians["direct"], **minus(medians, "direct")}, 0)


def measure_churn(bench, work):
    """Connections per second as a share of the direct ones, and CPU per connection."""
    work.prepare(bench.server, True)
    count = count_for(bench, work, bench.direct)
    pairs = in_rounds(bench, work, [bench.direct, *bench.proxies],
                      lambda candidate: cost(candidate, work, count))
    rates = {name: [units / took for _, units, took in of] for name, of in pairs.items()}
    cpu = {name: [spent / units / 1000 for spent, units, _ in of]
           for name, of in pairs.items() if name != "direct"}
    shares = {name: goals.ratios({"values": rates}, name, "direct") for name in cpu}
    return [row_of(work, "of direct/s", {"direct": rates["direct"], **shares}),
            {"work": f"{work.name}, CPU", "unit": "us", "goal": goals.NONE, "digits": 0,
             "values": cpu}]


class Idle:
    """Sessions that have run a statement and do nothing more. prepare: each also keeps a prepared
    INSERT, from which the rule strips the key."""

    def __init__(self, name, goal, tls=False, prepare=False):
        self.name = name
        self.goal = goal
        self.tls = tls
        self.prepare = prepare

    def open(self, candidate):
        session = works.open_session(candidate, self.tls and candidate.has_tls)
        session.query("SELECT collection_id FROM chunks WHERE id = 1")
        if self.prepare:
            statement = ("INSERT INTO chunks (collection_id, partition_key, document_id, "
                         "chunk_index, content) VALUES ($1, $2, $3, $4, $5)")
            session.send(wire.Parse("keep", statement), wire.Sync()).read_until("Z")
        return session


def idle_works():
    return [Idle("idle session", goals.at_most(2, "KiB")),
            Idle("idle session, INSERT prepared", goals.NONE, prepare=True),
            Idle("idle session, TLS", goals.NONE, tls=True)]


def measure_memory(bench, work):
    """KiB that one more idle session costs, in processes that have had no other."""
    few, many = (25, 125) if bench.is_quick else (50, 250)
    values = {}
    before = len(bench.server.backends())
    for start in (Floor, Sluice, PgBouncer):
        candidate, sessions = None, []
        try:
            candidate = start(bench.server, bench.certificates)
            while len(sessions) < many:
                sessions.append(work.open(candidate))
                if len(sessions) == few:
                    at_few = candidate.memory_kib()
            time.sleep(0.2)
            values[candidate.name] = [(candidate.memory_kib() - at_few) / (many - few)]
        except Missing:
            pass  # has been said
        finally:
            for session in sessions:
                session.close()
            if candidate is not None:
                candidate.stop()
        common.wait_until(lambda: len(bench.server.backends()) <= before, 10, "sessions' end")
    if work.tls:
        del values["floor"]
    return row_of(work, "KiB", values, 1)


def measure_system_calls(bench, work):
    """System calls per transaction with one client, counted by strace."""
    if shutil.which("strace") is None:
        raise Missing("strace is not installed")
    work.prepare(bench.server, True)
    count = 500 if "pipeline" in work.name else 3000
    calls = {}
    for candidate in bench.proxies:
        calls[candidate.name] = {name: number / count for name, number
                                 in traced(candidate, lambda: work.run(candidate, count)).items()}
    values = {name: [sum(each.values())] for name, each in calls.items()}
    return row_of(work, "a transaction", values, calls=calls)


def traced(candidate, action):
    """The numbers of system calls while action() runs, by name."""
    output = common.scratch_dir("strace") / "calls"
    tracer = subprocess.Popen(["strace", "-c", "-f", "-o", str(output), "-p", str(candidate.pid)],
                              stderr=subprocess.PIPE, text=True)
    try:
        said = tracer.stderr.readline()
        if "attached" not in said:
            raise Missing(said.strip())
        action()
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
    lines = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", output.read_text(),
                       re.M)
    return {name: int(number) for number, name in lines if name != "total"}


def measure_share(bench, work):
    """The part of two workers' CPU that the busier one has spent."""
    work.prepare(bench.server, True)
    count = count_for(bench, work, bench.floor)
    candidate = Sluice(bench.server, bench.certificates, workers=2)

    def measure(candidate):
        before = candidate.thread_cpu_ns()
        work.run(candidate, count)
        spent = sorted(now - before.get(thread, 0)
                       for thread, now in candidate.thread_cpu_ns().items())
        return spent[-1] / (spent[-1] + spent[-2])

    try:
        return row_of(work, "of their CPU", in_rounds(bench, work, [candidate], measure))
    finally:
        candidate.stop()


def measure_pipes(bench, work):
    """The byte pipe of the other kind."""
    poll = FloorPoll(bench.server)
    try:
        return measure_cpu(bench, work, [bench.floor, poll])
    finally:
        poll.stop()
