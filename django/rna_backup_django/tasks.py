"""What can be ordered from `rna-backup worker`, as Celery signatures: `backup_media_files.delay(label="thesis")`.

Only names: they are sent by name, so that no Python worker ever takes itself for the one who does them.
"""

from celery import signature

ROUTE = {"api.backup.*": {"queue": "backups"}}
"""For `CELERY_TASK_ROUTES`."""

backup_postgres_database = signature("api.backup.tasks.backup_postgres_database")
backup_weaviate_database = signature("api.backup.tasks.backup_weaviate_database")
backup_media_files = signature("api.backup.tasks.backup_media_files")
run_full_backup = signature("api.backup.tasks.run_full_backup")
verify_backup = signature("api.backup.tasks.verify_backup")
list_backups = signature("api.backup.tasks.list_backups")

# These overwrite or delete, or say what may be deleted: signature.py signs them.
restore_postgres_from_backup = signature("api.backup.restore.restore_postgres_from_backup")
restore_weaviate_from_backup = signature("api.backup.restore.restore_weaviate_from_backup")
restore_media_files = signature("api.backup.restore.restore_media_files")
undo_restore = signature("api.backup.tasks.undo_restore")
cleanup_old_backups = signature("api.backup.tasks.cleanup_old_backups")
pin_backup = signature("api.backup.tasks.pin_backup")
accept_backup = signature("api.backup.tasks.accept_backup")

SIGNED = frozenset(
    order.task
    for order in (
        restore_postgres_from_backup,
        restore_weaviate_from_backup,
        restore_media_files,
        undo_restore,
        cleanup_old_backups,
        pin_backup,
        accept_backup,
    )
)

# By what an administrator chooses: the names of the components are the worker's.
BACKUPS = {
    "full": run_full_backup,
    "postgres": backup_postgres_database,
    "weaviate": backup_weaviate_database,
    "media": backup_media_files,
}
RESTORES = {
    "postgres": restore_postgres_from_backup,
    "weaviate": restore_weaviate_from_backup,
    "media": restore_media_files,
}
