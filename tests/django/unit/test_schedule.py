"""The schedule, as Beat itself has it: in the code, or in the tables of django-celery-beat."""

from datetime import datetime, timedelta, timezone as tz
from unittest import skipUnless
from zoneinfo import ZoneInfo

from celery import current_app
from celery.schedules import crontab
from django.apps import apps
from django.utils import timezone

from catalog import CatalogTestCase, page
from rna_backup_django import schedule

KOLKATA = ZoneInfo("Asia/Kolkata")


class Schedules(CatalogTestCase):
    def test_the_entries_of_the_code_are_those_that_are_ours(self):
        found = {entry.name: entry.words for entry in schedule.entries()}
        expected = {
            "daily-postgres-backup": "daily at 02:00",
            "daily-weaviate-backup": "daily at 03:00",
            "daily-media-backup": "daily at 04:00",
            "weekly-full-backup": "Sunday at 01:00",
        }
        self.assertEqual(found, expected)

    def test_an_entry_is_due_at_its_hour_in_the_time_zone_of_beat(self):
        entry = next(entry for entry in schedule.entries() if entry.name == "daily-postgres-backup")
        due = entry.next.astimezone(KOLKATA)
        self.assertEqual((due.hour, due.minute, due.second), (2, 0, 0))
        self.assertLessEqual(timezone.now(), due)
        self.assertLessEqual(due, timezone.now() + timedelta(days=1))
        missed = entry.after(datetime(2026, 11, 20, 12, tzinfo=tz.utc)).astimezone(KOLKATA)
        self.assertEqual((missed.day, missed.hour), (21, 2))

    def test_other_schedules_are_told_as_well_as_can_be(self):
        entries = {
            "a": {"task": "api.backup.tasks.backup_media_files", "schedule": 3600.0},
            "b": {"task": "api.backup.tasks.verify_backup", "schedule": crontab(hour="*/6", minute=5)},
            "c": {"task": "api.backup.tasks.run_full_backup", "schedule": crontab(hour=1, minute=0, day_of_week="sat,sun")},
            "d": {"task": "api.search.tasks.reindex", "schedule": 5},
        }
        self.addCleanup(setattr, current_app.conf, "beat_schedule", current_app.conf.beat_schedule)
        current_app.conf.beat_schedule = entries
        found = schedule.entries()
        self.assertEqual([entry.words for entry in found], ["every 1:00:00", "cron 5 */6 * * *", "Sunday, Saturday at 01:00"])
        self.assertEqual([len(entry.components) for entry in found], [1, 0, 3])

    def test_a_zone_that_is_not_that_of_the_pages_is_named(self):
        with timezone.override("Europe/Berlin"):
            self.assertEqual(schedule.entries()[0].words, "daily at 04:00 Asia/Kolkata")

    def test_it_stands_beside_the_form_and_in_the_summary(self):
        self.log_in(superuser=True)
        self.assertContains(self.client.get(page("trigger")), "weekly-full-backup")
        self.assertContains(self.client.get(page("backup_changelist")), "daily at 03:00")

    @skipUnless(apps.is_installed("django_celery_beat"), "Beat reads its schedule from the code here")
    def test_tables_of_beat_win_over_the_code(self):
        from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

        night = CrontabSchedule.objects.create(hour="5", minute="30", timezone="UTC")
        hourly = IntervalSchedule.objects.create(every=6, period="hours")
        name = "api.backup.tasks.backup_postgres_database"
        PeriodicTask.objects.create(name="night", task=name, crontab=night)
        PeriodicTask.objects.create(name="often", task=name, interval=hourly)
        PeriodicTask.objects.create(name="off", task=name, interval=hourly, enabled=False)
        PeriodicTask.objects.create(name="other", task="api.search.tasks.reindex", interval=hourly)
        night, often = schedule.entries()
        self.assertEqual((night.name, night.words), ("night", "daily at 05:30 UTC"))
        self.assertEqual(night.next.astimezone(tz.utc).hour, 5)
        self.assertEqual((often.name, often.words), ("often", "every 6:00:00"))
