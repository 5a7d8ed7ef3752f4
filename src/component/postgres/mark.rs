//! The mark of databases that are ours: a comment that says so, with the name of the database.

pub use crate::domain::rights::ident;
use crate::domain::task_note::TaskNote;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The beginning of such a comment; JSON follows.
const PREFIX: &str = "rna-backup: ";

/// The limit of connections of a database that was created and not marked yet: both cannot be one
/// statement. A number that nobody sets, beside a name that nobody gives.
pub const FRESH: i32 = 1_726_621;

/// The longest name of a database: `NAMEDATALEN` less one, bytes.
pub const LONGEST_NAME: usize = 63;

/// The role of a database of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A copy that is being made; worthless without the run that makes it.
    Copy,
    /// Set aside by a restore or an undo.
    Kept,
    /// A live one whose connections are refused for the instant of a swap.
    Closed,
    /// A live one that a task has put where there was none: nothing is set aside that could tell so.
    Restored,
}

impl Role {
    /// The middle part of the names of such databases.
    const fn infix(self) -> &'static str {
        match self {
            Self::Kept => "_before_",
            Self::Copy | Self::Closed | Self::Restored => "_restore_",
        }
    }
}

/// The comment on a database of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The role of the database.
    pub role: Role,
    /// The name of the database itself: a database that somebody renames is no longer ours.
    pub name: String,
    /// The database of the configuration that marked it: marks of other configurations are left alone.
    pub by: String,
    /// The live database that this one replaces, was, or is.
    pub of: String,
    /// The time of the change.
    pub at: Timestamp,
    /// The comment that was there before.
    pub comment: Option<String>,
    /// True if connections were allowed before.
    pub allow: bool,
    /// The tasks whose swaps have made it what it is; `None` where an earlier version of this program did.
    #[serde(rename = "deeds", default, skip_serializing_if = "Option::is_none")]
    pub task_notes: Option<Vec<TaskNote>>,
}

impl Mark {
    /// Reads the comment on the database `name`; `None` when it is not ours.
    pub fn parse(name: &str, comment: &str) -> Option<Self> {
        let mark: Self = serde_json::from_str(comment.strip_prefix(PREFIX)?).ok()?;
        (mark.name == name).then_some(mark)
    }

    /// Tests whether a task may be delivered again whose swap this database proves.
    pub fn is_needed(&self) -> bool {
        let now = Timestamp::now();
        self.task_notes.iter().flatten().any(|note| note.may_be_redelivered(now))
    }

    /// The comment.
    pub fn text(&self) -> String {
        let json = serde_json::to_string(self).expect("strings and a time are JSON");
        format!("{PREFIX}{json}")
    }
}

/// A name beside `database`, of at most 63 bytes; `attempt` tells those of one second apart.
pub fn name_beside(database: &str, role: Role, at: Timestamp, attempt: u32) -> String {
    let again = if attempt > 1 { format!("_{attempt}") } else { String::new() };
    let ending = format!("{}{}{again}", role.infix(), at.strftime("%Y%m%d_%H%M%S"));
    format!("{}{ending}", &database[..database.floor_char_boundary(LONGEST_NAME - ending.len())])
}

/// Tests whether `name` may be that of a copy beside `database`.
pub fn is_copy_name(database: &str, name: &str) -> bool {
    let Some((stem, time)) = name.rsplit_once(Role::Copy.infix()) else { return false };
    let figures = time.chars().filter(char::is_ascii_digit).count();
    let formed = figures >= 14 && time.chars().all(|c| c.is_ascii_digit() || c == '_');
    formed && !stem.is_empty() && database.starts_with(stem)
}

/// Quotes a text for SQL, for sessions with `standard_conforming_strings`.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// `COMMENT ON DATABASE`, which also takes one away.
pub fn comment_on(database: &str, comment: Option<&str>) -> String {
    format!("COMMENT ON DATABASE {} IS {}", ident(database), comment.map_or("NULL".to_owned(), literal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beside_a_database_fit_and_are_known_again() {
        let at: Timestamp = "2026-11-22T02:03:04.5Z".parse().unwrap();
        assert_eq!(name_beside("lab", Role::Kept, at, 1), "lab_before_20261122_020304");
        assert_eq!(name_beside("lab", Role::Copy, at, 2), "lab_restore_20261122_020304_2");
        for database in ["lab", "La\"b 'x'", &"é".repeat(31), &"量".repeat(21), &"x".repeat(63)] {
            let name = name_beside(database, Role::Copy, at, 12);
            assert!(name.len() <= LONGEST_NAME && is_copy_name(database, &name), "{name}");
            assert!(!is_copy_name("other", &name), "{name}");
        }
        for name in ["lab", "lab_restore_", "lab_restore_20261122", "lab_restore_mine_20261122_020304"] {
            assert!(!is_copy_name("lab", name), "{name}");
        }
    }

    #[test]
    fn a_comment_is_ours_only_under_its_own_name() {
        let mark = Mark {
            role: Role::Kept,
            name: "a'b\\".into(),
            by: "lab".into(),
            of: "lab".into(),
            at: Timestamp::UNIX_EPOCH,
            comment: Some("it's".into()),
            allow: true,
            task_notes: Some(vec![TaskNote::undo("t", Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH)]),
        };
        let earlier = mark.text().replace(",\"deeds\":", ",\"unknown\":");
        assert_eq!(Mark::parse("a'b\\", &earlier), Some(Mark { task_notes: None, ..mark.clone() }));
        assert_eq!(Mark::parse("a'b\\", &mark.text()), Some(mark.clone()));
        assert_eq!(Mark::parse("renamed", &mark.text()), None);
        assert_eq!(Mark::parse("lab", "rna-backup: of the lab"), None);
    }
}
