"""The commands that the documents tell people to type: a test runs these very lines, so that no document can lie."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Commands:
    """Each line of the code blocks below a heading, and which of them have been run."""

    def __init__(self, path, heading=None, end=r"\n## "):
        text = (ROOT / path).read_text()
        if heading:
            text = re.split(end, text.split(f"\n{heading}\n", 1)[1], maxsplit=1)[0]
        self.path, self.blocks = path, re.findall(r"^( *)```(\w+)\n(.*?)^ *```", text, re.S | re.M)
        self.lines = [line for language, block in self.of("sh") for line in block.splitlines() if line]
        self.used = set()

    def of(self, *languages):
        for indent, language, block in self.blocks:
            if language in languages:
                yield language, re.sub(rf"^{indent}", "", block, flags=re.M)

    def line(self, part):
        """The one line that is `part` or holds it, without its comment."""
        found = [line for line in self.lines if line == part] or [line for line in self.lines if part in line]
        if len(set(found)) != 1:
            raise AssertionError(f"{self.path} should tell people one command with {part!r}, and tells {found}")
        self.used.add(found[0])
        return re.sub(r"\s+#.*", "", found[0])

    def block(self, language, part):
        """The one block of a language that holds `part`."""
        found = [block for _, block in self.of(language) if part in block]
        if len(found) != 1:
            raise AssertionError(f"{self.path} should have one block of {language} with {part!r}, and has {len(found)}")
        return found[0]

    def unused(self):
        return [line for line in self.lines if line not in self.used]
