//! Our media archives in the hands of other readers.

#![allow(clippy::print_stdout)] // a skipped reader says so

use crate::support::lab::Lab;
use futures_util::StreamExt as _;
use std::{collections::BTreeSet, fs, os::unix::fs::symlink, path::Path, process::Command};

/// Names of every length, times with fractions and before 1970, links of all kinds.
fn fill(media: &Path) {
    let long = "l".repeat(150);
    fs::write(media.join("figures").join(&long), "long").unwrap();
    symlink("gel.txt", media.join("figures/link")).unwrap();
    symlink("t".repeat(160), media.join("figures/long link")).unwrap();
    fs::hard_link(media.join("figures/gel.txt"), media.join("figures/hard")).unwrap();
    crate::support::tree::touch(&media.join("figures/été.bin"), -5, 500_000_000);
}

#[tokio::test]
async fn every_reader_of_tar_opens_a_full_archive_and_finds_all_that_is_in_it() {
    let lab = Lab::new().set("RUST_LOG", "").set("BACKUP_COMPRESSION", "none");
    fill(&lab.media());
    let report = lab.json(&["backup", "media"]);
    let path = report["path"].as_str().unwrap();
    let plain = |name: &str| name.trim_start_matches("./").trim_end_matches('/').to_owned();
    let names =
        |listing: &str| listing.lines().map(plain).filter(|name| !name.is_empty()).collect::<BTreeSet<_>>();

    let mut entries = async_tar::Archive::new(tokio::fs::File::open(path).await.unwrap()).entries().unwrap();
    let mut found = BTreeSet::new();
    while let Some(entry) = entries.next().await {
        found.insert(plain(&entry.unwrap().path().unwrap().to_string_lossy()));
    }
    found.remove("");
    assert_eq!(found.len(), 7, "{found:?}");

    let python = "import sys, tarfile; print('\\n'.join(tarfile.open(sys.argv[1]).getnames()))";
    for [program, args @ ..] in
        [["tar", "--quoting-style=literal", "-tf"], ["bsdtar", "-t", "-f"], ["python3", "-c", python]]
    {
        let listed = match Command::new(program).args(args).arg(path).env("LC_ALL", "C.UTF-8").output() {
            Ok(listed) => listed,
            Err(err) => {
                println!("skipped: {program}: {err}");
                continue;
            }
        };
        assert!(listed.status.success(), "{program}: {}", String::from_utf8_lossy(&listed.stderr));
        let mut listed = names(&String::from_utf8_lossy(&listed.stdout));
        listed.remove(".");
        assert_eq!(listed, found, "{program}");
    }
    // Readers that hold to POSIX take PAX records in POSIX's own headers alone.
    let bytes = fs::read(path).unwrap();
    let headers =
        bytes.chunks(512).filter(|block| block[156] == b'x' && block.starts_with(b"././@PaxHeader"));
    let magics: BTreeSet<_> = headers.map(|header| &header[257..265]).collect();
    assert_eq!(magics, BTreeSet::from([&b"ustar\x0000"[..]]));
}
