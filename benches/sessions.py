"""An app's sessions with a database: each asks, waits a little, asks again, and connects again at once when it was cut off.

    python sessions.py COUNT QUERY      the server as libpq finds it

Writes a line when all have had an answer, asks until its input ends, waits until all have had an answer to a query
that they asked after that, and writes what it saw as JSON. It speaks to the server by libpq itself, outside of
Python's lock, and waits between two queries, so that asking does not take the cores that are to restore.
"""

import ctypes
import json
import statistics
import sys
import threading
import time

PAUSE = 0.025
OK = 0  # CONNECTION_OK (libpq-fe.h)

libpq = ctypes.CDLL("libpq.so.5")
for name, returns, takes in (
    ("PQconnectdb", ctypes.c_void_p, [ctypes.c_char_p]),
    ("PQstatus", ctypes.c_int, [ctypes.c_void_p]),
    ("PQerrorMessage", ctypes.c_char_p, [ctypes.c_void_p]),
    ("PQfinish", None, [ctypes.c_void_p]),
    ("PQexec", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]),
    ("PQntuples", ctypes.c_int, [ctypes.c_void_p]),
    ("PQclear", None, [ctypes.c_void_p]),
):
    function = getattr(libpq, name)
    function.restype, function.argtypes = returns, takes


class Session(threading.Thread):
    """An answer counts when it holds something: a database without its rows is none."""

    def __init__(self, query, ended):
        super().__init__(daemon=True)
        self.query, self.ended, self.link = query, ended, None
        self.answered, self.words, self.first = [], [], threading.Event()

    def run(self):
        last = answered = False
        while not (last and answered):
            last = self.ended.is_set()
            answered = self.ask()
            if self.link:
                time.sleep(PAUSE)

    def ask(self):
        self.link = self.link or libpq.PQconnectdb(b"")
        found = 0
        if libpq.PQstatus(self.link) == OK:
            result = libpq.PQexec(self.link, self.query)
            found = libpq.PQntuples(result)
            libpq.PQclear(result)
        if found:
            self.answered.append(time.monotonic())
            self.first.set()
        else:
            self.words.append(libpq.PQerrorMessage(self.link).decode(errors="replace").strip())
        if libpq.PQstatus(self.link) != OK:
            libpq.PQfinish(self.link)
            self.link = None
        return found > 0

    def outage(self):
        """The longest time from one answer to the next, seconds: slow answers count as well as failures."""
        return max(after - before for before, after in zip(self.answered, self.answered[1:]))


def main():
    count, query = int(sys.argv[1]), sys.argv[2].encode()
    ended = threading.Event()
    sessions = [Session(query, ended) for _ in range(count)]
    for session in sessions:
        session.start()
    for session in sessions:
        session.first.wait()
    print("all have had an answer", flush=True)
    sys.stdin.read()
    ended.set()
    for session in sessions:
        session.join()
    outages = [session.outage() for session in sessions]
    words = [word for session in sessions for word in session.words]
    found = {
        "longest": max(outages),
        "median": statistics.median(outages),
        "failed": len(words),
        "answered": sum(len(session.answered) for session in sessions),
        "cpu_seconds": time.process_time(),
        "words": {word: words.count(word) for word in sorted(set(words))},
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
