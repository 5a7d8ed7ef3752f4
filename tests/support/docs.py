"""Checks that the documentation tells the truth, as far as a program can know it.

    python tests/support/docs.py [PROGRAM]

Links and anchors lead somewhere, the book has every page, make targets, files, settings, tasks and metrics exist, messages are those of the
code, and code blocks can be read. With PROGRAM, each command line of rna-backup in the documentation is parsed by that binary, and the commands
that bring media back by hand are run.
"""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from docs_by_hand import media_by_hand

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README_LINES = 250
OF_OTHERS = {"BACKUP_FILESYSTEM_PATH", "BACKUP_S3_PATH", "BACKUP_S3_"}  # settings of Weaviate
FOLDERS = "benches|crates|django|docs|examples|findings|monitoring|schemas|src|tests"
NO_METRICS = {"rna_backup_backup", "rna_backup_run", "rna_backup_django", "rna_backup_signature"}
PLACEHOLDERS = {"COMPONENT": "postgres", "SHELL": "bash", "DAYS": "7"}


class Page:
    """A document: its text, the headings that links can lead to, its code blocks and its code in running text."""

    def __init__(self, path):
        self.path, self.name, self.text = path, str(path.relative_to(ROOT)), path.read_text()
        block = r"^( *)```(\w*)\n(.*?)^ *```$"
        self.blocks = [
            (language, re.sub(rf"^{indent}", "", block, flags=re.M))
            for indent, language, block in re.findall(block, self.text, re.S | re.M)
        ]
        self.prose = re.sub(block, "", self.text, flags=re.S | re.M)
        self.inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", self.prose)
        self.anchors = {anchor(heading) for heading in re.findall(r"^#+ (.*)$", self.prose, re.M)}
        self.is_of_the_book = DOCS in path.parents

    def commands(self, names):
        """The command lines of rna-backup, in code blocks and in running text."""
        lines = [line for language, block in self.blocks if language == "sh" for line in block.replace("\\\n", " ").splitlines()]
        lines += [code for code in self.inline if code.startswith("rna-backup ")]
        lines += [f"rna-backup {code}" for code in self.inline if " " in code and code.split()[0] in names]
        for line in lines:
            line = re.sub(r"(^|\s)#.*", "", line)
            if re.search(r"(^|[\s/])rna-backup ", line):
                words = shlex.split(re.split(r"[|;&<>]", re.sub(r"^.*?(?=\S*rna-backup )", "", line))[0])
                last = max((at for at, word in enumerate(words) if word.split("/")[-1] == "rna-backup"), default=None)
                if last is not None and words[last + 1 :] and "…" not in words and "COMMAND" not in words:
                    yield line.strip(), [PLACEHOLDERS.get(word, word) for word in words[last + 1 :]]


def anchor(heading):
    """The name that a heading has in links, as web pages of Markdown make it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def links(pages):
    by_path = {page.path: page for page in pages}
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.prose):
            if "://" in target:
                continue
            name, _, place = target.partition("#")
            path = (page.path.parent / name).resolve() if name else page.path
            if not path.exists():
                yield f"{page.name}: link to {target}, which does not exist"
            elif page.is_of_the_book and DOCS not in path.parents:
                yield f"{page.name}: link to {target}, which is not in the book: name the file in `code`"
            elif place and path in by_path and place not in by_path[path].anchors:
                yield f"{page.name}: link to {target}, which is no heading there"


def book(pages):
    summary = (DOCS / "SUMMARY.md").read_text()
    listed = re.findall(r"\]\(([^)]+)\)", summary)
    for page in pages:
        if page.is_of_the_book and page.path.name != "SUMMARY.md" and str(page.path.relative_to(DOCS)) not in listed:
            yield f"{page.name}: is missing in docs/SUMMARY.md"
    for name in {name for name in listed if listed.count(name) > 1}:
        yield f"docs/SUMMARY.md: has {name} twice"
    length = len((ROOT / "README.md").read_text().splitlines())
    if length > README_LINES:
        yield f"README.md: has {length} lines, more than {README_LINES}: move what it says into docs/"


def names(pages, code):
    """Things of this project that the documents name."""
    makefile = (ROOT / "Makefile").read_text()
    declared = [ROOT / "crates/base/src/env/known.rs", *sorted((ROOT / "crates/stores/src").rglob("kind.rs"))]
    known = set(re.findall(r'(?:open|secret)\("([A-Z0-9_]+)"\)', "".join(path.read_text() for path in declared)))
    compose = set(re.findall(r"\$\{([A-Z0-9_]+)", (ROOT / "compose.yaml").read_text()))
    metrics = set(re.findall(r"^\| `(rna_backup_\w+)`", (DOCS / "metrics.md").read_text(), re.M))
    tasks = set(re.findall(r'(?:const \w+: &str =|\w+_task:) "(api\.backup\.\w+\.\w+)"', code))
    for page in pages:
        if page.name == "CHANGELOG.md":
            continue
        for target in re.findall(r"(?:`(?=make [a-z-]+(?: [A-Z_]+=\S+)?`)|^)make ([a-z-]+)", page.text, re.M):
            if not re.search(rf"^{target}:", makefile, re.M):
                yield f"{page.name}: make {target}, which is no target"
        for path in page.inline:
            if re.fullmatch(rf"(?:{FOLDERS})/[\w./-]*", path) and not (ROOT / path).exists() and not (page.path.parent / path).exists():
                yield f"{page.name}: {path}, which does not exist"
        words = page.inline if page.name == "CONTRIBUTING.md" else [page.text]
        for setting in {name for text in words for name in re.findall(r"\b(?:BACKUP|POSTGRES|CELERY|AWS|WEAVIATE)_[A-Z0-9_]+", text)}:
            is_constant = page.path.parts[-2] in {"decisions", "django", "webapp"} or setting.startswith("CELERY_TASK")
            if setting not in known | compose | OF_OTHERS and setting.removesuffix("_FILE") not in known and not is_constant:
                yield f"{page.name}: setting {setting}, which nobody reads"
        for metric in set(re.findall(r"\brna_backup_\w+", page.text)) - NO_METRICS - metrics:
            yield f"{page.name}: metric {metric}, which docs/metrics.md does not have"
        for task in set(re.findall(r"api\.backup\.(?:tasks|restore)\.\w+", page.text)) - tasks:
            yield f"{page.name}: task {task}, which no code has"
    by_name = {page.name: page.text for page in pages}
    for target in re.findall(r"^([a-z-]+):.*## ", makefile, re.M):
        if f"`make {target}`" not in by_name["docs/developing.md"]:
            yield f"docs/developing.md: make {target} is missing"
    for setting in known | compose:
        if f"`{setting}`" not in by_name["docs/settings.md"]:
            yield f"docs/settings.md: setting {setting} is missing"
    for task in tasks:
        for name in ("README.md", "docs/tasks.md"):
            if f"`{task}`" not in by_name[name]:
                yield f"{name}: task {task} is missing"


def words(code):
    """Texts of the code that the documents repeat."""
    said = re.sub(r'\\\n\s*|"\n\s*"', "", code).replace('\\"', '"')  # as the compiler joins them
    messages = [("docs/troubleshooting.md", message) for message in re.findall(r"^\| `(.+?)`", (DOCS / "troubleshooting.md").read_text(), re.M)]
    for row in re.findall(r"^\| `[A-Z].*", (DOCS / "settings.md").read_text(), re.M):
        cells = re.split(r" \| ", row.strip("| \n"))
        messages += [("docs/settings.md", message.strip()) for message in re.findall(r"(?<!`)`+([a-z][^`]* [^`]*)`", cells[4] if len(cells) > 4 else "")]
    for name, message in messages:
        if message.removeprefix("is not ") not in said:
            yield f"{name}: message {message!r}, which nobody says"
    for runbook in re.findall(r"runbook_url: (\S+)", (ROOT / "monitoring/alerts.yml").read_text()):
        name, _, place = runbook.partition("#")
        if not (ROOT / name).exists() or place not in Page(ROOT / name).anchors:
            yield f"monitoring/alerts.yml: {runbook}, which does not exist"
    security, restore = (DOCS / "security.md").read_text(), (DOCS / "restore.md").read_text()
    rights = (ROOT / "crates/celery-redis/src/client/options.rs").read_text().split("```text")[1].split("```")[0]
    rights = rights.replace("QUEUE", "backups").replace("NAMESPACE", "rna-backup")
    for line in rights.replace("///", "").split("\n"):
        if line.strip() not in security:
            yield f"docs/security.md: right {line.strip()!r} of a worker in Redis is missing"
    if (ROOT / "src/component/weaviate/import.sh").read_text() not in restore:
        yield "docs/restore.md: the commands of src/component/weaviate/import.sh are missing"


def reads(language, block):
    """Reads a code block of a language that is known here; raises an exception where it is wrong."""
    if language == "sh":
        subprocess.run(["bash", "-n"], input=block, text=True, check=True, capture_output=True)
    elif language == "python":
        compile(block.replace("…", "..."), "block", "exec")
    elif language == "yaml":
        yaml.safe_load(block)
    elif language == "json":
        json.loads(block)
    elif language == "toml":
        tomllib.loads(block)
    elif language == "dotenv":
        for line in block.splitlines():
            if not re.fullmatch(r"[A-Z][A-Z0-9_]*=\S*", line):
                raise ValueError(f"{line!r} is no NAME=value")
    elif language not in {"sql", "text"}:
        raise ValueError("has a language that this check does not know: add it, or write `text`")


def blocks(pages):
    for page in pages:
        for language, block in page.blocks:
            try:
                reads(language, block)
            except subprocess.CalledProcessError as err:
                yield f"{page.name}: a block of sh cannot be read: {err.stderr}"
            except Exception as err:  # noqa: BLE001 - whatever the parser raises
                yield f"{page.name}: a block of {language or 'no language'}, {block[:50]!r}, cannot be read: {err}"


def commands(pages, program):
    """Command lines that the program does not take. `--help` at the end makes it parse the line and do nothing."""
    listing = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    names = set(re.findall(r"^  ([a-z]+)  ", listing, re.M))
    seen = {}
    for page in pages:
        for line, words in page.commands(names):
            key = tuple(words)
            if key not in seen:
                seen[key] = subprocess.run([program, *words, "--help"], capture_output=True, text=True)
            if seen[key].returncode:
                yield f"{page.name}: {line!r} is no command line of rna-backup: {seen[key].stderr.splitlines()[0]}"
    for name in names - {words[0] for words in seen}:
        yield f"rna-backup {name}: no document has a command line of it"


def problems(program):
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    pages = [Page(ROOT / name) for name in listed.splitlines() if (ROOT / name).exists()]
    code = "".join(path.read_text() for folder in ("src", "crates") for path in (ROOT / folder).rglob("*.rs"))
    yield from links(pages)
    yield from book(pages)
    yield from names(pages, code)
    yield from words(code)
    yield from blocks(pages)
    if program:
        yield from commands(pages, program)
        yield from media_by_hand(pages, program)


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1]).resolve() if sys.argv[1:] else None))
    for problem in found:
        print(problem)
    sys.exit(1 if found else 0)
