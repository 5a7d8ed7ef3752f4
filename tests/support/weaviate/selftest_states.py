"""Routes, bodies and states: items 1 to 10 of what a faithful double must have."""

import json
import time

from selftest_harness import BODY, PROFILES, DoubleTest, until


class RoutesAndShapes(DoubleTest):
    """Items 1 to 3."""

    def test_01_only_the_real_paths_exist_and_wrong_ones_answer_as_in_each_version(self):
        for version in PROFILES:
            with self.subTest(version=version):
                server = self.start(version)
                reply = server.call("POST", "/v1/backups", {"id": "x", "backend": "s3"})
                self.assertEqual(reply.json, {"code": 404, "message": "path /v1/backups was not found"})
                listing = server.call("GET", "/v1/backups/some-id")
                wrong_restore = server.call("POST", "/v1/backups/some-id/restore", {"backend": "s3"})
                self.assertEqual((wrong_restore.status, wrong_restore.json["code"]), (405, 405))
                self.assertIn("GET", wrong_restore.headers["allow"])
                self.refused(server.call("GET", "/v1/backups/some-id/restore"), 422, 'no backup provider "some-id"')
                cancel = server.call("DELETE", "/v1/backups/filesystem/some-id")
                if version in ("1.22.4", "1.26.1"):
                    self.assertEqual(listing.json, {"code": 405,
                                                    "message": "method GET is not allowed, but [POST] are"})
                    self.assertEqual(listing.headers["allow"], "POST")
                    self.assertEqual(cancel.status, 405)
                    continue
                self.assertEqual(cancel.status, 204)
                self.assertEqual(wrong_restore.headers["allow"], "DELETE,GET")
                if version == "1.26.18":
                    self.refused(listing, 500, "not implemented")
                else:
                    self.refused(listing, 422, 'no backup backend "some-id"')
                    self.assertEqual(server.call("GET", "/v1/backups/filesystem").json, [])

    def test_02_bodies_are_checked_in_the_frameworks_shape_and_unknown_fields_pass(self):
        server = self.start()
        server.make_class()
        path = "/v1/backups/filesystem"
        for body, headers, status, code in (
                (None, {}, 422, 602), ("{", BODY, 400, 400), ("{}", {"Content-Type": "text/plain"}, 415, 415)):
            reply = server.raw("POST", path + "/b/restore", body, headers)
            self.assertEqual((reply.status, reply.json["code"]), (status, code))
        for config, code in (({"CPUPercentage": 81}, 608), ({"CPUPercentage": -1}, 609), ({"ChunkSize": 1}, 609),
                             ({"CompressionLevel": "NoCompression"}, 606)):
            reply = server.call("POST", path, {"id": "b", "config": config})
            self.assertEqual((reply.status, reply.json["code"]), (422, code))
        self.assertEqual(server.backup("b", s3Config={"secret": 1}, config={"CPUPercentage": 80})["status"], "SUCCESS")
        old = self.start("1.22.4")
        old.make_class()
        self.assertEqual(old.backup("c", config={"CPUPercentage": 1000})["status"], "SUCCESS")

    def test_03_accepted_is_200_cancelled_is_204_and_an_empty_error_is_left_out(self):
        server = self.start("1.26.18")
        server.make_class()
        server.make_class("Folder")
        server.control("next", {"operation": "backup", "never": True})
        reply = server.call("POST", "/v1/backups/backup-filesystem", {"id": "b"})
        self.assertEqual(reply.status, 200)
        self.assertEqual(sorted(reply.json.pop("classes")), ["Document", "Folder"])
        self.assertEqual(reply.json["backend"], "backup-filesystem")
        self.assertNotIn("error", server.call("GET", "/v1/backups/filesystem/b").json)
        cancel = server.call("DELETE", "/v1/backups/filesystem/b")
        self.assertEqual((cancel.status, cancel.body), (204, b""))
        self.assertTrue(server.ended("/v1/backups/filesystem/b")["error"])


class States(DoubleTest):
    """Items 4 to 10."""

    def test_04_only_started_is_seen_until_a_look_and_new_versions_show_more_of_a_restore(self):
        for version, expected in (("1.26.1", {"STARTED"}), ("1.39.0", {"TRANSFERRING", "FINALIZING"})):
            server = self.start(version, "--time-scale", "0.05")
            server.make_class()
            self.assertEqual(server.backup("b" + version[2:4])["status"], "SUCCESS")
            server.call("DELETE", "/v1/schema/Document")
            server.control("next", {"operation": "restore", "seconds": 3})
            path, seen, clock = f"/v1/backups/filesystem/b{version[2:4]}/restore", set(), self.watch()
            self.assertEqual(server.call("POST", path, {}).json["status"], "STARTED")
            while not seen & {"SUCCESS"}:
                seen.add(server.call("GET", path).json["status"])
            # Done after 3 s, seen at the look after 12 s; each of them lasts 0.05 real ones.
            self.assertGreaterEqual(clock(), 12 * 0.05)
            self.assertEqual(seen - {"SUCCESS", "TRANSFERRED"}, expected)
        server.control("next", {"operation": "backup", "never": True})
        server.call("POST", "/v1/backups/filesystem", {"id": "endless"})
        self.assertEqual(server.call("GET", "/v1/backups/filesystem/endless").json["status"], "STARTED")

    @staticmethod
    def watch():
        """Says how many seconds went by."""
        start = time.monotonic()
        return lambda: time.monotonic() - start

    def test_05_a_failed_backup_is_http_200_with_its_reason(self):
        server = self.start("1.31.5")
        server.make_class()
        server.control("next", {"operation": "backup", "fail": "stat: no such file or directory"})
        server.control("next", {"operation": "backup", "disk_full_after": 10})
        server.control("next", {"operation": "backup", "cancelled": "canceled by somebody"})
        first, second, third = server.backup("a"), server.backup("b"), server.backup("c")
        self.assertEqual((first["status"], first["error"]), ("FAILED", "stat: no such file or directory"))
        self.assertIn("no space left on device", second["error"])
        self.assertEqual((third["status"], third["error"]), ("CANCELED", "canceled by somebody"))

    def test_06_an_unknown_status_word_can_be_shown(self):
        server = self.start()
        server.make_class()
        server.control("hold", {"operation": "backup"})
        server.control("next", {"operation": "backup", "status_word": "WONDERING", "looks": 2})
        server.call("POST", "/v1/backups/filesystem", {"id": "b"})
        words = [server.call("GET", "/v1/backups/filesystem/b").json["status"] for _ in range(3)]
        self.assertEqual(words, ["WONDERING", "WONDERING", "STARTED"])

    def test_07_an_id_is_checked_and_spent_until_its_tree_is_removed(self):
        server = self.start()
        server.make_class()
        for bad in ("Upper", "a.b", "", "a b", "a\n"):
            self.refused(server.call("POST", "/v1/backups/filesystem", {"id": bad}), 422, "invalid backup id")
        self.assertEqual(server.call("GET", "/v1/backups/filesystem/Upper").status, 404)
        server.control("next", {"operation": "backup", "fail": "broken"})
        self.assertEqual(server.backup("b")["status"], "FAILED")
        again = server.call("POST", "/v1/backups/filesystem", {"id": "b"})
        self.refused(again, 422, f'backup "b" already exists at "{self.root}/b"')
        (self.root / "b" / "backup_config.json").unlink()
        self.assertEqual(server.call("GET", "/v1/backups/filesystem/b").status, 404)
        self.assertEqual(server.backup("b")["status"], "SUCCESS")
        newest = self.start("1.39.0")
        newest.make_class()
        self.refused(newest.call("POST", "/v1/backups/filesystem", {}), 500, "base backup cannot be the same")

    def test_08_backups_and_restores_have_one_slot_each(self):
        server = self.start()
        server.make_class()
        server.backup("a")
        server.control("hold", {"operation": "backup"})
        server.control("hold", {"operation": "restore"})
        server.call("POST", "/v1/backups/filesystem", {"id": "b"})
        self.assertEqual(server.call("POST", "/v1/backups/filesystem/a/restore", {}).status, 200)
        for path, body, text in (("/v1/backups/filesystem", {"id": "c"}, "backup b already in progress"),
                                 ("/v1/backups/filesystem/a/restore", {}, "restoration a already in progress")):
            self.refused(server.call("POST", path, body), 422, text)
        server.held("backup")
        server.control("release", {"operation": "backup"})
        self.assertEqual(server.ended("/v1/backups/filesystem/b")["status"], "SUCCESS")
        self.assertTrue(server.control("state")["restore"]["running"])

    def test_09_a_restart_forgets_what_ran_and_versions_differ_in_what_they_write_down(self):
        for version, expected in (("1.26.1", "STARTED"), ("1.31.5", "CANCELED")):
            with self.subTest(version=version):
                server = self.start(version)
                server.make_class()
                good, lost = "good" + version[2:4], "lost" + version[2:4]
                server.backup(good)
                server.call("DELETE", "/v1/schema/Document")
                server.make_class("Other")
                server.control("hold", {"operation": "backup"})
                server.control("hold", {"operation": "restore"})
                server.call("POST", "/v1/backups/filesystem", {"id": lost})
                server.call("POST", f"/v1/backups/filesystem/{good}/restore", {})
                server.held("backup")
                server.held("restore")
                server.control("restart", {"down_seconds": 20, "unready_seconds": 20})
                seen = []
                until(lambda: self.health(server, seen) == 200)
                self.assertEqual([word for word in ("refused", 503, 200) if word in seen], ["refused", 503, 200])
                self.assertEqual(server.control("state")["backup"]["running"], False)
                until(lambda: server.call("GET", f"/v1/backups/filesystem/{lost}").json["status"] == expected)
                restore = server.call("GET", f"/v1/backups/filesystem/{good}/restore").json
                self.assertEqual(restore["status"], "STARTED")
                server.control("release", {"operation": "backup"})
                self.assertEqual(server.backup("next" + version[2:4])["status"], "SUCCESS")
                descriptor = json.loads((self.root / lost / "backup_config.json").read_text())
                self.assertEqual(descriptor["status"], expected)

    @staticmethod
    def health(server, seen):
        """What `ready` answers now."""
        try:
            seen.append(server.call("GET", "/v1/.well-known/ready").status)
        except OSError as error:
            seen.append("refused" if isinstance(error, ConnectionRefusedError) else "reset")
        return seen[-1]

    def test_10_the_restore_status_is_that_of_the_last_run(self):
        server = self.start()
        server.make_class()
        server.backup("b")
        self.assertEqual(server.call("GET", "/v1/backups/filesystem/b/restore").status, 404)
        server.call("DELETE", "/v1/schema/Document")
        self.assertEqual(server.restore("b")["status"], "SUCCESS")
        self.assertEqual(server.call("GET", "/v1/backups/filesystem/b/restore").json["status"], "SUCCESS")
        server.control("hold", {"operation": "restore"})
        server.call("POST", "/v1/backups/filesystem/b/restore", {})
        self.assertEqual(server.call("GET", "/v1/backups/filesystem/b/restore").json["status"], "STARTED")
