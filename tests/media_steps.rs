//! The steps of a restore of media: whoever takes fewer names the rest, and a dry run finds what would stop a restore.

use crate::media::{media, tar_of};
use crate::media_restore::{areas, look, old_tree, same, stage};
use crate::schemas::validates;
use crate::support::{
    disk::{Share, Tmpfs},
    lab::Lab,
    tree,
};
use rna_backup::component::{ComponentError, Restorable, RestoreOrder, Source, Target};
use rna_backup::domain::{facts::Facts, progress::Meter};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use serde_json::{Value, json};
use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
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

#[tokio::test]
async fn bits_that_the_kernel_clears_without_a_word_are_a_warning_and_no_difference() {
    let (dir, root, ..) = small().await;
    let source = dir.path().join("with bits");
    fs::create_dir(&source).unwrap();
    for (name, mode) in [("setgid", 0o2755), ("plain", 0o640)] {
        fs::write(source.join(name), name).unwrap();
        chown(source.join(name), Some(1234), Some(1234)).unwrap();
        fs::set_permissions(source.join(name), Permissions::from_mode(mode)).unwrap();
    }
    let (tar, facts) = tar_of(&source, || ()).await;
    without(CapabilitySet::FSETID, async move || {
        let (media, meter) = (media(&root), Meter::default());
        let copy =
            media.stage(&mut &*tar, &RestoreOrder::new(&Target::Live, Some(&facts)), &meter).await.unwrap();
        let warnings = meter.take_warnings();
        let bits = "1 files and folders came back without a setuid, setgid or sticky bit.";
        assert_eq!(warnings, [bits]);
        assert_eq!(copy.expected(&facts.counts).differences(copy.counts()), [""; 0]);
        assert_eq!(copy.differences(&mut &*tar, &Meter::default()).await.unwrap(), [""; 0]);
        copy.swap().await.unwrap().unwrap();
        assert_eq!(fs::metadata(root.join("setgid")).unwrap().mode() & 0o7777, 0o755);
    });
}

#[tokio::test]
async fn times_that_a_file_system_cannot_hold_are_a_warning_and_no_difference() {
    let Some(disk) = Tmpfs::of_old() else { return println!("skipped: mounting is not allowed here") };
    let (dir, ..) = small().await;
    let source = dir.path().join("source");
    tree::touch(&source.join("new"), 4_102_444_800, 0); // in the year 2100
    let (tar, facts) = tar_of(&source, || ()).await;
    let root = disk.path().join("media");
    fs::create_dir(&root).unwrap();
    let meter = Meter::default();
    let copy = media(&root)
        .stage(&mut &*tar, &RestoreOrder::new(&Target::Live, Some(&facts)), &meter)
        .await
        .unwrap();
    let time = "1 files and folders have another time: the file system cannot hold theirs.";
    assert_eq!(meter.take_warnings(), [time]);
    assert_eq!(copy.expected(&facts.counts).differences(copy.counts()), [""; 0]);
    assert_eq!(copy.differences(&mut &*tar, &meter).await.unwrap(), [""; 0]);
    copy.swap().await.unwrap().unwrap();
    assert_eq!(fs::metadata(root.join("new")).unwrap().mtime(), i64::from(i32::MAX));
}

/// Changes one number of the manifest of a backup, as if the archive had lost something on its way into the copy.
fn promise(lab: &Lab, id: &str, pointer: &str, value: Value) {
    let path = lab.backups().join(format!("manifests/media/{id}.json"));
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    *manifest.pointer_mut(pointer).unwrap() = value;
    fs::write(path, manifest.to_string()).unwrap();
}

#[test]
fn a_copy_with_other_owners_modes_times_or_attributes_than_the_manifest_says_takes_the_place_of_nothing() {
    for (part, promised, why) in [
        ("metadata/owners", json!({"7:8": 3}), "owner 7:8: expected 3 entries, found 0"),
        ("metadata/modes", json!({"4755": 1}), "mode 4755: expected 1 entries, found 0"),
        ("metadata/times", json!(1), "times of modification are not all those of the backup"),
        ("attributes", json!({"acls": 1}), "entries: expected 1 with ACLs, found"),
    ] {
        let lab = Lab::new().set("RUST_LOG", "");
        tree::adorn_one(&lab.media().join("figures/gel.txt"));
        let id = lab.json(&["backup", "media"])["backup_id"].as_str().unwrap().to_owned();
        let shown = lab.run(&["show", &id]).1;
        for told in ["of these   1 with user attributes", "owners     ", "modes      "] {
            assert!(shown.contains(told), "{told} is not in {shown}");
        }
        promise(&lab, &id, &format!("/facts/counts/{part}"), promised);
        fs::write(lab.media().join("live"), "since").unwrap();
        let before = look(&lab.media());
        let (code, _, err) = lab.run(&["restore", "media", &id, "--yes"]);
        assert!(code == 4 && err.contains(why), "{part}: {code} {err}");
        same(&look(&lab.media()), &before);
        assert_eq!(areas(&lab.media()).len(), 0);
    }
}
