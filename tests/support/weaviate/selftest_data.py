"""The store and the data: items 11 to 19 of what a faithful double must have."""

import gzip
import io
import json
import shutil
import tarfile
import uuid

from selftest_harness import DoubleTest, Server


class Stores(DoubleTest):
    """Items 11 to 13."""

    def read(self, *parts):
        """A descriptor on disk."""
        return json.loads(self.root.joinpath(*parts).read_text())

    def test_11_the_tree_on_disk_is_the_real_one_and_is_written_in_the_real_order(self):
        server = self.start()
        server.make_class()
        server.control("hold", {"operation": "backup"})
        server.control("next", {"operation": "backup", "truncated_descriptor": True})
        server.call("POST", "/v1/backups/filesystem", {"id": "b"})
        self.assertEqual(self.read("b", "backup_config.json")["status"], "STARTED")
        server.held("backup")
        node = self.read("b", "node1", "backup.json")
        self.assertEqual((node["status"], node["completedAt"][:4], node["version"]), ("SUCCESS", "0001", "2.1"))
        described = node["classes"][0]
        names = sorted(path.name for path in (self.root / "b/node1/Document").iterdir())
        self.assertEqual(names, ["chunk-1", "chunk-3"])
        self.assertEqual(list(described["chunks"]), ["1"])
        chunk = gzip.decompress((self.root / "b/node1/Document/chunk-1").read_bytes())
        inside = tarfile.open(fileobj=io.BytesIO(chunk)).getnames()
        self.assertLess(set(described["shards"][0]["files"]), set(inside))
        self.assertEqual(len(inside), len(described["shards"][0]["files"]) + 3)
        server.control("release", {"operation": "backup"})
        self.assertEqual(server.ended("/v1/backups/filesystem/b")["status"], "SUCCESS")
        whole = self.read("b", "backup_config.json")
        self.assertEqual((whole["status"], whole["leader"], whole["nodes"]["node1"]["classes"]),
                         ("SUCCESS", "node1", ["Document"]))

    def test_11_a_descriptor_can_be_caught_half_written(self):
        server = self.start()
        server.make_class()
        server.control("next", {"operation": "backup", "truncated_descriptor": True})
        server.call("POST", "/v1/backups/filesystem", {"id": "b"})
        broken = False
        while server.call("GET", "/v1/backups/filesystem/b").json["status"] == "STARTED":
            try:
                self.read("b", "backup_config.json")
            except ValueError:
                broken = True
        self.assertTrue(broken)

    def test_12_a_restore_reads_the_tree_and_finds_what_is_wrong_with_it(self):
        server = self.start()
        server.make_class()
        server.backup("b")
        server.call("DELETE", "/v1/schema/Document")
        restore = "/v1/backups/filesystem/{}/restore".format
        self.refused(server.call("POST", restore("nothing"), {}), 404, "metadata not found")
        shutil.copytree(self.root / "b", self.root / "c")
        self.refused(server.call("POST", restore("c"), {}), 422, 'wrong backup file: expected "c" got "b"')
        self.change("c", id="c", status="FAILED")
        self.refused(server.call("POST", restore("c"), {}), 422, "status: FAILED")
        self.change("c", status="SUCCESS", version="3.0")
        self.refused(server.call("POST", restore("c"), {}), 422, "higher version: 3.0 > 2.1")
        self.change("c", version="2.1")
        shutil.rmtree(self.root / "c" / "node1")
        self.refused(server.call("POST", restore("c"), {}), 422, "metadata not found")
        self.refused(server.call("POST", restore("b"), {"include": ["document"]}), 422,
                     "class document doesn't exist in the backup, but does have [Document]")
        server.control("store", {"fault": "read_only"})
        self.refused(server.call("POST", restore("b"), {}), 422, "put initial metadata")
        server.control("store", {"fault": None})
        chunk = self.root / "b/node1/Document/chunk-1"
        whole = chunk.read_bytes()
        for damaged in (whole[:-20], bytes([*whole[:40], whole[40] ^ 255, *whole[41:]]), None):
            chunk.unlink() if damaged is None else chunk.write_bytes(damaged)
            self.assertEqual(server.restore("b")["status"], "FAILED")
        chunk.write_bytes(whole)
        self.assertEqual(server.restore("b")["status"], "SUCCESS")
        self.assertEqual(self.read("b", "restore_config.json")["status"], "SUCCESS")

    def change(self, folder, **changes):
        """Rewrites fields of a global descriptor."""
        path = self.root / folder / "backup_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def test_12_versions_accept_each_others_backups_as_the_real_ones_do(self):
        old = self.start("1.22.4")
        old.make_class()
        before = old.fingerprint()["Document"]["count"]
        old.backup("old")
        new = self.start("1.26.1")
        self.assertEqual(new.restore("old")["status"], "SUCCESS")
        self.assertEqual(new.fingerprint()["Document"]["count"], before)
        new.backup("new")
        self.refused(old.call("POST", "/v1/backups/filesystem/new/restore", {}), 422, "higher version: 2.1 > 2.0")
        newest = self.start("1.39.0")
        self.refused(newest.call("POST", "/v1/backups/filesystem/old/restore", {}), 422, "older than v1.23")
        self.assertEqual(newest.restore("new")["status"], "SUCCESS")
        careless = self.start("1.24.2")
        self.assertEqual(careless.restore("old")["status"], "SUCCESS")
        self.assertEqual(careless.count(), 0)

    def test_12_the_tree_can_be_moved_to_another_server(self):
        server = self.start()
        server.make_class()
        before = server.fingerprint()
        server.backup("b")
        other = Server("--version", "1.26.1", "--modules", "backup-filesystem", root=self.folder / "elsewhere")
        self.addCleanup(other.stop)
        shutil.copytree(self.root / "b", self.folder / "elsewhere" / "b")
        self.assertEqual(other.restore("b")["status"], "SUCCESS")
        self.assertEqual(other.fingerprint(), before)

    def test_13_a_store_that_is_away_is_told_differently_by_old_and_new_versions(self):
        for version, create, status in (("1.26.1", 422, 404), ("1.39.0", 500, 500)):
            server = self.start(version)
            server.make_class()
            server.backup("b" + version[2:4])
            server.control("store", {"fault": "unreachable"})
            reply = server.call("POST", "/v1/backups/filesystem", {"id": "c"})
            self.refused(reply, create, 'check if backup "c" exists')
            self.assertEqual(server.call("GET", f"/v1/backups/filesystem/b{version[2:4]}").status, status)
            server.control("store", {"fault": "read_only"})
            self.refused(server.call("POST", "/v1/backups/filesystem", {"id": "c"}), create, "cannot init meta file")
            server.control("store", {"fault": None})
            self.assertEqual(server.call("GET", "/v1/backups/filesystem/none").status, 404)


class Data(DoubleTest):
    """Items 14 to 19."""

    def test_14_an_empty_database_and_unknown_classes_are_refused(self):
        server = self.start()
        path = "/v1/backups/filesystem"
        self.refused(server.call("POST", path, {"id": "b"}), 422, "nothing to do here")
        server.make_class()
        for body, text in (({"include": ["document"]}, "class document doesn't exist"),
                           ({"exclude": ["Document"]}, "empty class list: please choose from : [Document]"),
                           ({"include": ["A"], "exclude": ["B"]}, "cannot both contain values"),
                           ({"include": ["A", "A"]}, "contains duplicate: A")):
            self.refused(server.call("POST", path, {"id": "b", **body}), 422, text)
        self.refused(server.call("POST", "/v1/backups/s3", {"id": "b"}), 422, "did you enable the right module?")

    def test_15_a_class_that_exists_makes_the_restore_fail_later(self):
        texts = {"1.22.4": "restore class Document: already exists",
                 "1.26.1": 'could not restore classes: ["Document": class name Document already exists]',
                 "1.39.0": "error when trying to restore class: class name Document already exists"}
        for version, text in texts.items():
            with self.subTest(version=version):
                server = self.start(version)
                for name in ("Archive", "Document", "Zoo"):
                    server.make_class(name)
                id = "b" + version[2:4]
                server.backup(id)
                server.call("DELETE", "/v1/schema/Archive")
                server.call("DELETE", "/v1/schema/Zoo")
                status = server.restore(id)
                self.assertEqual(status["status"], "FAILED")
                self.assertIn(text, status["error"])
                kept = {"Archive", "Document"} | (set() if version == "1.22.4" else {"Zoo"})
                self.assertEqual(set(server.fingerprint()), kept)

    def test_16_a_success_may_have_lost_objects(self):
        server = self.start()
        server.make_class()
        server.backup("b")
        for script, left in (({"empty_class": "Document"}, 0), ({"lose": {"Document": 2}}, 1), ({}, 3)):
            server.call("DELETE", "/v1/schema/Document")
            if script:
                server.control("next", {"operation": "restore", **script})
            self.assertEqual(server.restore("b")["status"], "SUCCESS")
            self.assertEqual(server.count(), left)

    def test_17_classes_counts_nodes_and_meta_are_told_as_the_server_tells_them(self):
        server = self.start()
        self.assertEqual(server.call("DELETE", "/v1/schema/Nothing").status, 200)
        server.make_class("document")
        server.make_class("Folder", 1)
        self.refused(server.call("POST", "/v1/schema", {"class": "Document"}), 422,
                     "class name Document already exists")
        names = [item["class"] for item in server.call("GET", "/v1/schema").json["classes"]]
        self.assertEqual(sorted(names), ["Document", "Folder"])
        query = {"query": "{ Aggregate { Document { meta { count } } Folder { meta { count } } } }"}
        counts = server.call("POST", "/v1/graphql", query).json["data"]["Aggregate"]
        self.assertEqual([counts[name][0]["meta"]["count"] for name in ("Document", "Folder")], [3, 1])
        wrong = server.call("POST", "/v1/graphql", {"query": "{Aggregate{Nope{meta{count}}}}"})
        self.assertEqual(wrong.status, 200)
        self.assertIn("Cannot query field", wrong.json["errors"][0]["message"])
        server.control("lag", {"nodes": 2})
        shards = server.call("GET", "/v1/nodes/Document?output=verbose").json["nodes"][0]["shards"]
        self.assertEqual(shards[0]["objectCount"], 1)
        server.control("graphql", {"disabled": True})
        self.refused(server.call("POST", "/v1/graphql", query), 422, "graphql api is disabled")
        meta = server.call("GET", "/v1/meta").json
        self.assertEqual((meta["version"], meta["modules"]["backup-filesystem"]),
                         ("1.26.1", {"backupsPath": str(self.root)}))
        bare = self.start(modules="")
        self.assertEqual(bare.call("GET", "/v1/meta").json["modules"], {})
        self.refused(bare.call("POST", "/v1/backups/filesystem", {"id": "b"}), 422, "did you enable the right module?")
        self.refused(bare.call("GET", "/v1/backups/filesystem/b"), 422, "no backup provider")

    def test_18_writes_during_a_backup_are_not_in_it_and_a_deleted_class_makes_it_fail(self):
        server = self.start()
        server.make_class()
        server.control("hold", {"operation": "backup"})
        server.call("POST", "/v1/backups/filesystem", {"id": "b"})
        server.add_objects("Document", range(1, 5))
        self.assertEqual(server.count(), 5)
        server.control("release", {"operation": "backup"})
        server.ended("/v1/backups/filesystem/b")
        server.call("DELETE", "/v1/schema/Document")
        server.restore("b")
        self.assertEqual(server.count(), 3)
        server.control("next", {"operation": "backup", "seconds": 20})
        server.call("POST", "/v1/backups/filesystem", {"id": "c"})
        server.call("DELETE", "/v1/schema/Document")
        self.assertIn("class Document doesn't exist any more", server.ended("/v1/backups/filesystem/c")["error"])

    def test_19_inactive_tenants_come_back_empty_before_1_37(self):
        for version, expected in (("1.26.1", 0), ("1.39.0", 2)):
            server = self.start(version)
            server.make_class(objects=0, multiTenancyConfig={"enabled": True})
            tenants = "/v1/schema/Document/tenants"
            server.call("POST", tenants, [{"name": "hot"}, {"name": "cold"}])
            server.add_objects("Document", range(3), "hot")
            server.add_objects("Document", range(2), "cold")
            server.call("PUT", tenants, [{"name": "cold", "activityStatus": "COLD"}])
            reply = server.call("POST", "/v1/graphql",
                                {"query": '{Aggregate{Document(tenant:"cold"){meta{count}}}}'})
            self.assertEqual(reply.json["errors"][0]["message"], "tenant not active: 'cold'")
            id = "b" + version[2:4]
            server.backup(id)
            server.call("DELETE", "/v1/schema/Document")
            self.assertEqual(server.restore(id)["status"], "SUCCESS")
            server.call("PUT", tenants, [{"name": "cold", "activityStatus": "HOT"}])
            self.assertEqual((server.count(tenant="hot"), server.count(tenant="cold")), (3, expected))


class Objects(DoubleTest):
    """What an export of objects without a backup module needs."""

    def test_a_cursor_reads_all_objects_in_the_order_of_their_ids(self):
        server = self.start()
        server.make_class(objects=25)
        found, after = [], ""
        while True:
            page = server.call("GET", f"/v1/objects?class=Document&limit=10&include=vector&after={after}").json
            if not page["objects"]:
                break
            found += page["objects"]
            after = found[-1]["id"]
        self.assertEqual([item["id"] for item in found], [str(uuid.UUID(int=number)) for number in range(25)])
        self.assertEqual(found[7]["vector"], [7, 0.1, 0.33333334])
        self.refused(server.call("GET", "/v1/objects?class=Document&limit=10001&after="), 422,
                     "query maximum results exceeded")

    def test_references_need_their_target_in_an_object_but_not_in_a_batch_of_references(self):
        server = self.start()
        server.make_class("Folder", 1)
        server.make_class(objects=1)
        server.call("POST", "/v1/schema/Document/properties", {"name": "inFolder", "dataType": ["Folder"]})
        there, missing = str(uuid.UUID(int=0)), str(uuid.UUID(int=9))
        objects = [{"class": "Document", "id": str(uuid.UUID(int=number)),
                    "properties": {"inFolder": [{"beacon": f"weaviate://localhost/Folder/{target}"}]}}
                   for number, target in ((1, there), (2, missing))]
        results = server.call("POST", "/v1/batch/objects", {"objects": objects}).json
        self.assertEqual([item["result"]["status"] for item in results], ["SUCCESS", "FAILED"])
        self.assertIn(f"no object with id {missing} found", results[1]["result"]["errors"]["error"][0]["message"])
        source = f"weaviate://localhost/Document/{there}/inFolder"
        reply = server.call("POST", "/v1/batch/references",
                            [{"from": source, "to": f"weaviate://localhost/Folder/{missing}"}])
        self.assertEqual(reply.json[0]["result"], {"status": "SUCCESS"})
        stored = server.call("GET", f"/v1/objects/Document/{there}").json["properties"]["inFolder"]
        self.assertEqual(stored, [{"beacon": f"weaviate://localhost/Folder/{missing}",
                                   "href": f"/v1/objects/Folder/{missing}"}])
