//! Files with holes: these stay holes, in archives and after, with GNU tar on either side.

use crate::media::{decode, media, tar_of};
use crate::media_restore::{areas, look, same, stage};
use crate::support::{lab::Lab, tree};
use rna_backup::{
    component::{Restorable, RestoreOrder, Staged, Target},
    domain::{facts::Facts, progress::Meter},
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::{TempDir, tempdir};

const BLOCK: u64 = 4096;

/// Makes a file of that size with data at these offsets, each a block long or up to the end.
fn sparse(path: &Path, size: u64, data: &[u64]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for offset in data {
        let length = BLOCK.min(size - offset);
        let byte = u8::try_from(offset / BLOCK % 250 + 1).unwrap();
        file.write_all_at(&vec![byte; usize::try_from(length).unwrap()], *offset).unwrap();
    }
    file.sync_all().unwrap();
    tree::touch(path, 1_700_000_000, 5);
}

/// A tree with holes at each place.
fn holes() -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("below").join("d".repeat(200))).unwrap();
    let mib = 1 << 20;
    sparse(&source.join("begins with one"), mib + 100, &[mib]);
    sparse(&source.join("ends with one"), mib + 100, &[0]);
    sparse(&source.join("is one"), mib, &[]);
    sparse(&source.join("is a small one"), 100, &[]);
    sparse(&source.join("in the middle"), mib, &[0, mib - BLOCK]);
    sparse(&source.join("many"), 4_000 * BLOCK, &(0..2_000).map(|n| n * 2 * BLOCK).collect::<Vec<_>>());
    sparse(&source.join("below/a gigabyte.img"), 1 << 30, &[0, 100 * mib, (1 << 30) - BLOCK]);
    sparse(&source.join("below").join("d".repeat(200)).join("long name"), mib, &[BLOCK]);
    sparse(&source.join(OsStr::from_bytes(b"caf\xe9=\n")), mib, &[BLOCK]);
    sparse(&source.join("photo.jpg"), mib, &[BLOCK]);
    fs::hard_link(source.join("in the middle"), source.join("linked")).unwrap();
    fs::write(source.join("none"), vec![7; 100_000]).unwrap();
    (dir, source)
}

/// Bytes on the disk, by file.
fn allocated(root: &Path) -> Vec<(PathBuf, u64)> {
    let all = look(root).into_keys().map(|name| (PathBuf::from(&name), root.join(name)));
    let mut files: Vec<_> = all.filter(|(_, path)| path.is_file()).collect();
    files.sort();
    let blocks = |(name, path): (PathBuf, PathBuf)| (name, fs::metadata(path).unwrap().blocks() * 512);
    files.into_iter().map(blocks).collect()
}

/// Whether two trees are equal, and take the same place.
#[track_caller]
fn same_with_holes(found: &Path, expected: &Path) {
    same(&look(found), &look(expected));
    for ((name, found), (_, expected)) in allocated(found).into_iter().zip(allocated(expected)) {
        assert!(found <= expected + 2 * BLOCK, "{} takes {found} bytes, not {expected}", name.display());
    }
}

async fn staged(root: &Path, tar: &[u8], facts: Option<&Facts>) -> (Box<dyn Staged>, PathBuf) {
    let meter = Meter::default();
    let staged =
        media(root).stage(&mut &*tar, &RestoreOrder::new(&Target::Scratch, facts), &meter).await.unwrap();
    assert_eq!(meter.take_warnings(), [""; 0]);
    (staged, areas(root)[0].join("tree"))
}

async fn differences(staged: &dyn Staged, tar: &[u8]) -> Vec<String> {
    staged.differences(&mut &*tar, &Meter::default()).await.unwrap()
}

fn gnu_tar(args: &[&OsStr]) {
    let out = Command::new("tar").args(args).output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{}", out.stderr.escape_ascii());
}

#[tokio::test]
async fn holes_stay_holes_in_archives_and_after_by_ours_and_by_gnu_tar() {
    let (dir, source) = holes();
    let meter = Meter::default();
    let (tar, facts) = tar_of(&source, || ()).await;
    assert!(tar.len() < 12 << 20, "{} bytes", tar.len());
    let counts = facts.counts.attributes.unwrap();
    let (bytes, stored) = (facts.counts.files.unwrap().bytes, facts.stored_bytes());
    assert_eq!((counts.sparse, counts.hole_bytes), (10, bytes - stored));
    assert_eq!((facts.source_bytes, facts.warnings.len()), (bytes, 0));
    assert_eq!(decode(&tar).await.unwrap(), facts.counts);

    let root = dir.path().join("media");
    fs::create_dir(&root).unwrap();
    let (copy, tree) = staged(&root, &tar, Some(&facts)).await;
    same_with_holes(&tree, &source);
    assert_eq!(copy.counts(), &facts.counts);
    assert_eq!(differences(&*copy, &tar).await, [""; 0]);
    let plan = media(&root).plan(&Target::Live, Some(&facts)).await.unwrap();
    assert!(plan.needs_bytes.unwrap() < 12 << 20, "{plan:?}");

    let (archive, by_hand) = (dir.path().join("archive"), dir.path().join("by hand"));
    fs::write(&archive, &tar).unwrap();
    fs::create_dir(&by_hand).unwrap();
    gnu_tar(&["-xpSf".as_ref(), archive.as_ref(), "-C".as_ref(), by_hand.as_ref()]);
    same_with_holes(&by_hand, &source);

    // Without a change in size or time, in data and in a hole.
    for (name, offset) in [("many", 2 * BLOCK), ("many", 3 * BLOCK + 7), ("is one", (1 << 20) - 1)] {
        let file = File::options().write(true).open(tree.join(name)).unwrap();
        file.write_all_at(b"\xff", offset).unwrap();
        tree::touch(&tree.join(name), 1_700_000_000, 5);
        let found = differences(&*copy, &tar).await;
        assert!(found.contains(&format!("{name:?} has another content")), "{name} at {offset}: {found:?}");
    }
    drop(meter);
}

#[tokio::test]
async fn zeros_in_the_place_of_holes_are_the_same_content() {
    let (dir, source) = holes();
    let root = dir.path().join("media");
    fs::create_dir(&root).unwrap();
    let (tar, facts) = tar_of(&source, || ()).await;
    let (copy, tree) = staged(&root, &tar, Some(&facts)).await;
    for name in ["many", "is one", "ends with one"] {
        let content = fs::read(tree.join(name)).unwrap();
        fs::write(tree.join(name), &content).unwrap();
        tree::touch(&tree.join(name), 1_700_000_000, 5);
    }
    assert!(allocated(&tree) != allocated(&source));
    assert_eq!(differences(&*copy, &tar).await, [""; 0]);
}

#[tokio::test]
async fn sparse_archives_of_gnu_tar_in_all_its_forms_are_read() {
    let (dir, source) = holes();
    let root = dir.path().join("media");
    fs::create_dir(&root).unwrap();
    let archive = dir.path().join("archive");
    for form in [
        &["--format=posix", "--sparse-version=1.0"][..],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=gnu"],
        &["--format=oldgnu"],
    ] {
        let mut args: Vec<&OsStr> = vec!["-cSf".as_ref(), archive.as_ref(), "-C".as_ref(), source.as_ref()];
        args.extend(form.iter().map(OsStr::new));
        args.push(".".as_ref());
        gnu_tar(&args);
        let tar = fs::read(&archive).unwrap();
        assert!(tar.len() < 12 << 20, "{form:?}: {} bytes", tar.len());
        let counts = decode(&tar).await.unwrap();
        assert_eq!(counts.files.unwrap().bytes, tar_of(&source, || ()).await.1.source_bytes, "{form:?}");
        let (copy, tree) = staged(&root, &tar, None).await;
        // Its other forms than the first have whole seconds; the tree's folders have fractions.
        for (name, seen) in look(&source) {
            if let Some(content) = seen.content {
                assert!(fs::read(tree.join(&name)).unwrap() == content, "{form:?} {}", name.display());
            }
        }
        for ((name, found), (_, expected)) in allocated(&tree).into_iter().zip(allocated(&source)) {
            assert!(
                found <= expected + 2 * BLOCK,
                "{form:?}: {} takes {found}, not {expected}",
                name.display()
            );
        }
        assert_eq!(differences(&*copy, &tar).await, [""; 0], "{form:?}");
        copy.discard().await.unwrap();
    }
}

#[tokio::test]
async fn a_file_with_more_holes_than_are_worth_it_is_stored_in_full() {
    let dir = tempdir().unwrap();
    let (source, root) = (dir.path().join("source"), dir.path().join("media"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&root).unwrap();
    let count = (1 << 16) + 1;
    sparse(&source.join("holey"), count * 2 * BLOCK, &(0..count).map(|n| n * 2 * BLOCK).collect::<Vec<_>>());
    let (tar, facts) = tar_of(&source, || ()).await;
    assert_eq!(facts.counts.attributes.unwrap().sparse, 0);
    assert!(tar.len() as u64 > count * 2 * BLOCK);
    assert_eq!(decode(&tar).await.unwrap(), facts.counts);
    let (copy, tree) = staged(&root, &tar, Some(&facts)).await;
    same(&look(&tree), &look(&source));
    assert_eq!(differences(&*copy, &tar).await, [""; 0]);
}

#[tokio::test]
async fn a_sparse_file_that_changes_while_it_is_read_still_gives_a_whole_archive() {
    let dir = tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    // With more data than is read ahead before the first of it is taken.
    let data: Vec<_> = (0..4_096).map(|n| (n + 1) * BLOCK).collect();
    sparse(&source.join("a"), 64 << 20, &data);
    sparse(&source.join("b"), 64 << 20, &[0, 32 << 20, 60 << 20]);
    let file = File::options().write(true).open(source.join("a")).unwrap();
    let shrink = || file.set_len(8 << 20).unwrap();
    let (tar, facts) = tar_of(&source, shrink).await;
    assert_eq!(facts.warnings, ["\"a\" shrank while it was read, filled up with zeros"]);
    assert_eq!(decode(&tar).await.unwrap(), facts.counts);
    let root = dir.path().join("media");
    fs::create_dir(&root).unwrap();
    let (copy, _) = staged(&root, &tar, Some(&facts)).await;
    assert_eq!(differences(&*copy, &tar).await, [""; 0]);
}

#[tokio::test]
async fn a_sparse_file_larger_than_the_disk_is_backed_up_drilled_and_restored_also_when_an_earlier_archive_holds_it()
 {
    let lab = Lab::new().set("BACKUP_MEDIA_FULL_EVERY", "7d");
    let size = 8 << 40;
    sparse(&lab.media().join("disk.img"), size, &[0, 5 << 40, size - BLOCK]);
    crate::media_increment::settled(&lab.media()).await;
    for backup in ["full", "incremental"] {
        fs::write(lab.media().join(backup), backup).unwrap();
        let id = lab.json(&["backup", "media"])["backup_id"].as_str().unwrap().to_owned();
        let manifest = fs::read(lab.backups().join(format!("manifests/media/{id}.json"))).unwrap();
        let facts = serde_json::from_slice::<serde_json::Value>(&manifest).unwrap()["facts"].clone();
        assert_eq!(facts["builds_on"].is_null(), backup == "full");
        assert_eq!(facts["counts"]["attributes"]["hole_bytes"], size - 3 * BLOCK, "{facts}");
        let results = lab.json(&["verify", "media", &id, "--drill"])["results"].clone();
        assert_eq!(results[0]["ok"], true, "{results}");
        let into = lab.path(backup);
        lab.json(&["restore", "media", &id, "--yes", "--into", into.to_str().unwrap()]);
        let restored = fs::metadata(into.join("disk.img")).unwrap();
        assert_eq!(restored.len(), size);
        assert!(restored.blocks() * 512 < 1 << 20);
        let file = File::open(into.join("disk.img")).unwrap();
        let mut byte = [0; 1];
        file.read_exact_at(&mut byte, 5 << 40).unwrap();
        assert!(byte[0] > 0);
    }
}

#[tokio::test]
async fn a_hole_where_a_file_system_has_none_is_a_warning() {
    let dir = tempdir().unwrap();
    let (source, root) = (dir.path().join("source"), dir.path().join("media"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&root).unwrap();
    // A hole smaller than a block of the file system: it cannot be one.
    let records = [("GNU.sparse.size", "4096"), ("GNU.sparse.map", "1024,512")];
    let mut pax = Vec::new();
    for (key, value) in records {
        let length = key.len() + value.len() + 5;
        pax.extend(format!("{length} {key}={value}\n").into_bytes());
    }
    let entry = tree::tar_entry;
    let tar =
        [entry(b'5', "./", b""), entry(b'x', "x", &pax), entry(b'0', "a", &[7; 512]), vec![0; 1024]].concat();
    let meter = Meter::default();
    let copy =
        media(&root).stage(&mut &*tar, &RestoreOrder::new(&Target::Scratch, None), &meter).await.unwrap();
    let warnings = meter.take_warnings();
    assert_eq!(
        warnings,
        [
            "Of the files and folders, these came back without: 1 with holes: the file system cannot hold them."
        ]
    );
    let content = fs::read(areas(&root)[0].join("tree/a")).unwrap();
    assert_eq!(content, [vec![0; 1024], vec![7; 512], vec![0; 2560]].concat());
    assert_eq!(differences(&*copy, &tar).await, [""; 0]);
    copy.discard().await.unwrap();
    stage(&media(&root), &tar, &Target::Live, None).await.unwrap().discard().await.unwrap();
}
