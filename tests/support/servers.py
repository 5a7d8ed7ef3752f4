"""Private servers and programs for the demo and the benchmarks: in one folder, on free ports, gone at the end.

Every process carries the folder's name in its environment, so that `Stage.left_running` can prove that none is left.
"""

import glob
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "tests/support/client.py"
WEBAPP = ROOT / "tests/webapp"
PYTHONS = {"5.3.6": ROOT / "target/venv/celery-5.3/bin/python", "newest": ROOT / "target/venv/celery-newest/bin/python"}


class Failed(Exception):
    """Something could not be done; the text is for people."""


class Stage:
    """A folder and everything that runs in it."""

    def __init__(self, name):
        self.dir = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self.dir.chmod(0o711)  # the user postgres must get through to its own folder
        self.env = os.environ | {"RNA_STAGE": str(self.dir)}
        self.processes = []

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: (_ for _ in ()).throw(SystemExit(130)))
        return self

    def __exit__(self, *_):
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # nothing may interrupt the tidying
        for process in reversed(self.processes):
            stop(process)
        shutil.rmtree(self.dir, ignore_errors=True)

    def start(self, command, log, env=None, cwd=None, user=None, stop_signal=signal.SIGTERM):
        """Starts a program that is killed when we are, in whatever way; its output goes to the file `log`."""
        with open(self.dir / log, "ab") as out:
            process = subprocess.Popen(
                ["setpriv", *as_user(user), "--pdeathsig", "KILL", *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.env | (env or {}),
                cwd=cwd or self.dir,
                start_new_session=True,
            )
        process.log, process.stop_signal = self.dir / log, stop_signal
        self.processes.append(process)
        return process

    def end(self, *processes):
        """Stops some of them before the end."""
        for process in processes:
            stop(process)
            self.processes.remove(process)

    def run(self, command, env=None, user=None, check=True, **options):
        """Runs a program to its end; its output as text."""
        done = subprocess.run(
            ["setpriv", *as_user(user), "--pdeathsig", "KILL", *map(str, command)],
            env=self.env | (env or {}),
            cwd=self.dir,
            stdin=options.pop("stdin", subprocess.DEVNULL),
            capture_output=True,
            text=True,
            errors="surrogateescape",
            **options,
        )
        if check and done.returncode != 0:
            raise Failed(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def left_running(self):
        """Process ids of whatever was started here and still runs."""
        mark, found = f"RNA_STAGE={self.dir}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0") and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
            except OSError:
                pass  # it ended meanwhile, or is somebody else's
        return found


def as_user(user):
    """PostgreSQL refuses to run as root."""
    if user is None or os.getuid() != 0:
        return []
    return [f"--reuid={user}", f"--regid={user}", "--init-groups"]


def stop(process, grace=10):
    """Its stop signal, then SIGKILL to the whole group."""
    if process.poll() is None:
        process.send_signal(process.stop_signal)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def new_password():
    """With everything that a URL, a shell or a .pgpass file would trip over."""
    return f"{secrets.token_hex(8)}:@/'%\\ #"


# The kernel gives none of these ports to connections. Processes that run at the same time begin at places of their own.
PORTS = itertools.islice(itertools.cycle(range(12_000, 32_000)), os.getpid() * 701 % 20_000, None)


def free_port():
    """A port that is free, and stays so until a server takes it: no connection and no other caller in this process gets it."""
    return next(port for port in PORTS if is_free(port))


def is_free(port):
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


def free_pair():
    """A port that is free, as the next one is: Weaviate wants two ports in a row for its cluster."""
    before = free_port()
    while True:
        port = free_port()
        if port == before + 1:
            return before
        before = port


def wait_for(what, ready, process=None, seconds=30):
    """Waits until `ready()` is true, and says what it waited for when it never is."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ready()
        if answer:
            return answer
        died = process is not None and process.poll() is not None
        if died or time.monotonic() > deadline:
            why = f"it ended with {process.returncode}" if died else f"not within {seconds} s"
            tail = "\n".join(process.log.read_text(errors="replace").splitlines()[-30:]) if process else ""
            raise Failed(f"{what}: {why}\n{tail}")
        time.sleep(0.02)


class Redis:
    """A Redis with a password on a free port; `options` are further ones of its own."""

    def __init__(self, stage, *options, password=None):
        self.stage, self.port, self.password = stage, free_port(), password or new_password()
        self.url = f"redis://:{quote(self.password, safe='')}@127.0.0.1:{self.port}/0"
        self.command = ["redis-server", "--bind", "127.0.0.1", "--port", self.port, "--save", "", "--requirepass", self.password, *options]
        self.start()

    def start(self):
        self.process = self.stage.start(self.command, "redis.log")
        wait_for("start Redis", lambda: self.cli("ping", check=False).stdout.strip() == "PONG", self.process)

    def cli(self, *command, check=True):
        return self.stage.run(self.client(*command), env=self.auth(), check=check)

    def client(self, *command):
        return ["redis-cli", "-p", self.port, *command]

    def auth(self):
        return {"REDISCLI_AUTH": self.password}

    def length(self, queue):
        return int(self.cli("llen", queue).stdout)

    def record_results(self):
        """Writes everything that is published on result channels to a file from now on."""
        command = self.client("--csv", "psubscribe", "celery-task-meta-*")
        process = self.stage.start(command, "results.csv", env=self.auth())
        wait_for("listen to results", lambda: b"psubscribe" in process.log.read_bytes(), process)
        return process.log


class Bucket:
    """A bucket at an S3 server: the front of MinIO over a folder."""

    def __init__(self, stage, name="labbackups"):
        folder, port, program = stage.dir / "s3", free_port(), ROOT / "target/venv/juicefs/bin/juicefs"
        folder.mkdir()
        meta, secret = f"sqlite3://{folder}/meta.db", new_password()
        stage.run([program, "format", meta, "lab", "--storage", "file", "--bucket", f"{folder}/data/"])
        command = [program, "gateway", "--multi-buckets", "--keep-etag", "--no-banner", "--cache-dir", folder / "cache"]
        command += ["--metrics", f"127.0.0.1:{free_port()}", "--log", folder / "log", meta, f"127.0.0.1:{port}"]
        self.stage, self.command, self.port, self.folder = stage, command, port, folder
        self.keys = {"MINIO_ROOT_USER": "lab", "MINIO_ROOT_PASSWORD": secret}
        self.start()
        self.env = {
            "AWS_BACKUP_BUCKET": name,
            "AWS_S3_ENDPOINT": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "lab",
            "AWS_SECRET_ACCESS_KEY": secret,
        }
        create = "import boto3, os; boto3.client('s3', endpoint_url=os.environ['AWS_S3_ENDPOINT'], region_name='us-east-1').create_bucket(Bucket=os.environ['AWS_BACKUP_BUCKET'])"
        python = [ROOT / "target/venv/boto3/bin/python", "-c", create]
        wait_for("make a bucket", lambda: stage.run(python, env=self.env, check=False).returncode == 0, self.process)

    def start(self):
        self.process = self.stage.start(self.command, "s3.log", env=self.keys)


class Postgres:
    """A PostgreSQL cluster with passwords on a free port, run by the user postgres when we are root."""

    def __init__(self, stage, database="rna_db"):
        found = glob.glob("/usr/lib/postgresql/*/bin/postgres")
        self.bin = Path(max(found, key=lambda path: int(path.split("/")[4]))).parent
        self.stage, self.port, self.password = stage, free_port(), new_password()
        home = Path(tempfile.mkdtemp(prefix="postgresql-", dir=stage.dir))
        secret = home / "password"
        secret.write_text(self.password)
        self.user = "postgres" if os.getuid() == 0 else None
        if self.user:
            for path in (home, secret):
                shutil.chown(path, self.user, self.user)
        initdb = ["initdb", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", secret, "-E", "UTF8", "--locale=C.UTF-8"]
        stage.run([self.bin / initdb[0], *initdb[1:], "-N", "-D", home / "data"], user=self.user)
        server = [self.bin / "postgres", "-D", home / "data", "-p", self.port, "-k", home]
        settings = ["listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=128MB", "max_wal_size=4GB"]
        for setting in settings:
            server += ["-c", setting]
        self.command = server
        self.start()
        self.database = database
        self.psql(f'create database "{database}"', "postgres")

    def start(self):
        self.process = self.stage.start(self.command, "postgres.log", cwd="/", user=self.user, stop_signal=signal.SIGINT)
        wait_for("start PostgreSQL", lambda: self.psql("select 1", "postgres", check=False).returncode == 0, self.process)

    def env(self, database=None):
        """What libpq reads: for psql, pg_dump and pg_restore as a person would run them."""
        server = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "postgres", "PGPASSWORD": self.password}
        return server | {"PGDATABASE": database or self.database}

    def psql(self, sql, database=None, check=True):
        command = [self.bin / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql]
        return self.stage.run(command, env=self.env(database), check=check)

    def script(self, path, database=None):
        self.stage.run([self.bin / "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", path], env=self.env(database))

    def url(self):
        return f"postgres://postgres:{quote(self.password, safe='')}@127.0.0.1:{self.port}/{self.database}"


class Weaviate:
    """A Weaviate server of a version that `make weaviate` builds, with the module backup-filesystem."""

    def __init__(self, stage, version="1.26.1"):
        self.stage, self.port, home = stage, free_port(), stage.dir / "weaviate"
        self.folder, self.url = home / "backups", f"http://127.0.0.1:{self.port}"
        for path in (home, home / "data", self.folder):
            path.mkdir()
        program = ROOT / f"target/weaviate/{version}/weaviate-server"
        self.command = [program, "--host", "127.0.0.1", "--port", self.port, "--scheme", "http"]
        self.settings = {name: str(value) for name, value in self.of_one_node(home).items()}
        self.start()

    def of_one_node(self, home):
        """The server's environment: a cluster of one, that asks nobody else."""
        gossip, raft = free_pair(), free_port()
        return {
            "PERSISTENCE_DATA_PATH": home / "data",
            "ENABLE_MODULES": "backup-filesystem",
            "BACKUP_FILESYSTEM_PATH": self.folder,
            "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "true",
            "DEFAULT_VECTORIZER_MODULE": "none",
            "DISABLE_TELEMETRY": "true",
            "GO_PROFILING_DISABLE": "true",
            "LOG_LEVEL": "warning",
            "CLUSTER_HOSTNAME": "node1",
            "CLUSTER_ADVERTISE_ADDR": "127.0.0.1",
            "CLUSTER_ADVERTISE_PORT": gossip,
            "CLUSTER_GOSSIP_BIND_PORT": gossip,
            "CLUSTER_DATA_BIND_PORT": gossip + 1,
            "GRPC_PORT": free_port(),
            "RAFT_PORT": raft,
            "RAFT_INTERNAL_RPC_PORT": free_port(),
            "RAFT_BOOTSTRAP_EXPECT": 1,
            "RAFT_JOIN": f"node1:{raft}",
        }

    def start(self):
        self.process = self.stage.start(self.command, "weaviate.log", env=self.settings)
        wait_for("start Weaviate", self.is_ready, self.process, seconds=60)

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"{self.url}/v1/.well-known/ready", timeout=5):
                return True
        except OSError:
            return False

    def ask(self, method, path, body=None):
        """A request as any client would send it; the answer as JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def put(self, objects):
        """Stores objects."""
        self.batch("/v1/batch/objects", {"objects": objects})

    def link(self, references):
        """Stores references between objects."""
        self.batch("/v1/batch/references", references)

    def batch(self, path, things):
        for answer in self.ask("POST", path, things):
            if answer["result"].get("status") == "FAILED":
                raise Failed(f"Weaviate refuses something: {answer['result']}")

    def objects(self, name, tenant=None):
        """The objects of a class, or of one of its tenants, in the order of their ids."""
        path, after = f"/v1/objects?class={name}&limit=1000&include=vector" + (f"&tenant={tenant}" if tenant else ""), ""
        while page := self.ask("GET", path + after)["objects"]:
            yield from page
            after = f"&after={page[-1]['id']}"

    def says_started(self, backup):
        """Whether the server says of a backup that it has begun it and not ended."""
        return self.ask("GET", f"/v1/backups/filesystem/{backup}")["status"] in ("STARTED", "TRANSFERRING")

    def env(self):
        return {"WEAVIATE_URL": self.url, "BACKUP_WEAVIATE_DIR": str(self.folder)}


class Worker:
    """`rna-backup worker`, and the program's other commands in the same environment."""

    def __init__(self, stage, program, env):
        self.stage, self.program = stage, Path(program).resolve()
        self.metrics = f"127.0.0.1:{free_port()}"
        self.env = env | {"BACKUP_METRICS_ADDR": self.metrics}
        self.process = None

    def start(self):
        self.process = self.stage.start([self.program, "worker"], "worker.log", env=self.env)
        wait_for("start the worker", self.ready, self.process)

    def ready(self):
        return self.http("/readyz") is not None

    def http(self, path):
        """The body, or None when the answer is not 200."""
        try:
            with urllib.request.urlopen(f"http://{self.metrics}{path}", timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            return None

    def command(self, *arguments, prefix=(), env=None, check=True):
        return self.stage.run([*prefix, self.program, *arguments], env=self.env | (env or {}), check=check)


class Client:
    """A Celery client of one version: `client.py`, asked in JSON lines."""

    def __init__(self, stage, version, redis_url):
        command = ["setpriv", "--pdeathsig", "KILL", PYTHONS[version], CLIENT, redis_url]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=stage.env, start_new_session=True
        )
        self.process.stop_signal = signal.SIGTERM
        stage.processes.append(self.process)
        self.celery = self.ask(do="version")["celery"]

    def each(self, **request):
        """The lines of an answer as they come."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        while True:
            answer = json.loads(self.process.stdout.readline() or '{"failed": "the client died"}')
            if "failed" in answer:
                raise Failed(f"celery client, {request}: {answer['failed']}")
            yield answer
            if answer["done"]:
                return

    def ask(self, **request):
        return list(self.each(**request))[-1]

    def delay(self, task, *args, **kwargs):
        return self.ask(do="send", task=task, args=args, kwargs=kwargs)["id"]

    def get(self, task_id, timeout=60):
        """What became of a task, whatever it was; no answer in time is a failure of ours."""
        answer = self.ask(do="get", id=task_id, timeout=timeout)
        if answer["state"] is None:
            raise Failed(f"task {task_id} has no result after {timeout} s")
        return answer
