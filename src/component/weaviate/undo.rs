//! The undo of a restore: the classes as they were before.

use crate::component::weaviate::Weaviate;
use crate::component::weaviate::class;
use crate::component::weaviate::copies::kept_as;
use crate::component::weaviate::index::BackupBackend;
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::notes::Snapshot;
use crate::component::weaviate::replace::Purpose;
use crate::component::weaviate::source::Bring;
use crate::component::{ComponentError, UndoPoint};
use crate::domain::{progress::Meter, task_note::TaskNote};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

impl Weaviate {
    /// Brings back what the last restore replaced, and removes what it made anew.
    ///
    /// # Errors
    ///
    /// As [`replace`](Self::replace).
    pub(super) async fn undone(
        &self,
        note: Option<TaskNote>,
        meter: &Meter,
    ) -> Result<UndoPoint, ComponentError> {
        let mut journal = Journal::open(&self.config.state).await?;
        let Some(kept) = journal.notes.kept.clone() else {
            let elsewhere =
                self.kept_of_others().await?.map_or_else(String::new, |others| format!("; {others}"));
            let what = format!("undo the restore of weaviate: nothing is kept of before{elsewhere}");
            return Err(ComponentError::Unusable { what, source: None });
        };
        let server = self.connect().await?;
        self.name_later_restores(&server, &journal.notes, &kept, meter).await?;
        let mut sources = BTreeMap::new();
        for copy in kept.before.values().flatten() {
            if !sources.contains_key(&copy.id) {
                sources.insert(copy.id.clone(), self.source_of(&server, &journal, copy).await?);
            }
        }
        let source = |copy: &Option<Snapshot>| copy.as_ref().map(|copy| &sources[&copy.id]);
        let mut bring: Bring<'_> =
            kept.before.iter().map(|(class, copy)| (class.clone(), source(copy))).collect();
        for class in referred_to(&bring) {
            if bring.get(&class).is_some_and(Option::is_none) {
                bring.remove(&class);
                meter.warn(format!(
                    "Class {class}, which was not there before the restore, stays: classes that are brought back refer to it, \
                     and no server makes a class that refers to one that is not there."
                ));
            }
        }
        let replaced = self.replace(&server, &mut journal, &bring, Purpose::Undo, note, meter).await?;
        let none = || UndoPoint {
            place: "nothing: none of its classes was there".to_owned(),
            at: Timestamp::now(),
            task_notes: None,
        };
        Ok(replaced.map_or_else(none, |kept| kept_as(&journal, &kept)))
    }

    /// The copies that restores into other servers have set aside, and how to undo those restores; `None` where there are
    /// none. `WEAVIATE_URL` led to these servers before.
    pub(super) async fn kept_of_others(&self) -> Result<Option<String>, ComponentError> {
        let others = Journal::others(&self.config.state).await?;
        let others = others.into_iter().filter_map(|(address, journal)| {
            let kept = kept_as(&journal, journal.notes.kept.as_ref()?);
            Some(format!(
                "what a restore into Weaviate at {address} replaced is kept as {}: to undo that restore, set WEAVIATE_URL to \
                 {address} and run `undo weaviate` again",
                kept.place
            ))
        });
        let others: Vec<_> = others.collect();
        Ok((!others.is_empty()).then(|| others.join("; ")))
    }
}

/// The classes to which those refer that are brought from exports: a server restores its own backups without them.
fn referred_to(bring: &Bring<'_>) -> BTreeSet<String> {
    let exports = bring.iter().filter_map(|(class, source)| Some((class, (*source)?)));
    let exports = exports.filter(|(_, source)| source.index.backend == BackupBackend::Export);
    exports.flat_map(|(class, source)| class::targets(&source.index.classes[class].definition)).collect()
}
