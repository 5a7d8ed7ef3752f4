"""A bill of materials: `cargo metadata` on standard input becomes CycloneDX 1.5 on standard output.

Only what is in the program: neither what tests need nor what build scripts do. The same input gives the same output.
"""

import json
import re
import sys


def linked(metadata):
    """The packages that the program is linked from."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, waiting = set(), [metadata["resolve"]["root"]]
    while waiting:
        package = waiting.pop()
        if package in found:
            continue
        found.add(package)
        for dependency in nodes[package]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    return found, nodes


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, checksums):
    described = {"type": "library", "bom-ref": reference(package), "name": package["name"], "version": package["version"], "purl": reference(package)}
    if package["license"]:
        # Old manifests write a slash for "or".
        described["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}]
    if checksum := checksums.get((package["name"], package["version"])):
        described["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return described


def lock(path):
    """The checksums of Cargo.lock."""
    packages = re.findall(r'name = "(.*)"\nversion = "(.*)"\nsource = ".*"\nchecksum = "(.*)"', open(path).read())
    return {(name, version): checksum for name, version, checksum in packages}


def main():
    metadata = json.load(sys.stdin)
    found, nodes = linked(metadata)
    packages = {package["id"]: package for package in metadata["packages"] if package["id"] in found}
    root = metadata["resolve"]["root"]
    checksums = lock("Cargo.lock")
    others = sorted((package for id, package in packages.items() if id != root), key=reference)
    needs = {id: sorted({reference(packages[d["pkg"]]) for d in nodes[id]["deps"] if d["pkg"] in packages}) for id in packages}
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**component(packages[root], checksums), "type": "application"}},
        "components": [component(package, checksums) for package in others],
        "dependencies": sorted(({"ref": reference(packages[id]), "dependsOn": of} for id, of in needs.items()), key=lambda one: one["ref"]),
    }
    json.dump(bom, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
