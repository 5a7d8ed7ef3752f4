"""Tasks whose every run leaves a trace, for a fleet that is shot at."""

import os
import time

from celery import shared_task


@shared_task(bind=True, acks_late=True)
def effect(self):
    """Notes the delivery that it runs for: a message that comes again has the same, one that was sent twice another."""
    self.app.backend.client.rpush(f"effects:{self.request.id}", self.request.properties["delivery_tag"])


@shared_task(bind=True, acks_late=True)
def hold(self, release):
    """Says that it runs, and goes on until there is a file of this name."""
    self.app.backend.client.rpush("holding", self.request.id)
    while not os.path.exists(release):
        time.sleep(0.01)
