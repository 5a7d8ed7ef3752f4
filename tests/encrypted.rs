//! Encrypted backups: made without any secret, opened with the right one alone.

use crate::{
    support::{
        lab::{Lab, files},
        postgres::PostgresServer,
        tree,
    },
    verify::noise,
};
use rna_backup::stream::{
    crypt::{Identities, OpenError, Recipients, decrypt},
    pack::{Compression, Packer},
    unpack::unpack,
};
use std::{fs, path::PathBuf, process::Command};
use tokio::{io::AsyncReadExt, sync::mpsc};

/// A pair of keys by `age-keygen`: the file of the secret one, and the public one.
fn keys(lab: &Lab, name: &str) -> (PathBuf, String) {
    let file = lab.path(name);
    let made = Command::new("age-keygen").arg("-o").arg(&file).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let public = Command::new("age-keygen").arg("-y").arg(&file).output().unwrap();
    (file, String::from_utf8(public.stdout).unwrap().trim().to_owned())
}

#[test]
fn what_is_encrypted_to_several_is_opened_by_each_of_them_with_plain_tools() {
    let server = PostgresServer::shared();
    let database = server.database("sealed", "");
    server.psql(
        &database,
        "CREATE TABLE paper AS SELECT g AS id, 'secret ' || g AS title FROM generate_series(1, 900) g",
    );
    let lab = Lab::new().database(server, &database).set("RUST_LOG", "");
    let (first, second) = (keys(&lab, "first.key"), keys(&lab, "second.key"));
    let lab = lab.set("BACKUP_AGE_RECIPIENTS", format!("{}, {}", first.1, second.1));
    let made = [lab.json(&["backup", "postgres"]), lab.json(&["backup", "media"])];
    for report in &made {
        let path = report["path"].as_str().unwrap();
        assert!(path.ends_with(".zst.age"), "{path}");
        assert_eq!(report["verified"], "decode");
        let bytes = fs::read(path).unwrap();
        assert!(bytes.starts_with(b"age-encryption.org/v1\n"));
        assert!(memchr::memmem::find(&bytes, b"secret 7").is_none());
        // What was made to prove it is in no file.
        for key in [&first.0, &second.0] {
            let open = format!("age -d -i {} {path} | zstd -dq", key.display());
            let list = if path.contains("postgres") { "pg_restore --list" } else { "tar -t" };
            let listed = Command::new("bash")
                .args(["-o", "pipefail", "-c", &format!("{open} | {list}")])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&listed.stdout);
            assert!(
                listed.status.success() && (text.contains("paper") || text.contains("gel.txt")),
                "{listed:?}"
            );
        }
    }
    let (_, shown, _) = lab.run(&["show", made[0]["backup_id"].as_str().unwrap()]);
    assert!(shown.contains("age -d -i KEYFILE"), "{shown}");
}

#[test]
fn without_the_secret_key_a_backup_is_made_and_kept_and_with_it_restored() {
    let lab = Lab::new().set("RUST_LOG", "");
    let (secret, public) = keys(&lab, "lab.key");
    let (other, _) = keys(&lab, "other.key");
    let lab = lab.set("BACKUP_AGE_RECIPIENTS", &public);
    lab.json(&["backup", "media"]);
    let whole = tree::look(&lab.media());
    let verified =
        |lab: &Lab, args: &[&str]| lab.json(&[&["verify", "media"], args].concat())["results"][0].clone();
    let refused = |lab: &Lab, words: &str| {
        let (code, out, err) = lab.run(&["restore", "media", "--yes"]);
        assert!(code == 2 && out.is_empty() && err.contains(words), "{code} {err}");
        assert_eq!(tree::look(&lab.media()), whole);
    };
    refused(&lab, "set BACKUP_AGE_IDENTITY_FILE");
    let lab = lab.set("BACKUP_AGE_IDENTITY_FILE", other.display());
    refused(&lab, "no key in BACKUP_AGE_IDENTITY_FILE opens it");
    for args in [&[][..], &["--drill"]] {
        let found = verified(&lab, args);
        assert_eq!((&found["ok"], &found["level"]), (&true.into(), &"checksum".into()), "{found}");
        assert!(found["warnings"][0].as_str().unwrap().contains("only its hash was compared"), "{found}");
    }
    let lab = lab.set("BACKUP_AGE_IDENTITY_FILE", secret.display());
    for (args, level) in [(&[][..], "decode"), (&["--drill"], "drill")] {
        let found = verified(&lab, args);
        assert_eq!((&found["ok"], &found["level"]), (&true.into(), &level.into()), "{found}");
    }
    fs::write(lab.media().join("figures/gel.txt"), "gone").unwrap();
    lab.json(&["restore", "media", "--yes"]);
    assert_eq!(tree::look(&lab.media()), whole);
}

#[test]
fn a_wrong_key_in_the_settings_is_named_and_not_shown() {
    let lab = Lab::new().set("RUST_LOG", "");
    let (secret, public) = keys(&lab, "lab.key");
    let key = fs::read_to_string(&secret).unwrap().lines().last().unwrap().to_owned();
    let broken = lab.path("broken.key");
    fs::write(&broken, &key[..key.len() - 1]).unwrap();
    let recipients = format!("{public},age1nobody");
    for (name, value, words) in [
        ("BACKUP_AGE_RECIPIENTS", recipients.as_str(), "number 2 is none"),
        ("BACKUP_AGE_RECIPIENTS", &key, "number 1 is none"),
        ("BACKUP_AGE_IDENTITY_FILE", broken.to_str().unwrap(), "line 1 is none"),
        ("BACKUP_AGE_IDENTITY_FILE", "/nowhere/key", "cannot be read"),
    ] {
        let lab = Lab::new().set("RUST_LOG", "").set(name, value);
        let (code, _, err) = lab.run(&["backup", "media"]);
        assert!(code == 2 && err.contains(name) && err.contains(words), "{code} {err}");
        assert!(!err.contains(&key[..30]), "{err}");
        assert_eq!(files(&lab.backups()).len(), 0);
    }
}

/// Packs and encrypts, and gives the archive with what opens it.
async fn packed(content: &[u8]) -> (Vec<u8>, Identities) {
    let made = Command::new("age-keygen").output().unwrap();
    let text = String::from_utf8(made.stdout).unwrap();
    let public = text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    let recipients: Recipients = public.parse().unwrap();
    let (sink, mut chunks) = mpsc::channel(2);
    let mut packer = Packer::start(Compression::default(), Some(recipients), sink);
    let write = async {
        rna_backup::stream::Output::write(&mut packer, content.to_vec().into()).await.unwrap();
        packer.finish().await.unwrap();
    };
    let read = async {
        let mut archive = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            archive.extend_from_slice(&chunk);
        }
        archive
    };
    let ((), archive) = tokio::join!(write, read);
    (archive, text.parse().unwrap())
}

#[tokio::test]
async fn a_damaged_or_cut_archive_is_told_from_a_wrong_key_at_every_place() {
    let content = noise(300_000);
    let (archive, keys) = packed(&content).await;
    let open = async |bytes: &[u8]| -> Result<Vec<u8>, String> {
        let opened = decrypt(bytes, &keys).await.map_err(|err| match err {
            OpenError::WrongKey => panic!("the key is the right one"),
            damage => damage.to_string(),
        })?;
        let mut found = Vec::new();
        let read = unpack(Compression::default(), opened).read_to_end(&mut found).await;
        read.map_err(|err| {
            assert_eq!(err.kind(), std::io::ErrorKind::InvalidData, "{err}");
            err.to_string()
        })?;
        Ok(found)
    };
    assert!(open(&archive).await.unwrap() == content);
    let len = archive.len();
    for cut in [0, 1, 30, 200, len / 2, len - 16, len - 1] {
        assert!(open(&archive[..cut]).await.is_err(), "cut at {cut} of {len}");
    }
    let head = memchr::memmem::find(&archive, b"\n--- ").unwrap();
    for at in [head + 8, len / 3, len - 1] {
        let mut flipped = archive.clone();
        flipped[at] ^= 1;
        assert!(open(&flipped).await.is_err(), "flipped at {at} of {len}");
    }
    let (_, others) = packed(b"x").await;
    assert!(matches!(decrypt(archive.as_slice(), &others).await, Err(OpenError::WrongKey)));
}
