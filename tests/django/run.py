"""Tests of the Django app: of its package, of its pages by Django's own client, and in a real browser.

    python tests/django/run.py PROGRAM [browser [TEST]]

Under the web app's own versions of Django and Celery, and under the newest. With real servers and the worker PROGRAM.
"""

import re
import shutil
import subprocess
import sys
import time
import unittest
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "browser"), str(HERE.parent / "support")]

from case import InBrowser  # noqa: E402
from lab import SCREENSHOTS, Lab  # noqa: E402
from servers import ROOT, Postgres, Stage  # noqa: E402
from web import PYTHONS  # noqa: E402


class Timed(unittest.TextTestResult):
    """Says of each test how long it took."""

    def startTest(self, test):
        self.began = time.monotonic()
        super().startTest(test)

    def addSuccess(self, test):
        self.stream.write(f"{time.monotonic() - self.began:.1f} s ")
        super().addSuccess(test)


def package(stage):
    """What is not Python is easily left out of a package: whether all of it is in."""
    wheels = stage.dir / "wheels"
    shutil.copytree(ROOT / "django", stage.dir / "source")
    stage.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", wheels, stage.dir / "source"])
    [wheel] = wheels.iterdir()
    packed = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "django/rna_backup_django"
    files = [path for path in source.rglob("*.*") if "__pycache__" not in path.parts]
    return [str(path) for path in files if str(path.relative_to(source.parent)) not in packed]


def unit(stage, version, postgres):
    """The tests by Django's own client, with Celery's broker in memory; the schedule in tables, where there is none in the code."""
    env = {
        "DATABASE_URL": postgres.url(),
        "CELERY_BROKER_URL": "memory://",
        "CELERY_RESULT_BACKEND": "cache+memory://",
        "BACKUP_RESTORE_KEY": "",
        "BEAT_IN_TABLES": "yes",
        "PYTHONPATH": str(ROOT / "django"),
    }
    command = [PYTHONS[version], ROOT / "tests/webapp/manage.py", "test", "--noinput", HERE / "unit"]
    done = subprocess.run(command, env=stage.env | env, capture_output=True, text=True)
    print(done.stdout, done.stderr, sep="", flush=True)
    count = int((re.search(r"Ran (\d+) test", done.stderr) or [0, 0])[1])
    failed = sum(map(int, re.findall(r"(?:failures|errors)=(\d+)", done.stderr))) or (done.returncode != 0)
    return count - failed, int(failed)


def browser(stage, program, version, pattern):
    """The tests in Chromium."""
    InBrowser.lab = Lab(stage, program, version)
    loader = unittest.TestLoader()
    loader.testNamePatterns = [f"*{pattern}*"]
    result = unittest.TextTestRunner(verbosity=2, resultclass=Timed).run(loader.discover(HERE / "browser"))
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    return result.testsRun - failed, failed


def without_browser(stage):
    """Passed and failed, of what needs none."""
    print("==> The package", flush=True)
    missing = package(stage)
    print(*missing, sep="\n")
    postgres = Postgres(stage)
    yield not missing, bool(missing)
    for version in PYTHONS:
        print(f"==> Pages and signatures under Django {version}", flush=True)
        yield unit(stage, version, postgres)


def in_browser(program, pattern):
    """All of them as the web app is now; what overwrites data also as it will be."""
    for version, default in (("4.2", ""), ("newest", "Restores")):
        print(f"==> In a browser, with Django {version}", flush=True)
        with Stage("rna-browser") as stage:
            yield browser(stage, program, version, pattern or default)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    program, what, pattern, began = sys.argv[1], sys.argv[2:3], "".join(sys.argv[3:4]), time.monotonic()
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    results = []
    if not what:
        with Stage("rna-django") as stage:
            results += without_browser(stage)
    results += in_browser(program, pattern)
    passed, failed = map(sum, zip(*results))
    print(f"{time.monotonic() - began:.0f} s, pictures in {SCREENSHOTS.relative_to(ROOT)}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
