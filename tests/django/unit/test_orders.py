"""What the forms order: exactly that, logged, and nothing when something is wrong."""

from datetime import timedelta
from unittest import mock

from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.sessions.models import Session

from catalog import CatalogTestCase, backup, page, run
from rna_backup_django import orders

KWARGS = 1
ANOMALY = {"anomaly": {"what": ["rows fell from 18273 to 42"], "accepted": None}}


class Orders(CatalogTestCase):
    def setUp(self):
        self.sent()
        self.user = self.log_in("view", "trigger", "restore", "delete")

    def order(self, url, **form):
        """Posts; the task and its arguments, which the log and the page that follows must know too."""
        answer = self.client.post(url, form)
        [message] = self.sent()
        self.assertEqual(answer.status_code, 302)
        self.assertIn("/progress/", answer.url)
        entry = LogEntry.objects.latest("pk")
        self.assertEqual(entry.user, self.user)
        self.assertIn(message.headers["id"], entry.change_message)
        return message.headers["task"].removeprefix("api.backup."), message.decode()[KWARGS], entry

    def refused(self, url, **form):
        answer = self.client.post(url, form)
        self.assertEqual(self.sent(), [])
        self.assertFalse(LogEntry.objects.exists())
        return answer

    def test_each_kind_of_backup_is_its_own_task(self):
        names = {"full": "run_full_backup", "postgres": "backup_postgres_database", "weaviate": "backup_weaviate_database", "media": "backup_media_files"}
        for what, name in names.items():
            task, arguments, entry = self.order(page("trigger"), what=what, label="before", pin="on")
            self.assertEqual((task, arguments), (f"tasks.{name}", {"label": "before", "pin": True}))
            self.assertEqual(entry.action_flag, ADDITION)
        _, arguments, _ = self.order(page("trigger"), what="media", label="")
        self.assertEqual(arguments, {"label": None, "pin": False})

    def test_a_form_with_mistakes_orders_nothing_and_says_why(self):
        self.assertContains(self.refused(page("trigger"), what="everything"), "Select a valid choice")
        self.assertContains(self.refused(page("trigger"), what="full", label="x" * 65), "at most 64 characters")
        self.assertContains(self.refused(page("cleanup"), days="-1", delete="x"), "greater than or equal to 0")

    def test_a_restore_wants_the_name_of_the_component(self):
        row = backup("media")
        row.save()
        for typed in ("", "Media", "postgres", row.pk):
            self.assertContains(self.refused(page("restore", row.pk), name=typed), "errorlist", msg_prefix=typed)
        task, arguments, entry = self.order(page("restore", row.pk), name="media")
        self.assertEqual((task, arguments), ("restore.restore_media_files", {"backup_path": row.pk}))
        self.assertEqual((entry.object_id, entry.action_flag), (row.pk, CHANGE))

    def test_each_component_is_restored_by_its_own_task(self):
        expected = {"postgres": ("restore_postgres_from_backup", "backup_path"), "weaviate": ("restore_weaviate_from_backup", "backup_name")}
        for component, (name, argument) in expected.items():
            row = backup(component)
            row.save()
            task, arguments, _ = self.order(page("restore", row.pk), name=component)
            self.assertEqual((task, arguments), (f"restore.{name}", {argument: row.pk}))

    def test_what_a_restore_may_lose_or_bring_beside_the_data_is_a_field_of_its_component(self):
        filled = {"without_rights": "on", "with_access": "on", "without": "public.words\r\n\r\n public.\"a, b\" \r\n"}
        expected = {
            "postgres": {"without_rights": True, "without": ["public.words", 'public."a, b"']},
            "weaviate": {"with_access": True},
            "media": {},
        }
        for component, options in expected.items():
            row = backup(component)
            row.save()
            shown = self.client.get(page("restore", row.pk)).content.decode()
            self.assertEqual({name for name in filled if f'name="{name}"' in shown}, set(options))
            for values, wanted in ((filled, options), ({}, {})):
                _, arguments, _ = self.order(page("restore", row.pk), name=component, **values)
                self.assertEqual({name: value for name, value in arguments.items() if name in filled}, wanted)

    def test_only_what_is_in_the_catalogue_and_whole_can_be_restored_or_verified(self):
        for name in ("latest", "pg_backup_20200101_000000", "..", "s3:"):
            self.assertEqual(self.refused(page("restore", "x").replace("/x/", f"/{name}/"), name="postgres").status_code, 404, name)
            self.assertEqual(self.refused(page("verify", "x").replace("/x/", f"/{name}/")).status_code, 404, name)
        row = backup(state="missing")
        row.save()
        self.assertRedirects(self.refused(page("restore", row.pk), name="postgres"), page("backup_changelist"))

    def test_the_page_before_a_restore_says_what_is_lost_and_what_differs(self):
        tables = [{"schema": "public", "table": "paper", "rows": 40}]
        facts = {"counts": {"tables": tables}, "versions": {"postgres_server": "9.6.1"}, "migrations": {"api": "0000_older", "gone": "0001"}}
        row = backup(age=timedelta(days=3), set_id="set", manifest={"source": "rna_db", "facts": facts})
        row.save()
        backup("media", age=timedelta(days=3), set_id="set").save()
        newer = backup(manifest={"facts": {"counts": {"tables": tables * 2}}})
        newer.save()
        shown = self.client.get(page("restore", row.pk))
        words = ["The whole PostgreSQL database rna_db", "3\xa0days ago", "1 tables, 40 rows", "80 in the newest backup", "9.6.1"]
        words += ["Migrations of api", "0000_older", "0001_initial", "Migrations of gone", "log in again", "media_backup", "1:"]
        for text in words:
            self.assertContains(shown, text)
        self.assertNotContains(self.client.get(page("restore", newer.pk)), "Migrations of")

    def test_verification_and_drill_are_of_that_backup(self):
        row = backup()
        row.save()
        expected = {"component": "postgres", "backup": row.pk, "drill": False}
        self.assertEqual(self.order(page("verify", row.pk))[:2], ("tasks.verify_backup", expected))
        self.assertEqual(self.order(page("verify", row.pk), drill="yes")[1], {**expected, "drill": True})

    def test_a_backup_is_pinned_unpinned_and_accepted(self):
        row = backup(manifest=ANOMALY)
        row.save()
        expected = {
            "pin": ("tasks.pin_backup", {"backup": row.pk, "pinned": True}),
            "unpin": ("tasks.pin_backup", {"backup": row.pk, "pinned": False}),
            "accept": ("tasks.accept_backup", {"backup": row.pk}),
        }
        for name, order in expected.items():
            task, arguments, entry = self.order(page(name, row.pk))
            self.assertEqual((task, arguments), order)
            self.assertEqual((entry.object_id, entry.action_flag), (row.pk, CHANGE))
            self.assertTrue(entry.change_message.startswith(f"{name.capitalize()} {row.pk}."), entry.change_message)
            self.assertEqual(self.client.post(page(name, "latest")).status_code, 404)

    def test_a_backup_s_page_offers_the_one_of_them_that_fits(self):
        fitting = [
            ("Pin", {}),
            ("Unpin", {"pinned": True}),
            ("Accept", {"manifest": ANOMALY}),
            ("Accept", {"manifest": ANOMALY, "pinned": True}),
            ("", {"manifest": None}),
        ]
        for number, (offered, columns) in enumerate(fitting):
            row = backup(number=number, **columns)
            row.save()
            shown = self.client.get(page("backup_change", row.pk)).content.decode()
            found = [word for word in ("Pin", "Unpin", "Accept") if f">{word}</button>" in shown]
            self.assertEqual(found, [offered] if offered else [], columns)

    def test_an_undo_needs_something_to_undo(self):
        self.assertRedirects(self.refused(page("undo", "media")), page("backup_changelist"))
        run("restore", "media", result={"kept": "x"}).save()
        self.assertContains(self.client.get(page("undo", "media")), "Undo the restore of Media")
        self.assertEqual(self.order(page("undo", "media"))[:2], ("tasks.undo_restore", {"component": "media"}))
        self.assertRedirects(self.client.post(page("undo", "postgres")), page("backup_changelist"))

    def test_retention_is_looked_at_before_it_deletes(self):
        task, arguments, entry = self.order(page("cleanup"), component="media", days="0")
        self.assertEqual(task, "tasks.cleanup_old_backups")
        self.assertEqual(arguments, {"backup_type": "media", "retention_days": 0, "dry_run": True})
        self.assertEqual(entry.action_flag, CHANGE)
        _, arguments, entry = self.order(page("cleanup"), component="", days="", delete="Delete")
        self.assertEqual(arguments, {"backup_type": None, "retention_days": None, "dry_run": False})
        self.assertEqual(entry.action_flag, DELETION)

    def test_with_the_broker_away_nothing_is_ordered_or_logged_and_the_page_says_so(self):
        row = backup(backup_id="pg_backup_20261125_230000")
        row.save()
        with mock.patch.object(orders.current_app, "connection_for_write", side_effect=self.away()):
            shown = self.client.post(page("trigger"), {"what": "full", "label": "kept as typed"})
            back = self.client.post(page("pin", row.pk), follow=True)
        self.assertContains(shown, "The broker (Redis) does not answer, so nothing was ordered")
        self.assertContains(shown, "kept as typed")
        self.assertRedirects(back, page("backup_change", row.pk))
        self.assertContains(back, "nothing was ordered")
        self.assertFalse(LogEntry.objects.exists())
        self.assertTrue(Session.objects.exists())

    @staticmethod
    def away():
        """The line as it is with nobody at its other end."""
        real = orders.current_app.connection_for_write

        def connection(**options):
            line = real(**options)
            line.ensure_connection = mock.Mock(side_effect=ConnectionRefusedError("nobody listens"))
            return line

        return connection
