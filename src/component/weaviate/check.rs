//! The check of a server before a backup or a restore is wanted.

use crate::base::chain;
use crate::component::stage::RestoreMode;
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::class::{self, Class, Classes};
use crate::component::weaviate::count::CountRange;
use crate::component::weaviate::files::Files;
use crate::component::weaviate::index::BackupBackend;
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::requirements::Requirements;
use crate::component::weaviate::server::Server;
use crate::component::weaviate::steps::CheckContext;
use crate::component::weaviate::target::ClassTarget;
use crate::component::{ComponentError, Restorable as _};
use serde_json::Value;
use std::collections::BTreeMap;

/// A server that can be backed up now, with the backend of the next backup and the definitions of all classes.
pub(super) struct BackupReadiness {
    server: Server,
    backend: BackupBackend,
    warning: Option<String>,
    definitions: BTreeMap<String, Value>,
}

impl Weaviate {
    /// Tests whether a backup could be made.
    ///
    /// # Errors
    ///
    /// The error that a backup would fail with.
    pub(super) async fn found(&self) -> Result<BackupReadiness, ComponentError> {
        let server = self.connect().await?;
        let (backend, warning) = self.choose_backend(&server).await?;
        let definitions = server.whole_schema().await?;
        Ok(BackupReadiness { server, backend, warning, definitions })
    }

    /// Tests whether a backup could be made and then restored. Returns one line about the findings, the reasons among them
    /// for which a restore would not begin.
    ///
    /// # Errors
    ///
    /// As [`found`](Self::found).
    pub(super) async fn checked(&self) -> Result<String, ComponentError> {
        let BackupReadiness { server, backend, warning, definitions } = self.found().await?;
        let left = match self.files(&server, BackupBackend::Filesystem) {
            Ok(Files::Folder(folder)) => folder.left().await.ok().and_then(|left| folder.advice(&left)),
            _ => None,
        };
        let classes = definitions.len();
        let found = format!(
            "Weaviate {} answers, classes: {classes}, by way of {}",
            server.version,
            backend.as_str()
        );
        let restore = match self.may_restore(&server, backend, definitions).await {
            Ok(not_tried) if not_tried.is_empty() => None,
            Ok(not_tried) => Some(format!(
                "not tried: {}: this Weaviate does not tell a key its roles; a dry run of a restore tries what it can",
                not_tried.join("; ")
            )),
            Err(err) => Some(format!("a restore would not begin: {}", chain(&err))),
        };
        let notes = Journal::open(&self.config.state).await?.notes;
        let due = self.due().await?;
        let closed = notes.closed.filter(|_| backend == BackupBackend::Filesystem);
        let closed = closed.map(|why| format!("the last backup of that way has failed: {why}"));
        let all = [Some(found), warning, restore, closed, left, due];
        Ok(all.into_iter().flatten().collect::<Vec<_>>().join("; "))
    }

    /// Takes the steps of a restore that need no archive, as if a backup that is made now were restored over the live classes.
    /// Returns the steps that could not be taken here, in words.
    ///
    /// # Errors
    ///
    /// The reason why such a restore would not begin.
    async fn may_restore(
        &self,
        server: &Server,
        backend: BackupBackend,
        definitions: BTreeMap<String, Value>,
    ) -> Result<Vec<&'static str>, ComponentError> {
        // Tenants matter where those that are inactive are lost, and where a key has roles.
        let loses_inactive = backend == BackupBackend::Export || !server.version.keeps_inactive_tenants();
        let asks = loses_inactive || server.client.has_key();
        let mut live = Classes::new();
        for (name, definition) in definitions {
            let tenants = if asks && class::has_tenants(&definition) {
                let tenants = server.tenants(&name).await;
                tenants.map_err(|fault| fault.of(format!("list the tenants of class {name}")))?
            } else {
                Vec::new()
            };
            live.insert(name, Class { definition, tenants, objects: CountRange::default() });
        }
        // An empty class needs fewer rights on its objects.
        if backend == BackupBackend::Export && server.client.has_key() {
            let counts = server.counts(&live).await;
            for (name, count) in counts.map_err(|fault| fault.of("count the objects of all classes"))? {
                live.entry(name)
                    .and_modify(|class| class.objects = CountRange { before: count, after: count });
            }
        }
        let context = CheckContext {
            weaviate: self,
            target: &ClassTarget::Live,
            server,
            requirements: &Requirements::of_live(backend, &live),
            bring: Some(&live.keys().cloned().collect()),
            live: &live,
            index: None,
        };
        context.ask_all(RestoreMode::Check).await
    }
}
