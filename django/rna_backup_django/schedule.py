"""When Beat orders backups, read from where Beat itself reads it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from celery import current_app
from celery.schedules import BaseSchedule, crontab, maybe_schedule
from django.apps import apps
from django.utils import timezone

from rna_backup_django.models import Component
from rna_backup_django.tasks import BACKUPS

DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]

# What each task backs up; a full backup: whatever the worker is configured for.
COMPONENTS = {
    order.task: frozenset(Component.values) if choice == "full" else frozenset([choice])
    for choice, order in BACKUPS.items()
}


@dataclass(frozen=True)
class Entry:
    """One line of Beat's schedule that is ours."""

    name: str
    task: str
    schedule: BaseSchedule

    @property
    def components(self):
        return COMPONENTS.get(self.task, frozenset())

    @property
    def is_full(self):
        return len(self.components) > 1

    def after(self, moment):
        """When it is due for the first time after `moment`."""
        # Celery takes the hours of a crontab in the time zone of the moment, and counts from a now of its own.
        left = self.schedule.remaining_estimate(moment.astimezone(self.schedule.tz))
        return (timezone.now() + left + timedelta(milliseconds=500)).replace(microsecond=0)

    @property
    def next(self) -> datetime:
        return self.after(timezone.now())

    @property
    def words(self):
        """`daily at 02:00`, in the time zone of Beat, which is named where it is not that of the pages."""
        schedule = self.schedule
        if not isinstance(schedule, crontab):
            return f"every {schedule.run_every}" if hasattr(schedule, "run_every") else str(schedule)
        every = len(schedule.day_of_month) == 31 and len(schedule.month_of_year) == 12
        if not every or len(schedule.hour) != 1 or len(schedule.minute) != 1:
            return " ".join(str(schedule).split()).replace("<crontab: ", "cron ").split(" (m/")[0]
        clock = f"{min(schedule.hour):02}:{min(schedule.minute):02}{self.zone}"
        if len(schedule.day_of_week) == 7:
            return f"daily at {clock}"
        return f"{', '.join(DAYS[day] for day in sorted(schedule.day_of_week))} at {clock}"

    @property
    def zone(self):
        theirs, now = self.schedule.tz, timezone.now()
        same = now.astimezone(theirs).utcoffset() == timezone.localtime(now).utcoffset()
        return "" if same else f" {theirs}"


def entries():
    """Ours of the schedule: of django-celery-beat's tables where the app has them and they say something, else of the code."""
    found = list(_in_tables()) if apps.is_installed("django_celery_beat") else []
    return found or list(_in_code())


def _in_tables():
    model = apps.get_model("django_celery_beat", "PeriodicTask")
    ours = model.objects.filter(enabled=True, task__startswith="api.backup.").order_by("name")
    for task in ours.select_related("crontab", "interval", "solar", "clocked"):
        if task.clocked is None:  # something that happens once is no schedule
            yield Entry(task.name, task.task, task.schedule)


def _in_code():
    for name, entry in sorted((current_app.conf.beat_schedule or {}).items()):
        if not entry["task"].startswith("api.backup."):
            continue
        schedule = entry["schedule"]
        if not isinstance(schedule, BaseSchedule):  # seconds, or a timedelta
            schedule = maybe_schedule(schedule, app=current_app)
        yield Entry(name, entry["task"], schedule)
