//! A backup as `list` and the task `list_backups` show it.

use crate::{component::ComponentName, id::BackupId, manifest::VerifyLevel};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One backup in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedBackup {
    /// The id of the backup.
    pub backup_id: BackupId,
    /// The component.
    pub component: ComponentName,
    /// The time at which the backup was begun.
    pub created_at: Timestamp,
    /// Free text of the person who ordered the backup.
    pub label: Option<String>,
    /// True if retention never deletes the backup.
    pub pinned: bool,
    /// The set of a full backup.
    pub set_id: Option<String>,
    /// Bytes of the archive.
    pub size_bytes: u64,
    /// Bytes of the data; null for a file of the app's old tasks.
    pub source_bytes: Option<u64>,
    /// SHA-256 of the archive, lower-case hex; null for a file of the app's old tasks.
    pub sha256: Option<String>,
    /// The level to which the archive was proven.
    pub verified: VerifyLevel,
    /// The best of its destinations.
    pub state: BackupState,
    /// The copies of the archive.
    pub destinations: Vec<ListedCopy>,
}

/// The archive in one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedCopy {
    /// `local` or `s3`.
    pub destination: String,
    /// A path or a URL.
    pub location: String,
    /// The length in bytes that the copy should have.
    pub bytes: u64,
    /// The state of the copy after a look at the destination.
    pub state: BackupState,
}

/// The state of an archive, compared with its manifest. The best comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupState {
    /// There, and of the right length.
    Ok,
    /// The archive is there, but not whole or not of the right length.
    Failed,
    /// Not there, or its destination is not configured.
    Missing,
}

impl BackupState {
    /// The word in listings and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Missing => "missing",
        }
    }
}
