"""Who may do what: each right is one of its own, and nothing is done by a GET."""

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from django.contrib.admin.models import LogEntry
from django.test import Client, override_settings

from catalog import CatalogTestCase, backup, page, run


class Rights(CatalogTestCase):
    def setUp(self):
        self.sent()
        self.backup = backup("media")
        self.backup.save()
        run("restore", "media", age=timedelta(minutes=1), result={"kept": "x"}).save()
        self.pages = {
            "trigger": [page("trigger")],
            "restore": [page("restore", self.backup.pk), page("undo", "media")],
            "delete": [page("cleanup")],
            "download": [page("download", self.backup.pk)],
        }

    def test_whoever_is_not_logged_in_is_sent_to_log_in(self):
        for url in [page("backup_changelist"), page("verify", self.backup.pk), *sum(self.pages.values(), [])]:
            self.assertRedirects(self.client.post(url), f"/admin/login/?next={url}", msg_prefix=url)

    def test_each_page_needs_its_own_permission(self):
        for own in self.pages:
            self.log_in("view", own)
            for right, urls in self.pages.items():
                for url in urls:
                    allowed = right == own and right != "download"  # that is for superusers alone
                    self.assertEqual(self.client.get(url).status_code, 200 if allowed else 403, f"{own}: {url}")
                    if not allowed:
                        self.assertEqual(self.client.post(url).status_code, 403, f"{own}: {url}")
        self.assertEqual(self.sent(), [])

    def test_to_pin_is_part_of_triggering_and_what_lets_retention_delete_of_deleting(self):
        flagged = backup("media", number=2, manifest={"anomaly": {"what": ["files fell from 9 to 1"], "accepted": None}})
        flagged.save()
        pages = {name: page(name, self.backup.pk) for name in ("pin", "unpin", "accept")}
        pages["pin of a flagged one"] = page("pin", flagged.pk)
        allowed = {
            ("view",): [],
            ("view", "trigger"): ["pin"],
            ("view", "delete"): ["unpin", "accept"],
            ("view", "restore"): [],
            ("view", "trigger", "delete"): list(pages),
            ("trigger", "delete"): [],
        }
        for rights, names in allowed.items():
            self.log_in(*rights)
            for name, url in pages.items():
                self.assertEqual(self.client.post(url).status_code, 302 if name in names else 403, (rights, name))
                self.assertEqual(len(self.sent()), name in names, (rights, name))

    def test_a_viewer_sees_the_list_and_no_way_to_change_anything(self):
        self.log_in("view")
        shown = self.client.get(page("backup_changelist"))
        self.assertContains(shown, "Last good backups")
        for hidden in ("Trigger Backup", "Delete old backups", ">Restore<", "Undo the last"):
            self.assertNotContains(shown, hidden)
        detail = self.client.get(page("backup_change", self.backup.pk))
        for hidden in ("Drill", ">Restore<", ">Pin<", "Download", "_save", "deletelink"):
            self.assertNotContains(detail, hidden)
        self.assertEqual(self.client.post(page("verify", self.backup.pk)).status_code, 403)

    def test_without_the_right_to_view_the_others_are_worth_nothing(self):
        self.log_in("trigger", "restore", "delete")
        for url in [page("backup_changelist"), page("trigger"), page("restore", self.backup.pk), page("cleanup")]:
            self.assertEqual(self.client.get(url).status_code, 403, url)

    def test_nobody_adds_changes_or_deletes_rows(self):
        self.log_in(superuser=True)
        self.assertEqual(self.client.get("/admin/rna_backup/backup/add/").status_code, 403)
        self.assertEqual(self.client.post(page("backup_delete", self.backup.pk), {"post": "yes"}).status_code, 403)
        self.assertEqual(self.client.post(page("backup_change", self.backup.pk), {"label": "x"}).status_code, 403)

    def test_orders_are_posted_with_the_token_of_a_form(self):
        user = self.log_in(superuser=True)
        posted = [page(name, self.backup.pk) for name in ("verify", "pin", "unpin", "accept")]
        for url in posted:
            self.assertEqual(self.client.get(url).status_code, 405, url)
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(user)
        for url in (page("trigger"), page("restore", self.backup.pk), page("undo", "media"), page("cleanup"), *posted):
            self.assertEqual(strict.post(url, {"what": "full", "name": "media", "delete": "x"}).status_code, 403, url)
        self.assertEqual(self.sent(), [])
        self.assertFalse(LogEntry.objects.exists())


class Downloads(CatalogTestCase):
    def setUp(self):
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name).resolve()
        (self.root / "media").mkdir()
        self.enterContext(override_settings(BACKUP_ROOT=str(self.root)))
        self.backup = backup("media")
        self.backup.save()
        self.file = self.root / "media" / f"{self.backup.pk}.zst"
        self.file.write_bytes(b"archive")

    def get(self):
        return self.client.get(page("download", self.backup.pk))

    def test_a_superuser_to_whom_it_was_given_by_name_gets_the_file(self):
        user = self.log_in("download", superuser=True)
        answer = self.get()
        self.assertEqual(b"".join(answer.streaming_content), b"archive")
        self.assertEqual(answer["Content-Disposition"], f'attachment; filename="{self.file.name}"')
        entry = LogEntry.objects.get()
        self.assertEqual((entry.user, entry.object_id), (user, self.backup.pk))
        self.assertContains(self.client.get(page("backup_change", self.backup.pk)), "Download")

    def test_a_superuser_to_whom_it_was_not_given_is_refused(self):
        self.log_in(superuser=True)
        self.assertEqual(self.get().status_code, 403)
        self.assertNotContains(self.client.get(page("backup_change", self.backup.pk)), "Download")

    def test_a_path_in_the_row_leads_nowhere_else(self):
        self.log_in("download", superuser=True)
        secret = self.root / "secret"
        secret.write_bytes(b"secret")
        self.file.unlink()
        self.file.symlink_to(secret)
        self.assertEqual(self.get().status_code, 404, "a link")
        for location in (str(secret), "/etc/passwd", "../secret", f"{self.root}/media/..", ""):
            self.backup.destinations[0]["location"] = location
            self.backup.save()
            self.assertEqual(self.get().status_code, 404, location)

    def test_what_is_not_in_the_catalogue_is_not_there(self):
        self.log_in("download", superuser=True)
        (self.root / "media" / "media_backup_20200101_000000.zst").write_bytes(b"no row")
        self.assertEqual(self.client.get(page("download", "media_backup_20200101_000000")).status_code, 404)
