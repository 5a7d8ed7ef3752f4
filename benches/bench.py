"""Side by side with what people would use instead, on the same data in the same run: `make bench`.

    python benches/bench.py PROGRAM

BENCH_SCALE (1.0) scales the data, BENCH_ROUNDS (3) the repetitions; 0.01 and 1 make a smoke test.
Writes target/bench/latest.json beside the tables.
"""

import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests/support")]

import data  # noqa: E402
import measure  # noqa: E402
from servers import PYTHONS, ROOT, Client, Postgres, Redis, Stage, Worker  # noqa: E402

SCALE = float(os.environ.get("BENCH_SCALE", "1"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
OURS = "rna-backup, with proof"


class Bench:
    def __init__(self, stage, program):
        self.stage, self.program = stage, Path(program).resolve()
        self.found = {"machine": machine(), "scale": SCALE, "rounds": ROUNDS, "races": {}, "latency": {}}
        self.root = stage.dir / "backups"

    def shell(self, command, env=None):
        bash = ["bash", "-o", "pipefail", "-c", command]
        return lambda: measure.run(bash, self.stage.env | (env or {}), self.stage.dir)

    def rival(self, command, env=None):
        """A command line that writes to `out` and is done when that is on the disk."""
        out = self.stage.dir / "out"
        return (self.shell(command, env), lambda: out.stat().st_size, out.unlink)

    def ours(self, component, env):
        env = self.stage.env | {"BACKUP_ROOT": str(self.root), "REDIS_URL": "", "BACKUP_METRICS_ADDR": ""} | env
        command = [self.program, "backup", component, "--json"]
        archives = lambda: sum(path.stat().st_size for path in self.root.glob(f"{component}/*"))  # noqa: E731
        return (lambda: measure.run(command, env, self.stage.dir), archives, lambda: shutil.rmtree(self.root))

    def media(self, name, title, fill):
        folder = self.stage.dir / name
        fill(folder)
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        packed = f"tar -C {folder} -cf - . "
        gztar = f"import shutil; shutil.make_archive('out', 'gztar', {str(folder)!r})"
        self.race(
            f"media: {title}",
            sum(sizes),
            len(sizes),
            {
                OURS: self.ours("media", {"MEDIA_ROOT": str(folder), "BACKUP_MEDIA_FULL_EVERY": "0"}),
                "tar | zstd -3 -T2": self.rival(packed + "| zstd -q -3 -T2 >out && sync out"),
                "the same, then proof": self.rival(packed + "| zstd -q -3 -T2 >out && sync out && zstd -dc out | tar -t >/dev/null"),
                "tar | pigz": self.rival(packed + "| pigz >out && sync out"),
                "shutil.make_archive": self.rival(f'/usr/bin/python3 -c "{gztar}" && mv out.tar.gz out && sync out'),
            },
        )
        shutil.rmtree(folder)

    def postgres(self):
        server = Postgres(self.stage)
        script = self.stage.dir / "bench.sql"
        script.write_text(data.DATABASE.format(rows=max(1000, int(1_210_000 * SCALE))))
        server.script(script)
        dump, env = f"{server.bin}/pg_dump -Fc ", server.env()
        raw = self.stage.run(["bash", "-c", dump + "-Z0 | wc -c"], env=env).stdout
        zstd = dump + "-Z0 | zstd -q -3 -T2 >out && sync out"
        self.race(
            f"PostgreSQL: {int(server.psql('select pg_database_size(current_database())').stdout) / 1e6:.0f} MB of database",
            int(raw),
            None,
            {
                OURS: self.ours("postgres", {"DATABASE_URL": server.url()}),
                "pg_dump -Fc -Z0 | zstd -3 -T2": self.rival(zstd, env),
                "the same, then proof": self.rival(zstd + f" && zstd -dc out | {server.bin}/pg_restore -f /dev/null", env),
                "pg_dump -Fc": self.rival(dump + ">out && sync out", env),
            },
        )

    def race(self, title, count_bytes, count_files, contenders):
        found = measure.race(contenders, ROUNDS)
        self.found["races"][title] = {"bytes": count_bytes, "files": count_files, "contenders": found}
        what = f"{count_bytes / 1e6:.0f} MB" + (f" in {count_files:,} files" if count_files else " as uncompressed dump")
        print(f"\n{title}: {what}")
        print(f"  {'':31} {'seconds':>8} {'MB/s':>7} {'CPU s':>7} {'stored MB':>10} {'peak MB':>8}   time of ours = 1")
        for name, run in found.items():
            ratio = run["seconds"] / found[OURS]["seconds"]
            print(
                f"  {name:31} {run['seconds']:8.2f} {count_bytes / 1e6 / run['seconds']:7.0f} {run['cpu_seconds']:7.2f}"
                f" {run['stored_bytes'] / 1e6:10.1f} {run['peak_rss'] / 1e6 if name == OURS else float('nan'):8.0f}"
                f"   {'' if name == OURS else f'{ratio:.2f} x'}".replace("nan", "   "),
                flush=True,
            )

    def latency(self):
        """celery.ping from publishing to the result in hand, by one client, each worker on a queue of its own."""
        redis = Redis(self.stage)
        idle = self.stage.dir / "nothing"
        idle.mkdir()
        env = {"REDIS_URL": redis.url, "BACKUP_ROOT": str(self.root), "MEDIA_ROOT": str(idle)}
        ours = Worker(self.stage, self.program, env | {"BACKUP_QUEUES": "ours"})
        ours.start()
        workers = {"rna-backup worker": ("ours", ours.process.pid)}
        for version, python in PYTHONS.items():
            queue = f"python-{version}"
            command = [python, "-m", "celery", "-A", "python_worker", "worker", "-c", "2", "-Q", queue, "-n", queue]
            process = self.stage.start(command, f"{queue}.log", env={"REDIS_URL": redis.url}, cwd=HERE)
            workers[f"celery {version} worker -c 2"] = (queue, process.pid)
        client = Client(self.stage, "5.3.6", redis.url)
        for queue, _ in workers.values():
            client.ask(do="ping", count=20, queue=queue)  # the first waits until the worker is up
        measured = {name: [] for name in workers}
        for _ in range(10):  # in turns, so that a noisy second is everybody's
            for name, (queue, _) in workers.items():
                measured[name] += client.ask(do="ping", count=max(5, int(50 * min(SCALE, 1))), queue=queue)["milliseconds"]
        idle = self.idle({name: pid for name, (_, pid) in workers.items()})
        print("\ncelery.ping, from publishing to AsyncResult.get(), client celery 5.3.6; then idle")
        print(f"  {'':31} {'p50 ms':>8} {'p99 ms':>8} {'RSS MB':>8} {'PSS MB':>8} {'CPU %':>7}")
        for name, values in measured.items():
            found = {"p50": measure.percentile(values, 0.5), "p99": measure.percentile(values, 0.99), "count": len(values)}
            found |= idle[name]
            self.found["latency"][name] = found
            print(
                f"  {name:31} {found['p50']:8.2f} {found['p99']:8.2f} {found['rss'] / 1e6:8.1f}"
                f" {found['pss'] / 1e6:8.1f} {found['cpu_percent']:7.2f}",
                flush=True,
            )

    def idle(self, pids):
        seconds = max(2, 20 * min(SCALE, 1))
        before = {name: measure.cpu_seconds(pid) for name, pid in pids.items()}
        time.sleep(seconds)
        return {
            name: measure.footprint(pid) | {"cpu_percent": (measure.cpu_seconds(pid) - before[name]) / seconds * 100}
            for name, pid in pids.items()
        }

    def save(self):
        folder = ROOT / "target/bench"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "latest.json").write_text(json.dumps(self.found, indent=1))
        print(f"\nEverything measured: {(folder / 'latest.json').relative_to(ROOT)}")


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": model, "cores": os.cpu_count(), "memory_gb": round(memory / 1e9), "kernel": platform.release()}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with Stage("rna-bench") as stage:
        bench = Bench(stage, sys.argv[1])
        about = bench.found["machine"]
        print(f"{about['cores']} cores ({about['cpu']}), {about['memory_gb']} GB; scale {SCALE}, median of {ROUNDS}, files cached.")
        print("Ours reads every archive back and compares its counts before it counts as a backup, and syncs file and folder.")
        print("The others only sync the file; 'the same, then proof' also reads it back, as we do.")
        bench.latency()
        bench.media("big", "big files, images and PDFs mostly", lambda at: data.big_mixed(at, int(1e9 * SCALE)))
        bench.media("small", "files of 4 KB", lambda at: data.small_files(at, int(100_000 * SCALE)))
        bench.media("text", "text", lambda at: data.text_files(at, int(5e8 * SCALE)))
        bench.postgres()
        bench.save()


if __name__ == "__main__":
    main()
