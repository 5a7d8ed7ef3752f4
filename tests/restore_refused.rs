//! Backups that are not what they should be: refused by the program, in clear words, with nothing touched.

use crate::media_restore::areas;
use crate::postgres_restore::databases;
use crate::support::{
    lab::{Lab, unfinished},
    postgres::{PASSWORD, PostgresServer},
    tree::{self, Seen},
};
use crate::verify::{edit, noise};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

/// The backups that are made once for all tests: two of each component, and the app's old ones.
struct TestBackups {
    /// Files of the backup folder, by their paths in it.
    files: Vec<(PathBuf, Vec<u8>)>,
    postgres: [Value; 2],
    media: [Value; 2],
    /// As the app's old tasks made them.
    old_postgres: Vec<u8>,
    old_media: Vec<u8>,
}

const TEMPLATE: &str = "refused template";

static MADE: LazyLock<TestBackups> = LazyLock::new(|| {
    let server = PostgresServer::shared();
    let database = server.database(TEMPLATE, "");
    server.psql(
        &database,
        "CREATE TABLE paper AS SELECT g AS id, sha512(g::text::bytea)::text AS body \
         FROM generate_series(1, 3000) g; CREATE TABLE author (name text); INSERT INTO author VALUES ('Ada')",
    );
    let lab = connected(server, &database);
    fs::write(lab.media().join("blot.tiff"), noise(200_000)).unwrap();
    let backups = || ["postgres", "media"].map(|component| lab.json(&["backup", component]));
    let first = backups();
    let old_postgres = server.run("pg_dump", &database, &["-Fc"], b"").stdout;
    let args = ["-czf", "old.tar.gz", "media"];
    assert!(Command::new("tar").args(args).current_dir(lab.path("")).status().unwrap().success());
    let old_media = fs::read(lab.path("old.tar.gz")).unwrap();
    server.psql(&database, "UPDATE author SET name = 'Bob'");
    fs::write(lab.media().join("blot.tiff"), &noise(200_032)[32..]).unwrap();
    let ([postgres, media], [later_postgres, later_media]) = (first, backups());
    let (postgres, media) = ([postgres, later_postgres], [media, later_media]);
    TestBackups { files: below(&lab.backups(), Path::new("")), postgres, media, old_postgres, old_media }
});

fn below(root: &Path, folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let path = folder.join(entry.unwrap().file_name());
        if root.join(&path).is_dir() {
            found.extend(below(root, &path));
        } else {
            let content = fs::read(root.join(&path)).unwrap();
            found.push((path, content));
        }
    }
    found
}

fn connected(server: &PostgresServer, database: &str) -> Lab {
    let config = server.config(database);
    let lab = Lab::new().set("POSTGRES_HOST", &config.host).set("POSTGRES_PORT", config.port);
    lab.set("POSTGRES_DB", database).set("POSTGRES_PASSWORD", PASSWORD).set("RUST_LOG", "warn")
}

/// All that is live: every table's rows, the database itself, its neighbours, and the tree of the media.
#[derive(PartialEq)]
struct Live {
    database: String,
    databases: Vec<String>,
    media: BTreeMap<OsString, Seen>,
    areas: Vec<PathBuf>,
    unfinished: Vec<PathBuf>,
}

/// A lab with those backups and live data that are others since.
struct Case {
    lab: Lab,
    database: String,
}

impl Case {
    fn new(name: &str) -> Self {
        let (made, server) = (&*MADE, PostgresServer::shared());
        let database = server.database(&format!("refused {name}"), &format!("TEMPLATE \"{TEMPLATE}\""));
        server.psql(&database, "DELETE FROM paper WHERE id > 7; CREATE TABLE later AS SELECT 1 AS n");
        let lab = connected(server, &database);
        fs::write(lab.media().join("since the backup"), "x").unwrap();
        for (path, content) in &made.files {
            let path = lab.backups().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        Self { lab, database }
    }

    fn live(&self) -> Live {
        const CONTENTS: &str = r"
            SELECT oid, datdba, datacl FROM pg_database WHERE datname = current_database();
            SELECT format('SELECT %L, count(*), md5(string_agg(t::text, '','' ORDER BY t::text)) FROM %I t;', relname, relname)
              FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1 \gexec";
        let server = PostgresServer::shared();
        Live {
            database: server.psql(&self.database, CONTENTS),
            databases: databases(server, &self.database),
            media: tree::look(&self.lab.media()),
            areas: areas(&self.lab.media()),
            unfinished: unfinished(&self.lab.backups()),
        }
    }

    /// Orders a restore, which must end with this status and these words, and change nothing.
    fn refuses(&self, component: &str, reference: &str, status: i32, words: &str) {
        let before = self.live();
        assert!(before.database.contains("later|1|") && before.areas.is_empty());
        let (code, out, err) = self.lab.run(&["restore", component, reference, "--yes"]);
        assert_eq!((code, out.as_str()), (status, ""), "{component}: {err}");
        assert!(err.starts_with("error: ") && err.contains(words), "{component}: {err}");
        let after = self.live();
        assert!(
            after == before,
            "{component}: something has changed\n{:?} {:?}",
            after.databases,
            after.areas
        );
    }

    fn archive(&self, report: &Value) -> PathBuf {
        let name = Path::new(report["path"].as_str().unwrap()).file_name().unwrap().to_owned();
        self.lab.backups().join(report["component"].as_str().unwrap()).join(name)
    }

    fn manifest(&self, report: &Value) -> PathBuf {
        let (component, id) = (report["component"].as_str().unwrap(), report["backup_id"].as_str().unwrap());
        self.lab.backups().join(format!("manifests/{component}/{id}.json"))
    }

    /// Puts an old task's backup there; its path.
    fn old(&self, component: &str, content: &[u8]) -> String {
        let name = if component == "postgres" {
            "pg_backup_20250523_020000.sql"
        } else {
            "media_backup_20250523_040000.tar.gz"
        };
        let path = self.lab.backups().join(component).join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            PostgresServer::shared()
                .psql("postgres", &format!("DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)", self.database));
        }
    }
}

/// Does the damage to a backup of each component: to a report of it, given one of another backup of the same
/// component and one of the other.
fn refused(name: &str, status: i32, words: &str, damage: impl Fn(&Case, &Value, &Value, &Value)) {
    let case = Case::new(name);
    for ([first, second], [other, _]) in [(&MADE.postgres, &MADE.media), (&MADE.media, &MADE.postgres)] {
        damage(&case, first, second, other);
        case.refuses(
            first["component"].as_str().unwrap(),
            first["backup_id"].as_str().unwrap(),
            status,
            words,
        );
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    assert!(bytes.len() > 100_000, "{} bytes", bytes.len());
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_archive_truncated_at_70_percent_is_refused() {
    refused("cut at 70", 4, "is not what its manifest says", |case, report, _, _| {
        change(&case.archive(report), |bytes| bytes.truncate(bytes.len() * 7 / 10));
    });
}

#[test]
fn an_archive_truncated_by_the_last_64_kb_is_refused() {
    refused("cut by 64", 4, "is not what its manifest says", |case, report, _, _| {
        change(&case.archive(report), |bytes| bytes.truncate(bytes.len() - 65_536));
    });
}

fn flipped(name: &str, place: impl Fn(usize) -> usize) {
    refused(name, 4, "its hash is not the one in its manifest", |case, report, _, _| {
        change(&case.archive(report), |bytes| {
            let at = place(bytes.len());
            bytes[at] ^= 1;
        });
    });
}

#[test]
fn one_flipped_bit_in_the_middle_of_an_archive_is_refused() {
    flipped("flipped in the middle", |len| len / 2);
}

#[test]
fn one_flipped_bit_at_the_beginning_of_an_archive_is_refused() {
    flipped("flipped at the beginning", |_| 0);
}

#[test]
fn one_flipped_bit_at_the_end_of_an_archive_is_refused() {
    flipped("flipped at the end", |len| len - 1);
}

#[test]
fn a_wrong_hash_in_the_manifest_is_refused() {
    refused("wrong hash", 4, "its hash is not the one in its manifest", |case, report, _, _| {
        edit(&case.manifest(report), |manifest| manifest["objects"][0]["sha256"] = json!("ab".repeat(32)));
    });
}

#[test]
fn the_whole_archive_of_another_backup_is_refused() {
    // By its length or by its hash.
    refused("replaced", 4, " its manifest", |case, report, another, _| {
        fs::copy(case.archive(another), case.archive(report)).unwrap();
    });
}

#[test]
fn an_empty_archive_is_refused() {
    refused("empty", 4, "is not what its manifest says", |case, report, _, _| {
        fs::write(case.archive(report), "").unwrap();
    });
}

#[test]
fn a_backup_of_another_component_is_refused_by_its_id() {
    let case = Case::new("wrong id");
    for (component, report) in [("postgres", &MADE.media[0]), ("media", &MADE.postgres[0])] {
        let (id, of) = (report["backup_id"].as_str().unwrap(), report["component"].as_str().unwrap());
        case.refuses(component, id, 2, &format!("is a backup of {of}, not of {component}"));
        case.refuses(component, &case.archive(report).display().to_string(), 2, "is a backup of");
    }
}

#[test]
fn the_archive_of_another_component_is_refused_though_its_hash_is_right() {
    refused("wrong component", 4, "archive", |case, report, _, other| {
        let name = case.archive(other).file_name().unwrap().to_owned();
        let (_, bytes) = MADE.files.iter().find(|(path, _)| path.ends_with(&name)).unwrap();
        edit(&case.manifest(report), |manifest| {
            manifest["objects"][0]["bytes"] = json!(bytes.len());
            let hash = Sha256::digest(bytes);
            manifest["objects"][0]["sha256"] =
                json!(hash.iter().fold(String::new(), |hash, byte| hash + &format!("{byte:02x}")));
        });
        fs::write(case.archive(report), bytes).unwrap();
    });
}

#[test]
fn a_manifest_that_was_copied_from_another_component_is_refused() {
    let case = Case::new("copied manifest");
    for (report, other) in [(&MADE.postgres[0], &MADE.media[0]), (&MADE.media[0], &MADE.postgres[0])] {
        let (component, id) = (report["component"].as_str().unwrap(), report["backup_id"].as_str().unwrap());
        let manifest = fs::read(case.manifest(report)).unwrap();
        fs::copy(case.manifest(other), case.manifest(report)).unwrap();
        case.refuses(component, id, 3, "no such backup");
        fs::write(case.manifest(report), manifest).unwrap();
    }
}

#[test]
fn an_encrypted_backup_is_refused() {
    refused("encrypted", 2, "is encrypted: set BACKUP_AGE_IDENTITY_FILE", |case, report, _, _| {
        edit(&case.manifest(report), |manifest| manifest["encryption"] = json!("age"));
    });
}

/// Old files have no hash: what is wrong with them is found in them.
fn old_refused(name: &str, component: &str, words: &str, damage: impl Fn(&mut Vec<u8>)) {
    let case = Case::new(name);
    let whole = if component == "postgres" { &MADE.old_postgres } else { &MADE.old_media };
    let mut bytes = whole.clone();
    assert!(bytes.len() > 100_000, "{} bytes", bytes.len());
    damage(&mut bytes);
    case.refuses(component, &case.old(component, &bytes), 4, words);
}

#[test]
fn an_old_dump_truncated_at_70_percent_is_refused() {
    old_refused("old cut at 70", "postgres", "pg_restore", |bytes| bytes.truncate(bytes.len() * 7 / 10));
}

#[test]
fn an_old_dump_truncated_by_the_last_64_kb_is_refused() {
    old_refused("old cut by 64", "postgres", "pg_restore", |bytes| bytes.truncate(bytes.len() - 65_536));
}

#[test]
fn an_old_dump_that_is_empty_or_something_else_is_refused() {
    old_refused("old empty", "postgres", "is empty", Vec::clear);
    old_refused("old plain", "postgres", "does not appear to be a valid archive", |bytes| {
        *bytes = "-- PostgreSQL database dump\n".repeat(5_000).into_bytes();
    });
}

#[test]
fn old_media_truncated_at_70_percent_are_refused() {
    old_refused("old media cut at 70", "media", "not whole", |bytes| bytes.truncate(bytes.len() * 7 / 10));
}

#[test]
fn old_media_truncated_by_the_last_64_kb_are_refused() {
    old_refused("old media cut by 64", "media", "not whole", |bytes| bytes.truncate(bytes.len() - 65_536));
}

#[test]
fn old_media_truncated_by_the_trailer_of_gzip_are_refused() {
    old_refused("old media cut by 8", "media", "not whole", |bytes| bytes.truncate(bytes.len() - 8));
}

#[test]
fn old_media_with_one_flipped_bit_are_refused() {
    for (name, part) in [("old media flipped 1", 4), ("old media flipped 2", 2), ("old media flipped 3", 1)] {
        old_refused(name, "media", "not whole", |bytes| {
            let at = bytes.len() / part - 5;
            bytes[at] ^= 1;
        });
    }
}

#[test]
fn old_backups_that_are_whole_come_back_with_a_warning() {
    let case = Case::new("old whole");
    for (component, whole) in [("postgres", &MADE.old_postgres), ("media", &MADE.old_media)] {
        let path = case.old(component, whole);
        let restored = case.lab.json(&["restore", component, &path, "--yes"]);
        assert!(restored["warnings"].to_string().contains("has no manifest"), "{restored}");
    }
    let count =
        |table| PostgresServer::shared().psql(&case.database, &format!("SELECT count(*) FROM {table}"));
    assert_eq!((count("paper"), count("author")), ("3000".to_owned(), "1".to_owned()));
    assert_eq!(fs::read(case.lab.media().join("blot.tiff")).unwrap(), noise(200_000));
    assert!(!case.lab.media().join("since the backup").exists());
    for component in ["postgres", "media"] {
        case.lab.json(&["undo", component, "--yes"]);
    }
    assert_eq!((count("paper"), count("later")), ("7".to_owned(), "1".to_owned()));
    assert!(case.lab.media().join("since the backup").exists());
    for database in databases(PostgresServer::shared(), &format!("{}_", case.database)) {
        PostgresServer::shared().psql("postgres", &format!("DROP DATABASE \"{database}\" WITH (FORCE)"));
    }
}

#[test]
fn a_dump_that_somebody_made_by_hand_comes_back_whatever_its_name() {
    let case = Case::new("by hand");
    let path = case.lab.backups().join("postgres/before the upgrade.dump");
    fs::write(&path, &MADE.old_postgres).unwrap();
    let path = path.to_str().unwrap();
    assert!(
        case.lab.json(&["restore", "postgres", path, "--dry-run"])["warnings"]
            .to_string()
            .contains("no manifest")
    );
    case.lab.json(&["restore", "postgres", path, "--yes"]);
    let rows = PostgresServer::shared().psql(&case.database, "SELECT count(*) FROM paper");
    assert_eq!(rows, "3000");
    case.lab.json(&["undo", "postgres", "--yes"]);
    // It is in no listing, and what it is not it cannot be made.
    assert!(!case.lab.run(&["list"]).1.contains("before the upgrade"));
    assert_eq!(case.lab.run(&["restore", "media", path, "--yes"]).0, 2);
    for database in databases(PostgresServer::shared(), &format!("{}_", case.database)) {
        PostgresServer::shared().psql("postgres", &format!("DROP DATABASE \"{database}\" WITH (FORCE)"));
    }
}
