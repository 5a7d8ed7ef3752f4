//! Media restored where it is not easy: file systems of layers, folders that dead restores left something at,
//! disks that are full.

use crate::media::{media, tar_of, whatever_happens};
use crate::media_restore::{Tree, areas, look, old_tree, restore, same, stage};
use crate::postgres::MemoryOutput;
use crate::support::{disk::Tmpfs, lab::eventually, tree};
use rna_backup::{
    component::{ComponentError, Restorable, Source, Target, Undo},
    domain::{facts::Facts, progress::Meter},
};
use rustix::{
    fs::statvfs,
    thread::{CapabilitySet, capabilities, set_capabilities},
};
use std::{
    error::Error,
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};
use tempfile::{TempDir, tempdir};

/// A container's file system: an image below, what was written since above, both on one disk.
struct Layers {
    path: PathBuf,
    _disk: Tmpfs,
}

impl Layers {
    /// With what `image` puts into the lower layer; `None` where mounting is not allowed.
    fn mount(image: impl FnOnce(&Path)) -> Option<Self> {
        let disk = Tmpfs::mount("64m")?;
        let [lower, upper, work, path] = ["lower", "upper", "work", "all"].map(|name| disk.path().join(name));
        for folder in [&lower, &upper, &work, &path] {
            fs::create_dir(folder).unwrap();
        }
        image(&lower);
        let [lower, upper, work] = [lower, upper, work].map(|path| path.display().to_string());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let args = ["-t", "overlay", "-o", &options, "none"];
        let mounted = Command::new("mount").args(args).arg(&path).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self { path, _disk: disk })
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}

/// The archive of a nasty tree.
async fn nasty() -> (Vec<u8>, Facts, Tree, TempDir) {
    let dir = tempdir().unwrap();
    tree::fill(dir.path());
    let (tar, facts) = tar_of(dir.path(), || ()).await;
    (tar, facts, look(dir.path()), dir)
}

const NOT_ALLOWED: &str = "skipped: mounting is not allowed here";

#[tokio::test]
async fn media_that_come_from_an_image_are_exchanged_entry_by_entry_and_back() {
    let layers = Layers::mount(|image| {
        fs::create_dir(image.join("media")).unwrap();
        for name in ["a.txt", "old", "sticky"] {
            fs::write(image.join("media").join(name), format!("{name} of the image")).unwrap();
        }
        tree::touch(&image.join("media"), 1_000_000_000, 7);
    });
    let Some(layers) = layers else { return println!("{NOT_ALLOWED}") };
    let (tar, facts, new, _dir) = nasty().await;
    let root = layers.path.join("media");
    let refused = fs::rename(&root, layers.path.join("elsewhere")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::CrossesDevices, "it cannot be exchanged at once");
    let (media, old) = (media(&root), look(&root));
    let plan = media.plan(&Target::Live, Some(&facts)).await.unwrap();
    assert!(plan.warnings.iter().any(|warning| warning.contains("layers")), "{plan:?}");

    let staged = stage(&media, &tar, &Target::Live, Some(&facts)).await.unwrap();
    let kept = staged.swap().await.unwrap().unwrap();
    same(&look(&root), &new);
    assert!(kept.place.starts_with(root.to_str().unwrap()), "{kept:?}");
    assert_eq!(media.recover().await.unwrap(), [""; 0]);
    media.undo(None, &Meter::default()).await.unwrap();
    same(&look(&root), &old);
    media.undo(None, &Meter::default()).await.unwrap();
    same(&look(&root), &new);
    media.delete_undo_data().await.unwrap();
    assert_eq!(areas(&root), [""; 0].map(PathBuf::from));
}

#[tokio::test]
async fn folders_of_an_image_at_the_top_of_the_media_are_refused_before_anything_is_moved() {
    let layers = Layers::mount(|image| {
        fs::create_dir_all(image.join("media/z")).unwrap();
        fs::write(image.join("media/z/file"), "x").unwrap();
        fs::write(image.join("media/a.txt"), "of the image").unwrap();
        fs::hard_link(image.join("media/a.txt"), image.join("media/b.txt")).unwrap();
    });
    let Some(layers) = layers else { return println!("{NOT_ALLOWED}") };
    let (tar, facts, new, _dir) = nasty().await;
    let root = layers.path.join("media");
    let (media, old) = (media(&root), tree::look(&root));
    let err = stage(&media, &tar, &Target::Live, Some(&facts)).await.unwrap_err();
    assert!(matches!(err, ComponentError::Unusable { .. }) && err.to_string().contains("\"z\""), "{err:?}");
    same(&tree::look(&root), &old);
    assert_eq!(areas(&root).len(), 0);

    // A drill, and a restore to another folder, exchange nothing of the image.
    stage(&media, &tar, &Target::Scratch, Some(&facts)).await.unwrap().discard().await.unwrap();
    let into = Target::custom("into", [layers.path.join("into")]);
    stage(&media, &tar, &into, Some(&facts)).await.unwrap().swap().await.unwrap();
    same(&look(&layers.path.join("into")), &new);
    same(&tree::look(&root), &old);
}

#[tokio::test]
async fn an_exchange_that_a_file_system_refuses_in_the_middle_is_taken_back() {
    let layers = Layers::mount(|image| {
        fs::create_dir_all(image.join("media")).unwrap();
        fs::write(image.join("media/a.txt"), "of the image").unwrap();
        // Such files get other inode numbers when they are moved.
        fs::hard_link(image.join("media/a.txt"), image.join("media/b.txt")).unwrap();
    });
    let Some(layers) = layers else { return println!("{NOT_ALLOWED}") };
    let (tar, facts, _, _dir) = nasty().await;
    let root = layers.path.join("media");
    let staged = stage(&media(&root), &tar, &Target::Live, Some(&facts)).await.unwrap();
    // Comes after them in the order of names, and cannot be moved.
    fs::write(root.join("zz"), "z").unwrap();
    let chattr = |flag: &str| {
        let set = Command::new("chattr").arg(flag).arg(root.join("zz")).output();
        set.is_ok_and(|output| output.status.success())
    };
    if !chattr("+i") {
        return println!("skipped: chattr is not allowed here");
    }
    let names = |tree: &Tree| {
        tree.iter().map(|(name, seen)| (name.clone(), seen.content.clone())).collect::<Vec<_>>()
    };
    let old = look(&root);
    let err = staged.swap().await.unwrap_err();
    assert!(chattr("-i"));
    assert!(matches!(err, ComponentError::Denied { .. }), "{err:?}");
    assert!(names(&look(&root)) == names(&old), "{err:?}");
    assert_eq!(areas(&root).len(), 0, "{err:?}");
}

#[tokio::test]
async fn what_a_dead_restore_left_beside_a_folder_goes_with_the_next_one_to_it() {
    let (tar, facts, new, dir) = nasty().await;
    let place = tempdir().unwrap();
    let (media, folder) = (media(dir.path()), place.path().join("look"));
    let target = Target::custom("into", [&folder]);
    let try_to_stage = async || stage(&media, &tar, &target, Some(&facts)).await;
    let stage = async || try_to_stage().await.unwrap();
    // A process that dies lets go of its lock, as a value does that is dropped; another one lives.
    drop(stage().await);
    fs::write(areas(&folder)[0].join("tree/of the dead"), "").unwrap();
    let living = stage().await;
    let alive = areas(&folder);
    // It may have got the name of the other.
    assert!(alive.len() == 1 && !alive[0].join("tree/of the dead").exists(), "{alive:?}");
    // Not ours, though it has such a name.
    let foreign = place.path().join(".look.rna-restore-20200101_000000");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("x"), "").unwrap();

    let err = try_to_stage().await.unwrap_err();
    assert!(matches!(err, ComponentError::Taken { .. }), "{err}");
    let left = areas(&folder);
    assert!(left.len() == 2 && left.contains(&foreign) && left.contains(&alive[0]), "{left:?}");
    assert_eq!(living.swap().await.unwrap(), None);
    same(&look(&folder), &new);
    assert_eq!(areas(&folder), [foreign]);
}

#[tokio::test]
async fn a_restore_to_a_mount_point_that_died_half_way_is_finished_by_the_next_one() {
    let Some(disk) = Tmpfs::mount("64m") else { return println!("{NOT_ALLOWED}") };
    let (tar, facts, mut new, dir) = nasty().await;
    let (media, target) = (media(dir.path()), Target::custom("into", [disk.path()]));
    drop(stage(&media, &tar, &target, Some(&facts)).await.unwrap());
    let area = areas(disk.path()).remove(0);
    let mut journal = b"rna-backup media swap 1\x00457 1 0 0 0 0 0\x00493 1 0 0 0 0 0\0".to_vec();
    for entry in fs::read_dir(area.join("tree")).unwrap() {
        let entry = entry.unwrap();
        let inode = entry.path().symlink_metadata().unwrap().ino();
        journal.extend(format!("{inode} 0\0").bytes());
        journal.extend(std::os::unix::ffi::OsStrExt::as_bytes(&*entry.file_name()));
        journal.push(0);
    }
    fs::write(area.join("journal"), journal).unwrap();
    fs::rename(area.join("tree/a.txt"), disk.path().join("a.txt")).unwrap();

    media.plan(&target, Some(&facts)).await.unwrap();
    let err = stage(&media, &tar, &target, Some(&facts)).await.unwrap_err();
    assert!(err.to_string().contains("not empty"), "{err:?}");
    let mut found = look(disk.path());
    for tree in [&mut found, &mut new] {
        tree.get_mut(std::ffi::OsStr::new("")).unwrap().modified = (0, 0);
    }
    same(&found, &new);
    assert_eq!(areas(disk.path()).len(), 0);
}

#[tokio::test]
async fn media_behind_a_link_are_found_when_a_swap_in_two_steps_died_between_them() {
    let (tar, facts, new, _dir) = nasty().await;
    let dir = tempdir().unwrap();
    let (root, link) = (dir.path().join("live/media"), dir.path().join("link"));
    old_tree(&root);
    symlink("live/media", &link).unwrap();
    let (media, old) = (media(&link), look(&root));
    drop(stage(&media, &tar, &Target::Live, Some(&facts)).await.unwrap());
    let area = areas(&root).remove(0);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let change = format!("{} {}", inode(&area.join("tree")), inode(&root));
    let none = "0 0 0 0 0 0 0";
    let journal = ["rna-backup media swap 1", none, none, &change, "media", ""].join("\0");
    fs::write(area.join("journal"), journal).unwrap();
    fs::rename(&root, area.join("spare/media")).unwrap();

    let done = media.recover().await.unwrap();
    assert!(done.len() == 1 && done[0].starts_with("finished an exchange"), "{done:?}");
    same(&look(&root), &new);
    media.undo(None, &Meter::default()).await.unwrap();
    same(&look(&root), &old);
}

/// What is free: blocks and inodes.
fn free(disk: &Tmpfs) -> (u64, u64) {
    let stat = statvfs(disk.path()).unwrap();
    (stat.f_bfree, stat.f_ffree)
}

#[tokio::test]
async fn a_disk_without_room_for_files_or_names_leaves_the_live_data_and_the_disk_as_they_were() {
    let source = tempdir().unwrap();
    for n in 0..40 {
        fs::write(source.path().join(format!("n{n}")), vec![n; 40_000]).unwrap();
    }
    let (tar, facts) = tar_of(source.path(), || ()).await;
    // Neither the bytes of the archive; nor its names; nor the area itself, in any of its steps.
    let limits = [
        "1m",
        "64m,nr_inodes=30",
        "64m,nr_inodes=9",
        "64m,nr_inodes=10",
        "64m,nr_inodes=11",
        "64m,nr_inodes=12",
    ];
    for limit in limits {
        for in_it in [false, true] {
            let Some(disk) = Tmpfs::mount(limit) else { return println!("{NOT_ALLOWED}") };
            let root = if in_it { disk.path().to_owned() } else { disk.path().join("media") };
            old_tree(&root);
            tree::touch(disk.path(), 1, 1);
            let (old, before) = (look(&root), free(&disk));
            // With a manifest some of it is known beforehand; without one it is found out.
            for (target, facts) in
                [(Target::Live, Some(&facts)), (Target::Live, None), (Target::Scratch, None)]
            {
                let staged = stage(&media(&root), &tar, &target, facts).await;
                let err = staged.map(|staged| staged.counts().clone()).expect_err(limit);
                let is_room =
                    matches!(err, ComponentError::Unavailable { .. }) && err.to_string().contains("room");
                assert!(is_room && err.is_transient(), "{limit}: {err:?}");
                assert_eq!(areas(&root).len(), 0, "{limit}: {err:?}");
                // A process that another test starts has all our files open for a moment.
                assert!(eventually(async || free(&disk) == before).await, "{limit}: {err:?}");
                same(&look(&root), &old);
            }
        }
    }
}

/// Only a folder with the name of an area and our mark in it is left out: the rest is somebody's data.
#[tokio::test]
async fn what_merely_looks_like_a_folder_of_a_restore_is_packed() {
    const AREA: &str = ".rna-restore-20260101_000000";
    let dir = tempfile::tempdir().unwrap();
    for folder in [AREA, "marked"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join(folder).join("data"), "the only copy").unwrap();
    }
    fs::write(dir.path().join("marked/rna-backup"), "").unwrap();
    let (out, facts) = whatever_happens(dir.path(), || ()).await;
    assert!(out.path().join("tree").join(AREA).join("data").exists());
    assert!(out.path().join("tree/marked/data").exists());
    assert_eq!(facts.counts.files.unwrap().files, 3);
    fs::write(dir.path().join(".rna-before-20260101_000000"), "a file").unwrap();
    let (tar, facts) = tar_of(dir.path(), || ()).await;
    let root = out.path().join("media");
    fs::create_dir(&root).unwrap();
    restore(&media(&root), &tar, Some(&facts)).await;
    assert!(root.join(AREA).join("data").exists() && root.join(".rna-before-20260101_000000").is_file());

    fs::write(dir.path().join(AREA).join("rna-backup"), "").unwrap();
    let (out, _) = whatever_happens(dir.path(), || ()).await;
    assert!(!out.path().join("tree").join(AREA).exists());
}

#[tokio::test]
async fn a_link_that_leads_to_itself_is_refused_and_said_to_be_one() {
    let dir = tempdir().unwrap();
    let link = dir.path().join("link");
    symlink("link", &link).unwrap();
    let refused = media(&link).plan(&Target::Live, None).await.unwrap_err();
    assert!(refused.to_string().contains(&*link.to_string_lossy()), "{refused}");
    assert!(refused.source().unwrap().to_string().contains("symbolic links"), "{refused:?}");
}

/// As on a volume of a cluster, which belongs to root and lets a group write.
#[test]
fn in_a_folder_of_somebody_else_the_media_are_exchanged_and_the_folder_stays_his() {
    let Some(disk) = Tmpfs::mount("64m") else { return println!("{NOT_ALLOWED}") };
    let path = disk.path().to_owned();
    let source = tempdir().unwrap();
    fs::write(source.path().join("new"), "new").unwrap();
    fs::write(path.join("old"), "old").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    chown(&path, Some(1234), Some(1234)).unwrap();
    // Root may do everything, so the thread, and those that it starts, give that up.
    let restoring = thread::spawn(move || {
        let mut sets = capabilities(None).unwrap();
        sets.effective -= CapabilitySet::FOWNER | CapabilitySet::CHOWN;
        set_capabilities(None, sets).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (tar, facts) = tar_of(source.path(), || ()).await;
            let media = media(&path);
            restore(&media, &tar, Some(&facts)).await;
            assert!(path.join("new").exists() && !path.join("old").exists());
            media.undo(None, &Meter::default()).await.unwrap();
            assert!(path.join("old").exists() && !path.join("new").exists());
            media.delete_undo_data().await.unwrap();
            assert_eq!(areas(&path), [""; 0].map(PathBuf::from));
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (1234, 0o777));
        });
    });
    restoring.join().unwrap();
}

#[tokio::test]
async fn what_lies_too_deep_to_be_restored_is_no_backup() {
    let dir = tempdir().unwrap();
    let (mut folder, mut made) = (dir.path().join("a"), 1);
    while made < 512 {
        fs::create_dir(&folder).unwrap();
        (folder, made) = (folder.join("a"), made + 1);
    }
    tar_of(dir.path(), || ()).await;
    fs::create_dir_all(folder.join("b")).unwrap();
    let mut out = MemoryOutput::default();
    let err = media(dir.path()).back_up(None, &mut out, &Meter::default()).await.unwrap_err();
    assert!(err.to_string().contains("a/a/a"), "{err}");
    assert!(err.source().unwrap().to_string().contains("512 folders"), "{err:?}");
}

/// Files that an administrator has protected from changes (`chattr`).
#[tokio::test]
async fn what_cannot_be_changed_is_set_aside_brought_back_and_removed_in_the_end() {
    let dir = tempdir().unwrap();
    let root = dir.path().join("media");
    let [file, folder] = ["papers/immutable", "papers/append"].map(|name| root.join(name));
    fs::create_dir_all(&folder).unwrap();
    fs::write(&file, "immutable").unwrap();
    fs::write(folder.join("below"), "below").unwrap();
    let chattr =
        |flags: &str, path: &Path| Command::new("chattr").arg(flags).arg(path).status().unwrap().success();
    if !chattr("+i", &file) || !chattr("+a", &folder) {
        return println!("not tried: this file system has no flags, or this user may not set them");
    }
    let (tar, facts) = tar_of(&root, || ()).await;
    let media = media(&root);
    for _ in 0..2 {
        restore(&media, &tar, Some(&facts)).await;
        media.undo(None, &Meter::default()).await.unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"immutable");
        assert!(fs::write(&file, "changed").is_err());
        media.undo(None, &Meter::default()).await.unwrap();
        media.delete_undo_data().await.unwrap();
        assert_eq!(areas(&root), [""; 0].map(PathBuf::from));
        assert!(chattr("+i", &file) && chattr("+a", &folder));
    }
    assert!(chattr("-i", &file) && chattr("-a", &folder));
}
