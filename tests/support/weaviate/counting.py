"""The routes that tell how much there is: GraphQL aggregates, nodes and meta."""

import re

from answers import Answer, Refused, json_answer
from database import HOT, TenancyError

TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([A-Za-z_][A-Za-z0-9_]*)|(-?[0-9.]+)|([{}():,\[\]]))')
NO_SCHEMA = ("no graphql provider present, this is most likely because no schema is present. "
             "Import a schema first!")


class SyntaxFault(Exception):
    """A query that cannot be read."""


class Counting:
    """Handlers of `/v1/graphql`, `/v1/nodes` and `/v1/meta`."""

    def __init__(self, server):
        self.server = server
        self.database = server.database
        self.disabled = False
        self.lag = 0

    def graphql(self, request):
        """`POST /v1/graphql`: counts only; errors of a query come with HTTP 200."""
        query = request.json_object().get("query") or ""
        if self.disabled:
            raise Refused(422, "graphql api is disabled")
        if not query:
            raise Refused(422, "query cannot be empty")
        with self.database.lock:
            if not self.database.classes:
                raise Refused(422, NO_SCHEMA)
            try:
                wanted = parse(query)
            except SyntaxFault as error:
                return json_answer({"data": None, "errors": [
                    {"locations": [], "message": f"Syntax Error GraphQL request {error}", "path": None}]})
            for _, name, _ in wanted:
                if name not in self.database.classes:
                    return json_answer({"errors": [{
                        "locations": [{"column": query.find(name) + 1, "line": 1}],
                        "message": f'Cannot query field "{name}" on type "AggregateObjectsObj".', "path": None}]})
            return json_answer(self._aggregate(query, wanted))

    def _aggregate(self, query, wanted):
        data, errors = {}, []
        for alias, name, arguments in wanted:
            try:
                shard = self.database.classes[name].shard(arguments.get("tenant", ""))
                data[alias] = [{"meta": {"count": len(shard.records)}}]
            except TenancyError as error:
                data[alias] = None
                errors.append({"locations": [{"column": query.find(name) + 1, "line": 1}],
                               "message": str(error), "path": ["Aggregate", alias]})
        answer = {"data": {"Aggregate": data}}
        if errors:
            answer["errors"] = errors
        return answer

    def nodes(self, request):
        """`GET /v1/nodes[/{Class}]`: from 1.24 on the counts leave out what is still in memory."""
        version = self.server.version
        output = request.query.get("output") or ("minimal" if version.has("nodes_minimal") else "verbose")
        name = request.arguments[0] if request.arguments else None
        node = {"gitHash": "0000000", "name": self.server.node, "status": "HEALTHY", "version": version.text,
                "shards": None}
        with self.database.lock:
            if name and not self.database.find(name):
                raise Refused(404, f"class {name} not found")
            if output == "verbose":
                shards = self._shards(name)
                node["shards"] = shards
                node["batchStats"] = {"queueLength": 0, "ratePerSecond": 0}
                node["stats"] = {"objectCount": sum(shard["objectCount"] for shard in shards),
                                 "shardCount": len(shards)}
        return json_answer({"nodes": [node]})

    def _shards(self, name):
        lag = self.lag if self.server.version.has("nodes_lag") else 0
        shards = []
        for collection in [self.database.find(name)] if name else self.database.classes.values():
            for shard in collection.shards.values():
                # Inactive tenants are not loaded and do not show.
                if shard.status == HOT:
                    entry = {"class": collection.name, "name": shard.name,
                             "objectCount": max(0, len(shard.records) - lag),
                             "vectorIndexingStatus": "READY", "vectorQueueLength": 0}
                    if self.server.version.has("nodes_minimal"):
                        entry.update(compressed=False, loaded=True)
                    shards.append(entry)
        return shards

    def meta(self, _request):
        """`GET /v1/meta`: says which modules are on and where they write."""
        answer = {"hostname": "http://[::]:8080", "modules": self.server.module_meta(),
                  "version": self.server.version.text}
        if self.server.version.has("grpc_size_in_meta"):
            answer["grpcMaxMessageSize"] = 104858000
        return json_answer(answer)

    @staticmethod
    def openid(_request):
        """`GET /v1/.well-known/openid-configuration`: there is no OIDC here."""
        return Answer(404)


def parse(query):
    """The classes asked for in `{Aggregate{Class(tenant:"t"){meta{count}} …}}`: (alias, class, arguments)."""
    tokens, position = [], 0
    while position < len(query.rstrip()):
        match = TOKEN.match(query, position)
        if not match:
            raise SyntaxFault(f"(1:{position + 1}) Unexpected character")
        tokens.append(match.group(0).strip())
        position = match.end()
    reader = _Reader(tokens)
    reader.skip("query")
    reader.need("{")
    if reader.take() != "Aggregate":
        raise SyntaxFault("(1:2) only Aggregate is in this double")
    reader.need("{")
    wanted = []
    while reader.peek() != "}":
        name = alias = reader.take()
        if reader.peek() == ":":
            reader.take()
            name = reader.take()
        wanted.append((alias, name, reader.arguments()))
        reader.block()
    return wanted


class _Reader:
    """Walks over the tokens of a query."""

    def __init__(self, tokens):
        self.tokens = tokens

    def peek(self):
        if not self.tokens:
            raise SyntaxFault("Unexpected EOF")
        return self.tokens[0]

    def take(self):
        token = self.peek()
        self.tokens = self.tokens[1:]
        return token

    def need(self, token):
        if self.take() != token:
            raise SyntaxFault(f"Expected {token}")

    def skip(self, token):
        if self.peek() == token:
            self.take()

    def arguments(self):
        """`(tenant: "t1")`, or nothing."""
        found = {}
        if self.peek() != "(":
            return found
        self.take()
        while self.peek() != ")":
            name = self.take()
            if name == ",":
                continue
            self.need(":")
            found[name] = self.take().strip('"')
        self.take()
        return found

    def block(self):
        """Passes over a `{…}` with all that it holds."""
        self.need("{")
        depth = 1
        while depth:
            depth += {"{": 1, "}": -1}.get(self.take(), 0)
