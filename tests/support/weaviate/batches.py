"""The batch routes: HTTP 200, and what became of each item in the item's own result."""

import uuid

import validation
from answers import Refused, text_answer
from bodies import expect_list
from database import Record, TenancyError
from objects import build, dump, error_json, object_text
from validation import Invalid, NoVector


class Batches:
    """Handlers of `/v1/batch`."""

    def __init__(self, server):
        self.server = server
        self.database = server.database

    def objects(self, request):
        """`POST /v1/batch/objects`: an object with a known id replaces the one that is there."""
        given = request.json_object().get("objects") or []
        self.server.access.require_write(request.user, "create", "batch/objects")
        if not given:
            raise Refused(422, "invalid param 'objects': cannot be empty, need at least one object for batching")
        with self.database.lock:
            # All are checked before the first is stored: a reference to an object of the same batch fails.
            checked = [self._check(item) for item in given]
            for collection, shard, records in _by_shard(checked):
                self.database.put(collection, shard, records)
        texts = [self._result(item, found) for item, found in zip(given, checked)]
        return text_answer("[" + ",".join(texts) + "]")

    def _check(self, item):
        """Collection, shard and record of an item, or the message of its refusal."""
        try:
            if not item.get("class"):
                return "object has an empty class"
            id = validation.canonical_id(item["id"]) if item.get("id") else str(uuid.uuid4())
            collection = self.database.find(item["class"])
            if collection is None:
                return f"class '{item['class']}' not present in schema"
            tenant = item.get("tenant", "")
            return collection, collection.shard(tenant, writes=True), build(self.server, collection, item, id, tenant)
        except (Invalid, NoVector, TenancyError) as error:
            return str(error)

    @staticmethod
    def _result(item, found):
        if isinstance(found, str):
            item = {key: item[key] for key in ("class", "id", "properties", "tenant", "vector") if key in item}
            return dump(item)[:-1] + ("," if item else "") + (
                f'"deprecations":null,"result":{{"errors":{error_json(found)},"status":"FAILED"}}}}')
        collection, _, record = found
        return object_text(collection, record, item.get("tenant", ""), True,
                           ',"deprecations":null,"result":{"status":"SUCCESS"}')

    def references(self, request):
        """`POST /v1/batch/references`: appends references; that the target exists is not checked."""
        given = expect_list(request.json())
        self.server.access.require_write(request.user, "update", "batch/*")
        if not given:
            raise Refused(422, "invalid params: length cannot be 0, need at least one reference for batching")
        with self.database.lock:
            texts = [self._reference(item) for item in given]
        return text_answer("[" + ",".join(texts) + "]")

    def _reference(self, item):
        try:
            self._append(item)
        except (Invalid, TenancyError) as error:
            return f'{{"result":{{"errors":{error_json(str(error))},"status":"FAILED"}}}}'
        return f'{{"from":{dump(item["from"])},"to":{dump(item["to"])},"result":{{"status":"SUCCESS"}}}}'

    def _append(self, item):
        match = validation.SOURCE.match(str(item.get("from", "")))
        if not match:
            raise Invalid("invalid source: must be weaviate://localhost/<class>/<id>/<property>")
        class_name, id, name = match.group(1), match.group(2).lower(), match.group(3)
        target_class, target = validation.parse_beacon(item.get("to", ""))
        collection = self.database.find(class_name)
        if collection is None:
            raise Invalid(f'class "{class_name}" not found in schema')
        prop = collection.property(name)
        if prop is None:
            raise Invalid(validation.NO_PROPERTY.format(name, collection.name))
        tenant = item.get("tenant", "")
        target_class = target_class or prop["dataType"][0]
        shard = collection.shard(tenant)
        self._check_tenants(collection, target_class, id, target, tenant)
        # The server makes an empty object where the source is missing; it does not look for doubles.
        old = shard.records.get(id) or Record(id, {})
        references = old.properties.get(name, []) + [{"beacon": validation.beacon(target_class, target)}]
        new = Record(id, {**old.properties, name: references}, old.vector, old.vectors, old.created)
        self.database.put(collection, shard, [new])

    def _check_tenants(self, collection, target_class, id, target, tenant):
        """Only where tenants are concerned do both ends have to be there."""
        other = self.database.find(target_class)
        if other is not None and other.tenants and not collection.tenants:
            raise Invalid("invalid reference: cannot reference a multi-tenant enabled class from a non "
                          "multi-tenant enabled class")
        if not collection.tenants:
            return
        if other is None:
            raise Invalid(f'target class "{target_class}" not found in schema')
        if not self.database.exists(collection.name, id, tenant):
            raise Invalid(f'source: object {collection.name}/{id} not found for tenant "{tenant}"')
        if not self.database.exists(target_class, target, tenant):
            shown = tenant if other.tenants else ""
            raise Invalid(f'target: object {target_class}/{target} not found for tenant "{shown}"')


def _by_shard(checked):
    """The records of the items that passed, gathered by the shard they belong to."""
    shards = {}
    for found in checked:
        if not isinstance(found, str):
            collection, shard, record = found
            shards.setdefault(id(shard), (collection, shard, []))[2].append(record)
    return shards.values()
