"""How far a task is: from Celery's result backend, and in words."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from datetime import timezone as tz
from typing import Optional

from celery import current_app, states
from django.core import signing
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from rna_backup_django import outcome
from rna_backup_django.models import Component, Run
from rna_backup_django.orders import Unreachable, line_errors

SALT = "rna_backup.progress"
LIFE = 7 * 86400
"""Seconds for which an address of a progress page is good."""

PATIENCE = 15
"""Seconds after which a task that nobody took is worth a word."""

SETTLING = 3
"""Seconds for which a page waits for the tables to know what the result says."""

# What a run in the table says about a result that has expired.
RUN_STATES = {
    Run.State.RUNNING: "PROGRESS",
    Run.State.SUCCESS: states.SUCCESS,
    Run.State.FAILURE: states.FAILURE,
    Run.State.CANCELLED: states.REVOKED,
    Run.State.LOST: states.FAILURE,
}


@dataclass(frozen=True)
class Watch:
    """An ordered task, in the address of its progress page.

    Signed, so that it says without a session who ordered what: a restore may take the session with it.
    """

    task_id: str
    title: str
    operation: str
    component: str
    user_id: Optional[int]
    ordered_at: float

    @classmethod
    def now(cls, task_id, title, operation, component, user_id):
        return cls(task_id, title, operation, component, user_id, timezone.now().timestamp())

    @property
    def token(self):
        return signing.dumps(asdict(self), salt=SALT, compress=True)

    @classmethod
    def read(cls, token):
        """Raises `signing.BadSignature` for one that is not ours, or too old."""
        return cls(**signing.loads(token, salt=SALT, max_age=LIFE))

    @property
    def name(self):
        return Component(self.component).label if self.component in Component.values else "Full System"

    @property
    def replaces_database(self):
        return self.component == Component.POSTGRES and self.operation in {Run.Operation.RESTORE, Run.Operation.UNDO}


@dataclass
class Step:
    """One task of a watch."""

    name: str
    state: str
    says: str
    percent: Optional[float] = None
    error: str = ""
    lines: list = field(default_factory=list)
    ended_at: Optional[datetime] = None

    @property
    def is_over(self):
        return self.state in states.READY_STATES

    @property
    def is_good(self):
        return self.state == states.SUCCESS

    @property
    def is_old(self):
        """Whether whatever follows the end has had its time."""
        return self.ended_at is None or (timezone.now() - self.ended_at).total_seconds() > SETTLING


def steps(watch):
    """The task, and those that a full backup dispatched."""
    first, value = _look(watch.task_id, watch.name, timezone.now().timestamp() - watch.ordered_at)
    children = (value or {}).get("task_ids") or {} if isinstance(value, dict) else {}
    age = 0  # they were just dispatched by a worker that is there
    rest = [_look(children[name], Component(name).label, age)[0] for name in Component.values if name in children]
    return [first, *rest]


def _look(task_id, name, age):
    """What is known of a task, and its value when it has one."""
    try:
        meta = current_app.backend.get_task_meta(task_id)
    except line_errors() as error:
        raise Unreachable(str(error)) from error
    state, info = meta["status"], meta["result"]
    if state == states.PENDING:
        return _from_table(task_id, name, age)
    if state == states.SUCCESS:
        return Step(name, state, "Done.", 100, lines=outcome.lines(info), ended_at=_moment(meta.get("date_done"))), info
    if state in {states.FAILURE, states.RETRY, states.REVOKED}:
        says = {
            states.FAILURE: "Failed.",
            states.RETRY: "A fault that may pass: it will be tried again.",
            states.REVOKED: "Stopped.",
        }
        return Step(name, state, says[state], error=str(info or "")), None
    info = info if isinstance(info, dict) else {}
    if state == "PROGRESS":
        done = f", {filesizeformat(info['bytes'])}" if info.get("bytes") else ""
        percent = info.get("percent") if info.get("total") else None  # nobody knows yet how much there is
        return Step(name, state, f"{info.get('description', 'Under way')}{done}", percent), None
    return Step(name, state, f"Begun by {info['hostname']}." if info.get("hostname") else "Begun."), None


def _moment(text):
    """Of a result's `date_done`; Celery 5.3 leaves out that it is UTC."""
    moment = parse_datetime(text) if isinstance(text, str) else text
    return moment.replace(tzinfo=tz.utc) if moment and moment.tzinfo is None else moment


def _from_table(task_id, name, age):
    """Of a task without a result: it waits, or ended so long ago that its result has expired."""
    run = Run.objects.filter(task_id=task_id).first()
    if run is not None:
        state = RUN_STATES.get(run.state, states.PENDING)
        return Step(name, state, f"{run.get_state_display()}.".capitalize(), error=run.error or ""), run.result
    says = "Waiting for a worker."
    if age > PATIENCE:
        says += " None has taken it yet: is `rna-backup worker` running, and are the tasks routed to its queue?"
    return Step(name, states.PENDING, says), None
