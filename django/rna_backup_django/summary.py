"""The top of the list: how each component is doing, in a fixed number of queries whatever there is."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Optional

from django.contrib.admin.utils import quote
from django.db.models import Count, Q
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.timesince import timesince

from rna_backup_django import chart, schedule
from rna_backup_django.models import Backup, Component, Run

# A backup that takes its time, or waits for another, is not late.
GRACE = timedelta(hours=2)

SHOWN_RUNS = 5

# A run gives a sign of life every minute; one that is silent for longer is not shown as under way.
SILENCE = timedelta(minutes=3)


@dataclass
class Standing:
    """One component."""

    component: Component
    newest: Optional[Backup]
    last_good: Optional[Backup]
    entries: list
    chart: object
    undo: Optional[Run]
    warnings: list = field(default_factory=list)

    @property
    def next(self):
        return min((entry.next for entry in self.entries), default=None)


def standings():
    """Every component, in a fixed order."""
    entries, undos = schedule.entries(), undoable()
    failed = {run.component: run for run in _newest(operation=Run.Operation.BACKUP, state=Run.State.FAILURE)}
    counts = Backup.objects.exclude(state=Backup.State.OK).order_by().values_list("component")
    damaged = dict(counts.annotate(count=Count("pk")))
    found = []
    for component in Component:
        recent = list(Backup.objects.bare().filter(component=component)[: chart.SLOTS])
        good = Backup.objects.filter(component=component).good().first()
        ours = [entry for entry in entries if component in entry.components and (recent or not entry.is_full)]
        standing = Standing(component, recent[0] if recent else None, good, ours, chart.of(recent), undos.get(component))
        standing.warnings = list(_warnings(standing, failed.get(component), damaged.get(component, 0)))
        found.append(standing)
    return found


def _warnings(standing, failed, damaged):
    name, good = standing.component.label, standing.last_good
    if good is None and (standing.newest or standing.entries):
        yield f"There is no good backup of {name} yet."
    if good is not None:
        for entry in standing.entries:
            due = entry.after(good.created_at)
            if due + GRACE < timezone.now():
                yield f"No good backup of {name} since the one that was due {_when(due)} ({entry.name})."
                break
        if not standing.entries:
            yield f"{name} is on no schedule: it is backed up only when somebody orders it."
        if good.shortfall:
            yield format_html(
                "The newest backup of {} has far less than the one before: {}. Older ones are kept until somebody accepts "
                'that this is right, on <a href="{}">its page</a>.',
                name,
                "; ".join(good.shortfall),
                reverse("admin:rna_backup_backup_change", args=[quote(good.pk)]),
            )
    if failed is not None and (good is None or failed.started_at > good.created_at):
        yield f"The last backup of {name} failed {timesince(failed.started_at)} ago: {_first_line(failed.error)}"
    if damaged:
        yield f"{damaged} {'backup' if damaged == 1 else 'backups'} of {name} cannot be restored: damaged or missing."


def undoable():
    """The runs that an undo would take back, by component: until the next backup that is no cause for doubt."""
    succeeded = Q(state=Run.State.SUCCESS)
    # A backup counts also where it could not be stored in every destination, and its run has failed.
    counts = succeeded | Q(backup_id__isnull=False)
    backups = {run.component: run for run in _newest(counts, operation=Run.Operation.BACKUP)}
    found = {}
    for run in _newest(succeeded, operation__in=[Run.Operation.RESTORE, Run.Operation.UNDO]):
        later = backups.get(run.component)
        over = later and later.started_at > run.started_at and not (later.result or {}).get("anomaly")
        if (run.result or {}).get("kept") and not over:
            found[run.component] = run
    return found


def _newest(*which, **more):
    """The newest of these runs of each component."""
    return Run.objects.filter(*which, **more).order_by("component", "-started_at").distinct("component")


def running():
    """What is under way."""
    return list(Run.objects.filter(state=Run.State.RUNNING, seen_at__gte=timezone.now() - SILENCE)[:SHOWN_RUNS])


def is_told(task_id):
    """Whether the tables, which follow some milliseconds later, know of the end of a task."""
    return Run.objects.filter(task_id=task_id).exclude(state=Run.State.RUNNING).exists()


def _when(moment):
    return date_format(timezone.localtime(moment), "DATETIME_FORMAT")


def _first_line(text):
    return (text or "for no known reason").splitlines()[0]
