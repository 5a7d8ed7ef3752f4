"""Faults of the network and of proxies, laid over the answers by rules that a test sets.

The seconds of these rules are real ones: they are measured against a client's own time limits.
"""

import re
import threading

KINDS = ("status", "html", "empty", "truncated", "reset_before", "reset_after", "slow_headers", "late")
HTML = "<html><head><title>{0}</title></head><body><h1>{0}</h1><hr>nginx</body></html>"


class Rule:
    """One rule: which requests, how often, and what happens to them."""

    def __init__(self, given):
        self.kind = given["kind"]
        if self.kind not in KINDS:
            raise ValueError(f"kind is one of {', '.join(KINDS)}")
        self.method = given.get("method")
        self.path = re.compile(given.get("path") or "")
        self.left = given.get("times", 1)
        self.status = given.get("status")
        self.body = given.get("body")
        self.seconds = float(given.get("seconds") or 0)

    def fits(self, method, path):
        """Whether the rule is about this request and is not used up."""
        return (self.left is None or self.left > 0) and self.method in (None, "", "*", method) and bool(
            self.path.search(path))

    @property
    def takes_effect(self):
        """Whether the request reaches the handlers before its answer is spoilt."""
        return self.kind in ("truncated", "reset_after", "slow_headers", "late")


class Faults:
    """The rules in force; the first that fits is taken."""

    def __init__(self):
        self.lock = threading.Lock()
        self.rules = []

    def add(self, given):
        """Adds rules behind those that are there."""
        rules = [Rule(item) for item in given]
        with self.lock:
            self.rules += rules

    def clear(self):
        """Forgets all rules."""
        with self.lock:
            self.rules = []

    def take(self, method, path):
        """The rule for a request, counted down, or None."""
        with self.lock:
            for rule in self.rules:
                if rule.fits(method, path):
                    if rule.left is not None:
                        rule.left -= 1
                    return rule
        return None
