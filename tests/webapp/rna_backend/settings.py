"""The app's settings: those of Celery, and what Django needs for its admin with Backup Management."""

import json
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL") or REDIS_URL
CELERY_RESULT_BACKEND = os.environ.get("CELERY_RESULT_BACKEND") or REDIS_URL
CELERY_BROKER_TRANSPORT_OPTIONS = json.loads(os.environ.get("CELERY_BROKER_TRANSPORT_OPTIONS", "{}"))
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = json.loads(os.environ.get("CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS", "{}"))
CELERY_RESULT_COMPRESSION = os.environ.get("CELERY_RESULT_COMPRESSION")  # from Celery 5.7 on
CELERY_RESULT_EXTENDED = "CELERY_RESULT_EXTENDED" in os.environ
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_RESULT_SERIALIZER = "json"
CELERY_TIMEZONE = "Asia/Kolkata"

# The one line that hands the backups to rna-backup.
CELERY_TASK_ROUTES = {"api.backup.*": {"queue": "backups"}}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rna_backup_django",
    "api",
]
if "BEAT_IN_TABLES" in os.environ:
    INSTALLED_APPS.append("django_celery_beat")
    CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "rna_backend.security.ContentSecurityPolicy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

_database = urlsplit(os.environ.get("DATABASE_URL", "postgres://postgres@localhost:5432/rna_db"))
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _database.path[1:],
        "USER": unquote(_database.username or ""),
        "PASSWORD": unquote(_database.password or ""),
        "HOST": _database.hostname,
        "PORT": _database.port or 5432,
        "CONN_MAX_AGE": 60,  # as the app has it
        "CONN_HEALTH_CHECKS": True,  # a restore cuts such connections: each is looked at before a request uses it
    }
}

SECRET_KEY = os.environ.get("SECRET_KEY", "for tests alone")
DEBUG = True  # so that runserver serves the admin's static files
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "testserver"]
ROOT_URLCONF = "rna_backend.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
MEDIA_URL = "/media/"
MEDIA_ROOT = Path(os.environ.get("MEDIA_ROOT", "media"))
BACKUP_ROOT = os.environ.get("BACKUP_ROOT", "backups")
BACKUP_RESTORE_KEY = os.environ.get("BACKUP_RESTORE_KEY", "")
USE_TZ = True
TIME_ZONE = "Asia/Kolkata"
