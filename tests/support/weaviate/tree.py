"""The files of a class inside a backup: chunks of gzip around tar, and the descriptors that name them.

A shard's file holds its objects as JSON lines, where the real server has its own segment files.
"""

import base64
import errno
import gzip
import io
import json
import tarfile
import zlib

from database import HOT, Collection, Record, Shard
from stores import Missing, StoreError

OBJECTS_A_FILE = 5000
GZIP_LEVELS = {"BestSpeed": 1, "BestCompression": 9}


class Damaged(Exception):
    """A chunk that cannot be read back."""


def capture(collection, version):
    """A class as it is now: later writes do not reach what this returns."""
    shards = []
    for shard in collection.shards.values():
        inside = shard.status == HOT or version.has("cold_tenants_inside")
        shards.append((shard.name, shard.status, dict(shard.records) if inside else None))
    return collection.definition, shards


def _paths(class_name, shard, version):
    """Where a shard's files lie below the data path: flat names until 1.22, directories from 1.23 on."""
    if version.has("shard_directories"):
        return f"{class_name.lower()}/{shard}/lsm/objects/segment-", f"{class_name.lower()}/{shard}/"
    return f"{class_name.lower()}_{shard}_lsm/objects/segment-", f"{class_name.lower()}_{shard}."


def shard_files(class_name, shard, records, version):
    """The listed files of a shard and the three small ones that every shard has besides."""
    start, small = _paths(class_name, shard, version)
    ordered = [records[key] for key in sorted(records)]
    pieces = [ordered]
    if version.has("shard_over_chunks"):
        pieces = [ordered[index:index + OBJECTS_A_FILE] for index in range(0, len(ordered), OBJECTS_A_FILE)] or [[]]
    listed = []
    for number, piece in enumerate(pieces, 1):
        lines = (json.dumps(record.stored(), separators=(",", ":"), ensure_ascii=False) for record in piece)
        listed.append((f"{start}{number:019d}.db", "\n".join(lines).encode()))
    extra = [(small + "indexcount", len(records).to_bytes(8, "little")), (small + "proplengths", b"{}"),
             (small + "version", b"\x02\x00")]
    return listed, extra


def class_files(captured, version, node):
    """The descriptor of a class and its chunks: {number: [(name, content), …]}."""
    definition, shards = captured
    described, chunks, holds = [], {}, {}
    state = {"indexID": definition["class"], "config": definition["shardingConfig"], "localNode": node,
             "physical": {}, "partitioningEnabled": definition["multiTenancyConfig"]["enabled"]}
    spread, turn = version.has("shard_over_chunks"), 0
    for name, status, records in shards:
        state["physical"][name] = {"name": name, "belongsToNodes": [node], "status": status}
        if records is None:
            continue
        listed, extra = shard_files(definition["class"], name, records, version)
        groups = [[file] for file in listed] if spread else [listed]
        groups[0] = groups[0] + extra
        for group in groups:
            # Two workers take turns, so that a class with several shards has several chunks.
            number, turn = 1 + turn % 2, turn + 1
            chunks.setdefault(number, []).extend(group)
            if name not in holds.setdefault(number, []):
                holds[number].append(name)
        described.append({"name": name, "node": node, "files": [file for file, _ in listed], "chunk": number})
    return {
        "name": definition["class"], "shards": described,
        "shardingState": _base64(state), "schema": _base64(definition),
        "chunks": {str(number): names for number, names in sorted(holds.items())},
    }, chunks


def _base64(value):
    return base64.b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()


def pack(files, level):
    """One chunk: a tar in one gzip stream, or plain with `NoCompression`."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    if level == "NoCompression":
        return plain.getvalue()
    return gzip.compress(plain.getvalue(), GZIP_LEVELS.get(level, 6))


def unpack(content, plain=False):
    """The files of a chunk; the checksum of the gzip stream is all that guards them."""
    try:
        data = content if plain else gzip.decompress(content)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            return {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}
    except EOFError:
        raise Damaged("unexpected EOF") from None
    except (OSError, zlib.error, tarfile.TarError) as error:
        raise Damaged(f"gzip: {error}") from None


class Writer:
    """Writes chunks; with a budget the disk is full once so many bytes were written."""

    def __init__(self, store, place, budget=None, truncate=True):
        self.store, self.place, self.budget, self.truncate = store, place, budget, truncate
        self.written = 0

    def chunk(self, key, content):
        """One chunk, of which only a part may get written."""
        if self.budget is not None and self.written + len(content) > self.budget:
            self.store.write(key, content[:self.budget - self.written], self.place, self.truncate)
            raise OSError(errno.ENOSPC, f"write {self.store.home(key, self.place)}: no space left on device")
        self.store.write(key, content, self.place, self.truncate)
        self.written += len(content)


def read_class(store, place, prefix, described, plain):
    """A class as it lies in a backup: its definition and its shards with their records."""
    files = {}
    for number in described.get("chunks") or {}:
        key = f"{prefix}/{described['name']}/chunk-{number}"
        try:
            files.update(unpack(store.read(key, place), plain))
        except (Missing, StoreError) as error:
            raise Damaged(str(error)) from None
        except Damaged as error:
            raise Damaged(f"{store.home(key, place)}: {error}") from None
    definition = json.loads(base64.b64decode(described["schema"]))
    state = json.loads(base64.b64decode(described["shardingState"]))
    listed = {shard["name"]: shard["files"] for shard in described.get("shards") or []}
    shards = []
    for name, physical in state["physical"].items():
        records = {}
        for path in listed.get(name, []):
            if path not in files:
                raise Damaged(f"open {path}: no such file or directory")
            for line in files[path].splitlines():
                record = Record(**json.loads(line))
                records[record.id] = record
        shards.append(Shard(name, physical.get("status") or HOT, records))
    return definition, shards


def rebuilt(definition, shards, node):
    """A class made of what was read."""
    collection = Collection(definition, shards, node)
    collection.learn_dimensions()
    return collection
