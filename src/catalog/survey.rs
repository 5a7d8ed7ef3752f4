//! The contents of each destination by itself, before all of them are taken for one catalogue.

use crate::catalog::document::Document;
use crate::catalog::{Catalog, CatalogError, Damaged};
use crate::domain::{component::ComponentName, id::BackupId, manifest::Manifest};
use crate::store::{ObjectKey, Store};
use std::{
    collections::{BTreeMap, BTreeSet},
    slice,
    sync::Arc,
};

/// One destination.
#[derive(Debug)]
pub struct DestinationSummary {
    /// The store of the destination.
    pub store: Arc<dyn Store>,
    /// The manifests there that this version can write.
    pub manifests: BTreeMap<BackupId, Arc<Manifest>>,
    /// The backups whose manifest there is of a newer format.
    pub newer: BTreeSet<BackupId>,
    /// The manifests there that cannot be read.
    pub damaged: Vec<Damaged>,
    /// All objects among the archives there, with their lengths in bytes.
    pub objects: BTreeMap<ObjectKey, u64>,
}

impl Catalog {
    /// Looks at every destination, the nearest first.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Store`] when one of them cannot be read: what it knows may be all there is to know.
    pub async fn survey(&self, component: ComponentName) -> Result<Vec<DestinationSummary>, CatalogError> {
        let mut surveys = Vec::new();
        for store in &self.stores {
            let contents = self.contents(store, slice::from_ref(&component)).await?;
            let (mut manifests, mut newer) = (BTreeMap::new(), BTreeSet::new());
            for (id, document) in contents.documents {
                match &*document {
                    Document::Ours { manifest, .. } => drop(manifests.insert(id, Arc::clone(manifest))),
                    Document::Newer { .. } => drop(newer.insert(id)),
                }
            }
            let store = Arc::clone(store);
            surveys.push(DestinationSummary {
                store,
                manifests,
                newer,
                damaged: contents.damaged,
                objects: contents.objects,
            });
        }
        Ok(surveys)
    }
}
