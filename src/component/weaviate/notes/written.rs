//! The notes as versions have written them.

use crate::component::weaviate::notes::{self, Snapshot, State, Step, befores};
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// A replacement as this version writes it, or as versions did that replaced all classes at once.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Replacing {
    ClassByClass {
        classes: BTreeMap<String, Step>,
        began: Option<Timestamp>,
        #[serde(default)]
        number: Option<u64>,
        #[serde(default)]
        left: BTreeMap<String, u64>,
        has_kept: bool,
        #[serde(default)]
        is_undo: bool,
        #[serde(default)]
        earlier: Option<notes::Kept>,
    },
    AllAtOnce {
        classes: BTreeSet<String>,
        safety: Option<Snapshot>,
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
                let step = |before| Step { state: State::Deleted, before };
                let before = befores(classes, safety.as_ref()).into_iter();
                let classes = before.map(|(class, before)| (class, step(before))).collect();
                Self { classes, began, ..Self::default() }
            }
        }
    }
}

/// The copies that `undo` brings back, as this version writes them, or as versions did that made one copy of all classes.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Kept {
    ClassByClass { before: BTreeMap<String, Option<Snapshot>> },
    AllAtOnce { snapshot: Snapshot, classes: BTreeSet<String> },
}

impl From<Kept> for notes::Kept {
    fn from(written: Kept) -> Self {
        match written {
            Kept::ClassByClass { before } => Self { before },
            Kept::AllAtOnce { snapshot, classes } => Self { before: befores(classes, Some(&snapshot)) },
        }
    }
}
