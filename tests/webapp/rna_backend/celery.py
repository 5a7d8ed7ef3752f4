"""The app object and its schedule: names and times are those of RNA Lab Navigator."""

from celery import Celery
from celery.schedules import crontab

app = Celery("rna_backend")
app.config_from_object("rna_backend.settings", namespace="CELERY")
app.autodiscover_tasks(["api.backup", "api.search", "api.canvas", "api.fleet"])

app.conf.beat_schedule = {
    "daily-postgres-backup": {
        "task": "api.backup.tasks.backup_postgres_database",
        "schedule": crontab(hour=2, minute=0),
    },
    "daily-weaviate-backup": {
        "task": "api.backup.tasks.backup_weaviate_database",
        "schedule": crontab(hour=3, minute=0),
    },
    "daily-media-backup": {
        "task": "api.backup.tasks.backup_media_files",
        "schedule": crontab(hour=4, minute=0),
    },
    "weekly-full-backup": {
        "task": "api.backup.tasks.run_full_backup",
        "schedule": crontab(day_of_week=0, hour=1, minute=0),
    },
    # One of the app's other tasks: it is for the app's own workers, on the queue that they share.
    "monitor-system-performance": {
        "task": "api.search.tasks.monitor_system_performance",
        "schedule": crontab(minute="*/15"),
    },
}
