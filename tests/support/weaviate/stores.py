"""Where backups lie: a directory, or a bucket behind an S3 endpoint.

Both hold the same tree; see the README of this folder. A fault can be switched on that makes a store
behave as if it were away, refused the credentials, or could not be written.
"""

import os

FAULTS = {
    "unreachable": "dial tcp: connect: connection refused",
    "denied": "Access Denied.",
}


class Missing(Exception):
    """There is no such file or key."""


class StoreError(Exception):
    """The store could not be read or written."""


class BadSetting(Exception):
    """A setting with which the server does not start."""


class Store:
    """What both stores have in common."""

    name = ""

    def __init__(self):
        self.fault = None
        self.on = True

    def check_reading(self):
        """Raises the fault that is switched on, if it concerns reading."""
        if self.fault in FAULTS:
            raise StoreError(FAULTS[self.fault])

    def check_writing(self, key):
        """Raises the fault that is switched on, if it concerns writing."""
        self.check_reading()
        if self.fault == "read_only":
            raise StoreError(f"open {key}: read-only file system")


class Directory(Store):
    """`backup-filesystem`: a directory on the server's disk."""

    name = "filesystem"

    def __init__(self, root):
        super().__init__()
        if not root:
            raise BadSetting("empty backup path provided")
        if not os.path.isabs(root):
            raise BadSetting(f"relative backup path provided: {root}")
        try:
            os.makedirs(root, exist_ok=True)
        except OSError as error:
            raise BadSetting(f"invalid backup path provided: {error}") from None
        self.root = root

    def home(self, id, place):
        """What the server shows as the place of a backup."""
        return os.path.join(place.get("path") or self.root, id)

    def read(self, key, place):
        """The content of a file."""
        self.check_reading()
        try:
            with open(self.home(key, place), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            raise Missing(f"open {self.home(key, place)}: no such file or directory") from None
        except OSError as error:
            raise StoreError(f"open {self.home(key, place)}: {error.strerror}") from None

    def write(self, key, content, place, truncate=True):
        """Writes in place: neither atomic nor synced, and without `truncate` an older tail stays."""
        path = self.home(key, place)
        self.check_writing(path)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            mode = "wb" if truncate or not os.path.exists(path) else "r+b"
            with open(path, mode) as file:
                file.write(content)
        except OSError as error:
            raise StoreError(f"open {path}: {error.strerror}") from None

    def ids(self):
        """The names of the directories below the root."""
        self.check_reading()
        return sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())

    def probe(self, _id, _place):
        """The directory store has no probe before a backup."""

    def meta(self):
        """What `/v1/meta` says of the module."""
        return {"backupsPath": self.root}


class Bucket(Store):
    """`backup-s3`: keys in a bucket; the credentials come from the environment."""

    name = "s3"

    def __init__(self, bucket, prefix, endpoint, use_ssl):
        super().__init__()
        if not bucket:
            raise BadSetting("backup init: 'BACKUP_S3_BUCKET' must be set")
        if "://" in endpoint:
            raise BadSetting(f"initialize S3 backup module: endpoint with a scheme: {endpoint}")
        self.bucket, self.prefix = bucket, prefix.strip("/")
        self.endpoint, self.use_ssl = endpoint or "s3.amazonaws.com", use_ssl
        self._client = None

    @property
    def client(self):
        """The connection; boto3 is needed only here."""
        if self._client is None:
            import boto3
            from botocore.config import Config

            scheme = "https" if self.use_ssl else "http"
            self._client = boto3.client(
                "s3", endpoint_url=f"{scheme}://{self.endpoint}",
                region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
                config=Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=10,
                              s3={"addressing_style": "path"}))
        return self._client

    def _place(self, key, place):
        prefix = place.get("path") if place.get("path") else self.prefix
        return place.get("bucket") or self.bucket, "/".join(part for part in (prefix, key) if part)

    def home(self, id, place):
        """What the server shows as the place of a backup."""
        bucket, key = self._place(id, place)
        return f"s3://{bucket}/{key}"

    def _call(self, operation, **arguments):
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self.client, operation)(**arguments)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            text = error.response.get("Error", {}).get("Message", "") or str(error)
            raise (Missing if code in ("NoSuchKey", "NoSuchBucket", "404") else StoreError)(text) from None
        except BotoCoreError as error:
            raise StoreError(str(error)) from None

    def read(self, key, place):
        """The content of a key."""
        self.check_reading()
        bucket, name = self._place(key, place)
        return self._call("get_object", Bucket=bucket, Key=name)["Body"].read()

    def write(self, key, content, place, truncate=True):
        """Puts a key whole."""
        self.check_writing(key)
        bucket, name = self._place(key, place)
        try:
            self._call("put_object", Bucket=bucket, Key=name, Body=content)
        except Missing as error:
            raise StoreError(str(error)) from None

    def ids(self):
        """The first part of every key below the prefix."""
        self.check_reading()
        start = self.prefix + "/" if self.prefix else ""
        found, more = [], {}
        while True:
            try:
                page = self._call("list_objects_v2", Bucket=self.bucket, Prefix=start, Delimiter="/", **more)
            except Missing as error:
                raise StoreError(str(error)) from None
            found += [item["Prefix"][len(start):].strip("/") for item in page.get("CommonPrefixes", [])]
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def probe(self, id, place):
        """Writes and deletes a small key, as the server does before a backup into a cloud."""
        self.write(f"{id}/access-check", b"", place)
        bucket, name = self._place(f"{id}/access-check", place)
        self._call("delete_object", Bucket=bucket, Key=name)

    def meta(self):
        """What `/v1/meta` says of the module."""
        answer = {"bucketName": self.bucket, "endpoint": self.endpoint, "useSSL": self.use_ssl}
        if self.prefix:
            answer["rootName"] = self.prefix
        return answer
