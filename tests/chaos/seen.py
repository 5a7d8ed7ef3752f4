"""The contents of the folders and of the bucket after a round, and rna-backup's report of them on each machine; read once for all invariants."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

from lab import COMPONENTS


class Seen:
    """`manifests` and the hashes of `archives` are those of each machine and of `s3`, as they were before the program read them."""

    def __init__(self, lab):
        bucket = lab.in_bucket()
        self.uploads = bucket["uploads"]
        self.manifests = {machine.name: machine.manifests() for machine in lab.machines} | {"s3": bucket["manifests"]}
        self.archives = {machine.name: archives(machine.root) for machine in lab.machines} | {"s3": bucket["archives"]}
        with ThreadPoolExecutor() as pool:
            listed = list(pool.map(lambda machine: machine.json("list")["backups"], lab.machines))
            verified = list(pool.map(lambda machine: machine.command("verify", "all", "all", check=False), lab.machines))
        names = [machine.name for machine in lab.machines]
        self.verified, self.listed = dict(zip(names, verified)), dict(zip(names, listed))

    def copies(self):
        """Each copy that a machine lists, with the machine and the backup."""
        for name, backups in self.listed.items():
            for backup in backups:
                for copy in backup["destinations"]:
                    yield name, backup["backup_id"], copy


def archives(root):
    """The hash of each by its key."""
    paths = [path for component in COMPONENTS for path in (root / component).glob("*")]
    return {f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def objects(manifests, destination):
    """The entries of the manifests for one destination."""
    return [object for manifest in manifests for object in manifest["objects"] if object["destination"] == destination]
