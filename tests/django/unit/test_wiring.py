"""The five lines in the app's settings, and what they bring."""

from unittest import mock

from celery import current_app
from django.apps import apps
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import connections

from catalog import CatalogTestCase
from rna_backup_django import checks, tasks


class Wiring(CatalogTestCase):
    def test_tasks_go_to_the_queue_of_the_worker_by_the_one_line_of_routes(self):
        self.sent()
        for order in [*tasks.BACKUPS.values(), *tasks.RESTORES.values()]:
            order.delay("x")
            self.assertEqual([message.headers["task"] for message in self.sent()], [order.task])

    def test_the_check_says_when_the_routes_are_missing(self):
        self.assertEqual(checks.backups_have_a_queue(None), [])
        self.assertEqual(current_app.conf.task_routes, tasks.ROUTE)
        router = current_app.amqp.Router()
        router.routes = ()
        with mock.patch.object(current_app.amqp, "router", router):
            self.assertEqual([warning.id for warning in checks.backups_have_a_queue(None)], ["rna_backup.W001"])

    def test_the_check_says_when_a_restore_would_break_kept_connections(self):
        connection = connections["default"]
        expected = [(0, False, 0), (60, False, 1), (None, False, 1), (60, True, 0), (None, True, 0)]
        for age, looked_at, count in expected:
            with mock.patch.dict(connection.settings_dict, CONN_MAX_AGE=age, CONN_HEALTH_CHECKS=looked_at):
                found = checks.kept_connections_are_looked_at(None)
            self.assertEqual([warning.id for warning in found], ["rna_backup.W003"] * count, (age, looked_at))
        with mock.patch.dict(connection.settings_dict, CONN_MAX_AGE=60, CONN_HEALTH_CHECKS=False):
            with mock.patch.object(type(connection), "vendor", "sqlite"):
                self.assertEqual(checks.kept_connections_are_looked_at(None), [], "no restore exchanges that one")

    def test_the_lab_s_own_settings_are_in_order(self):
        call_command("check", fail_level="WARNING")

    def test_migrate_makes_the_permissions_and_no_table(self):
        names = Permission.objects.filter(content_type__app_label="rna_backup").values_list("codename", flat=True)
        own = {"view_backup", "trigger_backup", "restore_backup", "delete_backup", "download_backup", "view_run"}
        self.assertEqual(set(names), own)
        call_command("makemigrations", "api", check=True, dry_run=True, verbosity=0)
        self.assertFalse(any(model._meta.managed for model in apps.get_app_config("rna_backup").get_models()))
