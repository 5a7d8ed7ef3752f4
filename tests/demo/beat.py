"""Real Celery Beat with the app's schedule, under a clock that runs fast."""

import re

from servers import PYTHONS, WEBAPP, Failed, stop, wait_for

SPEED = 720  # an hour in five seconds
DUE = re.compile(r"(\d\d:\d\d):\d\d,\d+: INFO.*Sending due task (\S+)")
SENT = re.compile(r"DEBUG.*?(\S+) sent\. id->(\S+)")


class Beat:
    """`celery beat` of 5.3.6 on the night to Sunday, 22 November 2026, in Kolkata."""

    def __init__(self, stage, redis_url):
        self.stage, self.redis_url = stage, redis_url

    def run_until(self, last, say):
        """Runs the night to the entry `last`; the id of each of the app's backup entries that was sent.

        Python needs time to start, and here that is minutes: on a slow machine the night begins earlier.
        """
        for start in ("2026-11-22 00:15:00", "2026-11-21 15:00:00"):
            process = self.start(start)
            try:
                wait_for("start celery beat", lambda: b"beat: Starting" in process.log.read_bytes(), process)
                if self.is_in_time(process):
                    return self.follow(process, last, say)
            finally:
                stop(process)
        raise Failed("celery beat needs a minute to start on this machine: too slow for a night of half a minute")

    def start(self, start):
        (self.stage.dir / "beat.log").unlink(missing_ok=True)
        # faketime waits for a child of its own, which is to end with it.
        celery = ["setpriv", "--pdeathsig", "KILL", PYTHONS["5.3.6"], "-m", "celery", "-A", "rna_backend", "beat", "-l", "debug", "--pidfile="]
        command = ["faketime", "-f", f"@{start} x{SPEED}", *celery, "--schedule", self.stage.dir / "beat.db"]
        env = {"REDIS_URL": self.redis_url, "TZ": "Asia/Kolkata"}
        return self.stage.start(command, "beat.log", env=env, cwd=WEBAPP)

    def is_in_time(self, process):
        first = re.search(r"\[2026-11-(\d\d) (\d\d):", process.log.read_text())
        return (int(first[1]), int(first[2])) < (22, 1)

    def follow(self, process, last, say):
        sent, shown, due = {}, 0, None
        while last not in sent:
            wait_for("next line of celery beat", lambda: len(whole_lines(process.log)) > shown, process)
            lines = whole_lines(process.log)
            for line in lines[shown:]:
                if found := DUE.search(line):
                    due = found.groups()
                if (found := SENT.search(line)) and found[1].startswith("api.backup."):
                    clock, entry = due
                    sent[entry] = found[2]
                    say(f"{clock} Asia/Kolkata  {entry:24} {found[1]}  id {found[2][:8]}…")
            shown = len(lines)
        return sent


def whole_lines(log):
    return log.read_text().rpartition("\n")[0].splitlines()
