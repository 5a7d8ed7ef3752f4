"""Prints every event of the workers on a broker as it comes, one JSON object a line, until it is killed.

    python events.py BROKER_URL
"""

import json
import sys

from celery import Celery


def show(event):
    event.pop("local_received", None)  # the receiver's own
    print(json.dumps(event), flush=True)


def main():
    (broker_url,) = sys.argv[1:] or sys.exit(__doc__)
    app = Celery(broker=broker_url)
    with app.connection() as connection:
        app.events.Receiver(connection, handlers={"*": show}).capture(limit=None, timeout=None, wakeup=False)


if __name__ == "__main__":
    main()
