"""The whole job, for real, on this machine: `make demo`.

    python tests/demo/demo.py PROGRAM

Starts private servers and the worker PROGRAM, sends it what the lab's app would send, kills it, opens what it wrote
with plain tools, wrecks the lab, restores it, and compares. Ends with a list of what that proved; exit status 1 when a claim does not hold.
Leaves nothing running and no files; with KEEP in the environment only after Ctrl-C, and until then with the web app to look at.
"""

import json
import os
import re
import secrets
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

import lab  # noqa: E402
import proof  # noqa: E402
from accident import Accident  # noqa: E402
from beat import Beat  # noqa: E402
from report import Report, size, unless  # noqa: E402
from servers import Client, Failed, Postgres, Redis, Stage, Weaviate, Worker, wait_for  # noqa: E402
from web import Web  # noqa: E402

TASKS = "api.backup.tasks."
MEDIA_MB = 160


class Demo:
    def __init__(self, stage, program):
        self.stage, self.report = stage, Report()
        self.root, self.media = stage.dir / "backups", stage.dir / "media"
        self.report.chapter("A lab: PostgreSQL with its database, Weaviate, a media folder, Redis")
        self.redis = Redis(stage)
        self.postgres = Postgres(stage)
        self.postgres.script(HERE / "lab.sql")
        lab.fill_media(self.media, MEDIA_MB)
        self.weaviate = Weaviate(stage)
        lab.fill_vectors(self.weaviate)
        settings = {
            "REDIS_URL": self.redis.url,
            "DATABASE_URL": self.postgres.url(),
            "MEDIA_ROOT": self.media,
            "BACKUP_ROOT": self.root,
            "BACKUP_MEDIA_FULL_EVERY": "0",  # so that retention may take each by itself
            "BACKUP_RETENTION_DAYS": "7",
            "AWS_BACKUP_BUCKET": "",
            "WEAVIATE_URL": self.weaviate.url,
            "BACKUP_WEAVIATE_DIR": self.weaviate.folder,
        }
        self.worker = Worker(stage, program, {name: str(value) for name, value in settings.items()})
        self.results = self.redis.record_results()
        self.expected = {
            "media": proof.tree(self.media),
            "postgres": proof.database(self.postgres, "rna_db"),
            "weaviate": proof.vectors(self.weaviate),
        }

    def manifests(self, component=None):
        """Every manifest on disk: what exists."""
        found = sorted(self.root.glob(f"manifests/{component or '*'}/*.json"))
        return [json.loads(path.read_text()) for path in found]

    def newest(self, component):
        return max(self.manifests(component), key=lambda manifest: manifest["created_at"])

    def archive(self, manifest):
        return self.root / manifest["objects"][0]["key"]

    def show_lab(self):
        say, tables = self.report.say, [k for k in self.expected["postgres"] if k.startswith(("public.", "Lab Notes."))]
        rows = sum(int(self.expected["postgres"][table][0]) for table in tables if len(self.expected["postgres"][table]) == 2)
        version = self.postgres.psql("show server_version").stdout.split()[0]
        say(f"PostgreSQL {version}: {rows:,} rows, a large object, partitions, generated columns, NaN, infinity, 'Lab Notes'.\"Select\"")
        say(f"media: {len(self.expected['media']):,} entries, {MEDIA_MB} MB; links, empty folders, names no shell likes, a socket")
        objects = ", ".join(f"{found['count']} of {name}" for name, found in self.expected["weaviate"].items())
        say(f"Weaviate {self.weaviate.ask('GET', '/v1/meta')['version']}: {objects}; references, tenants")
        say("the worker's environment, as in the app's .env:")
        for name, value in self.worker.env.items():
            for secret in (self.redis.url, self.postgres.url()):
                value = value.replace(secret, secret.split("//")[0] + "//…@" + secret.rsplit("@", 1)[-1])
            self.report.output(f"{name}={value}")

    def old_backups(self):
        self.report.chapter("Backups of the last month, made with the clock set back (faketime)")
        for days, what in ((30, "all"), (20, "media --pin --label thesis"), (19, "all"), (8, "all")):
            self.report.shell(f"faketime -f -{days}d rna-backup backup {what}")
            # Each run would delete the one before; and file times are not to be faked.
            env = {"BACKUP_RETENTION_DAYS": "60", "NO_FAKE_STAT": "1"}
            faked = ["faketime", "-f", f"-{days}d"]
            self.worker.command("backup", *what.split(), "--json", prefix=faked, env=env)
        made = self.manifests()
        self.pinned_backup = [manifest["backup_id"] for manifest in made if manifest["pinned"]]
        self.old = {manifest["backup_id"] for manifest in made} - set(self.pinned_backup)
        self.stranger = self.root / "media" / "media_backup_20200101_notes.txt"
        self.stranger.write_text("not a backup of ours")
        os.utime(self.stranger, (1_577_836_800, 1_577_836_800))
        self.report.prove("the command line makes backups without a broker", unless(len(made) == 10, f"{len(made)} backups, not 10"))

    def start_worker(self):
        self.report.chapter("The worker")
        self.report.shell("rna-backup worker")
        began = time.monotonic()
        self.worker.start()
        self.report.say(f"/readyz answers 200 after {time.monotonic() - began:.2f} s")

    def beat(self):
        self.report.chapter("Celery Beat 5.3.6 with the app's own schedule, one night in half a minute")
        self.report.say("The schedule and celery beat are untouched; libfaketime makes its clock run 720 times as fast.")
        self.report.shell("faketime -f '@2026-11-22 00:15:00 x720' celery -A rna_backend beat")
        sent = Beat(self.stage, self.redis.url).run_until("daily-media-backup", self.report.say)
        names = ["weekly-full-backup", "daily-postgres-backup", "daily-weaviate-backup", "daily-media-backup"]
        self.report.prove("Beat sent the app's four entries", unless(sorted(sent) == sorted(names), f"sent: {sorted(sent)}"))
        got = {name: self.pinned.get(sent[name]) for name in names}
        for name in names:
            self.report.say(f"AsyncResult of {name}: {short(got[name])}")
        problems = failures([got[f"daily-{component}-backup"] for component in ("postgres", "weaviate", "media")])
        problems += self.full_problems(got["weekly-full-backup"], self.pinned)
        self.report.prove("what Beat ordered was done: PostgreSQL, Weaviate, media, and the full backup with all three", problems)

    def full_problems(self, full, client):
        """What is wrong with a full backup and with the tasks that it dispatched."""
        ordered = sorted(((full.get("value") or {}).get("task_ids") or {}).values())
        children = [client.get(child) for child in full["children"]]
        for child in children:
            self.report.say(f"its child {child['id'][:8]}…: {short(child)}")
        same = len(ordered) == 3 and ordered == sorted(full["children"])
        problems = unless(same, f"task_ids {ordered}, children {full['children']}")
        return failures([full, *children]) + problems

    def delays(self):
        self.report.chapter(f".delay() from celery {self.pinned.celery} and {self.newest_client.celery}")
        foreign = self.pinned.ask(do="send", task="api.search.tasks.reindex", options={"queue": "backups"})["id"]
        self.report.say("somebody routed api.search.tasks.reindex, not ours, to our queue: the next tasks must pass it")
        problems = []
        for client, task in ((self.pinned, "backup_media_files"), (self.newest_client, "backup_postgres_database")):
            self.report.shell(f"{task}.delay(label='from celery {client.celery}')")
            task_id = client.delay(TASKS + task, label=f"from celery {client.celery}")
            states = self.watch(client, task_id)
            got = client.get(task_id)
            self.report.say(f"AsyncResult.get() = {short(got)}")
            problems += failures([got]) + unless(states[-1] == "SUCCESS", f"{task}: states {states}")
            problems += unless((got.get("value") or {}).get("verified") is not None, "the result does not say `verified`")
        self.report.prove("both versions of Celery send tasks and read results, states and all", problems)
        self.report.shell("run_full_backup.delay(label='before the upgrade')")
        full = self.newest_client.get(self.newest_client.delay(TASKS + "run_full_backup", label="before the upgrade"))
        self.report.say(f"AsyncResult.get() = {short(full)}")
        problems = self.full_problems(full, self.newest_client)
        sets = {manifest["set_id"] for manifest in self.manifests() if manifest["label"] == "before the upgrade"}
        problems += unless(sets == {(full.get("value") or {}).get("set_id")}, f"set ids {sets}")
        self.report.prove("run_full_backup.delay() makes one set, and has its tasks as children", problems)
        pong = self.newest_client.ask(do="ping", count=20)["milliseconds"]
        self.report.say(f"celery.ping, publish to result: median {sorted(pong)[10]:.1f} ms of 20")
        left = self.redis.cli("lrange", "backups", "0", "-1").stdout
        self.report.prove("a task that is not ours stayed in the queue for its owner", unless(foreign in left, "it is gone"))

    def watch(self, client, task_id):
        states, began = [], time.monotonic()
        for line in client.each(do="watch", id=task_id, timeout=120):
            states.append(line["state"])
            meta = line["meta"] if line["state"] == "PROGRESS" else {}
            detail = f"{meta['percent']:5.1f} %  {meta['description']}  {size(meta['bytes'])}" if meta else ""
            self.report.progress(f"{time.monotonic() - began:6.2f} s  {line['state']:9} {detail}")
        self.report.progress_end()
        return states

    def retention(self):
        self.report.chapter("Retention: 7 days, never the newest verified, never what is not ours")
        left = {manifest["backup_id"] for manifest in self.manifests()}
        archives = [path for path in self.root.glob("*/*_backup_*.zst") if path.name.split(".")[0] in self.old]
        self.report.say(f"the backups of 30, 19 and 8 days ago: {len(self.old & left)} of {len(self.old)} are left since last night")
        problems = [f"{name} is still there" for name in self.old & left] + [f"{path} is still there" for path in archives]
        self.report.prove("after a verified success, backups past their time were deleted", problems)
        self.report.shell("cleanup_old_backups.delay(retention_days=0, dry_run=True)")
        before = self.manifests()
        plan = self.pinned.get(self.pinned.delay(TASKS + "cleanup_old_backups", retention_days=0, dry_run=True))
        self.report.say(f"AsyncResult.get() = {short(plan)}")
        self.report.prove("a dry run deletes nothing", failures([plan]) + unless(self.manifests() == before, "the catalogue changed"))
        stay = sorted([self.newest(component)["backup_id"] for component in ("media", "postgres", "weaviate")] + self.pinned_backup)
        self.report.shell("cleanup_old_backups.delay(retention_days=0)")
        done = self.pinned.get(self.pinned.delay(TASKS + "cleanup_old_backups", retention_days=0))
        self.report.say(f"AsyncResult.get() = {short(done)}")
        left = sorted(manifest["backup_id"] for manifest in self.manifests())
        problems = failures([done]) + unless(left == stay, f"left: {left}, to stay: {stay}")
        problems += unless(self.stranger.exists(), f"{self.stranger.name} is gone")
        self.report.prove("retention of 0 days leaves the newest verified of each, the pinned one, and a file it does not know", problems)

    def kill(self):
        self.report.chapter("kill -9 in the middle of a backup")
        partial = self.root / ".partial"
        for attempt in range(5):
            task_id = self.pinned.delay(TASKS + "backup_media_files", label="killed")
            writing = lambda: any(path.stat().st_size > 0 for path in files(partial)) or self.result_count(task_id)  # noqa: E731
            wait_for("begin the backup", writing, seconds=30)
            if not self.result_count(task_id):
                break
        else:
            raise Failed("every backup was faster than kill -9")
        self.worker.process.send_signal(signal.SIGKILL)
        self.worker.process.wait()
        torn = [size(path.stat().st_size) for path in files(partial)]
        self.report.shell(f"kill -9 {self.worker.process.pid}")
        self.report.say(f"the worker is dead; in .partial/: {', '.join(torn)}")
        made = [manifest for manifest in self.manifests() if manifest["task_id"] == task_id]
        self.report.prove("a torn backup is no backup", unless(not made, "it has a manifest"))
        began = time.monotonic()
        self.worker.start()
        got = self.pinned.get(task_id, timeout=60)
        self.report.say(f"restarted; {time.monotonic() - began:.1f} s later: {short(got)}")
        made = [manifest for manifest in self.manifests() if manifest["task_id"] == task_id]
        problems = failures([got]) + unless(len(made) == 1, f"{len(made)} backups of this task")
        problems += [f"left over: {path.name}" for path in files(partial)]
        self.report.prove("the killed task still ended in SUCCESS, once, with nothing left over", problems)

    def result_count(self, task_id):
        """How often a final result of the task was published."""
        return final_results(self.results.read_text())[task_id]

    def commands(self):
        self.report.chapter("What the person on call sees")
        for arguments in (["list"], ["show", self.newest("postgres")["backup_id"]], ["check"], ["healthcheck"]):
            self.report.shell("rna-backup " + " ".join(arguments))
            self.report.output(self.worker.command(*arguments).stdout, lines=24)
        listed = json.loads(self.worker.command("list", "--json").stdout)["backups"]
        same = sorted(entry["backup_id"] for entry in listed) == sorted(m["backup_id"] for m in self.manifests())
        self.report.shell(f"curl http://{self.worker.metrics}/metrics")
        metrics = self.worker.http("/metrics") or ""
        wanted = ("last_success_timestamp", "last_status", "runs_total", "catalog_backups", "tasks_total", "broker_connected")
        shown = [line for line in metrics.splitlines() if line.startswith(tuple(f"rna_backup_{name}" for name in wanted))]
        self.report.output("\n".join(line for line in shown if not line.endswith(" 0")))
        missing = [f"no metric {name}" for name in wanted if not any(name in line for line in shown)]
        self.report.prove("list, /metrics and the files agree on what exists", unless(same, "they differ") + missing)

    def open_archives(self):
        self.report.chapter("The archives, opened without any tool of ours")
        media, dump = self.archive(self.newest("media")), self.archive(self.newest("postgres"))
        out, plain = self.stage.dir / "unpacked", self.stage.dir / "restored.dump"
        out.mkdir()
        self.shell(f"zstd -t {media.name} {dump.name}", f"zstd -q -t {media} {dump}")
        self.shell(f"zstd -dc {media.name} | tar -xp -C unpacked", f"zstd -dc {media} | tar -xp -C {out}")
        problems = list(proof.differences(self.expected["media"], proof.tree(out)))
        shutil.rmtree(out)
        self.report.prove("tar gives back every file, link, folder, mode, time and owner", problems)
        self.shell(f"zstd -d {dump.name}", f"zstd -q -d {dump} -o {plain}")
        env, restore = self.postgres.env("fresh"), self.postgres.bin / "pg_restore"
        toc = self.shell("pg_restore -l …", f"{restore} -l {plain}").splitlines()
        self.report.say(f"{sum(1 for line in toc if not line.startswith(';'))} entries in its table of contents")
        self.postgres.psql("create database fresh", "postgres")
        self.shell("createdb fresh && pg_restore --exit-on-error -d fresh …", f"{restore} --exit-on-error -d fresh {plain}", env)
        found = proof.database(self.postgres, "fresh")
        problems = list(proof.differences(self.expected["postgres"], found))
        counted = {f"{t['schema']}.{t['table']}": str(t["rows"]) for t in self.newest("postgres")["facts"]["counts"]["tables"]}
        problems += [f"the manifest says {rows} rows in {table}" for table, rows in counted.items() if found[table][0] != rows]
        self.report.prove("pg_restore gives back every row, as many as the manifest says, sequences, a large object and the schema", problems)

    def drill(self):
        self.report.chapter("A drill: database and media restored for real, beside the live data, compared and thrown away")
        self.report.shell("verify_backup.delay('all', drill=True)")
        databases = "select datname from pg_database order by 1"
        before = self.postgres.psql(databases).stdout
        got = self.pinned.get(self.pinned.delay(TASKS + "verify_backup", component="all", drill=True))
        problems = failures([got])
        for result in (got.get("value") or {}).get("results", []):
            self.report.say(f"{result['backup_id']}: {result['level']}, {'whole' if result['ok'] else result['problems']}")
            # Weaviate would need a second server for that; its backup is read to its end.
            level = "decode" if result["component"] == "weaviate" else "drill"
            problems += unless(result["ok"] and result["level"] == level, f"{result['backup_id']}: {result}")
        problems += unless(self.postgres.psql(databases).stdout == before, "a scratch database is left")
        problems += unless(proof.tree(self.media) == self.expected["media"], "the media folder is not as it was")
        self.report.prove("a drill restores both for real, finds every row and file, and leaves nothing", problems)

    def accident(self):
        accident = Accident(self)
        accident.strike()
        accident.refuse()
        accident.restore()
        accident.undo()

    def shell(self, shown, command, env=None):
        self.report.shell(shown)
        return self.stage.run(["bash", "-o", "pipefail", "-c", command], env=env).stdout

    def end(self):
        self.report.chapter("The end")
        worker = self.worker.process
        worker.terminate()
        code = worker.wait(40)
        self.report.prove("SIGTERM ends the worker cleanly", unless(code == 0, f"exit status {code}"))
        unacked = int(self.redis.cli("hlen", "unacked").stdout)
        waiting = self.redis.length("backups")
        problems = unless(unacked == 0, f"{unacked} unacknowledged") + unless(waiting == 1, f"{waiting} in the queue, not 1")
        self.report.prove("no message is left but the one that is not ours", problems)
        once = final_results(self.results.read_text())
        problems = [f"task {key}: {count} results" for key, count in once.items() if count != 1]
        self.report.prove(f"each of {len(once)} tasks got its final result exactly once", problems)
        log = (self.stage.dir / "worker.log").read_text()
        manifests = "".join(path.read_text() for path in self.root.glob("manifests/*/*.json"))
        everywhere = log + manifests + self.results.read_text()
        found = [f"{type(s).__name__}'s shows" for s in (self.redis, self.postgres) if s.password[:16] in everywhere]
        self.report.prove("no password in any log line, manifest or result", found)

    def run(self):
        self.show_lab()
        self.pinned = Client(self.stage, "5.3.6", self.redis.url)
        self.newest_client = Client(self.stage, "newest", self.redis.url)
        self.old_backups()
        self.start_worker()
        self.beat()
        self.delays()
        self.retention()
        self.kill()
        self.commands()
        self.open_archives()
        self.drill()
        self.accident()
        self.end()


def keep(demo):
    """Leaves the web app running until Ctrl-C, `make demo KEEP=1`: with data of its own, since the demo's tables are not Django's."""
    demo.report.chapter("The web app, to look at")
    demo.postgres.database, media = "rna_web", demo.stage.dir / "web-media"
    demo.postgres.psql("create database rna_web", "postgres")
    media.mkdir()
    own = {"DATABASE_URL": demo.postgres.url(), "MEDIA_ROOT": str(media), "BACKUP_ROOT": str(demo.stage.dir / "web-backups")}
    worker = Worker(demo.stage, demo.worker.program, demo.worker.env | own)
    web, password = Web(demo.stage, worker.env), secrets.token_urlsafe(9)
    web.fill(password, {"admin": None}, ["Folding of RNA"])
    worker.start()
    web.start()
    demo.report.say(f"Backup Management: {web.url}rna_backup/backup/")
    demo.report.say(f"user admin, password {password}")
    demo.report.say("Ctrl-C ends it.")
    try:
        web.process.wait()
    except KeyboardInterrupt:
        pass


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def failures(answers):
    return [f"{answer['state']}: {answer.get('error')}" for answer in answers if answer["state"] != "SUCCESS"]


def final_results(published):
    """How often a final state was published for each task id, from redis-cli's CSV."""
    return Counter(re.findall(r'"celery-task-meta-([^"*]+)".*?"status\\": ?\\"(?:SUCCESS|FAILURE)', published))


def short(answer):
    """A result in one line, the keys that tell most."""
    if answer["state"] != "SUCCESS":
        error = answer.get("error") or {}
        return f"{answer['state']} {error.get('class')}: {error.get('text')}"
    value = answer["value"]
    told = ("status", "backup_id", "set_id", "task_ids", "size_bytes", "verified", "warnings", "pruned", "deleted", "kept")
    text = json.dumps({key: value[key] for key in told if key in value}, ensure_ascii=False)
    return text[:-1] + (", …}" if len(value) > sum(key in told for key in value) else "}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    began, finished, demo = time.monotonic(), False, None
    with Stage("rna-demo") as stage:
        try:
            demo = Demo(stage, sys.argv[1])
            demo.run()
            finished = True
            if os.environ.get("KEEP"):
                keep(demo)
        except Failed as failure:
            print(f"\n{failure}", file=sys.stderr)
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
        except Exception:
            traceback.print_exc()
        log = stage.dir / "worker.log"
        if log.exists() and not (finished and all(not problems for _, problems in demo.report.proofs)):
            print("\nThe worker's last lines:", *log.read_text().splitlines()[-40:], sep="\n  ", file=sys.stderr)
    if demo is None:
        sys.exit(1)
    left = stage.left_running() + ([stage.dir] if stage.dir.exists() else [])
    demo.report.prove("nothing is left running, no file is left behind", [f"left: {what}" for what in left])
    held = demo.report.summary(finished)
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
