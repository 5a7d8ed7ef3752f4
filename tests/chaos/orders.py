"""What is ordered in a round, by real Celery, and what is known of it."""

from lab import COMPONENTS

BACKUPS = {
    "postgres": "api.backup.tasks.backup_postgres_database",
    "weaviate": "api.backup.tasks.backup_weaviate_database",
    "media": "api.backup.tasks.backup_media_files",
}
RESTORES = {
    "postgres": "api.backup.restore.restore_postgres_from_backup",
    "weaviate": "api.backup.restore.restore_weaviate_from_backup",
    "media": "api.backup.restore.restore_media_files",
}
UNDO = "api.backup.tasks.undo_restore"
FULL, PIN = "api.backup.tasks.run_full_backup", "api.backup.tasks.pin_backup"
ENDED = ("SUCCESS", "FAILURE", "REVOKED")


class Ledger:
    """The tasks of this round, every state in which a component ever was as a whole, and what has been promised.

    `made` are the backups that a task said it had made, each with a destination where it put them, and `holds` what is
    in those of which that is certain. `partial` are those that may lack a class which was missing. `pinned` is what a task said it had pinned. `alone` are the components that one
    restore of the round alone replaces, `since` what was written in the middle of the round and has to be there, and
    `undone` the components that were put back to what they were before the round, by hand, and `back` those that an undo of
    the round put back. `visited` are the runs that somebody has met by hand, each with its states from then on.
    """

    def __init__(self):
        self.whole, self.before, self.orders = {component: set() for component in COMPONENTS}, {}, {}
        self.made, self.holds, self.pinned, self.partial = set(), {}, set(), set()
        self.begin_anew()

    def begin_anew(self):
        self.alone, self.since, self.undone, self.back, self.visited = set(), {}, set(), set(), {}

    def begin(self, fingerprints):
        self.before, self.orders = fingerprints, {}
        self.begin_anew()
        for component, state in fingerprints.items():
            self.whole[component].add(state)

    def note(self, id, component, task, backup=None):
        self.orders[id] = {"component": component, "task": task, "backup": backup}

    def follow(self, results):
        """Notes what the tasks that have ended have ordered in turn. Whether all have ended, as far as is known."""
        for id, result in results.items():
            if self.orders[id]["task"] == FULL and result["status"] == "SUCCESS":
                for component, child in result["result"]["task_ids"].items():
                    if child not in self.orders:
                        self.note(child, component, BACKUPS[component])
        return all(results.get(id, {}).get("status") in ENDED for id in self.orders)

    def learn(self, results, machines):
        """Believes what the tasks of the round say."""
        for id, order in self.orders.items():
            component, result = order["component"], results.get(id, {})
            is_done = result.get("status") == "SUCCESS"
            if is_done and order["task"] in BACKUPS.values():
                told = result["result"]
                backup = told["backup_id"]
                self.made |= {(machine.name, backup) for machine in machines if told["path"].startswith(f"{machine.root}/")}
                self.made |= {("s3", backup)} if told["s3_uri"] else set()
                if not self.restored(component):
                    self.holds[backup] = self.before[component]
            if order["task"] == PIN:
                # An unpin that failed may have been done.
                self.pinned = self.pinned | {order["backup"]} if is_done and order["pins"] else self.pinned - {order["backup"]}

    def round_ids(self):
        return list(self.orders)

    def restores(self, component):
        """The orders that change what is live."""
        return [id for id, order in self.orders.items() if order["component"] == component and order["task"] in (*RESTORES.values(), UNDO)]

    def restored(self, component):
        return bool(self.restores(component))


def order(lab, client, ledger):
    """Three to six tasks, backups among them."""
    chance = lab.chance
    listed = [(one["component"], one["backup_id"]) for one in lab.machine().json("list")["backups"] if one["state"] == "ok"]
    listed = [(component, backup) for component, backup in listed if backup not in ledger.partial]

    def send(component, task, *args, **kwargs):
        ledger.note(client.delay(task, *args, **kwargs), component, task)

    def back_up():
        component = chance.choice(COMPONENTS)
        send(component, BACKUPS[component], label="chaos")

    def restore():
        if listed:
            component, backup = chance.choice(listed)
            if component not in ledger.alone:
                ledger.note(client.delay(RESTORES[component], backup), component, RESTORES[component], backup)

    def pin():
        """One backup of each component at most: the disk is small."""
        if listed:
            component, backup = chance.choice(listed)
            pinned = [id for id in ledger.pinned if component_of(id) == component]
            backup = pinned[0] if pinned else backup
            id = client.delay(PIN, backup, not pinned)
            ledger.note(id, component, PIN, backup)
            ledger.orders[id]["pins"] = not pinned

    def undo():
        component = chance.choice(COMPONENTS)
        if component not in ledger.alone:
            send(component, UNDO, component)

    rest = [
        back_up,
        restore,
        restore,
        undo,
        pin,
        lambda: send(None, FULL),
        lambda: send(None, "api.backup.tasks.verify_backup", drill=chance.random() < 0.5),
        lambda: send(None, "api.backup.tasks.cleanup_old_backups"),
    ]
    for what in [back_up, back_up, *chance.choices(rest, k=chance.randrange(1, 5))]:
        what()


def reachable(lab, ledger, component):
    """The backups of a component that every machine can reach, since they are in the bucket."""
    listed = [one for one in lab.machine().json("list", component)["backups"] if one["backup_id"] not in ledger.partial]
    return [one["backup_id"] for one in listed if any((copy["destination"], copy["state"]) == ("s3", "ok") for copy in one["destinations"])]


def component_of(backup):
    begin = backup.split("_")[0]
    return "postgres" if begin == "pg" else begin
