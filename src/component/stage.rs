//! A copy beside the live data: what restore, drill and dry run have in common.
//!
//! A component stages an archive beside what is there, says what it counted in it, and then the copy
//! either takes the place of the live data, in one instant, or is thrown away. Until then nothing live is
//! touched, and whatever goes wrong leaves it as it was.

use crate::component::{ComponentError, Feed};
use crate::domain::command::TargetOption;
use crate::domain::component::ComponentName;
use crate::domain::facts::{Counts, Facts};
use crate::domain::progress::Meter;
use crate::domain::task_note::TaskNote;
use async_trait::async_trait;
use jiff::Timestamp;
use std::{ffi::OsString, fmt};

/// The target of a staged copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The live data is replaced by the copy, and kept for [`undo`](super::Undo::undo).
    Live,
    /// The copy is compared and thrown away: a drill.
    Scratch,
    /// A target that the component makes of an option: another place, or a part of the live data.
    Custom(TargetOption),
}

impl Target {
    /// The target that an option names.
    pub fn custom(option: &'static str, values: impl IntoIterator<Item: Into<OsString>>) -> Self {
        Self::Custom(TargetOption::new(option, values))
    }
}

/// The order to restore one archive.
#[derive(Debug, Clone, Copy)]
pub struct RestoreOrder<'a> {
    /// The target of the copy.
    pub target: &'a Target,
    /// Names of objects that may be missing afterwards, if they cannot be made.
    pub without: &'a [String],
    /// The facts of the backup's manifest; the app's old files have none.
    pub facts: Option<&'a Facts>,
}

impl<'a> RestoreOrder<'a> {
    /// The order to restore every object.
    pub const fn new(target: &'a Target, facts: Option<&'a Facts>) -> Self {
        Self { target, without: &[], facts }
    }

    /// Refuses to go without some objects, for a component that makes all or nothing.
    pub(super) fn refuse_without(&self, component: ComponentName) -> Result<(), ComponentError> {
        if self.without.is_empty() {
            return Ok(());
        }
        let what = format!("{component} is not restored without some objects of it: leave --without out");
        Err(ComponentError::Unusable { what, source: None })
    }
}

/// The modes of a restore. Each mode takes some of the steps of one list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreMode {
    /// The steps that need no backup: `check`.
    Check,
    /// The steps that change nothing: `restore --dry-run`.
    DryRun,
    /// All steps but the swap, into scratch: `verify --drill`.
    Drill,
    /// All steps.
    Restore,
}

/// The steps of a restore, in their order, as one table: the step, its work in words for people, and the modes that take it.
#[derive(Debug)]
pub struct Steps<S: 'static>(pub &'static [(S, &'static str, &'static [RestoreMode])]);

impl<S: Copy> Steps<S> {
    /// The steps that a mode takes.
    pub fn of(&self, mode: RestoreMode) -> impl Iterator<Item = S> {
        self.0.iter().filter(move |(_, _, modes)| modes.contains(&mode)).map(|(step, _, _)| *step)
    }

    /// Tests whether a mode takes a step.
    pub fn takes(&self, mode: RestoreMode, step: S) -> bool
    where
        S: PartialEq,
    {
        self.of(mode).any(|taken| taken == step)
    }

    /// A step, in words.
    pub fn words(&self, step: S) -> &'static str
    where
        S: PartialEq,
    {
        self.0.iter().find(|(known, _, _)| *known == step).map_or("", |(_, words, _)| *words)
    }

    /// The steps of a restore that a mode does not take, in words.
    pub fn skipped_steps(&self, mode: RestoreMode) -> Vec<&'static str> {
        let is_left_out =
            |modes: &[RestoreMode]| modes.contains(&RestoreMode::Restore) && !modes.contains(&mode);
        self.0.iter().filter(|(_, _, modes)| is_left_out(modes)).map(|(_, words, _)| *words).collect()
    }
}

/// The effects of a restore, found out without touching anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The data that would be replaced, for people: `database lab (412 MB, 31 tables)`.
    pub replaces: String,
    /// The way of the replacement: `swap by rename`, `exchange of folders`, `in place in one transaction`.
    pub method: String,
    /// Bytes that are needed beside the live data; `None` when nobody can tell.
    pub needs_bytes: Option<u64>,
    /// Bytes that are free there; `None` when nobody can tell.
    pub free_bytes: Option<u64>,
    /// The time for which the live data cannot be used, for people: `milliseconds`, `while the restore runs`.
    pub downtime: String,
    /// Versions that matter: server, client.
    pub versions: Vec<String>,
    /// Warnings for people, in whole sentences.
    pub warnings: Vec<String>,
    /// Advice for the time before the restore, in whole sentences: such advice is of no use in a result.
    pub advice: Vec<String>,
    /// True if an option names another place than that of the live data; false also for a drill.
    pub is_elsewhere: bool,
    /// The owners and privileges that the restore would not bring back, in a whole sentence. Rights that are lost open
    /// data to others, so such a restore of live data wants to be told so first.
    pub lost_rights: Option<String>,
    /// Names of objects that the server is known to refuse: a restore goes on without them when it is told so.
    pub refuses: Vec<String>,
    /// Steps of the mode that could not be taken here, in words: the server does not answer such a question.
    pub not_tried: Vec<&'static str>,
    /// True if the archive itself tells more: [`Restorable::preview`](super::Restorable::preview).
    pub looks_into_archive: bool,
}

/// The data that a restore or an undo has set aside, which an undo makes live again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndoPoint {
    /// The place of the old data: the name of a database, the path of a folder.
    pub place: String,
    /// The time at which the data was replaced.
    pub at: Timestamp,
    /// The tasks whose swaps have set the data aside, one after the other, as noted with the data; `None` where nothing is
    /// noted: an earlier version of this program did it, or the component has no place for notes.
    pub task_notes: Option<Vec<TaskNote>>,
}

/// A swap that a task has done, by the note that lies with the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletedSwap {
    /// The note.
    pub note: TaskNote,
    /// The place of the data that the swap set aside, or that later swaps have put there; `None` if there was none.
    pub kept: Option<String>,
}

/// A whole copy beside the live data. Dropping it leaves a copy that the next
/// [`recover`](super::Restorable::recover) removes.
#[async_trait]
pub trait Staged: Send + Sync + fmt::Debug {
    /// The contents of the copy, counted in the copy itself.
    fn counts(&self) -> &Counts;

    /// The counts of the manifest as they must be in the copy: less what it was made without.
    fn expected(&self, promised: &Counts) -> Counts {
        promised.clone()
    }

    /// Reads the archive once more and compares it with the copy, entry by entry, contents and all. Empty
    /// means equal; at most 20 sentences. The counts alone say it all where a component does not do this.
    ///
    /// # Errors
    ///
    /// When the archive or the copy cannot be read.
    async fn differences(&self, feed: Feed<'_>, meter: &Meter) -> Result<Vec<String>, ComponentError> {
        let _ = (feed, meter);
        Ok(Vec::new())
    }

    /// Sets the note of the task that the swap writes down with the data.
    fn set_task_note(&mut self, note: TaskNote) {
        let _ = note;
    }

    /// Puts the copy in the place of the live data. `Ok` means that the copy is there, whole; the result names the
    /// place of the old data, `None` if there was none.
    ///
    /// # Errors
    ///
    /// After an error the live data is the old, whole; or, should this process or the server die at that moment, the
    /// old or the new, whole, and `recover` tidies up.
    async fn swap(self: Box<Self>) -> Result<Option<UndoPoint>, ComponentError>;

    /// Throws the copy away.
    ///
    /// # Errors
    ///
    /// When some of the copy is left; `recover` removes the rest later.
    async fn discard(self: Box<Self>) -> Result<(), ComponentError>;
}
