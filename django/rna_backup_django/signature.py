"""Signs what takes data away, when the setting BACKUP_RESTORE_KEY is there and the worker has the same.

Whoever can write to the broker could order a restore; the signature says that it was us. It is made at the last
moment before Celery hands a message to kombu, so that `.delay()`, Beat and the admin pages are all alike.
"""

import hashlib
import hmac
import os
import time

from celery import current_app
from celery.signals import before_task_publish
from django.conf import settings
from kombu.serialization import dumps

from rna_backup_django.tasks import SIGNED

HEADER = "rna_backup_signature"


def restore_key():
    """The setting, or the environment variable: the worker reads its own from there."""
    return getattr(settings, "BACKUP_RESTORE_KEY", None) or os.environ.get("BACKUP_RESTORE_KEY") or None


def sign(key, seconds, task_id, task, body):
    """The header for a message with these bytes as its body."""
    signed = f"v1\n{seconds}\n{task_id}\n{task}\n".encode() + body
    return f"v1:{seconds}:{hmac.new(key.encode(), signed, hashlib.sha256).hexdigest()}"


@before_task_publish.connect(dispatch_uid="rna_backup_signature")
def sign_message(sender=None, body=None, headers=None, **_):
    """Signs the bytes that kombu is about to make of `body`: it makes the same ones of the same object again."""
    key = restore_key()
    if sender not in SIGNED or not key:
        return
    _, _, serialized = dumps(body, serializer=current_app.conf.task_serializer)
    if isinstance(serialized, str):
        serialized = serialized.encode()
    headers[HEADER] = sign(key, int(time.time()), headers["id"], sender, serialized)
