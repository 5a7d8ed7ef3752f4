//! The mark of a replacement: a class without objects on the server itself, by which machines that share no folder know
//! of each other's restores. Its description says, as JSON, who replaces which classes, and which copies that needs.
//!
//! The mark lies on the server, since every backend has the server, and the server is what is replaced: an object
//! in the bucket or a file in the shared folder would be three mechanisms, and none for exports. A server makes a
//! class of a name once (its schema is replicated by consensus), so of two machines that want to make the next mark one
//! is refused; no bucket can be trusted with that. A class with tenants, and none of them, has no files and no shard.
//! Backups, exports, counts and plans leave marks out (`schema`).
//!
//! Numbers rise: the mark with the highest is of the last replacement, and it stays while a mark below it does.

use crate::component::ComponentError;
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::replace::names;
use crate::component::weaviate::server::Server;
use crate::domain::task_note::TaskNote;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// The beginning of the names of marks; the number follows.
const PREFIX: &str = "RnaBackupMark_";

/// Returns whether a class is a mark, and none of the app's.
pub(super) fn is_mark(class: &str) -> bool {
    class.starts_with(PREFIX)
}

/// The mark of a machine's last replacement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReplacementMark {
    #[serde(skip)]
    pub(super) number: u64,
    /// A random id of the run that made the mark.
    pub(super) run: String,
    /// The [id of the journal](super::notes::Notes::id) that says how far each class is.
    pub(super) journal: String,
    /// The machine of that journal, for people.
    pub(super) host: String,
    /// The folder of that journal, for people.
    pub(super) folder: String,
    pub(super) since: Timestamp,
    /// The classes that may be missing or not whole until that machine has ended, or put right, its replacement; none
    /// once it has.
    pub(super) replacing: BTreeSet<String>,
    /// The classes that are proven, each with the number of the replacement that has brought it.
    pub(super) replaced: BTreeMap<String, u64>,
    /// The backups on the server that the journal needs.
    pub(super) copies: BTreeSet<String>,
    /// Rises while the machine is at it: whoever sees it rise knows that without a clock.
    #[serde(default)]
    pub(super) beat: u64,
    /// The tasks whose work is done, for whoever gets such a task again.
    #[serde(rename = "deeds", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) task_notes: Vec<TaskNote>,
}

impl ReplacementMark {
    pub(super) fn class(&self) -> String {
        format!("{PREFIX}{}", self.number)
    }

    /// Returns whether the replacement has not come to its end.
    pub(super) fn is_open(&self) -> bool {
        !self.replacing.is_empty()
    }

    /// The machine and the time, for people.
    pub(super) fn owner(&self) -> String {
        format!("{} (journal in {}, mark {}, {})", self.host, self.folder, self.class(), self.since)
    }

    /// The error of whoever may not replace classes while that machine does.
    pub(super) fn busy(&self) -> ComponentError {
        let what = format!(
            "replace classes of Weaviate while {} replaces classes {}: wait for the end of that restore, or stop it there",
            self.owner(),
            names(&self.replacing)
        );
        ComponentError::Unavailable { what, source: None }
    }

    fn parse(class: &str, description: &str) -> Option<Self> {
        let number = class.strip_prefix(PREFIX)?.parse().ok()?;
        Some(Self { number, ..serde_json::from_str(description).ok()? })
    }

    fn definition(&self) -> serde_json::Value {
        let description = serde_json::to_string(self).expect("names and times are JSON");
        json!({"class": self.class(), "description": description, "vectorizer": "none", "properties": [],
            "multiTenancyConfig": {"enabled": true}})
    }
}

impl Server {
    /// The marks of all machines, by their numbers.
    ///
    /// # Errors
    ///
    /// When a mark cannot be read, or may be hidden: nothing is decided without it.
    pub(super) async fn marks(&self) -> Result<Vec<ReplacementMark>, ComponentError> {
        const WHAT: &str = "look for the marks of other machines' restores";
        let found = self.schema_with_marks().await.map_err(|fault| fault.of(WHAT))?;
        let mut marks = Vec::new();
        for (class, definition) in found.iter().filter(|(class, _)| is_mark(class)) {
            let mark = ReplacementMark::parse(class, definition["description"].as_str().unwrap_or_default());
            marks.push(mark.ok_or_else(|| ComponentError::Unusable {
                what: format!(
                    "read class {class}, by which a machine says that it restores into Weaviate: it is not as this \
                     version writes it, so nothing is replaced or put back: run the newest rna-backup on every machine; \
                     if no restore is under way on any, delete that class"
                ),
                source: None,
            })?);
        }
        // A server with roles hides in silence what the key may not read.
        if self.client.has_key() && !self.may_read(&format!("/v1/schema/{PREFIX}0")).await? {
            let what = format!("{WHAT}: {RIGHTS}");
            return Err(ComponentError::Denied { what, source: None });
        }
        marks.sort_by_key(|mark| mark.number);
        Ok(marks)
    }

    /// Makes a mark whose number nobody has.
    ///
    /// # Errors
    ///
    /// When another machine has taken that number meanwhile, or the server refuses.
    pub(super) async fn make_mark(&self, mark: &ReplacementMark) -> Result<(), ComponentError> {
        let mut retries = self.client.retries();
        loop {
            let Err(fault) = self.create_class(&mark.definition()).await else { return Ok(()) };
            // The order may have been carried out and its answer lost.
            let marks = self.marks().await?;
            match marks.iter().find(|found| found.number == mark.number) {
                Some(found) if found.run == mark.run => return Ok(()),
                Some(other) => return Err(other.busy()),
                None if fault.passes() && retries.wait(&fault).await => {}
                None => return Err(refused(fault, mark)),
            }
        }
    }

    /// Changes what a mark says.
    pub(super) async fn change_mark(&self, mark: &ReplacementMark) -> Result<(), ComponentError> {
        let what = || format!("write class {}", mark.class());
        // The server wants the settings back that it has added.
        let path = format!("/v1/schema/{}", mark.class());
        let mut definition = self.client.get(&path).await.map_err(|fault| fault.of(what()))?;
        definition["description"] = mark.definition()["description"].take();
        self.update_class(&mark.class(), &definition).await.map_err(|fault| refused(fault, mark))
    }

    /// Removes a mark.
    pub(super) async fn remove_mark(&self, mark: &ReplacementMark) -> Result<(), ComponentError> {
        self.delete_class(&mark.class()).await.map_err(|fault| refused(fault, mark))
    }
}

/// The rights that a key needs on marks.
const RIGHTS: &str = "machines know of each other's restores by classes RnaBackupMark_*: give the user of \
                      WEAVIATE_API_KEY the rights create, read, update and delete_collections on RnaBackupMark_*";

fn refused(fault: Fault, mark: &ReplacementMark) -> ComponentError {
    let what = format!("write class {}", mark.class());
    if matches!(fault, Fault::Denied { .. }) { fault.of(format!("{what}: {RIGHTS}")) } else { fault.of(what) }
}

#[cfg(test)]
pub(super) fn example(number: u64, journal: &str) -> ReplacementMark {
    ReplacementMark {
        number,
        run: format!("run-{number}"),
        journal: journal.to_owned(),
        host: "host".to_owned(),
        folder: "/backups".to_owned(),
        since: Timestamp::UNIX_EPOCH,
        replacing: BTreeSet::new(),
        replaced: BTreeMap::new(),
        copies: BTreeSet::new(),
        beat: 0,
        task_notes: Vec::new(),
    }
}

#[test]
fn a_mark_is_read_as_it_was_written_and_a_class_of_the_app_is_none() {
    let mark = ReplacementMark { replacing: ["Paper".to_owned()].into(), ..example(7, "a") };
    let definition = mark.definition();
    let (class, description) =
        (definition["class"].as_str().unwrap(), definition["description"].as_str().unwrap());
    assert_eq!((class, ReplacementMark::parse(class, description)), ("RnaBackupMark_7", Some(mark)));
    assert!(is_mark(class) && crate::component::weaviate::class::is_name(class) && !is_mark("Paper"));
    assert_eq!(ReplacementMark::parse("RnaBackupMark_x", description), None);
    assert_eq!(ReplacementMark::parse(class, "notes of mine"), None);
}
