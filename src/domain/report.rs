//! What a finished run says: the result that the app reads, and the rows of listings.

use crate::domain::{component::ComponentName, id::BackupId, listing::ListedBackup, manifest::Manifest};
use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// The result of a backup task: the keys that the app's Python tasks returned, and ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupReport {
    /// Always `success`: a failure is an exception.
    pub status: String,
    /// Of what.
    pub component: ComponentName,
    /// Which backup.
    pub backup_id: BackupId,
    /// File name of the archive.
    pub backup_file: String,
    /// UTC time of the data, as in the file's name.
    pub timestamp: String,
    /// Where the archive lies.
    pub path: String,
    /// Name of the database, for PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The media folder, for media.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_dir: Option<String>,
    /// The full backup that it belongs to.
    pub set_id: Option<String>,
    /// Free text of whoever ordered it.
    pub label: Option<String>,
    /// Bytes of the archive.
    pub size_bytes: u64,
    /// Bytes read from the source.
    pub source_bytes: u64,
    /// SHA-256 of the archive, lower-case hex.
    pub sha256: String,
    /// Where the copy in the bucket lies, if there is one.
    pub s3_uri: Option<String>,
    /// From the beginning to the manifest, seconds.
    pub duration_seconds: f64,
    /// How far the archive was proven.
    pub verified: String,
    /// Ids of older backups that retention deleted after this one.
    pub pruned: Vec<BackupId>,
    /// Files that changed while being read, and the like: the first of them.
    pub warnings: Vec<String>,
    /// How many there were in all.
    pub warning_count: u64,
}

impl BackupReport {
    /// The report of a backup that exists, from its manifest alone: a repeated delivery of its
    /// task gets the same answer as the first. `path` is where its archive lies.
    pub fn new(manifest: &Manifest, path: String, pruned: Vec<BackupId>) -> Self {
        let source = |component| (manifest.component == component).then(|| manifest.source.clone());
        let duration = manifest.finished_at.duration_since(manifest.created_at);
        Self {
            status: "success".to_owned(),
            component: manifest.component,
            backup_id: manifest.backup_id.clone(),
            backup_file: path.rsplit('/').next().unwrap_or_default().to_owned(),
            timestamp: file_stamp(manifest.created_at),
            path,
            database: source(ComponentName::Postgres),
            media_dir: source(ComponentName::Media),
            set_id: manifest.set_id.clone(),
            label: manifest.label.clone(),
            size_bytes: manifest.size_bytes(),
            source_bytes: manifest.facts.source_bytes,
            sha256: manifest.sha256().to_owned(),
            s3_uri: None,
            duration_seconds: (duration.as_secs_f64() * 1000.0).round() / 1000.0,
            verified: manifest.verified.level.as_str().to_owned(),
            pruned,
            warnings: manifest.facts.warnings.clone(),
            warning_count: manifest.facts.warning_count,
        }
    }
}

/// A time as it stands in file names: `20261122_020000`, UTC.
pub fn file_stamp(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y%m%d_%H%M%S").to_string()
}

/// The result of a retention run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneReport {
    /// Always `success`.
    pub status: String,
    /// Whether nothing was really deleted.
    pub dry_run: bool,
    /// Ids that were deleted, or would be.
    pub deleted: Vec<BackupId>,
    /// Ids that stay, and why.
    pub kept: Vec<Kept>,
    /// What could not be deleted, in words.
    pub problems: Vec<String>,
}

/// A backup that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Which.
    pub backup_id: BackupId,
    /// By which rule, for people.
    pub why: String,
}

/// The catalogue as `list` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// Newest first.
    pub backups: Vec<ListedBackup>,
}

/// The result of `run_full_backup`, as the app's task returned it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FullBackupReport {
    /// Always `initiated`.
    pub status: String,
    /// The id that the backups of this run share.
    pub set_id: String,
    /// Task ids by component; only components that are configured.
    pub task_ids: std::collections::BTreeMap<ComponentName, String>,
}
