"""What the tests of the double share: a started program, requests to it, and waiting for a thing to happen."""

import http.client
import json
import pathlib
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import unittest
import uuid

HERE = pathlib.Path(__file__).resolve().parent
PROFILES = ("1.22.4", "1.26.1", "1.26.18", "1.31.5", "1.39.0")
BODY = {"Content-Type": "application/json"}


class Reply:
    """Status, headers and body of an answer."""

    def __init__(self, answer):
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        self.body = answer.read()

    @property
    def json(self):
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def message(self):
        """The text of an error in the handlers' shape."""
        return self.json["error"][0]["message"]


class Server:
    """A running double."""

    def __init__(self, *options, root=None):
        command = [sys.executable, str(HERE), "--with-parent", "--time-scale", "0.01", *options]
        if root:
            command += ["--backup-path", str(root)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        self.port = json.loads(line)["port"]
        self.tls = None

    def stop(self):
        """Ends the program by ending its standard input."""
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()
        self.process.stderr.close()

    def connect(self, timeout=10):
        """A fresh connection."""
        if self.tls:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def raw(self, method, path, body=None, headers=None, timeout=10):
        """A request with exactly this body and these headers."""
        connection = self.connect(timeout)
        try:
            connection.request(method, path, body, headers or {})
            return Reply(connection.getresponse())
        finally:
            connection.close()

    def call(self, method, path, value=None, key=None):
        """A request with a JSON body, if there is a value."""
        headers = dict(BODY) if value is not None else {}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return self.raw(method, path, json.dumps(value) if value is not None else None, headers)

    def control(self, path, value=None, method=None):
        """A request to the double's own routes."""
        reply = self.call(method or ("GET" if value is None else "POST"), "/_double/" + path, value)
        assert reply.status == 200, reply.body
        return reply.json

    def make_class(self, name="Document", objects=3, **more):
        """A class with some objects."""
        definition = {"class": name, "vectorizer": "none", "properties": [{"name": "title", "dataType": ["text"]}]}
        assert self.call("POST", "/v1/schema", {**definition, **more}).status == 200
        if objects:
            self.add_objects(name, range(objects))

    def add_objects(self, name, numbers, tenant=None):
        """Objects with ids made of their numbers."""
        objects = [{"class": name, "id": str(uuid.UUID(int=number)), "properties": {"title": f"number {number}"},
                    "vector": [number, 0.1, 1 / 3], **({"tenant": tenant} if tenant else {})} for number in numbers]
        reply = self.call("POST", "/v1/batch/objects", {"objects": objects})
        assert all(item["result"]["status"] == "SUCCESS" for item in reply.json), reply.body

    def count(self, name="Document", tenant=None):
        """The exact number of objects."""
        arguments = f'(tenant:"{tenant}")' if tenant else ""
        answer = self.call("POST", "/v1/graphql", {"query": f"{{Aggregate{{{name}{arguments}{{meta{{count}}}}}}}}"})
        return answer.json["data"]["Aggregate"][name][0]["meta"]["count"]

    def fingerprint(self):
        """Counts and hashes of all classes."""
        return self.control("fingerprint")["classes"]

    def backup(self, id, **body):
        """Starts a backup and waits for its end."""
        reply = self.call("POST", "/v1/backups/filesystem", {"id": id, **body})
        assert reply.status == 200, reply.body
        status = self.ended(f"/v1/backups/filesystem/{id}")
        # The newest servers publish the end a moment before it is on disk.
        until(lambda: not self.control("state")["backup"]["running"])
        return status

    def restore(self, id, **body):
        """Starts a restore and waits for its end."""
        reply = self.call("POST", f"/v1/backups/filesystem/{id}/restore", body)
        assert reply.status == 200, reply.body
        return self.ended(f"/v1/backups/filesystem/{id}/restore")

    def ended(self, path):
        """The status at the end."""
        def final():
            status = self.call("GET", path).json
            return status if status["status"] in ("SUCCESS", "FAILED", "CANCELED") else None
        return until(final)

    def held(self, operation):
        """Waits until an operation has come to its gate."""
        until(lambda: (self.control("state")[operation] or {}).get("held"))


def until(look, seconds=10):
    """What `look` returns once that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError("it did not happen in time")


class DoubleTest(unittest.TestCase):
    """Starts doubles and ends them."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="weaviate-double-"))
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.root = self.folder / "backups"

    def start(self, version="1.26.1", *options, modules="backup-filesystem"):
        """A double that writes into this test's folder."""
        server = Server("--version", version, "--modules", modules, *options, root=self.root)
        self.addCleanup(server.stop)
        return server

    def refused(self, reply, status, fragment):
        """A refusal in the handlers' shape."""
        self.assertEqual(reply.status, status, reply.body)
        self.assertIn(fragment, reply.message)


def client_context(authority, certificate=None, key=None):
    """TLS for a client that trusts one authority."""
    context = ssl.create_default_context(cafile=authority)
    context.check_hostname = False
    # The tests' own certificates are bare; newer Pythons want more of them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if certificate:
        context.load_cert_chain(certificate, key)
    return context
