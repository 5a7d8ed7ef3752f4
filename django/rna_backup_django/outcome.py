"""Results of the tasks in words; their keys are in the worker's schemas/result-*.json."""

from django.template.defaultfilters import filesizeformat

from rna_backup_django.models import Component

MOST = 40
"""Lines of a list that are shown: retention may delete hundreds."""


def lines(value):
    """What a task returned, as sentences."""
    if not isinstance(value, dict):
        return []
    for key, say in SAYINGS:
        if key in value:
            return [*say(value), *value.get("warnings", [])]
    return []


def _full(value):
    names = ", ".join(Component(name).label for name in value["task_ids"])
    return [f"Ordered as one set: {names}."]


def _backup(value):
    said = [
        f"{value['backup_id']}: {filesizeformat(value.get('size_bytes'))} of {filesizeformat(value.get('source_bytes'))} "
        f"of data, in {value.get('duration_seconds', 0):.1f} s."
    ]
    anomaly = value.get("anomaly") or {}
    said += [f"Far less than before: {what}" for what in anomaly.get("what", [])]
    return said + [f"Deleted by retention: {name}" for name in value.get("pruned", [])[:MOST]]


def _restore(value):
    said = [f"{value.get('backup_id', 'The backup')} is in place, compared with what its manifest says."]
    if value.get("kept"):
        said.append(f"What it replaced is kept for an undo: {value['kept']}")
    return said


def _undo(value):
    return [f"The data from before the restore is back; what it replaced is kept: {value['kept']}"]


def _verify(value):
    said = []
    for result in value["results"]:
        found = "whole" if result["ok"] else "; ".join(result["problems"])
        said.append(f"{result['backup_id']}: {found} ({result['level']})")
        said += result.get("warnings", [])
    return said or ["There was nothing to verify."]


def _prune(value):
    verb = "Would be deleted" if value["dry_run"] else "Deleted"
    said = [f"{verb}: {name}" for name in value["deleted"][:MOST]] or [f"{verb}: nothing."]
    said += [f"Kept: {kept['backup_id']}, {kept['why']}" for kept in value["kept"][:MOST]]
    hidden = max(len(value["deleted"]) - MOST, 0) + max(len(value["kept"]) - MOST, 0)
    return said + ([f"… and {hidden} more."] if hidden else []) + value.get("locked", []) + value["problems"]


def _amend(value):
    anomaly = value["anomaly"]
    said = [f"{value['backup_id']} is {'pinned: retention leaves it alone' if value['pinned'] else 'not pinned'}."]
    if anomaly and anomaly["accepted"]:
        said.append("That it has far less than the one before is accepted: retention deletes older ones again.")
    return said


# By a key that only this result has; the first that fits.
SAYINGS = [
    ("task_ids", _full),
    ("dry_run", _prune),
    ("results", _verify),
    ("replaced_at", _undo),
    ("counts", _restore),
    ("pinned", _amend),
    ("backup_id", _backup),
]
