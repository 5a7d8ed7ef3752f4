"""Whether the documents tell the truth where a program can know: links lead somewhere, make targets and settings exist, messages are said."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OF_OTHERS = {"`BACKUP_FILESYSTEM_PATH`"}  # Weaviate's


def problems():
    documents = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    makefile = (ROOT / "Makefile").read_text()
    code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
    for name in documents.stdout.splitlines():
        document = ROOT / name
        text = document.read_text()
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target and not (document.parent / target).exists():
                yield f"{name}: link to {target}, which does not exist"
        for target in re.findall(r"(?:`(?=make [a-z-]+(?: [A-Z_]+=\S+)?`)|^)make ([a-z-]+)", text, re.M):
            if not re.search(rf"^{target}:", makefile, re.M):
                yield f"{name}: make {target}, which is no target"
    readme = (ROOT / "README.md").read_text()
    places = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", readme, re.M)}
    for place in re.findall(r"\]\(#([^)]*)\)", readme):
        if place not in places:
            yield f"README.md: link to #{place}, which is no heading"
    rights = (ROOT / "src/celery/client/options.rs").read_text().split("```text")[1].split("```")[0]
    for line in rights.replace("///", "").split("\n"):
        if line.strip() not in readme:
            yield f"README.md: right {line.strip()!r} of a worker in Redis is missing"
    messages = readme.split("\n## What it says")[1].split("\n## ")[0]
    said = re.sub(r'\\\n\s*|"\n\s*"', "", code)  # as the compiler joins them
    for message in re.findall(r"^\| `(.+?)`", messages, re.M):
        if message not in said:
            yield f"README.md: message {message!r}, which nobody says"
    for setting in set(re.findall(r"`(?:BACKUP|POSTGRES|CELERY|AWS)_[A-Z_]+`", readme)):
        if f'"{setting[1:-1]}"' not in code and setting not in OF_OTHERS:
            yield f"README.md: setting {setting}, which no code reads"


if __name__ == "__main__":
    found = list(problems())
    print(*found, sep="\n")
    sys.exit(1 if found else 0)
