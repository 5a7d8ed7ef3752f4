"""The routes of backups: what exists in which version, and how statuses are read."""

import bodies
import descriptors
from answers import Refused, Rejected, json_answer
from backups import Backups
from clock import ZERO_DATE
from descriptors import BACKUP_FILE, RESTORE_FILE, Unreadable
from restores import Restores
from stores import StoreError

GIB = 1 << 30


class BackupRoutes:
    """Handlers of `/v1/backups`."""

    def __init__(self, server):
        self.server = server
        self.version = server.version
        self.backups = Backups(server)
        self.restores = Restores(server)

    def create(self, request):
        """`POST /v1/backups/{backend}`."""
        backend = request.arguments[0]
        body = bodies.check_backup(request.json(), self.version, restore=False)
        self.server.access.require_write(request.user, "add", f"backups/{backend}/{body.get('id') or ''}")
        self._refuse_zstd(body)
        return self.backups.accept(request.user, backend, self._store(backend, "backend"), body,
                                   request.connected)

    def restore(self, request):
        """`POST /v1/backups/{backend}/{id}/restore`; `{}` restores everything."""
        backend, id = request.arguments
        body = bodies.check_backup(request.json(), self.version, restore=True)
        self.server.access.require_write(request.user, "restore", f"backups/{backend}/{id}/restore")
        return self.restores.accept(request.user, backend, self._store(backend, "backend"), id, body)

    def _refuse_zstd(self, body):
        level = (body.get("config") or {}).get("CompressionLevel") or ""
        if level.startswith("Zstd") and self.version.has("more_compression"):
            raise Rejected(501, "zstd is not in this double")

    def _store(self, backend, word, status=422):
        """The store behind a short or a full module name."""
        name = backend[len("backup-"):] if backend.startswith("backup-") else backend
        store = self.server.stores.get(name)
        if store is None:
            raise Refused(status, f'no backup {word} "{backend}": backup: {backend} not found, did you enable '
                                  "the right module?")
        return store

    def create_status(self, request):
        """`GET /v1/backups/{backend}/{id}`: a failed backup is 200 with `FAILED`."""
        return self._status(request, "backup", BACKUP_FILE, self._store(request.arguments[0], "provider"))

    def restore_status(self, request):
        """`GET /v1/backups/{backend}/{id}/restore`: the last restore of that backup."""
        status = 500 if self.version.has("store_faults_are_500") else 422
        store = self._store(request.arguments[0], "provider", status)
        return self._status(request, "restore", RESTORE_FILE, store)

    def _status(self, request, kind, file, store):
        backend, id = request.arguments
        place = self._place(request)
        slot = self.server.slots[kind]
        operation = slot.find(id, place)
        if operation and not operation.descriptor:
            # The nodes have not agreed yet: there is nothing to be seen.
            operation = None
        value = operation.descriptor if operation else self._stored(store, place, f"{id}/{file}")
        status, error = value.get("status", ""), value.get("error") or ""
        if operation:
            status, error = operation.status, operation.error
            if status not in ("SUCCESS", "FAILED", "CANCELED"):
                status = self._word(operation) or status
        answer = {"backend": backend, "id": id, "path": store.home(id, place), "status": status}
        if error:
            answer["error"] = error
        if self.version.has("status_has_dates"):
            answer.update(startedAt=value.get("startedAt", ZERO_DATE), completedAt=value.get("completedAt", ZERO_DATE))
        if self.version.has("status_has_size") and kind == "backup":
            answer["size"] = value.get("preCompressionSizeBytes", 0) / GIB
        return json_answer(answer)

    @staticmethod
    def _word(operation):
        """A status that a test wants to be seen for some looks."""
        script = operation.script
        if script.get("status_word") and script.setdefault("looks", 1) > 0:
            script["looks"] -= 1
            return script["status_word"]
        return None

    def _stored(self, store, place, key):
        """Up to 1.37.9 every failure to read is a 404; later only a true absence."""
        try:
            return descriptors.read(store, place, key)
        except Unreadable as error:
            status = 500 if self.version.has("store_faults_are_500") and not error.absent else 404
            raise Refused(status, f"coordinator cannot get status: {error}") from None

    def _place(self, request):
        return self.server.place({"Bucket": request.query.get("bucket"), "Path": request.query.get("path")})

    def list(self, request):
        """`GET /v1/backups/{backend}`: one unreadable descriptor makes the whole list a 500."""
        store = self._store(request.arguments[0], "backend") if self.version.has("list_works") else None
        if store is None:
            raise Refused(500, "not implemented")
        order = request.query.get("order") or "desc"
        if self.version.has("list_has_size") and order not in ("asc", "desc"):
            raise Rejected(422, "order in query should be one of [asc desc]", 606)
        values = []
        try:
            for id in store.ids():
                try:
                    values.append(descriptors.read(store, {}, f"{id}/{BACKUP_FILE}"))
                except Unreadable as error:
                    if not error.absent:
                        raise
        except (Unreadable, StoreError) as error:
            raise Refused(500, f"list backups: {error}") from None
        values.sort(key=lambda value: value.get("startedAt", ""), reverse=order == "desc")
        return json_answer([self._listed(value) for value in values])

    def _listed(self, value):
        classes = [name for node in value["nodes"].values() for name in node.get("classes") or []]
        entry = {"classes": classes, "id": value["id"], "status": value["status"]}
        if self.version.has("list_has_dates"):
            entry.update(startedAt=value["startedAt"], completedAt=value["completedAt"])
        if self.version.has("list_has_size"):
            entry["size"] = value.get("preCompressionSizeBytes", 0) / GIB
        return entry

    def cancel_backup(self, request):
        """`DELETE /v1/backups/{backend}/{id}`."""
        backend, id = request.arguments
        self.server.access.require_write(request.user, "delete", f"backups/{backend}/{id}")
        return self.backups.cancel(self._store(backend, "backend"), id, self._place(request))

    def cancel_restore(self, request):
        """`DELETE /v1/backups/{backend}/{id}/restore`."""
        backend, id = request.arguments
        self.server.access.require_write(request.user, "delete", f"backups/{backend}/{id}/restore")
        return self.restores.cancel(self._store(backend, "backend"), id, self._place(request))
