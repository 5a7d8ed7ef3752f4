"""«An app to look at» in docs/compose.md, and what may happen to its worker: each function is one step of one walk, in this order."""

import contextlib
import json
import subprocess
import threading
import urllib.request

from project import Project
from terminal import Failed, wait_for

TASKS = "api.backup.tasks."
PROJECT = "rna-demo"
COMPONENTS = ("postgres", "weaviate", "media")
OBJECT = "6f2a3f0a-0000-4000-8000-000000000001"


class Demo:
    def __init__(self, terminal, readme):
        self.terminal, self.readme = terminal, readme
        self.project = Project(terminal, PROJECT)

    def say(self, part, **options):
        """Types the command of docs/compose.md that holds `part`."""
        return self.terminal.run(self.readme.line(part), **options)

    def call(self, task, *arguments):
        """Orders a task as docs/compose.md does; its id."""
        command = self.readme.line("celery -A rna_backend call").replace(TASKS + "run_full_backup", task)
        return self.terminal.run(" ".join([command, *arguments])).split()[-1]

    def backups(self):
        return json.loads(self.terminal.run(self.readme.line("compose exec rna-backup rna-backup list") + " --json"))["backups"]

    def titles(self):
        """What the three hold at this moment, one thing each."""
        return {
            "postgres": self.project.psql("select title from api_document where id = 1"),
            "media": self.project.exec("app", "cat", "/app/media/gel.txt").strip(),
            "weaviate": self.project.weaviate("GET", f"/v1/objects/Paper/{OBJECT}")["properties"]["title"],
        }

    def change(self, title):
        self.project.psql(f"update api_document set title = '{title}' where id = 1")
        self.project.exec("app", "sh", "-c", f"echo '{title}' >/app/media/gel.txt")
        thing = {"class": "Paper", "id": OBJECT, "properties": {"title": title}, "vector": [0.1, 0.2, 0.3]}
        self.project.weaviate("PUT", f"/v1/objects/Paper/{OBJECT}", thing)

    @contextlib.contextmanager
    def held_backup(self):
        """The id of a backup of PostgreSQL that waits in its middle, for a lock that somebody has on a table, until the block ends."""
        sql = "begin; lock table api_document; select pg_sleep(600)"
        command = ["docker", "exec", self.project.container("postgres"), "psql", "-U", "postgres", "-d", "rna_db", "-c", sql]
        holder = subprocess.Popen(command, env=self.terminal.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        held = "select count(*) from pg_locks where relation = 'api_document'::regclass and mode = 'AccessExclusiveLock' and granted"
        free = "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(600)' and pid <> pg_backend_pid()"
        waits = "select count(*) from pg_locks where relation = 'api_document'::regclass and not granted"
        try:
            wait_for("the lock on the table", lambda: self.project.psql(held) == "1")
            task = self.call(TASKS + "backup_postgres_database")
            wait_for("the backup to wait for the table", lambda: self.project.psql(waits) != "0")
            yield task
        finally:
            self.project.psql(free)
            holder.wait()


def the_container_of_the_worker_changes_no_volume_of_the_app(demo):
    """Case D4: the volume is empty and new, and the worker's container is the first that mounts it."""
    # The images first, by the page's own word; then the worker alone.
    demo.terminal.run(demo.readme.line("up --build --detach").replace("up --build --detach", "build"))
    demo.terminal.run("docker compose create rna-backup")
    for volume in ("media", "weaviate_backups"):
        owner = demo.project.owner(volume)
        if owner != "0:0 755":
            raise Failed(f"the new volume {volume} has owner and mode {owner} after the worker's container was made")


def the_stack_starts(demo):
    demo.say("up --build --detach")
    for service in ("rna-backup", "app", "beat"):
        state = demo.project.state(service)
        if not state["Running"] or demo.project.inspect(demo.project.container(service))["RestartCount"]:
            raise Failed(f"{service}: {state}")
    demo.project.wait_healthy("beat")  # which asks the worker by its name
    wait_for("the worker to be ready", lambda: demo.project.http("/readyz")[0] == 200)
    demo.project.exec("app", "sh", "-c", "echo upload >/app/media/upload.txt")
    things = {"class": "Paper", "vectorizer": "none", "properties": [{"name": "title", "dataType": ["text"]}]}
    demo.project.weaviate("POST", "/v1/schema", things)
    demo.project.weaviate("POST", "/v1/objects", {"class": "Paper", "id": OBJECT, "properties": {"title": "before"}, "vector": [0.1, 0.2, 0.3]})
    demo.change("before")


def a_full_backup_that_the_app_orders_is_made_of_all_three_in_both_destinations(demo):
    parts = demo.project.succeeded(demo.call(TASKS + "run_full_backup"))["task_ids"]
    if set(parts) != set(COMPONENTS):
        raise Failed(f"the full backup has the parts {parts}")
    for part in parts.values():
        demo.project.succeeded(part)
    said = demo.say("compose exec rna-backup rna-backup list")
    for backup in demo.backups():
        places = {place["destination"]: place["state"] for place in backup["destinations"]}
        if places != {"local": "ok", "s3": "ok"} or backup["backup_id"] not in said:
            raise Failed(f"{backup}\n{said}")
    if {backup["component"] for backup in demo.backups()} != set(COMPONENTS):
        raise Failed(said)


def all_three_come_back_and_go_back(demo):
    before = demo.titles()
    demo.change("after")
    after = demo.titles()
    restores = ["exec rna-backup rna-backup restore postgres", "run --rm rna-backup restore media"]
    for component in COMPONENTS:
        said = demo.terminal.run(by_hand(demo, restores, component), answer="yes")
        if f"rna-backup undo {component}" not in said:
            raise Failed(said)
    if demo.titles() != before:
        raise Failed(f"restored {demo.titles()}, backed up {before}")
    undos = ["exec rna-backup rna-backup undo postgres", "run --rm rna-backup undo media"]
    for component in COMPONENTS:
        demo.terminal.run(by_hand(demo, undos, component), answer="yes")
    if demo.titles() != after:
        raise Failed(f"after undo there is {demo.titles()}, and before the restore there was {after}")


def by_hand(demo, commands, component):
    """The page's command for a component; Weaviate's is that of the media folder with the other name."""
    in_worker, beside_worker = ("docker compose " + command for command in commands)
    return demo.readme.line(in_worker) if component == "postgres" else demo.readme.line(beside_worker).replace("media", component)


def a_worker_that_is_killed_in_mid_backup_does_the_task_when_it_starts_again(demo):
    with demo.held_backup() as task:
        demo.terminal.run(f"docker kill {demo.project.container('rna-backup')}")
    demo.say("compose start rna-backup")
    made = demo.project.succeeded(task)["backup_id"]
    if made not in demo.say("compose exec rna-backup rna-backup list"):
        raise Failed(f"{made} is not listed")


def a_worker_that_is_stopped_ends_well_and_gives_its_task_back(demo):
    with demo.held_backup() as task:
        demo.say("compose stop rna-backup")
    state = demo.project.state("rna-backup")
    if state["ExitCode"] != 0 or state["OOMKilled"]:
        raise Failed(f"the worker ended with {state}")
    demo.say("compose start rna-backup")
    demo.project.succeeded(task)


def a_backup_goes_to_both_destinations_while_redis_is_away(demo):
    redis = demo.project.container("redis")
    known = {backup["backup_id"] for backup in demo.backups()}
    paused = threading.Event()
    try:
        with demo.held_backup() as task:
            demo.terminal.run(f"docker pause {redis}")
            paused.set()
        both = lambda: [one for one in demo.backups() if one["backup_id"] not in known and {place["destination"] for place in one["destinations"]} == {"local", "s3"}]  # noqa: E731
        wait_for("the backup in both destinations", both, 300)
    finally:
        if paused.is_set():
            demo.terminal.run(f"docker unpause {redis}")
            demo.project.wait_healthy("redis")
    demo.project.succeeded(task)


def two_workers_share_the_queue(demo):
    environment = demo.terminal.folder / ".env"
    text = environment.read_text()
    environment.write_text(text + "BACKUP_WORKER_NAME=backup@%h\n")
    try:
        demo.say("--scale rna-backup=2")
        names = {f"backup@{demo.project.inspect(one)['Config']['Hostname']}" for one in demo.project.containers("rna-backup")}
        answers = lambda: demo.project.exec("app", "celery", "-A", "rna_backend", "inspect", "ping", check=False)  # noqa: E731
        wait_for(f"the answers of {names}", lambda: len(names) == 2 and all(name in answers() for name in names))
        seen = "http://127.0.0.1:9090/api/v1/query?query=count(up{job=%22rna-backup%22}==1)"
        wait_for("Prometheus to see both", lambda: counted(seen) == 2)
        # One of the two dies over the task; the other one does it.
        with demo.held_backup() as task:
            held = [one for one in demo.project.containers("rna-backup") if in_progress(demo.project, one)]
            (holder,) = held
            demo.terminal.run(f"docker kill {holder}")
        demo.project.succeeded(task)
    finally:
        environment.write_text(text)


def in_progress(project, container):
    series = [line for line in project.http("/metrics", container)[1].splitlines() if line.startswith("rna_backup_in_progress")]
    return any(line.split()[-1] != "0" for line in series)


def counted(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        result = json.loads(answer.read())["data"]["result"]
    return float(result[0]["value"][1]) if result else 0


def a_backup_of_a_stopped_database_fails_with_a_word_why(demo):
    demo.say("compose stop postgres")
    said = demo.terminal.run(demo.readme.line("exec rna-backup rna-backup backup all").replace("all", "postgres"), exit_status=1)
    if "postgres" not in said:
        raise Failed(said)
    demo.say("compose start postgres")


def nothing_is_left_of_it(demo):
    demo.say("down --volumes")
    if left := demo.terminal.engine.left_of(PROJECT):
        raise Failed(f"after `down --volumes` there is still {left}")


STEPS = [
    the_container_of_the_worker_changes_no_volume_of_the_app,
    the_stack_starts,
    a_full_backup_that_the_app_orders_is_made_of_all_three_in_both_destinations,
    all_three_come_back_and_go_back,
    a_worker_that_is_killed_in_mid_backup_does_the_task_when_it_starts_again,
    a_worker_that_is_stopped_ends_well_and_gives_its_task_back,
    a_backup_goes_to_both_destinations_while_redis_is_away,
    two_workers_share_the_queue,
    a_backup_of_a_stopped_database_fails_with_a_word_why,
    nothing_is_left_of_it,
]
