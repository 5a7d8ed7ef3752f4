"""What the app can `.delay()`: the names and arguments. rna-backup does the work, never this process."""

from celery import shared_task


class DoneElsewhere(RuntimeError):
    def __init__(self):
        super().__init__("rna-backup worker does this task: route api.backup.* to its queue")


@shared_task
def backup_postgres_database(label=None, pin=False, set_id=None):
    raise DoneElsewhere


@shared_task
def backup_weaviate_database(label=None, pin=False, set_id=None):
    raise DoneElsewhere


@shared_task
def backup_media_files(label=None, pin=False, set_id=None):
    raise DoneElsewhere


@shared_task
def run_full_backup(label=None, pin=False):
    raise DoneElsewhere


@shared_task
def cleanup_old_backups(backup_type=None, retention_days=None, dry_run=False):
    raise DoneElsewhere


@shared_task
def pin_backup(backup, pinned=True):
    raise DoneElsewhere


@shared_task
def accept_backup(backup):
    raise DoneElsewhere


@shared_task
def list_backups(component=None):
    raise DoneElsewhere
