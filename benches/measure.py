"""Runs contenders on the same data, in turn, and keeps the medians."""

import os
import statistics
import subprocess
import threading
import time
from pathlib import Path


# The program of an earlier build, for BENCH_BEFORE of bench.py.
BEFORE = os.environ.get("BENCH_BEFORE") and Path(os.environ["BENCH_BEFORE"]).resolve()


def run(command, env, cwd):
    """Wall and CPU seconds (children too) and peak memory of one command."""
    began = time.perf_counter()
    with open(Path(cwd) / "bench.log", "ab") as log:
        process = subprocess.Popen(
            list(map(str, command)), env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
    peak = Peak(process.pid)
    stdout = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    peaks = peak.end()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = (Path(cwd) / "bench.log").read_text(errors="replace").splitlines()[-20:]
        raise RuntimeError("\n".join([f"{command}: exit {process.returncode}", stdout.decode(errors="replace"), *tail]))
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime} | peaks


class Peak:
    """The highest resident memory (VmHWM) of a process and of each that it starts, read until it is gone.

    `ru_maxrss` would count what this Python had at the fork.
    """

    def __init__(self, pid):
        self.pid, self.bytes, self.gone = pid, {}, threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()

    def look(self):
        while not self.gone.is_set():
            todo = [self.pid]
            while todo:
                todo += self.look_at(todo.pop())
            self.gone.wait(0.02)

    def look_at(self, pid):
        """Reads one process; the ids of its children."""
        try:
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self.bytes[pid] = int(line.split()[1]) * 1024
            tasks = Path(f"/proc/{pid}/task").iterdir()
            return [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except OSError:
            return []

    def end(self):
        """Its own, and that of all together, as if each had been at its peak at once."""
        self.gone.set()
        self.thread.join()
        return {"peak_rss": self.bytes.get(self.pid, 0), "peak_rss_of_all": sum(self.bytes.values())}


# Who takes so many times as long as the fastest runs once: noise decides nothing there.
SLOW = 5


def race(contenders, rounds):
    """`contenders`: name -> (run, output size, clear away). Each round begins with another one."""
    measured = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        first = number % len(names)
        fastest = min((run["seconds"] for runs in measured.values() for run in runs), default=float("inf"))
        for name in names[first:] + names[:first]:
            if measured[name] and measured[name][0]["seconds"] > SLOW * fastest:
                continue
            start, stored, clear = contenders[name]
            os.sync()  # what others wrote is not this one's burden
            once = start()
            once["stored_bytes"] = stored()
            measured[name].append(once)
            clear()
    return {name: median(runs) | {"runs": runs} for name, runs in measured.items()}


def median(runs):
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def descendants(pid):
    """A process and everything below it."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
        except OSError:
            pass
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def footprint(pid):
    """Resident and proportional memory of a process tree, bytes."""
    total = {"rss": 0, "pss": 0}
    for each in descendants(pid):
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
            key = line.split(":")[0].lower()
            if key in total:
                total[key] += int(line.split()[1]) * 1024
    return total


def cpu_seconds(pid):
    """CPU time of a process tree so far."""
    ticks = 0
    for each in descendants(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
