//! Copies of classes beside a restore: made before anything is deleted, kept for `undo`, removed when nobody needs them.

use crate::base::chain;
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::class::Classes;
use crate::component::weaviate::count::CountRange;
use crate::component::weaviate::files::Files;
use crate::component::weaviate::folder::is_closed;
use crate::component::weaviate::index::{BackupBackend, Index, corrupt};
use crate::component::weaviate::job::new_id;
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::notes::{Notes, OrphanBackup, PreviousClasses, Snapshot};
use crate::component::weaviate::server::Server;
use crate::component::weaviate::sink::FileSink;
use crate::component::weaviate::source::{Source, SourceLocation};
use crate::component::weaviate::tree::{Described, Tree};
use crate::component::{ComponentError, UndoPoint};
use crate::domain::progress::Meter;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// The copies that a restore has set aside, for people.
pub(super) fn kept_as(journal: &Journal, kept: &PreviousClasses) -> UndoPoint {
    let copies: BTreeSet<&Snapshot> = kept.before.values().flatten().collect();
    let places: Vec<_> = copies.into_iter().map(|copy| place_of(journal, copy)).collect();
    UndoPoint { place: places.join(", "), at: kept.at(), task_notes: None }
}

impl Weaviate {
    /// Copies classes, so that they can be put back. `backend` is that of the backup which is about to be restored:
    /// where the server restores that itself, it makes this copy too, in the same place, so that its rights there
    /// have been tried before any class is deleted.
    pub(super) async fn set_aside(
        &self,
        server: &Server,
        live: Classes,
        journal: &mut Journal,
        backend: BackupBackend,
        meter: &Meter,
    ) -> Result<Snapshot, ComponentError> {
        let closed = |err: &ComponentError| {
            let is_closed = backend == BackupBackend::Export && is_closed(err);
            if is_closed {
                tracing::warn!(error = %chain(err), "what a restore replaces is copied object by object");
            }
            is_closed
        };
        let is_too_long = live.keys().any(|name| !server.version.replaces_name_of(name.len()));
        let backend = match backend {
            BackupBackend::Export if is_too_long => BackupBackend::Export,
            BackupBackend::Export => match self.choose_backend(server).await {
                Ok((backend, _)) => backend,
                Err(err) if closed(&err) => BackupBackend::Export,
                Err(err) => return Err(err),
            },
            backend => backend,
        };
        let native = match backend {
            BackupBackend::Export => None,
            backend => match self.native(server, backend, live.clone(), journal, meter).await {
                Ok(native) => Some(native),
                Err(err) if closed(&err) => None,
                Err(err) => return Err(err),
            },
        };
        let Some((index, tree)) = native else {
            return self.export_aside(server, live, journal, meter).await;
        };
        let (files, id) = (self.files(server, backend)?, index.id.clone());
        if let Files::Folder(_) = files {
            files.prove(&id, &tree, &described(&tree, &id)?).await?;
            files.sync(&id).await?;
        }
        snapshot_of(journal, &index, id).await
    }

    /// Copies classes object by object into a file beside the journal.
    pub(super) async fn export_aside(
        &self,
        server: &Server,
        live: Classes,
        journal: &mut Journal,
        meter: &Meter,
    ) -> Result<Snapshot, ComponentError> {
        let id = new_id(&journal.id().await?);
        let mut sink = FileSink::begin(journal, &tar(&id)).await?;
        let (mut index, counts) = self.exported(server, live, &mut sink, meter).await?;
        sink.finish(journal).await?;
        for (name, class) in &mut index.classes {
            class.objects = CountRange::captured(counts[name]);
        }
        snapshot_of(journal, &index, id).await
    }

    /// The source from which a snapshot is put back.
    pub(super) async fn source_of(
        &self,
        server: &Server,
        journal: &Journal,
        snapshot: &Snapshot,
    ) -> Result<Source, ComponentError> {
        let file = journal.path(&json(&snapshot.id));
        let text = tokio::fs::read(&file)
            .await
            .map_err(|source| ComponentError::Read { what: format!("read {}", file.display()), source })?;
        let index = Index::parse(&text)?;
        let location = match snapshot.backend {
            BackupBackend::Export => SourceLocation::File(journal.path(&tar(&snapshot.id))),
            backend => SourceLocation::Server(self.files(server, backend)?),
        };
        Ok(Source { index, location })
    }

    /// Changes the notes, and then removes the copies that the notes named and name no more.
    ///
    /// # Errors
    ///
    /// When the notes cannot be written; then the old ones stand.
    pub(super) async fn note_and_drop(
        &self,
        server: &Server,
        journal: &mut Journal,
        change: impl FnOnce(&mut Notes),
    ) -> Result<(), ComponentError> {
        let before = journal.notes.clone();
        journal.note(change).await?;
        self.drop_copies(server, journal, &before).await
    }

    /// Removes the copies that the notes named before and name no more.
    ///
    /// # Errors
    ///
    /// As [`note_and_drop`](Self::note_and_drop).
    pub(super) async fn drop_copies(
        &self,
        server: &Server,
        journal: &mut Journal,
        before: &Notes,
    ) -> Result<(), ComponentError> {
        let needed: BTreeSet<_> = journal.notes.snapshots().into_iter().cloned().collect();
        for copy in before.snapshots().into_iter().filter(|copy| !needed.contains(copy)) {
            match self.remove_copy(server, journal, copy).await {
                Ok(()) => journal.note(|notes| notes.orphans.retain(|orphan| orphan.id != copy.id)).await?,
                Err(err) => {
                    tracing::warn!(error = %chain(&err), "a copy of classes is left until the next run");
                    journal.note(|notes| notes.orphans.extend(OrphanBackup::of(copy))).await?;
                }
            }
        }
        Ok(())
    }

    /// Removes a copy.
    pub(super) async fn remove_copy(
        &self,
        server: &Server,
        journal: &Journal,
        snapshot: &Snapshot,
    ) -> Result<(), ComponentError> {
        match snapshot.backend {
            BackupBackend::Export => journal.remove(&tar(&snapshot.id)).await?,
            backend => self.files(server, backend)?.remove(&snapshot.id).await?,
        }
        journal.remove(&json(&snapshot.id)).await
    }
}

/// A copy, once its index lies beside the journal.
async fn snapshot_of(journal: &Journal, index: &Index, id: String) -> Result<Snapshot, ComponentError> {
    let text = serde_json::to_vec(index).expect("names and numbers are JSON");
    journal.put(&json(&id), text).await?;
    Ok(Snapshot { backend: index.backend, id, at: Timestamp::now(), unnamed: [] })
}

/// The contents of the descriptors of a backup that is whole.
pub(super) fn described(tree: &Tree, id: &str) -> Result<Described, ComponentError> {
    tree.describe(id).map_err(|wrong| corrupt(wrong.join("; ")))
}

/// The place of a copy, for people.
pub(super) fn place_of(journal: &Journal, snapshot: &Snapshot) -> String {
    match snapshot.backend {
        BackupBackend::Export => journal.path(&tar(&snapshot.id)).display().to_string(),
        backend => format!("backup {} of Weaviate ({})", snapshot.id, backend.as_str()),
    }
}

fn json(id: &str) -> String {
    format!("{id}.json")
}

fn tar(id: &str) -> String {
    format!("{id}.tar")
}
