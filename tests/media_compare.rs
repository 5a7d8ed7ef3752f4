//! A staged copy compared with its archive: what is equal is, and what differs is named.

use crate::media::{media, tar_of};
use crate::media_restore::{areas, look, same, stage};
use crate::support::tree;
use rna_backup::{
    component::{ComponentError, Staged, Target},
    domain::progress::Meter,
};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::{
    fs::{self, OpenOptions, Permissions},
    io::{Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
    thread,
};
use tempfile::{TempDir, tempdir};

/// A staged copy, where it lies, and its archive.
struct Copied {
    staged: Box<dyn Staged>,
    tree: PathBuf,
    tar: Vec<u8>,
    _dir: TempDir,
}

impl Copied {
    async fn new() -> Self {
        let dir = tempdir().unwrap();
        let (source, root) = (dir.path().join("source"), dir.path().join("media"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&root).unwrap();
        tree::fill(&source);
        chown(source.join("a.txt"), Some(1234), Some(99)).unwrap();
        fs::set_permissions(source.join("a.txt"), Permissions::from_mode(0o4755)).unwrap();
        let (tar, facts) = tar_of(&source, || ()).await;
        let staged = stage(&media(&root), &tar, &Target::Scratch, Some(&facts)).await.unwrap();
        let tree = areas(&root)[0].join("tree");
        same(&look(&tree), &look(&source));
        Self { staged, tree, tar, _dir: dir }
    }

    async fn differences(&self, tar: &[u8]) -> Result<Vec<String>, ComponentError> {
        self.staged.differences(&mut &*tar, &Meter::default()).await
    }
}

/// Changes something in a folder and gives the folder its time back.
fn quietly(folder: &Path, change: impl FnOnce()) {
    let before = fs::metadata(folder).unwrap();
    change();
    tree::touch(folder, before.mtime(), before.mtime_nsec());
}

/// Changes one byte in place: neither size nor time tell.
fn spoil(path: &Path, at: u64) {
    let before = fs::metadata(path).unwrap();
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(b"\x01").unwrap();
    tree::touch(path, before.mtime(), before.mtime_nsec());
}

#[tokio::test]
async fn a_copy_is_equal_to_its_archive() {
    let copied = Copied::new().await;
    let meter = Meter::default();
    let differences = copied.staged.differences(&mut &*copied.tar, &meter).await.unwrap();
    assert_eq!(differences, [""; 0]);
    assert_eq!(meter.read().0, copied.tar.len() as u64);
    copied.staged.discard().await.unwrap();
}

/// What is done to a copy: the entry that must be named for it, how, and what it is.
type Change = (&'static str, &'static str, fn(&Path));

/// Does every change to a copy of its own; one sentence must come of each.
async fn named(changes: &[Change]) {
    for (name, how, change) in changes {
        let copied = Copied::new().await;
        change(&copied.tree);
        let found = copied.differences(&copied.tar).await.unwrap();
        let named = found.len() == 1 && found[0].starts_with(&format!("{name:?} {how}"));
        assert!(named, "{name}: {found:?}");
    }
}

#[tokio::test]
async fn contents_and_attributes_that_differ_are_named() {
    named(&[
        ("photos/gel 1.jpg", "has another content", |tree| spoil(&tree.join("photos/gel 1.jpg"), 899_999)),
        ("a.txt", "has another content", |tree| spoil(&tree.join("a.txt"), 0)),
        ("empty.dat", "has mode 0644, not 0600", |tree| {
            fs::set_permissions(tree.join("empty.dat"), Permissions::from_mode(0o644)).unwrap();
        }),
        ("sticky/", "has mode 0777, not 1777", |tree| {
            fs::set_permissions(tree.join("sticky"), Permissions::from_mode(0o777)).unwrap();
        }),
        ("./", "has mode 0777, not 0711", |tree| {
            fs::set_permissions(tree, Permissions::from_mode(0o777)).unwrap();
        }),
        ("a.txt", "belongs to 1234:98, not to 1234:99", |tree| {
            chown(tree.join("a.txt"), None, Some(98)).unwrap();
        }),
        ("link", "leads to \"b.txt\", not to \"a.txt\"", |tree| {
            quietly(tree, || {
                fs::remove_file(tree.join("link")).unwrap();
                symlink("b.txt", tree.join("link")).unwrap();
            });
        }),
        ("dangling", "was modified at 1600000000.000000006, not at 1600000000.000000005", |tree| {
            tree::touch(&tree.join("dangling"), 1_600_000_000, 6);
        }),
        ("block.dat", "was modified at -1000001.", |tree| {
            tree::touch(&tree.join("block.dat"), -1_000_001, 0);
        }),
        ("photos/deep/", "was modified at 1.", |tree| tree::touch(&tree.join("photos/deep"), 1, 0)),
    ])
    .await;
}

#[tokio::test]
async fn what_is_missing_or_something_else_is_named() {
    named(&[
        ("block.dat", "is not in the copy", |tree| {
            quietly(tree, || fs::remove_file(tree.join("block.dat")).unwrap());
        }),
        ("block.dat", "is a folder, not a file", |tree| {
            quietly(tree, || {
                fs::remove_file(tree.join("block.dat")).unwrap();
                fs::create_dir(tree.join("block.dat")).unwrap();
            });
        }),
        ("nothing in here/", "is a symbolic link, not a folder", |tree| {
            quietly(tree, || {
                fs::remove_dir(tree.join("nothing in here")).unwrap();
                symlink("/etc", tree.join("nothing in here")).unwrap();
            });
        }),
        ("block.dat", "has 511 bytes, not 512", |tree| {
            OpenOptions::new().write(true).open(tree.join("block.dat")).unwrap().set_len(511).unwrap();
        }),
        ("sticky/same again.csv", "is no hard link to \"photos/notes.csv\"", |tree| {
            let path = tree.join("sticky/same again.csv");
            quietly(&tree.join("sticky"), || {
                fs::copy(&path, tree.join("sticky/other")).unwrap();
                fs::rename(tree.join("sticky/other"), &path).unwrap();
            });
        }),
    ])
    .await;
}

#[tokio::test]
async fn a_link_in_the_place_of_a_folder_is_not_followed_and_what_was_below_is_missing() {
    let copied = Copied::new().await;
    let elsewhere = copied.tree.with_file_name("elsewhere");
    quietly(&copied.tree, || {
        fs::rename(copied.tree.join("photos"), &elsewhere).unwrap();
        symlink(&elsewhere, copied.tree.join("photos")).unwrap();
    });
    let found = copied.differences(&copied.tar).await.unwrap();
    assert!(found.contains(&"\"photos/\" is a symbolic link, not a folder".to_owned()), "{found:?}");
    assert!(found.contains(&"\"photos/notes.csv\" is not in the copy".to_owned()), "{found:?}");
    assert_eq!(found.iter().filter(|line| line.starts_with("\"photos/")).count(), found.len() - 1);
}

#[tokio::test]
async fn no_more_than_twenty_differences_are_told() {
    let copied = Copied::new().await;
    for entry in fs::read_dir(&copied.tree).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
    assert_eq!(copied.differences(&copied.tar).await.unwrap().len(), 20);
}

#[tokio::test]
async fn an_archive_that_is_damaged_by_then_is_an_error() {
    let copied = Copied::new().await;
    let tar = &copied.tar;
    let mut flipped = tar.clone();
    let head = tar.windows(10).position(|bytes| bytes == b"block.dat\0").unwrap();
    flipped[head] ^= 1;
    for broken in [&tar[..tar.len() * 7 / 10], &tar[..tar.len() - 1024], &flipped, &[]] {
        let err = copied.differences(broken).await.unwrap_err();
        assert!(matches!(err, ComponentError::Corrupt { .. }), "{err:?}");
    }
    // One bit of a content is no damage that a tar stream shows, but a difference.
    let mut flipped = tar.clone();
    flipped[head + 512 + 100] ^= 1;
    assert_eq!(copied.differences(&flipped).await.unwrap(), ["\"block.dat\" has another content"]);
    assert_eq!(copied.differences(tar).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn an_old_tasks_archive_is_compared_without_its_top_folder() {
    let dir = tempdir().unwrap();
    let (source, root) = (dir.path().join("backend_media"), dir.path().join("media"));
    fs::create_dir_all(source.join("docs")).unwrap();
    fs::create_dir(&root).unwrap();
    fs::write(source.join("docs/protocol.pdf"), b"pdf").unwrap();
    fs::hard_link(source.join("docs/protocol.pdf"), source.join("z")).unwrap();
    fs::set_permissions(&source, Permissions::from_mode(0o750)).unwrap();
    tree::touch(&source.join("docs"), 1_500_000_000, 123_456_789);
    let python = "import shutil; shutil.make_archive('old', 'tar', '.', 'backend_media')";
    assert!(Command::new("python3").args(["-c", python]).current_dir(&dir).status().unwrap().success());
    let tar = fs::read(dir.path().join("old.tar")).unwrap();
    let staged = stage(&media(&root), &tar, &Target::Scratch, None).await.unwrap();
    let tree = areas(&root)[0].join("tree");
    assert!(tree.join("docs").is_dir(), "the top folder is not there");
    let differences = async || staged.differences(&mut &*tar, &Meter::default()).await.unwrap();
    assert_eq!(differences().await, [""; 0]);
    spoil(&tree.join("docs/protocol.pdf"), 1);
    assert_eq!(differences().await, ["\"backend_media/docs/protocol.pdf\" has another content"]);
    fs::set_permissions(&tree, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(differences().await.len(), 2);
}

#[test]
fn without_rights_owners_that_could_not_be_given_are_no_difference_and_shut_files_are_read() {
    let dir = tempdir().unwrap();
    let (source, root) = (dir.path().join("source"), dir.path().join("media"));
    fs::create_dir_all(source.join("closed")).unwrap();
    fs::create_dir(&root).unwrap();
    for name in ["theirs", "closed/shut"] {
        fs::write(source.join(name), b"content").unwrap();
    }
    chown(source.join("theirs"), Some(1234), Some(1234)).unwrap();
    for (name, mode) in [("theirs", 0o4755), ("closed/shut", 0o000), ("closed", 0o555)] {
        fs::set_permissions(source.join(name), Permissions::from_mode(mode)).unwrap();
    }
    // Root may do everything, so the thread, and those that it starts, give that up.
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (tar, facts) = runtime.block_on(tar_of(&source, || ()));
        drop(runtime); // and its threads
        let mut sets = capabilities(None).unwrap();
        sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::CHOWN;
        set_capabilities(None, sets).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let staged = stage(&media(&root), &tar, &Target::Scratch, Some(&facts)).await.unwrap();
            let tree = areas(&root)[0].join("tree");
            let mode = |name| fs::metadata(tree.join(name)).unwrap().mode() & 0o7777;
            let differences = async || staged.differences(&mut &*tar, &Meter::default()).await.unwrap();
            assert_eq!(differences().await, [""; 0]);
            assert_eq!((mode("theirs"), mode("closed/shut")), (0o755, 0));
            fs::set_permissions(tree.join("theirs"), Permissions::from_mode(0o4755)).unwrap();
            assert_eq!(differences().await, ["\"theirs\" has mode 4755, not 0755"]);
        });
    })
    .join()
    .unwrap();
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
    let copied = Copied::new().await;
    quietly(&copied.tree, || {
        fs::remove_file(copied.tree.join("block.dat")).unwrap();
        assert!(Command::new("mkfifo").arg(copied.tree.join("block.dat")).status().unwrap().success());
    });
    let found = copied.differences(&copied.tar).await.unwrap();
    assert_eq!(found, ["\"block.dat\" is something else, not a file"]);
}
