"""The page of a task: true to the result backend, also for whom the session is gone."""

from unittest import mock

from celery import current_app, states
from django.contrib.admin.models import LogEntry
from django.core import signing
from django.db import OperationalError

from catalog import CatalogTestCase, page, run
from rna_backup_django import outcome, progress
from rna_backup_django.progress import Watch

BACKUP = {"backup_id": "pg_backup_20261122_020000", "size_bytes": 1000, "source_bytes": 5000, "duration_seconds": 7.5, "pruned": ["old"], "warnings": ["odd"]}


def watch(task_id, operation="backup", component="postgres", user_id=None, **changed):
    return Watch(task_id, f"A {operation}", operation, component, user_id, **{"ordered_at": 0, **changed})


class Progress(CatalogTestCase):
    def store(self, task_id, value, state=states.SUCCESS):
        current_app.backend.store_result(task_id, value, state)

    def look(self, watched):
        """What the script gets."""
        answer = self.client.get(page("status", watched.token))
        self.assertEqual(answer.status_code, 200)
        return answer.json()

    def test_progress_is_shown_as_it_is_told(self):
        self.log_in("view")
        told = {"percent": 41.3, "description": "postgres: dump", "bytes": 2048, "total": 5000}
        self.store("running", told, "PROGRESS")
        said = self.look(watch("running"))
        self.assertFalse(said["over"])
        for words in ('value="41.3"', "postgres: dump, 2.0\xa0KB", "41 %"):
            self.assertIn(words, said["html"])
        self.store("running", BACKUP)
        said = self.look(watch("running"))
        self.assertTrue(said["over"])
        for words in ("Done.", "pg_backup_20261122_020000", "Deleted by retention: old", "odd", 'value="100.0"'):
            self.assertIn(words, said["html"])

    def test_a_bar_without_a_known_total_has_no_value(self):
        self.store("starting", {"percent": 0, "description": "media: pack", "total": 0, "bytes": 1024}, "PROGRESS")
        html = self.look(watch("starting"))["html"]
        self.assertIn("<progress aria-labelledby", html)
        self.assertNotIn("value=", html)

    def test_a_failure_says_why(self):
        self.log_in("view")
        self.store("failed", ValueError("media is not configured: set MEDIA_ROOT"), states.FAILURE)
        said = self.look(watch("failed"))
        self.assertTrue(said["over"])
        self.assertIn("media is not configured: set MEDIA_ROOT", said["html"])

    def test_a_retry_is_not_the_end(self):
        self.log_in("view")
        self.store("again", OSError("disk full"), states.RETRY)
        said = self.look(watch("again"))
        self.assertFalse(said["over"])
        self.assertIn("disk full", said["html"])

    def test_a_full_backup_is_over_when_its_parts_are(self):
        self.log_in("view")
        self.store("full", {"task_ids": {"postgres": "part-1", "media": "part-2"}, "set_id": "s"})
        self.store("part-1", BACKUP)
        self.assertFalse(self.look(watch("full", component="full"))["over"])
        self.store("part-2", ValueError("no"), states.FAILURE)
        said = self.look(watch("full", component="full"))
        self.assertTrue(said["over"])
        self.assertEqual(said["html"].count("backup-step"), 3)

    def test_a_task_that_nobody_takes_is_explained(self):
        self.assertIn("is `rna-backup worker` running", self.look(watch("nobody"))["html"])
        self.assertNotIn("running", self.look(Watch.now("nobody", "t", "backup", "media", None))["html"])

    def test_an_expired_result_is_looked_up_among_the_runs(self):
        run(task_id="long-ago", result=BACKUP).save()
        run(task_id="lost", run_id="lost", state="lost", error="").save()
        self.assertTrue(self.look(watch("long-ago"))["over"])
        self.assertIn("Its worker vanished.", self.look(watch("lost"))["html"])

    def test_without_a_session_it_says_how_far_it_is_and_no_more(self):
        self.store("secret", ValueError("/srv/secret path"), states.FAILURE)
        shown = self.client.get(page("progress", watch("secret").token))
        self.assertContains(shown, "Failed.")
        self.assertContains(shown, "logging in again")
        self.assertNotContains(shown, "secret path")
        self.log_in("trigger")  # logged in, without the right to look
        self.assertNotIn("secret path", self.look(watch("secret"))["html"])

    def test_an_address_that_is_not_ours_is_not_there(self):
        forged = signing.dumps({"task_id": "x"}, salt="another")
        odd = signing.dumps({"task_id": "x"}, salt=progress.SALT)
        with mock.patch("time.time", return_value=1):
            old = watch("x").token
        for token in ("x", forged, odd, old, watch("x").token[:-1]):
            self.assertEqual(self.client.get(page("progress", token)).status_code, 404, token)
            self.assertEqual(self.client.get(page("status", token)).status_code, 404, token)

    def test_without_script_the_page_renews_itself_until_it_is_over(self):
        refresh = '<noscript><meta http-equiv="refresh" content="2"></noscript>'
        self.assertContains(self.client.get(page("progress", watch("waits").token)), refresh)
        self.store("done", BACKUP)
        self.assertNotContains(self.client.get(page("progress", watch("done").token)), refresh)

    def test_while_the_database_is_exchanged_the_browser_is_told_to_come_again(self):
        with mock.patch.object(progress.Run.objects, "filter", side_effect=OperationalError("terminating connection")):
            answer = self.client.get(page("status", watch("waits").token))
        self.assertEqual((answer.status_code, answer["Refresh"]), (503, "2"))

    def test_the_log_of_a_restore_is_written_again_into_the_database_that_was_restored(self):
        user = self.user()
        for _ in range(2):  # not only when the worker's row is there: people go elsewhere as soon as they see success
            self.store("restored", {"backup_id": "b", "counts": {}, "kept": "rna_db_before"})
            self.look(watch("restored", "restore", user_id=user.pk))
        self.assertEqual([entry.user for entry in LogEntry.objects.all()], [user])
        self.look(watch("restored", "restore", user_id=user.pk + 1000))
        self.store("of-media", {"backup_id": "b", "counts": {}, "kept": "x"})
        self.look(watch("of-media", "restore", "media", user.pk))
        self.assertEqual(LogEntry.objects.count(), 1)

    def test_a_restore_is_over_when_the_tables_know_that_it_can_be_undone(self):
        self.log_in("view", "restore")
        self.store("quick", {"backup_id": "b", "counts": {}, "kept": "x"})
        self.assertFalse(self.look(watch("quick", "restore", "media"))["over"])
        run("restore", "media", task_id="quick", result={"kept": "x"}).save()
        said = self.look(watch("quick", "restore", "media"))
        self.assertTrue(said["over"])
        self.assertIn("Undo this restore", said["html"])
        with mock.patch.object(progress, "SETTLING", -1):
            self.store("untold", {"backup_id": "b", "counts": {}, "kept": "x"})
            self.assertTrue(self.look(watch("untold", "restore", "media"))["over"], "tables that nobody keeps are not waited for")

    def test_with_the_result_backend_away_the_page_says_so(self):
        with mock.patch.object(type(current_app.backend), "get_task_meta", side_effect=ConnectionRefusedError("nobody")):
            said = self.look(watch("x"))
        self.assertFalse(said["over"])
        self.assertIn("does not answer", said["html"])

    def test_results_are_told_in_words(self):
        pruned = {"dry_run": True, "deleted": ["a"], "kept": [{"backup_id": "b", "why": "newest verified"}], "locked": [], "problems": []}
        self.assertEqual(outcome.lines(pruned), ["Would be deleted: a", "Kept: b, newest verified"])
        many = {**pruned, "dry_run": False, "deleted": [str(n) for n in range(100)], "kept": []}
        self.assertEqual((len(outcome.lines(many)), outcome.lines(many)[-1]), (41, "… and 60 more."))
        verified = {"results": [{"backup_id": "a", "ok": False, "level": "decode", "problems": ["short"]}]}
        self.assertEqual(outcome.lines(verified), ["a: short (decode)"])
        pinned = {"backup_id": "a", "pinned": True, "anomaly": None}
        self.assertEqual(outcome.lines(pinned), ["a is pinned: retention leaves it alone."])
        accepted = outcome.lines({**pinned, "pinned": False, "anomaly": {"what": ["rows fell"], "accepted": "2026-11-23T08:15:00Z"}})
        self.assertEqual(accepted[0], "a is not pinned.")
        self.assertIn("is accepted", accepted[1])
        self.assertEqual(outcome.lines("pong"), [])
