//! The contents of the journal: orphan backups, a replacement under way, and what `undo` brings back. Pure.

mod written;

use crate::component::weaviate::class::Class;
use crate::component::weaviate::index::BackupBackend;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A copy of classes, whole. Its classes stand in the index of the copy, a file beside the journal, and not here: the
/// notes name a copy once for each class, and are written several times for each class.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Snapshot {
    #[serde(rename = "made")]
    pub(super) backend: BackupBackend,
    /// The name of the backup on the server, or of the file in the folder of the journal.
    pub(super) id: String,
    pub(super) at: Timestamp,
    /// Nothing. Earlier versions have the names of the classes here, and read no copy without this field.
    #[serde(rename = "classes", skip_deserializing)]
    pub(super) unnamed: [(); 0],
}

/// The notes of this machine about one server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Notes {
    /// A random name of this journal, by which other machines know its marks and backups from their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    /// True while a [mark](super::mark) of this journal may be on the server.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) has_mark: bool,
    /// Orphan backups on the server, unless the notes name them elsewhere as well.
    #[serde(rename = "loose")]
    pub(super) orphans: Vec<OrphanBackup>,
    /// A replacement that has begun.
    pub(super) replacing: Option<Replacing>,
    /// The classes as they were before the last restore, for `undo`.
    pub(super) kept: Option<PreviousClasses>,
    /// The copies of classes that an unfinished undo has taken back, as the classes were before that undo. When a
    /// further undo finishes the rest, these copies join what the undo after it brings back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) undone: Option<PreviousClasses>,
    /// Copies that no command brings back and that are not thrown away before newer backups are proven: of classes that
    /// stood where others were put back, and those that an `undo` was to bring which failed.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) found: BTreeSet<Snapshot>,
    /// True until the first backup after a put-back that has kept a copy: such a copy outlives that backup, since the
    /// run that makes the backup may be the one that has put back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_spared: bool,
    /// Classes that a restore made on the server to try them, each under a name of its own.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) trials: BTreeSet<String>,
    /// Classes that a drill made on the second server.
    pub(super) drill: BTreeSet<String>,
    /// The reason why the server and this process could not use the folder together in the last backup by the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) closed: Option<String>,
}

impl Notes {
    /// The copies that are needed.
    pub(super) fn snapshots(&self) -> BTreeSet<&Snapshot> {
        let steps = self.replacing.iter().flat_map(|replacing| replacing.classes.values());
        let earlier = self.replacing.iter().filter_map(|replacing| replacing.earlier.as_ref());
        let kept = self.kept.iter().chain(&self.undone).chain(earlier).flat_map(PreviousClasses::copies);
        steps.filter_map(|step| step.before.as_ref()).chain(kept).chain(&self.found).collect()
    }

    /// The classes that are missing, or not what they should be, until a replacement is put right.
    pub(super) fn due(&self) -> BTreeSet<String> {
        self.replacing
            .as_ref()
            .map(|replacing| replacing.in_state(|state| !state.is_final()))
            .unwrap_or_default()
    }

    /// The warning about classes that a restore which failed or died has left to be put right; `None` where there are none.
    pub(super) fn still_due(&self) -> Option<String> {
        let steps = self.replacing.iter().flat_map(|replacing| &replacing.classes);
        let due = steps.filter(|(_, step)| !step.state.is_final());
        let (back, gone): (Vec<_>, Vec<_>) = due.partition(|(_, step)| step.before.is_some());
        let (back, gone) = (names_of(back), names_of(gone));
        let mut words = Vec::new();
        if !back.is_empty() {
            words.push(format!(
                "classes {back} are missing or not proven: a restore of them failed or died, and the next run on Weaviate or \
                 start of the worker brings them back as they were before it"
            ));
        }
        if !gone.is_empty() {
            words.push(format!(
                "classes {gone} were not there before a restore that failed or died, and what has come of them may be a part: \
                 the next run on Weaviate or start of the worker keeps those that it can prove and REMOVES the others, restore \
                 them again"
            ));
        }
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// Notes that a replacement of these classes begins, which is an undo or not. Classes of an earlier one that are
    /// still due stay so, and come from the copies that were made before they were deleted.
    pub(super) fn begin(&mut self, mut classes: BTreeMap<String, ClassProgress>, is_undo: bool) {
        if !is_undo && let Some(undone) = self.undone.take() {
            self.found.extend(undone.copies().cloned());
        }
        let mut left = BTreeMap::new();
        if let Some(ended) = self.replacing.take() {
            let due = ended.in_state(|state| !state.is_final()).into_iter();
            // Without a number, every mark came later.
            let numbered = due.map(|class| (ended.number_of(&class).unwrap_or_default(), class));
            left.extend(
                numbered
                    .filter(|(_, class)| !classes.contains_key(class))
                    .map(|(number, class)| (class, number)),
            );
            classes.extend(ended.classes.into_iter().filter(|(_, step)| !step.state.is_final()));
            self.found.extend(ended.earlier.iter().flat_map(PreviousClasses::copies).cloned());
        }
        self.replacing =
            Some(Replacing { classes, began: Some(Timestamp::now()), left, is_undo, ..Replacing::default() });
    }

    /// Notes the state of a class. A class that is proven is one that `undo` takes back.
    pub(super) fn reached(&mut self, class: &str, state: State) {
        let steps = self.replacing.iter_mut().flat_map(|replacing| &mut replacing.classes);
        let Some((_, step)) = steps.into_iter().find(|(name, _)| *name == class) else { return };
        let is_proven = state == State::Proven;
        step.state = state;
        let before = step.before.clone();
        if is_proven {
            self.keep(class, before);
        }
    }

    /// Marks a class as not proven: the class is due again.
    pub(super) fn mark_unproven(&mut self, class: &str) {
        let Some(replacing) = &mut self.replacing else { return };
        if let Some(step) = replacing.classes.get_mut(class) {
            step.state = State::Deleted;
        }
        if let Some(kept) = self.kept.as_mut().filter(|_| replacing.has_kept) {
            kept.before.remove(class);
        }
    }

    /// Keeps a class for `undo`, in place of what an earlier replacement has kept. What this one has kept of the class
    /// before is thrown away no sooner than other copies that no command brings back.
    pub(super) fn keep(&mut self, class: &str, before: Option<Snapshot>) {
        let Some(replacing) = &mut self.replacing else { return };
        if !std::mem::replace(&mut replacing.has_kept, true) {
            replacing.earlier = self.kept.take();
        }
        let kept = &mut self.kept.get_or_insert_default().before;
        let earlier = kept.get(class).cloned().flatten().filter(|earlier| Some(earlier) != before.as_ref());
        kept.insert(class.to_owned(), before);
        self.found.extend(earlier);
    }

    /// Forgets the copies that no backup needs any more, after a backup was proven.
    pub(super) fn drop_old_copies(&mut self) {
        if !std::mem::take(&mut self.is_spared) {
            self.kept = None;
            self.undone = None;
            self.found.clear();
        }
    }

    /// Ends the replacement if nothing is left to be done about any of its classes.
    pub(super) fn end_if_final(&mut self) {
        if self.due().is_empty()
            && let Some(ended) = self.replacing.take()
        {
            if ended.classes.values().all(|step| step.state == State::Proven) {
                self.redo();
            } else if ended.is_undo {
                self.leave_undo_open(&ended);
            } else {
                self.found.extend(ended.earlier.iter().flat_map(PreviousClasses::copies).cloned());
            }
        }
        // A restore before which nothing was there leaves nothing to take back.
        self.kept.take_if(|kept| kept.copies().next().is_none());
    }
}

impl Notes {
    /// After an undo that came to its end: what earlier ones had taken back is brought back by the next undo as well.
    fn redo(&mut self) {
        let Some(undone) = self.undone.take() else { return };
        let kept = self.kept.get_or_insert_default();
        for (class, before) in undone.before {
            kept.before.entry(class).or_insert(before);
        }
    }

    /// After an undo that has taken back some classes and not all: the next undo goes on with the others.
    fn leave_undo_open(&mut self, ended: &Replacing) {
        if !ended.has_kept {
            return; // no class was taken back, and everything is still kept
        }
        let proven = ended.in_state(|state| *state == State::Proven);
        let kept = self.kept.take().unwrap_or_default().before.into_iter();
        // A class that was put back long after the undo began has its copy here as well, and was not taken back.
        let (done, late): (BTreeMap<_, _>, BTreeMap<_, _>) =
            kept.partition(|(class, _)| proven.contains(class));
        let mut rest = ended.earlier.clone().unwrap_or_default();
        rest.before.retain(|class, _| !proven.contains(class));
        self.found.extend(late.into_values().flatten());
        self.undone.get_or_insert_default().before.extend(done);
        self.kept = Some(rest);
    }
}

fn names_of(steps: Vec<(&String, &ClassProgress)>) -> String {
    steps.into_iter().map(|(class, _)| class.as_str()).collect::<Vec<_>>().join(", ")
}

/// A backup that a run ordered of the server and did not keep; the server may still be at work on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OrphanBackup {
    #[serde(rename = "made")]
    pub(super) backend: BackupBackend,
    pub(super) id: String,
    /// True once the server has taken a later order: the server works on one backup at a time, so this one has ended,
    /// whatever its status says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) has_ended: bool,
}

impl OrphanBackup {
    /// The note on an order that was just sent.
    pub(super) fn new(backend: BackupBackend, id: &str) -> Self {
        Self { backend, id: id.to_owned(), has_ended: false }
    }

    /// The note on a copy that is not needed any more; `None` for a copy that is a file of ours.
    pub(super) fn of(copy: &Snapshot) -> Option<Self> {
        (copy.backend != BackupBackend::Export).then(|| Self::new(copy.backend, &copy.id))
    }
}

/// The classes that a restore replaces, each with what has been done about it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "written::Replacing")]
pub(super) struct Replacing {
    pub(super) classes: BTreeMap<String, ClassProgress>,
    /// The time at which the replacement began.
    pub(super) began: Option<Timestamp>,
    /// The number of the replacement's mark on the server; `None` from versions without marks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) number: Option<u64>,
    /// The numbers of earlier replacements, for the classes that those have left due and that this one does not bring.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) left: BTreeMap<String, u64>,
    /// True as soon as what `undo` brings back is of this replacement.
    pub(super) has_kept: bool,
    /// True if the replacement is an undo itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_undo: bool,
    /// The copies that `undo` would have brought back before. This replacement may be that undo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) earlier: Option<PreviousClasses>,
}

impl Replacing {
    /// The number of the mark under which the replacement of a class began; `None` from versions without marks.
    pub(super) fn number_of(&self, class: &str) -> Option<u64> {
        self.left.get(class).copied().or(self.number)
    }

    /// The classes that are put back and were there before.
    pub(super) fn returned(&self) -> BTreeSet<String> {
        self.put_back(true)
    }

    /// The classes that are put back and were not there before: what had come of them is removed.
    pub(super) fn removed(&self) -> BTreeSet<String> {
        self.put_back(false)
    }

    fn put_back(&self, was_there: bool) -> BTreeSet<String> {
        let is_it = |step: &ClassProgress| step.state == State::PutBack && step.before.is_some() == was_there;
        self.classes.iter().filter(|(_, step)| is_it(step)).map(|(class, _)| class.clone()).collect()
    }

    /// The classes in such a state.
    pub(super) fn in_state(&self, wanted: impl Fn(&State) -> bool) -> BTreeSet<String> {
        let classes = self.classes.iter().filter(|(_, step)| wanted(&step.state));
        classes.map(|(class, _)| class.clone()).collect()
    }
}

/// One class of a replacement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ClassProgress {
    pub(super) state: State,
    /// The class as it was before; `None` where there was none.
    pub(super) before: Option<Snapshot>,
}

/// The progress of the replacement of a class. Each state is noted before the server is asked for the next step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// Nothing of the class was changed.
    Untouched,
    /// The class is being deleted, or is deleted, or a part of the new one is there.
    Deleted,
    /// The new class has come, and should be this; that has not been proven. A class of which nothing was there, and
    /// that the server brings whole or not at all, is so from the order on.
    Brought(Box<Class>),
    /// The new class is there, whole.
    Proven,
    /// The class is again as it was before.
    PutBack,
}

impl State {
    /// Returns whether nothing is to be done about the class.
    pub(super) const fn is_final(&self) -> bool {
        matches!(self, Self::Untouched | Self::Proven | Self::PutBack)
    }
}

/// The classes as they were before the last restore; `None` where there was none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "written::PreviousClasses")]
pub(super) struct PreviousClasses {
    pub(super) before: BTreeMap<String, Option<Snapshot>>,
}

impl PreviousClasses {
    /// The copies, each as often as a class is in it.
    pub(super) fn copies(&self) -> impl Iterator<Item = &Snapshot> {
        self.before.values().flatten()
    }

    /// The time of the first of the copies.
    pub(super) fn at(&self) -> Timestamp {
        self.copies().map(|copy| copy.at).min().unwrap_or_default()
    }
}

#[cfg(test)]
pub(super) mod tests;
