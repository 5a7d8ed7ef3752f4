"""What the first tests leave out: cancelling, lists, places, the agreement of the nodes, and definitions."""

import http.client
import json
import uuid

from selftest_harness import BODY, DoubleTest, until


class Operations(DoubleTest):
    """Backups and restores in the newer versions."""

    def test_a_restore_can_be_cancelled_until_it_is_finalizing(self):
        server = self.start("1.39.0")
        server.make_class()
        server.backup("b")
        server.call("DELETE", "/v1/schema/Document")
        path = "/v1/backups/filesystem/b/restore"
        server.control("next", {"operation": "restore", "never": True})
        server.call("POST", path, {})
        self.assertEqual(server.call("DELETE", path).status, 204)
        self.assertEqual(server.ended(path)["status"], "CANCELED")
        self.assertEqual(server.fingerprint(), {})
        server.control("hold", {"operation": "restore"})
        server.call("POST", path, {})
        server.held("restore")
        self.assertEqual(server.call("GET", path).json["status"], "FINALIZING")
        self.refused(server.call("DELETE", path), 422, "FINALIZING")

    def test_a_cancelled_id_is_spent_and_a_finished_backup_is_not_deleted(self):
        for version, text in (("1.26.18", "was cancelled. please retry with new backup id"),
                              ("1.31.5", "check if backup")):
            server = self.start(version)
            server.make_class()
            id = "b" + version[2:4]
            server.control("next", {"operation": "backup", "never": True})
            server.call("POST", "/v1/backups/filesystem", {"id": id})
            server.call("DELETE", f"/v1/backups/filesystem/{id}")
            self.assertEqual(server.ended(f"/v1/backups/filesystem/{id}")["status"], "CANCELED")
            self.refused(server.call("POST", "/v1/backups/filesystem", {"id": id}), 422, text)
            server.backup("good" + id)
            self.refused(server.call("DELETE", f"/v1/backups/filesystem/good{id}"), 422, "already succeeded")

    def test_the_list_is_newest_first_and_one_bad_descriptor_breaks_it(self):
        server = self.start("1.39.0")
        server.make_class()
        server.backup("b1")
        server.backup("b2")
        listed = server.call("GET", "/v1/backups/filesystem").json
        self.assertEqual([item["id"] for item in listed], ["b2", "b1"])
        self.assertEqual(listed[0]["classes"], ["Document"])
        ascending = server.call("GET", "/v1/backups/filesystem?order=asc").json
        self.assertEqual([item["id"] for item in ascending], ["b1", "b2"])
        (self.root / "b1" / "backup_config.json").write_text('{"id":')
        self.assertEqual(server.call("GET", "/v1/backups/filesystem").status, 500)
        self.assertEqual(server.call("GET", "/v1/backups/filesystem/b1").status, 500)

    def test_another_place_must_be_named_again_when_asking_for_the_status(self):
        server = self.start("1.31.5")
        server.make_class()
        other = str(self.folder / "other")
        reply = server.call("POST", "/v1/backups/filesystem", {"id": "b", "config": {"Path": other}})
        self.assertEqual(reply.json["path"], other + "/b")
        self.assertEqual(server.call("GET", "/v1/backups/filesystem/b").status, 404)
        self.assertEqual(server.ended(f"/v1/backups/filesystem/b?path={other}")["status"], "SUCCESS")

    def test_nodes_that_do_not_agree_end_the_attempt_and_keep_the_slot_for_a_while(self):
        server = self.start()
        server.make_class()
        server.control("next", {"operation": "backup", "agreement_seconds": 9})
        self.refused(server.call("POST", "/v1/backups/filesystem", {"id": "a"}), 422, "cannot commit")
        self.refused(server.call("POST", "/v1/backups/filesystem", {"id": "b"}), 422, "backup a already in progress")
        self.assertEqual(server.call("GET", "/v1/backups/filesystem/a").status, 404)
        until(lambda: server.call("POST", "/v1/backups/filesystem", {"id": "b"}).status == 200)

    def test_a_client_that_goes_during_the_agreement_starts_nothing(self):
        server = self.start("1.26.1", "--time-scale", "0.03")
        server.make_class()
        server.control("next", {"operation": "backup", "agreement_seconds": 7})
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/v1/backups/filesystem", json.dumps({"id": "a"}), BODY)
        until(lambda: (server.control("state")["backup"] or {}).get("running"))
        connection.close()
        until(lambda: server.call("POST", "/v1/backups/filesystem", {"id": "b"}).status == 200)
        self.assertFalse((self.root / "a").exists())


class Definitions(DoubleTest):
    """Classes, vectors and tenants."""

    def test_a_definition_is_answered_with_the_defaults_of_its_version(self):
        for version, connections in (("1.22.4", 64), ("1.26.1", 32)):
            server = self.start(version)
            server.make_class()
            definition = server.call("GET", "/v1/schema/Document").json
            self.assertEqual(definition["vectorIndexConfig"]["maxConnections"], connections)
            self.assertEqual("asyncEnabled" in definition["replicationConfig"], version == "1.26.1")
            server.call("DELETE", "/v1/schema/Document")
            self.assertEqual(server.call("POST", "/v1/schema", definition).json, definition)

    def test_a_class_whose_vectoriser_is_off_is_refused_and_cannot_be_restored(self):
        server = self.start(modules="backup-filesystem,text2vec-openai")
        server.make_class(objects=2, vectorizer="text2vec-openai")
        reply = server.call("POST", "/v1/batch/objects", {"objects": [{"class": "Document"}]})
        self.assertIn("no api key found", reply.json[0]["result"]["errors"]["error"][0]["message"])
        server.backup("b")
        bare = self.start()
        status = bare.restore("b")
        self.assertEqual(status["status"], "FAILED")
        self.assertIn('no module with name "text2vec-openai" present', status["error"])

    def test_named_vectors_are_answered_as_such_and_have_a_fixed_length(self):
        server = self.start()
        named = {"title_vector": {"vectorizer": {"none": {}}}, "other": {"vectorizer": {"none": {}}}}
        reply = server.call("POST", "/v1/schema", {"class": "Document", "vectorConfig": named})
        self.assertNotIn("vectorizer", reply.json)
        id = str(uuid.UUID(int=1))
        objects = [{"class": "Document", "id": id, "vectors": {"title_vector": [1, 2], "other": [3]}},
                   {"class": "Document", "vectors": {"title_vector": [1, 2, 3]}}]
        results = server.call("POST", "/v1/batch/objects", {"objects": objects}).json
        self.assertIn("new node has a vector with length 3", results[1]["result"]["errors"]["error"][0]["message"])
        found = server.call("GET", "/v1/objects?class=Document&include=vector&after=").json["objects"]
        self.assertEqual(found[0]["vectors"], {"title_vector": [1, 2], "other": [3]})
        before = server.fingerprint()
        server.backup("b")
        server.call("DELETE", "/v1/schema/Document")
        self.assertEqual(server.restore("b")["status"], "SUCCESS")
        self.assertEqual(server.fingerprint(), before)

    def test_requests_need_a_tenant_where_there_are_tenants_and_only_there(self):
        server = self.start()
        server.make_class(objects=0, multiTenancyConfig={"enabled": True})
        server.make_class("Folder")
        server.call("POST", "/v1/schema/Document/tenants", [{"name": "t1", "activityStatus": "INACTIVE"}])
        for path, text in (("Document", "but request was without tenant"),
                           ("Folder&tenant=t1", "multi-tenancy disabled"),
                           ("Document&tenant=t1", "tenant not active: 't1'"),
                           ("Document&tenant=t2", 'tenant not found: "t2"')):
            self.refused(server.call("GET", f"/v1/objects?class={path}"), 422, text)
        self.assertEqual(server.call("GET", "/v1/objects?class=Nothing").status, 404)
        definition = server.call("GET", "/v1/schema/Document").json
        server.call("DELETE", "/v1/schema/Document")
        self.refused(server.call("POST", "/v1/schema", definition), 422,
                     "cannot have both shardingConfig and multiTenancyConfig")
