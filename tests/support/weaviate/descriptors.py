"""The descriptors of a backup: how they are made, read and compared with the version of a server."""

import json

from clock import ZERO_DATE, stamp
from stores import Missing, StoreError

BACKUP_FILE, RESTORE_FILE, NODE_FILE = "backup_config.json", "restore_config.json", "backup.json"


class Unreadable(Exception):
    """A descriptor that is not there (`absent`) or cannot be read or parsed."""

    def __init__(self, message, absent):
        super().__init__(message)
        self.absent = absent


def read(store, place, key):
    """A descriptor as it lies in the store."""
    try:
        content = store.read(key, place)
    except Missing as error:
        raise Unreadable(f'metadata not found: "{key}": {error}', True) from None
    except StoreError as error:
        raise Unreadable(f'metadata not found: "{key}": {error}', False) from None
    try:
        value = json.loads(content)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value
    except ValueError as error:
        raise Unreadable(f'metadata not found: "{key}": unmarshal: {error}', False) from None


def encode(value):
    """Indented by nothing, as the server writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def start(id, node, classes, version, level=None):
    """The global descriptor at the start."""
    value = {
        "startedAt": stamp(), "completedAt": ZERO_DATE, "id": id,
        "nodes": {node: {"classes": list(classes), "status": "STARTED", "error": ""}},
        "node_mapping": None, "status": "STARTED", "version": version.structure,
        "serverVersion": version.text, "error": ""}
    if version.has("leader"):
        value["leader"] = node
    if version.has("pre_compression_size"):
        value["preCompressionSizeBytes"] = 0
    if version.has("compression_type"):
        value["compressionType"] = "none" if level == "NoCompression" else "gzip"
    return value


def finish(value, node, status, error, size=None):
    """The global descriptor at the end."""
    value = {**value, "status": status, "error": error, "completedAt": stamp()}
    value["nodes"] = {name: {**entry, "status": status, "error": error}
                      for name, entry in value["nodes"].items()}
    if size is not None and "preCompressionSizeBytes" in value:
        value["preCompressionSizeBytes"] = size
        value["nodes"][node]["preCompressionSizeBytes"] = size
    return value


def of_node(value, classes, status, error, size):
    """The descriptor of a node; its `completedAt` stays in year 1, it is set after the write."""
    keys = ("startedAt", "id", "version", "serverVersion", "compressionType")
    node = {key: value[key] for key in keys if key in value}
    node.update(completedAt=ZERO_DATE, classes=classes, status=status, error=error)
    if "preCompressionSizeBytes" in value:
        node["preCompressionSizeBytes"] = size
    return node


def too_new(value, version):
    """The structure's version as a server compares it: as text up to 1.24, then by its first figure."""
    structure = str(value.get("version") or "")
    own = version.structure
    if version.has("first_digit_compared"):
        higher = structure[:1] > own[:1]
    else:
        higher = structure > own
    return f"unable to restore backup as it was produced by a higher version: {structure} > {own}" if higher else None


def too_old(value, version):
    """The newest servers refuse what was made before 1.23."""
    made_by = str(value.get("serverVersion") or "")
    numbers = made_by.split(".")
    old = len(numbers) > 1 and numbers[1].isdigit() and (int(numbers[0] or 0), int(numbers[1])) < (1, 23)
    if old and version.has("refuses_before_1_23"):
        return (f"backup was produced by v{made_by}, older than v1.23, and can no longer be restored by "
                f"v{version.text}")
    return None
