"""«Beside your app» in docs/compose.md, by way of docs/quickstart.md, beside an app that was not made for it: one walk, in this order."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from project import Project
from terminal import Failed, Terminal, wait_for

HERE = Path(__file__).resolve().parent
PROJECT = "lab"
OWN_FILE = "docker-compose.backup.yml"


class Lab:
    """An app's folder with the repository in ../rna-backup."""

    def __init__(self, engine, repository, substitutes, readme, quickstart):
        self.folder = repository.parent / "lab"
        shutil.copytree(HERE / "lab", self.folder)
        media = self.folder / "media"
        media.mkdir()
        (media / "gel.txt").write_text("lane 1: RNA\n")
        for path in (media, media / "gel.txt"):
            os.chown(path, 1000, 1000)
        self.terminal = Terminal(engine, self.folder, substitutes)
        self.readme, self.quickstart = readme, quickstart
        self.project = Project(self.terminal, PROJECT)

    def say(self, part, document=None, **options):
        return self.terminal.run((document or self.readme).line(part), **options)

    def set(self, **settings):
        """Writes settings into the app's .env, as a person would: each once."""
        path = self.folder / ".env"
        kept = [line for line in path.read_text().splitlines() if line.split("=")[0] not in settings]
        path.write_text("\n".join(kept + [f"{name}={value}" for name, value in settings.items() if value is not None]) + "\n")

    def configuration(self, *options):
        """The project as compose reads it."""
        return json.loads(self.terminal.run(" ".join(["docker compose", *options, "config --format json"])))

    def own_file(self, text):
        """The words of docs/compose.md, in the file that it names, which COMPOSE_FILE names last."""
        (self.folder / OWN_FILE).write_text(text)
        self.set(COMPOSE_FILE=f"docker-compose.yml:../rna-backup/compose.yaml:{OWN_FILE}")

    def check(self, **options):
        return self.say("run --rm rna-backup check", **options)

    def logs(self):
        return self.say("compose logs rna-backup")


def nothing_of_the_app_is_changed_by_our_file(lab):
    for line in lab.quickstart.block("dotenv", "COMPOSE_FILE=").splitlines():
        name, value = line.split("=", 1)
        lab.set(**{name: "./media" if name == "MEDIA_VOLUME" else value})
    alone, together = lab.configuration("--file docker-compose.yml"), lab.configuration()
    for name, service in alone["services"].items():
        if together["services"][name] != service:
            raise Failed(f"{name} is {together['services'][name]} and was {service}")
    if set(together["services"]) - set(alone["services"]) != {"rna-backup"}:
        raise Failed(f"services: {sorted(together['services'])}")


def a_missing_media_volume_is_named_by_compose(lab):
    lab.set(MEDIA_VOLUME=None)
    said = lab.terminal.run("docker compose config", exit_status=None)
    lab.set(MEDIA_VOLUME="./media")
    if "MEDIA_VOLUME" not in said or "name the volume" not in said:
        raise Failed(said)


def check_names_the_network_that_is_missing(lab):
    lab.terminal.run("docker compose up --detach --wait app redis postgres weaviate")
    owner = lab.say("compose exec app stat", lab.quickstart).strip()
    if lab.configuration()["services"]["rna-backup"]["user"] != owner:
        raise Failed(f"the media belong to {owner}")
    lab.say("compose build rna-backup", lab.quickstart)
    said = lab.check(exit_status=1)
    if "network" not in said:
        raise Failed(said)
    lab.own_file(lab.readme.block("yaml", "networks:"))
    lab.check()


def the_quickstart_leads_to_a_proven_backup_of_all_three(lab):
    vectors = {"class": "Paper", "vectorizer": "none", "properties": [{"name": "title", "dataType": ["text"]}]}
    lab.project.weaviate("POST", "/v1/schema", vectors)
    for number in range(20):
        lab.project.weaviate("POST", "/v1/objects", {"class": "Paper", "properties": {"title": f"paper {number}"}, "vector": [0.1, 0.2, number]})
    lab.project.psql("create table api_document as select i as id, md5(i::text) as title from generate_series(1, 1000) i")
    for part in ("run --rm rna-backup check", "compose up --detach", "rna-backup backup all", "rna-backup verify all --drill", "rna-backup list"):
        said = lab.say(part, lab.quickstart)
        if "verify" in part and said.count("drill") < 2:
            raise Failed(said)
    lab.say("compose exec app stat")
    lab.say("compose build rna-backup")
    lab.say("rna-backup backup all")
    lab.say("rna-backup verify all --drill")
    lab.say("restore postgres --dry-run")
    if not all(name in lab.say("compose exec rna-backup rna-backup list") for name in ("pg_backup_", "media_backup_", "weaviate_backup_")):
        raise Failed(said)


def weaviate_as_root_is_exported_until_the_worker_owns_the_volume(lab):
    backup = lab.readme.line("rna-backup backup all").replace("all", "weaviate")
    said = lab.terminal.run(backup)
    if "export" not in said or "chown" not in said:
        raise Failed(said)
    lab.say("compose exec weaviate chown")
    said = lab.terminal.run(backup)
    left = lab.project.engine.run("run", "--rm", "--volume", "lab_weaviate_backups:/seen", "debian:bookworm-slim", "ls", "-A", "/seen").stdout.strip()
    if "warning" in said or left:
        raise Failed(f"{said}\nin the volume: {left}")
    before = counted(lab)
    lab.terminal.run(lab.readme.line("run --rm rna-backup restore media").replace("media", "weaviate"), answer="yes")
    if counted(lab) != before:
        raise Failed("objects are missing after the restore")


def counted(lab):
    found = lab.project.weaviate("POST", "/v1/graphql", {"query": "{Aggregate{Paper{meta{count}}}}"})
    return found["data"]["Aggregate"]["Paper"][0]["meta"]["count"]


def a_drill_of_weaviate_is_held_on_the_second_server(lab):
    for line in lab.readme.block("dotenv", "COMPOSE_PROFILES=").splitlines():
        name, value = line.split("=", 1)
        lab.set(**{name: value})
    lab.say("docker compose up --detach")
    lab.project.wait_healthy("rna-backup-drill")
    lab.project.wait_healthy("rna-backup")
    said = lab.say("verify weaviate --drill")
    if "drill" not in said or "warning" in said:
        raise Failed(said)
    left = lab.terminal.run("docker compose exec rna-backup-drill wget -q -O - http://127.0.0.1:8080/v1/schema")
    if json.loads(left)["classes"]:
        raise Failed(f"the drill has left {left}")


def another_backup_user_gets_the_volume_by_the_documented_command(lab):
    give = lab.readme.line("docker run --rm --volume lab_rna_backups")
    lab.terminal.run("docker compose stop rna-backup")
    lab.set(BACKUP_USER="10001:10001")
    said = lab.check(exit_status=1)
    if "1000:1000" not in said or "chown" not in said:
        raise Failed(said)
    lab.terminal.run(give.replace("1000:1000", "10001:10001"))
    lab.check()
    lab.set(BACKUP_USER="1000:1000")
    lab.terminal.run(give)
    lab.say("docker compose up --detach")
    lab.terminal.run(lab.readme.line("rna-backup backup all").replace("all", "media"))


def the_owner_of_the_media_restores_them(lab):
    gel = lab.folder / "media/gel.txt"
    gel.write_text("spilt\n")
    lab.say("run --rm rna-backup restore media", answer="yes")
    if gel.read_text() != "lane 1: RNA\n" or gel.stat().st_uid != 1000:
        raise Failed("the media folder is not as it was backed up")
    lab.say("run --rm rna-backup undo media", answer="yes")
    if gel.read_text() != "spilt\n":
        raise Failed("the undo did not bring back what the restore replaced")


def a_folder_of_the_wrong_owner_is_told_until_it_is_mended(lab):
    backups = lab.folder / "backups"
    backups.mkdir(mode=0o755)
    lab.set(BACKUP_VOLUME="./backups")
    said = lab.check(exit_status=1)
    for word in ("/backups", "1000:1000", "chown"):
        if word not in said:
            raise Failed(f"{word!r} is not in:\n{said}")
    lab.say("compose up --detach", lab.quickstart)
    # A worker that has just started is not ready for want of a connection to Redis, first.
    told = lambda text: "/backups" in text and "chown" in text  # noqa: E731
    wait_for("/readyz to name the folder", lambda: (answer := lab.project.http("/readyz"))[0] == 503 and told(answer[1]))
    wait_for("the log to name the folder", lambda: told(lab.logs()))
    wait_for("destination_up to be 0", lambda: lab.project.metric("rna_backup_destination_up", destination="local") == 0)
    if lab.project.http("/livez")[0] != 200 or lab.project.inspect(lab.project.container("rna-backup"))["RestartCount"]:
        raise Failed("the worker does not stay up meanwhile")
    os.chown(backups, 1000, 1000)
    wait_for("the worker to be ready", lambda: lab.project.http("/readyz")[0] == 200, 90)
    wait_for("destination_up to be 1", lambda: lab.project.metric("rna_backup_destination_up", destination="local") == 1, 90)


def a_full_disk_is_told_and_leaves_nothing_behind(lab):
    backups = lab.folder / "backups"
    lab.say("compose stop rna-backup")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700,uid=1000,gid=1000", "tmpfs", backups], check=True)
    try:
        noise = lab.folder / "media/noise"
        noise.write_bytes(os.urandom(8 << 20))
        lab.say("compose start rna-backup")
        lab.project.wait_healthy("rna-backup")
        order = lab.readme.line("rna-backup backup all").replace("all", "media")
        said = lab.terminal.run(order, exit_status=1)
        if not any(word in said for word in ("room", "space", "BACKUP_MIN_FREE")):
            raise Failed(said)
        left = [path for path in backups.rglob("*") if path.is_file() and path.stat().st_size > 100_000]
        if left:
            raise Failed(f"left behind: {left}")
        subprocess.run(["mount", "-o", "remount,size=100m", backups], check=True)
        lab.terminal.run(order)
        noise.unlink()
    finally:
        lab.terminal.run("docker compose stop rna-backup", exit_status=None)
        subprocess.run(["umount", "--lazy", backups], check=True)


def a_password_comes_from_a_secret(lab):
    lab.set(BACKUP_VOLUME=None, POSTGRES_PASSWORD="wrong")
    said = lab.check(exit_status=1)
    if "single quotes" not in said or "wrong" in said.replace("correct", ""):
        raise Failed(said)
    (lab.folder / "secrets").mkdir()
    secret = lab.folder / "secrets/postgres_password"
    secret.write_text("pa$word\n")
    secret.chmod(0o600)
    lab.own_file(merged(lab.readme.block("yaml", "secrets:"), lab.readme.block("yaml", "networks:")))
    said = lab.check(exit_status=2)
    if "POSTGRES_PASSWORD_FILE" not in said or "/run/secrets/postgres_password" not in said or "pa$word" in said:
        raise Failed(said)
    os.chown(secret, 1000, 1000)
    lab.check()


def merged(secrets, networks):
    """Both pieces of docs/compose.md in one file."""
    return secrets.replace("  rna-backup:\n", "  rna-backup:\n" + networks.split("  rna-backup:\n")[1], 1)


def down_takes_all_of_it_away(lab):
    lab.say("compose up --detach", lab.quickstart)
    lab.say("docker compose down")
    left = lab.project.engine.left_of(PROJECT)
    if set(left) != {"volume"}:
        raise Failed(f"after `down` there is {left}, and should be the volumes alone")


STEPS = [
    nothing_of_the_app_is_changed_by_our_file,
    a_missing_media_volume_is_named_by_compose,
    check_names_the_network_that_is_missing,
    the_quickstart_leads_to_a_proven_backup_of_all_three,
    weaviate_as_root_is_exported_until_the_worker_owns_the_volume,
    a_drill_of_weaviate_is_held_on_the_second_server,
    another_backup_user_gets_the_volume_by_the_documented_command,
    the_owner_of_the_media_restores_them,
    a_folder_of_the_wrong_owner_is_told_until_it_is_mended,
    a_full_disk_is_told_and_leaves_nothing_behind,
    a_password_comes_from_a_secret,
    down_takes_all_of_it_away,
]
