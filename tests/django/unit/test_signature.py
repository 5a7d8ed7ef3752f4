"""What overwrites or deletes is signed, and what is signed is what is sent."""

import hashlib
import hmac
from unittest import mock

from django.test import override_settings

from catalog import CatalogTestCase
from rna_backup_django import signature, tasks


class Signatures(CatalogTestCase):
    def setUp(self):
        self.sent()  # whatever another test left

    def test_the_signature_is_that_of_any_other_implementation(self):
        # printf 'v1\n1000\nid-1\nt.clean\n[[], {}, {}]' | openssl dgst -sha256 -hmac key
        expected = "v1:1000:b6659e3ee28ebeed3e73fc7cbf000b2ab3882aedb53d5eaa80067ab185035cc7"
        self.assertEqual(signature.sign("key", 1000, "id-1", "t.clean", b"[[], {}, {}]"), expected)

    @override_settings(BACKUP_RESTORE_KEY="the key: é")
    def test_the_bytes_that_are_signed_are_the_bytes_that_are_sent(self):
        ids = [
            tasks.restore_media_files.delay("média 🧬").id,
            tasks.undo_restore.delay(component="postgres").id,
            tasks.cleanup_old_backups.delay(backup_type=None, retention_days=0).id,
            tasks.pin_backup.delay("latest", pinned=False).id,
            tasks.accept_backup.delay("latest").id,
        ]
        messages = self.sent()
        self.assertEqual([message.headers["id"] for message in messages], ids)
        for message in messages:
            body = message.body if isinstance(message.body, bytes) else message.body.encode()
            version, seconds, mac = message.headers[signature.HEADER].split(":")
            signed = f"v1\n{seconds}\n{message.headers['id']}\n{message.headers['task']}\n".encode() + body
            self.assertEqual(version, "v1")
            self.assertEqual(mac, hmac.new("the key: é".encode(), signed, hashlib.sha256).hexdigest())

    @override_settings(BACKUP_RESTORE_KEY="key")
    def test_a_backup_needs_no_signature(self):
        tasks.backup_media_files.delay(label="thesis")
        self.assertNotIn(signature.HEADER, self.sent()[0].headers)

    @override_settings(BACKUP_RESTORE_KEY="")
    def test_without_a_key_nothing_is_signed_and_the_environment_may_have_it(self):
        with mock.patch.dict("os.environ", {"BACKUP_RESTORE_KEY": ""}):
            tasks.undo_restore.delay("media")
        with mock.patch.dict("os.environ", {"BACKUP_RESTORE_KEY": "key"}):
            tasks.undo_restore.delay("media")
        self.assertEqual([signature.HEADER in message.headers for message in self.sent()], [False, True])
