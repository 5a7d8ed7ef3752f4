"""Things are not as they should be, and the pages say so."""

from case import InBrowser
from lab import Browser
from servers import free_port, wait_for
from web import Web

# Of django-celery-beat, once each: a backup, and an order that must be signed by Beat's own process.
ENTRIES = """
import json
from django_celery_beat.models import IntervalSchedule, PeriodicTask
now = IntervalSchedule.objects.create(every=1, period="seconds")
for name, kwargs in {"backup_media_files": {"label": "by Beat"}, "cleanup_old_backups": {"retention_days": 36500}}.items():
    task = "api.backup.tasks." + name
    PeriodicTask.objects.create(name=name, task=task, kwargs=json.dumps(kwargs), interval=now, one_off=True)
"""


class Trouble(InBrowser):
    def test_with_the_broker_down_the_page_says_that_nothing_was_ordered(self):
        web = Web(self.lab.stage, self.lab.env | {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}, self.lab.version)
        web.start()
        browser = Browser(self.lab, web.url)
        self.addCleanup(browser.quit)
        browser.log_in()
        browser.open("rna_backup/backup/trigger/")
        browser.type("label", "not lost")
        browser.press("Trigger Backup")
        self.assertIn("The broker (Redis) does not answer, so nothing was ordered", browser.text())
        self.assertEqual(browser.find("[name=label]").get_attribute("value"), "not lost")
        browser.shot("broker-down")
        self.assertEqual(browser.faults(), [])
        self.lab.stage.end(web.process)

    def test_without_script_a_backup_is_watched_as_well(self):
        browser = Browser(self.lab, script=False)
        self.addCleanup(browser.quit)
        browser.log_in()
        browser.open("rna_backup/backup/trigger/")
        browser.find("[value=media]").click()
        browser.press("Trigger Backup")
        wait_for("the end, by loading anew", lambda: "Done." in browser.driver.page_source, seconds=60)

    def test_a_failed_backup_is_told_with_its_error_until_one_succeeds(self):
        away = self.lab.media.rename(self.lab.media.with_name("media-away"))
        try:
            seen = self.trigger("media")
        finally:
            away.rename(self.lab.media)
        self.assertEqual(seen[-1][0]["state"], "FAILURE", seen[-1])
        self.browser.shot("failed")
        self.assertEqual(self.browser.faults(), [])
        told = "The last backup of Media failed"
        wait_for("the run in the table", lambda: self.browser.open() or told in self.browser.text())
        self.assertEqual(self.browser.faults(), [])
        self.browser.dark()
        self.browser.shot("list-dark")
        self.assertEqual(self.browser.faults(), [], "in the dark")
        self.browser.dark(False)
        self.browser.open("rna_backup/run/?state__exact=failure")
        self.assertIn("Media", self.browser.text())
        self.browser.shot("runs")
        self.assertEqual(self.browser.faults(), [])
        self.succeeded(self.trigger("media"))
        wait_for("the warning to go", lambda: self.browser.open() or told not in self.browser.text())

    def test_beat_orders_from_its_tables_and_what_must_be_signed_is(self):
        web = Web(self.lab.stage, self.lab.env | {"BEAT_IN_TABLES": "yes"}, self.lab.version)
        web.shell(ENTRIES)
        beat = [web.python, "-m", "celery", "-A", "rna_backend", "beat", "--max-interval", "1", "--pidfile="]
        process = self.lab.stage.start(beat, "beat.log", env=web.env, cwd=web.folder)
        backups = "select count(*) from rna_backup_backup where label = 'by Beat'"
        prunes = "select count(*) from rna_backup_run where operation = 'prune' and state = 'success'"
        before = self.lab.postgres.psql(prunes).stdout

        def done():
            return self.lab.postgres.psql(backups).stdout.strip() != "0" and self.lab.postgres.psql(prunes).stdout != before

        wait_for("what Beat ordered", done, process)
        self.lab.stage.end(process)
