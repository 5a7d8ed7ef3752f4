//! Drill: a backup is restored for real beside the live data, compared with its archive, and thrown away.

use crate::base::chain;
use crate::catalog::{Entry, StoredCopy};
use crate::component::{Component, ComponentError, Staged, Target};
use crate::domain::facts::Facts;
use crate::engine::archive::Archive;
use crate::engine::restore::{discard, plan, stage};
use crate::engine::{Engine, EngineError, Run};

impl Engine {
    /// Restores one copy of a backup into scratch, and tells where it differs from its manifest and its
    /// archive; nothing when it does not.
    ///
    /// # Errors
    ///
    /// When the drill could not be tried: no room, no right to, no server. Then nothing is known of the backup.
    pub(super) async fn drill(
        &self,
        component: &Component,
        entry: &Entry,
        copy: &StoredCopy,
        run: &Run,
    ) -> Result<Vec<String>, EngineError> {
        let mut archive = self.archive_of(entry.clone(), copy.clone()).await?;
        self.find_bases(&mut archive).await?;
        plan(component, &Target::Scratch, &archive).await?;
        let staged = match stage(component, &Target::Scratch, &[], &archive, run).await {
            Err(EngineError::Damaged { problems }) => return Ok(problems),
            staged => staged?,
        };
        let found = compare(component, &archive, staged.as_ref(), run).await;
        discard(staged).await;
        found
    }
}

/// Compares a copy with the counts of the backup's manifest, and with the contents of the archive.
async fn compare(
    component: &Component,
    archive: &Archive,
    staged: &dyn Staged,
    run: &Run,
) -> Result<Vec<String>, EngineError> {
    let promised = archive.facts().map(|facts| &facts.counts);
    let mut problems =
        promised.map_or(Vec::new(), |counts| staged.expected(counts).differences(staged.counts()));
    run.meter.begin("compare", archive.facts().map_or(0, Facts::stored_bytes));
    let mut opened = archive.opened(archive.reader().await?).await?;
    let mut feed = opened.feed(component).await?;
    match staged.differences(&mut feed, &run.meter).await {
        Ok(differences) => problems.extend(differences),
        Err(damage @ ComponentError::Corrupt { .. }) => problems.push(chain(&damage)),
        Err(source) => return Err(EngineError::Component { component: component.name(), source }),
    }
    Ok(problems)
}
