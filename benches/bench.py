"""Side by side with what people would use instead, on the same data in the same run: `make bench`.

    python benches/bench.py PROGRAM [celery|media|postgres|restore|s3|weaviate ...]

BENCH_SCALE (1.0) scales the data, BENCH_ROUNDS (3) the repetitions; 0.01 and 1 make a smoke test. BENCH_BEFORE names the
program of an earlier build: backups and restores of media and PostgreSQL are then measured beside that build alone.
Writes target/bench/latest.json beside the tables.
"""

import json
import os
import platform
import shutil
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests/support")]

import broker  # noqa: E402
import bucket  # noqa: E402
import data  # noqa: E402
import measure  # noqa: E402
import restore  # noqa: E402
import vectors  # noqa: E402
from servers import PYTHONS, ROOT, Client, Postgres, Redis, Stage, Worker, wait_for  # noqa: E402

SCALE = float(os.environ.get("BENCH_SCALE", "1"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
OURS = "rna-backup, with proof"
WORKER = "rna-backup worker"


class Bench:
    def __init__(self, stage, program):
        self.stage, self.program = stage, Path(program).resolve()
        self.found = {"machine": machine(), "scale": SCALE, "rounds": ROUNDS, "races": {}, "celery": {}}
        self.root = stage.dir / "backups"

    def shell(self, command, env=None):
        bash = ["bash", "-o", "pipefail", "-c", command]
        return lambda: measure.run(bash, self.stage.env | (env or {}), self.stage.dir)

    def rival(self, command, env=None):
        """A command line that writes to `out` and is done when that is on the disk."""
        out = self.stage.dir / "out"
        return (self.shell(command, env), lambda: out.stat().st_size, out.unlink)

    def ours(self, component, env, program=None):
        env = self.stage.env | {"BACKUP_ROOT": str(self.root), "REDIS_URL": "", "BACKUP_METRICS_ADDR": ""} | env
        command = [program or self.program, "backup", component, "--json"]
        archives = lambda: sum(path.stat().st_size for path in self.root.glob(f"{component}/*"))  # noqa: E731
        return (lambda: measure.run(command, env, self.stage.dir), archives, lambda: shutil.rmtree(self.root))

    def builds(self, component, env):
        """Backups by this build and by the build before."""
        return {OURS: self.ours(component, env), "the build before": self.ours(component, env, measure.BEFORE)}

    def restic(self, folder):
        """restic as its manual begins: a repository, a backup. Restored and proven is nothing of it."""
        repository = self.stage.dir / "restic"
        env = {"RESTIC_REPOSITORY": str(repository), "RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(self.stage.dir / "cache")}
        size = lambda: sum(path.stat().st_size for path in repository.rglob("*") if path.is_file())  # noqa: E731
        backup = self.shell(f"restic backup -q {folder} && sync -f {repository}", env)
        return self.shell("restic init -q", env), backup, size, lambda: shutil.rmtree(repository)

    def unchanged(self, folder, sizes):
        """The same once more, with nothing changed: what a night costs."""
        env = self.stage.env | {"BACKUP_ROOT": str(self.root), "REDIS_URL": "", "BACKUP_METRICS_ADDR": "", "MEDIA_ROOT": str(folder)}
        ours = lambda: measure.run([self.program, "backup", "media", "--json"], env, self.stage.dir)  # noqa: E731
        time.sleep(0.2)  # a file that was just made might still change in the same tick of its clock
        first = ours()["seconds"]
        init, backup, size, clear = self.restic(folder)
        init()
        restic = backup()["seconds"]
        tar = f"tar -C {folder} --listed-incremental=seen -cf - . | zstd -q -3 -T2 >out && sync out"
        self.shell(f"tar -C {folder} --listed-incremental=first -cf /dev/null .")()
        stored = lambda: max(self.root.glob("media/*"), key=lambda path: path.name).stat().st_size  # noqa: E731
        out, keep = self.stage.dir / "out", lambda: None
        before = size()
        self.race(
            "media once more, unchanged",
            sum(sizes),
            len(sizes),
            {
                OURS: (ours, stored, keep),
                "restic backup": (backup, lambda: size() - before, keep),
                "tar --listed-incremental | zstd": (self.shell("cp first seen && " + tar), lambda: out.stat().st_size, out.unlink),
            },
        )
        again = self.found["races"]["media once more, unchanged"]["contenders"]
        for name, once in ((OURS, first), ("restic backup", restic)):
            print(f"  {name}: the first took {once:.2f} s, one more takes {again[name]['seconds'] / once:.3f} of that")
        clear()
        shutil.rmtree(self.root)

    def media(self, name, title, fill):
        folder = self.stage.dir / name
        fill(folder)
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        if measure.BEFORE:
            env = {"MEDIA_ROOT": str(folder), "BACKUP_MEDIA_FULL_EVERY": "0"}
            self.race(f"media: {title}", sum(sizes), len(sizes), self.builds("media", env))
            return shutil.rmtree(folder)
        init, backup, size, clear = self.restic(folder)
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
                "restic backup": (lambda: (init(), backup())[1], size, clear),
            },
        )
        if name == "mixed":
            self.unchanged(folder, sizes)
        shutil.rmtree(folder)

    def postgres(self):
        server = Postgres(self.stage)
        script = self.stage.dir / "bench.sql"
        script.write_text(data.DATABASE.format(rows=max(1000, int(1_210_000 * SCALE))))
        server.script(script)
        dump, env = f"{server.bin}/pg_dump -Fc ", server.env()
        raw = self.stage.run(["bash", "-c", dump + "-Z0 | wc -c"], env=env).stdout
        zstd = dump + "-Z0 | zstd -q -3 -T2 >out && sync out"
        title = f"PostgreSQL: {int(server.psql('select pg_database_size(current_database())').stdout) / 1e6:.0f} MB of database"
        if measure.BEFORE:
            return self.race(title, int(raw), None, self.builds("postgres", {"DATABASE_URL": server.url()}))
        self.race(
            title,
            int(raw),
            None,
            {
                OURS: self.ours("postgres", {"DATABASE_URL": server.url()}),
                "pg_dump -Fc -Z0 | zstd -3 -T2": self.rival(zstd, env),
                "the same, then proof": self.rival(zstd + f" && zstd -dc out | {server.bin}/pg_restore -f /dev/null", env),
                "pg_dump -Fc": self.rival(dump + ">out && sync out", env),
            },
        )

    def race(self, title, count_bytes, count_files, contenders, ours=OURS, of=" as uncompressed dump"):
        found = measure.race(contenders, ROUNDS)
        self.found["races"][title] = {"bytes": count_bytes, "files": count_files, "contenders": found}
        what = f"{count_bytes / 1e6:.0f} MB" + (f" in {count_files:,} files" if count_files else of)
        print(f"\n{title}: {what}")
        print(f"  {'':35} {'seconds':>8} {'MB/s':>7} {'CPU s':>7} {'stored MB':>10} {'peak MB':>8} {'own MB':>7}   time of ours = 1")
        for name, run in found.items():
            ratio = run["seconds"] / found[ours]["seconds"]
            print(
                f"  {name:35} {run['seconds']:8.2f} {count_bytes / 1e6 / run['seconds']:7.0f} {run['cpu_seconds']:7.2f}"
                f" {run['stored_bytes'] / 1e6:10.1f} {run['peak_rss_of_all'] / 1e6:8.0f} {own(name, run):>7}"
                f"   {'' if name == ours else f'{ratio:.2f} x'}",
                flush=True,
            )

    def celery(self):
        """celery.ping, by workers that run two tasks at once: how soon, how many, and at what cost."""
        found = self.latency()
        for name in found:
            found[name] |= self.throughput(name) | {"startup": statistics.median(self.startup(name) for _ in range(ROUNDS))}
        self.found["celery"] = found
        own = found[WORKER]
        print("\ncelery.ping, one by one: bare is from LPUSH to the published result, get from send_task to AsyncResult.get() of")
        print("Celery 5.3.6. Then results a second, and CPU for each, from a queue that was full before. Then idle, and from its start to a first result.")
        print(f"  {'':26} {'bare p50':>9} {'p99 ms':>8} {'get p50':>8} {'p99 ms':>8} {'per s':>7} {'CPU us':>7} {'RSS MB':>7} {'PSS MB':>7} {'CPU %':>6} {'start s':>8}")
        for name, run in found.items():
            print(
                f"  {name:26} {run['bare_p50']:9.2f} {run['bare_p99']:8.2f} {run['get_p50']:8.2f} {run['get_p99']:8.2f}"
                f" {run['per_second']:7.0f} {run['cpu_us']:7.0f} {run['rss'] / 1e6:7.1f} {run['pss'] / 1e6:7.1f}"
                f" {run['cpu_percent']:6.2f} {run['startup']:8.2f}",
                flush=True,
            )
        print(f"  Redis answers PING in {own['redis_p50']:.2f} ms, so ours adds {own['bare_p50'] - own['redis_p50']:.2f} ms (aim: less than 1).")
        for name, run in found.items():
            if name != WORKER:
                times, rss, pss = own["per_second"] / run["per_second"], run["rss"] / own["rss"], run["pss"] / own["pss"]
                print(f"  Beside {name}: {times:.1f} times the throughput (aim: 10), memory 1/{rss:.1f}, of PSS 1/{pss:.1f} (aim: 1/10).")

    def worker(self, name, redis, queue):
        """Starts one of the workers on a queue of its own; its process."""
        if name == WORKER:
            idle = self.stage.dir / "nothing"
            idle.mkdir(exist_ok=True)
            env = {"REDIS_URL": redis.url, "BACKUP_ROOT": str(self.root), "MEDIA_ROOT": str(idle), "BACKUP_QUEUES": queue}
            ours = Worker(self.stage, self.program, env)
            ours.start()
            return ours.process
        command = [PYTHONS[name.split()[1]], "-m", "celery", "-A", "python_worker", "worker", "-c", "2", "-Q", queue, "-n", queue]
        return self.stage.start(command, f"{queue}.log", env={"REDIS_URL": redis.url}, cwd=HERE)

    def latency(self):
        redis = Redis(self.stage)
        client = Client(self.stage, "5.3.6", redis.url)
        link, listener = broker.Link(redis), broker.Link(redis)
        queues = {WORKER: "ours"} | {f"celery {version} worker -c 2": f"python-{version}" for version in PYTHONS}
        pings = {name: broker.Ping(link, client, queue) for name, queue in queues.items()}
        processes = {name: self.worker(name, redis, queue) for name, queue in queues.items()}
        for queue in queues.values():
            client.ask(do="ping", count=20, queue=queue)  # the first waits until the worker is up
        bare, get, trips = {name: [] for name in queues}, {name: [] for name in queues}, []
        count = max(5, int(50 * min(SCALE, 1)))
        for _ in range(10):  # in turns, so that a noisy second is everybody's
            trips += broker.round_trips(link, count)
            for name, queue in queues.items():
                bare[name] += pings[name].latency(link, listener, count)
                get[name] += client.ask(do="ping", count=count, queue=queue)["milliseconds"]
        idle = self.idle({name: process.pid for name, process in processes.items()})
        self.stage.end(*processes.values(), client.process, redis.process)
        found = {}
        for name in queues:
            times = {"bare": bare[name], "get": get[name], "redis": trips}
            shares = {"p50": 0.5, "p99": 0.99}
            found[name] = idle[name] | {
                f"{what}_{p}": measure.percentile(values, share) for what, values in times.items() for p, share in shares.items()
            }
        return found

    def throughput(self, name):
        """One worker alone on a Redis of its own, from the first of many results to the last; publishing is no part of it."""
        redis = Redis(self.stage)
        client, link = Client(self.stage, "5.3.6", redis.url), broker.Link(redis)
        ping = broker.Ping(link, client, "full")
        ids = ping.prepare(link, max(500, int(20_000 * SCALE)))
        process = self.worker(name, redis, "full")
        client.ask(do="ping", count=20, queue="full")
        cpu = measure.cpu_seconds(process.pid)
        ids.append(ping.release(link))
        times = wait_for(f"{name} works off its queue", lambda: broker.ended(link, "full", ids), process, seconds=600)
        cpu = measure.cpu_seconds(process.pid) - cpu
        self.stage.end(process, client.process, redis.process)
        return {"count": len(ids), "per_second": (len(ids) - 1) / (times[-1] - times[0]), "cpu_us": cpu / len(ids) * 1e6}

    def startup(self, name):
        """From the start of a worker to the result of a task that waited in its queue, seconds."""
        redis = Redis(self.stage)
        client, link = Client(self.stage, "5.3.6", redis.url), broker.Link(redis)
        ping = broker.Ping(link, client, "early")
        own, text = ping.copy()
        link.call(["LPUSH", ping.queue, text])
        began = time.monotonic()
        process = self.worker(name, redis, "early")
        wait_for(f"{name} starts", lambda: link.call(["EXISTS", f"celery-task-meta-{own}"])[0], process)
        seconds = time.monotonic() - began
        self.stage.end(process, client.process, redis.process)
        return seconds

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


def own(name, run):
    """The peak of the program itself, of ours."""
    return f"{run['peak_rss'] / 1e6:.0f}" if name.startswith("rna-backup") else ""


def media(bench):
    bench.media("mixed", "two thirds images and PDFs, and small files", lambda at: data.mixed(at, int((1 << 30) * SCALE)))
    bench.media("small", "files of 4 KB", lambda at: data.small_files(at, int(100_000 * SCALE)))
    bench.media("packed", "images and PDFs alone", lambda at: data.incompressible(at, int(2e9 * SCALE)))
    bench.media("text", "text", lambda at: data.text_files(at, int(5e8 * SCALE)))


def restores(bench):
    restore.Restores(bench, SCALE, ROUNDS).run()


def buckets(bench):
    bucket.Buckets(bench, SCALE).run()


def weaviate(bench):
    vectors.Vectors(bench, SCALE).run()


PARTS = {"celery": Bench.celery, "media": media, "postgres": Bench.postgres, "restore": restores, "s3": buckets, "weaviate": weaviate}


def main():
    program, *parts = sys.argv[1:] or sys.exit(__doc__)
    parts = parts or list(PARTS)
    if not PARTS.keys() >= set(parts):
        sys.exit(__doc__)
    with Stage("rna-bench") as stage:
        bench = Bench(stage, program)
        about = bench.found["machine"]
        print(f"{about['cores']} cores ({about['cpu']}), {about['memory_gb']} GB; scale {SCALE}, median of {ROUNDS}, files cached.")
        print("Ours reads every archive back and compares its counts before it counts as a backup, and syncs file and folder.")
        print("The others only sync the file; 'the same, then proof' also reads it back, as we do.")
        for part in parts:
            PARTS[part](bench)
        bench.save()


if __name__ == "__main__":
    main()
