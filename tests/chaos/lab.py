"""The lab under fire: servers, machines with bad lines to them, and what is in it all."""

import hashlib
import json
import os
import random
import signal
import threading

from machine import Machine
from servers import ROOT, Bucket, Client, Postgres, Redis, Weaviate

COMPONENTS = ("postgres", "weaviate", "media")
KEEP_LAST = 3  # backups of each component
CAST = {"near": ("one", "odd-one"), "far": ("odd-two",)}  # the workers of each machine

TABLES = """
create table lab_sample (id bigint generated always as identity primary key, name text not null, reads double precision[]);
create table lab_run (id bigint primary key, sample_id bigint references lab_sample, note text);
create table lab_since (mark text);
insert into lab_sample (name, reads) select 'sample ' || i, array[random(), random()] from generate_series(1, 4000) i;
insert into lab_run select i, i, md5(i::text) from generate_series(1, 4000) i;
"""
# Of no sequence: after a crash PostgreSQL goes on some numbers later.
DIGEST = """
select md5((select string_agg(s::text, ',' order by id) from lab_sample s)) || md5((select string_agg(r::text, ',' order by id) from lab_run r))
"""
AOF = ("--appendonly", "yes", "--appendfsync", "always")
SINCE = "5ince-"  # begins the names of files that were written in the middle of a round
LATER = "5ace0000-0000-4000-8000-"  # and the ids of such objects


class Lab:
    """Machines with a `BACKUP_ROOT` each, which share everything else: Redis, the bucket, and all that is backed up."""

    def __init__(self, stage, program, seed, cast=None):
        self.stage, self.program, self.chance = stage, program, random.Random(seed)
        self.told = []  # processes of workers that were told to stop
        self.quiet = threading.Lock()  # held by who breaks something, and by who must not be broken
        self.redis = self.durable_redis()
        self.postgres, self.bucket, self.weaviate = Postgres(stage), Bucket(stage), Weaviate(stage)
        self.media = stage.dir / "live/media"
        self.fill()
        self.settings = self.weaviate.env() | self.bucket.env | {
            "DATABASE_URL": self.postgres.url(),
            "MEDIA_ROOT": str(self.media),
            "BACKUP_MIN_FREE": "1MiB",
            "BACKUP_RETRY_DELAY": "1s",
            "BACKUP_RETENTION_DAYS": "0",
            "BACKUP_KEEP_LAST": str(KEEP_LAST),
            "BACKUP_WEAVIATE_TIMEOUT": "30s",
            "BACKUP_SHUTDOWN_GRACE": "2s",
            "RUST_LOG": "info",
        }  # fmt: skip
        self.machines = [Machine(self, name, workers) for name, workers in (cast or CAST).items()]
        self.is_small_disk = all(machine.is_small_disk for machine in self.machines)

    def durable_redis(self, *options, password=None):
        folder = self.stage.dir / f"redis-{len(list(self.stage.dir.glob('redis-*')))}"
        folder.mkdir()
        return Redis(self.stage, *AOF, "--dir", str(folder), *options, password=password)

    @property
    def workers(self):
        return [worker for machine in self.machines for worker in machine.workers]

    def machine(self):
        """Any of them."""
        return self.chance.choice(self.machines)

    def at_work(self, component):
        """The machine that holds the lock of a component in the fleet; None where none does."""
        holder = self.redis.cli("hget", "rna-backup:locks", component).stdout.strip()
        node = json.loads(holder)["node"] if holder else None
        return next((machine for machine in self.machines if node in [worker.env["BACKUP_WORKER_NAME"] for worker in machine.workers]), None)

    def line(self):
        """Any line of any machine."""
        return self.chance.choice([line for machine in self.machines for line in machine.lines.values()])

    def close(self):
        for machine in self.machines:
            machine.close()

    def fill(self):
        self.postgres.psql(TABLES)
        for number in range(150):
            path = self.media / f"{number % 7}/paper {number}.pdf"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.chance.randbytes(self.chance.randrange(60_000)))
        self.weaviate.ask("POST", "/v1/schema", {"class": "Paper", "vectorizer": "none", "properties": [{"name": "title", "dataType": ["text"]}]})
        self.objects(0, 30)

    def objects(self, first, last, begin="c0ffee00-0000-4000-8000-"):
        made = lambda n: {"class": "Paper", "id": f"{begin}{n:012}", "properties": {"title": f"Folding {n}"}, "vector": [n, 1.0]}  # noqa: E731
        self.weaviate.put([made(number) for number in range(first, last)])

    def live_on(self, round_number):
        """What an app does between two nights."""
        self.postgres.psql(f"insert into lab_sample (name) values ('of round {round_number}')")
        (self.media / f"{round_number % 7}/round {round_number}.txt").write_text(f"round {round_number}\n")
        (self.media / f"{self.chance.randrange(7)}/paper 0.pdf").write_bytes(self.chance.randbytes(5000))
        self.objects(1000 + round_number, 1001 + round_number)

    def write(self, component, number):
        """Writes a row, a file and an object as an app does in the middle of a round; fingerprints leave them out."""
        if component == "postgres":
            self.postgres.psql(f"insert into lab_since values ('{number}')")
        elif component == "media":
            (self.media / f"{SINCE}{number}").write_text("since")
        else:
            self.objects(number, number + 1, LATER)

    def has(self, component, number):
        """Returns whether the row, file or object that was written in the middle of a round is there."""
        if component == "postgres":
            return self.postgres.psql(f"select count(*) from lab_since where mark = '{number}'").stdout.strip() != "0"
        if component == "media":
            return (self.media / f"{SINCE}{number}").exists()
        return "Paper" in self.classes() and any(one["id"] == f"{LATER}{number:012}" for one in self.weaviate.objects("Paper"))

    def fingerprints(self):
        """A digest of all that is live; None where there is nothing whole to take one of."""
        return {component: self.fingerprint(component) for component in COMPONENTS}

    def fingerprint(self, component):
        return {"postgres": self.of_postgres, "weaviate": self.of_weaviate, "media": self.of_media}[component]()

    def of_postgres(self):
        done = self.postgres.psql(DIGEST, check=False)
        return done.stdout.strip() or None

    def of_media(self):
        digest = hashlib.sha256()
        for path in sorted(self.media.rglob("*")):
            if not path.relative_to(self.media).parts[0].startswith((".rna-", SINCE)):
                content = path.read_bytes() if path.is_file() else b""
                digest.update(f"{path.relative_to(self.media)} {path.stat().st_mode} {len(content)}\n".encode() + content)
        return digest.hexdigest() if self.media.exists() else None

    def of_weaviate(self):
        classes = [one for one in self.classes() if not is_mark(one)]
        if "Paper" not in classes:
            return None
        told = [(one["id"], one["properties"], one.get("vector")) for one in self.weaviate.objects("Paper") if not one["id"].startswith(LATER)]
        return hashlib.sha256(json.dumps([classes, told], sort_keys=True).encode()).hexdigest()

    def classes(self):
        return [one["class"] for one in self.weaviate.ask("GET", "/v1/schema")["classes"]]

    def start_workers(self):
        for machine in self.machines:
            machine.start()
            machine.ready()  # of two that put right at once what dead runs left, one leaves it to its next run

    def terminate(self, worker):
        """Tells a worker to stop; its process, None if it has ended before."""
        if worker.process.poll() is not None:
            return None
        worker.process.terminate()
        self.told.append(worker.process)
        return worker.process

    def client(self):
        return Client(self.stage, "5.3.6", self.redis.url)

    def results(self, ids):
        """What is stored of these tasks, as far as anything is."""
        if not ids:
            return {}
        answers = self.redis.cli("--json", "mget", *(f"celery-task-meta-{id}" for id in ids)).stdout
        return {id: json.loads(text) for id, text in zip(ids, json.loads(answers)) if text}

    def in_bucket(self):
        """The hash of each archive by its key, the manifests, and the keys of uploads that nobody has ended."""
        look = (
            "import boto3, hashlib, json, os; c = boto3.client('s3', endpoint_url=os.environ['AWS_S3_ENDPOINT'], region_name='us-east-1');"
            "b = os.environ['AWS_BACKUP_BUCKET'];"
            "keys = [o['Key'] for p in c.get_paginator('list_objects_v2').paginate(Bucket=b) for o in p.get('Contents', [])];"
            "read = {key: c.get_object(Bucket=b, Key=key)['Body'].read() for key in keys};"
            "archives = {key: hashlib.sha256(text).hexdigest() for key, text in read.items() if not key.startswith('manifests/')};"
            "manifests = [json.loads(text) for key, text in read.items() if key.startswith('manifests/')];"
            "uploads = [u['Key'] for u in c.list_multipart_uploads(Bucket=b).get('Uploads', [])];"
            "print(json.dumps({'archives': archives, 'manifests': manifests, 'uploads': uploads}))"
        )
        done = self.stage.run([ROOT / "target/venv/boto3/bin/python", "-c", look], env=self.bucket.env)
        return json.loads(done.stdout)

    def kill_pid(self, pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def is_mark(name):
    """Returns whether a class of Weaviate is a mark of rna-backup, and no class of the app."""
    return name.startswith("RnaBackupMark_")
