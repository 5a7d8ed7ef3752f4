//! Changes to the manifest of a finished backup: pins, and acceptance of a backup that is much smaller.

use crate::catalog::{Entry, Origin};
use crate::domain::component::ComponentName;
use crate::domain::manifest::Manifest;
use crate::engine::{ComponentLock, Engine, EngineError, Run};

impl Engine {
    /// Pins or unpins the backup that `reference` names: retention leaves a pinned one alone. A pin of a backup that
    /// is much smaller than the one before accepts it.
    ///
    /// # Errors
    ///
    /// [`EngineError::Catalog`] when there is none, [`EngineError::NotOurs`] when it has no manifest that
    /// this version can write, [`EngineError::Busy`]. Then nothing was changed.
    pub async fn pin(
        &self,
        reference: &str,
        component: Option<ComponentName>,
        pinned: bool,
        run: &Run,
    ) -> Result<Entry, EngineError> {
        let now = self.clock.now();
        let pin = |manifest: &mut Manifest| {
            manifest.pinned = pinned;
            if pinned {
                manifest.accept(now);
            }
        };
        self.update_manifest(reference, component, run, pin).await
    }

    /// Accepts a backup that is much smaller than the one before. A backup that is not much smaller is left as it is.
    ///
    /// # Errors
    ///
    /// As [`pin`](Self::pin).
    pub async fn accept(
        &self,
        reference: &str,
        component: Option<ComponentName>,
        run: &Run,
    ) -> Result<Entry, EngineError> {
        let now = self.clock.now();
        self.update_manifest(reference, component, run, |manifest| manifest.accept(now)).await
    }

    /// Changes a manifest while nobody else works on its component.
    pub(super) async fn update_manifest(
        &self,
        reference: &str,
        component: Option<ComponentName>,
        run: &Run,
        change: impl FnOnce(&mut Manifest) + Send,
    ) -> Result<Entry, EngineError> {
        let found = self.find(reference, component).await?;
        writable(&found)?;
        let update = async |held: &mut ComponentLock| self.update_held(&found, held, change).await;
        let outcome = self.locked(found.component(), run, update).await;
        self.changes.note();
        outcome
    }

    async fn update_held(
        &self,
        found: &Entry,
        held: &ComponentLock,
        change: impl FnOnce(&mut Manifest) + Send,
    ) -> Result<Entry, EngineError> {
        let component = found.component();
        // The backup is looked up again: the run that was waited for may have changed or deleted it.
        let id = found.backup_id.as_str();
        let mut manifest = writable(&self.find(id, Some(component)).await?)?.clone();
        change(&mut manifest);
        self.rewrite(&manifest, None, held).await?;
        self.find(id, Some(component)).await
    }

    /// Writes the manifest of a backup that exists already, unless the component, and with it the backup,
    /// is another's by now; not in a destination that is `unreachable`.
    pub(super) async fn rewrite(
        &self,
        manifest: &Manifest,
        unreachable: Option<&str>,
        held: &ComponentLock,
    ) -> Result<(), EngineError> {
        // Others may have pinned the backup, or deleted it: neither must be undone.
        held.confirm().await?;
        Ok(self.catalog.update(manifest, unreachable).await?)
    }
}

fn writable(entry: &Entry) -> Result<&Manifest, EngineError> {
    let why = match &entry.origin {
        Origin::Manifest(manifest) => return Ok(manifest),
        Origin::Newer(_) => "was made by a newer rna-backup: use that one",
        Origin::Legacy => {
            "was made by the app's old tasks and has no manifest to write that into; retention never touches it"
        }
    };
    Err(EngineError::NotOurs { id: entry.backup_id.clone(), why })
}
