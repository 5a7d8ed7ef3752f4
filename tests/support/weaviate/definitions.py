"""Class definitions with the defaults that a server of each version fills in."""

import copy

from answers import Refused

TEXT_TYPES = ("text", "text[]", "string", "string[]")
PRIMITIVES = frozenset(
    kind + tail
    for kind in ("text", "string", "int", "number", "boolean", "date", "uuid", "blob", "object",
                 "geoCoordinates", "phoneNumber")
    for tail in ("", "[]"))


def upper_first(name):
    """Class names begin with an upper-case letter in storage."""
    return name[:1].upper() + name[1:]


def lower_first(name):
    """Property names begin with a lower-case letter in storage."""
    return name[:1].lower() + name[1:]


def is_reference(prop):
    """A property whose data type names classes instead of a primitive."""
    return any(kind not in PRIMITIVES for kind in prop.get("dataType") or [])


def complete(given, version, modules):
    """The stored definition: what was given, with this version's defaults for all that was not."""
    definition = copy.deepcopy(given)
    definition["class"] = upper_first(definition.get("class") or "")
    tenants = definition.setdefault("multiTenancyConfig", {}) or {}
    definition["multiTenancyConfig"] = _with(tenants, _tenancy_defaults(version))
    named = bool(definition.get("vectorConfig"))
    if not named:
        definition.setdefault("vectorizer", "none")
        definition.setdefault("vectorIndexType", "hnsw")
        definition["vectorIndexConfig"] = _index(definition.get("vectorIndexConfig"), version)
    else:
        for vector in definition["vectorConfig"].values():
            vector.setdefault("vectorIndexType", "hnsw")
            vector["vectorIndexConfig"] = _index(vector.get("vectorIndexConfig"), version)
    definition["invertedIndexConfig"] = _with(definition.get("invertedIndexConfig") or {},
                                              _inverted_defaults(version))
    definition["replicationConfig"] = _with(definition.get("replicationConfig") or {},
                                            _replication_defaults(version))
    if definition["multiTenancyConfig"]["enabled"]:
        definition["shardingConfig"] = _sharding(0)
    else:
        definition["shardingConfig"] = _with(definition.get("shardingConfig") or {}, _sharding(1))
    definition["properties"] = [property_defaults(prop, definition, version)
                                for prop in definition.get("properties") or []]
    _check_modules(definition, modules)
    return {key: definition[key] for key in sorted(definition) if definition[key] is not None}


def property_defaults(given, definition, version):
    """A property with the defaults of its type."""
    prop = dict(given)
    prop["name"] = lower_first(prop.get("name") or "")
    kind = (prop.get("dataType") or ["text"])[0]
    prop["dataType"] = list(prop.get("dataType") or ["text"])
    prop.setdefault("indexFilterable", kind not in ("blob", "geoCoordinates", "phoneNumber"))
    prop.setdefault("indexSearchable", kind in TEXT_TYPES)
    if version.has("range_filters"):
        prop.setdefault("indexRangeFilters", False)
    if kind in TEXT_TYPES:
        prop.setdefault("tokenization", "word")
    vectorizer = definition.get("vectorizer", "none")
    if vectorizer != "none" and not is_reference(prop):
        module = prop.setdefault("moduleConfig", {}).setdefault(vectorizer, {})
        module.setdefault("skip", False)
        module.setdefault("vectorizePropertyName", False)
    return {key: prop[key] for key in sorted(prop) if prop[key] is not None}


def _check_modules(definition, modules):
    """A vectoriser must be switched on; its own defaults go into `moduleConfig`."""
    vectorizer = definition.get("vectorizer", "none")
    if vectorizer == "none":
        return
    if vectorizer not in modules:
        raise Refused(422, f'vectorizer: no module with name "{vectorizer}" present')
    config = definition.setdefault("moduleConfig", {}).setdefault(vectorizer, {})
    config.setdefault("vectorizeClassName", True)


def _with(given, defaults):
    """`defaults` overwritten by what was given, one level down as well."""
    result = copy.deepcopy(defaults)
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _with(value, result[key])
        elif value is not None:
            result[key] = value
    return result


def _tenancy_defaults(version):
    defaults = {"enabled": False}
    if version.has("auto_tenants"):
        defaults.update(autoTenantActivation=False, autoTenantCreation=False)
    return defaults


def _replication_defaults(version):
    defaults = {"factor": 1}
    if version.has("async_replication"):
        defaults["asyncEnabled"] = False
    if version.has("deletion_strategy"):
        defaults["deletionStrategy"] = "NoAutomatedResolution"
    return defaults


def _inverted_defaults(version):
    defaults = {"bm25": {"b": 0.75, "k1": 1.2}, "cleanupIntervalSeconds": 60,
                "stopwords": {"additions": None, "preset": "en", "removals": None}}
    if version.has("block_max"):
        defaults["usingBlockMaxWAND"] = True
    return defaults


def _sharding(count):
    """A class with tenants has no fixed shards: all counts are nought and the names are empty."""
    return {"actualCount": count, "actualVirtualCount": 128 * count, "desiredCount": count,
            "desiredVirtualCount": 128 * count, "function": "murmur3" if count else "",
            "key": "_id" if count else "", "strategy": "hash" if count else "",
            "virtualPerPhysical": 128 * count}


def _index(given, version):
    """The settings of an HNSW index."""
    defaults = {
        "skip": False, "cleanupIntervalSeconds": 300, "efConstruction": 128, "ef": -1, "dynamicEfMin": 100,
        "maxConnections": 32 if version.has("fewer_connections") else 64, "dynamicEfMax": 500,
        "dynamicEfFactor": 8, "vectorCacheMaxObjects": 1000000000000, "flatSearchCutoff": 40000,
        "distance": "cosine",
        "pq": {"enabled": False, "bitCompression": False, "segments": 0, "centroids": 256,
               "trainingLimit": 100000, "encoder": {"type": "kmeans", "distribution": "log-normal"}}}
    if version.has("bq"):
        defaults["bq"] = {"enabled": False}
    if version.has("sq"):
        defaults["sq"] = {"enabled": False, "trainingLimit": 100000, "rescoreLimit": 20}
    if version.has("rq"):
        defaults["rq"] = {"enabled": False, "bits": 8, "rescoreLimit": 20}
    if version.has("multivector"):
        defaults["multivector"] = {"enabled": False, "aggregation": "maxSim"}
    if version.has("filter_strategy"):
        defaults["filterStrategy"] = "sweeping"
    return _with(given or {}, defaults)
