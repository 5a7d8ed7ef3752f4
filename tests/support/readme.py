"""Whether the documents tell the truth where a program can know: links lead somewhere, make targets and settings exist."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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
        for target in re.findall(r"(?:`|^)make ([a-z]+)", text, re.M):
            if not re.search(rf"^{target}:", makefile, re.M):
                yield f"{name}: make {target}, which is no target"
    for setting in set(re.findall(r"`(?:BACKUP|POSTGRES|CELERY|AWS)_[A-Z_]+`", (ROOT / "README.md").read_text())):
        if f'"{setting[1:-1]}"' not in code:
            yield f"README.md: setting {setting}, which no code reads"


if __name__ == "__main__":
    found = list(problems())
    print(*found, sep="\n")
    sys.exit(1 if found else 0)
