"""What holds after every round, each a function that yields a sentence for every violation.

`ledger` is what the driver has noted: tasks that were ordered, states of the live data that are whole.
"""

import json

from lab import KEEP_LAST, is_mark
from orders import ENDED, component_of
from seen import Seen, objects


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
    """A task that made a backup made one; what succeeded is there, unless retention has taken it.

    One on each machine: where the bucket is away, a machine cannot know what the one before it has made."""
    for where, manifests in lab.seen.manifests.items():
        makers = {}
        for manifest in manifests:
            makers.setdefault(manifest["task_id"], []).append(manifest["backup_id"])
        for task, backups in makers.items():
            if task and len(backups) > 1:
                yield f"task {task} made {backups}, as {where} has it"
    told = {}
    for id, result in lab.results(ledger.round_ids()).items():
        made = result["result"].get("backup_id") if result["status"] == "SUCCESS" and isinstance(result["result"], dict) else None
        if made and "backup_" in ledger.orders[id]["task"] and told.setdefault(made, id) != id:
            yield f"{id} and {told[made]} both say that they made {made}"


def no_name_is_of_two_backups(lab, ledger):
    """An id means the same archive wherever it is: no two machines make the same one."""
    known = {}
    for where, manifests in lab.seen.manifests.items():
        for manifest in manifests:
            made = {(manifest["created_at"], object["sha256"]) for object in manifest["objects"]}
            if len(known.setdefault(manifest["backup_id"], made) | made) != 1:
                yield f"{manifest['backup_id']} is another backup in {where} than elsewhere"


def listed_backups_are_whole(lab, ledger):
    """All that is listed reads to its end and is what its manifest says, in every destination; nothing is missing."""
    for where, manifests in lab.seen.manifests.items():
        for object in objects(manifests, "s3" if where == "s3" else "local"):
            # By plain tools, beside what the program says.
            found = lab.seen.archives[where].get(object["key"])
            if found != object["sha256"]:
                yield f"{object['key']} of {where} is {'not there' if found is None else 'of another hash'}, though a manifest names it"
    for name, verified in lab.seen.verified.items():
        for found in json.loads(verified.stdout or '{"results": []}')["results"]:
            if not found["ok"]:
                yield f"{found['backup_id']}, as {name} sees it: {found['problems']}"
    for name, backup, copy in lab.seen.copies():
        if copy["state"] != "ok":
            yield f"{backup} is {copy['state']} in {copy['destination']}, as {name} sees it"


def what_is_promised_is_kept(lab, ledger):
    """What a task said it had made is there, or as many newer ones as retention keeps; and what it said it had pinned."""
    there = {("s3" if copy["destination"] == "s3" else name, backup) for name, backup, copy in lab.seen.copies() if copy["state"] == "ok"}
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
        if component in ledger.undone:
            continue
        if found not in ledger.whole[component] - {None}:
            yield f"{component} is in no state that it ever was in: {found}"
        elif not ledger.restored(component) and found != ledger.before[component]:
            yield f"{component} has changed, and nobody ordered that"
        orders = ledger.restores(component)
        if len(orders) == 1 and results.get(orders[0], {}).get("status") == "SUCCESS":
            holds = ledger.holds.get(ledger.orders[orders[0]]["backup"])
            if holds not in (None, found):
                yield f"{component} is not what the restore that succeeded was to bring back"


def no_class_is_lost(lab, ledger):
    """Class Paper of Weaviate is there after every death in the middle of a restore, and each machine has one mark on the server at most."""
    classes = lab.classes()
    if "Paper" not in classes:
        yield f"class Paper is lost, there are {classes}"
    marks = [name for name in classes if is_mark(name)]
    if len(marks) > len(lab.machines):
        yield f"the server has {marks}"


def a_restore_is_done_once(lab, ledger):
    """A row, a file and an object that are written after the swap of a restore are there at the end of the round: neither a second delivery of the task nor the machine that comes back restores again."""
    for component, number in ledger.since.items():
        if component not in ledger.undone and not lab.has(component, number):
            yield f"{component} was restored once more: what was written since is gone"


def undo_leads_to_what_was_live(lab, ledger):
    """An undo brings back the data that was live before the restore, on whichever machines the restore began and ended."""
    for component in ledger.undone | ledger.back:
        is_later = component in ledger.undone and component in ledger.since and lab.has(component, ledger.since[component])
        if is_later or lab.fingerprint(component) != ledger.before[component]:
            yield f"{component} is not what was live before the restore that was undone"


def a_living_run_is_left_alone(lab, ledger):
    """A run in the middle of which somebody works by hand on the same data, on the same machine or another, ends well at its first attempt."""
    for id, states in ledger.visited.items():
        if "RETRY" in states or states[-1:] != ["SUCCESS"]:
            yield f"{ledger.orders[id]['task']} {id}, in the middle of which somebody worked by hand, went on as {states}"


def nothing_half_is_left(lab, ledger):
    """After the next start: no partial file, no archive without a manifest, no upload."""
    for machine in lab.machines:
        for path in (machine.root / ".partial").glob("*"):
            if "-trial-" not in path.name:  # of a look whether the folder can be written to, which comes and goes
                yield f"partial file {path.name} on {machine.name}"
    for where, archives in lab.seen.archives.items():  # each destination has manifests of its own, and retention of its own
        known = {object["key"] for object in objects(lab.seen.manifests[where], "s3" if where == "s3" else "local")}
        for key in set(archives) - known:
            yield f"{key} of {where} has no manifest"
    for key in lab.seen.uploads:
        yield f"an upload of {key} is left"


def no_scratch_is_left(lab, ledger):
    """Nothing that a restore works in; only the copies that the journals keep: for an undo, and of what stood in the way of one put back.

    A backup whose worker and server have died says STARTED for ever, and stays until the server has made another."""
    names = lab.postgres.psql("select datname from pg_database", "postgres").stdout.split()
    kept = [name for name in names if "_before_" in name]
    for name in set(names) - {"postgres", "template0", "template1", lab.postgres.database, *kept}:
        yield f"database {name}"
    areas = [path.name for path in lab.media.parent.iterdir() if path != lab.media]
    for name in areas:
        if "rna-before" not in name:
            yield f"folder {name}"
    kept, loose = copies_of_weaviate(lab)
    states = [path for machine in lab.machines for path in machine.state_of_weaviate().glob("*") if path.name != "journal.json"]
    for path in {*states, *lab.weaviate.folder.glob("*")}:
        is_under_way = path.name in loose and lab.weaviate.says_started(path.name)
        if not is_under_way and not path.name.startswith(kept):
            yield f"of a copy of Weaviate {path.relative_to(lab.stage.dir)}"


def copies_of_weaviate(lab):
    """The ids of the copies that journals keep, and of those that their servers may still be making."""
    kept, loose = [], []
    for notes in (machine.journal_of_weaviate() for machine in lab.machines):
        copies = [copy for name in ("kept", "undone") for copy in (notes.get(name) or {"before": {}})["before"].values()]
        kept += [copy["id"] for copy in copies + notes.get("found", []) if copy]
        loose += [copy["id"] for copy in notes.get("loose", []) if not copy.get("has_ended")]
    return tuple(kept), loose


def no_lock_is_stale(lab, ledger):
    """Every component can be worked on at once, by hand on every machine and in the fleet."""
    for name, verified in lab.seen.verified.items():
        if verified.returncode == 5:
            yield f"{name} is locked: {verified.stderr.strip()[-300:]}"
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
    no_name_is_of_two_backups,
    what_is_promised_is_kept,
    live_data_is_whole,
    no_class_is_lost,
    a_restore_is_done_once,
    undo_leads_to_what_was_live,
    a_living_run_is_left_alone,
    no_lock_is_stale,
    nothing_half_is_left,
    no_scratch_is_left,
    who_is_told_to_stop_ends_well,
    listed_backups_are_whole,
]


# The invariants that an undo may break.
AFTER_UNDO = [live_data_is_whole, no_class_is_lost, undo_leads_to_what_was_live, no_scratch_is_left]


def violations(lab, ledger, checks=ALL):
    """Name of the invariant, and what breaks it."""
    lab.seen = Seen(lab)
    return [(check.__name__, what) for check in checks for what in check(lab, ledger)]
