//! The references by which people and messages name a backup.

use crate::catalog::{entry::Entry, error::CatalogError};
use crate::domain::{component::ComponentName, id::BackupId};
use crate::store::{ObjectKey, Store};
use std::sync::Arc;

/// Longer than any path, URL or name that could be meant.
const LONGEST: usize = 4096;

/// A reference that was understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ResolvedReference {
    /// The best recent backup, of a component if the reference names one.
    Latest(Option<ComponentName>),
    /// The backup with this id.
    Id(BackupId),
    /// The backup whose archive has this file name.
    File(String),
    /// The backup whose archive is this object of this destination.
    Object(&'static str, ObjectKey),
}

impl ResolvedReference {
    /// Understands `reference`, which comes from anybody.
    pub(super) fn parse(
        reference: &str,
        component: Option<ComponentName>,
        stores: &[Arc<dyn Store>],
    ) -> Result<Self, CatalogError> {
        let refused = |why: &str| Err(CatalogError::refused(reference, why));
        let resolved = if reference.is_empty() || reference.len() > LONGEST {
            return refused("is empty or too long");
        } else if reference == "latest" {
            Self::Latest(component)
        } else if let Ok(component) = reference.parse::<ComponentName>() {
            Self::Latest(Some(component))
        } else if let Ok(id) = reference.parse::<BackupId>() {
            Self::Id(id)
        } else if reference.contains('/') {
            let at = |store: &Arc<dyn Store>| Some((store.destination(), store.key_at(reference)?));
            match stores.iter().find_map(at) {
                Some((destination, key)) => Self::Object(destination, key),
                None => return refused("is not inside a configured destination"),
            }
        } else if reference.parse::<ObjectKey>().is_ok() {
            Self::File(reference.to_owned())
        } else {
            return refused("is not an id, a file name, `latest` or a path of a backup");
        };
        match (component, resolved.component()) {
            (Some(component), Some(of)) if of != component => {
                Err(CatalogError::refused(reference, format!("is a backup of {of}, not of {component}")))
            }
            _ => Ok(resolved),
        }
    }

    /// The component of the reference, as far as the reference names one.
    pub(super) fn component(&self) -> Option<ComponentName> {
        match self {
            Self::Latest(component) => *component,
            Self::Id(id) => Some(id.component()),
            Self::File(name) => ComponentName::all().find(|c| name.starts_with(c.kind().file_prefix)),
            Self::Object(_, key) => key.as_str().split('/').next()?.parse().ok(),
        }
    }

    /// The one that is named among `entries`; `latest` names none.
    pub(super) fn pick(&self, entries: Vec<Entry>) -> Option<Entry> {
        let mut entries = entries.into_iter();
        match self {
            Self::Latest(_) => None,
            Self::Id(id) => entries.find(|entry| entry.backup_id == *id),
            Self::File(name) => {
                entries.find(|entry| entry.copies.iter().any(|copy| copy.key.file_name() == name))
            }
            Self::Object(destination, key) => entries.find(|entry| {
                entry.copies.iter().any(|copy| copy.destination == *destination && copy.key == *key)
            }),
        }
    }
}
