//! The errors of the catalogue.

use crate::domain::{id::BackupId, report::SkippedBackup};
use crate::store::StoreError;

/// An error of the catalogue. There is one variant for each remedy that a caller has.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// There is no such backup: name another.
    #[error("find backup {what}: {why}")]
    NotFound {
        /// The reference that was looked for.
        what: String,
        /// The reason: there is no backup, or each backup is damaged.
        why: String,
    },

    /// The reference is none, or leads where nobody may look.
    #[error("find backup {what}: {why}")]
    Refused {
        /// The reference that was looked for.
        what: String,
        /// The fault of the reference.
        why: String,
        /// The cause, when there is one.
        #[source]
        source: Option<StoreError>,
    },

    /// The backup is not ours to delete.
    #[error("delete backup {id}: {why}")]
    Protected {
        /// The backup.
        id: BackupId,
        /// The owner of the backup.
        why: &'static str,
    },

    /// A manifest names a destination that is not configured.
    #[error("write manifest of {id}: destination {destination} is not configured")]
    UnknownDestination {
        /// The backup.
        id: BackupId,
        /// The destination.
        destination: String,
    },

    /// A store failed.
    #[error("{op}")]
    Store {
        /// The operation that was tried.
        op: &'static str,
        /// The cause.
        source: StoreError,
    },
}

impl CatalogError {
    /// True if the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store { source, .. } => source.is_transient(),
            Self::NotFound { .. }
            | Self::Refused { .. }
            | Self::Protected { .. }
            | Self::UnknownDestination { .. } => false,
        }
    }

    /// True if a destination keeps the object locked: nothing but waiting helps.
    pub fn is_lock(&self) -> bool {
        matches!(self, Self::Store { source: StoreError::Locked { .. }, .. })
    }

    pub(super) fn store(op: &'static str) -> impl Fn(StoreError) -> Self {
        move |source| Self::Store { op, source }
    }

    pub(super) fn not_found(reference: &str) -> Self {
        Self::NotFound { what: shown(reference), why: "no such backup".to_owned() }
    }

    /// The error that there are backups, so many, and each is damaged or its archive is gone; with the newest of them.
    pub(super) fn none_whole(reference: &str, damaged: usize, newest: &SkippedBackup) -> Self {
        let count = match damaged {
            1 => "there is one, and it".to_owned(),
            many => format!("there are {many}, and each"),
        };
        let SkippedBackup { backup_id, why } = newest;
        let why = format!("{count} is damaged or its archive is gone ({backup_id}: {why})");
        Self::NotFound { what: shown(reference), why }
    }

    /// Nothing but flagged backups could be restored: the best of them, and why it is flagged.
    pub(super) fn only_flagged(reference: &str, flagged: &str) -> Self {
        let why = format!("no other backup can be restored than {flagged}; its id restores it as it is");
        Self::NotFound { what: shown(reference), why }
    }

    pub(super) fn refused(reference: &str, why: impl Into<String>) -> Self {
        Self::Refused { what: shown(reference), why: why.into(), source: None }
    }

    pub(super) fn refused_because(reference: &str, why: &str, source: StoreError) -> Self {
        Self::Refused { what: shown(reference), why: why.to_owned(), source: Some(source) }
    }
}

/// A reference comes from a message of anybody: quoted, and not all of it.
fn shown(reference: &str) -> String {
    const ENOUGH: usize = 200;
    let mut text: String = reference.chars().take(ENOUGH).collect();
    if text.len() < reference.len() {
        text.push('…');
    }
    format!("{text:?}")
}
