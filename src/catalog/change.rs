//! Changes to the catalogue: a backup begins to exist, and is amended.

use crate::catalog::{Catalog, CatalogError, document, manifest_key};
use crate::domain::manifest::Manifest;
use crate::store::{ObjectKey, Store, StoreError};
use std::{collections::BTreeSet, sync::Arc};

impl Catalog {
    /// Writes a manifest into every store that holds the archive, in place of an earlier one: the
    /// last step of a backup. The nearest comes last, since of equals it is the one that is believed.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Store`]; some stores may have it then.
    /// [`CatalogError::UnknownDestination`] when one of its stores is not configured.
    pub async fn write(&self, manifest: &Manifest) -> Result<(), CatalogError> {
        for store in self.stores_of(manifest)? {
            self.write_into(store.as_ref(), manifest).await?;
        }
        Ok(())
    }

    /// Writes the manifest of a backup that exists, to pin it or to note the findings of a verification; but into no
    /// store that knows nothing of the backup: `local` in its manifest may be a folder of another machine. The store
    /// that is `unreachable` is left out too: the later manifest counts when it is back.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub async fn update(&self, manifest: &Manifest, unreachable: Option<&str>) -> Result<(), CatalogError> {
        for store in
            self.stores_of(manifest)?.into_iter().filter(|store| Some(store.destination()) != unreachable)
        {
            let objects = manifest.objects.iter().filter(|object| object.destination == store.destination());
            let archives = objects.filter_map(|object| object.key.parse::<ObjectKey>().ok());
            let mut is_known = false;
            for key in archives.chain([manifest_key(&manifest.backup_id)]) {
                is_known |= match store.head(&key).await {
                    Err(StoreError::NotFound { .. }) => false,
                    found => found.map(|_| true).map_err(CatalogError::store("look for a backup"))?,
                };
            }
            if is_known {
                self.write_into(store.as_ref(), manifest).await?;
            }
        }
        Ok(())
    }

    /// The stores that a manifest names, the nearest last.
    fn stores_of(&self, manifest: &Manifest) -> Result<Vec<&Arc<dyn Store>>, CatalogError> {
        let destinations: BTreeSet<_> = manifest.objects.iter().map(|o| o.destination.as_str()).collect();
        for destination in &destinations {
            if self.store(destination).is_none() {
                let (id, destination) = (manifest.backup_id.clone(), (*destination).to_owned());
                return Err(CatalogError::UnknownDestination { id, destination });
            }
        }
        let named = |store: &&Arc<dyn Store>| destinations.contains(store.destination());
        Ok(self.stores.iter().rev().filter(named).collect())
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
