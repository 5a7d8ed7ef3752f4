"""The file of a backup on this machine's disk."""

import os
from pathlib import Path

from django.conf import settings


def backup_root():
    """The worker's BACKUP_ROOT as this process sees it; None when it is not known."""
    root = getattr(settings, "BACKUP_ROOT", None) or os.environ.get("BACKUP_ROOT")
    return Path(root).resolve() if root else None


def local_file(backup):
    """Where the archive of a row of the catalogue lies; None when it is not to be had from here.

    The folder is ours and the name that of the row, never a path as a whole: whoever wrote the row cannot point
    elsewhere, not even with a link.
    """
    root = backup_root()
    names = [place["location"].rpartition("/")[2] for place in backup.destinations if place["destination"] == "local"]
    if root is None or not names:
        return None
    path = root / backup.component / names[0]
    return path if path.is_file() and path.resolve() == path and names[0].startswith(backup.pk) else None
