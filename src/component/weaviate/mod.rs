//! Weaviate, by its own backups where it can make them, and object by object where it cannot.
//!
//! - **filesystem**: the server writes a backup into its folder, which we see too. It is checked, packed like
//!   any other archive, and removed from there; a restore puts it back there first.
//! - **s3**: the server writes a backup into the bucket, where it stays. Our archive is its index, with hashes.
//! - **export**: we read every object through the API. Indexes are built anew by a restore.
//!
//! Each class is of one moment, all of them together are not. Weaviate can neither overwrite nor rename a
//! class, so a restore deletes those that it brings, one after the other: before that they are copied and proven,
//! and a class that fails is put back (`replace`, `put_back`). A journal says how far each class is (`journal`,
//! `notes`), for the run that follows one that died.

mod access;
mod announced_backups;
mod answer;
mod backend;
mod body;
mod by_hand;
mod check;
mod chunk;
mod claim;
mod class;
mod client;
mod config;
mod contained;
mod copies;
mod count;
mod counting;
mod decode;
mod export;
mod field_filter;
mod files;
mod folder;
mod hnsw;
mod import;
mod index;
mod job;
mod journal;
mod leftovers;
mod mark;
mod ndjson;
mod nearest;
mod notes;
mod other_machines;
mod pages;
mod parts;
mod plan;
mod put_back;
mod references;
mod refusals;
mod replace;
mod requirements;
mod restore;
mod rights;
mod schema;
mod segment;
mod server;
mod settings;
mod sink;
mod snapshot;
mod source;
mod steps;
mod sweep;
mod target;
mod task_notes;
mod tree;
mod trial;
mod undo;
mod version;
mod watch;

use crate::base::chain;
use crate::component::media::{Media, MediaConfig};
use crate::component::{
    BucketFolder, CompletedSwap, Component, ComponentError, Feed, IncrementalBase, Plan, Restorable,
    RestoreMode, RestoreOrder, Source, Staged, Target, Undo, UndoPoint,
};
use crate::domain::{
    component::ComponentName,
    facts::{Counts, Facts},
    progress::Meter,
    task_note::TaskNote,
};
use crate::stream::Output;
use async_trait::async_trait;
use client::Client;
use files::Files;
use folder::is_closed;
use index::{BackupBackend, END, Index};
use journal::Journal;
use notes::Notes;
use server::Server;
use std::{collections::BTreeSet, sync::Arc};
use target::ClassTarget;
use tree::Tree;

pub use config::{Address, BackendSetting, InvalidAddress, Tls, WeaviateConfig};
pub(in crate::component) use settings::REGISTRATION;

/// The app's vector database.
#[derive(Debug, Clone)]
pub struct Weaviate {
    config: WeaviateConfig,
    bucket_folder: Option<Arc<dyn BucketFolder>>,
}

impl Weaviate {
    /// Nothing is asked of the server before a backup or a check. `bucket_folder` is where it may write to itself.
    pub fn new(config: WeaviateConfig, bucket_folder: Option<Arc<dyn BucketFolder>>) -> Self {
        Self { config, bucket_folder }
    }

    async fn connect(&self) -> Result<Server, ComponentError> {
        Server::connect(Client::new(&self.config, &self.config.server)?).await
    }

    async fn connect_drill(&self) -> Result<Server, ComponentError> {
        let drill = self
            .config
            .drill
            .as_ref()
            .ok_or_else(|| ComponentError::Unusable { what: NO_DRILL.to_owned(), source: None })?;
        Server::connect(Client::new(&self.config, drill)?).await
    }

    /// Packs what the server has written into its folder, or the index of what it has written into the bucket.
    async fn pack(
        &self,
        server: &Server,
        (index, tree): (&Index, &Tree),
        out: &mut dyn Output,
        meter: &Meter,
    ) -> Result<Facts, ComponentError> {
        let mut journal = Journal::open(&self.config.state).await?;
        out.write(index.entry().into()).await.map_err(ComponentError::Output)?;
        let mut facts = Facts { source_bytes: tree.bytes(), ..Facts::default() };
        match self.files(server, index.backend)? {
            Files::Bucket(_) => {
                out.write(END.to_vec().into()).await.map_err(ComponentError::Output)?;
                facts.server_backup = Some(index.id.clone());
                journal.note(|notes| notes.orphans.retain(|orphan| orphan.id != index.id)).await?;
            }
            Files::Folder(folder) => {
                let packed =
                    Media::new(MediaConfig::full(folder.of(&index.id))).back_up(None, out, meter).await?;
                if packed.warning_count > 0 {
                    // Nothing may change there by now.
                    let what = format!("pack Weaviate's backup: {}", packed.warnings.join("; "));
                    return Err(ComponentError::Unavailable { what, source: None });
                }
                match folder.remove(&index.id).await {
                    Ok(()) => {
                        journal.note(|notes| notes.orphans.retain(|orphan| orphan.id != index.id)).await?;
                    }
                    Err(err) => facts.warn(chain(&err)),
                }
            }
        }
        Ok(facts)
    }
}

/// The reason why no drill can be held, and what to do.
const NO_DRILL: &str = "weaviate is restored for real only on a second server: set BACKUP_WEAVIATE_DRILL_URL to \
                        one with nothing on it";

impl From<Weaviate> for Component {
    fn from(weaviate: Weaviate) -> Self {
        let weaviate = Arc::new(weaviate);
        Self {
            restorable: Some(weaviate.clone()),
            undo: Some(weaviate.clone()),
            server_side: Some(weaviate.clone()),
            ..Self::of(weaviate)
        }
    }
}

#[async_trait]
impl Source for Weaviate {
    fn name(&self) -> ComponentName {
        ComponentName::WEAVIATE
    }

    fn address(&self) -> String {
        self.config.server.to_string()
    }

    fn host(&self) -> Option<String> {
        Some(self.address())
    }

    async fn check(&self) -> Result<String, ComponentError> {
        self.checked().await
    }

    async fn ping(&self) -> Result<(), ComponentError> {
        self.found().await.map(drop)
    }

    async fn back_up(
        &self,
        _: Option<&IncrementalBase>,
        out: &mut dyn Output,
        meter: &Meter,
    ) -> Result<Facts, ComponentError> {
        meter.begin("connect", 0);
        let server = self.connect().await?;
        let (backend, mut warning) = self.choose_backend(&server).await?;
        let classes = server.all_classes().await?;
        let mut native = None;
        if backend != BackupBackend::Export && !classes.is_empty() {
            let mut journal = Journal::open(&self.config.state).await?;
            match self.native(&server, backend, classes.clone(), &mut journal, meter).await {
                Ok(made) => {
                    if journal.notes.closed.is_some() {
                        journal.note(|notes| notes.closed = None).await?;
                    }
                    native = Some(made);
                }
                Err(err) => {
                    if is_closed(&err) {
                        journal.note(|notes| notes.closed = Some(chain(&err))).await?;
                        if let Err(left) = self.remove_orphans(&server, &mut journal).await {
                            tracing::warn!(error = %chain(&left), "what Weaviate has begun is left until the next run");
                        }
                    }
                    warning = Some(self.may_export(&err).ok_or(err)?);
                }
            }
        }
        let (index, mut facts) = if let Some((index, tree)) = native {
            let facts = self.pack(&server, (&index, &tree), out, meter).await?;
            let counts = restore::counted(&index.classes);
            (index, Facts { counts, ..facts })
        } else {
            let (index, counts) = self.exported(&server, classes, out, meter).await?;
            let (source_bytes, _, _) = meter.read();
            let counts = Counts { classes: counts, ..Counts::default() };
            (index, Facts { source_bytes, counts, ..Facts::default() })
        };
        for warning in warning.into_iter().chain(Journal::open(&self.config.state).await?.notes.still_due()) {
            facts.warn(warning);
        }
        snapshot::warn(&mut facts, &server, &index).await;
        facts.backend = Some(index.backend.as_str().to_owned());
        facts.versions.insert("weaviate".to_owned(), server.version.to_string());
        let needed: BTreeSet<_> =
            index.classes.values().flat_map(|class| class::modules(&class.definition)).collect();
        // Servers enable some forty modules by default: those that make backups and vectors matter.
        let matters = |name: &&String| requirements::is_for_backups(name) || needed.contains(*name);
        for name in server.modules.keys().filter(matters) {
            facts.versions.insert(format!("{}{name}", requirements::MODULE), "enabled".to_owned());
        }
        if !index.nodes.is_empty() {
            let nodes: Vec<_> = index.nodes.iter().map(String::as_str).collect();
            facts.versions.insert(requirements::NODES.to_owned(), nodes.join(", "));
        }
        Ok(facts)
    }

    async fn decode(&self, feed: Feed<'_>, meter: &Meter) -> Result<Counts, ComponentError> {
        let index = Index::take(feed).await?;
        let counts = decode::decode(&index, feed, meter).await?;
        if index.backend == BackupBackend::S3 {
            let bucket_folder = self.bucket_folder.as_ref().ok_or_else(|| ComponentError::Unusable {
                what: "read the files that Weaviate keeps in its bucket: set AWS_BACKUP_BUCKET to it"
                    .to_owned(),
                source: None,
            })?;
            let files = Files::Bucket(Arc::clone(bucket_folder));
            files.compare(&index).await?;
            let tree = files.tree(&index.id).await?;
            let described = copies::described(&tree, &index.id)?;
            index.accept(&files.lost_indexes(&index.id, &tree, &described, &index.classes).await?)?;
        }
        Ok(counts)
    }

    async fn describe(&self, feed: Feed<'_>) -> Result<Facts, ComponentError> {
        let index = Index::take(feed).await?;
        let mut facts = Facts { backend: Some(index.backend.as_str().to_owned()), ..Facts::default() };
        facts.server_backup = (index.backend == BackupBackend::S3).then_some(index.id);
        facts.versions.insert("weaviate".to_owned(), index.server_version);
        Ok(facts)
    }
}

#[async_trait]
impl Restorable for Weaviate {
    fn drill_unsupported(&self) -> Option<&'static str> {
        self.config.drill.is_none().then_some(NO_DRILL)
    }

    async fn plan(&self, target: &Target, facts: Option<&Facts>) -> Result<Plan, ComponentError> {
        self.planned(&ClassTarget::try_from(target)?, facts).await
    }

    fn skipped_steps(&self, mode: RestoreMode) -> Vec<&'static str> {
        steps::STEPS.skipped_steps(mode)
    }

    async fn stage(
        &self,
        feed: Feed<'_>,
        order: &RestoreOrder<'_>,
        meter: &Meter,
    ) -> Result<Box<dyn Staged>, ComponentError> {
        order.refuse_without(self.name())?;
        Ok(Box::new(self.staged(feed, &ClassTarget::try_from(order.target)?, meter).await?))
    }

    async fn recover(&self) -> Result<Vec<String>, ComponentError> {
        Journal::adopt(&self.config.state).await?;
        let mut journal = Journal::open(&self.config.state).await?;
        journal.clear().await?;
        let notes = &journal.notes;
        if notes.replacing.is_none()
            && notes.orphans.is_empty()
            && notes.drill.is_empty()
            && notes.trials.is_empty()
        {
            if notes.has_mark
                && let Ok(server) = self.connect().await
            {
                self.refresh_mark_or_warn(&server, &mut journal).await;
            }
            return Ok(Vec::new());
        }
        let mut done = Vec::new();
        let server = self.connect().await?;
        if journal.notes.replacing.is_some() {
            done.extend(self.finish_unless_superseded(&server, &mut journal).await?);
        }
        if !journal.notes.trials.is_empty() {
            let made: Vec<_> = journal.notes.trials.iter().cloned().collect();
            replace::remove_classes(&server, &made).await?;
            journal.note(|notes| notes.trials.clear()).await?;
            done.push("removed the classes that a dead restore had made to try them".to_owned());
        }
        if !journal.notes.drill.is_empty() {
            let made: Vec<_> = journal.notes.drill.iter().cloned().collect();
            replace::remove_classes(&self.connect_drill().await?, &made).await?;
            journal.note(|notes| notes.drill.clear()).await?;
            done.push("removed the classes of a dead drill from the second server".to_owned());
        }
        // While classes are still to be put back, nothing goes that somebody may want to bring them from.
        if journal.notes.due().is_empty() {
            done.extend(self.remove_orphans(&server, &mut journal).await?);
        }
        self.refresh_mark_or_warn(&server, &mut journal).await;
        Ok(done)
    }

    async fn due(&self) -> Result<Option<String>, ComponentError> {
        let own = Journal::open(&self.config.state).await?.notes.still_due();
        let others = Journal::others(&self.config.state).await?;
        let others = others.into_iter().filter_map(|(address, journal)| {
            let due = journal.notes.still_due()?;
            Some(format!("on the server {address}, to which WEAVIATE_URL led then: {due}"))
        });
        let due: Vec<_> = own.into_iter().chain(others).collect();
        Ok((!due.is_empty()).then(|| due.join("; ")))
    }
}

#[async_trait]
impl Undo for Weaviate {
    async fn undo_point(&self) -> Result<Option<UndoPoint>, ComponentError> {
        let journal = Journal::open(&self.config.state).await?;
        Ok(journal.notes.kept.as_ref().map(|kept| copies::kept_as(&journal, kept)))
    }

    async fn undo_hint(&self) -> Result<Option<String>, ComponentError> {
        self.kept_of_others().await
    }

    async fn undo(&self, note: Option<TaskNote>, meter: &Meter) -> Result<UndoPoint, ComponentError> {
        self.undone(note, meter).await
    }

    async fn completed_by(&self, task: &str) -> Result<Option<CompletedSwap>, ComponentError> {
        self.replaced_by(task).await
    }

    async fn result_stored(&self, task: &str) -> Result<(), ComponentError> {
        self.mark_note_stored(task).await
    }

    async fn delete_undo_data(&self) -> Result<(), ComponentError> {
        let mut journal = Journal::open(&self.config.state).await?;
        if journal.notes.kept.is_none() && journal.notes.found.is_empty() {
            return Ok(());
        }
        let server = self.connect().await?;
        self.note_and_drop(&server, &mut journal, Notes::drop_old_copies).await?;
        self.refresh_mark_or_warn(&server, &mut journal).await;
        Ok(())
    }
}
