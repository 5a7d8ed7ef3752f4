"""A machine that dies over a restore, or is cut off: another takes the restore over, then the first comes back and makes its next backup.

The instant is no guess: the machine's line to Redis catches the very message that tells of it.
"""

import re
import signal
import time
import uuid

from machine import is_up
from orders import ENDED, RESTORES, component_of
from servers import Failed, wait_for

# The message that is caught, by a word in it. Where a step is too short to be told of, it is the result.
RESULT = "SUCCESS"
POINTS = (RESULT, RESULT, RESULT, "restore", "swap", "replace classes")
CATCH = 30  # seconds for a restore to come so far
LOST = 45  # seconds in which others take the work of a machine that they do not hear of
TAKEN = 150  # and that of a dead one, whose mark in Weaviate is looked at for a while


def die(machine, chance):
    """SIGKILL to its workers."""
    time.sleep(chance.random() * 0.3)  # no wait for anything: the instant is the point
    machine.die()
    machine.lines["redis"].mode = "clear"


def be_cut_off(machine, chance):
    """Cuts a machine off from Redis, while its work goes on, until another machine has taken the work over."""


def freeze(machine, chance):
    """Stops the processes of a machine in the middle of its work, and lets them go on when another machine has taken the work over."""
    for worker in filter(is_up, machine.workers):
        worker.process.send_signal(signal.SIGSTOP)


ENDS = (*8 * (die,), be_cut_off, freeze)


class Takeover:
    """The restore of a round, of a component that no other order of the round replaces."""

    def __init__(self, lab, ledger, client, number):
        self.lab, self.ledger, self.client, self.number = lab, ledger, client, number
        self.id, self.victim = str(uuid.UUID(int=lab.chance.getrandbits(128), version=4)), None
        self.point, self.end = lab.chance.choice(POINTS), lab.chance.choice(ENDS)

    def order(self):
        """Orders a restore of a backup that every machine can reach; returns False where there is none."""
        listed = self.lab.machine().json("list")["backups"]
        found = [one["backup_id"] for one in listed if any((copy["destination"], copy["state"]) == ("s3", "ok") for copy in one["destinations"])]
        if not found:
            return False
        backup = self.lab.chance.choice(found)
        self.component = component_of(backup)
        self.ledger.alone.add(self.component)
        # The result of a task is JSON on one line, with the task's id at its end; a packet may hold more, and other tasks may name the id too.
        trap = re.compile(f'"({self.point}|{RESULT})"[^\r\n]*"task_id": ?"{self.id}'.encode())
        self.caught = [(machine, machine.lines["redis"].catch(trap)) for machine in self.lab.machines]
        task = RESTORES[self.component]
        self.client.ask(do="send", task=task, args=[backup], kwargs={}, options={"task_id": self.id})
        self.ledger.note(self.id, self.component, task, backup)
        return True

    def strike(self):
        """At the instant that is awaited; what has happened, in a word."""
        for _ in range(CATCH):
            self.victim = self.caught_one()
            if self.victim or self.has_ended():
                break
        for machine, _ in self.caught:
            machine.lines["redis"].trap = None
        if self.victim is None:
            return "nobody_died"
        if self.point is RESULT:
            # The restore is done, and only its result is not stored: data that is written from now on stays.
            self.lab.write(self.component, self.number)
            self.ledger.since[self.component] = self.number
        self.end(self.victim, self.lab.chance)
        return f"{self.end.__name__}_at_{self.point.split()[0].lower()}_of_{self.component}"

    def caught_one(self):
        """The machine whose message was caught within a second."""
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            for machine, caught in self.caught:
                if caught.wait(0.02):
                    return machine
        return None

    def has_ended(self, *states):
        return self.lab.results([self.id]).get(self.id, {}).get("status") in (states or ENDED)

    def leaves_all_well(self):
        """Returns whether no machine is stopped or cut off, so that other faults may strike."""
        return self.victim is None or self.end is die

    def be_taken_over(self):
        """Waits until another machine has ended the restore, or what was left of it; then the first machine comes back."""
        if self.victim is None:
            return
        for machine in self.lab.machines:
            if machine is not self.victim:
                machine.start()
        try:
            wait_for("another machine to take the restore over", self.has_ended, seconds=TAKEN if self.end is die else LOST)
        except Failed:
            pass  # whoever stands still may keep its locks
        for worker in filter(is_up, self.victim.workers):
            worker.process.send_signal(signal.SIGCONT)
        self.victim.lines["redis"].mode = "clear"

    def come_back(self):
        """The machine that was away makes its next backup of what the other has restored."""
        if self.victim is not None:
            self.victim.command("backup", self.component, check=False)

    def undo(self):
        """Undoes the restore by hand on a machine that can; returns whether anything was undone."""
        # Weaviate has no second place for classes: those that a dead machine has deleted are not there for the next.
        is_one_swap = self.point is RESULT or self.component != "weaviate"
        if self.victim is None or not is_one_swap or not self.has_ended("SUCCESS"):
            return False
        for machine in self.lab.machines:
            if machine.command("undo", self.component, "--yes", check=False).returncode == 0:
                self.ledger.undone.add(self.component)
                return True
        return False
