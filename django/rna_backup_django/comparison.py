"""What a restore would change, as far as it can be known before: for the page that asks for the confirmation."""

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.recorder import MigrationRecorder

from rna_backup_django.models import Backup, Component

OVERWRITTEN = {
    Component.POSTGRES: "The whole PostgreSQL database{}, with all users, sessions and this admin’s log,",
    Component.WEAVIATE: "Every Weaviate class that is in the backup, with all its objects,",
    Component.MEDIA: "The whole media folder{}",
}


def overwritten(backup):
    """What will not be there any more, by the name that the manifest has for it."""
    source = (backup.manifest or {}).get("source")
    return OVERWRITTEN[backup.component].format(f" {source}" if source else "")


def counts(backup):
    """What the backup holds, as (what, how many)."""
    found = backup.facts.get("counts", {})
    tables, files, classes = found.get("tables"), found.get("files"), found.get("classes")
    if tables is not None:
        yield "tables", len(tables)
        yield "rows", sum(table["rows"] for table in tables)
    if files is not None:
        yield "files", files["files"]
    if classes is not None:
        yield "classes", len(classes)
        yield "objects", sum(classes.values())


def newer(backup):
    """Good backups of the component that are newer: perhaps one of them is meant."""
    return Backup.objects.bare().filter(component=backup.component, created_at__gt=backup.created_at).good()


def companions(backup):
    """The others of its set, which fit it."""
    if not backup.set_id:
        return Backup.objects.none()
    return Backup.objects.bare().filter(set_id=backup.set_id).exclude(pk=backup.pk)


def differences(backup):
    """What differs, as (what, in the backup, now); what is live cannot be counted so soon, the newest backup was."""
    newest = Backup.objects.filter(component=backup.component, created_at__gt=backup.created_at).good().first()
    if newest:
        later = dict(counts(newest))
        for what, count in counts(backup):
            if later.get(what, count) != count:
                yield what.capitalize(), f"{count:,}", f"{later[what]:,} in the newest backup"
    if backup.component == Component.POSTGRES:
        yield from _database_differences(backup, connections[DEFAULT_DB_ALIAS])


def _database_differences(backup, connection):
    server, now = backup.facts.get("versions", {}).get("postgres_server"), _version(connection)
    if server and server.split()[0] != now:
        yield "PostgreSQL server", server, now
    then = backup.facts.get("migrations")
    if then is None:
        return
    applied = _newest_migrations(connection)
    for app in sorted(then.keys() | applied.keys()):
        if then.get(app) != applied.get(app):
            yield f"Migrations of {app}", then.get(app, "none"), applied.get(app, "none")


def _version(connection):
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        return cursor.fetchone()[0].split()[0]


def _newest_migrations(connection):
    """As the worker writes it into manifests: the one that was applied last, of each app."""
    applied = MigrationRecorder(connection).migration_qs.order_by("id").values_list("app", "name")
    return dict(applied)
