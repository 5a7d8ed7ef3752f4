"""Somebody works by hand on the data of a run that lives, in the middle of that run: it goes on, and ends well at its first attempt."""

import json
import re
import signal
import subprocess
import time

from lab import COMPONENTS, is_mark
from machine import is_up
from orders import BACKUPS, ENDED, RESTORES, reachable
from servers import Failed, wait_for
from takeover import REQUESTS

COME = 20  # seconds for a run to come so far
STAY = 10  # seconds for which the run may stand still: no longer than others believe that it lives
END = 90  # and for the run to end afterwards


class Scene:
    """Something of which nothing is left to be put right when it is over."""

    def __init__(self, lab, ledger, client, number):
        self.lab, self.ledger, self.client = lab, ledger, client
        self.component, self.event = lab.chance.choice(COMPONENTS), None

    def strike(self):
        return self.event

    def leaves_all_well(self):
        return True

    def be_taken_over(self):
        """No machine has died, so no other takes anything over."""

    def come_back(self):
        """No machine was away."""

    def undo(self):
        return False


class Crontab(Scene):
    """The same line in the crontab of every machine: they make a backup in the same second, and none has the lock of another."""

    def order(self):
        for process in [machine.by_hand("backup", self.component) for machine in self.lab.machines]:
            process.wait(120)
        self.event = f"everybody_backed_up_{self.component}"
        return True


class Visit(Scene):
    """A restore that a command on another machine meets with its copy half made, or a backup that a command on the same machine meets just
    before its manifest is written."""

    def __init__(self, *rest):
        super().__init__(*rest)
        # A server of Weaviate makes one backup at a time, so two of them may well be in each other's way.
        self.is_restore = self.component == "weaviate" or self.lab.chance.random() < 0.6
        self.visitor, self.event = None, "nobody_was_visited"

    def order(self):
        """Orders the run, and visits it before anything else goes on."""
        task, args = BACKUPS[self.component], []
        if not self.is_restore:
            # The archive is in the bucket, and its manifest is on its way.
            trap = re.compile(f"({REQUESTS['manifest'].format(component=self.component)})".encode())
            self.caught = [machine.lines["s3"].catch(trap) for machine in self.lab.machines]
        else:
            found = reachable(self.lab, self.ledger, self.component)
            if not found:
                return False
            task, args = RESTORES[self.component], [self.lab.chance.choice(found)]
            self.ledger.alone.add(self.component)
        self.id = self.client.delay(task, *args)
        self.ledger.note(self.id, self.component, task, *args)
        try:
            wait_for("a run that can be visited", self.is_at_work, seconds=COME)
            self.visit(args)
        except Failed:
            pass
        for machine in self.lab.machines:
            machine.lines["s3"].trap = None
            machine.clear_lines()
        if self.visitor:
            self.ledger.visited[self.id] = self.states()
            self.visitor.wait(120)
        return True

    def visit(self, args):
        """Stops all workers, so that the run stays where it is while somebody works by hand."""
        workers = [worker for worker in self.lab.workers if is_up(worker)]
        for worker in workers:
            worker.process.send_signal(signal.SIGSTOP)
        if self.is_at_work():
            machine = self.place()
            # No backup of Weaviate needs to know of restores elsewhere; a restore does.
            words = ["restore", "weaviate", *args, "--yes"] if self.component == "weaviate" else ["backup", self.component]
            self.visitor = machine.by_hand(*words)
            try:
                self.visitor.wait(STAY)
            except subprocess.TimeoutExpired:
                pass
            self.event = f"visited_{'restore' if self.is_restore else 'backup'}_of_{self.component}"
        for worker in workers:
            worker.process.send_signal(signal.SIGCONT)

    def is_at_work(self):
        """Returns whether the run has begun something that a command by hand might take for a dead run's."""
        if not self.is_restore:
            return any(caught.is_set() for caught in self.caught)
        if self.component == "postgres":
            return "_restore_" in self.lab.postgres.psql("select datname from pg_database", "postgres").stdout
        if self.component == "media":
            return any(".rna-restore-" in path.name for path in self.lab.media.parent.iterdir())
        classes = self.lab.weaviate.ask("GET", "/v1/schema")["classes"]
        return any(json.loads(one["description"])["replacing"] for one in classes if is_mark(one["class"]))

    def place(self):
        """The machine on which somebody works by hand."""
        at_work = self.lab.at_work(self.component)
        return self.lab.chance.choice([machine for machine in self.lab.machines if (machine is at_work) != self.is_restore] or self.lab.machines)

    def states(self):
        """The states of the task from now on, until it has ended."""
        states, deadline = [], time.monotonic() + END
        while time.monotonic() < deadline:
            state = self.lab.results([self.id]).get(self.id, {}).get("status")
            if state not in states[-1:]:
                states.append(state)
            if state in ENDED:
                break
            time.sleep(0.1)
        return states
