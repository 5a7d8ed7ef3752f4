"""What the unit tests share: the worker's tables, made by its own SQL, and rows as it writes them."""

from datetime import timedelta
from pathlib import Path

from celery import current_app
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import TestCase
from django.urls import reverse
from django.utils import timezone

from rna_backup_django.models import Backup, Run

SQL = (Path(__file__).resolve().parents[3] / "schemas/catalog.sql").read_text()
PREFIX = {"postgres": "pg", "media": "media", "weaviate": "weaviate"}


def page(name, *args):
    """Django's own pages want ids quoted: the `_23` of an hour would be a sign to them."""
    args = [quote(arg) for arg in args] if name in {"backup_change", "backup_delete"} else args
    return reverse(f"admin:rna_backup_{name}", args=args)


class CatalogTestCase(TestCase):
    """The tables are there, as a worker makes them."""

    @classmethod
    def setUpTestData(cls):
        with connection.cursor() as cursor:
            cursor.execute(SQL)

    def user(self, *permissions, superuser=False):
        user = User.objects.create_user(f"user{User.objects.count()}", is_staff=True, is_superuser=superuser)
        user.user_permissions.set(Permission.objects.filter(codename__in=[f"{name}_backup" for name in permissions]))
        return user

    def log_in(self, *permissions, superuser=False):
        user = self.user(*permissions, superuser=superuser)
        self.client.force_login(user)
        return user

    def sent(self):
        """The messages in the queue, taken out of it, as kombu has them."""
        with current_app.connection_for_read() as line, line.SimpleQueue("backups") as queue:
            found = []
            while queue.qsize():
                message = queue.get_nowait()
                message.ack()
                found.append(message)
            return found


def backup(component="postgres", age=timedelta(hours=1), number=0, **columns):
    """A row of a good backup; `columns` are what is different."""
    made = timezone.now() - age
    backup_id = f"{PREFIX[component]}_backup_{made:%Y%m%d_%H%M%S}{f'_{number}' if number else ''}"
    file = f"/backups/{component}/{backup_id}.zst"
    row = {
        "backup_id": backup_id,
        "component": component,
        "created_at": made,
        "finished_at": made + timedelta(seconds=75),
        "pinned": False,
        "size_bytes": 167_000_000,
        "source_bytes": 412_000_000,
        "sha256": "9f" * 32,
        "verified": "decode",
        "verified_at": made + timedelta(seconds=75),
        "state": "ok",
        "destinations": [{"destination": "local", "location": file, "bytes": 167_000_000, "state": "ok"}],
        "manifest": {"source": "rna_db", "program": "0.1.0", "facts": {"warning_count": 0, "counts": {}}},
        "digest": "d",
    }
    return Backup(**{**row, **columns})


def run(operation="backup", component="postgres", age=timedelta(hours=1), **columns):
    began = timezone.now() - age
    row = {
        "run_id": f"{operation}-{component}-{began.timestamp()}",
        "task_id": f"task-{operation}-{component}",
        "operation": operation,
        "component": component,
        "state": "success",
        "started_at": began,
        "finished_at": began + timedelta(seconds=5),
        "seen_at": began + timedelta(seconds=5),
        "worker": "lab-1",
    }
    return Run(**{**row, **columns})
