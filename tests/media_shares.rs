//! Media on shares that refuse or forget modes and owners, that have no links, or that are mounted read-only.

use crate::support::{
    disk::{ExFat, Share},
    lab::Lab,
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
};

/// A lab whose media folder is a share of `store`, a folder of the lab, and a backup of it. `None` where it cannot be
/// mounted.
fn shared(options: &[&str]) -> Option<(Lab, Share, Value)> {
    let lab = Lab::new().set("RUST_LOG", "").set("BACKUP_RETENTION_DAYS", "365");
    let gel = lab.media().join("figures/gel.txt");
    fs::set_permissions(&gel, fs::Permissions::from_mode(0o640)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&gel, Some(1234), Some(1234)).unwrap();
    }
    let report = lab.json(&["backup", "media"]);
    let store = lab.path("store");
    fs::rename(lab.media(), &store).unwrap();
    fs::create_dir(lab.media()).unwrap();
    let share = Share::mount(options, &store, &lab.media())?;
    Some((lab, share, report))
}

fn words(value: &Value) -> String {
    value.to_string()
}

#[test]
fn what_a_share_refuses_of_modes_and_owners_is_told_before_and_with_counts_and_the_rest_comes_back() {
    let Some((lab, _share, report)) = shared(&["--chmod-deny", "--chown-deny"]) else { return };
    fs::remove_file(lab.media().join("figures/gel.txt")).unwrap();
    let plan = lab.json(&["restore", "media", "--dry-run"]);
    let told = words(&plan["warnings"]);
    assert!(told.contains("holds no modes: those of 3 files and folders are lost"), "{told}");
    if rustix::process::geteuid().is_root() {
        assert!(told.contains("gives no file to another owner: that of 3 entries is lost"), "{told}");
    }
    assert!(!told.contains("times"), "a share keeps times: {told}");
    let drill = lab.json(&["verify", "media", "--drill"]);
    assert!(words(&drill["results"][0]["warnings"]).contains("holds no modes"), "{drill}");
    let restored = lab.json(&["restore", "media", "--yes"]);
    assert_eq!(restored["backup_id"], report["backup_id"]);
    assert!(words(&restored["warnings"]).contains("holds no modes"), "{restored}");
    assert!(fs::read_to_string(lab.media().join("figures/gel.txt")).unwrap().starts_with("lane 1: RNA"));
    lab.json(&["undo", "media", "--yes"]);
    assert!(!lab.media().join("figures/gel.txt").exists());
}

#[test]
fn a_file_system_that_forgets_modes_is_found_by_looking_and_one_without_links_refuses_before_it_begins() {
    let Some(disk) = ExFat::mount() else { return };
    let lab = Lab::new().set("RUST_LOG", "").set("BACKUP_RETENTION_DAYS", "365");
    let first = lab.json(&["backup", "media"]);
    symlink("gel.txt", lab.media().join("figures/link")).unwrap();
    lab.json(&["backup", "media"]);
    let lab = lab.set("MEDIA_ROOT", disk.path().display());
    for args in [&["restore", "media", "--dry-run"][..], &["restore", "media", "--yes"]] {
        let (code, _, err) = lab.run(args);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("has no symbolic links, of which the backup has 1"), "{err}");
    }
    let id = first["backup_id"].as_str().unwrap();
    assert!(words(&lab.json(&["restore", "media", id, "--dry-run"])["warnings"]).contains("holds no modes"));
    assert_eq!(lab.json(&["verify", "media", id, "--drill"])["results"][0]["ok"], json!(true));
    lab.json(&["restore", "media", id, "--yes"]);
    assert!(disk.path().join("figures/gel.txt").exists());
    let left = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains("rna-restore");
    assert!(!fs::read_dir(disk.path()).unwrap().any(|entry| left(&entry.unwrap())));
}

#[test]
fn media_that_are_mounted_read_only_are_drilled_beside_the_backups_and_a_dry_run_says_that_no_restore_can_be()
{
    let Some((lab, _share, report)) = shared(&["-o", "ro"]) else { return };
    let drill = lab.json(&["verify", "media", "--drill"]);
    assert_eq!((&drill["results"][0]["ok"], &drill["results"][0]["level"]), (&json!(true), &json!("drill")));
    assert_eq!(drill["results"][0]["backup_id"], report["backup_id"]);
    let told = words(&drill["results"][0]["warnings"]);
    assert!(
        told.contains("Nothing can be written beside") && told.contains("a restore would not begin"),
        "{told}"
    );
    let drills = lab.backups().join(".media/drills");
    assert_eq!(fs::read_dir(&drills).unwrap().count(), 0, "the copy of the drill is gone");
    for args in [&["restore", "media", "--dry-run"][..], &["restore", "media", "--yes"]] {
        let (code, _, err) = lab.run(args);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("is mounted read-only"), "{err}");
    }
    assert!(lab.media().join("figures/gel.txt").exists());
}
