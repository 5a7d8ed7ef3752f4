"""The lab under fire: servers with bad lines to them, three workers on one folder, and what is in it all."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from urllib.parse import quote

from line import Line
from servers import ROOT, Bucket, Client, Postgres, Redis, Weaviate, Worker, stop, wait_for

COMPONENTS = ("postgres", "weaviate", "media")
KEEP_LAST = 3  # backups of each component
DISK = 96  # MB of room for backups, where we may mount such a disk
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"

TABLES = """
create table lab_sample (id bigint generated always as identity primary key, name text not null, reads double precision[]);
create table lab_run (id bigint primary key, sample_id bigint references lab_sample, note text);
insert into lab_sample (name, reads) select 'sample ' || i, array[random(), random()] from generate_series(1, 4000) i;
insert into lab_run select i, i, md5(i::text) from generate_series(1, 4000) i;
"""
# Of no sequence: after a crash PostgreSQL goes on some numbers later.
DIGEST = """
select md5((select string_agg(s::text, ',' order by id) from lab_sample s)) || md5((select string_agg(r::text, ',' order by id) from lab_run r))
"""
AOF = ("--appendonly", "yes", "--appendfsync", "always")


class Lab:
    def __init__(self, stage, program, seed):
        self.stage, self.program, self.chance = stage, program, random.Random(seed)
        self.told = []  # processes of workers that were told to stop
        self.quiet = threading.Lock()  # held by who breaks something, and by who must not be broken
        self.redis = self.durable_redis()
        self.postgres, self.bucket, self.weaviate = Postgres(stage), Bucket(stage), Weaviate(stage)
        self.lines = {"redis": Line(self.redis.port), "postgres": Line(self.postgres.port), "s3": Line(self.bucket.port)}
        self.root, self.media = stage.dir / "backups", stage.dir / "live/media"
        self.is_small_disk = self.mount()
        self.clock = stage.dir / "clock"
        self.clock.write_text("+0")
        self.fill()
        far = f"redis://:{quote(self.redis.password, safe='')}@127.0.0.1:{self.lines['redis'].port}/0"
        self.env = self.weaviate.env() | self.bucket.env | {
            "AWS_S3_ENDPOINT": f"http://127.0.0.1:{self.lines['s3'].port}",
            "REDIS_URL": far,
            "DATABASE_URL": self.postgres.url().replace(f":{self.postgres.port}/", f":{self.lines['postgres'].port}/"),
            "MEDIA_ROOT": str(self.media),
            "BACKUP_ROOT": str(self.root),
            "BACKUP_MIN_FREE": "1MiB",
            "BACKUP_RETRY_DELAY": "1s",
            "BACKUP_RETENTION_DAYS": "0",
            "BACKUP_KEEP_LAST": str(KEEP_LAST),
            "BACKUP_WEAVIATE_TIMEOUT": "30s",
            "BACKUP_SHUTDOWN_GRACE": "2s",
            "RUST_LOG": "info",
        }  # fmt: skip
        self.workers = [Worker(stage, program, self.env | {"BACKUP_WORKER_NAME": f"backup@{name}"} | extra) for name, extra in self.cast()]
        self.direct = self.env | {"AWS_S3_ENDPOINT": self.bucket.env["AWS_S3_ENDPOINT"], "DATABASE_URL": self.postgres.url()}

    def durable_redis(self, *options, password=None):
        folder = self.stage.dir / f"redis-{len(list(self.stage.dir.glob('redis-*')))}"
        folder.mkdir()
        return Redis(self.stage, *AOF, "--dir", str(folder), *options, password=password)

    def cast(self):
        """Three workers, the last of them with a clock of its own."""
        odd = {"FAKETIME_TIMESTAMP_FILE": str(self.clock), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        return [("one", {}), ("two", {}), ("odd", odd | {"LD_PRELOAD": FAKETIME} if Path(FAKETIME).exists() else {})]

    def mount(self):
        self.root.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "chaos", self.root], capture_output=True)
        return mounted.returncode == 0

    def close(self):
        for worker in self.workers:
            if worker.process:
                stop(worker.process)
        if self.is_small_disk:
            subprocess.run(["umount", "-l", self.root], check=True)

    def fill(self):
        self.postgres.psql(TABLES)
        for number in range(150):
            path = self.media / f"{number % 7}/paper {number}.pdf"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.chance.randbytes(self.chance.randrange(60_000)))
        self.weaviate.ask("POST", "/v1/schema", {"class": "Paper", "vectorizer": "none", "properties": [{"name": "title", "dataType": ["text"]}]})
        self.objects(0, 30)

    def objects(self, first, last):
        made = lambda n: {"class": "Paper", "id": f"c0ffee00-0000-4000-8000-{n:012}", "properties": {"title": f"Folding {n}"}, "vector": [n, 1.0]}  # noqa: E731
        self.weaviate.put([made(number) for number in range(first, last)])

    def live_on(self, round_number):
        """What an app does between two nights."""
        self.postgres.psql(f"insert into lab_sample (name) values ('of round {round_number}')")
        (self.media / f"{round_number % 7}/round {round_number}.txt").write_text(f"round {round_number}\n")
        (self.media / f"{self.chance.randrange(7)}/paper 0.pdf").write_bytes(self.chance.randbytes(5000))
        self.objects(1000 + round_number, 1001 + round_number)

    def fingerprints(self):
        """A digest of all that is live; None where there is nothing whole to take one of."""
        return {"postgres": self.of_postgres(), "weaviate": self.of_weaviate(), "media": self.of_media()}

    def of_postgres(self):
        done = self.postgres.psql(DIGEST, check=False)
        return done.stdout.strip() or None

    def of_media(self):
        digest = hashlib.sha256()
        for path in sorted(self.media.rglob("*")):
            if not path.relative_to(self.media).parts[0].startswith(".rna-"):
                content = path.read_bytes() if path.is_file() else b""
                digest.update(f"{path.relative_to(self.media)} {path.stat().st_mode} {len(content)}\n".encode() + content)
        return digest.hexdigest() if self.media.exists() else None

    def of_weaviate(self):
        classes = [one["class"] for one in self.weaviate.ask("GET", "/v1/schema")["classes"] if not one["class"].startswith("RnaBackupMark_")]
        if "Paper" not in classes:
            return None
        told = [(one["id"], one["properties"], one.get("vector")) for one in self.weaviate.objects("Paper")]
        return hashlib.sha256(json.dumps([classes, told], sort_keys=True).encode()).hexdigest()

    def start_workers(self):
        for worker in self.workers:
            if worker.process is None or worker.process.poll() is not None:
                worker.process = self.stage.start([self.program, "worker"], worker.env["BACKUP_WORKER_NAME"] + ".log", env=worker.env)
        for worker in self.workers:
            wait_for("a worker to be ready", worker.ready, worker.process, seconds=120)

    def terminate(self, worker):
        """Tells a worker to stop; its process, None if it has ended before."""
        if worker.process.poll() is not None:
            return None
        worker.process.terminate()
        self.told.append(worker.process)
        return worker.process

    def kill(self, worker):
        """SIGKILL to the worker alone: its children are orphans. Whether there was one to kill."""
        if not worker.process or worker.process.poll() is not None:
            return False
        worker.process.kill()
        worker.process.wait()
        return True

    def command(self, *arguments, check=True):
        """One of the program's commands, over good lines."""
        return self.stage.run([self.program, *arguments, "--json"], env=self.direct | {"RUST_LOG": "error", "BACKUP_METRICS_ADDR": ""}, check=check)

    def json(self, *arguments):
        done = self.command(*arguments, check=False)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise AssertionError(f"{arguments}: exit {done.returncode}: {done.stderr[-2000:]}") from None

    def client(self):
        return Client(self.stage, "5.3.6", self.redis.url)

    def results(self, ids):
        """What is stored of these tasks, as far as anything is."""
        if not ids:
            return {}
        answers = self.redis.cli("--json", "mget", *(f"celery-task-meta-{id}" for id in ids)).stdout
        return {id: json.loads(text) for id, text in zip(ids, json.loads(answers)) if text}

    def redis_answers(self):
        return self.redis.cli("ping", check=False).stdout.strip() == "PONG"

    def in_bucket(self):
        """Keys of objects, and of uploads that nobody has ended."""
        look = (
            "import boto3, json, os; c = boto3.client('s3', endpoint_url=os.environ['AWS_S3_ENDPOINT'], region_name='us-east-1');"
            "b = os.environ['AWS_BACKUP_BUCKET'];"
            "objects = [o['Key'] for p in c.get_paginator('list_objects_v2').paginate(Bucket=b) for o in p.get('Contents', [])];"
            "uploads = [u['Key'] for u in c.list_multipart_uploads(Bucket=b).get('Uploads', [])];"
            "print(json.dumps({'objects': objects, 'uploads': uploads}))"
        )
        done = self.stage.run([ROOT / "target/venv/boto3/bin/python", "-c", look], env=self.bucket.env)
        return json.loads(done.stdout)

    def children(self):
        """What workers have started: pg_dump, pg_restore."""
        pids = {worker.process.pid for worker in self.workers if worker.process and worker.process.poll() is None}
        found = []
        for pid in pids:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    found += [int(child) for child in task.read_text().split()]
                except OSError:
                    pass
        return found

    def kill_pid(self, pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def remove(self, path):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
