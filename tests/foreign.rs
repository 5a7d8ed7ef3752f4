//! Archives without a manifest, told by their bytes: encrypted ones, and what people make by hand.

use crate::support::{lab::Lab, tree};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A pair of keys by `age-keygen`: the file of the secret one, and the public one.
fn keys(lab: &Lab) -> (PathBuf, String) {
    let file = lab.path("lab.key");
    assert!(Command::new("age-keygen").arg("-o").arg(&file).output().unwrap().status.success());
    let public = Command::new("age-keygen").arg("-y").arg(&file).output().unwrap();
    (file, String::from_utf8(public.stdout).unwrap().trim().to_owned())
}

fn bash(folder: &Path, script: &str) {
    let out =
        Command::new("bash").args(["-euo", "pipefail", "-c", script]).current_dir(folder).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
}

/// What `catalog rebuild` says.
fn rebuild(lab: &Lab) -> Value {
    let (_, out, err) = lab.run(&["catalog", "rebuild", "--json"]);
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("{err}"))
}

#[test]
fn an_encrypted_archive_without_its_manifest_is_opened_with_the_key_whatever_its_name_says() {
    let lab = Lab::new().set("RUST_LOG", "");
    let (secret, public) = keys(&lab);
    let lab = lab.set("BACKUP_AGE_RECIPIENTS", &public);
    let report = lab.json(&["backup", "media"]);
    let whole = tree::look(&lab.media());
    let path = PathBuf::from(report["path"].as_str().unwrap());
    fs::remove_dir_all(lab.backups().join("manifests")).unwrap();
    let by_hand = path.with_file_name("kept by hand");
    fs::copy(&path, &by_hand).unwrap();
    // Somebody thought the last extension was one too many.
    let renamed = path.with_extension("");
    fs::rename(&path, &renamed).unwrap();

    for path in [&renamed, &by_hand] {
        for args in [&["--dry-run"][..], &["--yes"]] {
            let (code, _, err) = lab.run(&[&["restore", "media", path.to_str().unwrap()], args].concat());
            assert!(code == 2 && err.contains("set BACKUP_AGE_IDENTITY_FILE"), "{code}: {err}");
        }
    }
    let skipped = rebuild(&lab)["skipped"].to_string();
    assert!(skipped.contains("set BACKUP_AGE_IDENTITY_FILE"), "{skipped}");
    assert_eq!(tree::look(&lab.media()), whole);

    let lab = lab.set("BACKUP_AGE_IDENTITY_FILE", secret.display());
    for path in [&renamed, &by_hand] {
        fs::write(lab.media().join("figures/gel.txt"), "gone").unwrap();
        lab.json(&["restore", "media", path.to_str().unwrap(), "--yes"]);
        assert_eq!(tree::look(&lab.media()), whole);
        assert_eq!(lab.json(&["verify", "media", path.to_str().unwrap()])["results"][0]["ok"], json!(true));
    }
    assert_eq!(rebuild(&lab)["made"], json!([report["backup_id"]]));
    let manifest = &lab.manifests("media")[0];
    assert_eq!((&manifest["encryption"], &manifest["compression"]), (&json!("age"), &json!("zstd:3")));
    assert_eq!(lab.json(&["verify", "media", "--drill"])["results"][0]["ok"], json!(true));
}

#[test]
fn an_incremental_archive_of_gnu_tar_is_named_as_one_and_never_restored_as_if_it_were_whole() {
    let lab = Lab::new().set("RUST_LOG", "");
    let folder = lab.backups().join("media");
    fs::create_dir_all(&folder).unwrap();
    let pack = |format: &str, name: &str| {
        let (media, snapshot) = (lab.media().display().to_string(), lab.path(format).display().to_string());
        let tar = format!("tar --format={format} --listed-incremental={snapshot} -C {media} -c .");
        bash(&folder, &format!("{tar} | zstd -q -o {name}"));
    };
    pack("gnu", "media_backup_20260101_000000.tar.zst");
    pack("posix", "level0.tar.zst");
    fs::write(lab.media().join("figures/new.txt"), "new").unwrap();
    pack("gnu", "media_backup_20260102_000000.tar.zst");
    pack("posix", "level1.tar.zst");
    let whole = tree::look(&lab.media());
    for name in ["media_backup_20260102_000000.tar.zst", "level1.tar.zst"] {
        let path = folder.join(name).display().to_string();
        for args in [&["restore", "media", &path, "--yes"][..], &["verify", "media", &path]] {
            let (code, out, err) = lab.run(args);
            let said = out + &err;
            assert!(code == 4 && said.contains("incremental archive of GNU tar"), "{name} {code}: {said}");
            assert!(said.contains("tar -xp --listed-incremental=/dev/null"), "{said}");
        }
    }
    let level0 = folder.join("level0.tar.zst").display().to_string();
    assert_eq!(lab.json(&["verify", "media", &level0])["results"][0]["ok"], json!(true));
    assert_eq!(tree::look(&lab.media()), whole);

    let report = rebuild(&lab);
    assert_eq!(report["made"], json!(["media_backup_20260101_000000"]), "level 0 holds everything");
    assert!(report["damaged"].to_string().contains("incremental archive of GNU tar"), "{report}");
    lab.json(&["restore", "media", "media_backup_20260101_000000", "--yes"]);
    assert!(!lab.media().join("figures/new.txt").exists() && lab.media().join("figures/gel.txt").exists());
}

#[test]
fn a_whole_archive_whose_window_is_too_large_is_not_called_damaged_and_one_that_fits_is_read() {
    let lab = Lab::new().set("RUST_LOG", "");
    let folder = lab.backups().join("media");
    fs::create_dir_all(&folder).unwrap();
    let gel = || fs::read(lab.media().join("figures/gel.txt")).unwrap();
    let before = gel();
    let pack = |long: u32| {
        let path = folder.join(format!("long{long}.tar.zst"));
        bash(
            &folder,
            &format!("tar -C {} -c . | zstd -q --long={long} -o {}", lab.media().display(), path.display()),
        );
        path.display().to_string()
    };
    let (fits, large) = (pack(27), pack(28));
    fs::write(lab.media().join("figures/gel.txt"), "gone").unwrap();
    lab.json(&["restore", "media", &fits, "--yes"]);
    assert_eq!(gel(), before);
    for args in [&["restore", "media", &large, "--yes"][..], &["verify", "media", &large]] {
        let (code, out, err) = lab.run(args);
        let said = out + &err;
        assert!(code == 1 && said.contains("zstd -dc --long=31 FILE"), "{args:?} {code}: {said}");
        assert!(!said.to_lowercase().contains("not whole"), "{said}");
    }
    fs::rename(&large, folder.join("media_backup_20260102_000000.tar.zst")).unwrap();
    let report = rebuild(&lab);
    assert_eq!(report["damaged"], json!([]), "{report}");
    assert!(report["skipped"].to_string().contains("--long=31"), "{report}");
}
