"""The image is built, the stack started, and docs/compose.md walked, on a real Docker engine: `make image-test`.

    python tests/image/image_test.py PROGRAM

PROGRAM is the binary of `make build`: the final stage of the image gets it, and the compiler's stage runs in `make image` alone.
Substitutes for what cannot be had here are printed as such.
"""

import io
import shutil
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import bases  # noqa: E402
import beside  # noqa: E402
import build  # noqa: E402
import demo  # noqa: E402
from documents import Commands  # noqa: E402
from engine import ROOT, STATE, Engine, Unavailable  # noqa: E402
from terminal import Failed, Terminal  # noqa: E402

STARTED = time.monotonic()


def say(text):
    print(f"[{time.monotonic() - STARTED:5.0f} s] {text}", flush=True)


class Runner:
    """Runs walks, which are lists of steps; after a failed step the rest of the walk is not tried, for each step builds on those before."""

    def __init__(self):
        self.passed, self.failed, self.skipped = [], [], []

    def side_by_side(self, walks):
        """Runs several walks at once. Each waits for health checks and deadlines most of the time, and they share nothing but the engine."""
        with ThreadPoolExecutor(len(walks)) as threads:
            for walked in [threads.submit(self.walk, steps, *arguments) for steps, *arguments in walks]:
                walked.result()

    def walk(self, steps, *arguments):
        for number, step in enumerate(steps):
            name = step.__name__.replace("_", " ")
            try:
                found = step(*arguments)
            except Exception as err:  # noqa: BLE001 - whatever it is, it is told, and the next walk goes on
                self.failed.append(step)
                say(f"FAILED {name}\n{type(err).__name__}: {err}")
                rest = steps[number + 1 :]
                self.skipped += rest
                if rest:
                    say(f"not tried after this failure: {len(rest)} more")
                return
            self.passed.append(step)
            say(f"ok     {name}" + (f": {found}" if found else ""))


def program_image(engine, program):
    """The image that stands for the compiler's stage: the binary at its place in that stage."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(program, "rna-backup")
    subprocess.run(["docker", "import", "-", "rna-backup-program"], input=archive.getvalue(), env=engine.env, check=True, capture_output=True)
    say("substitute: the program is a debug build without its symbols, built outside the image; `make image` compiles inside it")


def checkout():
    """A copy of what git has here, under a name that a person would give it."""
    folder = STATE / "work/rna-backup"
    shutil.rmtree(folder.parent, ignore_errors=True)
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def make_room(engine):
    """Nothing of an earlier run is there. In an engine of others, a project of that name is theirs."""
    for project in (demo.PROJECT, beside.PROJECT):
        if engine.is_own:
            engine.remove(project)
        elif left := engine.left_of(project):
            raise Unavailable(f"this engine has a compose project {project} already, with {left}: take it away first, if it is yours to take")


def main(program):
    readme = Commands("docs/compose.md")
    quickstart = Commands("docs/quickstart.md")
    runner = Runner()
    with Engine() as engine:
        made_here = bases.prepare(engine, say)
        program_image(engine, program)
        substitutes = {"RNA_BACKUP_PROGRAM": "rna-backup-program", "BACKUP_IMAGE": build.IMAGE}
        if made_here:
            substitutes |= {"PGDG": "", "POSTGRES_MAJORS": "15"}
            say("substitute: the client of PostgreSQL 15 from Debian alone, in place of PostgreSQL's own repository")
        options = [word for name, value in substitutes.items() for word in ("--build-arg", f"{name.removeprefix('RNA_BACKUP_')}={value}") if name != "BACKUP_IMAGE"]
        make_room(engine)
        repository = checkout()
        terminal = Terminal(engine, repository / readme.line("cd tests/webapp").removeprefix("cd "), substitutes)
        # The app beside which the worker is started is the app of the demo, too.
        terminal.run("docker compose build rna-backup app")
        runner.side_by_side(
            [
                (build.STEPS, engine, options),
                (demo.STEPS, demo.Demo(terminal, readme)),
                (beside.STEPS, beside.Lab(engine, repository, substitutes, readme, quickstart)),
            ]
        )
        for project in (demo.PROJECT, beside.PROJECT):
            engine.remove(project)
        if not runner.failed:
            runner.walk([every_command_of_the_documents_was_run], readme, quickstart)
    print(f"{len(runner.passed)} passed, {len(runner.failed)} failed, {len(runner.skipped)} skipped", flush=True)
    return 1 if runner.failed else 0


def every_command_of_the_documents_was_run(*documents):
    left = [line for document in documents for line in document.unused()]
    if left:
        raise Failed("commands that nobody ran:\n" + "\n".join(left))


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]).resolve()))
    except Unavailable as why:
        sys.exit(f"image-test NOT RUN: {why}")
