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


class Ledger:
    """The tasks of this round, and every state in which a component ever was as a whole."""

    def __init__(self):
        self.whole, self.before, self.orders = {component: set() for component in COMPONENTS}, {}, {}

    def begin(self, fingerprints):
        self.before, self.orders = fingerprints, {}
        for component, state in fingerprints.items():
            self.whole[component].add(state)

    def note(self, id, component, task):
        self.orders[id] = {"component": component, "task": task}

    def round_ids(self):
        return list(self.orders)

    def restored(self, component):
        return any(order["component"] == component and order["task"] in (*RESTORES.values(), UNDO) for order in self.orders.values())


def order(lab, client, ledger):
    """Three to six tasks, backups among them."""
    chance = lab.chance
    listed = [(backup["component"], backup["backup_id"]) for backup in lab.json("list")["backups"] if backup["state"] == "ok"]

    def send(component, task, *args, **kwargs):
        ledger.note(client.delay(task, *args, **kwargs), component, task)

    def back_up():
        component = chance.choice(COMPONENTS)
        send(component, BACKUPS[component], label="chaos")

    def restore():
        if listed:
            component, backup = chance.choice(listed)
            send(component, RESTORES[component], backup)

    def undo():
        component = chance.choice(COMPONENTS)
        send(component, UNDO, component)

    rest = [
        back_up,
        restore,
        restore,
        undo,
        lambda: send(None, "api.backup.tasks.run_full_backup"),
        lambda: send(None, "api.backup.tasks.verify_backup", drill=chance.random() < 0.5),
        lambda: send(None, "api.backup.tasks.cleanup_old_backups"),
    ]
    for what in [back_up, back_up, *chance.choices(rest, k=chance.randrange(1, 5))]:
        what()
