//! Owners, modes and times of a file tree, in numbers: a copy is compared by them with its backup.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// The user and group that an entry belongs to, as numbers. In JSON: `"1000:1000"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner(pub u32, pub u32);

/// The permissions of an entry, and its setuid, setgid and sticky bits. In JSON: `"0755"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileMode(pub u32);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0, self.1)
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        owner.to_string()
    }
}

impl From<FileMode> for String {
    fn from(mode: FileMode) -> Self {
        mode.to_string()
    }
}

impl TryFrom<String> for Owner {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let numbers =
            text.split_once(':').and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
        numbers.map(|(user, group)| Self(user, group)).ok_or("an owner is user:group, as numbers")
    }
}

impl TryFrom<String> for FileMode {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777);
        mode.map(Self).ok_or("a mode is four octal digits")
    }
}

/// Owners, modes and times of the entries of a file tree, the root itself among them. A file with several names counts
/// once; of a symbolic link its owner alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataCounts {
    /// The number of entries of each owner; `None` where there are more than [`MOST_OWNERS`](Self::MOST_OWNERS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owners: Option<BTreeMap<Owner, u64>>,
    /// The number of files and folders of each mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modes: Option<BTreeMap<FileMode, u64>>,
    /// The times of modification of files and folders added up, as a checksum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

impl MetadataCounts {
    /// The most owners that are told apart, which bounds a manifest.
    pub const MOST_OWNERS: usize = 64;

    /// The counts of a tree without entries.
    pub fn none() -> Self {
        Self { owners: Some(BTreeMap::new()), modes: Some(BTreeMap::new()), times: Some(0) }
    }

    /// Counts an entry; `file` are mode and time of all but symbolic links.
    pub fn count(&mut self, (user, group): (u32, u32), file: Option<(u32, i64)>) {
        if let Some(owners) = &mut self.owners {
            *owners.entry(Owner(user, group)).or_default() += 1;
            if owners.len() > Self::MOST_OWNERS {
                self.owners = None;
            }
        }
        let Some((mode, seconds)) = file else { return };
        if let Some(modes) = &mut self.modes {
            *modes.entry(FileMode(mode)).or_default() += 1;
        }
        if let Some(times) = &mut self.times {
            *times = times.wrapping_add(Self::time(seconds));
        }
    }

    /// The share of an entry in the checksum of times: in steps of two seconds, as the coarsest file systems keep them.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a checksum keeps the lower bits"
    )]
    const fn time(seconds: i64) -> u32 {
        seconds.div_euclid(2) as u32
    }

    /// The counts of a copy in which some entries have another mode or time.
    #[must_use]
    pub fn with(mut self, changed: &ChangedMetadata) -> Self {
        if let Some(modes) = &mut self.modes {
            for ((was, is), entries) in &changed.modes {
                let left = modes.get(was).copied().unwrap_or(0).saturating_sub(*entries);
                modes.insert(*was, left);
                *modes.entry(*is).or_default() += entries;
            }
            modes.retain(|_, entries| *entries > 0);
        }
        self.times = self.times.map(|times| times.wrapping_add(changed.times));
        self
    }

    /// The numbers for people; empty if nobody has counted.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        fn words<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
            let mut counts: Vec<_> = counts.iter().collect();
            counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            counts.iter().map(|(key, count)| format!("{key} ({count})")).collect::<Vec<_>>().join(", ")
        }
        let owners = self.owners.as_ref().map(|owners| ("owners", words(owners)));
        let modes = self.modes.as_ref().map(|modes| ("modes", words(modes)));
        owners.into_iter().chain(modes).collect()
    }

    /// The differences of what was `found` from what is promised, one sentence each. What either of them lacks is not
    /// compared.
    pub fn differences(&self, found: &Self) -> Vec<String> {
        fn compare<K: fmt::Display + Ord>(
            kind: &str,
            promised: Option<&BTreeMap<K, u64>>,
            found: Option<&BTreeMap<K, u64>>,
            wrong: &mut Vec<String>,
        ) {
            let (Some(promised), Some(found)) = (promised, found) else { return };
            for key in promised.keys().chain(found.keys().filter(|key| !promised.contains_key(key))) {
                let [want, have] = [promised, found].map(|counts| counts.get(key).copied().unwrap_or(0));
                if want != have {
                    wrong.push(format!("{kind} {key}: expected {want} entries, found {have}"));
                }
            }
        }
        let mut wrong = Vec::new();
        compare("owner", self.owners.as_ref(), found.owners.as_ref(), &mut wrong);
        compare("mode", self.modes.as_ref(), found.modes.as_ref(), &mut wrong);
        if self.times.zip(found.times).is_some_and(|(want, have)| want != have) {
            wrong.push("times of modification are not all those of the backup".to_owned());
        }
        wrong
    }
}

/// The files and folders of a copy that have another mode or time than those of the backup, added up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedMetadata {
    /// The number of entries, by their old and their new mode.
    modes: BTreeMap<(FileMode, FileMode), u64>,
    /// The difference in the checksum of times.
    times: u32,
}

impl ChangedMetadata {
    /// Adds a file or folder: its mode and time in the backup, and in the copy.
    pub fn add(&mut self, (was_mode, was): (u32, i64), (is_mode, is): (u32, i64)) {
        if was_mode != is_mode {
            *self.modes.entry((FileMode(was_mode), FileMode(is_mode))).or_default() += 1;
        }
        let [was, is] = [was, is].map(MetadataCounts::time);
        self.times = self.times.wrapping_add(is).wrapping_sub(was);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_json_as_they_are_written_and_nothing_else_is() {
        let mut counts = MetadataCounts::none();
        counts.count((1000, 33), Some((0o4755, -3)));
        counts.count((0, 0), None);
        let json = serde_json::to_string(&counts).unwrap();
        assert_eq!(json, r#"{"owners":{"0:0":1,"1000:33":1},"modes":{"4755":1},"times":4294967294}"#);
        assert_eq!(serde_json::from_str::<MetadataCounts>(&json).unwrap(), counts);
        for broken in [r#"{"owners":{"root":1}}"#, r#"{"modes":{"99":1}}"#, r#"{"modes":{"17777":1}}"#] {
            serde_json::from_str::<MetadataCounts>(broken).expect_err(broken);
        }
    }

    #[test]
    fn each_kind_of_difference_is_named_but_those_that_are_known() {
        let mut promised = MetadataCounts::none();
        promised.count((1, 1), Some((0o644, 1_000)));
        promised.count((1, 1), Some((0o2755, 1_000)));
        let mut found = MetadataCounts::none();
        found.count((1, 1), Some((0o644, 1_001)));
        found.count((2, 1), Some((0o755, 5_000)));
        assert_eq!(
            promised.differences(&found),
            [
                "owner 1:1: expected 2 entries, found 1",
                "owner 2:1: expected 0 entries, found 1",
                "mode 2755: expected 1 entries, found 0",
                "mode 0755: expected 0 entries, found 1",
                "times of modification are not all those of the backup",
            ]
        );
        let mut changed = ChangedMetadata::default();
        changed.add((0o2755, 1_000), (0o755, 5_000));
        promised.owners = None;
        assert_eq!(promised.with(&changed).differences(&found), [""; 0]);
    }

    #[test]
    fn more_owners_than_a_manifest_holds_are_not_counted() {
        let mut counts = MetadataCounts::none();
        for user in 0..=64 {
            counts.count((user, 0), None);
        }
        assert_eq!((counts.owners, counts.modes), (None, Some(BTreeMap::new())));
    }
}
