"""Real Celery Beat with the app's own schedule, but for the times: every entry is due every second.

    python beat.py BROKER_URL FOLDER        keeps its state in FOLDER, runs until it is stopped
"""

import os
import sys
from pathlib import Path


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    os.environ["REDIS_URL"] = sys.argv[1]
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "webapp"))
    from celery.schedules import schedule
    from rna_backend.celery import app

    for entry in app.conf.beat_schedule.values():
        entry["schedule"] = schedule(1)
    app.Beat(loglevel="INFO", schedule=os.path.join(sys.argv[2], "beat.db")).run()


if __name__ == "__main__":
    main()
