"""What the framework checks of a body before a handler sees it."""

import json

from answers import Rejected

OLD_LEVELS = ("DefaultCompression", "BestSpeed", "BestCompression")
NEW_LEVELS = OLD_LEVELS + ("ZstdDefaultCompression", "ZstdBestSpeed", "ZstdBestCompression", "NoCompression")
ROLE_OPTIONS = ("noRestore", "all")


def parse(body, content_type, required=True):
    """The JSON of a body, or the framework's 415, 400 or 422."""
    if not body:
        if required:
            raise Rejected(422, "body in body is required", 602)
        return None
    kind = (content_type or "application/octet-stream").split(";")[0].strip().lower()
    if kind != "application/json":
        raise Rejected(415, f'unsupported media type "{kind}", only [application/json application/yaml] '
                            "are allowed")
    try:
        value = json.loads(body)
    except ValueError as error:
        raise Rejected(400, f'parsing body body from "" failed, because {error}') from None
    if value is None and required:
        raise Rejected(422, "body in body is required", 602)
    return value


def expect_object(value):
    """400 for a body that is JSON but no object."""
    if not isinstance(value, dict):
        raise Rejected(400, 'parsing body body from "" failed, because json: cannot unmarshal into Go value')
    return value


def expect_list(value):
    """400 for a body that is JSON but no array."""
    if not isinstance(value, list):
        raise Rejected(400, 'parsing body body from "" failed, because json: cannot unmarshal into Go value')
    return value


def check_backup(value, version, restore):
    """The types and ranges of a backup's or a restore's body; unknown fields pass."""
    expect_object(value)
    for field, kind in (("id", str), ("include", list), ("exclude", list), ("config", dict)):
        if value.get(field) is not None and not isinstance(value[field], kind):
            raise Rejected(400, f'parsing body body from "" failed, because json: cannot unmarshal {field}')
    config = value.get("config")
    if not config or not version.has("config"):
        return value
    _range(config, "CPUPercentage", 1, 80)
    if restore:
        for field in ("rolesOptions", "usersOptions"):
            _one_of(config, field, ROLE_OPTIONS)
    else:
        _range(config, "ChunkSize", 2, 512)
        levels = NEW_LEVELS if version.has("more_compression") else OLD_LEVELS
        _one_of(config, "CompressionLevel", levels)
    return value


def _range(config, field, low, high):
    value = config.get(field)
    if value is None or value == 0:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise Rejected(400, f'parsing body body from "" failed, because json: cannot unmarshal {field}')
    if value > high:
        raise Rejected(422, f"config.{field} in body should be less than or equal to {high}", 608)
    if value < low:
        raise Rejected(422, f"config.{field} in body should be greater than or equal to {low}", 609)


def _one_of(config, field, words):
    value = config.get(field)
    if value and value not in words:
        raise Rejected(422, f"config.{field} in body should be one of [{' '.join(words)}]", 606)
