//! ACLs and extended attributes: kept, restored and compared, with GNU tar on either side.

use crate::media::{decode, media, tar_of};
use crate::media_restore::{areas, look, old_tree, same, stage};
use crate::support::{disk::Tmpfs, tree};
use rna_backup::{
    component::{ComponentError, Restorable, RestoreOrder, Staged, Target, Undo},
    domain::{
        facts::{AttributeCounts, Facts},
        progress::Meter,
    },
};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::{
    error::Error,
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    thread,
};
use tempfile::{TempDir, tempdir};

const GNU: [&str; 3] = ["--acls", "--xattrs", "--xattrs-include=*"];

/// A tree of everything, with attributes of every kind.
fn adorned() -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    tree::fill(&source);
    tree::adorn(&source);
    (dir, source)
}

fn gnu_tar(args: &[&str]) {
    let out = Command::new("tar").args(GNU).args(args).output().unwrap();
    assert!(out.status.success(), "{}", out.stderr.escape_ascii());
}

/// Unpacks by GNU tar.
fn by_gnu_tar(tar: &[u8]) -> TempDir {
    let dir = tempdir().unwrap();
    let archive = dir.path().join("archive");
    fs::write(&archive, tar).unwrap();
    let into = dir.path().join("tree");
    fs::create_dir(&into).unwrap();
    gnu_tar(&["-xpf", archive.to_str().unwrap(), "--numeric-owner", "-C", into.to_str().unwrap()]);
    dir
}

/// Stages a copy, and returns where it lies and what was said.
async fn staged(root: &Path, tar: &[u8], facts: Option<&Facts>) -> (Box<dyn Staged>, PathBuf, Vec<String>) {
    let meter = Meter::default();
    let staged =
        media(root).stage(&mut &*tar, &RestoreOrder::new(&Target::Scratch, facts), &meter).await.unwrap();
    let tree = areas(root)[0].join("tree");
    (staged, tree, meter.take_warnings())
}

async fn differences(staged: &dyn Staged, tar: &[u8]) -> Vec<String> {
    staged.differences(&mut &*tar, &Meter::default()).await.unwrap()
}

#[tokio::test]
async fn attributes_come_back_by_ours_and_by_gnu_tar() {
    let (dir, source) = adorned();
    let (tar, facts) = tar_of(&source, || ()).await;
    let with_holes = AttributeCounts { sparse: 1, hole_bytes: 1_500_000, ..AttributeCounts::default() };
    let expected = AttributeCounts { acls: 4, user: 3, security: 1, trusted: 2, ..with_holes };
    assert_eq!((facts.counts.attributes, facts.warnings.len()), (Some(expected), 0));
    assert_eq!(decode(&tar).await.unwrap(), facts.counts);
    same(&look(&by_gnu_tar(&tar).path().join("tree")), &look(&source));

    let root = dir.path().join("live/media");
    old_tree(&root);
    let (scratch, tree, warnings) = staged(&root, &tar, Some(&facts)).await;
    same(&look(&tree), &look(&source));
    assert_eq!((scratch.counts(), warnings), (&facts.counts, vec![]));
    assert_eq!(differences(&*scratch, &tar).await, [""; 0]);
    scratch.discard().await.unwrap();

    let (before, media) = (look(&root), media(&root));
    let copy = stage(&media, &tar, &Target::Live, Some(&facts)).await.unwrap();
    copy.swap().await.unwrap().unwrap();
    same(&look(&root), &look(&source));
    media.undo(None, &Meter::default()).await.unwrap();
    same(&look(&root), &before);
}

#[tokio::test]
async fn archives_of_gnu_tar_bring_attributes_back() {
    let (dir, source) = adorned();
    for name in ["out", "dangling"] {
        fs::remove_file(source.join(name)).unwrap(); // they lead out of the folder, which needs a manifest
    }
    let root = dir.path().join("media");
    fs::create_dir(&root).unwrap();
    let archive = dir.path().join("archive");
    // Names of users in texts of ACLs, and their numbers in raw ones.
    for options in [&GNU[..], &GNU[..1]] {
        let mut pack = Command::new("tar");
        pack.args(options).args(["--format=posix", "-cf"]).arg(&archive).arg("-C").arg(&source);
        let out = pack.arg(".").output().unwrap();
        assert!(out.status.success(), "{}", out.stderr.escape_ascii());
        let tar = fs::read(&archive).unwrap();
        let (copy, tree, warnings) = staged(&root, &tar, None).await;
        let mut expected = look(&source);
        if options.len() == 1 {
            for seen in expected.values_mut() {
                seen.extended.retain(|name, _| name.to_str().is_some_and(|name| name.starts_with("system.")));
            }
        }
        same(&look(&tree), &expected);
        assert_eq!((differences(&*copy, &tar).await, warnings), (vec![], vec![]));
        copy.discard().await.unwrap();
    }
}

/// The entry that must be named for a change, how, and the change itself.
type Change = (&'static str, &'static str, fn(&Path));

#[tokio::test]
async fn attributes_that_differ_are_named() {
    let (dir, source) = adorned();
    let root = dir.path().join("media");
    fs::create_dir(&root).unwrap();
    let (tar, facts) = tar_of(&source, || ()).await;
    let (copy, tree, _) = staged(&root, &tar, Some(&facts)).await;
    let mut known = 0;
    let changes: [Change; 7] = [
        ("a.txt", "lacks extended attribute \"user.empty\"", |path| {
            rustix::fs::lremovexattr(path, "user.empty").unwrap();
        }),
        ("block.dat", "has another value of extended attribute \"trusted.of root\"", |path| {
            tree::set_extended(path, "trusted.of root", b"0");
        }),
        ("empty.dat", "has extended attribute \"user.new\", which the archive has not", |path| {
            tree::set_extended(path, "user.new", b"");
        }),
        ("photos/", "has another value of its default ACL", |path| {
            tree::set_extended(path, tree::DEFAULT, &tree::acl(&[(2, 7, 4321)], 0));
        }),
        ("sticky/", "lacks its default ACL", |path| {
            rustix::fs::lremovexattr(path, tree::DEFAULT).unwrap();
        }),
        ("./", "lacks extended attribute \"user.of the root\"", |path| {
            rustix::fs::lremovexattr(path, "user.of the root").unwrap();
        }),
        ("link", "lacks extended attribute \"trusted.of a link\"", |path| {
            rustix::fs::lremovexattr(path, "trusted.of a link").unwrap();
        }),
    ];
    for (name, how, change) in changes {
        change(tree.join(name).to_str().unwrap().trim_end_matches('/').as_ref());
        let found = differences(&*copy, &tar).await;
        known += 1;
        assert_eq!(found.len(), known, "{found:?}");
        assert!(found.contains(&format!("{name:?} {how}")), "{name} {how}: {found:?}");
    }
}

#[tokio::test]
async fn what_a_file_system_cannot_hold_is_a_warning_and_lets_nobody_in() {
    let Some(disk) = Tmpfs::without_attributes() else {
        return println!("skipped: mounting a ramfs is not allowed here");
    };
    let (_dir, source) = adorned();
    let (tar, facts) = tar_of(&source, || ()).await;
    let root = disk.path().join("media");
    fs::create_dir(&root).unwrap();
    let (copy, tree, warnings) = staged(&root, &tar, Some(&facts)).await;
    let words = "4 with ACLs, 3 with user attributes, 1 with security attributes, 2 with trusted attributes: \
                 the file system cannot hold them.";
    assert_eq!(warnings, [format!("Of the files and folders, these came back without: {words}")]);
    assert_eq!(differences(&*copy, &tar).await, [""; 0]);
    assert_eq!(copy.expected(&facts.counts).differences(copy.counts()), [""; 0]);
    let found = copy.counts().attributes.unwrap();
    assert!(!found.has_extended() && found.sparse == 1, "what is in the copy is counted there: {found:?}");
    // Beside an ACL, the bits of the group are its mask: `rwx`.
    let mode = |path: &Path| fs::metadata(path.join("a.txt")).unwrap().mode() & 0o777;
    assert_eq!((mode(&source), mode(&tree)), (0o770, 0o740));
    let plan = media(&root).plan(&Target::Live, Some(&facts)).await.unwrap();
    assert!(
        plan.advice.iter().any(|advice| advice.contains("would come back without: 4 with ACLs, 3 with user")),
        "{:?}",
        plan.advice
    );
}

#[test]
fn without_rights_what_may_not_be_set_is_a_warning_and_is_told_before() {
    let (dir, source) = adorned();
    let root = dir.path().join("media");
    fs::create_dir(&root).unwrap();
    chown(source.join("block.dat"), Some(1234), Some(1234)).unwrap();
    tree::set_extended(&source.join("block.dat"), "security.capability", &tree::CAPABILITY);
    fs::set_permissions(source.join("a.txt"), Permissions::from_mode(0o070)).unwrap();
    // Root may do everything, so the thread, and those that it starts, give that up.
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (tar, facts) = runtime.block_on(tar_of(&source, || ()));
        drop(runtime); // and its threads
        let mut sets = capabilities(None).unwrap();
        sets.effective = CapabilitySet::empty();
        set_capabilities(None, sets).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (copy, tree, warnings) = staged(&root, &tar, Some(&facts)).await;
            let without = "1 with security attributes, 2 with trusted attributes: user 0, who runs this, may not set them.";
            let owner = "1 files, folders and links belong to user 0, who runs this, and not to their owners.";
            let without = format!("Of the files and folders, these came back without: {without}");
            assert_eq!(warnings, [owner.to_owned(), without]);
            assert_eq!(differences(&*copy, &tar).await, [""; 0]);
            assert_eq!(copy.expected(&facts.counts).differences(copy.counts()), [""; 0]);
            let plan = media(&root).plan(&Target::Live, Some(&facts)).await.unwrap();
            assert!(plan.advice.iter().any(|advice| advice.contains("may not set them")), "{:?}", plan.advice);
            rustix::fs::lremovexattr(tree.join("photos/notes.csv"), "user.large").unwrap();
            assert_eq!(differences(&*copy, &tar).await.len(), 1);
        });
    })
    .join()
    .unwrap();
}

#[tokio::test]
async fn default_acls_of_the_folders_around_do_not_leak_into_a_copy() {
    let (dir, source) = adorned();
    for name in tree::extended(&source).into_keys() {
        rustix::fs::lremovexattr(&source, &*name).unwrap();
    }
    let (tar, facts) = tar_of(&source, || ()).await;
    let parent = dir.path().join("live");
    let root = parent.join("media");
    old_tree(&root);
    tree::set_extended(&parent, tree::DEFAULT, &tree::acl(&[(2, 7, 55)], 7));
    stage(&media(&root), &tar, &Target::Live, Some(&facts)).await.unwrap().swap().await.unwrap().unwrap();
    same(&look(&root), &look(&source));
}

#[tokio::test]
async fn a_media_folder_that_must_stay_gets_the_attributes_of_the_archive_and_undo_gives_its_own_back() {
    let Some(disk) = Tmpfs::mount("64m") else {
        return println!("skipped: mounting a tmpfs is not allowed here");
    };
    let (_dir, source) = adorned();
    let (tar, facts) = tar_of(&source, || ()).await;
    let root = disk.path();
    old_tree(root);
    tree::set_extended(root, tree::DEFAULT, &tree::acl(&[(2, 7, 55)], 7));
    tree::set_extended(root, "trusted.before", b"x");
    let before = look(root);
    let media = media(root);
    stage(&media, &tar, &Target::Live, Some(&facts)).await.unwrap().swap().await.unwrap().unwrap();
    same(&look(root), &look(&source));
    media.undo(None, &Meter::default()).await.unwrap();
    same(&look(root), &before);
}

#[tokio::test]
async fn large_and_many_attributes_come_back_or_are_named() {
    let Some(disk) = Tmpfs::mount("64m") else {
        return println!("skipped: mounting a tmpfs is not allowed here");
    };
    let dir = tempdir().unwrap();
    let (source, root) = (disk.path().join("source"), disk.path().join("media"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&root).unwrap();
    for name in ["large", "many"] {
        fs::write(source.join(name), name).unwrap();
    }
    for n in 0..20 {
        tree::set_extended(&source.join("large"), &format!("trusted.{n}"), &vec![n; 65_536]);
    }
    for n in 0..4_000 {
        tree::set_extended(&source.join("many"), &format!("trusted.{n}"), b"x");
    }
    let (tar, facts) = tar_of(&source, || ()).await;
    assert_eq!(facts.warnings, [""; 0]);
    let (copy, tree, warnings) = staged(&root, &tar, Some(&facts)).await;
    same(&look(&tree), &look(&source));
    assert_eq!((differences(&*copy, &tar).await, warnings), (vec![], vec![]));
    same(&look(&by_gnu_tar_on(&tar, &disk.path().join("by hand"))), &look(&source));

    // A file system that has no room for so much at one file: ext4 without a feature of its own.
    let elsewhere = dir.path().join("media");
    fs::create_dir(&elsewhere).unwrap();
    let (copy, tree, warnings) = staged(&elsewhere, &tar, Some(&facts)).await;
    if tree::extended(&tree.join("large")).len() < 20 {
        let words = "2 with trusted attributes: the file system cannot hold them.";
        assert_eq!(warnings, [format!("Of the files and folders, these came back without: {words}")]);
    }
    assert_eq!(differences(&*copy, &tar).await, [""; 0]);

    for n in 20..80 {
        tree::set_extended(&source.join("large"), &format!("trusted.{n}"), &vec![n; 65_536]);
    }
    let (tar, facts) = tar_of(&source, || ()).await;
    let [warning] = &*facts.warnings else { panic!("{:?}", facts.warnings) };
    assert!(
        warning.starts_with("\"large\" has more extended attributes than an archive holds, "),
        "{warning}"
    );
    assert_eq!(decode(&tar).await.unwrap(), facts.counts);
    let (copy, ..) = staged(&elsewhere, &tar, Some(&facts)).await;
    copy.discard().await.unwrap();
}

fn by_gnu_tar_on(tar: &[u8], into: &Path) -> PathBuf {
    fs::create_dir(into).unwrap();
    let archive = into.with_file_name("archive");
    fs::write(&archive, tar).unwrap();
    gnu_tar(&["-xpf", archive.to_str().unwrap(), "--numeric-owner", "-C", into.to_str().unwrap()]);
    into.to_owned()
}

/// An archive with one file that these PAX records stand before.
fn with_records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (key, value) in records {
        let inner = key.len() + value.len() + 3;
        let mut length = inner + inner.to_string().len();
        length = inner + length.to_string().len();
        all.extend([format!("{length} {key}=").as_bytes(), value, b"\n"].concat());
    }
    let entry = tree::tar_entry;
    [entry(b'5', "./", b""), entry(b'x', "x", &all), entry(b'0', "a", b"content"), vec![0; 1024]].concat()
}

#[tokio::test]
async fn attributes_that_no_system_has_are_refused_and_others_of_strangers_are_counted() {
    let dir = tempdir().unwrap();
    let root = dir.path().join("media");
    fs::create_dir(&root).unwrap();
    let (long, large) = (format!("SCHILY.xattr.user.{}", "x".repeat(300)), vec![b'x'; 65_537]);
    let many = "user:1:rwx\n".repeat(100_000);
    let cases: [(&str, &[u8], &str); 6] = [
        (&long, b"x", "cannot be the name"),
        ("SCHILY.xattr.user.a\0b", b"x", "cannot be the name"),
        ("SCHILY.xattr.user.large", &large, "has 65537 bytes, more than 65536"),
        ("SCHILY.acl.access", many.as_bytes(), "text of an ACL is broken"),
        ("SCHILY.acl.default", b"user::rwz", "text of an ACL is broken"),
        ("SCHILY.xattr.system.posix_acl_access", b"\x07", "an ACL is broken"),
    ];
    for (key, value, why) in cases {
        let tar = with_records(&[(key, value)]);
        let err = stage(&media(&root), &tar, &Target::Live, None).await.unwrap_err();
        let said = err.source().map(ToString::to_string).unwrap_or_default();
        assert!(matches!(err, ComponentError::Corrupt { .. }) && said.contains(why), "{key}: {err} {said}");
        assert_eq!(areas(&root).len(), 0);
    }
    let named: &[u8] = b"user::rwx\nuser:nobody has this name:rwx\ngroup::---\nmask::rwx\nother::---\n";
    let strangers: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.com.apple.quarantine", b"x"),
        ("SCHILY.xattr.security.selinux", b"of another machine"),
        ("SCHILY.acl.access", named),
        ("LIBARCHIVE.xattr.user.a", b"eA=="),
        ("SCHILY.xattr.user.fine", b"x"),
    ];
    let tar = with_records(strangers);
    let (copy, tree, warnings) = staged(&root, &tar, None).await;
    assert_eq!(tree::extended(&tree.join("a")).into_keys().collect::<Vec<_>>(), ["user.fine"]);
    // A label of another machine is left without a word: a restored file gets that of its new place.
    let mut label = [0; 64];
    let _ = rustix::fs::lgetxattr(tree.join("a"), "security.selinux", &mut label);
    assert!(!label.starts_with(b"of another machine"));
    let without = |what: &str| format!("Of the files and folders, these came back without: {what}.");
    let own = without("1 with attributes of the file system itself: the file system cannot hold them");
    assert_eq!(warnings, [own, without("1 with ACLs: user 0, who runs this, may not set them")]);
    assert_eq!(differences(&*copy, &tar).await, [""; 0]);
}
