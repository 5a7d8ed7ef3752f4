"""Weaviate: beside its own API by hand, and beside its official Python client. `bench.py PROGRAM weaviate`."""

import shutil
import threading
import time
import urllib.error
from pathlib import Path

import measure
from servers import ROOT, Weaviate, wait_for

VERSION = "1.39.2"
OURS = "rna-backup, with proof"
CLASS = {
    "class": "Paper",
    "vectorizer": "none",
    "properties": [{"name": "title", "dataType": ["text"]}, {"name": "page", "dataType": ["int"]}],
}
POST = "curl -sS --fail-with-body -X POST -H 'Content-Type: application/json'"
CLIENT = ROOT / "target/venv/weaviate-client/bin/python"


class Vectors:
    """Races of the part `weaviate`; `bench` is what runs and prints them."""

    def __init__(self, bench, scale):
        self.bench, self.stage, self.count = bench, bench.stage, max(200, int(100_000 * scale))
        self.server = Weaviate(self.stage, VERSION)
        self.root, self.out = bench.root, self.stage.dir / "out"
        self.env = {"WEAVIATE_GRPC_PORT": self.server.settings["GRPC_PORT"], "F": str(self.server.folder), "U": self.server.url} | self.server.env()

    def run(self):
        print(f"\nWeaviate {VERSION}, {self.count:,} objects with vectors of 384. The server's own work is in no CPU column.")
        self.make()
        self.client(f"fill {self.count}")()
        self.wait()
        self.backups()
        self.restores()
        self.exports()
        self.imports()
        shutil.rmtree(self.root, ignore_errors=True)

    def race(self, title, contenders):
        self.bench.race(f"Weaviate: {title}", self.count * 384 * 4, None, contenders, ours=OURS, of=" of vectors")
        return self.bench.found["races"][f"Weaviate: {title}"]["contenders"]

    def backups(self):
        by_hand = (
            f"ID=hand-$RANDOM$RANDOM && {POST} $U/v1/backups/filesystem -d \"{{\\\"id\\\":\\\"$ID\\\"}}\" && "
            "until curl -sS $U/v1/backups/filesystem/$ID | grep -q SUCCESS; do sleep 0.1; done && "
            "tar -C $F -cf - $ID | zstd -q -3 -T2 >out && sync out && rm -r $F/$ID"
        )
        self.race(
            "a backup by filesystem",
            {OURS: self.ours("backup", clear=True), "POST, poll, tar | zstd -3 -T2": self.rival(by_hand)},
        )

    def restores(self):
        """Of the same class in place: ours copies, proves and keeps what was there."""
        self.bench.shell(f"{POST} $U/v1/backups/filesystem -d '{{\"id\":\"hand\"}}'", self.env)()
        wait_for("the backup by hand", lambda: self.server.ask("GET", "/v1/backups/filesystem/hand")["status"] == "SUCCESS", seconds=600)
        self.ours("backup")[0]()
        bare = (
            "rm -f $F/hand/restore_config.json && curl -sS -X DELETE $U/v1/schema/Paper && "
            f"{POST} $U/v1/backups/filesystem/hand/restore -d '{{}}' && "
            "until curl -sS $U/v1/backups/filesystem/hand/restore | grep -q SUCCESS; do sleep 0.1; done"
        )
        keep = lambda: None  # noqa: E731
        found = self.race(
            "a restore in place",
            {
                OURS: (self.watched(self.ours("restore")[0]), lambda: 0, keep),
                "DELETE, bare POST, poll": (self.watched(self.bench.shell(bare, self.env)), lambda: 0, keep),
            },
        )
        for name, run in found.items():
            print(f"  {name}: the class cannot be read for {run['missing']:.2f} s, of ours {run['missing'] / found[OURS]['missing']:.2f} x")
        shutil.rmtree(self.server.folder / "hand")
        shutil.rmtree(self.root)

    def exports(self):
        read = self.line("read") + " | zstd -q -3 -T2 >out && sync out"
        self.race(
            "an export, object by object",
            {
                OURS: self.ours("backup", {"BACKUP_WEAVIATE_BACKEND": "export"}, clear=True),
                "the Python client's iterator | zstd": self.rival(read),
            },
        )

    def imports(self):
        self.ours("backup", {"BACKUP_WEAVIATE_BACKEND": "export"})[0]()
        self.bench.shell(self.line("read") + " | zstd -q -3 -T2 >lines", self.env)()
        gone = lambda: self.server.ask("DELETE", "/v1/schema/Paper")  # noqa: E731
        keep = lambda: None  # noqa: E731
        self.race(
            "an import, until all is counted",
            {
                OURS: (self.counted(gone, self.ours("restore")[0]), lambda: 0, keep),
                "the Python client's batch (gRPC)": (
                    self.counted(lambda: (gone(), self.make()), self.bench.shell("zstd -dc lines | " + self.line("store"), self.env)),
                    lambda: 0,
                    keep,
                ),
            },
        )

    def line(self, work):
        return f"{CLIENT} {Path(__file__).with_name('weaviate_client.py')} {work}"

    def client(self, work):
        return self.bench.shell(self.line(work), self.env)

    def rival(self, command):
        return (self.bench.shell(command, self.env), lambda: self.out.stat().st_size, self.out.unlink)

    def ours(self, work, env=None, clear=False):
        env = self.stage.env | {"BACKUP_ROOT": str(self.root), "REDIS_URL": "", "BACKUP_METRICS_ADDR": ""} | self.server.env() | (env or {})
        command = [self.bench.program, work, "weaviate", "--json"] + (["--yes"] if work == "restore" else [])
        stored = lambda: sum(path.stat().st_size for path in self.root.glob("weaviate/*"))  # noqa: E731
        return (lambda: measure.run(command, env, self.stage.dir), stored, lambda: clear and shutil.rmtree(self.root))

    def make(self):
        self.server.ask("POST", "/v1/schema", CLASS)

    def number(self):
        asked = {"query": "{Aggregate{Paper{meta{count}}}}"}
        answer = self.server.ask("POST", "/v1/graphql", asked)["data"]
        return answer["Aggregate"]["Paper"][0]["meta"]["count"] if answer else 0

    def wait(self):
        wait_for("all objects to be counted", lambda: self.number() == self.count, self.server.process, seconds=600)

    def counted(self, prepare, run):
        """Counts until all objects are there, in the time of the run."""

        def whole():
            prepare()
            began = time.perf_counter()
            once = run()
            self.wait()
            return once | {"seconds": time.perf_counter() - began}

        return whole

    def watched(self, run):
        """Beside the run, how long the class cannot be read: from the last good answer before to the first one after."""

        def whole():
            ended, gaps = threading.Event(), [0.0]

            def look():
                last = time.perf_counter()
                while not ended.is_set():
                    if self.is_readable():
                        now = time.perf_counter()
                        gaps.append(now - last)
                        last = now
                    time.sleep(0.02)

            watcher = threading.Thread(target=look)
            watcher.start()
            once = run()
            ended.set()
            watcher.join()
            return once | {"missing": max(gaps)}

        return whole

    def is_readable(self):
        try:
            return bool(self.server.ask("GET", "/v1/objects?class=Paper&limit=1").get("objects"))
        except (urllib.error.HTTPError, OSError):
            return False
