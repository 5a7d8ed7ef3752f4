"""Starts the double of a Weaviate server and says on which port it listens; see README.md."""

import argparse
import json
import os
import signal
import sys
import threading

from server import Double, tls_context
from stores import BadSetting, Bucket, Directory


def options():
    """The command line."""
    parser = argparse.ArgumentParser(prog="weaviate", description=__doc__)
    parser.add_argument("--version", default="1.26.1", help="the server version to behave like")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--node", default="node1", help="CLUSTER_HOSTNAME")
    parser.add_argument("--nodes", type=int, default=1, help="how many nodes the cluster has")
    parser.add_argument("--modules", default="", help="ENABLE_MODULES")
    parser.add_argument("--backup-path", default="", help="BACKUP_FILESYSTEM_PATH")
    parser.add_argument("--s3-bucket", default="", help="BACKUP_S3_BUCKET")
    parser.add_argument("--s3-path", default="", help="BACKUP_S3_PATH")
    parser.add_argument("--s3-endpoint", default="", help="BACKUP_S3_ENDPOINT, without a scheme")
    parser.add_argument("--s3-use-ssl", default="true", help="BACKUP_S3_USE_SSL")
    parser.add_argument("--api-key", action="append", default=[], metavar="KEY")
    parser.add_argument("--read-only-key", action="append", default=[], metavar="KEY")
    parser.add_argument("--limited-key", action="append", default=[], metavar="KEY:CLASS,CLASS",
                        help="a key with rights on some classes only")
    parser.add_argument("--anonymous", action="store_true", help="anonymous access beside keys")
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    parser.add_argument("--client-ca", help="with it clients need a certificate")
    parser.add_argument("--time-scale", type=float, default=1.0, help="real seconds in a second of the server")
    parser.add_argument("--state", help="a file in which classes and objects outlive the process")
    parser.add_argument("--log")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    return parser.parse_args()


def stores(chosen, modules):
    """The stores whose modules are on, checked as the server checks them at its start."""
    found = []
    if "backup-filesystem" in modules:
        found.append(Directory(chosen.backup_path))
    if "backup-s3" in modules:
        use_ssl = chosen.s3_use_ssl.strip().lower() != "false"
        found.append(Bucket(chosen.s3_bucket, chosen.s3_path, chosen.s3_endpoint, use_ssl))
    return found


def limited(texts):
    """`KEY:CLASS,CLASS` as a key and its classes."""
    return [(text.partition(":")[0], text.partition(":")[2].split(",")) for text in texts]


def make(chosen):
    """The double that the options describe."""
    modules = [name.strip() for name in chosen.modules.split(",") if name.strip()]
    access = {"keys": chosen.api_key, "read_only": chosen.read_only_key, "limited": limited(chosen.limited_key),
              "anonymous": chosen.anonymous}
    tls = tls_context(chosen.tls_cert, chosen.tls_key, chosen.client_ca) if chosen.tls_cert else None
    return Double(chosen.version, modules, stores(chosen, modules), chosen.node, chosen.nodes, chosen.time_scale,
                  access, tls, chosen.state, chosen.log)


def follow_parent(ended):
    """Sets the event when standard input ends, as it does when the parent is gone."""
    while os.read(0, 4096):
        pass
    ended.set()


def main():
    """Runs until SIGTERM."""
    chosen = options()
    try:
        double = make(chosen)
    except BadSetting as error:
        sys.exit(json.dumps({"level": "fatal", "msg": "modules didn't initialize", "error": str(error)}))
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    ended = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: ended.set())
    if chosen.with_parent:
        threading.Thread(target=follow_parent, args=(ended,), daemon=True).start()
    double.start(chosen.port)
    print(json.dumps({"port": double.port}), flush=True)
    ended.wait()
    double.stop()


if __name__ == "__main__":
    main()
