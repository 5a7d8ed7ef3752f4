"""The routes of classes, properties and tenants."""

import random
import re

import bodies
import definitions
from answers import Answer, Refused, json_answer
from database import COLD, HOT, Collection

CLASS_NAME = re.compile(r"[A-Z][_0-9A-Za-z]{0,254}$")
TENANT_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}$")
NEW_WORDS = {"ACTIVE": HOT, "INACTIVE": COLD}


class Schema:
    """Handlers of `/v1/schema`."""

    def __init__(self, server):
        self.server = server
        self.database = server.database
        self.version = server.version

    def all(self, _request):
        """`GET /v1/schema`."""
        with self.database.lock:
            classes = [item.definition for item in self.database.classes.values()]
        if self.version.has("schema_unordered"):
            random.shuffle(classes)
        return json_answer({"classes": classes})

    def create(self, request):
        """`POST /v1/schema`: answers the definition with all defaults."""
        given = request.json_object()
        self.server.access.require_write(request.user, "create", "schema/objects")
        with self.database.lock:
            name = definitions.upper_first(given.get("class") or "")
            if not CLASS_NAME.match(name):
                raise Refused(422, f"'{name}' is not a valid class name")
            if name in self.database.classes:
                raise Refused(422, f"class name {name} already exists")
            similar = next((key for key in self.database.classes if key.lower() == name.lower()), None)
            if similar:
                raise Refused(422, f"class name {name} already exists as a permutation of: {similar}. class names "
                                   "must be unique when lowercased")
            if given.get("shardingConfig") and (given.get("multiTenancyConfig") or {}).get("enabled"):
                raise Refused(422, "cannot have both shardingConfig and multiTenancyConfig")
            for prop in given.get("properties") or []:
                self._check_property(prop, name)
            definition = definitions.complete(given, self.version, self.server.modules)
            self.database.add(Collection(definition, node=self.server.node))
            return json_answer(definition)

    def _check_property(self, prop, own_name):
        for kind in prop.get("dataType") or ["text"]:
            known = kind in definitions.PRIMITIVES or kind == own_name or kind in self.database.classes
            if not known:
                raise Refused(422, f"property '{prop.get('name')}': invalid dataType: [{kind}]: reference property "
                                   f'to nonexistent class "{kind}"')

    def one(self, request):
        """`GET` and `DELETE` of `/v1/schema/{Class}`."""
        name = request.arguments[0]
        if request.method == "DELETE":
            self.server.access.require_write(request.user, "delete", "schema/objects")
            with self.database.lock:
                self.database.drop(name)
            # 200 without a body, for a class that does not exist too.
            return Answer(200)
        with self.database.lock:
            collection = self.database.find(name)
            return json_answer(collection.definition) if collection else Answer(404)

    def add_property(self, request):
        """`POST /v1/schema/{Class}/properties`."""
        given = request.json_object()
        self.server.access.require_write(request.user, "update", "schema/objects")
        with self.database.lock:
            collection = self._collection(request.arguments[0])
            name = definitions.lower_first(given.get("name") or "")
            if not name or collection.property(name):
                raise Refused(422, f"class '{collection.name}': conflict for property '{name}': already in use or "
                                   "provided multiple times")
            self._check_property(given, collection.name)
            prop = definitions.property_defaults(given, collection.definition, self.version)
            collection.definition = {**collection.definition,
                                     "properties": collection.definition["properties"] + [prop]}
            self.database.redefine(collection)
            return json_answer(prop)

    def _collection(self, name):
        collection = self.database.find(name)
        if collection is None:
            raise Refused(422, f'class "{name}": not found')
        return collection

    def tenants(self, request):
        """`GET`, `POST`, `PUT` and `DELETE` of `/v1/schema/{Class}/tenants`."""
        given = bodies.expect_list(request.json()) if request.method != "GET" else []
        if request.method != "GET":
            self.server.access.require_write(request.user, "update", "schema/tenants")
        with self.database.lock:
            names = given if request.method == "DELETE" else [item.get("name") for item in given]
            self._check_names(names)
            statuses = [] if request.method == "DELETE" else [self._status(item, index)
                                                              for index, item in enumerate(given)]
            collection = self._collection(request.arguments[0])
            if not collection.tenants:
                raise Refused(422, f'multi-tenancy is not enabled for class "{request.arguments[0]}"')
            if request.method == "GET":
                found = [{"activityStatus": shard.status, "name": shard.name}
                         for shard in collection.shards.values()]
                # The server walks over a map: the order differs from call to call.
                random.shuffle(found)
                return json_answer(found)
            if request.method == "DELETE":
                for name in names:
                    self.database.drop_tenant(collection, name)
                return Answer(200)
            return self._set(collection, names, statuses, request.method == "PUT")

    def _set(self, collection, names, statuses, existing):
        if existing:
            for name in names:
                if name not in collection.shards:
                    raise Refused(422, f"tenant '{name}' not found")
        for name, status in zip(names, statuses):
            # Adding a tenant that is there changes nothing.
            if existing or name not in collection.shards:
                self.database.set_tenant(collection, name, status or HOT)
        return json_answer([{"activityStatus": collection.shards[name].status, "name": name} for name in names])

    def _status(self, item, index):
        word = item.get("activityStatus") or ""
        if self.version.has("active_inactive"):
            word = NEW_WORDS.get(word, word)
        if word not in ("", HOT, COLD):
            raise Refused(422, f"invalid activity status '{word}' at index {index}")
        return word

    @staticmethod
    def _check_names(names):
        for index, name in enumerate(names):
            if not isinstance(name, str) or not TENANT_NAME.match(name):
                raise Refused(422, f"tenant name at index {index}: tenant name should only contain alphanumeric "
                                   "characters (a-z, A-Z, 0-9), underscore (_), and hyphen (-), with a length "
                                   "between 1 and 64 characters")
            if name in names[:index]:
                raise Refused(422, f"duplicate tenant name {name}")
