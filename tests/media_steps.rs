//! The steps of a restore of media: whoever takes fewer names the rest, and a dry run finds what would stop a restore.

use crate::media::{media, tar_of};
use crate::media_restore::{areas, look, old_tree, same, stage};
use crate::schemas::validates;
use crate::support::{
    disk::Share,
    lab::Lab,
};
use rna_backup::component::{Component, ComponentError, Target};
use rna_backup::domain::facts::Facts;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use serde_json::json;
use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    thread,
};
use tempfile::{TempDir, tempdir};

#[test]
fn a_dry_run_and_a_drill_name_the_steps_that_they_do_not_take() {
    let lab = Lab::new().set("RUST_LOG", "");
    lab.json(&["backup", "media"]);
    let plan = lab.json(&["restore", "media", "--dry-run"]);
    validates("restore-plan", &plan);
    let count = "count the copy with its attributes, and compare it with the manifest";
    let (unpack, sync, exchange) =
        ("unpack the archive there", "write the copy to disk", "exchange the folders");
    assert_eq!(plan["not_tried"], json!([unpack, count, sync, exchange]));
    assert_eq!(plan["method"], "exchange of folders");
    let drill = lab.json(&["verify", "media", "--drill"]);
    validates("result-verify", &drill);
    let mounts = "look whether another file system is mounted in the folder";
    let moves = "look whether all that is replaced may be moved";
    assert_eq!(drill["results"][0]["not_tried"], json!([mounts, moves, sync, exchange]));
    let (_, out, _) = lab.run(&["restore", "media", "--dry-run"]);
    assert!(out.contains(&format!("not tried {unpack}; ")), "{out}");
    assert_eq!(areas(&lab.media()).len(), 0);
}

#[test]
fn a_file_system_that_exchanges_nothing_is_told_by_check_and_dry_run() {
    let lab = Lab::new().set("RUST_LOG", "");
    let store = lab.path("store");
    fs::create_dir(&store).unwrap();
    fs::rename(lab.media(), store.join("media")).unwrap();
    let shared = lab.path("shared");
    fs::create_dir(&shared).unwrap();
    let Some(_share) = Share::mount(&[], &store, &shared) else { return };
    let lab = lab.set("MEDIA_ROOT", shared.join("media").display());
    let before = look(&shared.join("media"));
    lab.json(&["backup", "media"]);
    let plan = lab.json(&["restore", "media", "--dry-run"]);
    assert_eq!(plan["method"], "two renames of folders, with a journal");
    assert_eq!(plan["downtime"], "milliseconds, in which there is no media folder");
    let (_, out, _) = lab.run(&["check", "--json"]);
    assert!(out.contains("swapped in by two renames of folders"), "{out}");
    lab.json(&["restore", "media", "--yes"]);
    same(&look(&shared.join("media")), &before);
}

/// A backup of a small tree, and a media folder in a folder of its own.
async fn small() -> (TempDir, PathBuf, Vec<u8>, Facts) {
    let dir = tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("new"), "new").unwrap();
    let (tar, facts) = tar_of(&source, || ()).await;
    let root = dir.path().join("live/media");
    old_tree(&root);
    (dir, root, tar, facts)
}

/// Runs with fewer rights than root has: the thread, and those that it starts, give these up.
fn without(rights: CapabilitySet, work: impl AsyncFnOnce() + Send + 'static) {
    let working = thread::spawn(move || {
        let mut sets = capabilities(None).unwrap();
        sets.effective -= rights;
        set_capabilities(None, sets).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work());
    });
    working.join().unwrap();
}

/// Expects that `check` and dry run say what is in the way of a restore, and that a restore then does not begin.
async fn refused(root: &Path, tar: &[u8], facts: &Facts, why: &str) -> ComponentError {
    let media = media(root);
    let found = media.check().await.unwrap();
    assert!(found.contains("; a restore would not begin: move ") && found.contains(why), "{found}");
    let planned = media.plan(&Target::Live, Some(facts)).await.unwrap_err();
    let refused = stage(&media, tar, &Target::Live, Some(facts)).await.unwrap_err();
    assert_eq!(planned.to_string(), refused.to_string());
    assert_eq!(areas(root).len(), 0);
    refused
}

#[tokio::test]
async fn a_folder_that_is_closed_for_writing_cannot_be_exchanged_and_check_says_so_before() {
    let (_dir, root, tar, facts) = small().await;
    fs::set_permissions(&root, Permissions::from_mode(0o555)).unwrap();
    without(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH, async move || {
        let err = refused(&root, &tar, &facts, "permission denied").await;
        assert!(matches!(err, ComponentError::Denied { .. }), "{err:?}");
        // As the kernel sees it.
        fs::create_dir(root.with_file_name("elsewhere")).unwrap();
        let moved = fs::rename(&root, root.with_file_name("elsewhere").join("media")).unwrap_err();
        assert_eq!(moved.kind(), std::io::ErrorKind::PermissionDenied);
        // A drill is none the worse for it.
        stage(&media(&root), &tar, &Target::Scratch, Some(&facts)).await.unwrap().discard().await.unwrap();
    });
}

#[tokio::test]
async fn a_folder_of_somebody_else_in_a_sticky_one_cannot_be_exchanged_and_check_says_so_before() {
    let (_dir, root, tar, facts) = small().await;
    let parent = root.parent().unwrap();
    for (path, mode) in [(parent, 0o1777), (&*root, 0o777)] {
        chown(path, Some(1234), Some(1234)).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    without(CapabilitySet::FOWNER, async move || {
        let err = refused(&root, &tar, &facts, "").await;
        assert!(matches!(err, ComponentError::Denied { .. }), "{err:?}");
        fs::create_dir(root.with_file_name("elsewhere")).unwrap();
        let moved = fs::rename(&root, root.with_file_name("elsewhere").join("media")).unwrap_err();
        assert_eq!(moved.kind(), std::io::ErrorKind::PermissionDenied);
    });
}

#[tokio::test]
async fn a_folder_that_nobody_may_change_is_found_before() {
    let (_dir, root, tar, facts) = small().await;
    let chattr = |flag: &str| Command::new("chattr").arg(flag).arg(&root).output();
    if !chattr("+i").is_ok_and(|output| output.status.success()) {
        return println!("skipped: chattr is not allowed here");
    }
    let err = refused(&root, &tar, &facts, "chattr +i").await;
    chattr("-i").unwrap();
    assert!(matches!(err, ComponentError::Unusable { .. }), "{err:?}");
}
