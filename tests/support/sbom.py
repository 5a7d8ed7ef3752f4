"""A bill of materials in CycloneDX 1.5 on standard output, of what standard input lists. The same input gives the same output.

    cargo metadata … | sbom.py                        the crates in the program: neither what tests need nor what build scripts do
    docker cp …:/var/lib/dpkg/status.d - | sbom.py --image    the Debian packages in the image
"""

import json
import re
import sys
import tarfile
from urllib.parse import quote


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
    described = {"type": "library", "bom-ref": reference(package), "name": package["name"], "version": package["version"]}
    if package["source"]:  # a crate of this repository is in no registry
        described["purl"] = reference(package)
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


def of_image():
    """The packages of the image: each file of the folder is an entry of dpkg's."""
    components = []
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as entries:
        for entry in filter(tarfile.TarInfo.isfile, entries):
            fields = dict(re.findall(r"^(\S+): (.*)$", entries.extractfile(entry).read().decode(), re.M))
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{quote(version)}?arch={fields['Architecture']}"
            components.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return bill({"type": "container", "name": "rna-backup"}, sorted(components, key=lambda one: one["bom-ref"]))


def bill(of, components, **more):
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": of}, "components": components, **more}


def of_program():
    metadata = json.load(sys.stdin)
    found, nodes = linked(metadata)
    packages = {package["id"]: package for package in metadata["packages"] if package["id"] in found}
    root = metadata["resolve"]["root"]
    checksums = lock("Cargo.lock")
    others = sorted((package for id, package in packages.items() if id != root), key=reference)
    needs = {id: sorted({reference(packages[d["pkg"]]) for d in nodes[id]["deps"] if d["pkg"] in packages}) for id in packages}
    return bill(
        {**component(packages[root], checksums), "type": "application"},
        [component(package, checksums) for package in others],
        dependencies=sorted(({"ref": reference(packages[id]), "dependsOn": of} for id, of in needs.items()), key=lambda one: one["ref"]),
    )


def main():
    json.dump(of_image() if sys.argv[1:] == ["--image"] else of_program(), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
