//! The report of `catalog rebuild`.

use crate::{component::ComponentName, id::BackupId};
use serde::{Deserialize, Serialize};

/// The findings in the destinations, and the manifests that were made of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebuildReport {
    /// True if nothing was written: the report tells what would be done.
    pub dry_run: bool,
    /// The whole copies that the catalogue knows at the end.
    pub found: Vec<FoundCopies>,
    /// Backups whose manifest was made anew from their archive.
    pub made: Vec<BackupId>,
    /// Manifests that were written where they were missing, older or unreadable.
    pub written: Vec<WrittenManifest>,
    /// Archives that a manifest names and that are not there. They stay in it: a disk may come back.
    pub missing: Vec<CopyProblem>,
    /// Copies that are not whole. They were left alone.
    pub damaged: Vec<CopyProblem>,
    /// Copies that could not be looked at. They were left alone.
    pub skipped: Vec<CopyProblem>,
}

/// The number of a component's backups in a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundCopies {
    /// The component.
    pub component: ComponentName,
    /// `local` or `s3`.
    pub destination: String,
    /// The number of backups.
    pub backups: usize,
}

/// A manifest that was written into a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenManifest {
    /// The backup.
    pub backup_id: BackupId,
    /// `local` or `s3`.
    pub destination: String,
}

/// A copy that is missing, damaged or skipped, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyProblem {
    /// The backup, by its name.
    pub backup_id: BackupId,
    /// The place where the copy is, or should be.
    pub location: String,
    /// The reason, for people.
    pub why: String,
}
