"""A Docker engine with Compose 2: this machine's own, or one that is started here and stopped at the end.

    python tests/image/engine.py      exits with 0 where an engine answers or can be started, and says why where none can
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / "target/image-test"
COMPOSE = ROOT / "target/tools/docker-compose"


class Unavailable(Exception):
    """No engine can be had; the text says why."""


class Engine:
    """Commands against the engine, and the environment in which a terminal reaches it."""

    def __init__(self):
        self.process = None
        self.env = {name: os.environ[name] for name in ("HOME", "PATH", "DOCKER_HOST", "DOCKER_CONFIG") if name in os.environ}
        self.env |= {"LANG": "C.UTF-8", "TERM": "dumb"}

    def __enter__(self):
        if not shutil.which("docker"):
            raise Unavailable("there is no docker command (Debian: docker.io)")
        if not self.answers():
            self.start()
        if self.run("compose", "version", check=False).returncode != 0:
            self.add_compose()
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            self.process.wait()

    @property
    def is_own(self):
        """Whether nobody but this test uses the engine."""
        return self.process is not None

    def has(self, image):
        return self.run("image", "inspect", image, check=False).returncode == 0

    def answers(self):
        return self.run("info", check=False).returncode == 0

    def start(self):
        """An engine with its images under target/, so that the next run finds them."""
        if os.getuid() != 0 or not shutil.which("dockerd"):
            raise Unavailable("no Docker engine answers, and to start one takes root and dockerd (Debian: docker.io)")
        STATE.mkdir(parents=True, exist_ok=True)
        socket, log = Path("/run/rna-backup-image-test/docker.sock"), STATE / "dockerd.log"
        command = ["dockerd", "--host", f"unix://{socket}", "--data-root", STATE / "engine", "--exec-root", socket.parent, "--pidfile", socket.parent / "pid"]
        with open(log, "wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        self.env["DOCKER_HOST"] = f"unix://{socket}"
        while not self.answers():
            if self.process.poll() is not None:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
                self.process = None
                raise Unavailable(f"dockerd does not start here:\n{tail}")
            time.sleep(0.1)

    def add_compose(self):
        if not COMPOSE.exists():
            raise Unavailable("docker has no compose plugin: install it, or `make tools-compose` to build it")
        plugins = STATE / "docker/cli-plugins"
        plugins.mkdir(parents=True, exist_ok=True)
        shutil.copy(COMPOSE, plugins / "docker-compose")
        self.env["DOCKER_CONFIG"] = str(plugins.parent)

    def run(self, *words, check=True, **options):
        """A docker command to its end; its output as text."""
        done = subprocess.run(["docker", *map(str, words)], env=self.env, capture_output=True, text=True, **options)
        if check and done.returncode != 0:
            raise RuntimeError(f"docker {' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done

    def left_of(self, project):
        """Containers, networks and volumes of a compose project, by kind."""
        label = ["--filter", f"label=com.docker.compose.project={project}"]
        listed = {kind: self.run(kind, "ls", "--quiet", *(["--all"] if kind == "container" else []), *label).stdout.split() for kind in ("container", "network", "volume")}
        return {kind: names for kind, names in listed.items() if names}

    def remove(self, project):
        """Takes away what an interrupted run has left of a project."""
        for kind, names in self.left_of(project).items():
            self.run(kind, "rm", *(["--force"] if kind == "container" else []), *names)

    def build(self, tag, folder, *options, env=None, dockerfile=None):
        words = ["docker", "build", "--tag", tag, *options, *(["--file", "-"] if dockerfile else []), str(folder)]
        done = subprocess.run(words, env=self.env | (env or {}), input=dockerfile, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}")


if __name__ == "__main__":
    try:
        with Engine() as engine:
            print(engine.run("version", "--format", "docker {{.Server.Version}}").stdout.strip())
    except Unavailable as why:
        print(why)
        sys.exit(1)
