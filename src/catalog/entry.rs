//! One backup in the catalogue.

pub(super) mod legacy;

use crate::catalog::document::Document;
use crate::domain::{
    component::ComponentName,
    id::BackupId,
    listing::{BackupState, ListedBackup, ListedCopy},
    manifest::{Manifest, VerifyLevel},
    retention::{Candidate, VerificationStatus},
};
use crate::store::ObjectKey;
use jiff::{SignedDuration, Timestamp};
use std::{collections::HashMap, sync::Arc};

/// One backup.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The id of the backup.
    pub backup_id: BackupId,
    /// The time at which the backup was begun. For a file of the app's old tasks this is the time in its name, which
    /// was in the app's own time zone.
    pub created_at: Timestamp,
    /// The program that made the backup.
    pub origin: Origin,
    /// The copies of the archive, one in each destination.
    pub copies: Vec<StoredCopy>,
}

/// The program that made a backup, and with it the knowledge about the backup.
#[derive(Debug, Clone)]
pub enum Origin {
    /// The present program, which wrote the manifest.
    Manifest(Arc<Manifest>),
    /// A newer version of this program, whose manifest has that format.
    Newer(u32),
    /// The app's old tasks, which wrote no manifest.
    Legacy,
}

/// An archive in one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCopy {
    /// `local` or `s3`.
    pub destination: String,
    /// Key within the destination. Of an old Weaviate backup, its folder.
    pub key: ObjectKey,
    /// The path or URL of the copy, for people.
    pub location: String,
    /// The length in bytes that the copy should have.
    pub bytes: u64,
    /// The state of the copy, by a look at the destination and the last verification.
    pub state: BackupState,
}

/// The result of the check of an object in a destination.
#[derive(Debug, Default)]
pub(super) struct ObjectCheck {
    /// The path or URL of the object; `None` when the destination is not configured.
    pub(super) location: Option<String>,
    /// The state of the object.
    pub(super) found: ObjectState,
}

/// The state of an object in a destination.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum ObjectState {
    /// The object's length, bytes.
    Present(u64),
    /// There is no object.
    #[default]
    Missing,
    /// The destination cannot be read.
    Unknown,
}

impl Entry {
    /// The entry of a manifest. `check` looks at an object in a destination. Of a destination that cannot be reached,
    /// the entry says what the manifest says.
    pub(super) fn new(
        id: &BackupId,
        document: &Document,
        check: impl Fn(&str, &ObjectKey) -> ObjectCheck,
    ) -> Self {
        let copies = document.objects().iter().map(|object| {
            let ObjectCheck { location, found } = check(&object.destination, &object.key);
            let state = match found {
                _ if location.is_none() => BackupState::Missing,
                ObjectState::Missing => BackupState::Missing,
                _ if object.failed => BackupState::Failed,
                ObjectState::Present(bytes) if bytes != object.bytes => BackupState::Failed,
                ObjectState::Present(_) | ObjectState::Unknown => BackupState::Ok,
            };
            let location = location.unwrap_or_else(|| object.key.to_string());
            let (destination, key) = (object.destination.clone(), object.key.clone());
            StoredCopy { destination, key, location, bytes: object.bytes, state }
        });
        let copies = copies.collect();
        let (created_at, origin) = match document {
            Document::Ours { manifest, .. } => (manifest.created_at, Origin::Manifest(manifest.clone())),
            Document::Newer { format, created_at, .. } => (*created_at, Origin::Newer(*format)),
        };
        Self { backup_id: id.clone(), created_at, origin, copies }
    }

    /// The component of the backup.
    pub fn component(&self) -> ComponentName {
        self.backup_id.component()
    }

    /// The backup's manifest, when it has one that this version can read.
    pub fn manifest(&self) -> Option<&Manifest> {
        match &self.origin {
            Origin::Manifest(manifest) => Some(manifest),
            Origin::Newer(_) | Origin::Legacy => None,
        }
    }

    /// The backups that hold the data which an incremental one leaves out; none of a full one.
    pub fn builds_on(&self) -> &[BackupId] {
        self.manifest().map_or(&[], |manifest| &manifest.facts.builds_on)
    }

    /// True if the backup was read to its end and found whole.
    pub fn is_verified(&self) -> bool {
        self.manifest().is_some_and(Manifest::is_verified)
    }

    /// True if the backup was made while a clock was ahead: until that time it is listed as the newest, and yet is
    /// not.
    pub fn is_ahead(&self, now: Timestamp) -> bool {
        /// The difference between clocks that is not suspicious.
        const APART: SignedDuration = SignedDuration::from_mins(10);
        self.created_at.duration_since(now) > APART
    }

    /// The best of its destinations.
    pub fn state(&self) -> BackupState {
        self.copies.iter().map(|copy| copy.state).min().unwrap_or(BackupState::Missing)
    }

    /// The backup as retention sees it in one destination; `None` when there is no copy of it there
    /// or retention must not touch it.
    pub fn candidate(&self, destination: &str) -> Option<Candidate> {
        let manifest = self.manifest()?;
        let copy = self.copies.iter().find(|copy| copy.destination == destination)?;
        let verification = match copy.state {
            BackupState::Missing => VerificationStatus::Missing,
            BackupState::Failed => VerificationStatus::Failed,
            BackupState::Ok if manifest.is_verified() => VerificationStatus::Verified,
            BackupState::Ok => VerificationStatus::Unknown,
        };
        let (id, created) = (self.backup_id.clone(), self.created_at);
        Some(Candidate { id, created, verification, pinned: manifest.pinned })
    }

    /// The owner of the backup, when it is not ours to delete.
    pub(super) fn protected(&self) -> Option<&'static str> {
        match self.origin {
            Origin::Manifest(_) => None,
            Origin::Newer(_) => Some("was made by a newer version of this program"),
            Origin::Legacy => Some("was not made by this program"),
        }
    }

    /// The entry as `list` shows it.
    pub fn listed(&self) -> ListedBackup {
        let manifest = self.manifest();
        ListedBackup {
            backup_id: self.backup_id.clone(),
            component: self.component(),
            created_at: self.created_at,
            label: manifest.and_then(|m| m.label.clone()),
            pinned: manifest.is_some_and(|m| m.pinned),
            set_id: manifest.and_then(|m| m.set_id.clone()),
            size_bytes: self.copies.first().map_or(0, |copy| copy.bytes),
            source_bytes: manifest.map(|m| m.facts.source_bytes),
            sha256: manifest.map(|m| m.sha256().to_owned()),
            verified: manifest.map_or(VerifyLevel::None, |m| m.verified.level),
            state: self.state(),
            destinations: self.copies.iter().map(StoredCopy::listed).collect(),
        }
    }
}

/// A backup that builds on others is worth no more than the worst of them.
pub(super) fn judge_chains(entries: &mut [Entry]) {
    if entries.iter().all(|entry| entry.builds_on().is_empty()) {
        return;
    }
    let states: HashMap<_, _> =
        entries.iter().map(|entry| (entry.backup_id.clone(), entry.state())).collect();
    for entry in entries {
        let of_bases =
            entry.builds_on().iter().map(|id| states.get(id).copied().unwrap_or(BackupState::Missing));
        if let Some(worst) = of_bases.max() {
            entry.copies.iter_mut().for_each(|copy| copy.state = copy.state.max(worst));
        }
    }
}

impl StoredCopy {
    fn listed(&self) -> ListedCopy {
        ListedCopy {
            destination: self.destination.clone(),
            location: self.location.clone(),
            bytes: self.bytes,
            state: self.state,
        }
    }
}
