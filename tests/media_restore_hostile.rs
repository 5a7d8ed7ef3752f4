//! Archives that would do harm, or are not whole: refused, with the live tree as it was.

use crate::media::{media, tar_of};
use crate::media_restore::{areas, look, old_tree, same, stage};
use crate::support::{disk::Tmpfs, tree};
use async_tar::{EntryType, Header};
use rna_backup::{
    component::{ComponentError, Restorable, RestoreOrder, Source, Target},
    domain::{
        facts::{Counts, Facts, FileCounts},
        progress::Meter,
    },
    stream::{
        pack::{Compression, Packer},
        unpack::unpack,
    },
};
use std::{error::Error, fs, path::Path, path::PathBuf};
use tempfile::{TempDir, tempdir};
use tokio::sync::mpsc;

/// One entry, whatever its path is.
fn entry(kind: EntryType, path: &str, target: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    let fields = header.as_gnu_mut().unwrap();
    fields.name[..path.len()].copy_from_slice(path.as_bytes());
    fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = [header.as_bytes(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(path: &str) -> Vec<u8> {
    entry(EntryType::Regular, path, "", b"evil")
}

fn folder(path: &str) -> Vec<u8> {
    entry(EntryType::Directory, path, "", b"")
}

fn symlink(path: &str, target: &str) -> Vec<u8> {
    entry(EntryType::Symlink, path, target, b"")
}

fn link(path: &str, target: &str) -> Vec<u8> {
    entry(EntryType::Link, path, target, b"")
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [&folder("./")[..], &entries.concat(), &[0; 1024]].concat()
}

fn live() -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let root = dir.path().join("live/media");
    old_tree(&root);
    fs::write(dir.path().join("outside"), b"outside").unwrap();
    (dir, root)
}

fn said(err: &ComponentError) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text.push_str(&format!(": {err}"));
        cause = err.source();
    }
    text
}

/// Stages what must be refused, beside a live tree, and looks that nothing changed anywhere.
async fn refused(tar: &[u8], facts: Option<&Facts>) -> ComponentError {
    let (dir, root) = live();
    let before = tree::look(dir.path());
    let staged = stage(&media(&root), tar, &Target::Live, facts).await;
    let err = staged.map(|staged| staged.counts().clone()).expect_err("refused");
    assert_eq!(areas(&root), [""; 0].map(PathBuf::from));
    // The parent of the media held the copy for a moment.
    tree::touch(&dir.path().join("live"), 1, 1);
    let mut after = tree::look(dir.path());
    let parent = before["live".as_ref() as &std::ffi::OsStr].modified;
    after.get_mut("live".as_ref() as &std::ffi::OsStr).unwrap().modified = parent;
    same(&after, &before);
    err
}

/// Facts that promise more than anybody needs.
fn generous() -> Facts {
    let files = FileCounts { files: 100, directories: 100, symlinks: 100, hard_links: 100, bytes: 1_000_000 };
    Facts { counts: Counts { files: Some(files), ..Counts::default() }, ..Facts::default() }
}

#[tokio::test]
async fn what_climbs_out_is_refused() {
    for (entries, why) in [
        (vec![file("../evil")], "upwards"),
        (vec![folder("a/"), file("a/../../evil")], "upwards"),
        (vec![file("a/..")], "upwards"),
        (vec![folder("..")], "upwards"),
        (vec![file("/tmp/evil")], "absolute"),
        (vec![folder("/")], "absolute"),
        (vec![link("passwd", "/etc/passwd")], "leaves"),
        (vec![link("out", "../../outside")], "leaves"),
        (vec![folder("a/"), link("a/self", "./")], "root"),
        (vec![link("early", "late"), file("late")], "did not come before"),
        (vec![folder("a/"), link("b", "a")], "other than a file"),
        (vec![folder("a/"), symlink("l", "a"), file("l/evil")], "no folder"),
        (vec![symlink("l", "."), folder("l/a/")], "no folder"),
        (vec![file("f"), file("f/evil")], "no folder"),
        (vec![file("f"), symlink("l", "."), link("g", "l/f")], "did not come before"),
        (
            vec![folder(".rna-before-20260101_000000"), file(".rna-before-20260101_000000/rna-backup")],
            "restores use",
        ),
        (
            vec![folder(".rna-restore-20260101_000000"), folder(".rna-restore-20260101_000000/rna-backup")],
            "restores use",
        ),
        (vec![entry(EntryType::Char, "dev", "", b"")], "unexpected type"),
        (vec![entry(EntryType::Fifo, "pipe", "", b"")], "unexpected type"),
        (vec![symlink("./", "a")], "no folder"),
    ] {
        for facts in [None, Some(generous())] {
            let err = refused(&archive(&entries), facts.as_ref()).await;
            assert!(
                matches!(err, ComponentError::Corrupt { .. }) && said(&err).contains(why),
                "{}",
                said(&err)
            );
        }
    }
}

#[tokio::test]
async fn links_that_leave_come_back_only_by_a_manifest_and_nothing_goes_through_them() {
    for entries in [
        vec![symlink("l", "/etc")],
        vec![symlink("l", "../outside")],
        vec![folder("a/"), symlink("a/l", "../../x")],
        vec![folder("a/"), folder("a/b/"), symlink("a/b/up", "../.."), symlink("l", "a/b/up/../x")],
    ] {
        let err = refused(&archive(&entries), None).await;
        assert!(said(&err).contains("link that leaves"), "{}", said(&err));
        let through = [&entries[..], &[file("l/evil"), file("a/l/evil")]].concat();
        let err = refused(&archive(&through), Some(&generous())).await;
        assert!(said(&err).contains("no folder"), "{}", said(&err));
    }
    let (_dir, root) = live();
    let tar = archive(&[folder("a/"), symlink("a/l", "../b"), symlink("b", "a"), symlink("to", "./a//.")]);
    stage(&media(&root), &tar, &Target::Live, None).await.unwrap();
}

#[tokio::test]
async fn names_that_end_up_equal_are_refused() {
    for entries in [
        vec![file("a"), file("a")],
        vec![file("a"), file("./a")],
        vec![folder("a/"), file("a/b"), file("a//b")],
        vec![folder("a/"), folder("a")],
        vec![folder("a/"), file("a/./b"), symlink("a/b", "c")],
        vec![file("a"), symlink("a", "b")],
        vec![file("a/b"), folder("a/")],
        vec![file("a"), file("b"), link("b", "a")],
        vec![folder(".")],
    ] {
        let err = refused(&archive(&entries), None).await;
        let said = said(&err);
        assert!(matches!(err, ComponentError::Corrupt { .. }) && said.contains("comes twice"), "{said}");
    }
}

#[tokio::test]
async fn bombs_do_not_go_off() {
    let mut few = generous();
    few.counts.files = Some(FileCounts { files: 2, bytes: 8, ..FileCounts::default() });
    let fits = archive(&[file("a"), file("b")]);
    let (_dir, root) = live();
    stage(&media(&root), &fits, &Target::Live, Some(&few)).await.unwrap();
    let many = archive(&[file("a"), folder("b/"), folder("c/")]);
    let large = archive(&[entry(EntryType::Regular, "a", "", &[0; 9])]);
    for tar in [many, large] {
        let err = refused(&tar, Some(&few)).await;
        assert!(said(&err).contains("more than its manifest says"), "{}", said(&err));
    }
    // Refused by its size, before a byte of it is there.
    let mut header = Header::from_byte_slice(&file("bomb")[..512]).clone();
    header.set_size(1 << 50);
    header.set_cksum();
    let err = refused(header.as_bytes(), None).await;
    assert!(err.is_transient() && said(&err).contains("room"), "{}", said(&err));
    let mut huge = generous();
    huge.counts.files = Some(FileCounts { bytes: 1 << 50, ..FileCounts::default() });
    let err = refused(&fits, Some(&huge)).await;
    assert!(err.is_transient() && said(&err).contains("room"), "{}", said(&err));
    let deep = "a/".repeat(45);
    let mut entries = vec![folder(&deep)];
    entries[0][156] = b'5';
    stage(&media(&root), &archive(&entries), &Target::Live, None).await.unwrap();
}

#[tokio::test]
async fn sparse_files_that_cannot_be_are_refused_rather_than_garbled() {
    const NEW: &str = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n29 GNU.sparse.realsize=10000\n";
    let map = |text: &str| {
        let mut content = text.as_bytes().to_vec();
        content.resize(512, 0);
        content.extend([7; 1024]);
        content
    };
    let holes = |size: &str, map: &str| {
        let mut records = Vec::new();
        for (key, value) in [("GNU.sparse.size", size), ("GNU.sparse.map", map)] {
            let length = key.len() + value.len() + 5; // of two digits
            records.extend(format!("{length} {key}={value}\n").into_bytes());
        }
        records
    };
    for (records, content, why) in [
        (NEW.into(), map("2\n0\n512\n256\n512\n"), "overlap"),
        (NEW.into(), map("2\n512\n512\n0\n512\n"), "no order"),
        (NEW.into(), map("2\n0\n512\n9728\n512\n"), "beyond the end"),
        (NEW.into(), map("1\n18446744073709551615\n1024\n"), "beyond the end"),
        (NEW.into(), map("1\n18446744073709551616\n1024\n"), "map of holes is broken"),
        (NEW.into(), map("1\n0\n512\n"), "has 1024 bytes in the archive, and should have 512"),
        (NEW.into(), map("1\n0\n2048\n"), "has 1024 bytes in the archive, and should have 2048"),
        (NEW.into(), map("1048577\n"), "more than a million holes"),
        (NEW.into(), map("99999\n0\n512\n"), "map of holes is broken"),
        (NEW.into(), b"2\n0\n".to_vec(), "cut short"),
        (NEW.replace("minor=0", "minor=7").into(), map("1\n0\n1024\n"), "version 1.7, which is not known"),
        (NEW.replace("major=1", "major=2").into(), map("1\n0\n1024\n"), "version 2.0, which is not known"),
        (b"22 GNU.sparse.major=1\n".to_vec(), map("1\n0\n1024\n"), "without a length"),
        (b"22 GNU.sparse.major=x\n".to_vec(), map("1\n0\n1024\n"), "PAX record is broken"),
        (holes("10000", "0,512,256,512"), vec![7; 1024], "overlap"),
        (holes("10000", "0,1024,5"), vec![7; 1024], "map of holes is broken"),
        (holes("10000", "0,512,1024,256"), vec![7; 1024], "should have 768"),
        (holes("10000", "0,100,1024,924"), vec![7; 1024], "does not fill its blocks"),
    ] {
        let entries =
            [entry(EntryType::XHeader, "x", "", &records), entry(EntryType::Regular, "a", "", &content)];
        for facts in [None, Some(generous())] {
            let err = refused(&archive(&entries), facts.as_ref()).await;
            assert!(
                matches!(err, ComponentError::Corrupt { .. }) && said(&err).contains(why),
                "{why}: {}",
                said(&err)
            );
        }
    }
    // A length that no file can have is one that there is no room for, and one beyond a manifest is refused.
    for (size, why, facts) in [
        ("9223372036854775807", "room", None),
        ("18446744073709551615", "room", None),
        ("10000000", "manifest", Some(generous())),
    ] {
        let records = entry(EntryType::XHeader, "x", "", &holes(size, "0,1024"));
        let entries = [records, entry(EntryType::Regular, "a", "", &[7; 1024])];
        let err = refused(&archive(&entries), facts.as_ref()).await;
        assert!(said(&err).contains(why), "{size}: {}", said(&err));
    }
}

async fn compressed(root: &Path) -> (Vec<u8>, Facts) {
    let (sink, mut pieces) = mpsc::channel(2);
    let mut packer = Packer::start(Compression::default(), None, sink);
    let (media, meter) = (media(root), Meter::default());
    let pack = async {
        let facts = media.back_up(None, &mut packer, &meter).await.unwrap();
        packer.finish().await.unwrap();
        facts
    };
    let collect = async {
        let mut archive = Vec::new();
        while let Some(piece) = pieces.recv().await {
            archive.extend_from_slice(&piece);
        }
        archive
    };
    let (facts, archive) = tokio::join!(pack, collect);
    (archive, facts)
}

/// As the engine feeds it: through the frame of the compression.
async fn refused_frame(archive: &[u8], facts: &Facts) -> ComponentError {
    let (_dir, root) = live();
    let before = look(&root);
    let mut feed = unpack(Compression::default(), archive);
    let err = media(&root)
        .stage(&mut feed, &RestoreOrder::new(&Target::Live, Some(facts)), &Meter::default())
        .await;
    assert_eq!(areas(&root).len(), 0);
    same(&look(&root), &before);
    err.expect_err("refused")
}

#[tokio::test]
async fn an_archive_that_is_cut_or_damaged_or_empty_is_refused() {
    let dir = tempdir().unwrap();
    tree::fill(dir.path());
    let (tar, facts) = tar_of(dir.path(), || ()).await;
    let (archive, _) = compressed(dir.path()).await;
    assert!(archive.len() > 200_000);
    let mut flipped = archive.clone();
    flipped[archive.len() / 2] ^= 4;
    for broken in [&archive[..archive.len() * 7 / 10], &archive[..archive.len() - 65_536], &flipped, &[]] {
        let err = refused_frame(broken, &facts).await;
        assert!(matches!(err, ComponentError::Corrupt { .. }), "{} bytes: {}", broken.len(), said(&err));
    }
    for broken in [&tar[..tar.len() * 7 / 10], &tar[..tar.len() - 65_536], &tar[..tar.len() - 1], &[]] {
        let err = refused(broken, Some(&facts)).await;
        assert!(matches!(err, ComponentError::Corrupt { .. }), "{} bytes: {}", broken.len(), said(&err));
    }
}

#[tokio::test]
async fn a_stage_that_nobody_waits_for_leaves_nothing() {
    let (_dir, root) = live();
    let before = look(&root);
    let tar = archive(&[file("a")]);
    let (media, meter) = (media(&root), Meter::default());
    let mut feed = tokio::io::AsyncReadExt::chain(&tar[..1024], Endless);
    {
        let (target, begun) = (Target::Live, async {
            while areas(&root).is_empty() {
                tokio::task::yield_now().await;
            }
        });
        let order = RestoreOrder::new(&target, None);
        tokio::select! {
            _ = media.stage(&mut feed, &order, &meter) => unreachable!("it has no end"),
            () = begun => {}
        }
    }
    while !areas(&root).is_empty() {
        tokio::task::yield_now().await;
    }
    same(&look(&root), &before);
}

/// Never says anything.
struct Endless;

impl tokio::io::AsyncRead for Endless {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn a_disk_that_fills_up_leaves_the_live_data_and_the_disk_as_they_were() {
    let Some(disk) = Tmpfs::mount("8m") else {
        return println!("skipped: mounting a tmpfs is not allowed here");
    };
    let beside = disk.path().join("media");
    old_tree(&beside);
    let (content, mut entries) = (vec![7; 1 << 20], Vec::new());
    for n in 0..12 {
        entries.push(entry(EntryType::Regular, &format!("f{n}"), "", &content));
    }
    let tar = archive(&entries);
    // With a manifest it is known beforehand; without one it is found out.
    for root in [&*beside, disk.path()] {
        let before = look(root);
        for facts in [None, Some(Facts { counts: counts_of(12, 12 << 20), ..Facts::default() })] {
            let err = stage(&media(root), &tar, &Target::Live, facts.as_ref()).await.unwrap_err();
            assert!(matches!(err, ComponentError::Unavailable { .. }) && err.is_transient(), "{err:?}");
            assert_eq!(areas(&beside).len(), 0);
        }
        if root == beside {
            tree::touch(disk.path(), 1_000, 5);
        }
        same(&look(root), &before);
    }
}

fn counts_of(files: u64, bytes: u64) -> Counts {
    Counts { files: Some(FileCounts { files, bytes, ..FileCounts::default() }), ..Counts::default() }
}
