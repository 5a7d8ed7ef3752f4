"""The Python Celery worker that ours is measured beside: one task, default settings, no Django."""

import os

from celery import Celery

app = Celery("bench", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@app.task(name="celery.ping")
def ping():
    return "pong"
