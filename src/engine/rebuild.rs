//! The catalogue made anew from the destinations alone: manifests brought to where they are missing, and
//! made from the archives that have none.

use crate::base::chain;
use crate::catalog::{DestinationSummary, Entry, Origin, StoredCopy, manifest_key};
use crate::component::Component;
use crate::domain::component::ComponentName;
use crate::domain::facts::Facts;
use crate::domain::id::BackupId;
use crate::domain::listing::BackupState;
use crate::domain::manifest::{Manifest, StoredObject, Verified, VerifyLevel};
use crate::domain::progress::Meter;
use crate::domain::rebuild::{CopyProblem, FoundCopies, RebuildReport, WrittenManifest};
use crate::engine::archive::{rest_of, unusable};
use crate::engine::uploads::{ArchiveHashes, read_all};
use crate::engine::watched::abortable;
use crate::engine::{ComponentLock, Engine, EngineError, Run};
use crate::stream::pack::Compression;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The label of a manifest that was made from an archive.
const LABEL: &str = "rebuilt from its archive";

impl Engine {
    /// Makes the catalogue of one component anew, and adds to `report` what was found and done. Nobody writes
    /// or deletes backups of the component meanwhile. With `dry_run` nothing is written.
    ///
    /// A manifest that one destination has is written into every other that holds the same archive and has
    /// none, an older or an unreadable one. An archive of ours without any manifest is read to its end, and
    /// gets one when it is whole. Nothing is deleted.
    ///
    /// # Errors
    ///
    /// When a destination cannot be read or written, or the component is busy. What was written by then is
    /// right, and another attempt goes on from there.
    pub async fn rebuild(
        &self,
        component: ComponentName,
        dry_run: bool,
        run: &Run,
        report: &mut RebuildReport,
    ) -> Result<(), EngineError> {
        report.dry_run = dry_run;
        if dry_run {
            let plan = Box::pin(self.rebuild_held(component, None, run, report));
            return abortable(run, None, plan).await;
        }
        let rebuild = async |held: &mut ComponentLock| {
            let work = Box::pin(self.rebuild_held(component, Some(held), run, report));
            abortable(run, Some(held), work).await
        };
        self.locked(component, run, rebuild).await
    }

    /// Without the lock there is only a plan.
    async fn rebuild_held(
        &self,
        component: ComponentName,
        held: Option<&ComponentLock>,
        run: &Run,
        report: &mut RebuildReport,
    ) -> Result<(), EngineError> {
        self.level(&self.catalog.survey(component).await?, held, run, report).await?;
        let mut orphans = BTreeMap::<_, Vec<_>>::new();
        for copy in self.catalog.list(Some(component)).await?.orphans {
            let name = copy.key.file_name().split('.').next().unwrap_or_default();
            if let Ok(id) = name.parse::<BackupId>() {
                orphans.entry(id).or_default().push(copy);
            }
        }
        for (id, copies) in orphans {
            if let Some(manifest) = self.remake(&id, copies, run, report).await? {
                if let Some(held) = held {
                    held.confirm().await?;
                    self.catalog.write(&manifest).await?;
                }
                tracing::info!(backup_id = %id, "made a manifest from an archive");
                report.made.push(id);
            }
        }
        self.count(component, report).await
    }

    /// Writes manifests into the destinations that lack them.
    async fn level(
        &self,
        surveys: &[DestinationSummary],
        held: Option<&ComponentLock>,
        run: &Run,
        report: &mut RebuildReport,
    ) -> Result<(), EngineError> {
        let ids: BTreeSet<_> = surveys.iter().flat_map(|survey| survey.manifests.keys()).collect();
        for id in &ids {
            if surveys.iter().any(|survey| survey.newer.contains(*id)) {
                let location = manifest_key(id).to_string();
                let why = "it has a manifest of a newer rna-backup: use that one".to_owned();
                report.skipped.push(CopyProblem { backup_id: (*id).clone(), location, why });
                continue;
            }
            // Of equal manifests the last one is taken, which is the nearest.
            let known = surveys.iter().rev().filter_map(|survey| survey.manifests.get(*id));
            let best = known.max_by_key(|manifest| manifest.last_word()).expect("somebody has it");
            let mut manifest = best.as_ref().clone();
            for survey in surveys {
                look_for(survey, &mut manifest, run, report).await?;
            }
            for survey in surveys {
                let there = survey.manifests.get(*id).map(AsRef::as_ref);
                if there == Some(&manifest) || (there.is_none() && !survey.holds(&manifest)) {
                    continue;
                }
                if let Some(held) = held {
                    held.confirm().await?;
                    self.catalog.write_into(survey.store.as_ref(), &manifest).await?;
                }
                let destination = survey.store.destination().to_owned();
                report.written.push(WrittenManifest { backup_id: (*id).clone(), destination });
            }
        }
        for damaged in surveys.iter().flat_map(|survey| &survey.damaged) {
            if !ids.contains(&damaged.backup_id) {
                let (backup_id, location) = (damaged.backup_id.clone(), damaged.location.clone());
                let why = format!("{}; move it away, and its archive gets a new one", chain(damaged));
                report.damaged.push(CopyProblem { backup_id, location, why });
            }
        }
        Ok(())
    }

    /// The manifest of an archive that has none, from those of its copies that are whole.
    async fn remake(
        &self,
        id: &BackupId,
        copies: Vec<StoredCopy>,
        run: &Run,
        report: &mut RebuildReport,
    ) -> Result<Option<Manifest>, EngineError> {
        let component = id.component();
        let mut made: Option<Manifest> = None;
        for copy in copies {
            let problem_of =
                |why: String| CopyProblem { backup_id: id.clone(), location: copy.location.clone(), why };
            let read = match (self.component(component), &mut made) {
                (Err(err), _) => Err(err),
                (Ok(reader), None) => self.describe_orphan(reader, id, &copy, run).await.map(|found| {
                    made = Some(found);
                }),
                (Ok(_), Some(made)) => self.add_orphan(made, &copy, run).await,
            };
            match read {
                Ok(()) => {}
                Err(EngineError::Damaged { problems }) => {
                    report.damaged.push(problem_of(problems.join("; ")));
                }
                Err(err) => report.skipped.push(problem_of(chain(&err))),
            }
        }
        Ok(made)
    }

    /// Reads a copy to its end, and writes its manifest by what was read.
    async fn describe_orphan(
        &self,
        reader: &Component,
        id: &BackupId,
        copy: &StoredCopy,
        run: &Run,
    ) -> Result<Manifest, EngineError> {
        let mut manifest = self.draft(id, reader.source.address(), copy);
        let origin = Origin::Manifest(Arc::new(manifest.clone()));
        let (backup_id, created_at) = (id.clone(), id.created());
        let entry = Entry { backup_id, created_at, origin, copies: vec![copy.clone()] };
        let archive = self.archive_of(entry, copy.clone()).await?.recognized().await?;
        (manifest.encryption, manifest.compression) = archive.packing();
        run.meter.begin("read", copy.bytes);
        let mut stored = archive.metered_reader(&run.meter).await?;
        let unpacked = Meter::default();
        let mut feed = archive.unpacked(&mut stored).await?;
        let counts = reader.source.decode(&mut feed, &unpacked).await;
        let counts = counts.map_err(|source| unusable(reader.name(), source))?;
        rest_of(&mut feed).await?;
        drop(feed);
        read_all(&mut stored, &Meter::default()).await?;
        let (bytes, sha256) = stored.finish();
        let mut stored = archive.reader().await?;
        let said = reader.source.describe(&mut archive.unpacked(&mut stored).await?).await;
        let said = said.map_err(|source| unusable(reader.name(), source))?;
        let Facts { warnings, warning_count, .. } = manifest.facts;
        manifest.facts = Facts { warnings, warning_count, ..said };
        manifest.facts.source_bytes =
            counts.files.map_or_else(|| unpacked.snapshot(reader.name()).current, |files| files.bytes);
        manifest.facts.counts = counts;
        manifest.format = Manifest::format_of(&manifest.facts);
        manifest.objects.push(object(copy, bytes, sha256));
        Ok(manifest)
    }

    /// Adds another copy of an archive to its manifest, if the bytes are the same.
    async fn add_orphan(
        &self,
        manifest: &mut Manifest,
        copy: &StoredCopy,
        run: &Run,
    ) -> Result<(), EngineError> {
        let known = &manifest.objects[0];
        if known.destination == copy.destination || known.key != copy.key.to_string() {
            let what = format!("{} has the same id, and one archive is enough for a backup", known.key);
            return Err(EngineError::Unfit { what });
        }
        let unfit = || EngineError::Unfit { what: format!("{} is not configured", copy.destination) };
        let store = self.catalog.store(&copy.destination).ok_or_else(unfit)?;
        run.meter.begin("read", copy.bytes);
        let hashes = ArchiveHashes { bytes: known.bytes, sha256: &known.sha256, xxh3: None };
        if hashes.problem_of(store.open(&copy.key, None).await?, &run.meter).await?.is_some() {
            let problem = format!("it is not the same as the whole one in {}", known.destination);
            return Err(EngineError::Damaged { problems: vec![problem] });
        }
        let (bytes, sha256) = (known.bytes, known.sha256.clone());
        manifest.objects.push(object(copy, bytes, sha256));
        Ok(())
    }

    /// The manifest of an archive of which nothing but its name is known.
    fn draft(&self, backup_id: &BackupId, source: String, copy: &StoredCopy) -> Manifest {
        let now = self.clock.now();
        let mut facts = Facts::default();
        facts.warn(
            "the manifest was made from the archive: source, host, versions and what else the first one may \
             have said are not known"
                .to_owned(),
        );
        Manifest {
            format: Manifest::FORMAT,
            component: backup_id.component(),
            source,
            created_at: backup_id.created(),
            backup_id: backup_id.clone(),
            finished_at: now,
            set_id: None,
            label: Some(LABEL.to_owned()),
            pinned: false,
            task_id: None,
            host: self.host.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            // The bytes of the archive tell the compression, once they are read.
            compression: Compression::of_file(copy.key.file_name()).to_string(),
            encryption: None,
            objects: Vec::new(),
            verified: Verified { level: VerifyLevel::Decode, at: Some(now) },
            anomaly: None,
            facts,
        }
    }

    /// Counts the backups that the catalogue has now.
    async fn count(&self, component: ComponentName, report: &mut RebuildReport) -> Result<(), EngineError> {
        let entries = self.catalog.list(Some(component)).await?.entries;
        for store in self.catalog.stores() {
            let destination = store.destination().to_owned();
            let whole = |copy: &StoredCopy| copy.destination == destination && copy.state == BackupState::Ok;
            let backups = entries.iter().filter(|entry| entry.copies.iter().any(whole)).count();
            report.found.push(FoundCopies { component, destination, backups });
        }
        Ok(())
    }
}

impl DestinationSummary {
    /// True if an archive that the manifest names lies in this destination.
    fn holds(&self, manifest: &Manifest) -> bool {
        self.copy_of(manifest).is_some_and(|object| self.bytes_of(&object.key).is_some())
    }

    fn copy_of<'a>(&self, manifest: &'a Manifest) -> Option<&'a StoredObject> {
        manifest.objects.iter().find(|object| object.destination == self.store.destination())
    }

    fn bytes_of(&self, key: &str) -> Option<u64> {
        self.objects.get(&key.parse().ok()?).copied()
    }
}

/// Compares a manifest's entry for a destination with the objects there. A whole copy there that the manifest does not
/// know is added.
async fn look_for(
    survey: &DestinationSummary,
    manifest: &mut Manifest,
    run: &Run,
    report: &mut RebuildReport,
) -> Result<(), EngineError> {
    let store = &survey.store;
    let named = survey.copy_of(manifest).cloned();
    let is_named = named.is_some();
    let Some(object) = named.or_else(|| manifest.objects.first().cloned()) else { return Ok(()) };
    let Ok(key) = object.key.parse() else { return Ok(()) };
    let (backup_id, location) = (manifest.backup_id.clone(), store.location(&key));
    let problem_of = |why: String| CopyProblem { backup_id, location, why };
    let hashes = ArchiveHashes { bytes: object.bytes, sha256: &object.sha256, xxh3: None };
    match survey.objects.get(&key) {
        None if is_named => report.missing.push(problem_of("the archive is not there".to_owned())),
        None => {}
        Some(bytes) if *bytes != object.bytes => {
            let why = format!("it should have {} bytes, and has {bytes}", object.bytes);
            report.damaged.push(problem_of(why));
        }
        Some(_) if is_named && object.problems.is_empty() => {}
        Some(_) if is_named => report.damaged.push(problem_of(object.problems.join("; "))),
        Some(bytes) => {
            run.meter.begin("read", *bytes);
            match hashes.problem_of(store.open(&key, None).await?, &run.meter).await? {
                Some(problem) => report.damaged.push(problem_of(problem)),
                None => manifest.objects.push(StoredObject {
                    destination: store.destination().to_owned(),
                    problems: Vec::new(),
                    found: None,
                    ..object
                }),
            }
        }
    }
    Ok(())
}

fn object(copy: &StoredCopy, bytes: u64, sha256: String) -> StoredObject {
    let (destination, key) = (copy.destination.clone(), copy.key.to_string());
    StoredObject { destination, key, bytes, sha256, problems: Vec::new(), found: None }
}
