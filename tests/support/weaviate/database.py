"""The data of the double: classes, shards (tenants) and objects, all in memory.

Records are never changed in place: a write puts a new one, so that a backup which took the shard's
records before does not see it (Weaviate copies files that no longer change).
"""

import bisect
import json
import random
import string
import threading
import time

import definitions
from vectors import length

HOT, COLD = "HOT", "COLD"


class TenancyError(Exception):
    """A tenant is missing, unknown, not active, or named where there are none."""


def new_shard_name():
    """Twelve letters and figures, as the server draws them for a class without tenants."""
    return "".join(random.choices(string.ascii_letters + string.digits, k=12))


class Record:
    """One object; vectors are kept as JSON text."""

    __slots__ = ("id", "properties", "vector", "vectors", "created", "updated")

    def __init__(self, id, properties, vector=None, vectors=None, created=None, updated=None):
        self.id = id
        self.properties = properties
        self.vector = vector
        self.vectors = vectors
        self.created = created or int(time.time() * 1000)
        self.updated = updated or self.created

    def stored(self):
        """The record as it is kept in files."""
        return {"id": self.id, "properties": self.properties, "vector": self.vector, "vectors": self.vectors,
                "created": self.created, "updated": self.updated}


class Shard:
    """The objects of a class, or those of one tenant."""

    def __init__(self, name, status=HOT, records=None):
        self.name = name
        self.status = status
        self.records = records if records is not None else {}
        self._order = None

    def put(self, record):
        """Stores a record; one with the same id is replaced."""
        if record.id not in self.records:
            self._order = None
        self.records[record.id] = record

    def remove(self, id):
        """Takes a record away; says whether it was there."""
        self._order = None
        return self.records.pop(id, None) is not None

    def after(self, id, limit, offset=0):
        """At most `limit` records behind an id in the order of ids; from the first one without an id."""
        if self._order is None:
            self._order = sorted(self.records)
        start = (bisect.bisect_right(self._order, id) if id else 0) + offset
        return [self.records[key] for key in self._order[start:start + limit]]


class Collection:
    """A class: its definition and its shards."""

    def __init__(self, definition, shards=None, node=None):
        self.node = node
        self.definition = definition
        self.name = definition["class"]
        self.tenants = definition["multiTenancyConfig"]["enabled"]
        self.dimensions = {}
        if shards is None and not self.tenants:
            shards = [Shard(new_shard_name())]
        self.shards = {shard.name: shard for shard in shards or []}

    def shard(self, tenant, writes=False):
        """The shard that a request with this tenant (or none) reads and writes; refused as the server does."""
        rules = self.definition["multiTenancyConfig"]
        if self.tenants and not tenant:
            raise TenancyError(f"class {self.name} has multi-tenancy enabled, but request was without tenant")
        if not self.tenants and tenant:
            raise TenancyError(f"class {self.name} has multi-tenancy disabled, but request was with tenant")
        if not self.tenants:
            return next(iter(self.shards.values()))
        shard = self.shards.get(tenant)
        if shard is None and writes and rules.get("autoTenantCreation"):
            shard = self.shards[tenant] = Shard(tenant)
        if shard is None:
            raise TenancyError(f'tenant not found: "{tenant}"')
        if rules.get("autoTenantActivation"):
            shard.status = HOT
        if shard.status != HOT:
            raise TenancyError(f"tenant not active: '{tenant}'")
        return shard

    def property(self, name):
        """The definition of a property, or None."""
        return next((prop for prop in self.definition["properties"] if prop["name"] == name), None)

    def learn_dimensions(self):
        """Takes the lengths of the vectors from an object that is there."""
        for shard in self.shards.values():
            for record in shard.records.values():
                for name, text in [("", record.vector)] + list((record.vectors or {}).items()):
                    if text:
                        self.dimensions.setdefault(name, length(text))
                return

    def count(self):
        """All objects, those of inactive tenants too."""
        return sum(len(shard.records) for shard in self.shards.values())


class Database:
    """All classes, behind one lock; a journal, if there is one, is told of every change."""

    def __init__(self):
        self.lock = threading.RLock()
        self.classes = {}
        self.journal = None

    def tell(self, **change):
        """Writes a change to the journal."""
        if self.journal:
            self.journal.write(change)

    def find(self, name):
        """A class by its name; the first letter's case does not matter."""
        return self.classes.get(definitions.upper_first(name or ""))

    def add(self, collection):
        """Adds a class, or puts it in the place of the one of that name."""
        self.classes[collection.name] = collection
        self.redefine(collection)
        for shard in collection.shards.values():
            if shard.records:
                self.tell(kind="put", name=collection.name, shard=shard.name,
                          records=[record.stored() for record in shard.records.values()])

    def redefine(self, collection):
        """Notes a changed definition; objects stay."""
        self.tell(kind="class", definition=collection.definition, node=collection.node,
                  shards=[[shard.name, shard.status] for shard in collection.shards.values()])

    def drop(self, name):
        """Deletes a class with its objects, if there is one."""
        if self.classes.pop(definitions.upper_first(name), None) is not None:
            self.tell(kind="drop", name=definitions.upper_first(name))

    def put(self, collection, shard, records):
        """Stores records in a shard."""
        for record in records:
            shard.put(record)
        self.tell(kind="put", name=collection.name, shard=shard.name,
                  records=[record.stored() for record in records])

    def remove(self, collection, shard, id):
        """Deletes one object; says whether it was there."""
        found = shard.remove(id)
        if found:
            self.tell(kind="remove", name=collection.name, shard=shard.name, id=id)
        return found

    def set_tenant(self, collection, name, status):
        """Adds a tenant or changes its state."""
        shard = collection.shards.setdefault(name, Shard(name))
        shard.status = status
        self.tell(kind="tenant", name=collection.name, shard=name, status=status)

    def drop_tenant(self, collection, name):
        """Deletes a tenant with its objects, if there is one."""
        if collection.shards.pop(name, None) is not None:
            self.tell(kind="drop_tenant", name=collection.name, shard=name)

    def exists(self, class_name, id, tenant):
        """Whether an object is there; without a class all classes without tenants are searched."""
        names = [class_name] if class_name else list(self.classes)
        for name in names:
            collection = self.find(name)
            if collection is None:
                continue
            try:
                # References may lead from a tenant's object to a class without tenants.
                if id in collection.shard(tenant if collection.tenants else "").records:
                    return True
            except TenancyError:
                if class_name:
                    raise
        return False


def fingerprint_text(record, tenant):
    """What of an object must be the same after a restore: all but the times of its making and changing."""
    return json.dumps([tenant, record.id, record.properties, record.vector, record.vectors], sort_keys=True)
