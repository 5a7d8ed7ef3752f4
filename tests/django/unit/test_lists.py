"""The lists: what they say, in which words, and at what price."""

import re
from datetime import datetime, timedelta, timezone as tz

from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from catalog import CatalogTestCase, backup, page, run
from rna_backup_django import summary
from rna_backup_django.models import Backup, Run

HOUR = timedelta(hours=1)
MOST_QUERIES = 40


class Lists(CatalogTestCase):
    def setUp(self):
        self.log_in(superuser=True)

    def queries(self, url):
        with CaptureQueriesContext(connection) as captured:
            self.assertEqual(self.client.get(url).status_code, 200)
        return len(captured)

    def test_a_list_of_ten_thousand_costs_as_many_queries_as_one_of_ten(self):
        components = ("postgres", "media", "weaviate")
        Backup.objects.bulk_create(backup(components[n % 3], age=HOUR * (n + 1), number=n) for n in range(90))
        few = {url: self.queries(url) for url in (page("backup_changelist"), page("backup_changelist") + "?q=thesis")}
        Backup.objects.bulk_create(backup(components[n % 3], age=HOUR * (n + 1), number=n) for n in range(90, 10_000))
        Run.objects.bulk_create(run(age=HOUR * n, run_id=f"r{n}") for n in range(1000))
        for url, count in few.items():
            self.assertLessEqual(self.queries(url), count, url)
            self.assertLess(count, MOST_QUERIES)
        self.assertLess(self.queries(page("run_changelist")), MOST_QUERIES)
        self.assertContains(self.client.get(page("backup_changelist")), "10000 backups")

    def test_manifests_stay_in_the_database_while_backups_are_listed(self):
        backup().save()
        with CaptureQueriesContext(connection) as captured:
            self.client.get(page("backup_changelist"))
        self.assertFalse([query for query in captured if '"manifest"' in query["sql"] and "LIMIT 1" not in query["sql"]])

    def test_times_are_those_of_the_app(self):
        backup(created_at=datetime(2026, 11, 21, 20, 30, tzinfo=tz.utc), backup_id="pg_backup_20261121_203000").save()
        shown = self.client.get(page("backup_changelist"))
        self.assertContains(shown, '<span class="nowrap">Nov. 22, 2026</span><br>2 a.m.')

    def test_sizes_are_for_people(self):
        backup(size_bytes=3 * 1024**3).save()
        self.assertContains(self.client.get(page("backup_changelist")), "3.0\xa0GB")

    def test_long_and_hostile_names_are_shown_as_they_are(self):
        label = "<script>alert('é🧬')</script>" + "x" * 35
        backup(label=label, set_id='"><b>').save()
        shown = self.client.get(page("backup_changelist"))
        self.assertContains(shown, "&lt;script&gt;alert(&#x27;é🧬&#x27;)")
        self.assertNotContains(shown, "<script>alert")
        self.assertNotContains(shown, "<b>")

    def test_search_and_filters_find_what_they_name(self):
        backup("postgres", label="before the upgrade", set_id="set-1").save()
        backup("media", pinned=True, set_id="set-1").save()
        backup("weaviate", state="failed", destinations=[{"destination": "s3", "location": "s3://b/x", "bytes": 1, "state": "failed"}]).save()
        expected = {
            "q=upgrade": 1,
            "q=set-1": 2,
            "q=media_backup": 1,
            "set_id=set-1": 2,
            "component__exact=media": 1,
            "state__exact=failed": 1,
            "destination=s3": 1,
            "destination=local": 2,
            "pinned__exact=1": 1,
            "verified__exact=drill": 0,
            f"created_at__year={timezone.localtime().year - 2}": 0,
        }
        for query, count in expected.items():
            found = self.client.get(f"{page('backup_changelist')}?{query}").context["cl"]
            self.assertEqual(found.result_count, count, query)

    def test_a_damaged_backup_has_no_link_to_restore_it(self):
        bad = backup(state="failed")
        bad.save()
        self.assertNotContains(self.client.get(page("backup_changelist")), f"Restore {bad.pk}")
        backup("media").save()
        self.assertContains(self.client.get(page("backup_changelist")), "Restore media_backup")

    def test_before_a_worker_has_made_the_tables_the_pages_say_so(self):
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE rna_backup_backup, rna_backup_run")
        for url in (page("backup_changelist"), page("run_changelist")):
            self.assertContains(self.client.get(url), "rna-backup worker")

    def test_details_tell_what_the_manifest_says(self):
        counts = {"tables": [{"schema": "public", "table": "paper", "rows": 4120}]}
        facts = {"counts": counts, "versions": {"pg_dump": "15.18"}, "migrations": {"api": "0012_backup"}, "warnings": ["odd"]}
        objects = [{"destination": "local", "problems": ["its hash is not the one in its manifest"]}]
        row = backup(manifest={"facts": facts, "program": "0.1.0", "objects": objects}, state="failed")
        row.save()
        shown = self.client.get(page("backup_change", row.pk))
        for words in ("4,120 rows", "pg_dump 15.18", "api: 0012_backup", "odd", "its hash is not the one", "damaged"):
            self.assertContains(shown, words)
        old = backup("media", manifest=None, source_bytes=None, finished_at=None, sha256=None, verified="none")
        old.save()
        self.assertContains(self.client.get(page("backup_change", old.pk)), "not verified")

    def test_details_name_the_archives_that_an_incremental_backup_needs(self):
        base = "media_backup_20261122_040000"
        row = backup("media", manifest={"facts": {"counts": {}, "builds_on": [base]}})
        row.save()
        self.assertContains(self.client.get(page("backup_change", row.pk)), f"<li>{base}</li>")


class Summary(CatalogTestCase):
    def warnings(self):
        return " ".join(text for standing in summary.standings() for text in standing.warnings)

    def test_a_component_without_a_good_backup_is_warned_of(self):
        backup("postgres", state="failed").save()
        backup("media", verified="none").save()
        said = self.warnings()
        for name in ("PostgreSQL", "Media", "Weaviate"):
            self.assertIn(f"There is no good backup of {name} yet.", said)
        self.assertIn("1 backup of PostgreSQL cannot be restored", said)

    def test_a_backup_that_was_due_and_did_not_come_is_missed(self):
        for component in ("postgres", "media", "weaviate"):
            backup(component).save()
        self.assertNotIn("was due", self.warnings())
        Backup.objects.filter(component="media").update(created_at=timezone.now() - timedelta(days=2))
        self.assertIn("No good backup of Media since the one that was due", self.warnings())
        self.assertIn("(daily-media-backup)", self.warnings())

    def test_the_last_failure_is_told_until_a_backup_succeeds(self):
        backup("postgres", age=2 * HOUR).save()
        run(state="failure", error="connect to the server\ncaused by: refused").save()
        self.assertIn("The last backup of PostgreSQL failed 1\xa0hour ago: connect to the server", self.warnings())
        backup("postgres", age=HOUR / 2).save()
        self.assertNotIn("failed", self.warnings())

    def test_a_backup_with_far_less_than_before_is_pointed_at_until_it_is_accepted(self):
        anomaly = {"what": ["rows fell from 18273 to 42"], "accepted": None}
        row = backup(manifest={"anomaly": anomaly}, backup_id="pg_backup_20261125_230000")
        row.save()
        self.assertIn("rows fell from 18273 to 42", self.warnings())
        self.assertIn(f'<a href="{page("backup_change", row.pk)}">its page</a>', self.warnings())
        self.log_in("view")
        self.assertContains(self.client.get(re.search('href="(.+?)"', self.warnings())[1]), row.pk)
        anomaly["accepted"] = "2026-11-23T08:15:00Z"
        row.save()
        self.assertNotIn("rows fell", self.warnings())

    def test_a_restore_can_be_undone_until_the_next_good_backup(self):
        run("backup", "media", age=3 * HOUR).save()
        run("restore", "media", age=2 * HOUR, result={"kept": "/srv/.media.before"}).save()
        run("restore", "postgres", age=2 * HOUR, result={"kept": None}).save()
        run("restore", "weaviate", age=2 * HOUR, state="failure").save()
        self.assertEqual(list(summary.undoable()), ["media"])
        run("backup", "media", age=HOUR, result={"anomaly": {"what": ["files fell"]}}).save()
        self.assertEqual(list(summary.undoable()), ["media"], "a backup of a wreck keeps the undo")
        run("backup", "media", age=HOUR / 2, state="failure").save()
        self.assertEqual(list(summary.undoable()), ["media"])
        copied = run("backup", "media", age=HOUR / 3, state="failure", backup_id="media_backup_20261125_230000")
        copied.save()
        self.assertEqual(list(summary.undoable()), [], "one that lies in one destination alone counts, though its run has failed")
        copied.delete()
        run("backup", "media", age=HOUR / 2).save()
        self.assertEqual(list(summary.undoable()), [])

    def test_what_is_under_way_is_shown_and_what_is_silent_is_not(self):
        self.log_in("view")
        run(state="running", run_id="a", finished_at=None, seen_at=timezone.now()).save()
        run("restore", "media", state="running", run_id="b", finished_at=None).save()
        shown = self.client.get(page("backup_changelist"))
        self.assertContains(shown, "Backup of PostgreSQL</a>")
        self.assertContains(shown, "data-backup-status=", 1)
        self.assertNotContains(shown, "Restore of Media")

    def test_the_chart_has_a_bar_for_each_of_the_last_thirty(self):
        for hours in range(1, 41):
            backup("media", age=HOUR * hours, size_bytes=hours).save()
        chart = {standing.component: standing.chart for standing in summary.standings()}
        bars = chart["media"].bars
        self.assertEqual([bar.backup.size_bytes for bar in bars], list(range(30, 0, -1)))
        self.assertEqual((bars[0].y, bars[0].height, bars[0].x), (0, 40, 0))
        self.assertTrue(all(0 <= bar.y and bar.y + bar.height <= 40 for bar in bars))
        self.assertIsNone(chart["postgres"])
