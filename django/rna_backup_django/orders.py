"""Orders to the worker: published, and written into the admin log, both or none."""

from celery import current_app
from celery.exceptions import BackendError
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import router, transaction
from kombu.exceptions import OperationalError

from rna_backup_django.models import Backup


class Unreachable(Exception):
    """The broker or the result backend does not answer: nothing was ordered, or nothing can be said."""


def line_errors():
    """What Celery raises when Redis is away; the classes are those of the transport that the settings name."""
    connection = current_app.connection_for_write()
    return (OperationalError, BackendError, OSError, *connection.connection_errors, *connection.channel_errors)


def send(order, **arguments):
    """Publishes a task by its name, once and without long waits: a person waits for the page. The task's id."""
    try:
        with current_app.connection_for_write(connect_timeout=3) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=3)
            return current_app.send_task(order.task, kwargs=arguments, connection=connection, retry=False).id
    except line_errors() as error:
        raise Unreachable(str(error)) from error


def note(user_id, action, sentence, backup_id=None, what=None):
    """One line of the admin log."""
    ContentType.objects.clear_cache()  # a restored database may number them otherwise
    return LogEntry.objects.create(
        user_id=user_id,
        content_type=ContentType.objects.get_for_model(Backup),
        object_id=backup_id,
        object_repr=(backup_id or what)[:200],
        action_flag=action,
        change_message=sentence,
    )


def order(user_id, action, sentence, task, arguments, backup_id=None, what=None):
    """Sends `task` and logs `sentence` with its id. The task's id."""
    with transaction.atomic(using=router.db_for_write(LogEntry)):
        entry = note(user_id, action, sentence, backup_id, what)
        task_id = send(task, **arguments)
        entry.change_message = f"{sentence} Task {task_id}."
        entry.save(update_fields=["change_message"])
        return task_id
