"""An administrator triggers backups and watches them."""

import random

from case import InBrowser
from servers import wait_for


class Backups(InBrowser):
    def test_a_full_backup_is_triggered_watched_and_listed(self):
        seen = self.trigger("full", "before the upgrade")
        self.succeeded(seen)
        self.assertEqual([step["name"] for step in seen[-1]], ["Full System", "PostgreSQL", "Weaviate", "Media"])
        self.browser.shot("full-backup")
        self.assertEqual(self.browser.faults(), [])
        wait_for("the rows", lambda: all(map(self.lab.backups, ("postgres", "media", "weaviate"))))
        self.browser.open()
        rows = [row for row in self.browser.rows() if "before the upgrade" in row]
        self.assertEqual(sorted(row.split()[0] for row in rows), ["Media", "PostgreSQL", "Weaviate"])
        self.assertIn("decoded", rows[0])
        self.browser.shot("list")
        self.assertEqual(self.browser.faults(), [])
        self.assertIn("admin", self.lab.logged("Backup of Full System."))

    def test_each_component_is_triggered_by_itself(self):
        for what in ("postgres", "weaviate"):
            self.assertTrue(self.back_up(what))

    def test_the_bar_moves_while_media_is_packed(self):
        sequence = bytes(random.Random(7).choices(b"ACGU", k=100_000))
        large = self.lab.media / "sequences.fasta"
        large.write_bytes(sequence * 200)
        self.addCleanup(large.unlink)
        seen = self.trigger("media", "A label as long as labels may be: sixty-four characters, this one")
        self.succeeded(seen)
        said = [step["text"] for [step] in seen if "pack" in step["text"]]
        self.assertGreater(len(set(said)), 2, "it stood still")
        percents = [step["percent"] for [step] in seen if step["state"] == "PROGRESS" and step["percent"]]
        self.assertTrue([percent for percent in percents if 0 < percent < 100], f"it was never on its way: {said}")
        self.assertEqual(percents, sorted(percents))

    def test_the_form_stands_beside_the_schedule(self):
        self.browser.open("rna_backup/backup/trigger/")
        self.assertIn("Sunday at 01:00", self.browser.find("#backup-schedule").text)
        self.browser.shot("trigger")
        self.assertEqual(self.browser.faults(), [])

    def test_a_backup_is_verified_and_drilled(self):
        newest = self.back_up("postgres")
        for button, found in (("Verify", "whole (decode)"), ("Drill", "whole (drill)")):
            self.browser.open_backup(newest)
            self.browser.press(button)
            seen = self.browser.watch()
            self.succeeded(seen)
            self.assertIn(f"{newest}: {found}", seen[-1][0]["text"])
        drilled = f"select count(*) from rna_backup_backup where verified = 'drill' and backup_id = '{newest}'"
        wait_for("the level in the row", lambda: self.lab.postgres.psql(drilled).stdout.strip() == "1")
        self.browser.open_backup(newest)
        self.assertIn("restored in a drill", self.browser.text())
        self.browser.shot("backup")
        self.assertEqual(self.browser.faults(), [])

    def test_a_backup_is_pinned_and_what_is_far_smaller_is_accepted(self):
        large = self.lab.media / "large.bin"
        large.write_bytes(random.Random(8).randbytes(1 << 20))
        self.back_up("media")
        large.unlink()
        small = self.back_up("media")
        self.browser.open()
        self.assertIn("has far less than the one before", self.browser.text())
        self.browser.shot("list-far-less")
        self.browser.follow("its page")
        for button, said, column in (
            ("Accept", "is accepted", "(manifest->'anomaly'->>'accepted') is not null"),
            ("Pin", "is pinned", "pinned"),
            ("Unpin", "is not pinned", "not pinned"),
        ):
            self.browser.open_backup(small)
            self.browser.shot(f"backup-{button.lower()}")
            self.assertEqual(self.browser.faults(), [])
            self.browser.press(button)
            self.assertIn(said, self.succeeded_text())
            self.assertIn("admin", self.lab.logged(f"{button} {small}."))
            row = f"select 1 from rna_backup_backup where backup_id = '{small}' and {column}"
            wait_for(f"the row: {column}", lambda: self.lab.postgres.psql(row).stdout.strip())
        self.browser.open()
        self.assertNotIn("has far less than the one before", self.browser.text())

    def test_retention_says_what_would_go_and_its_signed_order_is_obeyed(self):
        self.back_up("media")
        self.browser.open()
        self.browser.follow("DELETE OLD BACKUPS")
        self.browser.type("days", "0")
        self.browser.press("Show what would go")
        self.assertIn("newest verified", self.succeeded_text())
        self.browser.open("rna_backup/backup/cleanup/")
        self.browser.find("[name=component] [value=media]").click()
        self.browser.type("days", "0")
        self.browser.press("Delete")
        self.succeeded_text()
        wait_for("all but one to go", lambda: len(self.lab.backups("media")) == 1)

    def succeeded_text(self):
        seen = self.browser.watch()
        self.succeeded(seen)
        return seen[-1][0]["text"]
