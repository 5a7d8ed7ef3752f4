"""Access and the network: items 20 to 22, the start of the program, and what outlives it."""

import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import unittest

from selftest_harness import HERE, DoubleTest, Server, client_context


class AccessRules(DoubleTest):
    """Item 20."""

    def test_20_each_case_of_401_has_its_own_body(self):
        server = self.start("1.26.1", "--api-key", "secret")
        self.assertEqual(server.call("POST", "/v1/nowhere", {}).status, 404)
        missing, wrong = server.call("GET", "/v1/meta"), server.call("GET", "/v1/meta", key="other")
        self.assertEqual((missing.status, wrong.status), (401, 401))
        self.assertNotIn("content-type", missing.headers)
        self.assertIn("anonymous access not enabled", missing.json["message"])
        self.assertEqual(wrong.json["message"], "invalid api key, please provide a valid api key")
        self.assertEqual(server.call("GET", "/v1/meta", key="secret").status, 200)
        self.assertEqual(server.call("GET", "/v1/.well-known/ready").status, 200)
        self.assertEqual(server.call("GET", "/v1/.well-known/openid-configuration").status, 404)
        unexpected = self.start().call("GET", "/v1/meta", key="secret")
        self.assertEqual(unexpected.status, 401)
        self.assertIn("oidc auth is not configured", unexpected.json["message"])

    def test_20_readers_see_statuses_and_the_newest_servers_narrow_silently(self):
        for version, words in (("1.26.18", "forbidden: user"), ("1.39.0", "authorization, forbidden action")):
            server = self.start(version, "--anonymous", "--read-only-key", "reader", "--limited-key", "some:Document")
            server.make_class()
            server.make_class("Folder")
            first, second = "a" + version[2:4], "b" + version[2:4]
            server.backup(first)
            path = f"/v1/backups/filesystem/{first}"
            self.assertEqual(server.call("GET", path, key="reader").status, 200)
            for method, where, body in (("POST", "/v1/backups/filesystem", {"id": "c"}),
                                        ("POST", path + "/restore", {}), ("DELETE", path, None)):
                self.refused(server.call(method, where, body, key="reader"), 403, words)
            narrowed = server.call("POST", "/v1/backups/filesystem", {"id": second}, key="some")
            if version == "1.39.0":
                self.assertEqual(narrowed.json["classes"], ["Document"])
            else:
                self.refused(narrowed, 403, words)


class Network(DoubleTest):
    """Items 21 and 22."""

    def fault(self, server, **rule):
        """Sets one rule in place of all others."""
        server.control("faults", method="DELETE")
        server.control("faults", {"rules": [rule]})

    def test_21_answers_of_proxies_and_cut_connections_can_be_had(self):
        server = self.start()
        server.make_class()
        for status in (500, 502, 503, 504):
            self.fault(server, kind="status", status=status, path="/v1/meta")
            self.assertEqual(server.call("GET", "/v1/meta").status, status)
        self.fault(server, kind="html", path="/v1/meta")
        self.assertIn(b"<html>", server.call("GET", "/v1/meta").body)
        self.fault(server, kind="empty", path="/v1/meta")
        self.assertEqual(server.call("GET", "/v1/meta").body, b"")
        for path in ("/v1/meta", "/v1/schema"):
            self.fault(server, kind="truncated", path=path)
            with self.assertRaises(http.client.IncompleteRead):
                server.call("GET", path)
        self.fault(server, kind="reset_before", method="POST", path="/v1/backups")
        with self.assertRaises(ConnectionResetError):
            server.call("POST", "/v1/backups/filesystem", {"id": "b"})
        self.assertEqual(server.call("GET", "/v1/backups/filesystem/b").status, 404)
        self.fault(server, kind="reset_after", method="POST", path="/v1/backups")
        with self.assertRaises(ConnectionResetError):
            server.call("POST", "/v1/backups/filesystem", {"id": "b"})
        self.assertEqual(server.ended("/v1/backups/filesystem/b")["status"], "SUCCESS")
        for kind in ("slow_headers", "late"):
            self.fault(server, kind=kind, path="/v1/meta", seconds=0.5)
            with self.assertRaises(socket.timeout):
                server.raw("GET", "/v1/meta", timeout=0.2)
        self.assertEqual(server.call("GET", "/v1/meta").status, 200)

    @unittest.skipUnless(shutil.which("openssl"), "openssl makes the certificates")
    def test_21_tls_can_ask_for_a_clients_certificate(self):
        names = {name: str(self.folder / name) for name in ("ca.pem", "ca.key", "one.pem", "one.key", "one.csr")}
        new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj"]
        for command in (new + ["/CN=authority", "-x509", "-keyout", names["ca.key"], "-out", names["ca.pem"]],
                        new + ["/CN=localhost", "-keyout", names["one.key"], "-out", names["one.csr"]],
                        ["openssl", "x509", "-req", "-in", names["one.csr"], "-CA", names["ca.pem"], "-CAkey",
                         names["ca.key"], "-CAcreateserial", "-out", names["one.pem"]]):
            subprocess.run(command, check=True, capture_output=True)
        server = self.start("1.26.1", "--tls-cert", names["one.pem"], "--tls-key", names["one.key"], "--client-ca",
                            names["ca.pem"])
        server.tls = client_context(names["ca.pem"], names["one.pem"], names["one.key"])
        self.assertEqual(server.call("GET", "/v1/meta").status, 200)
        server.tls = client_context(names["ca.pem"])
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            server.call("GET", "/v1/meta")

    def test_22_every_request_is_recorded_but_not_those_to_the_double(self):
        server = self.start("1.26.1", "--api-key", "secret")
        server.call("POST", "/v1/backups/filesystem?x=1", {"id": "B"}, key="secret")
        self.fault(server, kind="reset_after", path="/v1/meta")
        with self.assertRaises(ConnectionResetError):
            server.call("GET", "/v1/meta", key="secret")
        first, second = server.control("requests")
        self.assertEqual((first["method"], first["path"], first["query"], first["status"]),
                         ("POST", "/v1/backups/filesystem", "x=1", 422))
        self.assertEqual((json.loads(first["body"]), first["headers"]["authorization"]), ({"id": "B"}, "Bearer secret"))
        self.assertIsNone(second["status"])
        self.assertLess(first["at"], second["at"])
        server.control("requests", method="DELETE")
        self.assertEqual(server.control("requests"), [])


class Program(DoubleTest):
    """How the program starts and ends."""

    def test_wrong_settings_of_a_backend_keep_the_server_from_starting(self):
        for options, text in ((["--modules", "backup-filesystem"], "empty backup path provided"),
                              (["--modules", "backup-filesystem", "--backup-path", "here"], "relative backup path"),
                              (["--modules", "backup-filesystem", "--backup-path", "/dev/null/x"],
                               "invalid backup path"),
                              (["--modules", "backup-s3"], "BACKUP_S3_BUCKET"),
                              (["--modules", "backup-s3", "--s3-bucket", "b", "--s3-endpoint", "http://x"], "scheme")):
            done = subprocess.run([sys.executable, str(HERE), *options], capture_output=True, text=True, timeout=10)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(text, done.stderr)

    def test_objects_outlive_the_program_when_it_has_a_state_file(self):
        state = str(self.folder / "state")
        first = Server("--state", state)
        first.make_class()
        first.call("DELETE", "/v1/objects/Document/00000000-0000-0000-0000-000000000001")
        before = first.fingerprint()
        first.process.send_signal(signal.SIGKILL)
        first.stop()
        second = Server("--state", state)
        self.assertEqual(second.fingerprint(), before)
        second.process.send_signal(signal.SIGTERM)
        second.stop()
        self.assertEqual(second.process.returncode, 0)
        third = self.start("1.26.1", "--state", state, "--node", "renamed")
        self.assertEqual(third.fingerprint(), before)
        self.refused(third.call("POST", "/v1/backups/filesystem", {"id": "b"}), 422,
                     'cannot resolve hostname for "node1"')
