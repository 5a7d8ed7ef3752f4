//! The floors of `src/lib.rs`, and rules for all sources: a module imports only from below.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Module and what it may name after `crate::`, from the ground up.
const FLOORS: &[(&str, &[&str])] = &[
    ("component", &["base", "domain", "stream"]),
    ("catalog", &["base", "domain", "store"]),
    ("engine", &["base", "domain", "stream", "store", "component", "catalog"]),
    ("observe", &["base", "domain", "engine"]),
    ("config", &["base", "domain", "celery", "stream", "store", "component", "observe", "worker"]),
    ("worker", &["base", "domain", "celery", "store", "component", "catalog", "engine", "observe"]),
    (
        "app",
        &[
            "base",
            "domain",
            "celery",
            "stream",
            "store",
            "component",
            "catalog",
            "observe",
            "engine",
            "worker",
            "config",
        ],
    ),
    (
        "preflight",
        &["base", "domain", "celery", "stream", "component", "store", "catalog", "worker", "config", "app"],
    ),
    (
        "cli",
        &[
            "base",
            "domain",
            "stream",
            "catalog",
            "component",
            "engine",
            "observe",
            "config",
            "app",
            "preflight",
        ],
    ),
    ("core_dumps", &[]),
    ("main", &[]),
];

/// The crates of the program, which its modules name as `src/lib.rs` does.
const CRATES: &[&str] = &["rna_backup_archive", "rna_backup_base", "rna_backup_model", "rna_backup_stores"];

/// Files over this length want to be two.
const LONGEST_FILE: usize = 400;

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else {
            into.push(path);
        }
    }
}

/// Visits the Rust files of a folder of the repository, with paths relative to that folder.
fn each_source_of(folder: &str, mut visit: impl FnMut(&Path, &str)) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "rs")) {
        visit(file.strip_prefix(&root).unwrap(), &fs::read_to_string(file).unwrap());
    }
}

/// Visits the Rust files of the program and of its crates.
fn each_source(mut visit: impl FnMut(&Path, &str)) {
    each_source_of("src", &mut visit);
    each_source_of("crates", &mut visit);
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    each_source_of("src", |file, text| {
        if file == Path::new("lib.rs") {
            return;
        }
        let inside = file.with_extension("");
        let module = inside.iter().next().unwrap().to_str().unwrap();
        let (_, allowed) = FLOORS
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("give `{module}` a floor"));
        if text.contains("crate::{") {
            wrong.push(format!("{}: write one `use crate::module::…` each", file.display()));
        }
        // By its own name a crate would pass over the floors.
        if CRATES.iter().any(|name| text.contains(name)) {
            wrong.push(format!("{}: go by the names of src/lib.rs", file.display()));
        }
        for name in text.split("crate::").skip(1) {
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name != module && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}: crate::{name}", file.display()));
            }
        }
    });
    assert!(wrong.is_empty(), "imports that point up or sideways: {wrong:#?}");
}

/// `celery-redis` is for any worker, so its sources say nothing of what this program does.
#[test]
fn the_crate_of_the_protocol_knows_nothing_of_backups() {
    let mut wrong = Vec::new();
    each_source_of("crates/celery-redis/src", |file, text| {
        let text = text.to_lowercase();
        for word in ["backup", "postgres", "weaviate", "rna_", "rna-"] {
            if text.contains(word) {
                wrong.push(format!("{}: {word}", file.display()));
            }
        }
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The names of destinations, which stores alone know. They are names of Weaviate's backends as well.
#[test]
fn nobody_but_the_stores_asks_which_destination_it_is() {
    let mut wrong = Vec::new();
    each_source(|file, text| {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default().split("#[test]").next();
        let code = code.unwrap_or_default();
        let is_named = [r#""local""#, r#""s3""#].iter().any(|name| code.contains(name));
        let may = file.starts_with("stores") || file.starts_with("component/weaviate");
        if is_named && !may && !file.ends_with("anomaly.rs") {
            wrong.push(file.display().to_string());
        }
    });
    assert!(wrong.is_empty(), "ask the store what it can do: {wrong:#?}");
}

#[test]
fn files_stay_short_enough_to_read() {
    let mut long = Vec::new();
    each_source(|file, text| {
        if text.lines().count() > LONGEST_FILE {
            long.push(format!("{}: {} lines", file.display(), text.lines().count()));
        }
    });
    assert!(long.is_empty(), "files over {LONGEST_FILE} lines: {long:#?}");
}

/// The files that may make something durable themselves: the routine of all journals, marks and notes, the lock files,
/// which are written in place, and the store in a folder, whose archives are too long for that routine. Everybody else
/// calls the routine, away from the threads of the runtime.
const DURABLE: &[&str] = &["base/src/durable.rs", "engine/locks/file.rs", "stores/src/local"];

/// Files that move something without having to make it durable at once.
const MOVERS: &[&str] = &["component/weaviate/journal.rs", "component/weaviate/folder.rs"];

#[test]
fn what_must_outlive_a_crash_is_written_by_one_routine() {
    let mut wrong = Vec::new();
    each_source(|file, text| {
        let is_in = |rooms: &[&str]| rooms.iter().any(|room| file.starts_with(room));
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let syncs = ["sync_all(", "sync_data("].iter().any(|call| code.contains(call));
        if syncs && !is_in(DURABLE) || code.contains("fs::rename(") && !is_in(DURABLE) && !is_in(MOVERS) {
            wrong.push(file.display().to_string());
        }
    });
    assert!(wrong.is_empty(), "call base::durable instead: {wrong:#?}");
}
