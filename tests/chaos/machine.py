"""A machine of the lab: a folder for backups, lines and a clock of its own, and workers."""

import json
import os
import subprocess
from pathlib import Path
from urllib.parse import quote

from line import Line
from servers import Worker, stop, wait_for

DISK = 96  # MB of room for backups, where we may mount such a disk
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


class Machine:
    """`names` are those of its workers; an odd one has the machine's clock, which may jump."""

    def __init__(self, lab, name, names):
        self.lab, self.stage, self.name = lab, lab.stage, name
        self.lines = {"redis": Line(lab.redis.port), "postgres": Line(lab.postgres.port), "s3": Line(lab.bucket.port)}
        self.root, self.clock = lab.stage.dir / f"backups-{name}", lab.stage.dir / f"clock-{name}"
        self.clock.write_text("+0")
        self.root.mkdir()
        self.is_small_disk = self.mount()
        here = {"BACKUP_ROOT": str(self.root)}
        # Commands by hand have good lines to the servers.
        self.direct = lab.settings | here | {"BACKUP_METRICS_ADDR": "", "RUST_LOG": "error"}
        self.env = lab.settings | here | self.far()
        self.workers = [self.worker(worker, self.odd() if worker.startswith("odd") else {}) for worker in names]

    def far(self):
        """The servers by way of lines that may break."""
        redis, postgres = self.lab.redis, self.lab.postgres
        return {
            "AWS_S3_ENDPOINT": f"http://127.0.0.1:{self.lines['s3'].port}",
            "REDIS_URL": f"redis://:{quote(redis.password, safe='')}@127.0.0.1:{self.lines['redis'].port}/0",
            "DATABASE_URL": postgres.url().replace(f":{postgres.port}/", f":{self.lines['postgres'].port}/"),
        }

    def odd(self):
        """A clock that jumps, where faketime is there."""
        odd = {"FAKETIME_TIMESTAMP_FILE": str(self.clock), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        return odd | {"LD_PRELOAD": FAKETIME} if Path(FAKETIME).exists() else {}

    def worker(self, name, extra):
        return Worker(self.stage, self.lab.program, self.env | {"BACKUP_WORKER_NAME": f"backup@{name}"} | extra)

    def mount(self):
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "chaos", self.root], capture_output=True)
        return mounted.returncode == 0

    def close(self):
        for worker in self.workers:
            if worker.process:
                stop(worker.process)
        if self.is_small_disk:
            subprocess.run(["umount", "-l", self.root], check=True)

    def start(self):
        """Starts the workers that do not run."""
        for worker in self.workers:
            if not is_up(worker):
                worker.process = self.stage.start([self.lab.program, "worker"], worker.env["BACKUP_WORKER_NAME"] + ".log", env=worker.env)

    def ready(self):
        for worker in self.workers:
            wait_for("a worker to be ready", worker.ready, worker.process, seconds=120)

    def die(self):
        """SIGKILL to its workers alone: their children are orphans. Whether there was one to kill."""
        return any([kill(worker) for worker in self.workers])

    def clear_lines(self, loses=False):
        """Lets its lines pass on again whatever comes. What is still on its way arrives, or is lost."""
        for line in self.lines.values():
            if loses:
                line.cut()
            line.mode = "clear"

    def put_clock(self, seconds):
        new = self.clock.with_suffix(".new")
        new.write_text(f"{seconds:+}")
        os.replace(new, self.clock)

    def command(self, *arguments, check=True):
        """Runs a command of rna-backup over connections without faults."""
        return self.stage.run([self.lab.program, *arguments, "--json"], env=self.direct | {"REDIS_URL": self.lab.redis.url}, check=check)

    def by_hand(self, *arguments):
        """Starts a command of rna-backup over connections without faults, and without the locks of the fleet."""
        return self.stage.start([self.lab.program, *arguments], f"by-hand-{self.name}.log", env=self.direct | {"RUST_LOG": "info"})

    def json(self, *arguments):
        done = self.command(*arguments, check=False)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise AssertionError(f"{arguments} on {self.name}: exit {done.returncode}: {done.stderr[-2000:]}") from None

    def manifests(self):
        return [json.loads(path.read_text()) for path in self.root.glob("manifests/*/*.json")]

    def state_of_weaviate(self):
        """The machine's folder for the state of restores into Weaviate."""
        return self.root / ".weaviate" / self.lab.weaviate.url.removeprefix("http://")

    def journal_of_weaviate(self):
        journal = self.state_of_weaviate() / "journal.json"
        return json.loads(journal.read_text()) if journal.exists() else {}

    def children(self):
        """The processes that the machine's workers have started: pg_dump, pg_restore."""
        found = []
        for worker in filter(is_up, self.workers):
            for task in Path(f"/proc/{worker.process.pid}/task").glob("*/children"):
                try:
                    found += [int(child) for child in task.read_text().split()]
                except OSError:
                    pass
        return found


def is_up(worker):
    return worker.process is not None and worker.process.poll() is None


def kill(worker):
    """SIGKILL; whether there was one to kill."""
    if not is_up(worker):
        return False
    worker.process.kill()
    worker.process.wait()
    return True
