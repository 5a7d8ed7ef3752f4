"""An accident, a restore, and second thoughts."""

from contextlib import ExitStack, closing

from case import InBrowser
from lab import PASSWORD
from web import Thread


class Restores(InBrowser):
    def titles(self):
        self.browser.open("api/document/")
        return self.browser.rows()

    def test_a_database_is_restored_and_the_restore_undone(self):
        backup = self.back_up("postgres")
        before = self.titles()
        self.assertEqual(len(before), 2)
        self.lab.postgres.psql("delete from api_figure; delete from api_document")
        self.assertEqual(self.titles(), [])
        self.look_at_the_confirmation(backup)
        self.restore("postgres", backup)
        self.browser.shot("restored")
        self.assertEqual(self.browser.faults(), [])
        page = self.browser.driver.current_url
        self.assertEqual(self.titles(), before)
        self.assertEqual(self.lab.logged("Restore of PostgreSQL."), ["admin"], "the log is in the restored database too")
        self.browser.driver.get(page)
        self.undo()
        self.assertEqual(self.titles(), [])
        self.lab.web.fill(PASSWORD, self.lab.users, ["Folding of RNA", "प्रोटीन 🧬"])

    def look_at_the_confirmation(self, backup):
        self.browser.open(f"rna_backup/backup/{backup}/restore/")
        for words in ("The whole PostgreSQL database rna_db", "Type postgres to confirm", "log in again"):
            self.assertIn(words, self.browser.text())
        self.browser.shot("restore")
        self.assertEqual(self.browser.faults(), [])
        self.browser.type("name", "yes")
        self.browser.press("Restore")
        self.assertIn("Nothing was ordered", self.browser.text())

    def test_media_is_restored_and_the_restore_undone(self):
        [paper, *_] = self.lab.media.glob("documents/**/*.pdf")
        content = paper.read_bytes()
        backup = self.back_up("media")
        paper.unlink()
        self.restore("media", backup)
        self.assertEqual(paper.read_bytes(), content)
        self.undo()
        self.assertFalse(paper.exists())
        paper.write_bytes(content)

    def test_weaviate_is_restored_and_the_restore_undone(self):
        weaviate, id = self.lab.weaviate, "c0ffee00-0000-4000-8000-000000000001"
        weaviate.ask("POST", "/v1/schema", {"class": "Paper", "vectorizer": "none", "properties": [{"name": "title", "dataType": ["text"]}]})
        weaviate.ask("POST", "/v1/objects", {"class": "Paper", "id": id, "properties": {"title": "Folding"}, "vector": [0.5, 1.0]})
        backup = self.back_up("weaviate")
        weaviate.ask("DELETE", f"/v1/objects/Paper/{id}")
        self.restore("weaviate", backup)
        self.assertEqual(weaviate.ask("GET", f"/v1/objects/Paper/{id}")["properties"]["title"], "Folding")
        self.undo()
        self.assertEqual(weaviate.ask("GET", "/v1/objects?class=Paper")["objects"], [])

    def test_the_page_shows_the_end_though_the_restore_took_the_session(self):
        """The backup is of a time before the administrator logged in."""
        backup = self.back_up("postgres")
        self.browser.log_in()
        seen = self.restore("postgres", backup)
        self.assertIn("Done.", seen[-1][0]["text"])
        self.assertNotIn("rna_db_before", self.browser.text(), "only who is logged in is told more")
        self.browser.driver.refresh()
        self.assertIn("logging in again", self.browser.text())
        self.browser.shot("session-gone")
        self.browser.open()
        self.assertIn("/login/", self.browser.driver.current_url)
        self.browser.log_in()
        self.browser.open()
        self.assertIn("Undo the last restore", self.browser.text())

    def test_after_a_restore_every_thread_of_the_web_server_answers_at_once(self):
        """Each has kept a connection to the database that the restore cuts."""
        backup = self.back_up("postgres")
        with ExitStack() as open_ones:
            threads = [open_ones.enter_context(closing(Thread(self.lab.web))) for _ in range(6)]
            self.assertEqual([thread.status() for thread in threads], [200] * 6)
            kept = "select count(*) from pg_stat_activity where datname = 'rna_db' and state = 'idle'"
            self.assertGreaterEqual(int(self.lab.postgres.psql(kept).stdout), 6)
            for change in (lambda: self.restore("postgres", backup), self.undo):
                change()
                self.assertEqual([thread.status() for thread in threads], [200] * 6)

    def test_a_viewer_is_refused(self):
        newest = self.back_up("media")
        self.browser.log_in("viewer")
        self.browser.open()
        self.assertFalse(self.browser.has('a[aria-label^="Restore"]') or "TRIGGER" in self.browser.text())
        for page in ("trigger/", "cleanup/", f"{newest}/restore/", f"{newest}/download/", "undo/media/"):
            self.browser.open(f"rna_backup/backup/{page}")
            self.assertIn("403", self.browser.text(), page)
