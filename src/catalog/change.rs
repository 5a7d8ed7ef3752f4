//! What changes the catalogue: a backup begins to exist, and is amended.

use crate::catalog::{Catalog, CatalogError, document, manifest_key};
use crate::domain::manifest::Manifest;
use crate::store::Store;
use std::collections::BTreeSet;

impl Catalog {
    /// Writes a manifest into every store that holds the archive, in place of an earlier one: the
    /// last step of a backup, and how it is pinned or marked as verified later. The nearest comes last,
    /// since it is the one that is believed.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Store`]; some stores may have it then.
    /// [`CatalogError::UnknownDestination`] when one of its stores is not configured.
    pub async fn write(&self, manifest: &Manifest) -> Result<(), CatalogError> {
        let destinations: BTreeSet<_> = manifest.objects.iter().map(|o| o.destination.as_str()).collect();
        for destination in &destinations {
            if self.store(destination).is_none() {
                let (id, destination) = (manifest.backup_id.clone(), (*destination).to_owned());
                return Err(CatalogError::UnknownDestination { id, destination });
            }
        }
        for store in self.stores.iter().rev().filter(|store| destinations.contains(store.destination())) {
            self.write_into(store.as_ref(), manifest).await?;
        }
        Ok(())
    }

    /// Writes a manifest into one store, in place of an earlier one.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Store`].
    pub async fn write_into(&self, store: &dyn Store, manifest: &Manifest) -> Result<(), CatalogError> {
        let key = manifest_key(&manifest.backup_id);
        let bytes = document::print(manifest);
        debug_assert!(document::parse(&manifest.backup_id, &bytes).is_ok(), "it is read as it is written");
        let done = store.put(&key, bytes).await;
        self.cache.forget(store.destination(), &key);
        done.map_err(CatalogError::store("write manifest"))
    }
}
