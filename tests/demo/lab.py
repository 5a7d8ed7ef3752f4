"""The lab's data: a database and a media folder, believable in shape and awkward in detail."""

import os
import random
import socket
import uuid
from pathlib import Path


def fill_media(root, megabytes):
    """Figures, papers and tables, and every kind of entry that a careless archive loses.

    About four fifths of the bytes do not compress, as in a real media folder.
    """
    rng = random.Random(20261122)
    root.mkdir(mode=0o755)
    share = megabytes * 1_000_000
    for number in range(24):
        write(root / f"figures/2026/{number % 12 + 1:02}/figure_{number}.png", b"\x89PNG\r\n\x1a\n" + rng.randbytes(share // 60))
    for number in range(12):
        write(root / f"papers/Paper {number} (final).pdf", b"%PDF-1.7\n" + rng.randbytes(share // 30))
    sequence = "".join(rng.choices("ACGU", k=200_000)).encode()
    for number in range(10):
        write(root / f"sequences/run_{number}.fasta", b">run\n" + sequence * (share // 50 // len(sequence)))
    for number in range(1500):
        text = f"sample {number}\n" * rng.randrange(1, 120)
        write(root / f"protocols/{number % 37}/step_{number}.txt", text.encode(), mode=rng.choice([0o644, 0o640, 0o600, 0o444]))
    awkward(root)
    date(root, rng)


def awkward(root):
    raw = os.fsencode(root)
    write(root / "empty.txt", b"")
    write(root / "-rf", b"a name like an option")
    write(root / "two\nlines \\ and 'quotes' \".txt", b"a name for shells")
    write(root / "структура_РНК_🧬.png", b"unicode")
    write(root / ("n" * 251 + ".txt"), b"as long as a name can be")
    write(Path(root, *["deep" * 10] * 8, "leaf.txt"), b"a path longer than a tar header")
    with open(raw + b"/caf\xe9 \xff.jpg", "wb") as latin1:  # not UTF-8
        latin1.write(b"an old camera's name")
    for folder in ("empty folder", "figures/none/yet"):
        (root / folder).mkdir(parents=True)
    (root / "shared").mkdir()
    (root / "shared").chmod(0o2775)
    os.symlink("figures/2026/01/figure_0.png", root / "latest.png")
    os.symlink("nowhere/at/all", root / "dangling")
    os.symlink("figures", root / "a folder by another name")
    os.symlink("/etc/hostname", root / "outside")
    os.symlink("x" * 300, root / "long target")
    for name in ("thumbs/one.png", "thumbs/two.png"):
        (root / "thumbs").mkdir(exist_ok=True)
        os.link(root / "figures/2026/01/figure_0.png", root / name)
    with socket.socket(socket.AF_UNIX) as listening:  # a program's, not data: backups leave it out
        here = os.getcwd()
        os.chdir(root)  # its path must be short
        listening.bind(".uploader.sock")
        os.chdir(here)


def date(root, rng):
    """Times of the last thirty years, folders last: filling them changes theirs."""
    for folder, _, files in os.walk(os.fsencode(root), topdown=False):
        for path in [os.path.join(folder, name) for name in files] + [folder]:
            moment = rng.randrange(800_000_000, 1_760_000_000) * 10**9 + rng.randrange(10**9)
            os.utime(path, ns=(moment, moment), follow_symlinks=False)


def fill_vectors(server):
    """Papers and their protocols, with vectors, references between them, and samples of two tenants."""
    text = {"dataType": ["text"], "name": "title"}
    for name, more in (("Protocol", []), ("Paper", [{"dataType": ["Protocol"], "name": "follows"}])):
        server.ask("POST", "/v1/schema", {"class": name, "vectorizer": "none", "properties": [text, *more]})
    tenants = {"class": "Sample", "vectorizer": "none", "properties": [text], "multiTenancyConfig": {"enabled": True}}
    server.ask("POST", "/v1/schema", tenants)
    server.ask("POST", "/v1/schema/Sample/tenants", [{"name": "wet"}, {"name": "dry"}])
    rng, links = random.Random(20261122), []
    vector = lambda: [round(rng.uniform(-1, 1), 4) for _ in range(16)]  # noqa: E731
    paper = lambda kind, number, title: {  # noqa: E731
        "class": kind, "id": vector_id(kind, number), "vector": vector(), "properties": {"title": title}
    }
    server.put([paper("Protocol", number, f"Protokoll {number} 🧬") for number in range(60)])
    for start in range(0, 900, 300):
        server.put([paper("Paper", number, f"paper \"{number}\"\n") for number in range(start, start + 300)])
    for tenant in ("wet", "dry"):
        server.put([paper("Sample", f"{tenant}-{number}", "RNA") | {"tenant": tenant} for number in range(40)])
    for number in range(900):
        source = f"weaviate://localhost/Paper/{vector_id('Paper', number)}/follows"
        links.append({"from": source, "to": f"weaviate://localhost/Protocol/{vector_id('Protocol', number % 60)}"})
    server.link(links)


def vector_id(kind, number):
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{kind}/{number}"))


def write(path, content, mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
