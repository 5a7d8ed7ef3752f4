//! Classes replaced by others of the same names, and back again.
//!
//! Weaviate neither overwrites nor renames a class, so between its deletion and the end of its restore it is
//! missing. Before the first deletion all that will be deleted is copied and proven; whatever goes wrong
//! then, that copy is put back, by the next run if not by this one.

use crate::base::chain;
use crate::component::weaviate::class::{self, Class, Classes};
use crate::component::weaviate::files::Files;
use crate::component::weaviate::index::{Index, Made, corrupt};
use crate::component::weaviate::job::{Job, new_id};
use crate::component::weaviate::journal::{Journal, Kept, Replacing, Snapshot};
use crate::component::weaviate::server::Server;
use crate::component::weaviate::tree::{Described, Tree};
use crate::component::weaviate::{Weaviate, import, sink::FileSink};
use crate::component::{ComponentError, scratch::Scratch};
use crate::domain::progress::Meter;
use jiff::Timestamp;
use std::{collections::BTreeSet, fs, path::PathBuf, time::Instant};

/// Where classes come from.
#[derive(Debug)]
pub(super) struct Source {
    /// What is in it. Of an export, both counts are what was counted in it.
    pub(super) index: Index,
    pub(super) place: Place,
}

#[derive(Debug)]
pub(super) enum Place {
    /// A backup that the server sees.
    Server(Files),
    /// An export on disk.
    Scratch(Scratch),
    /// The same, under a name.
    File(PathBuf),
}

impl Source {
    pub(super) async fn open(&self) -> Result<tokio::fs::File, ComponentError> {
        match &self.place {
            Place::Scratch(scratch) => scratch.reader().await,
            Place::File(path) => tokio::fs::File::open(path)
                .await
                .map_err(|source| ComponentError::Read { what: format!("read {}", path.display()), source }),
            Place::Server(_) => unreachable!("the server reads its own backups"),
        }
    }

    /// Puts classes into a server that has none of them, and looks that they are there, all of them.
    ///
    /// # Errors
    ///
    /// When it failed; then any of them may be there or not.
    pub(super) async fn put_back(
        &self,
        weaviate: &Weaviate,
        server: &Server,
        only: &BTreeSet<String>,
        meter: &Meter,
    ) -> Result<(), ComponentError> {
        if only.is_empty() {
            return Ok(());
        }
        match &self.place {
            Place::Server(files) => {
                files.forget_restore(&self.index.id).await?;
                let classes = only.iter().collect();
                let backend = self.index.way.as_str();
                let job = Job { server, backend, classes, timeout: weaviate.config.timeout };
                job.restore(&self.index.id).await?;
            }
            Place::Scratch(_) | Place::File(_) => {
                let mut classes = self.index.classes.clone();
                classes.retain(|name, _| only.contains(name));
                import::make_classes(server, &classes).await?;
                import::put_objects(server, &self.index, only, self.open().await?, meter).await?;
                import::put_references(server, &self.index, only, self.open().await?).await?;
            }
        }
        for name in only {
            prove(server, name, &self.index.classes[name]).await?;
        }
        Ok(())
    }
}

/// Looks whether a class is what it should be: a server says SUCCESS also of an empty one.
async fn prove(server: &Server, name: &str, promised: &Class) -> Result<(), ComponentError> {
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
        tracing::warn!(class = name, "the definition of a class is not in every detail what it was");
    }
    let begun = Instant::now();
    loop {
        let (count, _) = server.count(name, promised).await.map_err(|fault| fault.of(what()))?;
        let (before, after) = (promised.objects.before, promised.objects.after);
        if promised.objects.holds(count) {
            return Ok(());
        }
        if begun.elapsed() > server.client.seconds(PATIENCE) {
            let wanted = if before == after { before.to_string() } else { format!("{before} to {after}") };
            return Err(failed(format!("{count} objects are there and should be {wanted}")));
        }
        server.client.wait(1).await;
    }
}

impl Weaviate {
    /// Replaces what is there of `classes` by `bring`, and keeps what was there for an undo.
    ///
    /// # Errors
    ///
    /// Then what was there is there again, unless the text says otherwise; the next run tries that again.
    pub(super) async fn replace(
        &self,
        server: &Server,
        journal: &mut Journal,
        source: &Source,
        (classes, bring): (&BTreeSet<String>, &BTreeSet<String>),
        meter: &Meter,
    ) -> Result<Option<Kept>, ComponentError> {
        let live = server.classes(Some(classes)).await?;
        all_can_be_kept(&live)?;
        let going: Vec<_> = live.keys().cloned().collect();
        let safety =
            if live.is_empty() { None } else { Some(self.set_aside(server, live, journal, meter).await?) };
        journal.note(|notes| {
            notes.loose.retain(|loose| safety.as_ref().is_none_or(|safety| safety.id != loose.id));
            notes.replacing = Some(Replacing {
                classes: classes.clone(),
                safety: safety.clone(),
                began: Some(Timestamp::now()),
            });
        })?;
        meter.begin("replace classes", 0);
        let replaced = async {
            remove_classes(server, &going).await?;
            source.put_back(self, server, bring, meter).await
        };
        if let Err(err) = replaced.await {
            return Err(self.roll_back(server, journal, err).await);
        }
        let before = journal.notes.kept.clone();
        let kept = safety.map(|snapshot| Kept { snapshot, classes: classes.clone() });
        journal.note(|notes| {
            notes.replacing = None;
            notes.kept.clone_from(&kept);
        })?;
        self.drop_replaced(server, journal, before).await;
        Ok(kept)
    }

    /// Copies classes, so that they can be put back.
    pub(super) async fn set_aside(
        &self,
        server: &Server,
        live: Classes,
        journal: &mut Journal,
        meter: &Meter,
    ) -> Result<Snapshot, ComponentError> {
        let (made, warning) = self.way(server)?;
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        let (index, id) = if made == Made::Export {
            let id = new_id();
            let mut sink = FileSink::begin(journal, &tar(&id))?;
            let (mut index, counts) = self.exported(server, live, &mut sink, meter).await?;
            sink.finish(journal).await?;
            for (name, class) in &mut index.classes {
                (class.objects.before, class.objects.after) = (counts[name], counts[name]);
            }
            (index, id)
        } else {
            let (index, tree) = self.native(server, made, live, journal, meter).await?;
            let (files, id) = (self.files(server, made)?, index.id.clone());
            if let Files::Folder(_) = files {
                files.prove(&id, &tree, &described(&tree, &id)?).await?;
                files.sync(&id).await?;
            }
            (index, id)
        };
        let text = serde_json::to_vec(&index).expect("names and numbers are JSON");
        journal.put(&json(&id), &text)?;
        Ok(Snapshot { made, id, at: Timestamp::now(), classes: index.classes.into_keys().collect() })
    }

    /// What a snapshot is put back from.
    pub(super) fn source_of(
        &self,
        server: &Server,
        journal: &Journal,
        snapshot: &Snapshot,
    ) -> Result<Source, ComponentError> {
        let file = journal.path(&json(&snapshot.id));
        let text = fs::read(&file)
            .map_err(|source| ComponentError::Read { what: format!("read {}", file.display()), source })?;
        let index = Index::parse(&text)?;
        let place = match snapshot.made {
            Made::Export => Place::File(journal.path(&tar(&snapshot.id))),
            made => Place::Server(self.files(server, made)?),
        };
        Ok(Source { index, place })
    }

    /// Removes what was kept before something else is.
    pub(super) async fn drop_replaced(&self, server: &Server, journal: &Journal, before: Option<Kept>) {
        if let Some(before) = before
            && let Err(err) = self.drop_snapshot(server, journal, &before.snapshot).await
        {
            tracing::warn!(error = %chain(&err), "what an earlier restore had set aside is left");
        }
    }

    /// Removes a snapshot.
    pub(super) async fn drop_snapshot(
        &self,
        server: &Server,
        journal: &Journal,
        snapshot: &Snapshot,
    ) -> Result<(), ComponentError> {
        match snapshot.made {
            Made::Export => journal.remove(&tar(&snapshot.id))?,
            made => self.files(server, made)?.remove(&snapshot.id).await?,
        }
        journal.remove(&json(&snapshot.id))
    }
}

/// Deletes classes, and waits until they are gone.
pub(super) async fn remove_classes(server: &Server, classes: &[String]) -> Result<(), ComponentError> {
    /// Seconds.
    const PATIENCE: u32 = 120;
    for class in classes {
        let deleted = server.delete_class(class).await;
        deleted.map_err(|fault| fault.of(format!("delete class {class}")))?;
    }
    let begun = Instant::now();
    loop {
        let there = server.definitions().await.map_err(|fault| fault.of("read Weaviate's schema"))?;
        let Some(left) = classes.iter().find(|class| there.contains_key(*class)) else { return Ok(()) };
        if begun.elapsed() > server.client.seconds(PATIENCE) {
            let what = format!("delete class {left}: it is still there");
            return Err(ComponentError::Unavailable { what, source: None });
        }
        server.client.wait(1).await;
    }
}

/// Whether nothing is lost when these classes are replaced: of inactive tenants no copy can be made.
pub(super) fn all_can_be_kept(live: &Classes) -> Result<(), ComponentError> {
    for (name, class) in live {
        let inactive: Vec<_> = class.inactive().collect();
        if !inactive.is_empty() {
            let what = format!(
                "replace class {name}: {} of its tenants are inactive, {} among them, so what they have could not \
                 be set aside and would be lost: activate them first",
                inactive.len(),
                inactive[0]
            );
            return Err(ComponentError::Unusable { what, source: None });
        }
    }
    Ok(())
}

/// What stands in the descriptors of a backup that is whole.
pub(super) fn described(tree: &Tree, id: &str) -> Result<Described, ComponentError> {
    tree.describe(id).map_err(|wrong| corrupt(wrong.join("; ")))
}

/// Where a snapshot is, for people.
pub(super) fn place_of(journal: &Journal, snapshot: &Snapshot) -> String {
    match snapshot.made {
        Made::Export => journal.path(&tar(&snapshot.id)).display().to_string(),
        made => format!("backup {} of Weaviate ({})", snapshot.id, made.as_str()),
    }
}

/// Classes for people.
pub(super) fn names(classes: &BTreeSet<String>) -> String {
    classes.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn json(id: &str) -> String {
    format!("{id}.json")
}

fn tar(id: &str) -> String {
    format!("{id}.tar")
}
