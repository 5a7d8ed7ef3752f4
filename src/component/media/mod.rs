//! The media folder as a tar stream.
//!
//! Entries are sorted by name, folders before what is in them, paths relative and without `./`, but for
//! the first entry, which is the root itself as `./`: `tar -xpf` into a folder gives that folder the
//! root's mode, owner and time. Kept are modes, numeric owners, times to the nanosecond, symbolic links,
//! hard links, empty folders, ACLs, extended attributes and names as they are, byte for byte; docs/media.md has the list.
//! Holes stay holes. Other file systems mounted below the root are part of it.
//!
//! An incremental backup leaves out files that have not changed since the last one, and refers to the earlier
//! archives that hold them (`tar::Reference`). Its folders come with lists of their names, as GNU tar's own
//! incremental archives have them: `tar -xp --listed-incremental=/dev/null` of the archives that are needed, the oldest
//! first, is the folder as it was. What tells changes is `snapshot`, beside the backups.
//!
//! A restore unpacks into a hidden folder of its own, an area, beside the media folder or, where that is a
//! mount point or its parent is closed to us, in it, and then exchanges the two: ordinary folders in one
//! instant, the contents of others one by one with a journal. What was live stays in the area for `undo`.
//! Areas are no part of a backup. An area is locked while a run works in it, so that no two work on one media folder; and
//! it holds a note on the tasks whose swaps have filled it, so that none of them swaps twice.
//!
//! - Owners come back when root restores, else everything belongs to who does; then setuid and setgid bits
//!   are left out where the owner differs, as they would let others act as somebody else. Who is not root
//!   cannot exchange a folder at the top that is closed for writing; the restore then changes nothing.
//! - Symbolic links that leave the folder come back from backups with a manifest, where they were in the
//!   folder that was packed; nothing is ever written through them. Archives without one are refused for them.
//! - Archives of the app's old tasks hold the media folder itself. An archive without a manifest and without
//!   a root, with all in one folder, whatever its name, is one of those: what is in that folder is restored.
//! - File systems that cannot exchange, as NFS, do it in two steps of the journal: between them there is no
//!   media folder.
//! - Folders that come from an image cannot be renamed: where they are at the top of the media, a restore
//!   changes nothing and says so.
//! - On a mount point the time of the root itself may be lost when a restore is killed.

mod attributes;
mod compare;
mod count;
mod errors;
mod estimate;
mod extended;
mod file_stat;
mod find;
mod folder;
mod fs_capabilities;
mod holes;
mod increment;
mod journal;
mod kind;
pub mod kinds;
mod label;
mod layers;
mod links;
mod missing_attributes;
mod mounts;
mod pack;
mod path;
mod plan;
mod remove;
mod restore;
mod settings;
mod snapshot;
mod staging_area;
mod steps;
mod swap;
mod target;
mod task_notes;
mod undo;
mod unpack;
mod unreadable;

use crate::base::access;
use crate::component::{
    CompletedSwap, Component, ComponentError, Feed, Incremental, IncrementalBase, Plan, Restorable,
    RestoreMode, RestoreOrder, Source, Staged, Target, Undo, UndoPoint,
};
use crate::domain::{
    component::ComponentName,
    facts::{Counts, Facts},
    id::BackupId,
    progress::Meter,
    task_note::TaskNote,
};
use crate::stream::tar::{self, Entry, Reference, Visit};
use crate::stream::{Content, Output, unpack::Unpacked};
use async_trait::async_trait;
use folder::{Folder, open_root};
use increment::Increment;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use steps::{RestorePaths, STEPS};
use target::MediaTarget;
use tokio::{sync::mpsc, task};

pub(in crate::component) use settings::REGISTRATION;
pub use settings::{Increments, MediaConfig};

/// The app's media folder.
#[derive(Debug)]
pub struct Media {
    config: MediaConfig,
}

impl Media {
    /// Nothing is read before a backup or a check.
    pub const fn new(config: MediaConfig) -> Self {
        Self { config }
    }

    fn paths(&self) -> RestorePaths {
        RestorePaths { root: self.config.root.clone(), drills: self.config.drills.clone() }
    }

    /// Opens and lists the root.
    async fn open(&self) -> Result<Folder, ComponentError> {
        let root = self.config.root.clone();
        let opened = task::spawn_blocking(move || Folder::root(&root)).await?;
        let root = self.config.root.display();
        opened.map_err(|err| match access::check_folder(&self.config.root, access::Need::Read) {
            Err(system_error) => unusable(system_error),
            // Whatever it was, it is not a matter of rights.
            Ok(()) => ComponentError::Read { what: format!("open MEDIA_ROOT {root}"), source: err.into() },
        })
    }

    /// The number of bytes that there are to read, once the backup has run for a while: on a small folder the count would
    /// only take time from the backup. `None` when nobody could tell, or `stop` was set.
    async fn estimate(&self, stop: Arc<AtomicBool>) -> Option<u64> {
        /// The pause before an estimate, which a backup that is done by then does not need.
        const PATIENCE: Duration = Duration::from_secs(2);
        tokio::time::sleep(PATIENCE).await;
        let root = self.config.root.clone();
        task::spawn_blocking(move || estimate::estimate(open_root(&root).ok()?, &stop)).await.ok()?
    }

    /// Reads the folder, but for what earlier archives hold.
    async fn pack(
        &self,
        increment: Increment,
        out: &mut dyn Output,
        meter: &Meter,
    ) -> Result<Facts, ComponentError> {
        /// Of 1 MiB each: enough that reading and compressing overlap.
        const QUEUE: usize = 4;
        meter.begin("pack", 0);
        let root = self.open().await?;

        let (chunks, mut queue) = mpsc::channel(QUEUE);
        let mut packing = {
            let (meter, path) = (meter.clone(), self.config.root.clone());
            // Opening a file through the runtime costs more than reading a small one, so one thread
            // does it all. It ends when the queue does.
            task::spawn_blocking(move || {
                let mut facts = pack::pack(root, increment, chunks, meter)?;
                if let Some(warning) = mounts::mount_warning(&path) {
                    facts.warn(warning);
                }
                Ok(facts)
            })
        };
        let stop = StopOnDrop::default();
        let total = self.estimate(Arc::clone(&stop.0));
        tokio::pin!(total);

        let (mut content, mut counting) = (Content::default(), true);
        loop {
            tokio::select! {
                chunk = queue.recv() => {
                    let Some(chunk) = chunk else { break };
                    if chunk.content != content {
                        content = chunk.content;
                        out.content(content);
                    }
                    out.write(chunk.bytes).await.map_err(ComponentError::Output)?;
                }
                found = &mut total, if counting => {
                    counting = false;
                    if let Some(bytes) = found {
                        meter.expect(bytes);
                    }
                }
            }
        }
        (&mut packing).await?
    }
}

/// The media folder cannot be used: somebody has to change something.
fn unusable(problem: access::AccessProblem) -> ComponentError {
    ComponentError::Unusable { what: "find MEDIA_ROOT".to_owned(), source: Some(problem.into()) }
}

/// The archives that an incremental one refers to.
#[derive(Debug, Default)]
struct Needed(BTreeSet<BackupId>);

impl Visit for Needed {
    type Error = ComponentError;

    fn entry(&mut self, _: &Entry<'_>, _: u64) -> Result<(), ComponentError> {
        Ok(())
    }

    fn content(&mut self, _: &[u8]) -> Result<(), ComponentError> {
        Ok(())
    }

    fn hole(&mut self, _: u64) -> Result<(), ComponentError> {
        Ok(())
    }

    fn reference(&mut self, reference: &Reference<'_>) -> Result<(), ComponentError> {
        if !self.0.contains(&reference.archive) {
            self.0.insert(reference.archive.clone());
        }
        Ok(())
    }
}

impl From<Media> for Component {
    fn from(media: Media) -> Self {
        let media = Arc::new(media);
        Self {
            incremental: Some(media.clone()),
            restorable: Some(media.clone()),
            undo: Some(media.clone()),
            ..Self::of(media)
        }
    }
}

#[async_trait]
impl Source for Media {
    fn name(&self) -> ComponentName {
        ComponentName::MEDIA
    }

    fn address(&self) -> String {
        self.config.root.display().to_string()
    }

    fn host(&self) -> Option<String> {
        None
    }

    async fn check(&self) -> Result<String, ComponentError> {
        let (entries, paths) = (self.open().await?.len(), self.paths());
        let restore = task::spawn_blocking(move || steps::describe_restore(&paths)).await?;
        Ok(format!("{} is readable, {entries} entries at its top; {restore}", self.config.root.display()))
    }

    async fn ping(&self) -> Result<(), ComponentError> {
        // Not by its contents: a folder of a million files is not listed every minute.
        let root = self.config.root.clone();
        let found = task::spawn_blocking(move || access::check_folder(&root, access::Need::Read));
        found.await?.map_err(unusable)
    }

    async fn back_up(
        &self,
        base: Option<&IncrementalBase>,
        out: &mut dyn Output,
        meter: &Meter,
    ) -> Result<Facts, ComponentError> {
        let (Some(base), Some(allowed)) = (base.cloned(), self.config.increments.clone()) else {
            return self.pack(Increment::default(), out, meter).await;
        };
        let root = self.config.root.clone();
        let increment = task::spawn_blocking(move || Increment::begin(&allowed, &root, &base));
        self.pack(increment.await?, out, meter).await
    }

    async fn describe(&self, feed: Feed<'_>) -> Result<Facts, ComponentError> {
        let mut needed = Needed::default();
        tar::walk(feed, &Meter::default(), &mut needed).await?;
        Ok(Facts { builds_on: needed.0.into_iter().collect(), ..Facts::default() })
    }

    async fn decode(&self, feed: Feed<'_>, meter: &Meter) -> Result<Counts, ComponentError> {
        Ok(tar::decode(feed, meter).await?)
    }
}

#[async_trait]
impl Incremental for Media {
    async fn backup_committed(&self, id: &BackupId) -> Result<(), ComponentError> {
        let (Some(Increments { state, .. }), id) = (self.config.increments.clone(), id.clone()) else {
            return Ok(());
        };
        let keep = move || snapshot::keep(&state, &id).map_err(|err| access::explained(&state, err));
        let kept = task::spawn_blocking(keep).await?;
        kept.map_err(|source| ComponentError::Read { what: "keep what the backup saw".to_owned(), source })
    }

    fn join<'a>(&self, newest: Unpacked<'a>, bases: Vec<(BackupId, Unpacked<'a>)>) -> Unpacked<'a> {
        Box::new(tar::join(newest, bases))
    }
}

#[async_trait]
impl Restorable for Media {
    async fn plan(&self, target: &Target, facts: Option<&Facts>) -> Result<Plan, ComponentError> {
        let (paths, target, facts) = (self.paths(), MediaTarget::try_from(target)?, facts.cloned());
        restore::blocking(move || plan::plan(&paths, &target, facts.as_ref())).await
    }

    fn skipped_steps(&self, mode: RestoreMode) -> Vec<&'static str> {
        STEPS.skipped_steps(mode)
    }

    async fn stage(
        &self,
        feed: Feed<'_>,
        order: &RestoreOrder<'_>,
        meter: &Meter,
    ) -> Result<Box<dyn Staged>, ComponentError> {
        order.refuse_without(self.name())?;
        restore::stage(feed, self.paths(), MediaTarget::try_from(order.target)?, order.facts, meter).await
    }

    async fn recover(&self) -> Result<Vec<String>, ComponentError> {
        let RestorePaths { root, drills } = self.paths();
        restore::blocking(move || restore::recover(&root, drills.as_deref())).await
    }
}

#[async_trait]
impl Undo for Media {
    async fn undo_point(&self) -> Result<Option<UndoPoint>, ComponentError> {
        let root = self.config.root.clone();
        restore::blocking(move || undo::undo_point(&root)).await
    }

    async fn completed_by(&self, task: &str) -> Result<Option<CompletedSwap>, ComponentError> {
        let (root, task) = (self.config.root.clone(), task.to_owned());
        restore::blocking(move || undo::completed_by(&root, &task)).await
    }

    async fn result_stored(&self, task: &str) -> Result<(), ComponentError> {
        let (root, task) = (self.config.root.clone(), task.to_owned());
        restore::blocking(move || undo::result_stored(&root, &task)).await
    }

    async fn undo(&self, note: Option<TaskNote>, _: &Meter) -> Result<UndoPoint, ComponentError> {
        let root = self.config.root.clone();
        restore::blocking(move || undo::undo(&root, note)).await
    }

    async fn delete_undo_data(&self) -> Result<(), ComponentError> {
        let root = self.config.root.clone();
        restore::blocking(move || undo::delete_undo_data(&root)).await
    }
}

/// The end of a backup, told to the estimate, for which nobody waits any more.
#[derive(Debug, Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
