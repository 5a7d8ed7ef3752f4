"""Size and duration of the last backups, as numbers for an inline SVG: no script, no style, no library."""

from dataclasses import dataclass

SLOTS = 30
"""Backups that are shown; with fewer, the left stays empty."""

STEP, HEIGHT, GAP = 6, 40, 1


@dataclass
class Bar:
    backup: object
    x: int
    y: float
    height: float


@dataclass
class Chart:
    bars: list
    line: str
    """Points of the polyline of durations."""
    bar_width: int = STEP - GAP
    width: int = STEP * SLOTS
    height: int = HEIGHT


def of(backups):
    """The chart of `backups`, newest first as they are listed; None with fewer than two."""
    oldest_first = list(reversed(backups))
    if len(oldest_first) < 2:
        return None
    first = SLOTS - len(oldest_first)
    largest = max(backup.size_bytes for backup in oldest_first) or 1
    seconds = [backup.duration.total_seconds() if backup.duration else None for backup in oldest_first]
    longest = max((second for second in seconds if second is not None), default=0) or 1
    bars, points = [], []
    for slot, (backup, second) in enumerate(zip(oldest_first, seconds), first):
        height = round(max(HEIGHT * backup.size_bytes / largest, 1), 1)
        bars.append(Bar(backup, slot * STEP, round(HEIGHT - height, 1), height))
        if second is not None:
            middle, top = (slot + 0.5) * STEP, HEIGHT - 1 - (HEIGHT - 2) * second / longest
            points.append(f"{middle:.1f},{top:.1f}")
    return Chart(bars, " ".join(points))
