"""What `manage.py check` says about the wiring."""

from celery import current_app
from django.core.checks import Warning, register
from django.db import connections

from rna_backup_django.tasks import backup_media_files


@register
def backups_have_a_queue(app_configs, **_):
    """On the default queue a Python worker takes the tasks, and fails them: it does not know them."""
    try:
        queue = current_app.amqp.router.route({}, backup_media_files.task).get("queue")
    except Exception as error:  # a broken setting is said by Celery itself, where it is used
        return [Warning(f"Celery's routes cannot be read: {error}", id="rna_backup.W002")]
    if queue is not None and queue.name != current_app.conf.task_default_queue:
        return []
    hint = 'Add CELERY_TASK_ROUTES = {"api.backup.*": {"queue": "backups"}} to the settings.'
    return [Warning("The backup tasks go to the default queue, to Python workers.", hint=hint, id="rna_backup.W001")]


@register
def kept_connections_are_looked_at(app_configs, **_):
    """A restore exchanges the database and cuts connections: the next request of each thread that keeps one would fail."""
    hint = 'Add "CONN_HEALTH_CHECKS": True beside CONN_MAX_AGE.'
    found = []
    for alias in connections:
        connection = connections[alias]
        kept = connection.settings_dict["CONN_MAX_AGE"] != 0  # None: for ever
        if connection.vendor == "postgresql" and kept and not connection.settings_dict["CONN_HEALTH_CHECKS"]:
            words = f"A restore cuts the connections that are kept to the database “{alias}”, and the next request on each fails."
            found.append(Warning(words, hint=hint, id="rna_backup.W003"))
    return found
