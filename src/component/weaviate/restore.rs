//! A backup beside the live classes, and what becomes of it.

use crate::base::chain;
use crate::component::media::{Media, MediaConfig};
use crate::component::scratch::Scratch;
use crate::component::stage::{RestoreMode, Staged, Target, UndoPoint};
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::claim::marks_of_the_dead;
use crate::component::weaviate::class::Classes;
use crate::component::weaviate::copies::{described, kept_as};
use crate::component::weaviate::count::CountRange;
use crate::component::weaviate::decode::{decode, decode_only};
use crate::component::weaviate::files::Files;
use crate::component::weaviate::folder::{FolderRelease, is_closed};
use crate::component::weaviate::index::{BackupBackend, Index, corrupt};
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::mark::is_mark;
use crate::component::weaviate::notes::OrphanBackup;
use crate::component::weaviate::replace::{Purpose, names, remove_classes};
use crate::component::weaviate::requirements::Requirements;
use crate::component::weaviate::server::{Access, Server};
use crate::component::weaviate::source::{Source, SourceLocation, prove};
use crate::component::weaviate::steps::CheckContext;
use crate::component::weaviate::target::ClassTarget;
use crate::component::{ComponentError, Feed, Restorable as _, RestoreOrder};
use crate::domain::{facts::Counts, progress::Meter, task_note::TaskNote};
use async_trait::async_trait;
use std::collections::BTreeSet;
use uuid::Uuid;

impl Weaviate {
    /// The server that a restore goes to.
    pub(super) async fn target_server(&self, target: &ClassTarget) -> Result<Server, ComponentError> {
        match target {
            ClassTarget::Live | ClassTarget::LiveWithAccess | ClassTarget::Classes(_) => self.connect().await,
            ClassTarget::Scratch => self.connect_drill().await,
        }
    }

    /// Makes a copy that can take the place of the live classes.
    pub(super) async fn staged(
        &self,
        feed: Feed<'_>,
        target: &ClassTarget,
        meter: &Meter,
    ) -> Result<Copy, ComponentError> {
        let index = Index::take(feed).await?;
        let server = self.target_server(target).await?;
        // A version without marks takes a mark for a class of the app.
        let all = index.classes.keys().filter(|class| !is_mark(class)).cloned().collect();
        let bring = chosen(target, &all)?;
        let live = server.classes(Some(&bring)).await?;
        let requirements = Requirements::of_archive(&index, target)?;
        let mode = if *target == ClassTarget::Scratch { RestoreMode::Drill } else { RestoreMode::Restore };
        let (weaviate, live, asked) = (self, &live, Some(&index));
        let context = CheckContext {
            weaviate,
            target,
            server: &server,
            requirements: &requirements,
            bring: Some(&bring),
            live,
            index: asked,
        };
        context.ask_all(mode).await?;
        let mut journal = Journal::open(&self.config.state).await?;
        if mode == RestoreMode::Restore {
            // Another machine may be restoring from the very folder that this backup is unpacked to.
            marks_of_the_dead(&server, &journal.id().await?).await?;
        }
        let (source, counts) = self.unpack(&server, (index, &bring), feed, &mut journal, meter).await?;
        let (weaviate, meter) = (self.clone(), meter.clone());
        let access = *target == ClassTarget::LiveWithAccess;
        let mut copy =
            Copy { weaviate, server, source, bring, counts, drill: false, access, note: None, meter };
        if access && let Err(err) = copy.holds_access().await {
            copy.clean(&mut journal).await?;
            return Err(err);
        }
        if mode == RestoreMode::Drill {
            copy.drill = true;
            copy.run_trial(&mut journal).await?;
        }
        Ok(copy)
    }

    /// Brings what is in the archive to where the server, or we, can restore it from.
    async fn unpack(
        &self,
        server: &Server,
        (mut index, bring): (Index, &BTreeSet<String>),
        feed: Feed<'_>,
        journal: &mut Journal,
        meter: &Meter,
    ) -> Result<(Source, Counts), ComponentError> {
        match index.backend {
            BackupBackend::Export => {
                journal.note(|_| {}).await?; // makes the folder
                let scratch = Scratch::spool(&self.config.state, feed, meter).await?;
                let archive = &mut scratch.reader().await?;
                let counts = decode_only(&index, Some(bring), archive, &Meter::default()).await?;
                for (name, class) in &mut index.classes {
                    let count = counts.classes.get(name).copied().unwrap_or_default();
                    class.objects = CountRange::captured(count);
                }
                Ok((Source { index, location: SourceLocation::Scratch(scratch) }, counts))
            }
            BackupBackend::S3 => {
                let counts = decode(&index, feed, meter).await?;
                let files = self.files(server, BackupBackend::S3)?;
                files.compare(&index).await?;
                Ok((Source { index, location: SourceLocation::Server(files) }, counts))
            }
            BackupBackend::Filesystem => {
                let files = self.files(server, BackupBackend::Filesystem)?;
                if !index.classes.is_empty() {
                    self.unpack_tree(&files, &index, feed, journal, meter).await?;
                }
                let classes =
                    index.classes.iter().map(|(name, class)| (name.clone(), class.objects.number()));
                let counts = Counts { classes: classes.collect(), ..Counts::default() };
                Ok((Source { index, location: SourceLocation::Server(files) }, counts))
            }
        }
    }

    /// Puts Weaviate's own files into its folder, under the name that they had: it takes them under no other.
    async fn unpack_tree(
        &self,
        files: &Files,
        index: &Index,
        feed: Feed<'_>,
        journal: &mut Journal,
        meter: &Meter,
    ) -> Result<(), ComponentError> {
        let (Files::Folder(folder), id) = (files, &index.id) else { return Ok(()) };
        // Another run may have left the same backup there, or somebody may have put it there by hand.
        let aside = format!("{id}-{}", &Uuid::new_v4().simple().to_string()[..8]);
        journal
            .note(|notes| {
                for id in [id, &aside] {
                    if !notes.orphans.iter().any(|orphan| orphan.id == *id) {
                        notes.orphans.push(OrphanBackup::new(BackupBackend::Filesystem, id));
                    }
                }
            })
            .await?;
        let release = folder.free(id, &aside).await?;
        let place = if release == FolderRelease::Taken { &aside } else { id };
        let media = Media::new(MediaConfig::full(folder.of(place)));
        // Owners of these files say nothing of the classes.
        let target = Target::custom("into", [folder.of(place)]);
        let staged = media.stage(feed, &RestoreOrder::new(&target, None), &meter.muted()).await?;
        staged.swap().await?;
        folder.share(place).await?;
        let tree = files.tree(place).await?;
        let described = tree.describe(id).map_err(|wrong| corrupt(wrong.join("; ")))?;
        if described.classes.iter().ne(index.classes.keys()) {
            return Err(corrupt("its classes are not those of its index"));
        }
        match release {
            FolderRelease::Renamed => return Ok(()),
            FolderRelease::Free => {}
            FolderRelease::Taken => {
                let is_same = files.is_same(id, &aside, &tree, &described).await;
                files.remove(&aside).await?;
                if !is_same {
                    return Err(folder.taken(id));
                }
            }
        }
        journal.note(|notes| notes.orphans.retain(|orphan| orphan.id != aside)).await
    }
}

/// The classes that are meant.
pub(super) fn chosen(
    target: &ClassTarget,
    all: &BTreeSet<String>,
) -> Result<BTreeSet<String>, ComponentError> {
    let ClassTarget::Classes(wanted) = target else { return Ok(all.clone()) };
    if let Some(name) = wanted.iter().find(|name| !all.contains(*name)) {
        let what = format!("restore class {name}: the backup does not have it, but has {}", names(all));
        return Err(ComponentError::Unusable { what, source: None });
    }
    Ok(wanted.iter().cloned().collect())
}

/// A backup that is ready to be restored, or has been on the second server.
#[derive(Debug)]
pub(super) struct Copy {
    weaviate: Weaviate,
    server: Server,
    source: Source,
    bring: BTreeSet<String>,
    counts: Counts,
    drill: bool,
    /// True if users, roles and aliases come as well.
    access: bool,
    /// The task that orders the restore; `None`: somebody by hand.
    note: Option<TaskNote>,
    /// Of the run: the longest part is still to come.
    meter: Meter,
}

impl Copy {
    /// Makes sure that the backup holds users or roles: a server without them makes backups without them.
    async fn holds_access(&self) -> Result<(), ComponentError> {
        let (SourceLocation::Server(files), id) = (&self.source.location, &self.source.index.id) else {
            return Ok(());
        };
        if described(&files.tree(id).await?, id)?.has_access {
            return Ok(());
        }
        let what = "restore users and roles of Weaviate: the backup holds none, since the server that made it had \
                    neither roles (AUTHORIZATION_RBAC_ENABLED) nor users of its own: restore without --with-access"
            .to_owned();
        Err(ComponentError::Unusable { what, source: None })
    }

    /// Restores it for real, where nobody needs anything.
    async fn run_trial(&mut self, journal: &mut Journal) -> Result<(), ComponentError> {
        journal.note(|notes| notes.drill.clone_from(&self.bring)).await?;
        let restored = async {
            self.source.bring(&self.weaviate, &self.server, &self.bring, Access::Stays, &self.meter).await?;
            for class in &self.bring {
                prove(&self.server, class, &self.source.promised(class), &self.meter).await?;
                let not_found = self.source.not_found_by_vector(&self.server, class, &self.meter).await?;
                if !not_found.is_empty() {
                    return Err(corrupt(not_found.join(" ")));
                }
            }
            Ok(())
        };
        if let Err(err) = restored.await {
            if let Err(left) = self.clean(journal).await {
                tracing::warn!(error = %chain(&left), "what a drill has made is left until the next start");
            }
            return Err(err);
        }
        Ok(())
    }

    /// Removes what was only for this restore.
    async fn clean(&self, journal: &mut Journal) -> Result<(), ComponentError> {
        if self.drill {
            let made: Vec<_> = self.bring.iter().cloned().collect();
            remove_classes(&self.server, &made).await?;
            journal.note(|notes| notes.drill.clear()).await?;
        }
        if let (BackupBackend::Filesystem, SourceLocation::Server(files)) =
            (self.source.index.backend, &self.source.location)
        {
            let id = &self.source.index.id;
            match files.remove(id).await {
                Ok(()) => journal.note(|notes| notes.orphans.retain(|orphan| orphan.id != *id)).await?,
                Err(err) if is_closed(&err) => {
                    tracing::warn!(error = %chain(&err), "a backup is left in Weaviate's folder");
                }
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Staged for Copy {
    fn counts(&self) -> &Counts {
        &self.counts
    }

    fn set_task_note(&mut self, note: TaskNote) {
        self.note = Some(note);
    }

    async fn swap(self: Box<Self>) -> Result<Option<UndoPoint>, ComponentError> {
        let Self { weaviate, server, source, bring, access, note, meter, .. } = &*self;
        if self.drill {
            let what = "a copy for a drill cannot take the place of the classes".to_owned();
            return Err(ComponentError::Unusable { what, source: None });
        }
        let mut journal = Journal::open(&weaviate.config.state).await?;
        let bring = bring.iter().map(|class| (class.clone(), Some(source))).collect();
        let purpose = if *access { Purpose::RestoreWithAccess } else { Purpose::Restore };
        let replaced = weaviate.replace(server, &mut journal, &bring, purpose, note.clone(), meter).await;
        if let Err(err) = self.clean(&mut journal).await {
            tracing::warn!(error = %chain(&err), "the files of the restored backup are left until the next start");
        }
        let kept = replaced?;
        let kept = kept.map(|kept| kept_as(&journal, &kept));
        Ok(kept)
    }

    async fn discard(self: Box<Self>) -> Result<(), ComponentError> {
        let mut journal = Journal::open(&self.weaviate.config.state).await?;
        self.clean(&mut journal).await
    }
}

/// Objects by class, for manifests.
pub(super) fn counted(classes: &Classes) -> Counts {
    let classes = classes.iter().map(|(name, class)| (name.clone(), class.objects.number())).collect();
    Counts { classes, ..Counts::default() }
}
