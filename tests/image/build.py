"""The image itself: that its stages build, with what, and what is in it."""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

from engine import ROOT, STATE
from terminal import Failed

IMAGE = "rna-backup-test"
LIMIT = 120_000_000
# The crate that asks most of the build stage: a compiler, a linker, a shell and make.
NATIVE = "tikv-jemalloc-sys"


def dockerfile():
    return (ROOT / "Dockerfile").read_text()


def the_build_stage_has_what_the_c_code_of_our_crates_asks_for(engine, _):
    """The stage `toolchain` compiles jemalloc, once for each image of that stage. The whole program is compiled by `make image`, which takes longer."""
    engine.build("rna-backup-toolchain", ROOT, "--target", "toolchain", dockerfile=re.split(r"\nFROM toolchain AS build\n", dockerfile())[0])
    image = engine.run("image", "inspect", "--format", "{{.Id}}", "rna-backup-toolchain").stdout.strip()
    crates = hashlib.sha256((ROOT / "Cargo.lock").read_bytes()).hexdigest()
    proven = STATE / "toolchain-proven"
    if proven.exists() and proven.read_text() == f"{image} {crates}":
        return "an earlier run has compiled it in this very image"
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    subprocess.run(["cargo", "fetch", "--locked"], cwd=ROOT, check=True, capture_output=True)
    mounts = ["--volume", f"{ROOT}:/src:ro", "--volume", f"{home / 'registry'}:/usr/local/cargo/registry", "--volume", f"{STATE / 'native'}:/target"]
    # From another folder: the image's own Rust, and not the one that rust-toolchain.toml would have fetched.
    build = f"cargo build --manifest-path /src/Cargo.toml --offline --locked --target-dir /target --package {NATIVE}"
    # A fresh folder: what an earlier image has compiled proves nothing of this one.
    engine.run("run", "--rm", "--volume", f"{STATE}:/state", "debian:bookworm-slim", "rm", "-rf", "/state/native")
    (STATE / "native").mkdir(parents=True)
    engine.run("run", "--rm", *mounts, "rna-backup-toolchain", "sh", "-c", build)
    proven.write_text(f"{image} {crates}")
    return None


def the_older_builder_makes_the_same_image(engine, options):
    """Without BuildKit every stage is built, so the stage with the compiler is taken out of the file."""
    text = dockerfile()
    cut = text[: text.index("FROM rust:")] + text[text.index("# hadolint ignore=DL3006\nFROM ${PROGRAM}") :]
    engine.build("rna-backup-older-builder", ROOT, *options, env={"DOCKER_BUILDKIT": "0"}, dockerfile=cut)
    if files(engine, "rna-backup-older-builder") != files(engine, IMAGE):
        raise Failed("the two builders make different images")


def files(engine, image):
    container = engine.run("create", image).stdout.strip()
    try:
        listed = subprocess.run(f"docker export {container} | tar --list --verbose --numeric-owner", shell=True, env=engine.env, capture_output=True, text=True, check=True).stdout
    finally:
        engine.run("rm", container)
    found = {}
    for line in listed.splitlines():
        mode, owner, *_, name = line.split(" -> ")[0].split()
        found[name] = (mode, owner)
    # What Docker itself puts into each container.
    return {name: what for name, what in found.items() if not name.startswith(("dev/", "proc/", "sys/", ".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"))}


def the_image_is_small_and_has_nothing_that_the_worker_does_not_call(engine, _):
    size = json.loads(engine.run("image", "inspect", IMAGE).stdout)[0]["Size"]
    if size > LIMIT:
        raise Failed(f"the image has {size / 1e6:.0f} MB, and {LIMIT / 1e6:.0f} are promised")
    found = files(engine, IMAGE)
    programs = {name for name, (mode, _) in found.items() if mode.startswith("-") and "x" in mode and ".so" not in name}
    called = {name for name in programs if re.fullmatch(r"usr/local/bin/rna-backup|usr/lib/postgresql/\d+/bin/(pg_dump|pg_restore)", name)}
    if programs != called or "usr/local/bin/rna-backup" not in programs or len(programs) % 2 == 0:
        raise Failed(f"programs in the image: {sorted(programs)}")
    for folder in ("app-media/", "weaviate-backups/", "media/"):
        if folder in found:
            raise Failed(f"/{folder} is in the image: Docker would give its owner to an empty volume of the app's")
    return f"{size / 1e6:.1f} MB"


def the_bill_of_materials_names_each_package_of_the_image(engine, _):
    subprocess.run(["make", "sbom", f"IMAGE={IMAGE}"], cwd=ROOT, env=os.environ | engine.env, check=True, capture_output=True)
    packages = {name.rsplit("/", 1)[-1] for name in files(engine, IMAGE) if name.startswith("var/lib/dpkg/status.d/") and not name.endswith("/")}
    bill = json.loads((ROOT / "target/rna-backup-image.cdx.json").read_text())
    named = {component["name"] for component in bill["components"]}
    if named != packages or not {"libc6", "libpq5"} <= named or not all(component["version"] for component in bill["components"]):
        raise Failed(f"the bill of materials names {sorted(named)}, and the image has {sorted(packages)}")


STEPS = [
    the_image_is_small_and_has_nothing_that_the_worker_does_not_call,
    the_older_builder_makes_the_same_image,
    the_bill_of_materials_names_each_package_of_the_image,
    the_build_stage_has_what_the_c_code_of_our_crates_asks_for,
]
