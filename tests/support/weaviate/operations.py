"""One running backup or restore, the slot it sits in, and the gate a test may close before its end."""

import threading

from clock import next_look


class Gone(Exception):
    """The server was restarted: the operation lives in memory only and is forgotten."""


class Cancelled(Exception):
    """A client asked to cancel."""


class Operation:
    """A backup or restore from its acceptance to its end."""

    def __init__(self, kind, id, place, script, clock):
        self.kind, self.id, self.place, self.script, self.clock = kind, id, place, script, clock
        self.started = clock.now()
        self.status = "STARTED"
        self.error = ""
        self.descriptor = {}
        self.held = False
        self.running = True
        self.cancel_asked = False
        self.gone = False
        self.uncancellable = False
        self.changed = threading.Condition()

    def check(self):
        """Raises if the operation was forgotten or is to be cancelled."""
        if self.gone:
            raise Gone()
        if self.cancel_asked and not self.uncancellable:
            raise Cancelled()

    def tell(self, **changes):
        """Sets fields and wakes whoever waits."""
        with self.changed:
            for name, value in changes.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def wait_until(self, moment):
        """Waits for a server time, or for ever with None."""
        with self.changed:
            while True:
                self.check()
                left = None if moment is None else moment - self.clock.now()
                if left is not None and left <= 0:
                    return
                self.changed.wait(None if left is None else self.clock.real(left))

    def transfer(self):
        """Takes as long as the script says: a number of seconds, or for ever."""
        if self.script.get("never"):
            self.wait_until(None)
        self.wait_until(self.started + float(self.script.get("seconds") or 0))

    def wait_for_look(self):
        """The end is seen when the coordinator looks at the nodes, not when they are done."""
        self.wait_until(self.started + next_look(self.clock.now() - self.started))


class Gate:
    """Closed by a test, it keeps an operation of one kind from ending."""

    def __init__(self):
        self.changed = threading.Condition()
        self.closed = False

    def close(self):
        """The running or the next operation will stop here."""
        with self.changed:
            self.closed = True

    def open(self):
        """Lets everybody through."""
        with self.changed:
            self.closed = False
            self.changed.notify_all()

    def wake(self):
        """Makes those who wait look at their operation again."""
        with self.changed:
            self.changed.notify_all()

    def passing(self, operation):
        """Waits here while the gate is closed; `held` tells a test that the operation has come so far."""
        with self.changed:
            while self.closed:
                operation.held = True
                operation.check()
                self.changed.wait()
            operation.held = False
            operation.check()


class Slot:
    """Room for one operation of a kind; the last one stays known to tests."""

    def __init__(self, kind):
        self.kind = kind
        self.gate = Gate()
        self.scripts = []
        self.current = None
        self.last = None
        self.lock = threading.Lock()

    def take(self, operation, word):
        """Puts an operation in, or says who is there."""
        with self.lock:
            if self.current is not None:
                return f"{word} {self.current.id} already in progress"
            self.current = self.last = operation
            return None

    def leave(self, operation):
        """Frees the slot."""
        with self.lock:
            operation.running = operation.held = False
            if self.current is operation:
                self.current = None

    def find(self, id, place):
        """The operation with this id, if it is running."""
        with self.lock:
            found = self.current
        return found if found is not None and found.id == id and found.place == place else None

    def script(self):
        """What the next operation is to do."""
        with self.lock:
            return self.scripts.pop(0) if self.scripts else {}

    def give_back(self, operation):
        """The operation was not accepted after all: the next one does what it was to do."""
        self.leave(operation)
        with self.lock:
            if operation.script:
                self.scripts.insert(0, operation.script)

    def forget(self):
        """A restart: the operation ends without a trace."""
        with self.lock:
            operation, self.current = self.current, None
        if operation is not None:
            operation.tell(gone=True, running=False, held=False)
            self.gate.wake()

    def state(self):
        """What a test sees."""
        with self.lock:
            last = self.last
            return last and {"id": last.id, "held": last.held, "running": last.running}
