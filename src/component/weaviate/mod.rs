//! Weaviate, by its own backups where it can make them, and object by object where it cannot.
//!
//! - **filesystem**: the server writes a backup into its folder, which we see too. It is checked, packed like
//!   any other archive, and removed from there; a restore puts it back there first.
//! - **s3**: the server writes it into the bucket, where it stays. Our archive is an index of it: every file
//!   with its hash.
//! - **export**: we read every object through the API. Indexes are built anew by a restore.
//!
//! Each class is of one moment, all of them together are not. Weaviate can neither overwrite nor rename a
//! class, so a restore deletes those that it brings: before that they are copied and proven, and put back if
//! anything goes wrong (`replace`). What a dead run left stands in a journal of ours (`journal`).

mod chunk;
mod class;
mod client;
mod config;
mod decode;
mod export;
mod files;
mod import;
mod index;
mod job;
mod journal;
mod lines;
mod replace;
mod restore;
mod roll_back;
mod server;
mod sink;
mod snapshot;
mod tree;
mod version;
mod ways;

use crate::base::chain;
use crate::component::media::{Media, MediaConfig};
use crate::component::{Component, ComponentError, Feed, Kept, Plan, Shelf, Staged, Target};
use crate::domain::{
    component::ComponentName,
    facts::{Counts, Facts},
    progress::Meter,
};
use crate::stream::Output;
use async_trait::async_trait;
use client::{Client, Fault};
use files::Files;
use index::{END, Index, Made};
use jiff::Timestamp;
use journal::{Journal, Notes};
use server::{Server, Status, Work};
use std::{collections::BTreeSet, fs, sync::Arc};

pub use config::{Address, InvalidAddress, Tls, Way, WeaviateConfig};

/// The app's vector database.
#[derive(Debug, Clone)]
pub struct Weaviate {
    config: WeaviateConfig,
    shelf: Option<Arc<dyn Shelf>>,
}

impl Weaviate {
    /// Nothing is asked of the server before a backup or a check. `shelf` is where it may write to itself.
    pub fn new(config: WeaviateConfig, shelf: Option<Arc<dyn Shelf>>) -> Self {
        Self { config, shelf }
    }

    async fn meet(&self) -> Result<Server, ComponentError> {
        Server::meet(Client::new(&self.config, &self.config.server)?).await
    }

    async fn meet_drill(&self) -> Result<Server, ComponentError> {
        let drill = self
            .config
            .drill
            .as_ref()
            .ok_or_else(|| ComponentError::Unusable { what: NO_DRILL.to_owned(), source: None })?;
        Server::meet(Client::new(&self.config, drill)?).await
    }

    /// Has the server write a backup into its folder, and packs that.
    async fn backup_files(
        &self,
        server: &Server,
        (made, classes): (Made, class::Classes),
        out: &mut dyn Output,
        meter: &Meter,
    ) -> Result<(Index, Facts), ComponentError> {
        let mut journal = Journal::open(&self.config.state)?;
        let (index, tree) = self.native(server, made, classes, &mut journal, meter).await?;
        out.write(index.entry().into()).await.map_err(ComponentError::Output)?;
        let mut facts = Facts { source_bytes: tree.bytes(), ..Facts::default() };
        match self.files(server, made)? {
            Files::Bucket(_) => {
                out.write(END.to_vec().into()).await.map_err(ComponentError::Output)?;
                facts.server_backup = Some(index.id.clone());
                journal.note(|notes| notes.loose.retain(|loose| loose.id != index.id))?;
            }
            files @ Files::Folder(_) => {
                let Files::Folder(dir) = &files else { unreachable!("just matched") };
                let packed = Media::new(MediaConfig::full(dir.join(&index.id))).backup(out, meter).await?;
                if packed.warning_count > 0 {
                    // Nothing may change there by now.
                    let what = format!("pack Weaviate's backup: {}", packed.warnings.join("; "));
                    return Err(ComponentError::Unavailable { what, source: None });
                }
                match files.remove(&index.id).await {
                    Ok(()) => journal.note(|notes| notes.loose.retain(|loose| loose.id != index.id))?,
                    Err(err) => facts.warn(chain(&err)),
                }
            }
        }
        Ok((index, facts))
    }

    /// Removes backups of the server that a dead run had ordered, once they have ended.
    async fn clear_loose(
        &self,
        server: &Server,
        journal: &mut Journal,
    ) -> Result<Vec<String>, ComponentError> {
        let mut done = Vec::new();
        for loose in journal.notes.loose.clone() {
            let (backend, id) = (loose.made.as_str(), &loose.id);
            match server.status_again(backend, id, Work::Backup).await {
                Ok(Status::Running) => {
                    if server.version.can_cancel() {
                        let _ = server.cancel_backup(backend, id).await;
                    }
                    // Up to 1.27.3 one that a restart has ended says so for ever.
                    if !is_older(id, self.config.timeout) {
                        tracing::info!(
                            id,
                            "a backup that a dead run has ordered of Weaviate is still under way"
                        );
                        continue;
                    }
                }
                // In the bucket it may be the data of a backup whose manifest is written: retention sees that.
                Ok(Status::Done) if loose.made == Made::S3 => {
                    journal.note(|notes| notes.loose.retain(|other| *other != loose))?;
                    continue;
                }
                Ok(_) | Err(Fault::Refused { .. }) => {}
                Err(fault) => return Err(fault.of("look for what a dead run has left in Weaviate")),
            }
            self.files(server, loose.made)?.remove(id).await?;
            journal.note(|notes| notes.loose.retain(|other| *other != loose))?;
            done.push(format!("removed backup {id}, which a dead run had left in Weaviate's {backend}"));
        }
        Ok(done)
    }
}

/// What a restore has set aside, for people.
fn kept_as(journal: &Journal, kept: &journal::Kept) -> Kept {
    Kept { place: replace::place_of(journal, &kept.snapshot), at: kept.snapshot.at }
}

/// What keeps a drill from being held.
const NO_DRILL: &str = "weaviate is restored for real only on a second server: set BACKUP_WEAVIATE_DRILL_URL to \
                        one with nothing on it";

/// Whether the time in the name of a backup of ours is longer ago than that.
fn is_older(id: &str, than: std::time::Duration) -> bool {
    let time = id.strip_prefix(job::PREFIX).and_then(|rest| rest.get(..16));
    let begun = time.and_then(|time| {
        let civil = jiff::civil::DateTime::strptime("%Y%m%dt%H%M%Sz", time).ok()?;
        Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    });
    begun.is_none_or(|begun| Timestamp::now().duration_since(begun).unsigned_abs() > than)
}

#[async_trait]
impl Component for Weaviate {
    fn name(&self) -> ComponentName {
        ComponentName::Weaviate
    }

    fn source(&self) -> String {
        self.config.server.to_string()
    }

    async fn check(&self) -> Result<String, ComponentError> {
        let server = self.meet().await?;
        let (made, warning) = self.way(&server)?;
        if let (Made::Filesystem, Some(dir)) = (made, &self.config.dir) {
            let probe = dir.join(format!(".rna-backup-{}", uuid::Uuid::new_v4().simple()));
            fs::write(&probe, "").and_then(|()| fs::remove_file(&probe)).map_err(|err| {
                let what = format!(
                    "write in BACKUP_WEAVIATE_DIR {}: run rna-backup as the user of the server, or as one of its group",
                    dir.display()
                );
                client::unusable(what, err)
            })?;
        }
        let classes = server.definitions().await.map_err(|fault| fault.of("read Weaviate's schema"))?.len();
        let found =
            format!("Weaviate {} answers, classes: {classes}, by way of {}", server.version, made.as_str());
        Ok(warning.map_or(found.clone(), |warning| format!("{found}; {warning}")))
    }

    async fn backup(&self, out: &mut dyn Output, meter: &Meter) -> Result<Facts, ComponentError> {
        meter.begin("connect", 0);
        let server = self.meet().await?;
        let (made, warning) = self.way(&server)?;
        let classes = server.classes(None).await?;
        let (index, mut facts) = if made == Made::Export || classes.is_empty() {
            let (index, counts) = self.exported(&server, classes, out, meter).await?;
            let (source_bytes, _, _) = meter.read();
            let counts = Counts { classes: counts, ..Counts::default() };
            (index, Facts { source_bytes, counts, ..Facts::default() })
        } else {
            let (index, facts) = self.backup_files(&server, (made, classes), out, meter).await?;
            let counts = restore::counted(&index.classes);
            (index, Facts { counts, ..facts })
        };
        if let Some(warning) = warning {
            facts.warn(warning);
        }
        snapshot::warn(&mut facts, &server, &index);
        facts.backend = Some(index.way.as_str().to_owned());
        facts.versions.insert("weaviate".to_owned(), server.version.to_string());
        for name in server.modules.keys() {
            facts.versions.insert(format!("weaviate module {name}"), "enabled".to_owned());
        }
        Ok(facts)
    }

    async fn decode(&self, feed: Feed<'_>, meter: &Meter) -> Result<Counts, ComponentError> {
        let index = Index::take(feed).await?;
        let counts = decode::decode(&index, feed, meter).await?;
        if let (Made::S3, Some(shelf)) = (index.way, &self.shelf) {
            let files = Files::Bucket(Arc::clone(shelf));
            let tree = files.tree(&index.id).await?;
            let described = replace::described(&tree, &index.id)?;
            if files.prove(&index.id, &tree, &described).await? != index.files {
                return Err(index::corrupt("the files in the bucket are not those of the backup"));
            }
        }
        Ok(counts)
    }

    async fn describe(&self, feed: Feed<'_>) -> Result<Facts, ComponentError> {
        let index = Index::take(feed).await?;
        let mut facts = Facts { backend: Some(index.way.as_str().to_owned()), ..Facts::default() };
        facts.server_backup = (index.way == Made::S3).then_some(index.id);
        facts.versions.insert("weaviate".to_owned(), index.server_version);
        Ok(facts)
    }

    fn no_drill(&self) -> Option<&'static str> {
        self.config.drill.is_none().then_some(NO_DRILL)
    }

    async fn plan(&self, target: &Target, facts: Option<&Facts>) -> Result<Plan, ComponentError> {
        self.planned(target, facts).await
    }

    async fn stage(
        &self,
        feed: Feed<'_>,
        target: &Target,
        _: Option<&Facts>,
        meter: &Meter,
    ) -> Result<Box<dyn Staged>, ComponentError> {
        Ok(Box::new(self.staged(feed, target, meter).await?))
    }

    async fn recover(&self) -> Result<Vec<String>, ComponentError> {
        let mut journal = Journal::open(&self.config.state)?;
        journal.clear()?;
        let notes = &journal.notes;
        if notes.replacing.is_none() && notes.loose.is_empty() && notes.drill.is_empty() {
            return Ok(Vec::new());
        }
        let mut done = Vec::new();
        let server = self.meet().await?;
        if journal.notes.replacing.is_some() {
            self.keep_what_came_since(&server, &mut journal).await?;
            done.push(self.put_safety_back(&server, &mut journal).await?);
        }
        if !journal.notes.drill.is_empty() {
            let made: Vec<_> = journal.notes.drill.iter().cloned().collect();
            replace::remove_classes(&self.meet_drill().await?, &made).await?;
            journal.note(|notes| notes.drill.clear())?;
            done.push("removed the classes of a dead drill from the second server".to_owned());
        }
        done.extend(self.clear_loose(&server, &mut journal).await?);
        Ok(done)
    }

    async fn kept(&self) -> Result<Option<Kept>, ComponentError> {
        let journal = Journal::open(&self.config.state)?;
        Ok(journal.notes.kept.as_ref().map(|kept| kept_as(&journal, kept)))
    }

    async fn undo(&self) -> Result<Kept, ComponentError> {
        let mut journal = Journal::open(&self.config.state)?;
        let Some(kept) = journal.notes.kept.clone() else {
            let what = "undo the restore of weaviate: nothing is kept of before".to_owned();
            return Err(ComponentError::Unusable { what, source: None });
        };
        let server = self.meet().await?;
        let source = self.source_of(&server, &journal, &kept.snapshot)?;
        let classes = (&kept.classes, &kept.snapshot.classes);
        let replaced = self.replace(&server, &mut journal, &source, classes, &Meter::default()).await?;
        let none =
            || Kept { place: "nothing: none of its classes was there".to_owned(), at: Timestamp::now() };
        Ok(replaced.map_or_else(none, |kept| kept_as(&journal, &kept)))
    }

    async fn forget(&self) -> Result<(), ComponentError> {
        let mut journal = Journal::open(&self.config.state)?;
        let Some(kept) = journal.notes.kept.clone() else { return Ok(()) };
        self.drop_snapshot(&self.meet().await?, &journal, &kept.snapshot).await?;
        journal.note(|notes| notes.kept = None)
    }

    async fn sweep(&self, living: &[&Facts]) -> Result<Vec<String>, ComponentError> {
        let Some(shelf) = &self.shelf else { return Ok(Vec::new()) };
        let Notes { replacing, kept, .. } = Journal::open(&self.config.state)?.notes;
        let aside = replacing.and_then(|replacing| replacing.safety).into_iter();
        let aside: Vec<_> = aside.chain(kept.map(|kept| kept.snapshot)).map(|snapshot| snapshot.id).collect();
        let is_needed = |id: &str| {
            let of = |facts: &&&Facts| facts.server_backup.as_deref() == Some(id);
            living.iter().any(|facts| of(&facts)) || aside.iter().any(|kept| kept == id)
        };
        let found = shelf.files("").await?;
        let ids: BTreeSet<_> =
            found.iter().filter_map(|(path, _)| path.split_once('/')).map(|(id, _)| id).collect();
        let mut done = Vec::new();
        // One that began a moment ago may be somebody's whose manifest is still to come.
        for id in ids {
            if files::is_ours(id) && !is_needed(id) && is_older(id, self.config.timeout) {
                Files::Bucket(Arc::clone(shelf)).remove(id).await?;
                done.push(format!("removed backup {id} of Weaviate from the bucket: no manifest names it"));
            }
        }
        Ok(done)
    }
}
