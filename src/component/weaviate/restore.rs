//! A backup beside the live classes, and what becomes of it.

use crate::base::chain;
use crate::component::media::{Media, MediaConfig};
use crate::component::scratch::{Scratch, free_bytes};
use crate::component::stage::{Kept, Plan, Staged, Target};
use crate::component::weaviate::class::{self, Classes};
use crate::component::weaviate::count::Bracket;
use crate::component::weaviate::decode::{decode, decode_only};
use crate::component::weaviate::export::not_kept;
use crate::component::weaviate::files::Files;
use crate::component::weaviate::folder::{Freed, is_closed};
use crate::component::weaviate::index::{Index, Made, corrupt};
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::notes::Loose;
use crate::component::weaviate::replace::{all_can_be_kept, names, remove_classes};
use crate::component::weaviate::server::Server;
use crate::component::weaviate::source::{Place, Source, prove};
use crate::component::weaviate::version::Version;
use crate::component::weaviate::{Weaviate, kept_as, still_due};
use crate::component::{Component, ComponentError, Feed};
use crate::domain::{
    facts::{Counts, Facts},
    progress::Meter,
};
use async_trait::async_trait;
use std::collections::BTreeSet;
use uuid::Uuid;

impl Weaviate {
    /// What a restore would do.
    pub(super) async fn planned(
        &self,
        target: &Target,
        facts: Option<&Facts>,
    ) -> Result<Plan, ComponentError> {
        let server = self.target_server(target).await?;
        if facts.is_some_and(|facts| facts.backend.as_deref() == Some(Made::Filesystem.as_str()))
            && let Files::Folder(folder) = self.files(&server, Made::Filesystem)?
        {
            folder.probe().await?;
        }
        let version = facts.and_then(|facts| facts.versions.get("weaviate"));
        if let Some(made_by) = version {
            fits(&server, made_by)?;
        }
        let counts = facts.map(|facts| &facts.counts.classes);
        let all: Option<BTreeSet<String>> = counts.map(|counts| counts.keys().cloned().collect());
        let wanted = all.as_ref().map(|all| chosen(target, all)).transpose()?;
        server.no_alias_bears(wanted.iter().flatten()).await?;
        let live = server.classes(None).await?;
        let going: Vec<_> = match &wanted {
            Some(wanted) => live.iter().filter(|(name, _)| wanted.contains(*name)).collect(),
            None => live.iter().collect(),
        };
        let described: Vec<_> =
            going.iter().map(|(name, class)| format!("{name} ({} objects)", class.objects.after)).collect();
        let room = self.config.dir.as_deref().or(self.config.state.parent());
        let due = still_due(&Journal::open(&self.config.state)?.notes).filter(|_| *target != Target::Scratch);
        let mut plan = Plan {
            replaces: match target {
                Target::Scratch => format!("nothing: classes on {}, deleted again", server.client.place()),
                _ if described.is_empty() => "nothing: none of its classes is there".to_owned(),
                _ => format!("classes {}", described.join(", ")),
            },
            method: "a safety backup of those classes; then class by class: delete, restore, count; a class that fails \
                     is put back from the safety backup"
                .to_owned(),
            needs_bytes: facts.map(|facts| needed(facts, &going)),
            free_bytes: room.and_then(free_bytes),
            downtime: match target {
                Target::Scratch => "none",
                _ => "each class is missing while it is restored",
            }
            .to_owned(),
            versions: vec![format!("weaviate {}", server.version)],
            warnings: due.into_iter().chain(facts.and_then(not_kept)).collect(),
        };
        if let Some(made_by) = version {
            plan.versions.push(format!("backup made by weaviate {made_by}"));
        }
        if let (Target::Live, Some(wanted)) = (target, &wanted) {
            let stay: BTreeSet<_> = live.keys().filter(|name| !wanted.contains(*name)).cloned().collect();
            if !stay.is_empty() {
                let stay = names(&stay);
                plan.warnings
                    .push(format!("Classes that the backup does not have stay as they are: {stay}."));
            }
            plan.warnings.push(
                "Stop what writes to Weaviate first: what is written meanwhile is lost or mixed in."
                    .to_owned(),
            );
        }
        Ok(plan)
    }

    /// The server that a restore goes to.
    async fn target_server(&self, target: &Target) -> Result<Server, ComponentError> {
        match target {
            Target::Live | Target::Classes(_) => self.meet().await,
            Target::Scratch => self.meet_drill().await,
            Target::Database(_) | Target::Folder(_) => Err(ComponentError::Unusable {
                what: "restore weaviate: it goes into its own server, name classes by --include for a part of it"
                    .to_owned(),
                source: None,
            }),
        }
    }

    /// Makes a copy that can take the place of the live classes.
    pub(super) async fn staged(
        &self,
        feed: Feed<'_>,
        target: &Target,
        meter: &Meter,
    ) -> Result<Copy, ComponentError> {
        let index = Index::take(feed).await?;
        let server = self.target_server(target).await?;
        fits(&server, &index.server_version)?;
        let all = index.classes.keys().cloned().collect();
        let bring = chosen(target, &all)?;
        self.can_be_made(&server, &index, &bring).await?;
        let live = server.classes(Some(&bring)).await?;
        if *target == Target::Scratch {
            if let Some(name) = live.keys().next() {
                let what = format!(
                    "drill on {}: it has a class {name} already: BACKUP_WEAVIATE_DRILL_URL must be a server with \
                     nothing on it that anybody needs",
                    server.client.place()
                );
                return Err(ComponentError::Unusable { what, source: None });
            }
        } else {
            all_can_be_kept(&server, &live, index.way)?;
        }
        let mut journal = Journal::open(&self.config.state)?;
        let (source, counts) = self.unpack(&server, (index, &bring), feed, &mut journal, meter).await?;
        let (weaviate, meter) = (self.clone(), meter.clone());
        let mut copy = Copy { weaviate, server, source, bring, counts, drill: false, meter };
        if *target == Target::Scratch {
            copy.drill = true;
            copy.try_out(&mut journal).await?;
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
        match index.way {
            Made::Export => {
                journal.note(|_| {})?; // makes the folder
                let scratch = Scratch::spool(&self.config.state, feed, meter).await?;
                let archive = &mut scratch.reader().await?;
                let counts = decode_only(&index, Some(bring), archive, &Meter::default()).await?;
                for (name, class) in &mut index.classes {
                    let count = counts.classes.get(name).copied().unwrap_or_default();
                    class.objects = Bracket::captured(count);
                }
                Ok((Source { index, place: Place::Scratch(scratch) }, counts))
            }
            Made::S3 => {
                let counts = decode(&index, feed, meter).await?;
                let files = self.files(server, Made::S3)?;
                files.compare(&index).await?;
                Ok((Source { index, place: Place::Server(files) }, counts))
            }
            Made::Filesystem => {
                let files = self.files(server, Made::Filesystem)?;
                if !index.classes.is_empty() {
                    self.unpack_tree(&files, &index, feed, journal, meter).await?;
                }
                let classes =
                    index.classes.iter().map(|(name, class)| (name.clone(), class.objects.number()));
                let counts = Counts { classes: classes.collect(), ..Counts::default() };
                Ok((Source { index, place: Place::Server(files) }, counts))
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
        journal.note(|notes| {
            for id in [id, &aside] {
                let loose = Loose { made: Made::Filesystem, id: id.clone() };
                if !notes.loose.contains(&loose) {
                    notes.loose.push(loose);
                }
            }
        })?;
        let freed = folder.free(id, &aside).await?;
        let place = if freed == Freed::Taken { &aside } else { id };
        let media = Media::new(MediaConfig::full(folder.of(place)));
        media.stage(feed, &Target::Folder(folder.of(place)), None, meter).await?.swap().await?;
        folder.share(place).await?;
        let tree = files.tree(place).await?;
        let described = tree.describe(id).map_err(|wrong| corrupt(wrong.join("; ")))?;
        if described.classes.iter().ne(index.classes.keys()) {
            return Err(corrupt("its classes are not those of its index"));
        }
        match freed {
            Freed::Renamed => return Ok(()),
            Freed::Free => {}
            Freed::Taken => {
                let is_same = files.is_same(id, &aside, &tree, &described).await;
                files.remove(&aside).await?;
                if !is_same {
                    return Err(folder.taken(id));
                }
            }
        }
        journal.note(|notes| notes.loose.retain(|loose| loose.id != aside))
    }

    /// Whether the server can make these classes at all: found out before anything is touched.
    async fn can_be_made(
        &self,
        server: &Server,
        index: &Index,
        bring: &BTreeSet<String>,
    ) -> Result<(), ComponentError> {
        let unusable = |what: String| Err(ComponentError::Unusable { what, source: None });
        if index.way != Made::Export {
            if let Files::Folder(folder) = self.files(server, index.way)? {
                folder.probe().await?;
            }
            let nodes = server.nodes().await.map_err(|fault| fault.of("ask for the names of the nodes"))?;
            let is_mapped = index.nodes.len() == 1 && nodes.len() == 1 && server.version.maps_nodes();
            let mut strange = index.nodes.iter().filter(|node| !nodes.contains(node) && !is_mapped);
            if let (Some(node), false) = (strange.next(), nodes.is_empty()) {
                return unusable(format!(
                    "restore weaviate: the backup is of node {node}, and the server's is {}: set CLUSTER_HOSTNAME of \
                     Weaviate to {node}",
                    nodes.join(", ")
                ));
            }
        }
        let mut brought = index.classes.clone();
        brought.retain(|name, _| bring.contains(name));
        let there = server.definitions().await.map_err(|fault| fault.of("read Weaviate's schema"))?;
        if let Some(dangling) = class::dangling(&brought, &there.into_keys().collect()).first() {
            return unusable(format!("restore weaviate: {dangling}: restore that class too, or make it"));
        }
        server.no_alias_bears(bring.iter()).await?;
        for (name, class) in &brought {
            let missing = class::modules(&class.definition);
            if let Some(module) = missing.iter().find(|module| !server.modules.contains_key(*module)) {
                return unusable(format!(
                    "restore class {name}: it needs the module {module}: add that to ENABLE_MODULES of Weaviate"
                ));
            }
        }
        Ok(())
    }
}

/// The bytes that a restore needs: the backup unpacked, and a copy of what is there, which takes about as much for
/// each object.
fn needed(facts: &Facts, going: &[(&String, &class::Class)]) -> u64 {
    let unpacked = facts.source_bytes;
    let there: u64 = going.iter().map(|(_, class)| class.objects.number()).sum();
    let brought: u64 = facts.counts.classes.values().sum();
    let copied = u128::from(unpacked) * u128::from(there) / u128::from(brought.max(1));
    unpacked.saturating_add(u64::try_from(copied).unwrap_or(u64::MAX))
}

/// Whether a server restores what that version has made.
fn fits(server: &Server, made_by: &str) -> Result<(), ComponentError> {
    let made_by: Version = made_by.parse().map_err(corrupt)?;
    server
        .version
        .restores(made_by)
        .map_err(|why| ComponentError::Unusable { what: format!("restore weaviate: {why}"), source: None })
}

/// The classes that are meant.
fn chosen(target: &Target, all: &BTreeSet<String>) -> Result<BTreeSet<String>, ComponentError> {
    let Target::Classes(wanted) = target else { return Ok(all.clone()) };
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
    /// Of the run: the longest part is still to come.
    meter: Meter,
}

impl Copy {
    /// Restores it for real, where nobody needs anything.
    async fn try_out(&mut self, journal: &mut Journal) -> Result<(), ComponentError> {
        journal.note(|notes| notes.drill.clone_from(&self.bring))?;
        let restored = async {
            self.source.bring(&self.weaviate, &self.server, &self.bring, &self.meter).await?;
            for class in &self.bring {
                prove(&self.server, class, &self.source.promised(class)).await?;
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
            journal.note(|notes| notes.drill.clear())?;
        }
        if let (Made::Filesystem, Place::Server(files)) = (self.source.index.way, &self.source.place) {
            let id = &self.source.index.id;
            match files.remove(id).await {
                Ok(()) => journal.note(|notes| notes.loose.retain(|loose| loose.id != *id))?,
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

    async fn swap(self: Box<Self>) -> Result<Option<Kept>, ComponentError> {
        let Self { weaviate, server, source, bring, meter, .. } = &*self;
        if self.drill {
            let what = "a copy for a drill cannot take the place of the classes".to_owned();
            return Err(ComponentError::Unusable { what, source: None });
        }
        let mut journal = Journal::open(&weaviate.config.state)?;
        let bring = bring.iter().map(|class| (class.clone(), Some(source))).collect();
        let replaced = weaviate.replace(server, &mut journal, &bring, meter).await;
        if let Err(err) = self.clean(&mut journal).await {
            tracing::warn!(error = %chain(&err), "the files of the restored backup are left until the next start");
        }
        let kept = replaced?;
        let kept = kept.map(|kept| kept_as(&journal, &kept));
        Ok(kept)
    }

    async fn discard(self: Box<Self>) -> Result<(), ComponentError> {
        let mut journal = Journal::open(&self.weaviate.config.state)?;
        self.clean(&mut journal).await
    }
}

/// Objects by class, for manifests.
pub(super) fn counted(classes: &Classes) -> Counts {
    let classes = classes.iter().map(|(name, class)| (name.clone(), class.objects.number())).collect();
    Counts { classes, ..Counts::default() }
}
