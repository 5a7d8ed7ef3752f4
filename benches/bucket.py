"""Backups to a bucket: beside boto3, and beside a backup to the local disk alone. `bench.py PROGRAM s3`."""

import shutil

import data
import measure
from servers import ROOT, Bucket

LOCAL = "rna-backup, local disk alone"
BOTH = "rna-backup, local disk and bucket"
ALONE = "rna-backup, bucket alone, read back"
BOTO3 = "boto3 upload_file of that archive"

UPLOAD = """
import boto3, os, sys
client = boto3.client("s3", endpoint_url=os.environ["AWS_S3_ENDPOINT"], region_name="us-east-1")
client.upload_file(sys.argv[1], os.environ["AWS_BACKUP_BUCKET"], "boto3/archive")
"""


class Buckets:
    """Races of the part `s3`; `bench` is what runs and prints them."""

    def __init__(self, bench, scale):
        self.bench, self.stage, self.scale = bench, bench.stage, scale

    def run(self):
        bucket = Bucket(self.stage)
        media = self.stage.dir / "films"
        data.big_mixed(media, int(1e9 * self.scale))
        sizes = [path.stat().st_size for path in media.rglob("*") if path.is_file()]
        script = self.stage.dir / "upload.py"
        script.write_text(UPLOAD)
        archive = self.stage.dir / "archive"
        made = self.ours(media, {})
        made[0]()
        (packed,) = self.bench.root.glob("media/*")
        shutil.copy(packed, archive)
        made[2]()
        boto3 = [ROOT / "target/venv/boto3/bin/python", script, archive]
        env = self.stage.env | bucket.env
        print("\nThe S3 server runs on the same machine and cores. boto3 uploads the archive that ours has made, with its own defaults;")
        print("ours reads the folder, packs, proves, and writes to the local disk meanwhile.")
        self.bench.race(
            "media to a bucket: big files, images and PDFs mostly",
            sum(sizes),
            len(sizes),
            {
                LOCAL: made,
                BOTH: self.ours(media, bucket.env),
                ALONE: self.ours(media, bucket.env | {"BACKUP_LOCAL": "False"}, archive.stat().st_size),
                BOTO3: (lambda: measure.run(boto3, env, self.stage.dir), lambda: archive.stat().st_size, lambda: None),
            },
            ours=LOCAL,
        )

    def ours(self, media, env, stored=None):
        root = self.bench.root
        env = self.stage.env | {
            "BACKUP_ROOT": str(root),
            "REDIS_URL": "",
            "BACKUP_METRICS_ADDR": "",
            "MEDIA_ROOT": str(media),
            "BACKUP_MEDIA_FULL_EVERY": "0",
        } | env
        command = [self.bench.program, "backup", "media", "--json"]
        size = lambda: stored or sum(path.stat().st_size for path in root.glob("media/*"))  # noqa: E731
        return (lambda: measure.run(command, env, self.stage.dir), size, lambda: shutil.rmtree(root, ignore_errors=True))
