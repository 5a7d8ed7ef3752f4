//! The reports of finished runs: the results that the app reads, and the rows of listings.

use crate::{
    anomaly::Anomaly,
    component::ComponentName,
    facts::Counts,
    id::BackupId,
    listing::{BackupState, ListedBackup},
    manifest::{Manifest, VerifyLevel},
};
use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// The result of a backup task: the keys that the app's Python tasks returned, and ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupReport {
    /// Always `success`: a failure is an exception.
    pub status: String,
    /// The component.
    pub component: ComponentName,
    /// The id of the backup.
    pub backup_id: BackupId,
    /// File name of the archive.
    pub backup_file: String,
    /// UTC time of the data, as in the file's name.
    pub timestamp: String,
    /// The path or URL of the archive.
    pub path: String,
    /// Name of the database, for PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The media folder, for media.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_dir: Option<String>,
    /// The id of the backup once more, for Weaviate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_name: Option<String>,
    /// The backend that made the backup, for Weaviate: `filesystem`, `s3` or `export`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The path or URL of the archive once more, for Weaviate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The id of the full backup that this one belongs to.
    pub set_id: Option<String>,
    /// Free text of the person who ordered the backup.
    pub label: Option<String>,
    /// Bytes of the archive.
    pub size_bytes: u64,
    /// Bytes read from the source.
    pub source_bytes: u64,
    /// SHA-256 of the archive, lower-case hex.
    pub sha256: String,
    /// The URL of the copy in the bucket, if there is one.
    pub s3_uri: Option<String>,
    /// The time from the beginning to the manifest, seconds.
    pub duration_seconds: f64,
    /// The level to which the archive was proven.
    pub verified: String,
    /// Ids of older backups that retention deleted after this one.
    pub pruned: Vec<BackupId>,
    /// The figures by which the data is far smaller than in the backup before; null: none.
    pub anomaly: Option<Anomaly>,
    /// Files that changed while being read, and the like: the first of them.
    pub warnings: Vec<String>,
    /// The number of warnings in all.
    pub warning_count: u64,
}

impl BackupReport {
    /// The report of a backup that exists, from its manifest alone: a repeated delivery of its
    /// task gets the same answer as the first. `path` is where its archive lies.
    pub fn new(manifest: &Manifest, path: String, pruned: Vec<BackupId>) -> Self {
        let kind = manifest.component.kind();
        let address = |key| (kind.address_key == Some(key)).then(|| manifest.source.clone());
        let repeated = |text: &str| kind.repeats_id.then(|| text.to_owned());
        let duration = manifest.finished_at.duration_since(manifest.created_at);
        Self {
            status: "success".to_owned(),
            component: manifest.component,
            backup_id: manifest.backup_id.clone(),
            backup_file: path.rsplit('/').next().unwrap_or_default().to_owned(),
            timestamp: file_stamp(manifest.created_at),
            backup_name: repeated(manifest.backup_id.as_str()),
            backend: manifest.facts.backend.clone(),
            location: repeated(&path),
            path,
            database: address("database"),
            media_dir: address("media_dir"),
            set_id: manifest.set_id.clone(),
            label: manifest.label.clone(),
            size_bytes: manifest.size_bytes(),
            source_bytes: manifest.facts.source_bytes,
            sha256: manifest.sha256().to_owned(),
            s3_uri: None,
            duration_seconds: (duration.as_secs_f64() * 1000.0).round() / 1000.0,
            verified: manifest.verified.level.as_str().to_owned(),
            pruned,
            anomaly: manifest.anomaly.clone(),
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
    /// True if nothing was really deleted.
    pub dry_run: bool,
    /// Ids that were deleted, or would be.
    pub deleted: Vec<BackupId>,
    /// The destinations that those were deleted from, for people: a backup may stay in another.
    #[serde(skip)]
    pub deleted_from: BTreeMap<BackupId, Vec<String>>,
    /// Ids that stay, and why.
    pub kept: Vec<KeptBackup>,
    /// Objects that an object lock keeps for now, in words: they go once the lock has ended.
    pub locked: Vec<String>,
    /// Objects that could not be deleted for other reasons, in words.
    pub problems: Vec<String>,
}

/// A backup that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptBackup {
    /// The backup.
    pub backup_id: BackupId,
    /// The rule that keeps the backup, for people.
    pub why: String,
}

/// The result of `verify_backup`, and of the command `verify`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyReport {
    /// One for each backup that was looked at.
    pub results: Vec<Verification>,
}

impl VerifyReport {
    /// Returns the faults of every backup that is not whole, one sentence each; empty when all are whole.
    pub fn damage(&self) -> Vec<String> {
        let named = |found: &Verification| {
            let name = |problem: &String| format!("{}: {problem}", found.backup_id);
            found.problems.iter().map(name).collect::<Vec<_>>()
        };
        self.results.iter().filter(|found| !found.ok).flat_map(named).collect()
    }
}

/// The findings of a verification about one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// The backup.
    pub backup_id: BackupId,
    /// The component.
    pub component: ComponentName,
    /// The level of the verification.
    pub level: VerifyLevel,
    /// True if every copy is whole, as far as that level tells.
    pub ok: bool,
    /// The backup's archive in each destination.
    pub destinations: Vec<CheckedCopy>,
    /// The faults, each with its destination.
    pub problems: Vec<String>,
    /// Comparisons that could not be made, and the reasons.
    pub warnings: Vec<String>,
    /// The steps of a restore that a drill has not taken; absent where there are none, and for other levels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_tried: Vec<String>,
}

/// The findings of a verification in one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckedCopy {
    /// `local` or `s3`.
    pub destination: String,
    /// A path or a URL.
    pub location: String,
    /// Bytes that were found; null when it is not there.
    pub bytes: Option<u64>,
    /// The state of the copy.
    pub state: BackupState,
    /// The faults of the copy.
    pub problems: Vec<String>,
    /// The level at which that was found; not part of results.
    #[serde(skip)]
    pub found_by: Option<VerifyLevel>,
}

impl CheckedCopy {
    /// Notes the faults of the copy, if there are any, and the level at which they were found.
    pub fn find(&mut self, problems: Vec<String>, level: VerifyLevel) {
        if !problems.is_empty() {
            (self.state, self.found_by) = (BackupState::Failed, Some(level));
        }
        self.problems = problems;
    }
}

/// The result of `pin_backup` and of `accept_backup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmendReport {
    /// Always `success`.
    pub status: String,
    /// The component.
    pub component: ComponentName,
    /// The id of the backup.
    pub backup_id: BackupId,
    /// True if retention leaves the backup alone.
    pub pinned: bool,
    /// The figures by which the data is far smaller than in the backup before, and the time of their acceptance; null:
    /// none.
    pub anomaly: Option<Anomaly>,
}

impl AmendReport {
    /// The report of the manifest as it is by now.
    pub fn new(manifest: &Manifest) -> Self {
        Self {
            status: "success".to_owned(),
            component: manifest.component,
            backup_id: manifest.backup_id.clone(),
            pinned: manifest.pinned,
            anomaly: manifest.anomaly.clone(),
        }
    }
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

/// A newer backup that `latest` does not mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkippedBackup {
    /// The id of the backup.
    pub backup_id: BackupId,
    /// The reason, for people.
    pub why: String,
}

impl fmt::Display for SkippedBackup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`latest` passed over {}: {}; its id takes it all the same", self.backup_id, self.why)
    }
}

/// The effects that a restore would have: `restore --dry-run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestorePlan {
    /// The component.
    pub component: ComponentName,
    /// The backup.
    pub backup_id: BackupId,
    /// The time of the backup's data.
    pub created_at: Timestamp,
    /// Newer backups that `latest` does not mean, the newest first; absent: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<SkippedBackup>,
    /// The path or URL of the archive that is read.
    pub reads: String,
    /// The paths or URLs of the archives that an incremental one builds on, the oldest first; absent: it is a full
    /// one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_reads: Vec<String>,
    /// Bytes of all that is read.
    pub archive_bytes: u64,
    /// Bytes of the data in the archive; null for the app's old files.
    pub source_bytes: Option<u64>,
    /// The data that would be replaced, for people.
    pub replaces: String,
    /// The way of the replacement.
    pub method: String,
    /// Bytes that are needed beside the live data; null when nobody can tell.
    pub needs_bytes: Option<u64>,
    /// Bytes that are free there; null when nobody can tell.
    pub free_bytes: Option<u64>,
    /// The time for which the live data cannot be used, for people.
    pub downtime: String,
    /// Versions that matter.
    pub versions: Vec<String>,
    /// Warnings for people.
    pub warnings: Vec<String>,
    /// The steps of the restore that this plan has not taken, so that they may still fail.
    pub not_tried: Vec<String>,
}

/// The result of a restore: the keys that the app's Python functions returned, and ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreReport {
    /// Always `success`: a failure is an exception.
    pub status: String,
    /// The component.
    pub component: ComponentName,
    /// The id of the backup.
    pub backup_id: BackupId,
    /// File name of the archive.
    pub backup_file: String,
    /// The path or URL of the archive that was read.
    pub path: String,
    /// Name of the database, for PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The media folder, for media.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_dir: Option<String>,
    /// The id of the backup once more, for Weaviate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_name: Option<String>,
    /// The contents of the restored copy, counted before it took the place of the live data.
    pub counts: Counts,
    /// The place of the old data until the next backup succeeds, for `undo` to put it back. Null: none was kept.
    pub kept: Option<String>,
    /// The time from the beginning to the end, seconds.
    pub duration_seconds: f64,
    /// Warnings for people.
    pub warnings: Vec<String>,
}

impl RestoreReport {
    /// The report of a restore of `component` from the archive at `path` into `source`.
    pub fn new(component: ComponentName, backup_id: &BackupId, path: &str, source: &str) -> Self {
        let kind = component.kind();
        let address = |key| (kind.address_key == Some(key)).then(|| source.to_owned());
        Self {
            status: "success".to_owned(),
            component,
            backup_id: backup_id.clone(),
            backup_file: path.rsplit('/').next().unwrap_or_default().to_owned(),
            path: path.to_owned(),
            database: address("database"),
            media_dir: address("media_dir"),
            backup_name: kind.repeats_id.then(|| backup_id.to_string()),
            counts: Counts::default(),
            kept: None,
            duration_seconds: 0.0,
            warnings: Vec::new(),
        }
    }
}

/// The result of an undo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UndoReport {
    /// Always `success`.
    pub status: String,
    /// The component.
    pub component: ComponentName,
    /// The data that was put right: name of the database, path of the folder.
    pub target: String,
    /// The time at which the data that is live again had been replaced.
    pub replaced_at: Timestamp,
    /// The place of the data that was live until now: another undo puts it back.
    pub kept: String,
    /// Warnings, in whole sentences.
    pub warnings: Vec<String>,
}

impl UndoReport {
    /// The report of an undo.
    pub fn new(component: ComponentName, target: String, replaced_at: Timestamp, kept: String) -> Self {
        Self { status: "success".to_owned(), component, target, replaced_at, kept, warnings: Vec::new() }
    }
}
