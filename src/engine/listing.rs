//! The catalogue for people and for the app.

use crate::base::chain;
use crate::catalog::Entry;
use crate::domain::component::ComponentName;
use crate::domain::report::Listing;
use crate::engine::{Engine, EngineError};

impl Engine {
    /// Every backup, newest first.
    ///
    /// # Errors
    ///
    /// When the catalogue cannot be read.
    pub async fn listing(&self, component: Option<ComponentName>) -> Result<Listing, EngineError> {
        let found = self.catalog.list(component).await?;
        for unreachable in &found.unreachable {
            tracing::warn!(error = chain(unreachable), "what lies there alone is not in this listing");
        }
        for damaged in &found.damaged {
            tracing::warn!(
                error = chain(damaged),
                "a manifest cannot be read, it and its archive are left alone"
            );
        }
        Ok(Listing { backups: found.entries.iter().map(Entry::listed).collect() })
    }

    /// The backup that `reference` names: an id, a file name, a path inside the destination, or
    /// `latest` of `component`.
    ///
    /// # Errors
    ///
    /// [`EngineError::Catalog`] when it names none, or something outside the destinations.
    pub async fn find(
        &self,
        reference: &str,
        component: Option<ComponentName>,
    ) -> Result<Entry, EngineError> {
        Ok(self.catalog.find(component, reference).await?)
    }
}
