//! What `catalog rebuild` says.

use crate::domain::{component::ComponentName, id::BackupId};
use serde::{Deserialize, Serialize};

/// What was found in the destinations, and what was made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebuildReport {
    /// Whether this is only what would be done.
    pub dry_run: bool,
    /// The whole copies that the catalogue knows at the end.
    pub found: Vec<FoundCopies>,
    /// Backups whose manifest was made anew from their archive.
    pub made: Vec<BackupId>,
    /// Manifests that were written where they were missing, older or unreadable.
    pub written: Vec<WrittenManifest>,
    /// Archives that a manifest names and that are not there. They stay in it: a disk may come back.
    pub missing: Vec<Remark>,
    /// What is not whole. It was left alone.
    pub damaged: Vec<Remark>,
    /// What could not be looked at. It was left alone.
    pub skipped: Vec<Remark>,
}

/// How many backups of a component a destination has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundCopies {
    /// Of what.
    pub component: ComponentName,
    /// `local` or `s3`.
    pub destination: String,
    /// How many.
    pub backups: usize,
}

/// A manifest that was written into a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenManifest {
    /// Of which backup.
    pub backup_id: BackupId,
    /// `local` or `s3`.
    pub destination: String,
}

/// Something to be said about an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remark {
    /// Of which backup it is, by its name.
    pub backup_id: BackupId,
    /// Where it is, or should be.
    pub location: String,
    /// What there is to say.
    pub why: String,
}
