"""What the server checks of an object before it stores it (automatic schema is off in the double)."""

import datetime
import re
import uuid

import definitions
from vectors import length, vector_text

BEACON = re.compile(r"weaviate://localhost/(?:([^/]+)/)?([0-9a-fA-F-]{36})$")
SOURCE = re.compile(r"weaviate://localhost/([^/]+)/([0-9a-fA-F-]{36})/([^/]+)$")
NO_PROPERTY = ("no such prop with name '{}' found in class '{}' in the schema. Check your schema files for "
               "which properties in this class are available")


class Invalid(Exception):
    """An object that the server does not take."""


class NoVector(Exception):
    """The vectoriser was to be asked for the vector and could not be."""


def check_vectorizer(collection, record):
    """Without a vector the class's module has to make one: it asks a service, for which the double has no key."""
    module = collection.definition.get("vectorizer", "none")
    if module.startswith("text2vec-") and not record.vector:
        word = module[len("text2vec-"):].replace("-", "_")
        raise NoVector(f"update vector: API Key: no api key found neither in request header: X-{word.title()}-Api-Key "
                       f"nor in environment variable under {word.upper()}_APIKEY")


def canonical_id(text):
    """Ids are kept in lower case; anything else than a UUID is refused."""
    try:
        return str(uuid.UUID(text))
    except (ValueError, AttributeError, TypeError):
        raise Invalid(f"invalid UUID length: {len(str(text))}") from None


def beacon(class_name, id):
    """The address of an object."""
    return f"weaviate://localhost/{class_name}/{id}"


def properties(database, collection, given, tenant):
    """The properties as they are stored: names in their stored form, nulls left out, references checked."""
    result = {}
    for key, value in (given or {}).items():
        if value is None:
            continue
        name = definitions.lower_first(key)
        prop = collection.property(name)
        if prop is None:
            raise Invalid(NO_PROPERTY.format(name, collection.name))
        if definitions.is_reference(prop):
            result[name] = _references(database, collection, prop, value, tenant)
        else:
            _check(collection.name, name, prop["dataType"][0], value)
            result[name] = value
    return result


def _references(database, collection, prop, value, tenant):
    """A reference in the body of an object must lead to an object that is there already."""
    if not isinstance(value, list):
        raise Invalid("invalid cref: reference must be an array, but got a map")
    kept = []
    for item in value:
        if not isinstance(item, dict) or "beacon" not in item:
            raise Invalid("invalid cref: only direct references supported at the moment, concept references not "
                          f"supported yet:  class '{collection.name}' with property '{prop['name']}' requires "
                          "exactly 1 argument: 'beacon' is missing, check your input schema")
        class_name, id = parse_beacon(item["beacon"])
        if not class_name and len(prop["dataType"]) == 1:
            class_name = prop["dataType"][0]
        if not database.exists(class_name, id, tenant):
            raise Invalid(f"invalid cref: 'cref' {collection.name}:{prop['name']}: no object with id {id} found")
        kept.append({"beacon": beacon(class_name, id) if class_name else item["beacon"]})
    return kept


def parse_beacon(text):
    """The class (or "") and the id of `weaviate://localhost/Class/id`."""
    match = BEACON.match(text) if isinstance(text, str) else None
    if not match:
        raise Invalid("invalid reference: invalid cref URI: must use scheme weaviate://localhost/<class>/<id>")
    return match.group(1) or "", match.group(2).lower()


def _date(value):
    try:
        datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", value).replace("Z", "+00:00"))
        return "T" in value
    except (ValueError, TypeError):
        return False


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _uuid(value):
    try:
        return bool(uuid.UUID(value))
    except (ValueError, AttributeError, TypeError):
        return False


CHECKS = {
    "text": lambda value: isinstance(value, str),
    "string": lambda value: isinstance(value, str),
    "blob": lambda value: isinstance(value, str),
    "int": lambda value: _number(value) and value == int(value),
    "number": _number,
    "boolean": lambda value: isinstance(value, bool),
    "date": _date,
    "uuid": _uuid,
    "object": lambda value: isinstance(value, dict),
    "geoCoordinates": lambda value: isinstance(value, dict),
    "phoneNumber": lambda value: isinstance(value, dict),
}


def _check(class_name, name, kind, value):
    check = CHECKS[kind[:-2] if kind.endswith("[]") else kind]
    if kind.endswith("[]"):
        good = isinstance(value, list) and all(check(item) for item in value)
        words = f"{kind[:-2]} array"
    else:
        good, words = check(value), kind
    if not good:
        raise Invalid(f"invalid {words} property '{name}' on class '{class_name}': "
                      f"not a {words}, but {type(value).__name__}")


def vectors(collection, given, version):
    """The texts of an object's vector and of its named vectors."""
    try:
        single = vector_text(given["vector"]) if given.get("vector") else None
        named = {name: _named_text(values, version) for name, values in (given.get("vectors") or {}).items()}
    except (TypeError, ValueError):
        raise Invalid("vector must be an array of numbers") from None
    if not version.has("named_vectors"):
        named = {}
    known = collection.definition.get("vectorConfig") or {}
    if single and known and "vectorIndexType" not in collection.definition:
        if len(known) > 1:
            raise Invalid(f"collection {collection.name} is configured with multiple named vectors {sorted(known)}, "
                          "but received a single vector")
        # With one named vector the server takes the single one for it.
        named, single = {next(iter(known)): single}, None
    for name in named:
        if name not in known:
            raise Invalid(f"collection {collection.name} does not have configuration for vector {name}")
    for name, text in [("", single)] + list(named.items()):
        if text:
            # The first vector fixes the length for all that come later.
            expected = collection.dimensions.setdefault(name, length(text))
            if expected != length(text):
                raise Invalid(f"new node has a vector with length {length(text)}. "
                              f"Existing nodes have vectors with length {expected}")
    return single, named or None


def _named_text(values, version):
    """A named vector; from 1.29 on it may be several of one length."""
    if version.has("multivector") and values and isinstance(values[0], list):
        return "[" + ",".join(vector_text(row) for row in values) + "]"
    return vector_text(values)
