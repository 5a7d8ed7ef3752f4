"""Whether two folders, or two databases of either kind, hold the same."""

import hashlib
import json
import os
import stat


def tree(root):
    """Everything that is to come back of a folder: path -> what is there. Sockets are no data."""
    found, inodes = {}, {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in [b"", *files, *[name for name in folders if os.path.islink(os.path.join(folder, name))]]:
            path = os.path.join(folder, name) if name else folder
            entry = os.lstat(path)
            if stat.S_ISSOCK(entry.st_mode):
                continue
            key = os.path.relpath(path, os.fsencode(root))
            facts = {"mode": oct(entry.st_mode), "owner": f"{entry.st_uid}:{entry.st_gid}", "seconds": entry.st_mtime_ns // 10**9}
            if stat.S_ISLNK(entry.st_mode):
                facts["target"] = os.readlink(path)
            elif stat.S_ISREG(entry.st_mode):
                facts["sha256"] = sha256(path)
                inodes.setdefault(entry.st_ino, []).append(key)
            found[key] = facts
    for names in inodes.values():
        for key in names:
            found[key]["hard_links"] = sorted(names)
    return found


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(expected, found):
    """One sentence for each entry that differs between two dictionaries."""
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            yield f"{key!r}: expected {expected.get(key)}, found {found.get(key)}"


def vectors(server):
    """Every class of Weaviate's: how many objects, and a hash over its definition, its tenants, and over the objects
    with their vectors and references. The times that a server notes of an object are left out."""
    found = {}
    for definition in server.ask("GET", "/v1/schema")["classes"]:
        name, told = definition["class"], []
        if name.startswith("RnaBackupMark_"):
            continue  # by such a class machines know of each other's restores
        tenants = [None]
        if definition["multiTenancyConfig"]["enabled"]:
            tenants = sorted(tenant["name"] for tenant in server.ask("GET", f"/v1/schema/{name}/tenants"))
        for tenant in tenants:
            for thing in server.objects(name, tenant):
                told.append([tenant, {key: value for key, value in thing.items() if not key.endswith("TimeUnix")}])
        text = json.dumps([definition, tenants, told], sort_keys=True)
        found[name] = {"count": len(told), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return found


FINGERPRINTS = r"""
select format('select %L, count(*), coalesce(sum(hashtextextended(t::text, 0)), 0) from %I.%I t', n.nspname || '.' || c.relname, n.nspname, c.relname)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'm') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and c.relname !~ '^rna_backup_' order by 1
"""
SEQUENCES = "select schemaname || '.' || sequencename, last_value from pg_sequences order by 1"
LARGE_OBJECTS = "select oid, md5(lo_get(oid)) from pg_largeobject_metadata order by 1"


def database(postgres, name):
    """Every table's rows counted and summed up, sequences, large objects, and the schema as text; but for the two
    tables in which the worker shows backups and runs."""
    found = {}
    queries = postgres.psql(FINGERPRINTS, name).stdout.splitlines()
    for query in [*queries, SEQUENCES, LARGE_OBJECTS]:
        for line in postgres.psql(query, name).stdout.splitlines():
            key, *values = line.split("|")
            found[key] = values
    dump = [postgres.bin / "pg_dump", "--schema-only", "--exclude-table=rna_backup_*"]
    schema = postgres.stage.run(dump, env=postgres.env(name)).stdout
    # newer versions of pg_dump put a new random key into each script
    found["the schema"] = [line for line in schema.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]
    return found
