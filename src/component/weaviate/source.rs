//! The places that classes are brought from: a backup that the server reads itself, or an export.

use crate::base::chain;
use crate::component::weaviate::class::{self, Class};
use crate::component::weaviate::count::{CountRange, Verdict};
use crate::component::weaviate::files::Files;
use crate::component::weaviate::index::{BackupBackend, Index};
use crate::component::weaviate::job::Job;
use crate::component::weaviate::nearest::NOT_TRIED;
use crate::component::weaviate::server::{Access, Server};
use crate::component::weaviate::{Weaviate, import};
use crate::component::{
    ComponentError,
    scratch::{Scratch, free_bytes},
};
use crate::domain::progress::Meter;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Instant,
};

/// A backup that classes are brought from.
#[derive(Debug)]
pub(super) struct Source {
    /// The classes. Of an export, both counts of a class are what was counted in the export.
    pub(super) index: Index,
    pub(super) location: SourceLocation,
}

/// The location of the contents of a source.
#[derive(Debug)]
pub(super) enum SourceLocation {
    /// A backup that the server sees.
    Server(Files),
    /// An export on disk.
    Scratch(Scratch),
    /// An export on disk, in a file with a name.
    File(PathBuf),
}

/// The classes that a replacement leaves, each with the place that it comes from; `None`: there is to be none.
pub(super) type Bring<'a> = BTreeMap<String, Option<&'a Source>>;

impl Source {
    pub(super) async fn open(&self) -> Result<tokio::fs::File, ComponentError> {
        match &self.location {
            SourceLocation::Scratch(scratch) => scratch.reader().await,
            SourceLocation::File(path) => tokio::fs::File::open(path)
                .await
                .map_err(|source| ComponentError::Read { what: format!("read {}", path.display()), source }),
            SourceLocation::Server(_) => unreachable!("the server reads its own backups"),
        }
    }

    /// Brings classes to a server that has none of them, and `access`.
    ///
    /// # Errors
    ///
    /// When it failed; then any of them may be there or not, or a part of it.
    pub(super) async fn bring(
        &self,
        weaviate: &Weaviate,
        server: &Server,
        only: &BTreeSet<String>,
        access: Access,
        meter: &Meter,
    ) -> Result<(), ComponentError> {
        if only.is_empty() {
            return Ok(());
        }
        if let SourceLocation::Server(files) = &self.location {
            files.remove_restore_status(&self.index.id).await?;
            let classes = only.iter().collect();
            let backend = self.index.backend.as_str();
            let timeout = weaviate.config.timeout;
            let job = Job { server, backend, classes, is_plain: false, access, timeout, origin: "" };
            return job.restore(&self.index.id, &self.index.nodes).await;
        }
        let mut classes = self.index.classes.clone();
        classes.retain(|name, _| only.contains(name));
        let made = import::make_classes(server, &classes).await?;
        import::put_objects(server, &self.index, only, self.open().await?, meter).await?;
        import::put_references(server, &self.index, only, self.open().await?, meter).await?;
        import::finish(server, &self.index, made, meter).await
    }

    /// The class as it should be once it has been brought. The counts around a backup by the server are those of
    /// other moments than the one at which the server captured the class, so of them an empty class alone decides.
    pub(super) fn promised(&self, name: &str) -> Class {
        let mut class = self.index.classes[name].clone();
        if self.index.backend != BackupBackend::Export {
            class.objects = class.objects.estimated();
        }
        class
    }
}

impl Source {
    /// The vectors by which nothing is found in a class that was brought, in words. A class that had no vector index on
    /// the server that made the backup is left out: the backup says so.
    ///
    /// # Errors
    ///
    /// When the server gives no answer.
    pub(super) async fn not_found_by_vector(
        &self,
        server: &Server,
        class: &str,
        meter: &Meter,
    ) -> Result<Vec<String>, ComponentError> {
        let folder = format!("{}/", class.to_lowercase());
        if self.index.unindexed.iter().any(|shard| shard.starts_with(&folder)) {
            return Ok(Vec::new());
        }
        let found = server.not_found_by_vector(class, &self.index.classes[class]).await;
        let found = found.map_err(|fault| fault.of(format!("search class {class} by vector")))?;
        Ok(found.unwrap_or_else(|| {
            meter.warn(NOT_TRIED.to_owned());
            Vec::new()
        }))
    }
}

/// Proves that a class is what it should be: a server says SUCCESS also of an empty one.
///
/// # Errors
///
/// [`ComponentError::Failed`] when the class is not, or not whole.
pub(super) async fn prove(
    server: &Server,
    name: &str,
    promised: &Class,
    meter: &Meter,
) -> Result<(), ComponentError> {
    /// Seconds until all must be counted that was stored.
    const PATIENCE: u32 = 20;
    let failed = |why: String| ComponentError::Failed {
        program: "restore into Weaviate",
        status: "success, which is not true".to_owned(),
        stderr: format!("class {name}: {why}"),
        transient: false,
    };
    let what = || format!("look at class {name}");
    let definitions = server.definitions().await.map_err(|fault| fault.of(what()))?;
    let found = definitions.get(name).ok_or_else(|| failed("it is not there".to_owned()))?;
    let differences = class::differences(&promised.definition, found);
    if !differences.is_empty() {
        return Err(failed(differences.join("; ")));
    }
    if promised.definition != *found {
        meter.warn(format!("The definition of class {name} is not in every detail what it was."));
    }
    server.read_one(name, promised).await.map_err(|fault| fault.of(what()))?;
    let begun = Instant::now();
    loop {
        let count = server.count_exactly(name, promised).await.map_err(|fault| fault.of(what()))?;
        let CountRange { before, after } = promised.objects;
        let wanted = if before == after { before.to_string() } else { format!("{before} to {after}") };
        match promised.judge(count) {
            Verdict::Whole => break,
            Verdict::More | Verdict::Unproven => {
                if count != promised.objects.number() {
                    meter.warn(format!(
                        "Class {name} has {count} objects, and {wanted} were counted at the backup."
                    ));
                }
                break;
            }
            Verdict::Fewer if begun.elapsed() > server.client.seconds(PATIENCE) => {
                return Err(failed(format!("{count} objects are there and should be {wanted}")));
            }
            Verdict::Fewer => server.client.wait(1).await,
        }
    }
    server.read_one(name, promised).await.map_err(|fault| fault.of(what()))
}

/// Proves that every object that a class counts can be read. Objects that the app has deleted since the class was proven
/// are in neither number.
///
/// # Errors
///
/// The answer of the server, or [`ComponentError::Unusable`] when objects cannot be read.
pub(super) async fn prove_by_reading(
    server: &Server,
    name: &str,
    promised: &Class,
) -> Result<(), ComponentError> {
    let what = || format!("read every object of class {name} after an outage of Weaviate");
    let count = server.count_by_reading(name, promised).await.map_err(|fault| fault.of(what()))?;
    if promised.judge(count) != Verdict::Fewer {
        return Ok(());
    }
    let counted = server.count_exactly(name, promised).await.map_err(|fault| fault.of(what()))?;
    if counted <= count {
        return Ok(());
    }
    let what = format!("{}: {count} can be read, and {counted} are there", what());
    Err(ComponentError::Unusable { what, source: None })
}

/// The sources of a replacement, each with the classes that come from it.
pub(super) fn sources<'a>(bring: &Bring<'a>) -> Vec<(&'a Source, BTreeSet<String>)> {
    let mut sources: Vec<(&Source, BTreeSet<String>)> = Vec::new();
    for (class, source) in bring.iter().filter_map(|(class, source)| Some((class, (*source)?))) {
        match sources.iter_mut().find(|(known, _)| std::ptr::eq(*known, source)) {
            Some((_, classes)) => classes.extend([class.clone()]),
            None => sources.push((source, [class.clone()].into())),
        }
    }
    sources
}

/// The way of the copies that are made before a replacement: that of the backup that the server restores, if any.
pub(super) fn backend_of(bring: &Bring<'_>) -> BackupBackend {
    let mut backends = bring.values().flatten().map(|source| source.index.backend);
    backends.find(|backend| *backend != BackupBackend::Export).unwrap_or(BackupBackend::Export)
}

/// Removes the files that a restore which has failed unpacked into Weaviate's folder, if that is full: what is put back
/// needs room in it.
pub(super) async fn make_room(bring: &Bring<'_>) {
    for (source, _) in sources(bring) {
        if let SourceLocation::Server(files) = &source.location {
            remove_if_full(files, &source.index.id).await;
        }
    }
}

/// Removes the files of a backup in Weaviate's folder, if that is full.
pub(super) async fn remove_if_full(files: &Files, id: &str) {
    /// Less than the files that a server writes beside a backup as it restores it.
    const FULL: u64 = 1 << 20;
    let Files::Folder(folder) = files else { return };
    let is_full = free_bytes(&folder.of(id)).is_some_and(|free| free < FULL);
    if is_full && let Err(err) = files.remove(id).await {
        tracing::warn!(error = %chain(&err), "the files of a backup are left in Weaviate's folder");
    }
}
