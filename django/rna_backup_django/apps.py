"""The app in INSTALLED_APPS."""

from django.apps import AppConfig


class BackupConfig(AppConfig):
    """Its label is what the names of the worker's two tables begin with."""

    name = "rna_backup_django"
    label = "rna_backup"
    verbose_name = "Backup Management"

    def ready(self):
        from rna_backup_django import checks, signature  # noqa: F401: they register themselves
