#!/usr/bin/env python3
"""`mc alias set NAME URL KEY SECRET` and `mc mb --ignore-existing NAME/BUCKET`."""

import json
import pathlib
import sys

import boto3

ALIASES = pathlib.Path("/tmp/aliases.json")
match sys.argv[1:]:
    case ["alias", "set", name, url, key, secret]:
        ALIASES.write_text(json.dumps({name: [url, key, secret]}))
    case ["mb", "--ignore-existing", place]:
        name, bucket = place.split("/")
        url, key, secret = json.loads(ALIASES.read_text())[name]
        store = boto3.client("s3", endpoint_url=url, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1")
        if bucket not in [one["Name"] for one in store.list_buckets()["Buckets"]]:
            store.create_bucket(Bucket=bucket)
    case words:
        sys.exit(f"mc of this test does not know {words}")
