"""What nobody wants to happen to a lab, and the way back from it."""

import shutil
import threading
import time
from collections import Counter
from itertools import pairwise

import lab
import proof
from report import size, unless

RESTORE = "api.backup.restore."
UNDO = "api.backup.tasks.undo_restore"

# The wrong window, on a Friday.
SQL = [
    "drop table api_documentchunk",
    "truncate auth_user cascade",
    "update django_migrations set applied = now()",
    'drop schema "Lab Notes" cascade',
    "select lo_unlink(424242)",
]
# People go on before anybody sees it: this is in no backup, and is not to be lost either.
AFTERWARDS = [
    "insert into auth_user (password, is_superuser, username, first_name, email, date_joined)"
    " values ('!', false, 'late', 'Noor', 'late@lab.example', now())"
]


class Accident:
    """Of a demo's lab: strikes, is restored from, undone and restored from again."""

    def __init__(self, demo):
        self.demo, self.report = demo, demo.report
        self.stage, self.postgres, self.media, self.weaviate = demo.stage, demo.postgres, demo.media, demo.weaviate

    def found(self):
        """What there is at this moment."""
        return {
            "media": proof.tree(self.media),
            "postgres": proof.database(self.postgres, "rna_db"),
            "weaviate": proof.vectors(self.weaviate),
        }

    def strike(self):
        self.report.chapter("An accident: tables emptied and dropped, folders deleted, files written over")
        for sql in SQL:
            self.report.shell(f"psql rna_db -c '{sql}'")
        self.postgres.psql("; ".join(SQL + AFTERWARDS))
        self.report.shell("rm -rf media/papers media/figures/2026/0*; mv media/protocols media/protocols.old; : >media/sequences/run_3.fasta")
        for folder in [self.media / "papers", *self.media.glob("figures/2026/0*")]:
            shutil.rmtree(folder)
        (self.media / "protocols").rename(self.media / "protocols.old")
        (self.media / "sequences/run_3.fasta").write_bytes(b"")
        self.report.shell("curl -X DELETE weaviate:8080/v1/schema/Paper; …/v1/objects/Protocol/…")
        self.weaviate.ask("DELETE", "/v1/schema/Paper")
        for number in range(10):
            self.weaviate.ask("DELETE", f"/v1/objects/Protocol/{lab.vector_id('Protocol', number)}")
        self.report.say("and before anybody sees it, somebody signs up, uploads a file and adds a protocol")
        late = {"class": "Protocol", "id": lab.vector_id("Protocol", "late"), "properties": {"title": "in no backup"}}
        self.weaviate.put([late])
        (self.media / "uploaded later.txt").write_text("in no backup\n")
        self.wreck = self.found()
        for component, expected in self.demo.expected.items():
            wrong = sum(1 for key, was in expected.items() if self.wreck[component].get(key) != was)
            what = {
                "media": "entries of the media folder",
                "postgres": "tables, sequences and the like",
                "weaviate": "classes of Weaviate",
            }[component]
            self.report.say(f"{wrong:,} of {len(expected):,} {what} are not as they were")

    def refuse(self):
        """Archives that would have ended the lab: restored from in good faith."""
        self.report.chapter("First attempt: from archives that the disk has damaged")
        demo, databases = self.demo, self.databases()
        victim = sorted(demo.manifests("media"), key=lambda manifest: manifest["created_at"])[-2]
        archive = demo.archive(victim)
        with open(archive, "r+b") as file:
            file.seek(archive.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1]))
        self.report.say(f"one bit of {archive.name} is another now")
        self.report.say("and pg_backup_20250601_020000.sql, as the app's Python tasks made it, ends after nine tenths: the disk was full")
        self.cut("pg_backup_20250601_020000.sql")
        problems = []
        for client, task, backup in (
            (demo.pinned, "restore_media_files", archive.name),
            (demo.newest_client, "restore_postgres_from_backup", "pg_backup_20250601_020000.sql"),
        ):
            _, got = self.order(client, RESTORE + task, backup)
            problems += unless(got["state"] == "FAILURE", f"{task} of a damaged archive: {got['state']}")
        problems += self.differences(self.wreck) + unless(self.databases() == databases, f"databases: {self.databases()}")
        self.report.prove("a damaged archive is refused with a word why, and nothing is touched", problems)

    def cut(self, name):
        """A backup as the app made them before, of which the end is missing."""
        whole = self.stage.dir / "whole.dump"
        self.stage.run(["zstd", "-q", "-d", self.demo.archive(self.demo.newest("postgres")), "-o", whole])
        content = whole.read_bytes()
        (self.demo.root / "postgres" / name).write_bytes(content[: len(content) * 9 // 10])

    def restore(self):
        self.report.chapter("The restore, while the app goes on asking its database")
        pg, media = self.demo.archive(self.demo.newest("postgres")).name, "latest"
        with App(self.postgres) as app:
            problems = self.restore_both(self.demo.pinned, self.demo.newest_client, pg, media)
        problems += self.differences(self.demo.expected)
        claim = "database, vectors and media folder are back as they were backed up, to the last row, vector, mode and link"
        self.report.prove(claim, problems)
        refused, longest = app.outage()
        self.report.say(
            f"meanwhile the app connected and asked {len(app.asked)} times: {sum(refused.values())} times refused,"
            f" at the longest {longest * 1000:.0f} ms from one answer to the next"
        )
        for text, count in refused.items():
            self.report.say(f"  {count} times: {text}")
        cut_off = sum(refused.values())
        problems = unless(cut_off < len(app.asked) / 2, f"{cut_off} of {len(app.asked)} times refused")
        self.report.prove("the app had its database while it was restored, but for the moment of the swap", problems)

    def restore_both(self, first, second, pg, media):
        problems = []
        for client, task, backup in (
            (first, "restore_postgres_from_backup", pg),
            (second, "restore_media_files", media),
            (first, "restore_weaviate_from_backup", "latest"),
        ):
            states, got = self.order(client, RESTORE + task, backup)
            problems += unless(got["state"] == "SUCCESS", f"{task}: {got}")
            problems += unless("PROGRESS" in states, f"{task}: no PROGRESS in {states}")
        return problems

    def undo(self):
        self.report.chapter("And back: something of what came after the backup is needed after all")
        problems = []
        demo = self.demo
        for client, component in ((demo.newest_client, "postgres"), (demo.pinned, "media"), (demo.newest_client, "weaviate")):
            _, got = self.order(client, UNDO, component)
            problems += unless(got["state"] == "SUCCESS", f"undo of {component}: {got}")
        problems += self.differences(self.wreck)
        name = self.postgres.psql("select first_name from auth_user").stdout.strip()
        self.report.say(f"select first_name from auth_user: {name}; and the late upload: {(self.media / 'uploaded later.txt').read_text().strip()}")
        self.report.prove("undo puts back what the restore replaced, the wreck and what came after it", problems)
        self.report.say("noted; so once more, with the two versions of Celery the other way round")
        problems = self.restore_both(self.demo.newest_client, self.demo.pinned, "latest", "latest")
        problems += self.differences(self.demo.expected)
        self.report.prove("a second restore leaves the lab whole", problems)

    def order(self, client, task, backup):
        """Sends a task; the states that it went through and what `.get()` gave."""
        self.report.shell(f"send_task({task!r}, [{backup!r}])  # celery {client.celery}")
        began = time.monotonic()
        task_id = client.delay(task, backup)
        states = self.demo.watch(client, task_id)
        got = client.get(task_id)
        self.report.say(f"AsyncResult.get(), after {time.monotonic() - began:.1f} s: {told(got)}")
        return states, got

    def differences(self, expected):
        found = self.found()
        return [line[:300] for component in expected for line in proof.differences(expected[component], found[component])]

    def databases(self):
        return self.postgres.psql("select datname from pg_database order by 1", "postgres").stdout.split()


class App:
    """What the app is to its database: query after query, each in a connection of its own."""

    def __init__(self, postgres):
        self.postgres, self.asked, self.done = postgres, [], threading.Event()
        self.thread = threading.Thread(target=self.ask)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def ask(self):
        while not self.done.wait(0.01):
            answer = self.postgres.psql("select 1", check=False)
            self.asked.append((time.monotonic(), answer.stderr.strip() if answer.returncode else None))

    def outage(self):
        """How often each error came, and the longest time from one answer to the next, seconds."""
        answers = [ended for ended, error in self.asked if error is None]
        errors = Counter(error.rpartition("FATAL:  ")[2].split("\n")[0] for _, error in self.asked if error is not None)
        return errors, max(after - before for before, after in pairwise(answers))


def told(answer):
    """The result of a restore or of an undo in one line."""
    if answer["state"] != "SUCCESS":
        error = answer.get("error") or {}
        return f"{answer['state']} {error.get('class')}: {error.get('text')}"
    value = answer["value"]
    files = value.get("counts", {}).get("files")
    tables = value.get("counts", {}).get("tables")
    counted = f", {files['files']:,} files of {size(files['bytes'])}" if files else ""
    classes = value.get("counts", {}).get("classes")
    counted += f", {sum(classes.values()):,} objects in {len(classes)} classes" if classes else ""
    counted += f", {sum(table['rows'] for table in tables):,} rows in {len(tables)} tables" if tables else ""
    what = value.get("backup_id") or f"what was replaced at {value['replaced_at'][:19]}Z"
    return f"SUCCESS {what}{counted}; kept: {value['kept']}"
