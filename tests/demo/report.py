"""What the demo says, and what it proved."""

import os
import sys

TTY = sys.stdout.isatty()
COLOUR = TTY and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def paint(code, text):
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


class Report:
    """Prints the story; keeps the proofs for its end."""

    def __init__(self):
        self.proofs = []

    def chapter(self, title):
        print(f"\n{paint('1;36', '==> ' + title)}", flush=True)

    def say(self, text):
        print(f"    {text}", flush=True)

    def shell(self, command):
        """A command as the reader could type it."""
        print(f"    {paint('33', '$ ' + command)}", flush=True)

    def output(self, text, lines=None):
        shown = text.rstrip("\n").splitlines()
        for line in shown[:lines]:
            print(f"      {line}", flush=True)
        if lines is not None and len(shown) > lines:
            print(f"      … {len(shown) - lines} more lines", flush=True)

    def progress(self, text):
        """One line in place on a terminal, a line each elsewhere."""
        if TTY:
            print(f"\r\033[K    {text}", end="", flush=True)
        else:
            self.say(text)

    def progress_end(self):
        if TTY:
            print(flush=True)

    def prove(self, claim, problems):
        """`problems`: sentences that speak against the claim; none proves it."""
        problems = list(problems)
        self.proofs.append((claim, problems))
        mark = paint("32", "proved") if not problems else paint("1;31", "NOT TRUE")
        self.say(f"{mark}: {claim}")
        for problem in problems[:10]:
            self.say(f"        {problem}")

    def summary(self, finished):
        """Whether everything held."""
        self.chapter("What this proved")
        for number, (claim, problems) in enumerate(self.proofs, 1):
            mark = paint("32", "✓") if not problems else paint("1;31", "✗")
            print(f"  {number:2}. {mark} {claim}")
        wrong = sum(1 for _, problems in self.proofs if problems)
        verdict = f"{wrong} of {len(self.proofs)} claims do not hold." if wrong else "Everything holds."
        if not finished:
            verdict = f"The demo did not come to its end. {verdict if wrong else ''}"
        held = finished and not wrong
        print(f"\n{paint('1;32' if held else '1;31', verdict)}", flush=True)
        return held


def unless(true, problem):
    """`prove("…", unless(a == b, f"{a} is not {b}"))`"""
    return [] if true else [problem]


def size(count):
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
