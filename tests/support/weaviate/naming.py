"""Rules for ids and for the lists of classes that a backup or a restore names."""

import fnmatch
import re

from answers import Refused

ID = re.compile(r"[a-z0-9_-]+\Z")


def check_id(id, version):
    """An id is lower case letters, figures, `_` and `-`, and nothing else."""
    if not id and version.has("missing_id_is_500"):
        # The missing id equals the missing base id: a slip of the newer servers.
        raise Refused(500, "base backup cannot be the same as the new backup ID")
    if not id or not ID.match(id):
        shown = f'"{id}": ' if version.has("id_in_refusal") else ""
        raise Refused(422, f"invalid backup id: {shown}allowed characters are lowercase, 0-9, _, -")


def check_lists(include, exclude):
    """Not both lists, and no name twice."""
    if include and exclude:
        raise Refused(422, "malformed request: 'include' and 'exclude' cannot both contain values")
    for word, names in (("include", include), ("exclude", exclude)):
        for index, name in enumerate(names):
            if name in names[:index]:
                raise Refused(422, f"class list '{word}' contains duplicate: {name}")


def matching(names, patterns, version):
    """The names that a list means: exact ones, from 1.36 on with `*` and `?`."""
    if not version.has("wildcards"):
        return [name for name in patterns if name in names]
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def chosen(names, include, exclude, version):
    """What is left of the names by the one list or the other."""
    if include:
        return matching(names, include, version)
    dropped = matching(names, exclude, version)
    return [name for name in names if name not in dropped]


def missing(names, patterns, version):
    """The first name of a list that means no class."""
    for pattern in patterns:
        if version.has("wildcards") and ("*" in pattern or "?" in pattern):
            continue
        if pattern not in names:
            return pattern
    return None


def shown(names):
    """A list as Go prints it."""
    return "[" + " ".join(names) + "]"
