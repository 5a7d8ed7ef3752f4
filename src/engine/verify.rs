//! Verification: what lies in the destinations is read again, and compared with what is known of it.

use crate::base::chain;
use crate::catalog::{self, CatalogError, Damaged, Entry, UnreachableStore};
use crate::component::{Component, RestoreMode};
use crate::domain::component::ComponentName;
use crate::domain::labels::Operation;
use crate::domain::manifest::{Manifest, VerifyLevel};
use crate::domain::report::{SkippedBackup, Verification, VerifyReport};
use crate::engine::inspect::{inspect, nothing_yet};
use crate::engine::last::Drill;
use crate::engine::restore::{discard_cancelled_copy, recover};
use crate::engine::watched::abortable;
use crate::engine::{ComponentLock, Engine, EngineError, Run};
use std::collections::{BTreeSet, VecDeque};

/// An order to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyRequest {
    /// The component, or all that are configured.
    pub component: Option<ComponentName>,
    /// The backups: whatever names one, `latest`, or `all`.
    pub backup: String,
    /// The level. A [`Drill`](VerifyLevel::Drill) restores one whole copy of each backup; of the other copies the hash
    /// is enough, which proves that they are the same.
    pub level: VerifyLevel,
}

/// The backups that an order means.
#[derive(Default)]
struct SelectedBackups {
    /// The newest first.
    entries: Vec<Entry>,
    /// The backups that `latest` does not mean.
    passed_over: Vec<SkippedBackup>,
    /// The findings, known already, about backups whose manifest cannot be read.
    damaged: Vec<Verification>,
    /// A destination that cannot be read.
    unreachable: Option<UnreachableStore>,
}

/// The word for every backup.
const EVERY: &str = "all";
/// The word for the newest one.
const LATEST: &str = "latest";

impl Engine {
    /// The components that the order is about, each to be verified by itself.
    ///
    /// # Errors
    ///
    /// When the order names one backup and there is none of that name.
    pub async fn to_verify(&self, request: &VerifyRequest) -> Result<Vec<ComponentName>, EngineError> {
        match request.component {
            Some(component) => Ok(vec![component]),
            None if [EVERY, LATEST].contains(&request.backup.as_str()) => {
                Ok(self.components.iter().map(Component::name).collect())
            }
            None => Ok(vec![self.catalog.find(None, &request.backup).await?.component()]),
        }
    }

    /// Verifies backups of one component, in every destination, and notes in their manifests what was
    /// found. Nobody writes or deletes backups of the component meanwhile.
    ///
    /// A backup that is not whole is a result and no error. What it builds on is then looked at as well, and is
    /// among the results, the newest first.
    ///
    /// # Errors
    ///
    /// When a backup could not be looked at: not found, busy, a store that does not answer. Then its manifest is
    /// unchanged; the findings about others by then are noted.
    pub async fn verify(
        &self,
        component: ComponentName,
        request: &VerifyRequest,
        run: &Run,
    ) -> Result<Vec<Verification>, EngineError> {
        let drill = request.level == VerifyLevel::Drill;
        let operation = if drill { Operation::Drill } else { Operation::Verify };
        let work = async {
            let reader = self.component(component)?;
            let verify = async |held: &mut ComponentLock| {
                // Archives can be read while their source is down; a drill needs it.
                if drill {
                    recover(reader).await?;
                }
                let outcome = abortable(run, Some(held), self.verify_held(reader, request, run, held)).await;
                if drill && matches!(outcome, Err(EngineError::Cancelled)) {
                    discard_cancelled_copy(reader).await;
                }
                outcome
            };
            let results = self.locked(component, run, verify).await?;
            Ok(VerifyReport { results })
        };
        let report = self.recorded(operation, component, run, VerifyReport::damage, Box::pin(work)).await?;
        Ok(report.results)
    }

    async fn verify_held(
        &self,
        reader: &Component,
        request: &VerifyRequest,
        run: &Run,
        held: &ComponentLock,
    ) -> Result<Vec<Verification>, EngineError> {
        let selected = self.select(reader.name(), request).await?;
        let SelectedBackups { entries, mut passed_over, damaged: mut results, unreachable } = selected;
        let mut met: BTreeSet<_> = entries.iter().map(|entry| entry.backup_id.clone()).collect();
        // The oldest first: what others build on may have been mended.
        let mut entries: VecDeque<_> =
            entries.into_iter().rev().map(|entry| (entry, request.level)).collect();
        while let Some((entry, level)) = entries.pop_front() {
            let (mut found, unread) = inspect(self, reader, &entry, level, run).await?;
            found.warnings.extend(run.meter.take_warnings());
            found.warnings.extend(passed_over.drain(..).map(|passed_over| passed_over.to_string()));
            if found.level == VerifyLevel::Drill {
                let skipped =
                    reader.restorable.as_ref().map(|restorable| restorable.skipped_steps(RestoreMode::Drill));
                found.not_tried = skipped.into_iter().flatten().map(str::to_owned).collect();
            }
            let is_damaged = !found.problems.is_empty();
            if found.ok {
                tracing::info!(backup_id = %entry.backup_id, level = level.as_str(), "backup is whole");
            } else if is_damaged {
                let problems = found.problems.join("; ");
                tracing::warn!(backup_id = %entry.backup_id, problems, "backup is not whole");
                // The damage may lie in a base of this backup, on which others build too, and the next backup would.
                for base in entry.builds_on().iter().filter(|base| met.insert((*base).clone())) {
                    let base = self.catalog.find(Some(reader.name()), base.as_str()).await;
                    entries.extend(base.ok().map(|base| (base, level.min(VerifyLevel::Decode))));
                }
            }
            if let Some(manifest) =
                entry.manifest().filter(|_| unread.is_none() || !found.destinations.is_empty())
            {
                let unreachable = unread.as_ref().map(|(destination, _)| destination.as_str());
                self.note(manifest, &found, unreachable, held).await?;
            }
            // A copy that cannot be read need not be damaged, and does not keep others from being looked at.
            match unread {
                Some((_, err)) if request.backup != EVERY && !is_damaged => return Err(err),
                Some((destination, err)) => {
                    found.problems.push(format!("{destination}: it cannot be read: {}", chain(&err)));
                }
                None => {}
            }
            results.push(found);
        }
        // Backups in that destination alone were not looked at, so the report must not say that all are whole.
        if let Some(unreachable) = unreachable.filter(|_| results.iter().all(|found| found.ok)) {
            return Err(unreachable.into_error().into());
        }
        results.sort_by(|one, other| other.backup_id.cmp(&one.backup_id));
        if request.level == VerifyLevel::Drill {
            self.note_drill(reader.name(), &results).await;
        }
        Ok(results)
    }

    /// Counts and remembers the findings of a drill.
    async fn note_drill(&self, component: ComponentName, results: &[Verification]) {
        let mismatches = results.iter().map(|found| found.problems.len() as u64).sum();
        self.observer.drilled(component, mismatches);
        let has_stood = |found: &Verification| found.ok && found.level == VerifyLevel::Drill;
        let now = self.clock.now();
        let proven = results.iter().any(has_stood).then_some(now);
        self.remember(component, |last| {
            let before = last.drill.and_then(|drill| drill.proven);
            last.drill = Some(Drill { at: now, mismatches, proven: proven.or(before) });
        })
        .await;
    }

    /// The backups that are meant. The latest is the newest there is, in whatever state: to prove an older one in
    /// its place would hide what is wrong.
    async fn select(
        &self,
        component: ComponentName,
        request: &VerifyRequest,
    ) -> Result<SelectedBackups, EngineError> {
        let backup = request.backup.as_str();
        // The name of a component is another word for its latest backup.
        let is_latest = backup == LATEST || backup == component.as_str();
        if backup != EVERY && !is_latest {
            let entries = vec![self.catalog.find(Some(component), backup).await?];
            return Ok(SelectedBackups { entries, ..SelectedBackups::default() });
        }
        let found = self.catalog.list(Some(component)).await?;
        let (mut entries, mut damaged, mut passed_over) = (found.entries, found.damaged, Vec::new());
        let mut unreachable = found.unreachable.into_iter().next();
        if let Some(unreachable) = unreachable.take_if(|_| is_latest || entries.is_empty()) {
            // The newest may lie there alone.
            return Err(unreachable.into_error().into());
        }
        if is_latest {
            passed_over = catalog::newest(&mut entries, self.clock.now());
            // Ids of one component sort as their times do.
            let newest = entries.first().map(|entry| &entry.backup_id);
            damaged.retain(|damaged| newest.is_none_or(|newest| damaged.backup_id > *newest));
        }
        if entries.is_empty() && damaged.is_empty() {
            return Err(CatalogError::NotFound {
                what: format!("{backup} of {component}"),
                why: "no such backup".to_owned(),
            }
            .into());
        }
        let lost = |damaged: &Damaged| Verification {
            problems: vec![format!("its manifest cannot be read: {}", chain(damaged))],
            ..nothing_yet(damaged.backup_id.clone(), request.level)
        };
        Ok(SelectedBackups { entries, passed_over, damaged: damaged.iter().map(lost).collect(), unreachable })
    }

    /// Notes the findings in the manifest.
    async fn note(
        &self,
        manifest: &Manifest,
        found: &Verification,
        unreachable: Option<&str>,
        held: &ComponentLock,
    ) -> Result<(), EngineError> {
        let (component, now) = (found.component, self.clock.now());
        let mut noted = manifest.clone();
        // A backup that failed a drill has proven its hashes on the way there.
        let failed_drill = !found.problems.is_empty() && found.level == VerifyLevel::Drill;
        let proven = if failed_drill { VerifyLevel::Checksum } else { found.level };
        noted.note(proven, now, &found.destinations);
        if found.ok {
            self.observer.proven(component, found.level, now.as_second());
        }
        // The findings of hours of reading must survive a broker that is away at this moment.
        held.confirmed(&*self.clock).await?;
        match self.rewrite(&noted, unreachable, held).await {
            // A machine on which that destination is configured can note the findings.
            Err(err @ EngineError::Catalog(CatalogError::UnknownDestination { .. })) => {
                tracing::warn!(error = chain(&err), "what was found cannot be noted");
                Ok(())
            }
            written => written,
        }
    }
}
