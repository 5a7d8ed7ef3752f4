//! The rows of the tables, as JSON: the server takes the JSON apart by its own columns.

use crate::catalog::Entry;
use crate::domain::component::ComponentName;
use crate::domain::listing::ListedBackup;
use crate::domain::manifest::Manifest;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Longer errors are cut: characters.
const LONGEST_ERROR: usize = 8000;

/// Longer results are left out: bytes of JSON.
const LONGEST_RESULT: usize = 256 << 10;

/// A run on one component.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunRow {
    /// The key of the work, the same at every delivery: the task's id and the component.
    pub run_id: String,
    /// The Celery task.
    pub task_id: Option<String>,
    /// `backup`, `restore` and so on.
    pub operation: &'static str,
    /// The component.
    pub component: ComponentName,
    /// `running`, or the result of the run.
    pub state: &'static str,
    /// The time at which the run began.
    pub started_at: Timestamp,
    /// The time at which the run ended.
    pub finished_at: Option<Timestamp>,
    /// The backup that the run made, restored or looked at, where there is one.
    pub backup_id: Option<String>,
    /// The error of a run that failed.
    pub error: Option<String>,
    /// The result that the task returns.
    pub result: Option<Value>,
    /// Host name.
    pub worker: String,
}

impl RunRow {
    /// The state of a run that has not ended.
    pub const RUNNING: &'static str = "running";

    pub(super) fn is_running(&self) -> bool {
        self.state == Self::RUNNING
    }

    /// True if the run may put another database into the place of the one with the tables.
    pub(super) fn is_overwriting(&self) -> bool {
        self.component.kind().holds_catalog && ["restore", "undo"].contains(&self.operation)
    }

    /// The row as JSON.
    pub(super) fn print(&self, utf8: bool) -> String {
        let mut row = self.clone();
        row.error = row.error.map(|error| error.chars().take(LONGEST_ERROR).collect());
        row.result = row.result.filter(|result| result.to_string().len() <= LONGEST_RESULT);
        print(&row, utf8)
    }
}

/// Columns of `rna_backup_run` that are written.
pub(super) const RUN_COLUMNS: &[&str] = &[
    "run_id",
    "task_id",
    "operation",
    "component",
    "state",
    "started_at",
    "finished_at",
    "backup_id",
    "error",
    "result",
    "worker",
];

/// Columns of `rna_backup_backup` that are written.
pub(super) const BACKUP_COLUMNS: &[&str] = &[
    "backup_id",
    "component",
    "created_at",
    "finished_at",
    "label",
    "pinned",
    "set_id",
    "task_id",
    "size_bytes",
    "source_bytes",
    "sha256",
    "verified",
    "verified_at",
    "state",
    "destinations",
    "manifest",
    "digest",
];

#[derive(Serialize)]
struct BackupRow<'a> {
    #[serde(flatten)]
    listed: ListedBackup,
    finished_at: Option<Timestamp>,
    task_id: Option<&'a str>,
    verified_at: Option<Timestamp>,
    manifest: Option<&'a Manifest>,
}

/// The row of a backup as JSON, without its digest, and that.
pub(super) fn backup(entry: &Entry, utf8: bool) -> (String, String) {
    let manifest = entry.manifest();
    let mut listed = entry.listed();
    listed.created_at = in_range(listed.created_at);
    listed.size_bytes = listed.size_bytes.min(LARGEST);
    listed.source_bytes = listed.source_bytes.map(|bytes| bytes.min(LARGEST));
    let row = BackupRow {
        listed,
        finished_at: manifest.map(|manifest| in_range(manifest.finished_at)),
        task_id: manifest.and_then(|manifest| manifest.task_id.as_deref()),
        verified_at: manifest.and_then(|manifest| manifest.verified.at).map(in_range),
        manifest,
    };
    let row = print(&row, utf8);
    let digest = hex::encode(Sha256::digest(&row));
    (row, digest)
}

/// The row with its digest.
pub(super) fn with_digest(row: &str, digest: &str) -> String {
    let fields = row.strip_suffix('}').expect("a row is an object");
    format!("{fields},\"digest\":\"{digest}\"}}")
}

/// The largest number that a `bigint` holds.
const LARGEST: u64 = i64::MAX.unsigned_abs();

/// A time that the server can read, whatever a manifest says.
fn in_range(at: Timestamp) -> Timestamp {
    at.max(Timestamp::UNIX_EPOCH)
}

/// JSON that the server takes: it has no NUL, and in a database that is not UTF-8 perhaps not more than ASCII.
fn print(row: &impl Serialize, utf8: bool) -> String {
    let text = serde_json::to_string(row).expect("rows have nothing that JSON has not");
    if (utf8 || text.is_ascii()) && !text.contains("\\u0000") {
        return text;
    }
    let mut value = serde_json::from_str(&text).expect("what was just printed is JSON");
    clean(&mut value, utf8);
    value.to_string()
}

fn clean(value: &mut Value, utf8: bool) {
    let wrong = |c: char| c == '\0' || !utf8 && !c.is_ascii();
    match value {
        Value::String(text) if text.contains(wrong) => *text = text.replace(wrong, "?"),
        Value::Array(values) => values.iter_mut().for_each(|value| clean(value, utf8)),
        Value::Object(fields) => {
            let cleaned = std::mem::take(fields).into_iter().map(|(name, mut value)| {
                clean(&mut value, utf8);
                (name.replace(wrong, "?"), value)
            });
            *fields = cleaned.collect();
        }
        _ => {}
    }
}

#[test]
fn what_the_server_would_refuse_is_replaced() {
    let row = serde_json::json!({"é\0": ["a\0b", "\\u0000", {"c": "é"}], "n": 1});
    assert_eq!(print(&row, true), r#"{"é?":["a?b","\\u0000",{"c":"é"}],"n":1}"#);
    assert_eq!(print(&row, false), r#"{"??":["a?b","\\u0000",{"c":"?"}],"n":1}"#);
}
