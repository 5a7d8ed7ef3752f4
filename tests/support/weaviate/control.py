"""The routes under `/_double/`, with which a test directs the double; they need no key and are not recorded."""

import hashlib
import json

import stores
from answers import json_answer
from database import fingerprint_text


class Control:
    """Handlers of `/_double`."""

    def __init__(self, double):
        self.double = double
        self.handlers = {
            ("GET", "requests"): self._requests,
            ("DELETE", "requests"): self._forget_requests,
            ("POST", "faults"): lambda given: self.double.faults.add(given["rules"]),
            ("DELETE", "faults"): lambda _: self.double.faults.clear(),
            ("POST", "next"): self._next,
            ("DELETE", "next"): self._forget_scripts,
            ("POST", "hold"): lambda given: self._slot(given).gate.close(),
            ("POST", "release"): lambda given: self._slot(given).gate.open(),
            ("GET", "state"): self._state,
            ("POST", "restart"): self._restart,
            ("GET", "fingerprint"): self._fingerprint,
            ("POST", "graphql"): self._graphql,
            ("POST", "lag"): self._lag,
            ("POST", "store"): self._store,
        }

    def answer(self, request):
        """Answers a control request; what is missing or wrong in it is a 400."""
        handler = self.handlers.get((request.method, request.path[len("/_double/"):]))
        if handler is None:
            return json_answer({"error": "no such control route"}, 404)
        try:
            given = json.loads(request.body or b"{}")
            result = handler(given)
        except (KeyError, TypeError, ValueError) as error:
            return json_answer({"error": f"{type(error).__name__}: {error}"}, 400)
        return json_answer({} if result is None else result)

    def _slot(self, given):
        return self.double.slots[given["operation"]]

    def _requests(self, _given):
        with self.double.lock:
            return list(self.double.requests)

    def _forget_requests(self, _given):
        with self.double.lock:
            self.double.requests = []

    def _next(self, given):
        slot = self._slot(given)
        with slot.lock:
            slot.scripts.append({name: value for name, value in given.items() if name != "operation"})

    def _forget_scripts(self, _given):
        for slot in self.double.slots.values():
            with slot.lock:
                slot.scripts = []

    def _state(self, _given):
        state = {kind: slot.state() for kind, slot in self.double.slots.items()}
        state["ready"] = self.double.ready
        return state

    def _restart(self, given):
        self.double.restart(float(given.get("down_seconds") or 0), float(given.get("unready_seconds") or 0))
        if given.get("release"):
            self.double.slots[given["release"]].gate.open()

    def _graphql(self, given):
        self.double.counting.disabled = bool(given["disabled"])

    def _lag(self, given):
        self.double.counting.lag = int(given["nodes"])

    def _store(self, given):
        """A fault of a store: `unreachable`, `denied`, `read_only` or null; of all stores without a name."""
        fault = given["fault"]
        if fault not in (None, "read_only", *stores.FAULTS):
            raise ValueError(f"no such fault: {fault}")
        for name, store in self.double.stores.items():
            if given.get("store") in (None, name):
                store.fault = fault

    def _fingerprint(self, _given):
        """For each class the number of its objects and a hash over all that a restore must bring back."""
        found = {}
        with self.double.database.lock:
            for name, collection in self.double.database.classes.items():
                digest = hashlib.sha256(json.dumps(collection.definition, sort_keys=True).encode())
                for shard in sorted(collection.shards.values(), key=lambda shard: shard.name):
                    tenant = shard.name if collection.tenants else ""
                    if tenant:
                        digest.update(json.dumps([tenant, shard.status]).encode())
                    for id in sorted(shard.records):
                        digest.update(fingerprint_text(shard.records[id], tenant).encode())
                found[name] = {"count": collection.count(), "sha256": digest.hexdigest()}
        return {"classes": found}
