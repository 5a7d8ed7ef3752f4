//! Our media archives in the hands of other readers.

#![allow(clippy::print_stdout)] // a skipped reader says so

use crate::media_increment::settled;
use crate::support::lab::Lab;
use async_tar::EntryType;
use futures_util::StreamExt as _;
use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::tempdir;

/// Names of every length, times with fractions and before 1970, links of all kinds.
fn fill(media: &Path) {
    let long = "l".repeat(150);
    fs::write(media.join("figures").join(&long), "long").unwrap();
    symlink("gel.txt", media.join("figures/link")).unwrap();
    symlink("t".repeat(160), media.join("figures/long link")).unwrap();
    fs::hard_link(media.join("figures/gel.txt"), media.join("figures/hard")).unwrap();
    crate::support::tree::touch(&media.join("figures/été.bin"), -5, 500_000_000);
}

const PYTHON: &str = "import sys, tarfile
archive = tarfile.open(sys.argv[1])
print('\\n'.join(archive.getnames()))
archive.extractall(sys.argv[2])";

const NODE: &str = "const path = require('path');
const tar = require(path.join(path.dirname(process.execPath), '../lib/node_modules/npm/node_modules/tar'));
const [file, cwd] = process.argv.slice(1);
tar.t({file, sync: true, strict: true, onentry: entry => console.log(entry.path)});
tar.x({file, cwd, sync: true, strict: true});";

const GO: &str = r#"package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	file, err := os.Open(os.Args[1])
	for reader := tar.NewReader(file); err == nil; {
		var header *tar.Header
		if header, err = reader.Next(); err != nil {
			break
		}
		if header.Typeflag != tar.TypeXGlobalHeader {
			fmt.Println(header.Name)
		}
		path := filepath.Join(os.Args[2], header.Name)
		switch header.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeReg:
			var content []byte
			if content, err = io.ReadAll(reader); err == nil {
				err = os.WriteFile(path, content, 0o644)
			}
		case tar.TypeSymlink:
			err = os.Symlink(header.Linkname, path)
		case tar.TypeLink:
			err = os.Link(filepath.Join(os.Args[2], header.Linkname), path)
		}
	}
	if !errors.Is(err, io.EOF) {
		panic(err)
	}
}
"#;

/// The names that a reader lists of an archive, which it also unpacks into a folder; `None` where the machine has no
/// such reader, and the reason printed.
fn read_by(reader: &str, archive: &str, into: &Path) -> Option<BTreeSet<String>> {
    let shell = |list: &str, unpack: &str| {
        vec!["sh".to_owned(), "-ec".into(), format!("{list}; {unpack}"), "sh".into()]
    };
    let go = into.with_file_name("read.go");
    fs::write(&go, GO).unwrap();
    let mut words = match reader {
        "tar" => shell("tar --quoting-style=literal -tf \"$1\"", "tar -xpf \"$1\" -C \"$2\""),
        "bsdtar" => shell("bsdtar -tf \"$1\"", "bsdtar -xpf \"$1\" -C \"$2\""),
        "python" => vec!["python3".to_owned(), "-c".into(), PYTHON.into()],
        "node" => vec!["node".to_owned(), "-e".into(), NODE.into()],
        _ => vec!["go".to_owned(), "run".into(), go.display().to_string()],
    };
    words.extend([archive.to_owned(), into.display().to_string()]);
    let program = if reader == "bsdtar" { reader } else { &words[0] };
    let there = Command::new(program).arg("--version").output();
    if there.is_err_and(|err| err.kind() == ErrorKind::NotFound) {
        println!("skipped: {reader} is not installed");
        return None;
    }
    let out = Command::new(&words[0]).args(&words[1..]).env("LC_ALL", "C.UTF-8").output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    if reader == "node" && said.contains("Cannot find module") {
        println!("skipped: node has no npm, whose tar is meant");
        return None;
    }
    assert!(out.status.success(), "{reader}: {said}");
    Some(names(&String::from_utf8_lossy(&out.stdout)))
}

fn plain(name: &str) -> String {
    name.trim_start_matches("./").trim_end_matches('/').to_owned()
}

/// The names of a listing, but for that of the root.
fn names(listing: &str) -> BTreeSet<String> {
    listing.lines().map(plain).filter(|name| !name.is_empty() && name != ".").collect()
}

/// Expects that every reader lists these names, and unpacks the file that is named with its content.
fn every_reader_opens(archive: &str, expected: &BTreeSet<String>, (file, content): (&str, &str)) {
    for reader in ["tar", "bsdtar", "python", "node", "go"] {
        let dir = tempdir().unwrap();
        let into: PathBuf = dir.path().join("into");
        fs::create_dir(&into).unwrap();
        let Some(listed) = read_by(reader, archive, &into) else { continue };
        assert_eq!(listed, *expected, "{reader}");
        assert_eq!(fs::read_to_string(into.join(file)).unwrap(), content, "{reader}");
    }
}

async fn by_async_tar(archive: &str) -> BTreeSet<String> {
    let file = tokio::fs::File::open(archive).await.unwrap();
    let mut entries = async_tar::Archive::new(file).entries().unwrap();
    let mut found = BTreeSet::new();
    while let Some(entry) = entries.next().await {
        let entry = entry.unwrap();
        // Records that are about all that follows, as references to earlier archives.
        if entry.header().entry_type() != EntryType::XGlobalHeader {
            found.insert(plain(&entry.path().unwrap().to_string_lossy()));
        }
    }
    found.remove("");
    found
}

#[tokio::test]
async fn every_reader_of_tar_opens_a_full_archive_and_finds_all_that_is_in_it() {
    let lab = Lab::new().set("RUST_LOG", "").set("BACKUP_COMPRESSION", "none");
    fill(&lab.media());
    let report = lab.json(&["backup", "media"]);
    let path = report["path"].as_str().unwrap();
    let found = by_async_tar(path).await;
    assert_eq!(found.len(), 7, "{found:?}");
    let long = format!("figures/{}", "l".repeat(150));
    every_reader_opens(path, &found, (&long, "long"));
    // Readers that hold to POSIX take PAX records in POSIX's own headers alone.
    let bytes = fs::read(path).unwrap();
    let headers =
        bytes.chunks(512).filter(|block| block[156] == b'x' && block.starts_with(b"././@PaxHeader"));
    let magics: BTreeSet<_> = headers.map(|header| &header[257..265]).collect();
    assert_eq!(magics, BTreeSet::from([&b"ustar\x0000"[..]]));
}

#[tokio::test]
async fn every_reader_of_tar_opens_an_incremental_archive_and_finds_all_that_is_in_it() {
    let lab = Lab::new().set("BACKUP_COMPRESSION", "none").set("BACKUP_MEDIA_FULL_EVERY", "7d");
    let lab = lab.set("RUST_LOG", "");
    fill(&lab.media());
    settled(&lab.media()).await;
    let full = lab.json(&["backup", "media"]);
    fs::remove_file(lab.media().join("figures/hard")).unwrap();
    fs::write(lab.media().join("figures/new.txt"), "since yesterday").unwrap();
    settled(&lab.media()).await;
    let second = lab.json(&["backup", "media"]);
    let path = second["path"].as_str().unwrap();
    let found = by_async_tar(path).await;
    let expected = ["figures", "figures/gel.txt", "figures/link", "figures/long link", "figures/new.txt"];
    assert_eq!(found, BTreeSet::from(expected.map(str::to_owned)), "and nothing of what has not changed");
    every_reader_opens(path, &found, ("figures/new.txt", "since yesterday"));

    // What is gone is known from the list of names of its folder, which stands in a record before an ordinary one.
    let bytes = fs::read(path).unwrap();
    assert!(!bytes.chunks(512).any(|block| block[156] == b'D' && block[257..].starts_with(b"ustar")));
    let by_hand = lab.path("by hand");
    fs::create_dir(&by_hand).unwrap();
    for (archive, is_there) in [(&full, true), (&second, false)] {
        let mut tar = Command::new("tar");
        tar.args([
            "-xp",
            "--warning=no-timestamp",
            "--listed-incremental=/dev/null",
            "-f",
            archive["path"].as_str().unwrap(),
            "-C",
        ]);
        let out = tar.arg(&by_hand).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{}", out.stderr.escape_ascii());
        assert_eq!(by_hand.join("figures/hard").exists(), is_there);
    }
    assert!(by_hand.join("figures").join("l".repeat(150)).exists(), "what has not changed stays");
}

#[tokio::test]
async fn a_folder_of_more_names_than_a_record_holds_comes_back_by_ours_and_by_gnu_tar() {
    let lab = Lab::new().set("BACKUP_COMPRESSION", "none").set("BACKUP_MEDIA_FULL_EVERY", "7d");
    let lab = lab.set("RUST_LOG", "");
    let many = lab.media().join("many");
    fs::create_dir(&many).unwrap();
    let name = |number: u32| many.join(format!("{number:05}{}", "n".repeat(245)));
    for number in 0..4_300 {
        fs::write(name(number), "").unwrap();
    }
    settled(&lab.media()).await;
    lab.json(&["backup", "media"]);
    fs::remove_file(name(7)).unwrap();
    settled(&lab.media()).await;
    let second = lab.json(&["backup", "media"]);
    // Readers that look for no such lists pass over records of 1 MiB at most.
    let bytes = fs::read(second["path"].as_str().unwrap()).unwrap();
    let is_list = |block: &[u8]| block[156] == b'D' && block[257..].starts_with(b"ustar");
    assert_eq!(bytes.chunks(512).filter(|block| is_list(block)).count(), 1);
    let expected = crate::media_restore::look(&lab.media());
    let (ours, by_hand) = (lab.path("ours"), lab.path("by hand"));
    lab.json(&["restore", "media", "--yes", "--into", ours.to_str().unwrap()]);
    crate::media_restore::same(&crate::media_restore::look(&ours), &expected);
    fs::create_dir(&by_hand).unwrap();
    let open_with = lab.json(&["show", second["backup_id"].as_str().unwrap()])["open_with"].clone();
    for command in open_with.as_array().unwrap() {
        let out = Command::new("sh").args(["-ec", command.as_str().unwrap()]).current_dir(&by_hand).output();
        assert!(out.unwrap().status.success(), "{command}");
    }
    crate::media_restore::same(&crate::media_restore::look(&by_hand.join("restored")), &expected);
}
