"""Making backups: the checks in the server's order, the copy, and the end that is seen at a look."""

import threading

import descriptors
import naming
import tree
from answers import Answer, Refused, accepted
from descriptors import BACKUP_FILE, NODE_FILE, Unreadable
from operations import Cancelled, Gone, Operation
from stores import StoreError

RESTARTED = "backup canceled due to node restart"
HALF_FOR = 2.0
AGREEMENT = 8.0
RESERVED = 20.0
EARLY = 0.2


class Backups:
    """Accepts, runs and cancels backups."""

    def __init__(self, server):
        self.server = server
        self.version = server.version
        self.database = server.database
        self.slot = server.slots["backup"]

    def accept(self, user, backend, store, body, connected):
        """`POST /v1/backups/{backend}`: 200 means accepted, never done."""
        id, config = body.get("id") or "", body.get("config") or {}
        self.server.refuse_cluster(store)
        naming.check_id(id, self.version)
        include, exclude = body.get("include") or [], body.get("exclude") or []
        naming.check_lists(include, exclude)
        place = self.server.place(config)
        with self.database.lock:
            names = self._classes(include, exclude)
            self._check_nodes(names)
        names = self.server.access.allowed_classes(user, names, bool(include), "add", f"backups/{store.name}/{id}")
        self._check_unused(store, place, id)
        operation = self._reserve(store, place, id)
        self._agree(operation, connected)
        with self.database.lock:
            tokens = {name: self.database.classes.get(name) for name in names}
            captured = {name: tree.capture(collection, self.version) for name, collection in tokens.items()
                        if collection is not None}
        level = config.get("CompressionLevel")
        operation.descriptor = descriptors.start(id, self.server.node, names, self.version, level)
        try:
            store.write(f"{id}/{BACKUP_FILE}", descriptors.encode(operation.descriptor), place)
        except StoreError as error:
            self.slot.give_back(operation)
            raise Refused(self.server.store_status, f"cannot init meta file: {error}") from None
        arguments = (operation, store, captured, tokens, level)
        threading.Thread(target=self._run, args=arguments, daemon=True).start()
        return accepted(backend, store, id, place, names)

    def _classes(self, include, exclude):
        names = list(self.database.classes)
        if not names:
            raise Refused(422, "no available classes to backup, there's nothing to do here")
        unknown = naming.missing(names, include, self.version)
        if unknown:
            raise Refused(422, f"class {unknown} doesn't exist")
        kept = naming.chosen(names, include, exclude, self.version)
        if not kept:
            raise Refused(422, f"empty class list: please choose from : {naming.shown(names)}")
        return kept

    def _check_nodes(self, names):
        """Classes know the node that holds them: under another name the server does not find itself."""
        for name in names:
            node = self.database.classes[name].node
            if node not in (None, self.server.node):
                raise Refused(self.server.store_status, f'cannot resolve hostname for "{node}"')

    def _check_unused(self, store, place, id):
        """An id is spent from the moment its first descriptor was written."""
        home = store.home(id, place)
        try:
            found = descriptors.read(store, place, f"{id}/{BACKUP_FILE}")
        except Unreadable as error:
            if error.absent:
                return
            raise Refused(self.server.store_status, f'check if backup "{id}" exists at "{home}": {error}') from None
        if found.get("status") == "CANCELED":
            if self.version.has("cancelled_id_slip"):
                raise Refused(422, f'check if backup "{id}" exists at "{home}": %!w(<nil>)')
            raise Refused(422, f'backup "{id}" was cancelled. please retry with new backup id')
        raise Refused(422, f'backup "{id}" already exists at "{home}"')

    def _reserve(self, store, place, id):
        try:
            store.probe(id, place)
        except StoreError as error:
            raise Refused(self.server.store_status,
                          f"init uploader: failed to access-check {store.name} backup module: {error}") from None
        operation = Operation("backup", id, place, {}, self.server.clock)
        refusal = self.slot.take(operation, "backup")
        if refusal:
            raise Refused(422, refusal)
        operation.script = self.slot.script()
        return operation

    def _agree(self, operation, connected):
        """Asks the nodes: 8 s at most, and dropped when the client goes; the node keeps the slot for 20 s."""
        asked = float(operation.script.get("agreement_seconds") or 0)
        clock, end = self.server.clock, operation.started + min(asked, AGREEMENT)
        while clock.now() < end and connected():
            threading.Event().wait(min(0.01, clock.real(end - clock.now())))
        if asked <= AGREEMENT and connected():
            return
        timer = threading.Timer(clock.real(operation.started + RESERVED - clock.now()), self.slot.leave, [operation])
        timer.daemon = True
        timer.start()
        raise Refused(self.server.store_status, f"node {self.server.node}: cannot commit : context deadline exceeded")

    def _run(self, operation, store, captured, tokens, level):
        status, error, size = "SUCCESS", "", 0
        try:
            try:
                size = self._copy(operation, store, captured, level)
                operation.transfer()
                operation.check()
                error = operation.script.get("fail") or ""
                status = "FAILED" if error else "SUCCESS"
                if operation.script.get("cancelled"):
                    status, error = "CANCELED", operation.script["cancelled"]
            except (StoreError, OSError) as fault:
                status, error = "FAILED", f"node {self.server.node}: {fault}"
            if status == "SUCCESS":
                operation.wait_for_look()
                error = self._deleted(tokens)
                status = "FAILED" if error else status
            else:
                self._node_descriptor(operation, store, [], "TRANSFERRING", error, 0)
                operation.wait_for_look()
            self.slot.gate.passing(operation)
        except Cancelled:
            # The node stops at once, the coordinator learns of it at its next look.
            operation.tell(uncancellable=True)
            try:
                operation.wait_for_look()
            except Gone:
                return
            status, error = "CANCELED", f'backup "{operation.id}" was canceled by a client'
        except Gone:
            return
        self._end(operation, store, status, error, size)

    def _copy(self, operation, store, captured, level):
        """Chunks, an empty archive of a worker that found nothing to do, and the node's descriptor."""
        writer = tree.Writer(store, operation.place, operation.script.get("disk_full_after"),
                             self.version.has("chunk_truncates"))
        prefix, described, size = f"{operation.id}/{self.server.node}", [], 0
        for name, taken in captured.items():
            entry, chunks = tree.class_files(taken, self.version, self.server.node)
            for number, files in sorted(chunks.items()):
                operation.check()
                size += sum(len(content) for _, content in files)
                writer.chunk(f"{prefix}/{name}/chunk-{number}", tree.pack(files, level))
            if chunks:
                # No descriptor names this one; that is no fault.
                writer.chunk(f"{prefix}/{name}/chunk-{max(chunks) + 2}", tree.pack([], level))
            described.append(entry)
        if operation.script.get("fail") or operation.script.get("cancelled"):
            return size
        self._node_descriptor(operation, store, described, "SUCCESS", "", size)
        return size

    def _node_descriptor(self, operation, store, described, status, error, size):
        operation.check()
        value = descriptors.of_node(operation.descriptor, described, status, error, size)
        try:
            store.write(f"{operation.id}/{self.server.node}/{NODE_FILE}", descriptors.encode(value), operation.place)
        except StoreError:
            if status == "SUCCESS":
                raise

    def _deleted(self, tokens):
        """A class that was deleted meanwhile makes the backup fail, until the newer servers skip it."""
        if self.version.has("deleted_class_is_skipped"):
            return ""
        with self.database.lock:
            for name, collection in tokens.items():
                if collection is None or self.database.classes.get(name) is not collection:
                    return f"node {self.server.node}: class {name} doesn't exist any more"
        return ""

    def _end(self, operation, store, status, error, size):
        value = descriptors.finish(operation.descriptor, self.server.node, status, error, size)
        content = descriptors.encode(value)
        key = f"{operation.id}/{BACKUP_FILE}"
        try:
            with operation.changed:
                if operation.gone:
                    return
            if self.version.has("early_success"):
                # The newer servers say how it ended a moment before it is on disk.
                operation.tell(status=status, error=error, descriptor=value, uncancellable=True)
                operation.wait_until(self.server.clock.now() + EARLY)
            if operation.script.get("truncated_descriptor"):
                store.write(key, content[:len(content) // 2], operation.place)
                self.slot.gate.passing(operation)
                operation.wait_until(self.server.clock.now() + HALF_FOR)
            store.write(key, content, operation.place)
            operation.tell(status=status, error=error, descriptor=value)
        except (Gone, Cancelled, StoreError) as fault:
            self.server.note(f"backup {operation.id}: the last descriptor was not written: {fault}")
        finally:
            self.slot.leave(operation)

    def cancel(self, store, id, place):
        """`DELETE /v1/backups/{backend}/{id}`: only asks the nodes to stop."""
        if not naming.ID.match(id):
            status = 422 if self.version.has("malformed_cancel_is_422") else 500
            raise Refused(status, "invalid backup id: allowed characters are lowercase, 0-9, _, -")
        operation = self.slot.find(id, place)
        if operation is not None and operation.status != "SUCCESS":
            operation.tell(cancel_asked=True)
            self.slot.gate.wake()
            return Answer(204)
        try:
            status = descriptors.read(store, place, f"{id}/{BACKUP_FILE}").get("status")
        except Unreadable:
            return Answer(204)
        if status == "SUCCESS":
            raise Refused(422, f'backup "{id}" already succeeded')
        return Answer(204)

    def clean_up(self, store, began):
        """After a restart, from 1.27.4 on: what an earlier run never ended is written down as cancelled."""
        for id in store.ids():
            try:
                value = descriptors.read(store, {}, f"{id}/{BACKUP_FILE}")
            except Unreadable:
                continue
            if value.get("startedAt", "") >= began:
                continue
            lost = value.get("status") == "FAILED" and "might be down" in str(value.get("error"))
            if lost or value.get("status") in ("STARTED", "TRANSFERRING", "TRANSFERRED"):
                value = descriptors.finish(value, self.server.node, "CANCELED", RESTARTED)
                store.write(f"{id}/{BACKUP_FILE}", descriptors.encode(value), {})
