"""The app's settings, as far as Celery reads them."""

import json
import os

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL") or REDIS_URL
CELERY_RESULT_BACKEND = os.environ.get("CELERY_RESULT_BACKEND") or REDIS_URL
CELERY_BROKER_TRANSPORT_OPTIONS = json.loads(os.environ.get("CELERY_BROKER_TRANSPORT_OPTIONS", "{}"))
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = json.loads(os.environ.get("CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS", "{}"))
CELERY_RESULT_EXTENDED = "CELERY_RESULT_EXTENDED" in os.environ
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_RESULT_SERIALIZER = "json"
CELERY_TIMEZONE = "Asia/Kolkata"

# The one line that hands the backups to rna-backup.
CELERY_TASK_ROUTES = {"api.backup.*": {"queue": "backups"}}
