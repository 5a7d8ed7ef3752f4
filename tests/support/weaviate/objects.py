"""The routes of single objects and the cursor over a class."""

import json
import uuid

import validation
from answers import Answer, Refused, json_answer, text_answer
from database import Record, TenancyError
from definitions import is_reference, upper_first
from validation import Invalid, NoVector

MAXIMUM_RESULTS = 10000
DEFAULT_LIMIT = 10


def dump(value):
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def with_links(collection, properties):
    """Properties with the `href` that the server adds to each reference."""
    result = properties
    for prop in collection.definition["properties"]:
        if is_reference(prop) and prop["name"] in properties:
            if result is properties:
                result = dict(properties)
            result[prop["name"]] = [
                {"beacon": item["beacon"], "href": "/v1/objects/" + item["beacon"].split("localhost/", 1)[1]}
                for item in properties[prop["name"]]]
    return result


def object_text(collection, record, tenant, with_vector=True, extra=""):
    """An object as the routes show it; `extra` comes before the end."""
    parts = [f'"class":{dump(collection.name)},"creationTimeUnix":{record.created},"id":"{record.id}",'
             f'"lastUpdateTimeUnix":{record.updated},'
             f'"properties":{dump(with_links(collection, record.properties))}']
    if tenant:
        parts.append(f'"tenant":{dump(tenant)}')
    if with_vector and record.vector:
        parts.append(f'"vector":{record.vector}')
    if with_vector and record.vectors:
        parts.append('"vectors":{%s}' % ",".join(f"{dump(name)}:{text}" for name, text in record.vectors.items()))
    return "{" + ",".join(parts) + extra + "}"


class Objects:
    """Handlers of `/v1/objects`."""

    def __init__(self, server):
        self.server = server
        self.database = server.database
        self.version = server.version

    def list(self, request):
        """`GET /v1/objects`: with a class and `after` it is a cursor in the order of ids."""
        limit = self._number(request, "limit", DEFAULT_LIMIT)
        offset = self._number(request, "offset", 0)
        with_vector = self._with_vector(request)
        if offset + limit > MAXIMUM_RESULTS:
            raise Refused(422, "msg:offset or limit code:400 err:query maximum results exceeded")
        name, tenant = request.query.get("class", ""), request.query.get("tenant", "")
        after = request.query.get("after")
        with self.database.lock:
            texts = self._page(name, tenant, after, limit, offset, with_vector)
        total = f',"totalResults":{len(texts)}' if texts else ""
        nothing = "[]" if name else "null"
        return text_answer(f'{{"deprecations":{nothing},"objects":[{",".join(texts)}]{total}}}')

    @staticmethod
    def _with_vector(request):
        """Vectors are left out unless `include=vector` asks for them."""
        include = [word for word in request.query.get("include", "").split(",") if word]
        for word in include:
            if word not in ("vector", "classification"):
                raise Refused(400, f"unrecognized property '{word}' in ?include list")
        return "vector" in include

    @staticmethod
    def _number(request, name, default):
        text = request.query.get(name, "")
        try:
            return int(text) if text else default
        except ValueError:
            raise Refused(422, f"{name} in query must be of type int64") from None

    def _page(self, name, tenant, after, limit, offset, with_vector):
        if not name:
            if after is not None:
                raise Refused(422, "cursor api: invalid 'after' parameter: class parameter cannot be empty")
            collections = [item for item in self.database.classes.values() if item.tenants == bool(tenant)]
        else:
            collections = [self.database.find(name)]
        if collections == [None]:
            # The server answers an unknown class here without a body.
            raise NotFound()
        if after is not None:
            self._check_cursor(after, offset)
        texts = []
        for collection in collections:
            try:
                shard = collection.shard(tenant)
            except TenancyError as error:
                raise Refused(422, f"msg:search index {collection.name.lower()} code:422 err:{error}") from None
            texts += [object_text(collection, record, tenant, with_vector, ',"vectorWeights":null')
                      for record in shard.after(after, limit, offset)]
        return texts[:limit]

    @staticmethod
    def _check_cursor(after, offset):
        start = "msg:cursor api: invalid 'after' parameter code:400 err:"
        if offset:
            raise Refused(422, start + "offset cannot be set with after and limit parameters")
        if after:
            try:
                uuid.UUID(after)
            except ValueError:
                raise Refused(422, start + f"after parameter '{after}' is not a valid uuid") from None

    def create(self, request):
        """`POST /v1/objects`: one object; an id that is taken is refused."""
        given = request.json_object()
        self.server.access.require_write(request.user, "create", "objects")
        with self.database.lock:
            collection = self.database.find(given.get("class"))
            try:
                id = validation.canonical_id(given["id"]) if given.get("id") else str(uuid.uuid4())
                if collection is None:
                    name = upper_first(given.get("class") or "")
                    raise Refused(422, f'invalid object: class "{name}" not found in schema')
                tenant = given.get("tenant", "")
                shard = collection.shard(tenant, writes=True)
                if id in shard.records:
                    raise Refused(422, f"id '{id}' already exists")
                record = build(self.server, collection, given, id, tenant)
            except TenancyError as error:
                raise Refused(422, str(error)) from None
            except Invalid as error:
                raise Refused(422, f"invalid object: {error}") from None
            except NoVector as error:
                raise Refused(500, str(error)) from None
            self.database.put(collection, shard, [record])
            return text_answer(object_text(collection, record, tenant))

    def one(self, request):
        """`GET`, `HEAD` and `DELETE` of `/v1/objects/{Class}/{id}`."""
        tenant = request.query.get("tenant", "")
        if request.method == "DELETE":
            self.server.access.require_write(request.user, "delete", "objects/" + "/".join(request.arguments))
        with self.database.lock:
            collection = self.database.find(request.arguments[0])
            try:
                id = validation.canonical_id(request.arguments[1])
                shard = collection.shard(tenant) if collection else None
            except TenancyError as error:
                raise Refused(422, f"repo: object by id: {error}") from None
            except Invalid as error:
                raise Refused(422, str(error)) from None
            record = shard.records.get(id) if shard else None
            if record is None:
                raise NotFound()
            if request.method == "DELETE":
                self.database.remove(collection, shard, id)
                return Answer(204)
            if request.method == "HEAD":
                return Answer(204)
            return text_answer(object_text(collection, record, tenant, self._with_vector(request),
                                           ',"vectorWeights":null'))


class NotFound(Refused):
    """404 without a body, as the object routes answer it."""

    def __init__(self):
        super().__init__(404, "")

    def answer(self):
        """No body at all."""
        return Answer(404)


def build(server, collection, given, id, tenant):
    """A record from a request's object, checked."""
    values = validation.properties(server.database, collection, given.get("properties"), tenant)
    vector, named = validation.vectors(collection, given, server.version)
    record = Record(id, values, vector, named)
    validation.check_vectorizer(collection, record)
    return record


def error_json(message):
    """The `errors` of one item of a batch."""
    return json_answer({"error": [{"message": message}]}).body.decode()
