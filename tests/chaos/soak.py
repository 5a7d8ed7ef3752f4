"""An hour of small backups with faults, and what becomes of one worker's memory: `make soak`.

    python tests/chaos/soak.py PROGRAM       SOAK_SECONDS=3600, CHAOS_SEED

Backs up each component in turn. Twice a minute a server is restarted or a line is cut, never the worker. Samples its
memory, file descriptors and threads, draws them into target/soak/soak.svg, and ends with 1 when one has grown over the
last half.
"""

import os
import re
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

import faults  # noqa: E402
from lab import COMPONENTS, Lab  # noqa: E402
from orders import BACKUPS, ENDED  # noqa: E402
from plot import draw, slope  # noqa: E402
from servers import ROOT, Stage, wait_for  # noqa: E402

FAULTS = [faults.kill_child, faults.crash_postgres, faults.kill_backend, faults.crash_redis, faults.crash_s3, faults.cut_line, faults.black_hole, faults.slow_line]
SAMPLE, BETWEEN, PATIENCE = 5, 30, 180  # seconds
# What is measured: its metric, its unit in one of the metric, and by how much it may grow in the last half, at rest.
SERIES = {
    "memory, MB": ("process_resident_memory_bytes", 1e-6, 4),
    "file descriptors": ("process_open_fds", 1, 4),
    "threads": ("process_threads", 1, 4),
}


class Soak:
    def __init__(self, lab, seconds):
        self.lab, self.seconds, self.began = lab, seconds, time.monotonic()
        self.samples, self.struck, self.tasks = {name: [] for name in SERIES}, [], {}
        self.over = threading.Event()

    def now(self):
        return time.monotonic() - self.began

    def run(self):
        """Task after task, each to its end, while faults and samples come by the clock."""
        sides = [threading.Thread(target=side) for side in (self.sample, self.strike)]
        for side in sides:
            side.start()
        try:
            while self.now() < self.seconds:
                self.back_up(COMPONENTS[sum(self.tasks.values()) % len(COMPONENTS)])
        finally:
            self.over.set()
            for side in sides:
                side.join()

    def back_up(self, component):
        with self.lab.quiet:  # Redis is there while a task is sent
            client = self.lab.client()
            id = client.delay(BACKUPS[component])
            self.lab.stage.end(client.process)
        wait_for("a task to end", lambda: self.state(id) in ENDED, seconds=PATIENCE)
        state = self.state(id)
        self.tasks[state] = self.tasks.get(state, 0) + 1

    def state(self, id):
        with self.lab.quiet:  # and while it is asked
            return self.lab.results([id]).get(id, {}).get("status")

    def strike(self):
        while not self.over.wait(BETWEEN):
            with self.lab.quiet:
                self.struck.append(self.now())
                heal = self.lab.chance.choice(FAULTS)(self.lab)
                if heal:
                    self.over.wait(2)
                    heal()

    def sample(self):
        while not self.over.wait(SAMPLE):
            text = self.lab.workers[0].http("/metrics")
            for name, (metric, unit, _) in SERIES.items() if text else ():
                value = float(re.search(rf"^{metric} (\S+)", text, re.MULTILINE)[1])
                self.samples[name].append((self.now(), value * unit))

    def grown(self):
        """What has grown; how much is printed of all."""
        for name, (_, _, bound) in SERIES.items():
            points = self.samples[name]
            half = points[len(points) // 2 :]
            growth, values = slope(at_rest(half)) * (half[-1][0] - half[0][0]), [value for _, value in points]
            print(f"{name}: {min(values):.1f} to {max(values):.1f}, at rest {growth:+.2f} in the last half (may be +{bound})")
            if growth > bound:
                yield name


def at_rest(points):
    """The least of each minute: what is left when the work of the moment is put aside."""
    minutes = {}
    for at, value in points:
        minutes.setdefault(at // 60, []).append((value, at))
    return [(at, value) for value, at in map(min, minutes.values())]


def main():
    program = sys.argv[1] if len(sys.argv) == 2 else sys.exit(__doc__)
    seconds, seed = float(os.environ.get("SOAK_SECONDS", "3600")), int(os.environ.get("CHAOS_SEED") or time.time_ns() % 1_000_000)
    with Stage("rna-soak") as stage:
        lab = Lab(stage, Path(program).resolve(), seed, {"near": ("one",)})
        try:
            lab.start_workers()
            soak = Soak(lab, seconds)
            soak.run()
        finally:
            lab.close()
    told = ", ".join(f"{count} {state}" for state, count in soak.tasks.items())
    print(f"{told}; {len(soak.struck)} faults in {soak.now():.0f} s")
    grown = list(soak.grown())
    picture = ROOT / "target/soak/soak.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    title = f"One worker, {sum(soak.tasks.values())} backups, {len(soak.struck)} faults in {soak.now() / 60:.0f} minutes"
    picture.write_text(draw(title, soak.samples, soak.struck))
    print(picture)
    sys.exit(f"grown: {', '.join(grown)}" if grown else 0)


if __name__ == "__main__":
    main()
