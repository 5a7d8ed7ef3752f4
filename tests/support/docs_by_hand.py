"""Runs the commands of the documentation that open a backup of media without rna-backup."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path


class Lab:
    """A media folder with a full and an incremental backup, and its contents at both times."""

    def __init__(self, work, program):
        self.media, self.hand = work / "srv/app/media", work / "hand"
        self.environment = {
            "PATH": os.environ["PATH"],
            "MEDIA_ROOT": str(self.media),
            "BACKUP_ROOT": str(work / "backups"),
            "BACKUP_MIN_FREE": "1MiB",
        }
        backup = f"{program} backup media --json"
        (self.media / "folder").mkdir(parents=True)
        for name in ("stays", "changes", "goes", "folder/goes"):
            (self.media / name).write_text(name)
        # An incremental backup stores a file again if that was changed less than 100 ms before the backup that it builds on.
        time.sleep(0.1)
        self.full, self.then = json.loads(self.run(backup))["path"], contents(self.media)
        (self.media / "changes").write_text("has changed")
        (self.media / "folder/comes").write_text("new")
        (self.media / "goes").unlink()
        (self.media / "folder/goes").unlink()
        result = json.loads(self.run(backup))
        self.incremental, self.now = result["path"], contents(self.media)
        manifest = work / f"backups/manifests/media/{result['backup_id']}.json"
        if not json.loads(manifest.read_text())["facts"].get("builds_on"):
            raise AssertionError("the second backup of media is not an incremental one")

    def run(self, script):
        """Runs a script in an empty folder; its output."""
        shutil.rmtree(self.hand, ignore_errors=True)
        self.hand.mkdir()
        command = ["bash", "-eu", "-o", "pipefail", "-c", script]
        return subprocess.run(command, cwd=self.hand, env=self.environment, check=True, capture_output=True, text=True).stdout

    def here(self, commands):
        """The documented commands, with the names of this lab."""
        for name, value in [
            ("media_backup_20261122_040000.tar.zst", self.full),
            ("media_backup_20261124_040000.tar.zst", self.incremental),
            ("ARCHIVE", self.incremental),
            ("/srv/app/media", str(self.media)),
        ]:
            commands = commands.replace(name, value)
        return commands


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def media_by_hand(pages, program):
    """The faults of the commands for media in the documentation."""
    scripts = {page.name: [block for language, block in page.blocks if language == "sh"] for page in pages}

    def block(name, part):
        return next((block for block in scripts[name] if part in block), "false  # there is no block of commands with that")

    with tempfile.TemporaryDirectory() as work:
        lab = Lab(Path(work), program)
        restored = lab.hand / "restored"
        full = re.search(r"mkdir restored\nzstd -dc media_.*", block("docs/backups.md", "zstd -dc media_")).group()
        for name, commands, folder, expected in [
            ("docs/backups.md", full, restored, lab.then),
            ("docs/media.md", block("docs/media.md", "--listed-incremental"), restored, lab.now),
            ("docs/restore.md", block("docs/restore.md", "--listed-incremental"), lab.media, lab.now),
        ]:
            try:
                lab.run(lab.here(commands))
            except subprocess.CalledProcessError as err:
                yield f"{name}: the commands that bring media back by hand fail: {err.stderr}"
                continue
            if contents(folder) != expected:
                yield f"{name}: the commands bring back another media folder than was backed up"
