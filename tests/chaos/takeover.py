"""A machine that dies over a task, stands still or is cut off: another takes the task over, then the first comes back and makes its next backup.

The instant is no guess: one of the machine's lines catches the very message that tells of it.
"""

import re
import signal
import time
import uuid

from lab import COMPONENTS
from machine import is_up
from orders import BACKUPS, ENDED, RESTORES, UNDO, reachable
from servers import Failed, wait_for

# The result that is about to be stored: the work is done. Where a step is too short to be told of, this is the instant too.
RESULT = "SUCCESS"
# Progress that is told by way of Redis, by a word in it.
STEPS = ("restore", "swap", "replace classes")
# A class of Weaviate is deleted, and not there again.
MISSING = "missing class"
# Requests to the bucket: a backup's archive comes there, then its manifest; retention deletes a manifest, then the archive.
REQUESTS = {
    "archive": "PUT /[^/ ]+/{component}/",
    "manifest": "PUT /[^/ ]+/manifests/{component}/",
    "deletion": "DELETE /[^/ ]+/manifests/{component}/|<Object><Key>manifests/{component}/",
}
CATCH = 30  # seconds for a task to come so far
LOST = 45  # seconds in which others take the work of a machine that they do not hear of
TAKEN = 150  # and that of a dead one, or of one without a sign of life, whose mark in Weaviate is looked at for a while


def die(machine, takeover):
    """SIGKILL to its workers."""
    time.sleep(takeover.lab.chance.random() * 0.3)  # no wait for anything: the instant is the point
    machine.die()
    machine.clear_lines(loses=takeover.lab.chance.random() < 0.5)


def die_before_a_backup(machine, takeover):
    """SIGKILL to all workers, and somebody makes a backup by hand before any is there again."""
    for each in takeover.lab.machines:
        each.die()
    machine.clear_lines()
    takeover.lab.machine().command("backup", takeover.component, check=False)


def be_cut_off(machine, takeover):
    """Cuts a machine off from Redis, while its work goes on, until another machine has taken the work over."""


def freeze(machine, takeover):
    """Stops the processes of a machine in the middle of its work, and lets them go on when another machine has taken the work over."""
    for worker in filter(is_up, machine.workers):
        worker.process.send_signal(signal.SIGSTOP)


class Takeover:
    """The restore of a round, of a component that no other order of the round replaces."""

    kind, points, ends = "restore", (RESULT, RESULT, RESULT, *STEPS), (*6 * (die,), be_cut_off, freeze)

    def __init__(self, lab, ledger, client, number):
        self.lab, self.ledger, self.client, self.number = lab, ledger, client, number
        self.id, self.victim, self.at = str(uuid.UUID(int=lab.chance.getrandbits(128), version=4)), None, None
        self.component = lab.chance.choice(self.components())
        self.point, self.end = lab.chance.choice(self.points), lab.chance.choice(self.ends)
        self.is_followed = lab.chance.random() < 0.4
        if self.component == "weaviate" and self.point in STEPS[1:]:
            self.point, self.end = MISSING, freeze if self.end is be_cut_off else self.end

    def components(self):
        return COMPONENTS

    def choose(self):
        """A backup that every machine can reach, and the task that restores it; None where there is no such backup."""
        found = reachable(self.lab, self.ledger, self.component)
        if not found:
            return None
        self.ledger.alone.add(self.component)
        return self.lab.chance.choice(found), RESTORES[self.component]

    def order(self):
        """Orders a restore of a backup that every machine can reach; returns False where there is none."""
        chosen = self.choose()
        if chosen is None:
            return False
        backup, task = chosen
        self.there = self.backups() if self.point is MISSING else set()
        self.send(task, backup)
        self.ledger.note(self.id, self.component, task, backup)
        if self.point is MISSING:
            self.stop_without_a_class()
        return True

    def backups(self):
        return {one["backup_id"] for machine in self.lab.machines for one in machine.json("list", self.component)["backups"]}

    def stop_without_a_class(self):
        """Stops the machine that restores while the class is missing: a moment that no message tells of."""
        is_missing = lambda: "Paper" not in self.lab.classes()  # noqa: E731
        try:
            wait_for("a class to be deleted", lambda: is_missing() or self.has_ended(), seconds=CATCH)
        except Failed:
            return
        victim = self.lab.at_work(self.component)
        if victim and is_missing():
            freeze(victim, self)
            self.victim, self.at = victim, MISSING

    def send(self, task, *args):
        """Sends the task, with a trap on every line for the message that is awaited."""
        # The result of a task is JSON on one line, with the task's id at its end; a packet may hold more, and other tasks may name the id too.
        words = {RESULT} if self.point in REQUESTS else {self.point, RESULT}
        traps = {"redis": f'"({"|".join(words)})"[^\r\n]*"task_id": ?"{self.id}'}
        if self.point in REQUESTS:
            traps["s3"] = f"({REQUESTS[self.point].format(component=self.component)})"
        lines = [(machine, name) for machine in self.lab.machines for name in traps]
        self.caught = [(machine, name, machine.lines[name].catch(re.compile(traps[name].encode()))) for machine, name in lines]
        self.client.ask(do="send", task=task, args=args, kwargs={}, options={"task_id": self.id})

    def strike(self):
        """At the instant that is awaited; what has happened, in a word."""
        for _ in range(CATCH):
            if self.victim or self.has_ended():
                break
            self.caught_one()
        for machine, name, _ in self.caught:
            machine.lines[name].trap = None
            if machine is not self.victim:
                machine.lines[name].mode = "clear"  # it may have caught something at the same time
        if self.victim is None:
            return "nobody_died"
        if self.at == RESULT:
            self.write()
            if self.end is die and self.is_followed:
                self.end = die_before_a_backup
        self.end(self.victim, self)
        return f"{self.end.__name__}_at_{self.at.split()[0].lower()}_of_{self.kind}_{self.component}"

    def write(self):
        """Data that is written once the restore is done stays: what is still to come is the stored result."""
        if self.component not in self.ledger.since:
            self.lab.write(self.component, self.number)
            self.ledger.since[self.component] = self.number

    def caught_one(self):
        """Notes the machine whose message was caught within a second, and which message that was."""
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            for machine, line, caught in self.caught:
                if caught.wait(0.02):
                    self.victim = machine
                    self.at = self.point if line == "s3" else machine.lines[line].word.decode()
                    return

    def has_ended(self, *states):
        return self.lab.results([self.id]).get(self.id, {}).get("status") in (states or ENDED)

    def leaves_all_well(self):
        """Returns whether no machine is stopped or cut off, so that other faults may strike."""
        return self.victim is None or self.end in (die, die_before_a_backup)

    def be_taken_over(self):
        """Waits until another machine has ended the task, or what was left of it; then the first machine comes back."""
        if self.victim is None:
            return
        for machine in self.lab.machines:
            if machine is not self.victim:
                machine.start()
        is_quick = self.end in (freeze, be_cut_off) and self.component != "weaviate"
        try:
            wait_for("another machine to take the task over", self.has_ended, seconds=LOST if is_quick else TAKEN)
        except Failed:
            pass  # whoever stands still may keep its locks
        if self.has_ended("SUCCESS"):
            self.taken_over()
        if self.at is MISSING:
            # Others may have backed up what was there.
            self.ledger.partial |= self.backups() - self.there
        for worker in filter(is_up, self.victim.workers):
            worker.process.send_signal(signal.SIGCONT)
        self.victim.clear_lines()

    def taken_over(self):
        """Writes to the live data what the machine that was away may not undo when that machine comes back."""
        self.write()

    def come_back(self):
        """The machine that was away makes its next backup of what the other has restored."""
        if self.victim is not None:
            self.victim.command("backup", self.component, check=False)

    def undo(self):
        """Undoes the restore by hand on a machine that can; returns whether anything was undone."""
        # Weaviate has no second place for classes: those that a dead machine has deleted are not there for the next.
        is_one_swap = self.at == RESULT or self.component != "weaviate"
        if self.victim is None or not is_one_swap or not self.has_ended("SUCCESS"):
            return False
        # The copies for an undo of Weaviate lie on the machine that has restored.
        others = [machine for machine in self.lab.machines if machine is not self.victim and self.component != "weaviate"]
        for machine in [self.victim, *others]:
            if machine.command("undo", self.component, "--yes", check=False).returncode == 0:
                self.ledger.undone.add(self.component)
                return True
        return False


class UndoTakeover(Takeover):
    """An undo, of a restore that was done just before."""

    kind, points = "undo", (RESULT,)

    def components(self):
        # The copies for an undo of Weaviate lie on one machine: no other machine can undo that restore.
        return ("postgres", "media")

    def order(self):
        chosen = self.choose()
        if chosen is None:
            return False
        backup, task = chosen
        restore = self.client.delay(task, backup)
        self.ledger.note(restore, self.component, task, backup)
        ended = lambda: self.lab.results([restore]).get(restore, {}).get("status")  # noqa: E731
        try:
            wait_for("the restore that is to be undone", lambda: ended() in ENDED, seconds=CATCH)
        except Failed:
            pass
        if ended() != "SUCCESS":
            return False
        self.send(UNDO, self.component)
        self.ledger.note(self.id, self.component, UNDO)
        return True

    def taken_over(self):
        self.ledger.back.add(self.component)

    def undo(self):
        return False


class BackupTakeover(Takeover):
    """A backup: what was made of it when the machine died is the only one of the task, or goes."""

    kind, points = "backup", (RESULT, *REQUESTS, *REQUESTS)
    # A machine that is cut off keeps its backup, since one backup too many harms nobody: so that end is left out.
    ends = (*3 * (die,), freeze)

    def __init__(self, *rest):
        super().__init__(*rest)
        if self.end is freeze:
            # A request that was on its way is carried out when the machine goes on, whoever has the component by then: so this
            # one is the archive's, which is nothing without its manifest.
            self.point = "archive"

    def order(self):
        self.send(BACKUPS[self.component])
        self.ledger.note(self.id, self.component, BACKUPS[self.component])
        return True

    def write(self):
        """Nothing was replaced."""

    def leaves_all_well(self):
        # Where the bucket is away, a machine cannot know what the one before it has made.
        return self.victim is None

    def undo(self):
        return False
