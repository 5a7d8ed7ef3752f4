"""Small tasks for a Python worker, to be mixed with those of rna-backup in chains, groups and chords."""

from celery import shared_task


@shared_task
def add(*numbers):
    return sum(numbers)


@shared_task
def xsum(numbers):
    return sum(numbers)


@shared_task
def same(value):
    """What it gets, so that a test sees what arrived."""
    return value


@shared_task
def fail(*args):
    raise ValueError("boom", 42)


@shared_task
def errback(failed_id):
    """With one argument it is sent as a task, also by Python."""
    return failed_id


@shared_task(ignore_result=True)
def quiet(value):
    return value


@shared_task(bind=True)
def stamps(self, *args):
    return {name: self.request.stamps[name] for name in self.request.stamped_headers or []}
