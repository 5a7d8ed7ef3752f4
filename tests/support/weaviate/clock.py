"""Server time: every second of the server may last longer or shorter than a real one."""

import datetime
import time

FIRST_LOOK = 2.0
LOOK_STEP = 10.0
ZERO_DATE = "0001-01-01T00:00:00Z"


class Clock:
    """Server seconds; `scale` is how many real seconds one of them lasts."""

    def __init__(self, scale=1.0):
        self.scale = max(float(scale), 1e-6)

    def now(self):
        """Server seconds since some moment."""
        return time.monotonic() / self.scale

    def real(self, seconds):
        """Real seconds that so many server seconds last."""
        return max(0.0, seconds) * self.scale


def next_look(elapsed):
    """When the coordinator looks at its nodes: 2 s after the start and then every 10 s."""
    look = FIRST_LOOK
    while look < elapsed:
        look += LOOK_STEP
    return look


def stamp(moment=None):
    """RFC 3339 as the server writes it, in UTC."""
    moment = moment or datetime.datetime.now(datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"
