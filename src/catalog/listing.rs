//! The manifests and archives of all destinations, taken together.

use crate::catalog::{CatalogError, Entry, StoredCopy};
use crate::domain::{component::ComponentName, id::BackupId, manifest::Manifest};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// The findings of a look at the destinations.
#[derive(Debug, Default)]
pub struct Listing {
    /// The backups, the newest first.
    pub entries: Vec<Entry>,
    /// Manifests that could not be read. They are left alone, and so are their archives.
    pub damaged: Vec<Damaged>,
    /// Archives of ours without a manifest: a run ended between the two steps of writing or
    /// deleting a backup, or is there at this moment.
    pub orphans: Vec<StoredCopy>,
    /// Destinations that could not be read. What lies there is taken for what the manifests elsewhere
    /// say, and what only they know is not listed.
    pub unreachable: Vec<UnreachableStore>,
    /// Ids that something in a destination bears: a manifest, an archive, a folder.
    pub taken: BTreeSet<BackupId>,
}

/// A destination that could not be read. The cause says why.
#[derive(Debug, thiserror::Error)]
#[error("read destination {destination}")]
pub struct UnreachableStore {
    /// The name of the destination.
    pub destination: &'static str,
    pub(super) source: CatalogError,
}

impl UnreachableStore {
    /// The error, for a caller that cannot do without the destination.
    pub fn into_error(self) -> CatalogError {
        self.source
    }
}

impl Listing {
    /// True if the destination could be read.
    pub fn has_read(&self, destination: &str) -> bool {
        !self.unreachable.iter().any(|unreachable| unreachable.destination == destination)
    }

    /// The manifest of the backup that the task `task_id` made: a message that is delivered again is answered
    /// from it.
    pub fn by_task(&self, task_id: &str) -> Option<&Manifest> {
        let mut manifests = self.entries.iter().filter_map(Entry::manifest);
        manifests.find(|manifest| manifest.task_id.as_deref() == Some(task_id))
    }

    /// An id that nobody has.
    pub fn next_id(&self, component: ComponentName, now: Timestamp) -> BackupId {
        let mut ids = std::iter::repeat_with(|| BackupId::unique(component, now));
        ids.find(|id| !self.taken.contains(id)).expect("there are more numbers than backups")
    }
}

/// A manifest that cannot be read. The cause says why.
#[derive(Debug, thiserror::Error)]
#[error("read manifest {location}")]
pub struct Damaged {
    /// The backup, by its name.
    pub backup_id: BackupId,
    /// The path or URL of the manifest.
    pub location: String,
    pub(super) source: Box<dyn std::error::Error + Send + Sync>,
}
