"""Drives a Weaviate server with the official Python client through a backup and a restore, and prints what it saw.

Works with the client of version 3 and with that of version 4. Only REST is used: with version 4 counts
come from GraphQL, and the checks that need gRPC are left out.

    python weaviate_client.py --url http://127.0.0.1:8080 --id lab-1 [--api-key KEY] [--objects 25]
"""

import argparse
import json
import os
import sys
import urllib.parse
import uuid

# This folder holds a directory `weaviate` too; the client's package is meant.
here = os.path.dirname(os.path.abspath(__file__))
sys.path = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]

import weaviate  # noqa: E402


def ids(count):
    """Ids that are the same in every run."""
    return [str(uuid.uuid5(uuid.NAMESPACE_URL, f"object-{number}")) for number in range(count)]


def vector(number):
    """A short vector."""
    return [number / 8, 0.5, -0.25, 1.0]


class Third:
    """The client of version 3."""

    def __init__(self, url, key):
        # The client would ask the Internet for newer versions of itself.
        weaviate.connect.connection.PYPI_PACKAGE_URL = ""
        auth = weaviate.AuthApiKey(api_key=key) if key else None
        self.client = weaviate.Client(url, auth_client_secret=auth)

    def create(self, name):
        """A class without a vectoriser."""
        self.client.schema.create_class({"class": name, "vectorizer": "none", "properties": [
            {"name": "title", "dataType": ["text"]}, {"name": "size", "dataType": ["int"]}]})

    def insert(self, name, wanted):
        """Objects through the client's batches."""
        self.client.batch.configure(batch_size=10)
        with self.client.batch as batch:
            for number, id in enumerate(wanted):
                batch.add_data_object({"title": f"number {number}", "size": number}, name, uuid=id,
                                      vector=vector(number))

    def backup(self, backend, id, name):
        """Makes a backup and waits for its end."""
        answer = self.client.backup.create(backup_id=id, backend=backend, include_classes=[name],
                                           wait_for_completion=True)
        return answer, self.client.backup.get_create_status(backup_id=id, backend=backend)

    def delete(self, name):
        """Deletes the class."""
        self.client.schema.delete_class(name)

    def restore(self, backend, id):
        """Restores everything and waits for the end."""
        answer = self.client.backup.restore(backup_id=id, backend=backend, wait_for_completion=True)
        return answer, self.client.backup.get_restore_status(backup_id=id, backend=backend)

    def count(self, name):
        """The exact number of objects."""
        answer = self.client.query.aggregate(name).with_meta_count().do()
        return answer["data"]["Aggregate"][name][0]["meta"]["count"]

    def version(self):
        """The server's version."""
        return self.client.get_meta()["version"]

    def close(self):
        """There is nothing to close."""


class Fourth:
    """The client of version 4, without its checks that need gRPC."""

    def __init__(self, url, key):
        parts = urllib.parse.urlsplit(url)
        auth = weaviate.classes.init.Auth.api_key(key) if key else None
        self.client = weaviate.connect_to_custom(
            http_host=parts.hostname, http_port=parts.port, http_secure=parts.scheme == "https",
            grpc_host=parts.hostname, grpc_port=1, grpc_secure=False, auth_credentials=auth, skip_init_checks=True)

    def create(self, name):
        """A class without a vectoriser."""
        config = weaviate.classes.config
        self.client.collections.create(name, vector_config=config.Configure.Vectors.self_provided(), properties=[
            config.Property(name="title", data_type=config.DataType.TEXT),
            config.Property(name="size", data_type=config.DataType.INT)])

    def insert(self, name, wanted):
        """Objects one by one: the client's batches speak gRPC."""
        collection = self.client.collections.use(name)
        for number, id in enumerate(wanted):
            collection.data.insert({"title": f"number {number}", "size": number}, uuid=id, vector=vector(number))

    def backup(self, backend, id, name):
        """Makes a backup and waits for its end."""
        answer = self.client.backup.create(backup_id=id, backend=backend, include_collections=[name],
                                           wait_for_completion=True)
        status = self.client.backup.get_create_status(backup_id=id, backend=backend)
        return answer.model_dump(mode="json"), status.model_dump(mode="json")

    def delete(self, name):
        """Deletes the class."""
        self.client.collections.delete(name)

    def restore(self, backend, id):
        """Restores everything and waits for the end."""
        answer = self.client.backup.restore(backup_id=id, backend=backend, wait_for_completion=True)
        status = self.client.backup.get_restore_status(backup_id=id, backend=backend)
        return answer.model_dump(mode="json"), status.model_dump(mode="json")

    def count(self, name):
        """The exact number of objects."""
        answer = self.client.graphql_raw_query(f"{{Aggregate{{{name}{{meta{{count}}}}}}}}")
        return answer.aggregate[name][0]["meta"]["count"]

    def version(self):
        """The server's version."""
        return self.client.get_meta()["version"]

    def close(self):
        """Closes the connections."""
        self.client.close()


def main():
    """The whole way, from an empty server to a restored class."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--backend", default="filesystem")
    parser.add_argument("--class", dest="name", default="Document")
    parser.add_argument("--objects", type=int, default=25)
    parser.add_argument("--api-key")
    chosen = parser.parse_args()
    make = Third if weaviate.__version__.startswith("3.") else Fourth
    side = make(chosen.url, chosen.api_key)
    seen = {"client": weaviate.__version__, "server": side.version()}
    try:
        side.create(chosen.name)
        side.insert(chosen.name, ids(chosen.objects))
        seen["count_before"] = side.count(chosen.name)
        seen["create"], seen["create_status"] = side.backup(chosen.backend, chosen.id, chosen.name)
        side.delete(chosen.name)
        seen["restore"], seen["restore_status"] = side.restore(chosen.backend, chosen.id)
        seen["count_after"] = side.count(chosen.name)
    finally:
        side.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
