"""Which paths exist, with which methods, in which version; all others are refused as the framework does."""

import re
import urllib.parse

from answers import Rejected

NOT_HERE = None
BACKEND = "/v1/backups/{}"
BACKUP = BACKEND + "/{}"
RESTORE = BACKUP + "/restore"


class Routes:
    """A table from path patterns to methods and handlers."""

    def __init__(self, server):
        version = server.version
        backups, objects, batches = server.backup_routes, server.objects, server.batches
        schema, counting = server.schema, server.counting
        table = [
            ("/v1/meta", {"GET": counting.meta}),
            ("/v1/.well-known/openid-configuration", {"GET": counting.openid}),
            ("/v1/graphql", {"POST": counting.graphql}),
            ("/v1/nodes", {"GET": counting.nodes}),
            ("/v1/nodes/{}", {"GET": counting.nodes}),
            ("/v1/schema", {"GET": schema.all, "POST": schema.create}),
            ("/v1/schema/{}", {"GET": schema.one, "DELETE": schema.one, "PUT": NOT_HERE}),
            ("/v1/schema/{}/properties", {"POST": schema.add_property}),
            ("/v1/schema/{}/shards", {"GET": NOT_HERE}),
            ("/v1/schema/{}/tenants/{}", dict.fromkeys(("GET", "HEAD"), NOT_HERE)),
            ("/v1/schema/{}/tenants", dict.fromkeys(("GET", "POST", "PUT", "DELETE"), schema.tenants)),
            ("/v1/objects", {"GET": objects.list, "POST": objects.create}),
            ("/v1/objects/validate", {"POST": NOT_HERE}),
            ("/v1/objects/{}", dict.fromkeys(("GET", "HEAD", "PUT", "PATCH", "DELETE"), NOT_HERE)),
            ("/v1/objects/{}/{}", {"GET": objects.one, "HEAD": objects.one, "DELETE": objects.one,
                                   "PUT": NOT_HERE, "PATCH": NOT_HERE}),
            ("/v1/objects/{}/{}/references/{}", dict.fromkeys(("POST", "PUT", "DELETE"), NOT_HERE)),
            ("/v1/batch/objects", {"POST": batches.objects, "DELETE": NOT_HERE}),
            ("/v1/batch/references", {"POST": batches.references}),
            (BACKEND, {"POST": backups.create}),
            (BACKUP, {"GET": backups.create_status}),
            (RESTORE, {"GET": backups.restore_status, "POST": backups.restore}),
        ]
        methods = dict(table)
        if version.has("list_route"):
            methods[BACKEND]["GET"] = backups.list
        if version.has("cancel_backup"):
            methods[BACKUP]["DELETE"] = backups.cancel_backup
        if version.has("cancel_restore"):
            methods[RESTORE]["DELETE"] = backups.cancel_restore
        self.table = [(re.compile(pattern.replace(".", r"\.").replace("{}", "([^/]+)") + r"\Z"), known)
                      for pattern, known in methods.items()]

    def find(self, method, path):
        """The handler and the parts of the path; routing comes before authentication."""
        for pattern, methods in self.table:
            match = pattern.match(path)
            if not match:
                continue
            if method not in methods:
                allowed = sorted(methods)
                raise Rejected(405, f"method {method} is not allowed, but [{','.join(allowed)}] are",
                               headers=[("Allow", ",".join(allowed))])
            return methods[method], [urllib.parse.unquote(part) for part in match.groups()]
        raise Rejected(404, f"path {path} was not found")
