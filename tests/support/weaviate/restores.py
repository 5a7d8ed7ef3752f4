"""Restoring: the checks before it is accepted, the reading of the tree, and the classes that come back."""

import threading

import definitions
import descriptors
import naming
import tree
from answers import Answer, Refused, accepted
from database import Shard, new_shard_name
from descriptors import BACKUP_FILE, NODE_FILE, RESTORE_FILE, Unreadable
from operations import Cancelled, Gone, Operation
from stores import StoreError
from tree import Damaged

PHASE = 0.5


class Restores:
    """Accepts, runs and cancels restores."""

    def __init__(self, server):
        self.server = server
        self.version = server.version
        self.database = server.database
        self.slot = server.slots["restore"]

    def accept(self, user, backend, store, id, body):
        """`POST /v1/backups/{backend}/{id}/restore`; that a class exists already is never refused here."""
        self.server.refuse_cluster(store)
        include, exclude = body.get("include") or [], body.get("exclude") or []
        naming.check_lists(include, exclude)
        place = self.server.place(body.get("config") or {})
        value = self._descriptor(store, place, id)
        self._check_descriptor(value, store, place, id)
        names = self._classes(value, include, exclude, id)
        names = self.server.access.allowed_classes(user, names, bool(include), "restore",
                                                   f"backups/{store.name}/{id}/restore")
        node, described = self._node(value, body.get("node_mapping") or {}, store, place, id, names)
        operation = Operation("restore", id, place, {}, self.server.clock)
        refusal = self.slot.take(operation, "restoration")
        if refusal:
            raise Refused(422, refusal)
        operation.descriptor = descriptors.start(id, node, names, self.version)
        try:
            store.write(f"{id}/{RESTORE_FILE}", descriptors.encode(operation.descriptor), place)
        except StoreError as error:
            self.slot.leave(operation)
            raise Refused(self.server.store_status, f"put initial metadata: {error}") from None
        operation.script = self.slot.script()
        if self.version.has("restore_states"):
            operation.tell(status="TRANSFERRING")
        arguments = (operation, store, node, described, value)
        threading.Thread(target=self._run, args=arguments, daemon=True).start()
        return accepted(backend, store, id, place, names)

    def _descriptor(self, store, place, id):
        try:
            return descriptors.read(store, place, f"{id}/{BACKUP_FILE}")
        except Unreadable as error:
            if not error.absent and self.version.has("store_faults_are_500"):
                raise Refused(500, f'find backup "{id}": {error}') from None
            if self.version.has("config"):
                raise Refused(404, f'backup id "{id}" does not exist: {error}') from None
            raise Refused(404, f"scheduler cannot validate restore request: {error}") from None

    def _check_descriptor(self, value, store, place, id):
        home = store.home(id, place)
        if value.get("id") != id:
            raise Refused(422, f'wrong backup file: expected "{id}" got "{value.get("id")}"')
        if value.get("status") != "SUCCESS":
            raise Refused(422, f"invalid backup {home} status: {value.get('status')}")
        if not value.get("version") or not value.get("serverVersion") or not value.get("nodes"):
            raise Refused(422, "corrupted backup file: attribute mismatch: missing version or nodes")
        refusal = descriptors.too_new(value, self.version) or descriptors.too_old(value, self.version)
        if refusal:
            raise Refused(422, refusal)

    def _classes(self, value, include, exclude, id):
        names = [name for node in value["nodes"].values() for name in node.get("classes") or []]
        unknown = naming.missing(names, include, self.version)
        if unknown:
            raise Refused(422, f"class {unknown} doesn't exist in the backup, but does have {naming.shown(names)}")
        kept = naming.chosen(names, include, exclude, self.version)
        if not kept:
            raise Refused(422, f"nothing left to restore: please choose from : {naming.shown(names)}")
        return kept

    def _node(self, value, mapping, store, place, id, names):
        """The node's directory in the backup and its descriptors of the classes that are wanted."""
        nodes = list(value["nodes"])
        mapped = mapping if self.version.has("node_mapping_works") else {}
        for node in nodes:
            if mapped.get(node, node) != self.server.node:
                raise Refused(self.server.store_status, f'cannot resolve hostname for "{mapped.get(node, node)}"')
        try:
            inner = descriptors.read(store, place, f"{id}/{nodes[0]}/{NODE_FILE}")
        except Unreadable as error:
            raise Refused(self.server.store_status,
                          f'node "{self.server.node}": cannot validate restore request: {error}') from None
        described = [entry for entry in inner.get("classes") or [] if entry["name"] in names]
        found = [entry["name"] for entry in described]
        lost = [name for name in names if name not in found]
        if lost or inner.get("id") != id:
            raise Refused(self.server.store_status,
                          f'node "{self.server.node}": corrupted backup file: class {" ".join(lost)} is missing')
        return nodes[0], described

    def _run(self, operation, store, node, described, backup):
        status, error = "SUCCESS", ""
        try:
            try:
                self._restore(operation, store, node, described, backup)
                if operation.script.get("cancelled"):
                    status, error = "CANCELED", operation.script["cancelled"]
                elif operation.script.get("fail"):
                    status, error = "FAILED", operation.script["fail"]
            except (Damaged, ClassesRefused, StoreError) as fault:
                status, error = "FAILED", str(fault)
                operation.wait_for_look()
            self.slot.gate.passing(operation)
        except Cancelled:
            # The copying stops at once, the coordinator learns of it later.
            operation.tell(status="CANCELLING", uncancellable=True)
            try:
                operation.wait_for_look()
            except Gone:
                return
            status, error = "CANCELED", f'restore of backup "{operation.id}" was canceled by a client'
        except Gone:
            return
        self._end(operation, store, status, error)

    def _restore(self, operation, store, node, described, backup):
        """Up to 1.24 class by class; from 1.25 on all is unpacked first, then each class is made."""
        plain = backup.get("compressionType") == "none"
        prefix, staged, scripted = f"{operation.id}/{node}", [], operation.script
        two_phases = self.version.has("two_phase_restore")
        stops = scripted.get("fail") or scripted.get("cancelled")
        for entry in described:
            if not two_phases:
                self._refuse_existing(entry["name"])
            definition, shards = tree.read_class(store, operation.place, prefix, entry, plain)
            staged.append((definition, self._lessened(entry["name"], shards, scripted, backup)))
            operation.check()
            if not two_phases and not stops:
                self._make(*staged.pop())
        operation.transfer()
        operation.wait_for_look()
        if self.version.has("restore_states"):
            for word in ("TRANSFERRED", "FINALIZING"):
                operation.tell(status=word, uncancellable=word == "FINALIZING")
                operation.wait_until(self.server.clock.now() + PHASE)
        if staged and not stops:
            self._make_all(staged)

    def _lessened(self, name, shards, script, backup):
        """Drops what the script says is lost: the server reports SUCCESS all the same."""
        numbers = str(backup.get("serverVersion", "")).split(".")
        very_old = len(numbers) > 1 and numbers[1].isdigit() and int(numbers[1]) < 23
        misread = very_old and self.version.numbers >= (1, 23, 0) and not self.version.has("reads_1_22")
        if script.get("empty_class") == name or misread:
            return [Shard(shard.name, shard.status) for shard in shards]
        left = int((script.get("lose") or {}).get(name, 0))
        for shard in shards:
            for id in sorted(shard.records)[:left]:
                shard.remove(id)
                left -= 1
        return shards

    def _refuse_existing(self, name):
        with self.database.lock:
            if name in self.database.classes:
                raise ClassesRefused(f"restore class {name}: already exists")

    def _make_all(self, staged):
        refusals = []
        for definition, shards in staged:
            try:
                self._make(definition, shards)
            except ClassesRefused as error:
                refusals.append(f'"{definition["class"]}": {error}')
        if refusals:
            raise ClassesRefused(f"could not restore classes: [{' '.join(refusals)}]")

    def _make(self, definition, shards):
        name = definition["class"]
        permuted = self.version.has("long_exists_text")
        start = "error when trying to restore class: " if permuted else ""
        with self.database.lock:
            if any(key == name or permuted and key.lower() == name.lower() for key in self.database.classes):
                raise ClassesRefused(f"{start}class name {name} already exists")
            try:
                completed = definitions.complete(definition, self.version, self.server.modules)
            except Refused as error:
                raise ClassesRefused(start + error.message) from None
            if not completed["multiTenancyConfig"]["enabled"] and not shards:
                shards = [Shard(new_shard_name())]
            self.database.add(tree.rebuilt(completed, shards, self.server.node))

    def _end(self, operation, store, status, error):
        value = descriptors.finish(operation.descriptor, self.server.node, status, error)
        try:
            with operation.changed:
                if operation.gone:
                    return
            if self.version.has("early_success"):
                operation.tell(status=status, error=error, descriptor=value)
            store.write(f"{operation.id}/{RESTORE_FILE}", descriptors.encode(value), operation.place)
            operation.tell(status=status, error=error, descriptor=value)
        except StoreError as fault:
            self.server.note(f"restore {operation.id}: the last descriptor was not written: {fault}")
        finally:
            self.slot.leave(operation)

    def cancel(self, store, id, place):
        """`DELETE /v1/backups/{backend}/{id}/restore`, from 1.36 on."""
        operation = self.slot.find(id, place)
        if operation is not None:
            if operation.uncancellable:
                raise Refused(422, f'restore of backup "{id}" cannot be cancelled: {operation.status}')
            operation.tell(cancel_asked=True)
            self.slot.gate.wake()
            return Answer(204)
        try:
            status = descriptors.read(store, place, f"{id}/{RESTORE_FILE}").get("status")
        except Unreadable:
            return Answer(204)
        if status == "SUCCESS":
            raise Refused(422, f'restore of backup "{id}" already succeeded')
        return Answer(204)


class ClassesRefused(Exception):
    """Classes that could not be made."""
