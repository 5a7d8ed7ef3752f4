//! Classes, copied whole: by the server itself or object by object, for a backup as for safety.

use crate::base::chain;
use crate::component::ComponentError;
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::announced_backups::AnnouncedBackups;
use crate::component::weaviate::class::{self, Class, Classes};
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::count::{CountRange, Verdict};
use crate::component::weaviate::export::{NOT_KEPT, export};
use crate::component::weaviate::files::Files;
use crate::component::weaviate::hnsw::without;
use crate::component::weaviate::index::{BackupBackend, Index, corrupt};
use crate::component::weaviate::job::{Job, OwnBackupIds};
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::server::{Access, Server};
use crate::component::weaviate::tree::{Described, Tree};
use crate::domain::{facts::Facts, progress::Meter};
use crate::stream::Output;
use std::collections::{BTreeMap, BTreeSet};

/// The id of a backup by the server, its files and what its descriptors say.
type Ordered = (String, Tree, Described);

impl Weaviate {
    /// Has the server back up `classes`, as they were counted before, and looks that it is whole. The backup
    /// stands in the journal as nobody's until somebody makes it his.
    ///
    /// # Errors
    ///
    /// When it failed, or is not whole. What is left of it is removed by the next [recovery](crate::component::Restorable::recover).
    pub(super) async fn native(
        &self,
        server: &Server,
        backend: BackupBackend,
        mut classes: Classes,
        journal: &mut Journal,
        meter: &Meter,
    ) -> Result<(Index, Tree), ComponentError> {
        let files = self.files(server, backend)?;
        meter.begin("backup by Weaviate", 0);
        let ordered = self.indexed(server, backend, &files, &classes, journal).await;
        let ((id, tree, described), unindexed) = ordered.map_err(|err| match &files {
            Files::Bucket(_) => explained(err, &classes),
            Files::Folder(folder) => folder.judge(explained(err, &classes)),
        })?;
        classes.retain(|name, class| described.classes.contains(name) || !is_left_out(server, class));
        let wanted: BTreeSet<_> = classes.keys().cloned().collect();
        if described.classes != wanted {
            return Err(corrupt(format!("Weaviate's backup holds {:?}, not {wanted:?}", described.classes)));
        }
        meter.begin("read back", 0);
        let in_bucket = match &files {
            Files::Folder(_) => Vec::new(),
            Files::Bucket(_) => files.prove(&id, &tree, &described).await?,
        };
        count_again(server, &mut classes).await?;
        let index = Index {
            format: Index::FORMAT,
            backend,
            id,
            server_version: server.version.to_string(),
            nodes: described.nodes,
            classes,
            aliases: BTreeMap::new(),
            unindexed,
            files: in_bucket,
        };
        Ok((index, tree))
    }

    /// Has the server make a backup with every vector index that the server has. A log that the server began in the
    /// second of a backup is left out by the server, so another backup is ordered in another second. An index that is
    /// missing in both is missing on the server itself.
    async fn indexed(
        &self,
        server: &Server,
        backend: BackupBackend,
        files: &Files,
        classes: &Classes,
        journal: &mut Journal,
    ) -> Result<(Ordered, BTreeSet<String>), ComponentError> {
        const TIMES: u32 = 4;
        let mut before = BTreeSet::new();
        for _ in 0..TIMES {
            let (id, tree, described) = self.order(server, backend, files, classes, journal).await?;
            let lost = files.lost_indexes(&id, &tree, &described, classes).await?;
            if lost.is_subset(&before) {
                return Ok(((id, tree, described), lost));
            }
            tracing::warn!(id, "{}: ordering another backup", without(&lost));
            files.remove(&id).await?;
            journal.note(|notes| notes.orphans.retain(|orphan| orphan.id != id)).await?;
            server.client.wait(2).await;
            before = lost;
        }
        let what = format!("back up by Weaviate {}, {TIMES} times: {}", server.version, without(&before));
        Err(ComponentError::Unavailable { what, source: None })
    }

    /// Orders a backup of the server and waits until it is there, whole.
    async fn order(
        &self,
        server: &Server,
        backend: BackupBackend,
        files: &Files,
        classes: &Classes,
        journal: &mut Journal,
    ) -> Result<Ordered, ComponentError> {
        // A key that may not ask for the nodes' names may still make backups.
        let nodes = match files {
            Files::Bucket(_) => Vec::new(),
            Files::Folder(_) => server.nodes().await.unwrap_or_default(),
        };
        let names: Vec<_> = classes.keys().collect();
        let origin = journal.id().await?;
        let is_plain = backend == BackupBackend::Filesystem && is_small(classes);
        let job = Job {
            server,
            backend: backend.as_str(),
            classes: names.clone(),
            is_plain,
            access: Access::Stays,
            timeout: self.config.timeout,
            origin: &origin,
        };
        let own = OwnBackupIds::after(journal.notes.orphans.iter().map(|orphan| orphan.id.clone()).collect());
        let mut announced = AnnouncedBackups {
            journal: &mut *journal,
            backend,
            files,
            nodes: &nodes,
            classes: &names,
            ids: Vec::new(),
        };
        let made = job.back_up(own, &mut announced).await;
        let ordered = announced.ids;
        if let Files::Folder(folder) = files {
            folder.discard_unused(ordered.clone()).await;
        }
        let id = made?;
        // The server works on one backup at a time, so all that were ordered before this one have ended.
        journal
            .note(|notes| {
                for dead in notes.orphans.iter_mut().filter(|orphan| orphan.id != id) {
                    dead.has_ended = true;
                }
            })
            .await?;
        for lost in ordered.iter().filter(|lost| **lost != id) {
            if files.remove(lost).await.is_ok() {
                journal.note(|notes| notes.orphans.retain(|orphan| orphan.id != *lost)).await?;
            }
        }
        let (tree, described) = whole(server, files, &id).await?;
        Ok((id, tree, described))
    }

    /// Reads `classes` object by object into `out`, behind their index.
    ///
    /// # Errors
    ///
    /// When one of them cannot be read, or objects are missing that nobody has deleted.
    pub(super) async fn exported(
        &self,
        server: &Server,
        classes: Classes,
        out: &mut dyn Output,
        meter: &Meter,
    ) -> Result<(Index, BTreeMap<String, u64>), ComponentError> {
        let mut index = Index {
            format: Index::FORMAT,
            backend: BackupBackend::Export,
            id: String::new(),
            server_version: server.version.to_string(),
            nodes: BTreeSet::new(),
            aliases: aliases_of(server, &classes).await?,
            classes,
            unindexed: BTreeSet::new(),
            files: Vec::new(),
        };
        meter.begin("export", 0);
        out.write(index.entry().into()).await.map_err(ComponentError::Output)?;
        let counts = export(server, &index.classes, out, meter).await?;
        out.write(super::index::END.to_vec().into()).await.map_err(ComponentError::Output)?;
        count_again(server, &mut index.classes).await?;
        for (name, class) in &index.classes {
            if class.objects.judge(counts[name]) == Verdict::Fewer {
                let what = format!(
                    "export class {name}: {} objects were read, and there were {} before and {} after it",
                    counts[name], class.objects.before, class.objects.after
                );
                return Err(ComponentError::Unavailable { what, source: None });
            }
        }
        Ok((index, counts))
    }
}

/// The error of a backup by the server, with the way out where the server cannot back up a class at all: 1.22 finds no
/// relative path for a file of an index with product quantization.
fn explained(err: ComponentError, classes: &Classes) -> ComponentError {
    match err {
        ComponentError::Failed { program, status, stderr, .. } if stderr.contains("Rel: can't make") => {
            let compressed =
                classes.iter().filter(|(_, class)| class::has_product_quantization(&class.definition));
            let compressed: Vec<_> = compressed.map(|(name, _)| name.as_str()).collect();
            let stderr = format!(
                "{stderr}: this version of Weaviate cannot back up a class whose vectors are compressed by product \
                 quantization, such as {}: set BACKUP_WEAVIATE_BACKEND=export, or upgrade Weaviate",
                if compressed.is_empty() { "one of these".to_owned() } else { compressed.join(", ") }
            );
            ComponentError::Failed { program, status, stderr, transient: false }
        }
        err => err,
    }
}

/// The files of a backup that the server has written, once they are whole: later versions say SUCCESS a moment before the last
/// descriptor is there, and none writes it in one step.
async fn whole(server: &Server, files: &Files, id: &str) -> Result<(Tree, Described), ComponentError> {
    const TIMES: u32 = 10;
    let mut turn = 1;
    loop {
        let tree = files.tree(id).await?;
        match tree.describe(id) {
            Ok(described) => return Ok((tree, described)),
            Err(_) if tree.files.is_empty() && turn == TIMES => {
                let what = format!(
                    "find backup {id}, which Weaviate says it has written: BACKUP_WEAVIATE_DIR must be the volume \
                     that Weaviate has at its BACKUP_FILESYSTEM_PATH"
                );
                return Err(ComponentError::Unusable { what, source: None });
            }
            Err(wrong) if turn == TIMES => return Err(corrupt(wrong.join("; "))),
            Err(_) => server.client.wait(1).await,
        }
        turn += 1;
    }
}

/// Notes how many objects there are now.
async fn count_again(server: &Server, classes: &mut Classes) -> Result<(), ComponentError> {
    let counts = server.counts(classes).await;
    let counts = counts.map_err(|fault| fault.of("count the objects of all classes"))?;
    for (name, count) in counts {
        if let Some(class) = classes.get_mut(&name) {
            class.objects.after = count;
        }
    }
    Ok(())
}

/// The aliases of classes. A key that may not read aliases can make an export all the same.
async fn aliases_of(server: &Server, classes: &Classes) -> Result<BTreeMap<String, String>, ComponentError> {
    let mut aliases = match server.aliases().await {
        Err(fault @ Fault::Denied { .. }) => {
            tracing::warn!(error = %fault, "the aliases of Weaviate are not in the export");
            BTreeMap::new()
        }
        answer => answer.map_err(|fault| fault.of("list the aliases of Weaviate"))?,
    };
    aliases.retain(|_, class| classes.contains_key(class));
    Ok(aliases)
}

/// Returns whether a backup fits into the server's folder without compression. Each shard has files of megabytes that are
/// nearly empty, so the tenants count and not the objects.
fn is_small(classes: &Classes) -> bool {
    const MOST_SHARDS: usize = 100;
    classes.values().map(|class| class.tenants.len().max(1)).sum::<usize>() <= MOST_SHARDS
}

/// Returns whether backups by this server do not hold a class at all: none of its tenants is active.
fn is_left_out(server: &Server, class: &Class) -> bool {
    !server.version.keeps_inactive_tenants()
        && class::has_tenants(&class.definition)
        && class.tenants.iter().all(|tenant| !tenant.is_active())
}

/// Notes what people should know of a backup.
pub(super) async fn warn(facts: &mut Facts, server: &Server, index: &Index) {
    if index.classes.is_empty() {
        facts.warn("Weaviate has no classes: there was nothing to back up".to_owned());
    }
    warn_of_missing(facts, server, index).await;
    if !index.unindexed.is_empty() {
        let shards: Vec<_> = index.unindexed.iter().map(String::as_str).collect();
        facts.warn(format!(
            "Weaviate itself has no vector index of {}, though the objects have vectors: a search by vector finds \
             nothing there, now and after a restore. Weaviate loses an index that was just begun when it is killed: store \
             the objects again, or restore a backup that was made with BACKUP_WEAVIATE_BACKEND=export",
            shards.join(", ")
        ));
    }
    for (name, class) in &index.classes {
        let objects = class.objects;
        if objects.exact().is_some_and(|(least, most)| least != most) {
            facts.warn(format!(
                "class {name} had {} objects before and {} after its backup: somebody wrote meanwhile",
                objects.before, objects.after
            ));
        }
        let inactive: Vec<_> = class.inactive().collect();
        if !inactive.is_empty()
            && (index.backend == BackupBackend::Export || !server.version.keeps_inactive_tenants())
        {
            let (count, first) = (inactive.len(), inactive[0]);
            facts.warn(format!(
                "the data of {count} inactive tenants of class {name} is not in the backup, {first} among them: \
                 activate them before"
            ));
        }
    }
    if index.backend == BackupBackend::Export && !index.classes.is_empty() {
        facts.warn(NOT_KEPT.to_owned());
        for dangling in class::dangling(&index.classes, &BTreeSet::new()) {
            facts.warn(format!("{dangling}: it can be restored only when that class is there, make it or remove the reference"));
        }
    }
}

/// Names the classes that the server has and the backup does not.
async fn warn_of_missing(facts: &mut Facts, server: &Server, index: &Index) {
    let there = match server.definitions().await {
        Ok(there) => there,
        Err(fault) => {
            facts.warn(format!("whether a class was made during the backup is unknown: {}", chain(&fault)));
            return;
        }
    };
    for (name, definition) in there.into_iter().filter(|(name, _)| !index.classes.contains_key(name)) {
        let tenants = if class::has_tenants(&definition) { server.tenants(&name).await.ok() } else { None };
        let class =
            Class { definition, tenants: tenants.unwrap_or_default(), objects: CountRange::default() };
        if index.backend != BackupBackend::Export && is_left_out(server, &class) {
            facts.warn(format!(
                "class {name} is not in the backup: none of its tenants is active, and Weaviate {} leaves such a class \
                 out: activate a tenant before, or set BACKUP_WEAVIATE_BACKEND=export to have its definition",
                server.version
            ));
        } else {
            facts.warn(format!("class {name} was made after the backup began and is not in it"));
        }
    }
}
