"""Restores: how long one takes, and how long the app is without its database. `bench.py PROGRAM restore`."""

import json
import shutil
import signal
import statistics
import subprocess
from pathlib import Path

import data
import measure
from servers import ROOT, Postgres

OURS = "rna-backup restore"
SESSIONS = 50

# The last thing that a restore fills: who can read it has his whole database again.
DASHBOARD = """
create materialized view analytics_daily as
    select asked_at::date as day, count(*) as queries from search_queryhistory group by 1;
"""
QUESTION = "select queries from analytics_daily limit 1"


class Restores:
    """Races of the part `restore`; `bench` is what runs and prints them."""

    def __init__(self, bench, scale, rounds):
        self.bench, self.stage, self.scale, self.rounds = bench, bench.stage, scale, rounds
        self.found = bench.found["restore"] = {}

    def run(self):
        print("\nOf restores, ours hashes the archive first, restores beside the live data, counts, compares, swaps, syncs and keeps")
        print("the old for undo; the others replace at once and compare nothing. PostgreSQL runs with fsync=off for all.")
        self.postgres()
        self.media("big", "big files, images and PDFs mostly", lambda at: data.big_mixed(at, int(1e9 * self.scale)))
        self.media("small", "files of 4 KB", lambda at: data.small_files(at, int(100_000 * self.scale)))
        shutil.rmtree(self.bench.root)

    def program(self, component, env, program=None):
        """Makes a backup; its archive, and how it is restored."""
        program = program or self.bench.program
        root = self.bench.root / ("now" if program == self.bench.program else "before")
        shutil.rmtree(root, ignore_errors=True)
        env = self.stage.env | {"BACKUP_ROOT": str(root), "REDIS_URL": "", "BACKUP_METRICS_ADDR": ""} | env
        measure.run([program, "backup", component, "--json"], env, self.stage.dir)
        (archive,) = root.glob(f"{component}/*")
        command = [program, "restore", component, "--yes", "--json"]
        return archive, lambda: measure.run(command, env, self.stage.dir)

    def builds(self, component, env):
        """Restores by this build and by the build before, each of a backup of its own."""
        return {OURS: self.program(component, env)[1], "the build before": self.program(component, env, measure.BEFORE)[1]}

    def let_in(self, server):
        """Sessions of a role that needs no password: to hash it takes a client 5 ms, and elsewhere not of our cores."""
        server.psql("create role app login; grant pg_read_all_data to app")
        path = Path(server.psql("show hba_file").stdout.strip())
        path.write_text("host all app 127.0.0.1/32 trust\n" + path.read_text())
        server.psql("select pg_reload_conf()")

    def postgres(self):
        self.server = server = Postgres(self.stage)
        self.let_in(server)
        script = self.stage.dir / "restore.sql"
        script.write_text(data.DATABASE.format(rows=max(1000, int(1_210_000 * self.scale))) + DASHBOARD)
        server.script(script)
        megabytes = int(server.psql("select pg_database_size(current_database())").stdout) / 1e6
        title = f"restore PostgreSQL: {megabytes:.0f} MB of database"
        if measure.BEFORE:
            return self.race(title, self.builds("postgres", {"DATABASE_URL": server.url()}), self.drop_kept)
        archive, ours = self.program("postgres", {"DATABASE_URL": server.url()})
        env, name = server.env("postgres"), server.database
        anew = f"PATH={server.bin}:$PATH; dropdb --force {name} && createdb {name} && "
        restore = f"PATH={server.bin}:$PATH; zstd -dc {archive} | pg_restore --exit-on-error -d {name}"
        shell = lambda command: self.bench.shell(command, env)  # noqa: E731
        contenders = {
            OURS: ours,
            "dropdb, createdb, pg_restore": shell(anew + restore),
            "the same by pg_restore -j2": shell(anew + f"zstd -qdf {archive} -o plain && pg_restore --exit-on-error -j2 -d {name} plain"),
            "pg_restore --clean, one step": shell(restore + " --clean --if-exists --single-transaction"),
        }
        self.race(title, contenders, self.drop_kept)
        cut = f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
        nothing = {"nothing but the connections cut": shell(f'{server.bin}/psql -qc "{cut}"')}
        self.outages(f"the app meanwhile: {SESSIONS} sessions", contenders | nothing)
        self.stage.end(server.process)

    def drop_kept(self):
        """The database that a restore of ours has set aside."""
        for name in self.server.psql("select datname from pg_database where datname like '%\\_before\\_%'", "postgres").stdout.split():
            self.server.psql(f'drop database "{name}"', "postgres")

    def media(self, name, title, fill):
        folder = self.stage.dir / name
        fill(folder)
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        title = f"restore media, {title}: {sum(sizes) / 1e6:.0f} MB in {len(sizes):,} files"
        if measure.BEFORE:
            self.race(title, self.builds("media", {"MEDIA_ROOT": str(folder)}), self.put_aside)
            return shutil.rmtree(folder)
        archive, ours = self.program("media", {"MEDIA_ROOT": str(folder)})
        self.stage.run(["/usr/bin/python3", "-c", f"import shutil; shutil.make_archive('old', 'gztar', {str(folder)!r})"])
        swap = f" && mv {folder} old && mv new {folder}"
        unpack = f"mkdir new && zstd -dc {archive} | tar -xp -C new"
        unpack_archive = f"""/usr/bin/python3 -c "import shutil; shutil.unpack_archive('old.tar.gz', 'new')" """
        contenders = {
            OURS: ours,
            "zstd -dc | tar -xp, sync": self.bench.shell(unpack + " && sync -f new" + swap),
            "the same, no sync": self.bench.shell(unpack + swap),
            "shutil.unpack_archive, no sync": self.bench.shell(unpack_archive + swap),
        }
        self.race(title, contenders, self.put_aside)
        shutil.rmtree(folder)
        (self.stage.dir / "old.tar.gz").unlink()

    def put_aside(self):
        """What the restore replaced, which is deleted at the end: for minutes ext4 steps over every inode that has
        just been freed, and whoever comes next would pay for that."""
        aside = self.stage.dir / "aside"
        aside.mkdir(exist_ok=True)
        for path in [self.stage.dir / "old", *self.stage.dir.glob(".*.rna-before-*")]:
            if path.exists():
                path.rename(aside / str(len(list(aside.iterdir()))))

    def race(self, title, contenders, clear):
        found = measure.race({name: (run, lambda: 0, clear) for name, run in contenders.items()}, self.rounds)
        self.found[title] = found
        print(f"\n{title}")
        print(f"  {'':31} {'seconds':>8} {'CPU s':>7} {'peak MB':>8}   time of ours = 1")
        for name, run in found.items():
            peak, ratio = f"{run['peak_rss'] / 1e6:8.0f}", f"{run['seconds'] / found[OURS]['seconds']:.2f} x"
            peak, ratio = (peak, "") if name == OURS else (" " * 8, ratio)
            print(f"  {name:31} {run['seconds']:8.2f} {run['cpu_seconds']:7.2f} {peak}   {ratio}", flush=True)

    def outages(self, title, contenders):
        """The worst and the median round of each, in turns."""
        rounds = {name: [] for name in contenders}
        for _ in range(self.rounds):
            for name, run in contenders.items():
                rounds[name].append(self.watched(run))
                self.drop_kept()
        self.found[title] = rounds
        print(f"\n{title}, each asks every 25 ms for what a restore fills last, and connects again at once")
        print(f"  {'milliseconds without an answer':31} {'worst':>9} {'median session':>15} {'failed queries':>15}")
        for name, runs in rounds.items():
            worst = max(run["longest"] for run in runs)
            middle, failed = (statistics.median(run[key] for run in runs) for key in ("median", "failed"))
            print(f"  {name:31} {worst * 1e3:9.0f} {middle * 1e3:15.0f} {failed:15.0f}", flush=True)

    def watched(self, run):
        """What sessions see while `run` restores their database."""
        command = ["/usr/bin/python3", ROOT / "benches/sessions.py", SESSIONS, QUESTION]
        sessions = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *map(str, command)],
            env=self.stage.env | self.server.env() | {"PGUSER": "app"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libpq tells of every connection that is lost
            text=True,
            start_new_session=True,
        )
        sessions.stop_signal = signal.SIGTERM
        self.stage.processes.append(sessions)
        sessions.stdout.readline()
        run()
        found = json.loads(sessions.communicate()[0])
        self.stage.end(sessions)
        return found
