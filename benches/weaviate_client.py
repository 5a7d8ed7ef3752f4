"""Weaviate's official Python client as its manual uses it: fills the class of the bench, reads all of it, stores all of it.

    weaviate_client.py fill COUNT | read | store      lines of objects go to standard output, or come from standard input
"""

import json
import os
import random
import sys
import uuid
from urllib.parse import urlsplit

import weaviate

CLASS = "Paper"


def connected():
    http = urlsplit(os.environ["WEAVIATE_URL"])
    return weaviate.connect_to_custom(
        http_host=http.hostname, http_port=http.port, http_secure=False,
        grpc_host=http.hostname, grpc_port=int(os.environ["WEAVIATE_GRPC_PORT"]), grpc_secure=False,
    )  # fmt: skip


def store(papers, objects):
    with papers.batch.dynamic() as batch:
        for found in objects:
            batch.add_object(properties=found["properties"], uuid=found["id"], vector=found["vector"])
    if papers.batch.failed_objects:
        sys.exit(f"{len(papers.batch.failed_objects)} objects were refused")


def made_up(count):
    """The same objects each time: a title, a page and 384 numbers, as an embedding of a paper has them."""
    chance = random.Random(384)
    for number in range(count):
        vector = [chance.gauss(0, 0.05) for _ in range(384)]
        words = " ".join(f"{chance.getrandbits(32):x}" for _ in range(20))
        yield {"id": str(uuid.UUID(int=number + 1)), "vector": vector, "properties": {"title": words, "page": number}}


def main():
    work, *rest = sys.argv[1:] or sys.exit(__doc__)
    with connected() as client:
        papers = client.collections.use(CLASS)
        if work == "fill":
            store(papers, made_up(int(rest[0])))
        elif work == "store":
            store(papers, map(json.loads, sys.stdin))
        else:
            for found in papers.iterator(include_vector=True):
                line = {"id": str(found.uuid), "vector": found.vector["default"], "properties": found.properties}
                sys.stdout.write(json.dumps(line) + "\n")


main()
