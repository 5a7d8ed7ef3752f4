"""The images that our files name, where no registry can be asked for them: made here of Debian's packages, under the same names.

Each folder of bases/ says at the head of its Dockerfile what it stands in for. The real images are taken wherever a registry answers.
"""

import shutil
import subprocess
from pathlib import Path

from engine import STATE, Unavailable

BASES = Path(__file__).resolve().parent / "bases"
DEBIAN = "debian:bookworm-slim"
# In the order in which they build on one another.
MADE_HERE = {
    "python:3.12-slim-bookworm": "python",
    "rust:1.95-slim-bookworm": "rust",
    "redis:7-alpine": "redis",
    "postgres:16": "postgres",
    "cr.weaviate.io/semitechnologies/weaviate:1.26.1": "weaviate",
    "minio/minio:RELEASE.2025-09-07T16-13-09Z": "minio",
    "minio/mc:RELEASE.2025-08-13T08-35-41Z": "mc",
    "prom/prometheus:v3.5.0": "prometheus",
    "grafana/grafana:11.6.0": "grafana",
}
AUTHORITIES = Path("/usr/local/share/ca-certificates")


LABEL = "rna-backup.stand-in"


def prepare(engine, say):
    """Every image under its name. True: they were made here, in an engine that nobody else uses."""
    if not engine.has(DEBIAN) and engine.run("pull", DEBIAN, check=False).returncode == 0:
        return False
    if not engine.is_own:
        if missing := [name for name in (DEBIAN, *MADE_HERE) if not engine.has(name)]:
            raise Unavailable(f"no registry answers, this engine lacks {', '.join(missing)}, and stand-ins are made only in an engine that the test starts: stop this one")
        return False
    if engine.has(DEBIAN) and not engine.run("image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', DEBIAN).stdout.strip():
        return False
    debian(engine, say)
    for name, folder in MADE_HERE.items():
        head = (BASES / folder / "Dockerfile").read_text().splitlines()[0]
        say(f"stand-in: {head.removeprefix('# ')}")
        engine.build(name, context(folder))
    return True


def debian(engine, say):
    say(f"stand-in: {DEBIAN}: made by debootstrap from Debian's packages")
    if engine.has(DEBIAN):
        return
    tree = STATE / "bookworm"
    shutil.rmtree(tree, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", tree]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"debootstrap: exit {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    # The authorities that this machine trusts, so that packages can be fetched in a build as they can here.
    if AUTHORITIES.is_dir():
        shutil.copytree(AUTHORITIES, tree / "usr/local/share/ca-certificates", dirs_exist_ok=True)
        subprocess.run(["chroot", tree, "update-ca-certificates"], check=True, capture_output=True)
    shutil.rmtree(tree / "var/cache/apt/archives", ignore_errors=True)
    archive = subprocess.Popen(["tar", "--create", "--directory", tree, "."], stdout=subprocess.PIPE)
    engine.run("import", "--change", f"LABEL {LABEL}=yes", "-", DEBIAN, stdin=archive.stdout)
    archive.wait()
    shutil.rmtree(tree)


def context(name):
    """The build context of a stand-in: its folder, with the programs of this machine that it asks for."""
    folder = STATE / "bases" / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(BASES / name, folder)
    if name == "weaviate":
        (folder / "server").mkdir()
        shutil.copy(STATE.parent / "weaviate/1.26.1/weaviate-server", folder / "server")
    if name == "rust":
        sysroot = Path(subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True).stdout.strip())
        for part in ("bin", "lib"):
            shutil.copytree(sysroot / part, folder / "rust" / part, symlinks=True)
    return folder
