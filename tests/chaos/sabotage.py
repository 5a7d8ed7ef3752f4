"""Proof that the invariants see: each is broken by hand once, and must be the one to complain."""

import json

from invariants import violations
from lab import COMPONENTS
from orders import BACKUPS, RESTORES


def maker(lab, component):
    """The machine with most backups of a component."""
    return max(lab.machines, key=lambda machine: len(list((machine.root / component).glob("*"))))


def broken_archive(lab, ledger):
    machine = maker(lab, "media")
    path = max((machine.root / "media").glob("*"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    return lambda: (path.write_bytes(whole), machine.command("verify", "all", "all"))


def lost_row(lab, ledger):
    lab.postgres.psql("delete from lab_run where id = 4000")
    return lambda: lab.postgres.psql("insert into lab_run select 4000, 4000, md5('4000')")


def lost_file(lab, ledger):
    path = next(lab.media.rglob("paper 3.pdf"))
    content = path.read_bytes()
    path.unlink()
    return lambda: path.write_bytes(content)


def lost_object(lab, ledger):
    lab.weaviate.ask("DELETE", "/v1/objects/Paper/c0ffee00-0000-4000-8000-000000000003")
    return lambda: lab.objects(3, 4)


def lost_message(lab, ledger):
    ledger.note("00000000-0000-4000-8000-000000000000", None, BACKUPS["media"])
    return ledger.orders.popitem


def left_message(lab, ledger):
    lab.redis.cli("hset", "unacked", "a-dead-one", "[]")
    return lambda: lab.redis.cli("hdel", "unacked", "a-dead-one")


def second_effect(lab, ledger):
    machine = max(lab.machines, key=lambda machine: len(machine.manifests()))
    paths = list(machine.root.glob("manifests/*/*"))
    return reword(machine, paths[0], "task_id", json.loads(paths[1].read_text())["task_id"])


def shared_name(lab, ledger):
    """As if two machines had made the same id."""
    machine = maker(lab, "postgres")
    return reword(machine, max((machine.root / "manifests/postgres").glob("*")), "created_at", "2020-01-01T02:00:00Z")


def reword(machine, path, key, value):
    """Changes a manifest, until it is put right."""
    manifest = json.loads(path.read_text())

    def mend():
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: manifest[key]}))
        # The bucket has it too since somebody has verified it.
        at = f"manifests/{path.parent.name}/{path.name}"
        told = f"json.loads(c.get_object(Bucket=b, Key='{at}')['Body'].read()) | {{'{key}': {manifest[key]!r}}}"
        python(machine.lab, f"import json; c.put_object(Bucket=b, Key='{at}', Body=json.dumps({told}).encode())")

    path.write_text(json.dumps(manifest | {key: value}))
    return mend


def partial_file(lab, ledger):
    path = lab.machines[-1].root / ".partial/half"
    path.parent.mkdir(exist_ok=True)
    path.write_text("half")
    return path.unlink


def orphan(lab, ledger):
    path = lab.machines[-1].root / "postgres/pg_backup_20200101_020000.dump.zst"
    path.parent.mkdir(exist_ok=True)
    path.write_text("of a dead run")
    return path.unlink


def upload(lab, ledger):
    python(lab, "c.create_multipart_upload(Bucket=b, Key='media/media_backup_20200101_040000.tar.zst')")
    end = "c.abort_multipart_upload(Bucket=b, Key=u['Key'], UploadId=u['UploadId'])"
    return lambda: python(lab, f"[{end} for u in c.list_multipart_uploads(Bucket=b)['Uploads']]")


def python(lab, code):
    from servers import ROOT

    begin = "import boto3, os; b = os.environ['AWS_BACKUP_BUCKET']; c = boto3.client('s3', endpoint_url=os.environ['AWS_S3_ENDPOINT'], region_name='us-east-1'); "
    lab.stage.run([ROOT / "target/venv/boto3/bin/python", "-c", begin + code], env=lab.bucket.env)


def scratch_database(lab, ledger):
    lab.postgres.psql("create database rna_db_restore_20200101_000000", "postgres")
    return lambda: lab.postgres.psql("drop database rna_db_restore_20200101_000000", "postgres")


def scratch_folder(lab, ledger):
    path = lab.media.parent / ".media.rna-restore-20200101_000000"
    path.mkdir()
    return path.rmdir


def scratch_copy(lab, ledger):
    path = lab.weaviate.folder / "rna-20200101t000000z-00000000"
    path.mkdir()
    return path.rmdir


def held_lock(lab, ledger):
    lab.redis.cli("hset", "rna-backup:locks", "media", "somebody who died")
    return lambda: lab.redis.cli("hdel", "rna-backup:locks", "media")


def bad_end(lab, ledger):
    lab.told.append(lab.stage.start(["false"], "false.log"))
    return lab.told.pop


def lost_backup(lab, ledger):
    """The newest one from one destination, as if retention had taken it."""
    where, backup = max((made for made in ledger.made if made[0] != "s3" and made[1].startswith("weaviate")), key=lambda made: made[1])
    root = next(machine.root for machine in lab.machines if machine.name == where)
    paths = [*root.glob(f"weaviate/{backup}.*"), *root.glob(f"manifests/weaviate/{backup}.*")]
    kept = {path: path.read_bytes() for path in paths}
    for path in paths:
        path.unlink()
    return lambda: [path.write_bytes(content) for path, content in kept.items()]


def other_archive(lab, ledger):
    """Another one of the same length in the bucket, as if two machines had made the same id."""
    key = next(key for key in lab.in_bucket()["archives"] if key.startswith("media/"))
    whole = lab.stage.dir / "whole"
    read = f"t = c.get_object(Bucket=b, Key='{key}')['Body'].read(); open('{whole}', 'wb').write(t); "
    python(lab, read + f"c.put_object(Bucket=b, Key='{key}', Body=t[::-1])")
    back = f"c.put_object(Bucket=b, Key='{key}', Body=open('{whole}', 'rb').read())"
    return lambda: (python(lab, back), [machine.command("verify", "all", "all") for machine in lab.machines])


def second_swap(lab, ledger):
    """Notes a file as written after a restore that nobody has written."""
    ledger.since["media"] = 1
    return ledger.since.clear


def wrong_undo(lab, ledger):
    """Notes an undo, and another state as the one that was live before the restore."""
    before = ledger.before["media"]
    ledger.undone.add("media")
    ledger.before["media"] = "another"
    return lambda: (ledger.undone.clear(), ledger.before.update(media=before))


def disturbed(lab, ledger):
    """Notes a run as one that had to be tried again after somebody had worked by hand."""
    id = next(iter(ledger.orders))
    ledger.visited[id] = ["PROGRESS", "RETRY", "SUCCESS"]
    return ledger.visited.clear


def marks(lab, ledger):
    """Makes more marks on the server than there are machines."""
    names = [f"RnaBackupMark_{number}" for number in range(100, 103)]
    for name in names:
        lab.weaviate.ask("POST", "/v1/schema", {"class": name, "vectorizer": "none", "properties": []})
    return lambda: [lab.weaviate.ask("DELETE", f"/v1/schema/{name}") for name in names]


def lost_pin(lab, ledger):
    ledger.pinned.add("media_backup_20200101_040000")
    return ledger.pinned.clear


def idle_restore(lab, ledger):
    """It says that it has brought back what was before, and did nothing."""
    id, backup = "00000000-0000-4000-8000-000000000001", min(id for _, id in ledger.made if id.startswith("media"))
    ledger.note(id, "media", RESTORES["media"], backup)
    told = json.dumps({"status": "SUCCESS", "result": {"backup_id": backup}})
    lab.redis.cli("set", f"celery-task-meta-{id}", told)
    return lambda: (ledger.orders.pop(id), lab.redis.cli("del", f"celery-task-meta-{id}"))


TABLE = [
    ("listed_backups_are_whole", broken_archive),
    ("live_data_is_whole", lost_row),
    ("live_data_is_whole", lost_file),
    ("live_data_is_whole", lost_object),
    ("live_data_is_whole", idle_restore),
    ("no_class_is_lost", marks),
    ("a_restore_is_done_once", second_swap),
    ("undo_leads_to_what_was_live", wrong_undo),
    ("a_living_run_is_left_alone", disturbed),
    ("listed_backups_are_whole", other_archive),
    ("no_name_is_of_two_backups", shared_name),
    ("what_is_promised_is_kept", lost_backup),
    ("what_is_promised_is_kept", lost_pin),
    ("no_message_is_lost", lost_message),
    ("no_message_is_lost", left_message),
    ("nothing_is_done_twice", second_effect),
    ("nothing_half_is_left", partial_file),
    ("nothing_half_is_left", orphan),
    ("nothing_half_is_left", upload),
    ("no_scratch_is_left", scratch_database),
    ("no_scratch_is_left", scratch_folder),
    ("no_scratch_is_left", scratch_copy),
    ("no_lock_is_stale", held_lock),
    ("who_is_told_to_stop_ends_well", bad_end),
]


def run(lab, ledger, settle):
    """Two backups of everything, without faults; then one thing after the other is broken, and put right."""
    client = lab.client()
    for night in range(2):
        lab.live_on(night)
        ledger.begin(lab.fingerprints())
        for component in COMPONENTS:
            ledger.note(client.delay(BACKUPS[component]), component, BACKUPS[component])
        settle(lab, ledger)
    for machine in lab.machines:  # their workers would put right what we break
        machine.die()
    wrong = [f"nothing is broken, and {name} says: {what}" for name, what in violations(lab, ledger)]
    for invariant, breaking in TABLE:
        mend = breaking(lab, ledger)
        noticed = {name for name, _ in violations(lab, ledger)}
        mend()
        print(f"{breaking.__name__:17} noticed by {', '.join(sorted(noticed)) or 'nobody'}", flush=True)
        if noticed != {invariant}:
            wrong.append(f"{breaking.__name__} was to be noticed by {invariant} alone")
    wrong += [f"all is mended, and {name} says: {what}" for name, what in violations(lab, ledger)]
    print("\n".join(wrong))
    return 1 if wrong else 0
