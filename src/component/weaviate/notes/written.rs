//! The notes as versions have written them.

use crate::component::weaviate::notes::{self, ClassProgress, Snapshot, State};
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// A replacement as this version writes it, or as versions did that replaced all classes at once.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Replacing {
    ClassByClass {
        classes: BTreeMap<String, ClassProgress>,
        began: Option<Timestamp>,
        #[serde(default)]
        number: Option<u64>,
        #[serde(default)]
        left: BTreeMap<String, u64>,
        has_kept: bool,
        #[serde(default)]
        is_undo: bool,
        #[serde(default)]
        earlier: Option<notes::PreviousClasses>,
    },
    AllAtOnce {
        classes: BTreeSet<String>,
        safety: Option<CopyOfAll>,
        began: Option<Timestamp>,
    },
}

impl From<Replacing> for notes::Replacing {
    fn from(written: Replacing) -> Self {
        match written {
            Replacing::ClassByClass { classes, began, number, left, has_kept, is_undo, earlier } => {
                Self { classes, began, number, left, has_kept, is_undo, earlier }
            }
            Replacing::AllAtOnce { classes, safety, began } => {
                let step = |before| ClassProgress { state: State::Deleted, before };
                let before = previous_copies(classes, safety.as_ref()).into_iter();
                let classes = before.map(|(class, before)| (class, step(before))).collect();
                Self { classes, began, ..Self::default() }
            }
        }
    }
}

/// The copies that `undo` brings back, as this version writes them, or as versions did that made one copy of all classes.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum PreviousClasses {
    ClassByClass { before: BTreeMap<String, Option<Snapshot>> },
    AllAtOnce { snapshot: CopyOfAll, classes: BTreeSet<String> },
}

impl From<PreviousClasses> for notes::PreviousClasses {
    fn from(written: PreviousClasses) -> Self {
        match written {
            PreviousClasses::ClassByClass { before } => Self { before },
            PreviousClasses::AllAtOnce { snapshot, classes } => {
                Self { before: previous_copies(classes, Some(&snapshot)) }
            }
        }
    }
}

/// The one copy of all classes that were there, and their names.
#[derive(Deserialize)]
pub(super) struct CopyOfAll {
    #[serde(flatten)]
    copy: Snapshot,
    classes: BTreeSet<String>,
}

/// The copy of each class; `None` for a class that is not in the copy.
fn previous_copies(
    classes: BTreeSet<String>,
    of_all: Option<&CopyOfAll>,
) -> BTreeMap<String, Option<Snapshot>> {
    let before = |class: &String| {
        of_all.filter(|of_all| of_all.classes.contains(class)).map(|of_all| of_all.copy.clone())
    };
    classes.into_iter().map(|class| (class.clone(), before(&class))).collect()
}
