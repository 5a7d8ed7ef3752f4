"""What holds after every round, each a function that yields a sentence for every violation.

`ledger` is what the driver has noted: tasks that were ordered, states of the live data that are whole.
"""

import json

from lab import COMPONENTS, KEEP_LAST
from orders import ENDED, component_of


def no_message_is_lost(lab, ledger):
    """Every task that was ordered has ended, and the broker holds nothing of any."""
    results = lab.results(ledger.round_ids())
    for id, order in ledger.orders.items():
        state = results.get(id, {}).get("status")
        if state not in ENDED:
            yield f"{order['task']} {id} has not ended: {state}"
    for key, count in (("backups", "llen"), ("unacked", "hlen"), ("unacked_index", "zcard")):
        left = int(lab.redis.cli(count, key).stdout)
        if left:
            yield f"{left} messages are left in {key}"


def nothing_is_done_twice(lab, ledger):
    """A task that made a backup made one; what succeeded is there, unless retention has taken it."""
    makers = {}
    for path in lab.root.glob("manifests/*/*.json"):
        manifest = json.loads(path.read_text())
        makers.setdefault(manifest["task_id"], []).append(manifest["backup_id"])
    for task, backups in makers.items():
        if task and len(backups) > 1:
            yield f"task {task} made {backups}"
    told = {}
    for id, result in lab.results(ledger.round_ids()).items():
        made = result["result"].get("backup_id") if result["status"] == "SUCCESS" and isinstance(result["result"], dict) else None
        if made and "backup_" in ledger.orders[id]["task"] and told.setdefault(made, id) != id:
            yield f"{id} and {told[made]} both say that they made {made}"


def listed_backups_are_whole(lab, ledger):
    """All that is listed reads to its end and is what its manifest says, in every destination; nothing is missing."""
    for found in lab.json("verify", "all", "all")["results"]:
        if not found["ok"]:
            yield f"{found['backup_id']}: {found['problems']}"
    for backup in lab.json("list")["backups"]:
        for copy in backup["destinations"]:
            if copy["state"] != "ok":
                yield f"{backup['backup_id']} is {copy['state']} in {copy['destination']}"


def what_is_promised_is_kept(lab, ledger):
    """What a task said it had made is there, or as many newer ones as retention keeps; and what it said it had pinned."""
    there = {
        (copy["destination"], backup["backup_id"])
        for backup in lab.json("list")["backups"]
        for copy in backup["destinations"]
        if copy["state"] == "ok"
    }
    for destination, backup in sorted(ledger.made - there):
        like_it = [id for at, id in there if at == destination and component_of(id) == component_of(backup)]
        newer = sum(id > backup for id in like_it)
        if newer < KEEP_LAST:
            yield f"{backup} was made and is gone from {destination}, and only {newer} newer ones are there"
    for backup in ledger.pinned - {id for _, id in there}:
        yield f"{backup} was pinned and is gone"


def live_data_is_whole(lab, ledger):
    """Each component is in a state that it was in before, never between two; and what was restored is there."""
    results = lab.results(ledger.round_ids())
    for component, found in lab.fingerprints().items():
        if found not in ledger.whole[component]:
            yield f"{component} is in no state that it ever was in: {found}"
        elif not ledger.restored(component) and found != ledger.before[component]:
            yield f"{component} has changed, and nobody ordered that"
        orders = ledger.restores(component)
        if len(orders) == 1 and results.get(orders[0], {}).get("status") == "SUCCESS":
            holds = ledger.holds.get(ledger.orders[orders[0]]["backup"])
            if holds not in (None, found):
                yield f"{component} is not what the restore that succeeded was to bring back"


def nothing_half_is_left(lab, ledger):
    """After the next start: no partial file, no archive without a manifest, no upload."""
    for path in (lab.root / ".partial").glob("*"):
        if "-trial-" in path.name:
            continue  # of a look whether the folder can be written to, which comes and goes
        yield f"partial file {path.name}"
    known = {
        (place["destination"], place["key"])
        for path in lab.root.glob("manifests/*/*.json")
        for place in json.loads(path.read_text())["objects"]
    }
    for component in COMPONENTS:
        for path in (lab.root / component).glob("*"):
            if ("local", f"{component}/{path.name}") not in known:
                yield f"{path.name} has no manifest"
    bucket = lab.in_bucket()
    for key in bucket["objects"]:
        manifest = f"manifests/{key.split('.')[0]}.json"  # each destination has its own, and retention of its own
        if not key.startswith("manifests/") and manifest not in bucket["objects"]:
            yield f"{key} in the bucket has no manifest"
    for key in bucket["uploads"]:
        yield f"an upload of {key} is left"


def no_scratch_is_left(lab, ledger):
    """Nothing that a restore works in; only the copies that the journal keeps: for an undo, and of what stood in the way of one put back.

    A backup whose worker and server have died says STARTED for ever, and stays until the server has made another."""
    names = lab.postgres.psql("select datname from pg_database", "postgres").stdout.split()
    kept = [name for name in names if "_before_" in name]
    for name in set(names) - {"postgres", "template0", "template1", lab.postgres.database, *kept}:
        yield f"database {name}"
    areas = [path.name for path in lab.media.parent.iterdir() if path != lab.media]
    for name in areas:
        if "rna-before" not in name:
            yield f"folder {name}"
    state = lab.root / ".weaviate" / lab.weaviate.url.removeprefix("http://")
    journal = state / "journal.json"
    notes = json.loads(journal.read_text()) if journal.exists() else {}
    copies = [copy for name in ("kept", "undone") for copy in (notes.get(name) or {"before": {}})["before"].values()] + notes.get("found", [])
    kept = tuple(copy["id"] for copy in copies if copy)
    loose = [copy["id"] for copy in notes.get("loose", []) if not copy.get("has_ended")]
    for path in {*state.glob("*"), *lab.weaviate.folder.glob("*")} - {journal}:
        is_under_way = path.name in loose and lab.weaviate.says_started(path.name)
        if not is_under_way and not path.name.startswith(kept):
            yield f"of a copy of Weaviate {path.relative_to(lab.stage.dir)}"


def no_lock_is_stale(lab, ledger):
    """Every component can be worked on at once, by hand and in the fleet."""
    for component in COMPONENTS:
        done = lab.command("verify", component, "latest", check=False)
        if done.returncode == 5:
            yield f"{component} is locked: {done.stderr.strip()[-300:]}"
    held = lab.redis.cli("hkeys", "rna-backup:locks").stdout.split()
    if held:
        yield f"locks of the fleet are held: {held}"


def who_is_told_to_stop_ends_well(lab, ledger):
    """With status 0, whatever else goes wrong."""
    for process in lab.told:
        if process.wait(60) != 0:
            yield f"process {process.pid} of a worker was told to stop, and ended with {process.returncode}"


ALL = [
    no_message_is_lost,
    nothing_is_done_twice,
    what_is_promised_is_kept,
    live_data_is_whole,
    no_lock_is_stale,
    nothing_half_is_left,
    no_scratch_is_left,
    who_is_told_to_stop_ends_well,
    listed_backups_are_whole,
]


def violations(lab, ledger):
    """Name of the invariant, and what breaks it."""
    return [(check.__name__, what) for check in ALL for what in check(lab, ledger)]
