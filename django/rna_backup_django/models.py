"""The two tables that rna-backup keeps in the app's database, as Django reads them.

The worker makes them and writes them (its schemas/catalog.sql), so there are no migrations, and nothing here is
ever saved. They follow the manifests that lie beside the backups.
"""

from django.db import connections, models, router


class Component(models.TextChoices):
    """What is backed up."""

    POSTGRES = "postgres", "PostgreSQL"
    WEAVIATE = "weaviate", "Weaviate"
    MEDIA = "media", "Media"


class BackupQuerySet(models.QuerySet):
    """Backups, asked as the pages ask."""

    def good(self):
        """Whole as far as is known, and proven when they were made."""
        return self.filter(state=Backup.State.OK).exclude(verified=Backup.Verified.NONE)

    def bare(self):
        """Without what is long: a manifest lists every table."""
        return self.defer("manifest", "sha256", "digest")

    def is_there(self):
        """Whether a worker has made the table yet."""
        with connections[router.db_for_read(self.model)].cursor() as cursor:
            cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [self.model._meta.db_table])
            return cursor.fetchone()[0]


class Backup(models.Model):
    """A backup that exists: its manifest was written."""

    class Verified(models.TextChoices):
        NONE = "none", "not verified"
        CHECKSUM = "checksum", "checksum"
        DECODE = "decode", "decoded"
        DRILL = "drill", "restored in a drill"

    class State(models.TextChoices):
        OK = "ok", "whole"
        FAILED = "failed", "damaged"
        MISSING = "missing", "missing"

    backup_id = models.TextField("backup", primary_key=True)
    component = models.TextField(choices=Component.choices)
    created_at = models.DateTimeField("when", help_text="The data is of this instant.")
    finished_at = models.DateTimeField("proven at", null=True)
    label = models.TextField(null=True)
    pinned = models.BooleanField(help_text="Retention never deletes a pinned backup.")
    set_id = models.TextField("set", null=True, help_text="What the backups of one full backup share.")
    task_id = models.TextField("task", null=True)
    size_bytes = models.BigIntegerField("size")
    source_bytes = models.BigIntegerField("size of the data", null=True)
    sha256 = models.TextField("SHA-256", null=True)
    verified = models.TextField(choices=Verified.choices)
    verified_at = models.DateTimeField(null=True)
    state = models.TextField(choices=State.choices)
    destinations = models.JSONField()
    manifest = models.JSONField(null=True)
    digest = models.TextField()

    objects = BackupQuerySet.as_manager()

    class Meta:
        managed = False
        db_table = "rna_backup_backup"
        ordering = ["-created_at", "-backup_id"]
        default_permissions = ("view", "delete")
        permissions = [
            ("trigger_backup", "Can trigger, verify and pin backups"),
            ("restore_backup", "Can restore backups, and undo that"),
            ("download_backup", "Can download backups (superusers only)"),
        ]

    def __str__(self):
        return self.backup_id

    @property
    def is_whole(self):
        return self.state == self.State.OK

    @property
    def duration(self):
        return self.finished_at - self.created_at if self.finished_at else None

    @property
    def facts(self):
        """What the component said about its data; empty for files of the app's old tasks."""
        return (self.manifest or {}).get("facts", {})

    @property
    def shortfall(self):
        """What it has far less of than the backup before, unless somebody accepted that."""
        anomaly = (self.manifest or {}).get("anomaly") or {}
        return [] if anomaly.get("accepted") else anomaly.get("what", [])


class Run(models.Model):
    """A run on one component, the last 90 days of them."""

    class State(models.TextChoices):
        RUNNING = "running", "running"
        SUCCESS = "success", "succeeded"
        FAILURE = "failure", "failed"
        CANCELLED = "cancelled", "stopped"
        LOST = "lost", "its worker vanished"

    class Operation(models.TextChoices):
        BACKUP = "backup", "backup"
        RESTORE = "restore", "restore"
        UNDO = "undo", "undo of a restore"
        VERIFY = "verify", "verification"
        DRILL = "drill", "drill"
        PRUNE = "prune", "retention"

    run_id = models.TextField("run", primary_key=True)
    task_id = models.TextField("task", null=True, help_text="None: the command line.")
    operation = models.TextField(choices=Operation.choices)
    component = models.TextField(choices=Component.choices)
    state = models.TextField(choices=State.choices)
    started_at = models.DateTimeField("started")
    finished_at = models.DateTimeField("ended", null=True)
    seen_at = models.DateTimeField("last sign of life")
    backup_id = models.TextField("backup", null=True)
    error = models.TextField(null=True)
    result = models.JSONField(null=True)
    worker = models.TextField()

    class Meta:
        managed = False
        db_table = "rna_backup_run"
        ordering = ["-started_at", "-run_id"]
        default_permissions = ("view",)

    def __str__(self):
        return f"{self.get_operation_display()} of {self.get_component_display()}"

    @property
    def duration(self):
        return self.finished_at - self.started_at if self.finished_at else None
