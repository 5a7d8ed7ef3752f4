"""The same data for every contender, made anew from a fixed seed."""

import random

WORDS = (
    "rna guide strand cleavage sample buffer incubate minutes protocol figure sequence transcript ribosome splice exon "
    "intron primer assay reagent plasmid vector culture medium passage lysate gel lane band marker control replicate"
).split()


def mixed(root, count_bytes):
    """A media folder: two thirds incompressible, and 20,000 small files to the gigabyte."""
    big_mixed(root / "big", count_bytes - count_bytes // 13, packed=7)
    small_files(root / "small", count_bytes // 50_000)


def incompressible(root, count_bytes):
    """Images and PDFs alone."""
    big_mixed(root, count_bytes, packed=10)


def big_mixed(root, count_bytes, packed=8):
    """Large files: so many of ten are images and PDFs, the rest tables and text."""
    rng = random.Random(1)
    each = 12_000_000
    for number in range(max(1, count_bytes // each)):
        kind = number % 10
        folder = root / f"{number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        if kind < packed // 2:
            (folder / f"figure_{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + rng.randbytes(each))
        elif kind < packed:
            (folder / f"paper_{number}.pdf").write_bytes(b"%PDF-1.7\n" + rng.randbytes(each))
        else:
            (folder / f"table_{number}.csv").write_bytes(prose(rng, each))


def small_files(root, count):
    """4 KB files, half of each compressible."""
    rng = random.Random(2)
    text = prose(rng, 1_000_000)
    for number in range(count):
        if number % 500 == 0:
            folder = root / f"{number // 5000:03}" / f"{number // 500 % 10}"
            folder.mkdir(parents=True)
        at = rng.randrange(len(text) - 2048)
        (folder / f"{number}.dat").write_bytes(rng.randbytes(2048) + text[at : at + 2048])


def text_files(root, count_bytes):
    """Text that compresses well, in files of 5 MB."""
    rng = random.Random(3)
    root.mkdir(parents=True)
    for number in range(max(1, count_bytes // 5_000_000)):
        (root / f"log_{number}.txt").write_bytes(prose(rng, 5_000_000))


def prose(rng, length):
    """Lines of random words with numbers: zstd -3 makes about a third of it."""
    lines, size = [], 0
    while size < length:
        line = f"{rng.randrange(10**6):06} {' '.join(rng.choices(WORDS, k=12))} {rng.random():.4f}\n"
        lines.append(line)
        size += len(line)
    return "".join(lines).encode()[:length]


# Text, history and vectors: with 1.21 million rows about 600 MB of database.
DATABASE = """
create table api_documentchunk (id bigint primary key, document_id integer not null, content text not null,
    score double precision, created_at timestamptz not null);
insert into api_documentchunk select i, i % 9973, 'step ' || i || ' ' || md5(i::text) || ' incubate ' || md5((i * 7)::text)
    || ' with buffer ' || i % 100, random(), timestamptz '2025-01-01' + i * interval '9 seconds' from generate_series(1, {rows}) i;
create table search_queryhistory (id bigint primary key, user_id integer not null, query_text text not null,
    answer jsonb, asked_at timestamptz not null);
insert into search_queryhistory select i, i % 211, 'how much ' || md5((i * 3)::text) || ' is in ' || i,
    jsonb_build_object('confidence', random(), 'sources', jsonb_build_array(i % 997, i % 499)),
    timestamptz '2025-01-01' + i * interval '11 seconds' from generate_series(1, {rows}) i;
create table api_embedding (chunk_id bigint primary key, vector real[] not null);
insert into api_embedding select i, (select array_agg((random() * 2 - 1)::real) from generate_series(1, 96 + 0 * i))
    from generate_series(1, {rows} / 12) i;
create index on search_queryhistory (user_id, asked_at);
vacuum analyze;
checkpoint;
"""
