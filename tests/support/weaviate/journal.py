"""A file in which classes and objects outlive the process: one change a line, rewritten whole at a stop."""

import json
import os
import threading

from database import Collection, Record, Shard


class Journal:
    """Appends every change of a database to a file."""

    def __init__(self, path, database):
        self.path = path
        self.database = database
        self.lock = threading.Lock()
        if os.path.exists(path):
            self._replay()
        self.file = open(path, "a", encoding="utf-8")
        database.journal = self

    def write(self, change):
        """One line, handed to the system at once: a killed process loses nothing that it answered."""
        with self.lock:
            self.file.write(json.dumps(change, separators=(",", ":")) + "\n")
            self.file.flush()

    def compact(self):
        """Writes the present state in place of its history."""
        with self.database.lock, self.lock:
            temporary = self.path + ".new"
            with open(temporary, "w", encoding="utf-8") as file:
                for collection in self.database.classes.values():
                    shards = collection.shards.values()
                    self._line(file, kind="class", definition=collection.definition, node=collection.node,
                               shards=[[shard.name, shard.status] for shard in shards])
                    for shard in shards:
                        self._line(file, kind="put", name=collection.name, shard=shard.name,
                                   records=[record.stored() for record in shard.records.values()])
            os.replace(temporary, self.path)

    @staticmethod
    def _line(file, **change):
        file.write(json.dumps(change, separators=(",", ":")) + "\n")

    def _replay(self):
        with open(self.path, encoding="utf-8") as file:
            for line in file:
                # The last line may be half: its request was never answered.
                if line.endswith("\n"):
                    self._apply(json.loads(line))
        for collection in self.database.classes.values():
            collection.learn_dimensions()

    def _apply(self, change):
        classes, kind = self.database.classes, change["kind"]
        if kind == "class":
            shards = [Shard(name, status) for name, status in change["shards"]]
            old = classes.get(change["definition"]["class"])
            for shard in shards:
                if old and shard.name in old.shards:
                    shard.records = old.shards[shard.name].records
            classes[change["definition"]["class"]] = Collection(change["definition"], shards, change["node"])
            return
        if kind == "drop":
            classes.pop(change["name"], None)
            return
        shards = classes[change["name"]].shards
        if kind == "put":
            shard = shards.setdefault(change["shard"], Shard(change["shard"]))
            for stored in change["records"]:
                shard.put(Record(**stored))
        elif kind == "remove":
            shards[change["shard"]].remove(change["id"])
        elif kind == "tenant":
            shards.setdefault(change["shard"], Shard(change["shard"])).status = change["status"]
        elif kind == "drop_tenant":
            shards.pop(change["shard"], None)
