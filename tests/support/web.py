"""The lab's Django project in miniature, served: for the demo and for the tests in a browser."""

import http.client
import json
import urllib.error
import urllib.request

from servers import ROOT, WEBAPP, free_port, wait_for

PYTHONS = {version: ROOT / f"target/venv/django-{version}/bin/python" for version in ("4.2", "newest")}

# Reads one JSON document; everything that is made goes through Django's own models.
FILL = """
import json, sys
from django.contrib.auth.models import Permission, User
from django.core.files.base import ContentFile
from api.models import Document, Figure
wanted = json.loads(%r)
for name, permissions in wanted["users"].items():
    user, _ = User.objects.get_or_create(username=name, defaults={"is_staff": True, "is_superuser": permissions is None})
    user.set_password(wanted["password"])
    user.save()
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions or ["download_backup"]))
for title in wanted["documents"]:
    document = Document.objects.create(title=title, author="A. Kumar", file=ContentFile(title.encode() * 1000, "paper.pdf"))
    Figure.objects.create(document=document, caption="Figure 1", file=ContentFile(b"\\x89PNG" + title.encode(), "figure.png"))
"""


class Web:
    """`manage.py runserver` on a free port, in the environment of the worker."""

    def __init__(self, stage, env, version="4.2"):
        self.stage, self.python, self.port, self.folder = stage, PYTHONS[version], free_port(), WEBAPP
        self.env = env | {"PYTHONPATH": str(ROOT / "django"), "DJANGO_SETTINGS_MODULE": "rna_backend.settings"}
        self.url = f"http://127.0.0.1:{self.port}/admin/"
        self.manage("migrate", "--verbosity", "0")
        self.process = None

    def start(self):
        command = [self.python, WEBAPP / "manage.py", "runserver", "--noreload", f"127.0.0.1:{self.port}"]
        self.process = self.stage.start(command, "web.log", env=self.env)
        wait_for("start the web app", self.answers, self.process)

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.url}login/", timeout=5):
                return True
        except urllib.error.URLError:
            return False

    def manage(self, *arguments):
        return self.stage.run([self.python, WEBAPP / "manage.py", *arguments], env=self.env).stdout

    def shell(self, code):
        return self.manage("shell", "-c", code)

    def fill(self, password, users, documents=()):
        """Users by name with their permissions, None for a superuser; documents by title, each with files."""
        self.shell(FILL % json.dumps({"password": password, "users": users, "documents": list(documents)}))


class Thread:
    """A line to the web server that stays open: one thread of the server, with its own connection to the database."""

    def __init__(self, web):
        self.line = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)

    def status(self):
        """Of a page that looks into the database, for a session that is not there."""
        self.line.request("GET", "/admin/login/", headers={"Cookie": f"sessionid={'0' * 32}"})
        with self.line.getresponse() as answer:
            answer.read()
            assert not answer.will_close, "the thread ends"
            return answer.status

    def close(self):
        self.line.close()
