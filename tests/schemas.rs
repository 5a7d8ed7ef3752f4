//! The schemas in `schemas/`: their examples are what the real types read and write, and what the
//! real types write is valid.

use crate::support::catalog::manifest;
use rna_backup::celery::message::{Envelope, Limits, Peeked};
use rna_backup::domain::{
    command::Command,
    component::ComponentName,
    definitions::{Definitions, KindOfDefinitions},
    derived::{Derived, ExtensionRows, PredictedDifference, UnqualifiedObject, VIEW},
    facts::{FileCounts, TableRows},
    manifest::Manifest,
    progress::Progress,
    properties::Properties,
    report::{
        AmendReport, BackupReport, FullBackupReport, Listing, PruneReport, RestorePlan, RestoreReport,
        UndoReport, VerifyReport,
    },
    rights::{OwnedExtension, Rights},
};
use rna_backup::preflight::Check;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{fmt::Debug, fs, path::Path};

fn schema(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas").join(name).with_extension("json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// What is wrong with `value` according to `schemas/<name>.json`.
fn problems(name: &str, value: &Value) -> Vec<String> {
    let validator = jsonschema::draft202012::new(&schema(name)).unwrap();
    validator.iter_errors(value).map(|err| format!("{}: {err}", err.instance_path())).collect()
}

/// Checks a value against `schemas/<name>.json`.
///
/// # Panics
///
/// With all that is wrong with it.
pub fn validates(name: &str, value: &Value) {
    let problems = problems(name, value);
    assert!(problems.is_empty(), "{name} does not hold for {value:#}: {problems:#?}");
}

/// Every example of a schema is valid, and the real type reads it and writes the same again.
pub fn examples_are_real<T: Serialize + DeserializeOwned + Debug>(name: &str) {
    let schema = schema(name);
    assert!(jsonschema::meta::is_valid(&schema), "{name} is no schema");
    let examples = schema["examples"].as_array().expect("a schema has examples");
    assert!(!examples.is_empty(), "a schema has examples");
    for example in examples {
        validates(name, example);
        let real: T = serde_json::from_value(example.clone()).unwrap_or_else(|err| panic!("{name}: {err}"));
        assert_eq!(serde_json::to_value(&real).unwrap(), *example, "{name}");
    }
}

#[test]
fn the_examples_of_a_manifest_are_real() {
    examples_are_real::<Manifest>("manifest");
}

#[test]
fn the_examples_of_restores_are_real() {
    examples_are_real::<RestorePlan>("restore-plan");
    examples_are_real::<RestoreReport>("result-restore");
    examples_are_real::<UndoReport>("result-undo");
}

#[test]
fn a_real_manifest_is_valid_whatever_is_in_it() {
    let mut full = manifest(ComponentName::POSTGRES, 3, &["local", "s3"]);
    full.facts.counts.tables =
        vec![TableRows { schema: "a.b".into(), table: "é \"x\"".into(), rows: u64::MAX }];
    full.facts.counts.files = Some(FileCounts::default());
    full.facts.counts.classes = [("Paper".to_owned(), 7)].into();
    full.facts.versions = [("pg_dump".to_owned(), "15.18".to_owned())].into();
    full.facts.migrations = [("api".to_owned(), "0012".to_owned())].into();
    full.facts.database_bytes = Some(1);
    let (kind, name, said) = (VIEW.to_owned(), "public.words".to_owned(), "no relation docs".to_owned());
    full.facts.derived = Some(Derived {
        search_path: "public".into(),
        empty_views: vec!["public.never".into()],
        unqualified: vec![UnqualifiedObject { kind, name, said }],
        refused: vec![PredictedDifference {
            name: "public.mv".into(),
            warning: "It cannot be filled.".into(),
        }],
        on_extensions: vec!["CREATE INDEX".into()],
        own_rows: vec![ExtensionRows {
            table: "public.units".into(),
            extension: "lookup".into(),
            version: "1.0".into(),
            rows: 3,
            hash: "-7".into(),
            changed: 1,
        }],
        lc_monetary: Some("de_DE.UTF-8".into()),
        tablespaces: vec!["fast".into()],
        left_out: vec!["Index public.slow is invalid.".into()],
        hidden_mappings: vec!["ALTER USER MAPPING FOR app SERVER other".into()],
    });
    let columns = KindOfDefinitions { objects: 1, sha256: "0a".repeat(32), fingerprints: "0a1b2c3d".into() };
    full.facts.definitions = Some(Definitions {
        kinds: [("column".to_owned(), columns)].into(),
        extensions: [("hstore".to_owned(), "1.8".to_owned())].into(),
    });
    let mut rights = Rights { lacks_public: true, database_owner: Some("app".into()), ..Rights::default() };
    rights.built_in.extend(vec!["system type integer is without PUBLIC USAGE".into()]);
    let (name, schema, owner) = ("citext".to_owned(), "public".to_owned(), "app".to_owned());
    rights.extensions = vec![OwnedExtension { name, schema, owner }];
    full.facts.rights = Some(rights);
    full.facts.properties = Some(Properties([("connection limit".to_owned(), "5".to_owned())].into()));
    (0..30).for_each(|n| full.facts.warn(format!("file {n} vanished")));
    for component in ComponentName::all() {
        let plain = manifest(component, 1, &["local"]);
        validates("manifest", &serde_json::to_value(plain).unwrap());
    }
    validates("manifest", &serde_json::to_value(full).unwrap());
}

#[test]
fn a_schema_refuses_what_is_no_manifest() {
    let good = serde_json::to_value(manifest(ComponentName::MEDIA, 1, &["local"])).unwrap();
    for field in schema("manifest")["required"].as_array().unwrap() {
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().remove(field.as_str().unwrap());
        assert_eq!(problems("manifest", &bad).len(), 1, "without {field}");
    }
    for (field, value) in [
        ("/backup_id", json!("media_backup_20261122_010000_1")),
        ("/component", json!("redis")),
        ("/created_at", json!("22 November")),
        ("/objects", json!([])),
        ("/objects/0/key", json!("/etc/passwd")),
        ("/objects/0/bytes", json!(-1)),
        ("/verified/level", json!("surely")),
        ("/facts/warning_count", json!("none")),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(field).unwrap() = value;
        assert!(!problems("manifest", &bad).is_empty(), "{field}");
    }
}

#[test]
fn the_examples_of_results_and_outputs_are_real() {
    examples_are_real::<Progress>("progress");
    examples_are_real::<BackupReport>("result-backup");
    examples_are_real::<FullBackupReport>("result-full-backup");
    examples_are_real::<AmendReport>("result-amend");
    examples_are_real::<PruneReport>("result-prune");
    examples_are_real::<VerifyReport>("result-verify");
    examples_are_real::<Listing>("list");
    examples_are_real::<Checks>("check");
}

/// The document of `check --json`.
#[derive(Debug, Serialize, serde::Deserialize)]
struct Checks {
    checks: Vec<Check>,
}

#[test]
fn the_examples_of_tasks_are_calls_that_we_accept() {
    for example in schema("task")["examples"].as_array().unwrap() {
        validates("task", example);
        let (args, kwargs) = (example["args"].as_array().unwrap(), example["kwargs"].as_object().unwrap());
        let parsed = Command::parse(example["task"].as_str().unwrap(), args, kwargs);
        assert!(parsed.is_ok(), "{example}: {parsed:?}");
    }
    let refused = json!({"task": "api.backup.tasks.backup_media_files", "args": [7], "kwargs": {}});
    assert!(!problems("task", &refused).is_empty());
}

#[test]
fn the_examples_of_messages_are_read_by_the_worker() {
    for example in schema("message")["examples"].as_array().unwrap() {
        validates("message", example);
        let look = Envelope::peek(example.to_string().as_bytes(), &Limits::default());
        assert!(matches!(look, Peeked::Task(look) if Command::is_ours(&look.task)), "{example}");
    }
    for name in ["task-meta", "show", "backup-all", "healthcheck"] {
        for example in schema(name)["examples"].as_array().unwrap() {
            validates(name, example);
        }
    }
}
