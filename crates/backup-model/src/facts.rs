//! The facts that a component reports about the data it read: kept in the manifest, compared on verify.

use crate::definitions::Definitions;
use crate::derived::Derived;
use crate::id::BackupId;
use crate::metadata::MetadataCounts;
use crate::properties::Properties;
use crate::rights::Rights;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The number of things of each kind that a backup holds.
///
/// Counted twice by different means: once at the source while it is read, once
/// in the finished archive. A backup counts only when both agree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows of each table, sorted by schema and name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableRows>,
    /// Entries of a file tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FileCounts>,
    /// Entries of a file tree with more than a mode; `None` where nobody has counted them: in backups of older
    /// programs, and in an incremental archive by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<AttributeCounts>,
    /// Owners, modes and times of a file tree; `None` as for attributes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<MetadataCounts>,
    /// Objects of each Weaviate class.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, u64>,
}

/// The rows of one table as the dump's own snapshot saw them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableRows {
    /// Schema name, unquoted.
    pub schema: String,
    /// Table name, unquoted.
    pub table: String,
    /// Exact number of rows.
    pub rows: u64,
}

/// The entries of a file tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCounts {
    /// Regular files, hard links to earlier ones not among them.
    pub files: u64,
    /// Folders, the root itself not among them.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Further names of files that were packed under an earlier name.
    pub hard_links: u64,
    /// Bytes of contents of the regular files.
    pub bytes: u64,
}

/// The entries of a file tree that have ACLs or extended attributes, the root itself among them. An entry counts once
/// for each kind that it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeCounts {
    /// Entries with a POSIX ACL, or with a default ACL for new entries of a folder.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub acls: u64,
    /// Entries with attributes of users, `user.*`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub user: u64,
    /// Entries with attributes of the kernel's security modules, `security.*`: capabilities of programs.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub security: u64,
    /// Entries with attributes that root alone sees, `trusted.*`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trusted: u64,
    /// Entries with attributes of the file system itself, as `system.nfs4_acl`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub other: u64,
    /// Files with holes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sparse: u64,
    /// Bytes of these files that are holes, and neither in the archive nor on a disk.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hole_bytes: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl AttributeCounts {
    /// Counts a file with holes of so many bytes; a file without any does not count.
    pub const fn count_holes(&mut self, bytes: u64) {
        if bytes > 0 {
            self.sparse += 1;
            self.hole_bytes = self.hole_bytes.saturating_add(bytes);
        }
    }

    /// Tests whether there are ACLs or extended attributes.
    pub fn has_extended(&self) -> bool {
        Self { sparse: 0, hole_bytes: 0, ..*self } != Self::default()
    }

    /// The kinds that there are, with their numbers, for people; empty if there are none.
    pub fn describe(&self) -> String {
        let kinds = [
            (self.acls, "ACLs"),
            (self.user, "user attributes"),
            (self.security, "security attributes"),
            (self.trusted, "trusted attributes"),
            (self.other, "attributes of the file system itself"),
            (self.sparse, "holes"),
        ];
        let some = kinds.iter().filter(|(count, _)| *count > 0);
        some.map(|(count, kind)| format!("{count} with {kind}")).collect::<Vec<_>>().join(", ")
    }
}

/// The report of a component that has read its data to the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Bytes of the source, before compression; of an incremental backup also those that it leaves out.
    pub source_bytes: u64,
    /// The counts at the source.
    pub counts: Counts,
    /// Versions of the tools and servers involved: `postgres_server`, `pg_dump`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, String>,
    /// The newest Django migration of each app, when the database has the table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub migrations: BTreeMap<String, String>,
    /// Size of the whole database on the server, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_bytes: Option<u64>,
    /// Owners and privileges of the objects of a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rights: Option<Rights>,
    /// Definitions of the objects of a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definitions: Option<Definitions>,
    /// Properties of a database itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<Properties>,
    /// The parts of a database beside rows and rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derived: Option<Derived>,
    /// The name of the backend that made the backup, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The name of the backup that the source's own server keeps in the bucket, and that the archive is only
    /// the index of: it goes when the last copy of the archive does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_backup: Option<String>,
    /// Earlier backups whose archives hold data that this incremental one leaves out, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub builds_on: Vec<BackupId>,
    /// Things that went otherwise than planned without harming the archive:
    /// files that changed or vanished while being read. The first of them by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The number of all warnings, also of those that are not kept by name.
    #[serde(default)]
    pub warning_count: u64,
}

impl Facts {
    /// Bytes of the source that are in archives: all but holes.
    pub fn stored_bytes(&self) -> u64 {
        self.source_bytes.saturating_sub(self.counts.attributes.map_or(0, |attributes| attributes.hole_bytes))
    }

    /// At most this many warnings are kept by name; all are counted.
    pub const WARNINGS_KEPT: usize = 20;

    /// Notes one warning.
    pub fn warn(&mut self, text: String) {
        self.warning_count += 1;
        if self.warnings.len() < Self::WARNINGS_KEPT {
            self.warnings.push(text);
        }
    }
}

impl Counts {
    /// Returns the differences between the promised counts and those of `found`, one sentence each; empty when they
    /// agree.
    ///
    /// At most 20 sentences: the first differences are enough to refuse a backup.
    pub fn differences(&self, found: &Self) -> Vec<String> {
        const ENOUGH: usize = 20;
        let mut wrong = Vec::new();
        let key = |t: &TableRows| (format!("table {}.{}", t.schema, t.table), t.rows);
        compare(self.tables.iter().map(key), found.tables.iter().map(key), "rows", &mut wrong);
        let key = |(class, count): (&String, &u64)| (format!("class {class}"), *count);
        compare(self.classes.iter().map(key), found.classes.iter().map(key), "objects", &mut wrong);
        if self.files != found.files {
            wrong.push(format!(
                "expected {}, found {}",
                FileCounts::describe(self.files),
                FileCounts::describe(found.files)
            ));
        }
        if let (Some(expected), Some(found)) = (self.attributes, found.attributes)
            && expected != found
        {
            let words = |counts: AttributeCounts| match counts.describe() {
                none if none.is_empty() => "none with ACLs or extended attributes".to_owned(),
                some => some,
            };
            wrong.push(format!("entries: expected {}, found {}", words(expected), words(found)));
        }
        if let (Some(expected), Some(found)) = (&self.metadata, &found.metadata) {
            wrong.extend(expected.differences(found));
        }
        wrong.truncate(ENOUGH);
        wrong
    }
}

fn compare(
    expected: impl Iterator<Item = (String, u64)>,
    found: impl Iterator<Item = (String, u64)>,
    unit: &str,
    wrong: &mut Vec<String>,
) {
    let expected: BTreeMap<_, _> = expected.collect();
    let mut found: BTreeMap<_, _> = found.collect();
    for (name, want) in expected {
        match found.remove(&name) {
            Some(have) if have == want => {}
            Some(have) => wrong.push(format!("{name}: expected {want} {unit}, found {have}")),
            None => wrong.push(format!("{name}: expected {want} {unit}, found nothing")),
        }
    }
    wrong.extend(found.into_keys().map(|name| format!("{name}: not expected")));
}

impl FileCounts {
    fn describe(counts: Option<Self>) -> String {
        counts.map_or("no files".to_owned(), |c| {
            format!(
                "{} files of {} bytes, {} folders, {} symbolic links, {} hard links",
                c.files, c.bytes, c.directories, c.symlinks, c.hard_links
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(rows: &[(&str, u64)]) -> Counts {
        let tables = rows
            .iter()
            .map(|(table, rows)| TableRows { schema: "public".into(), table: (*table).into(), rows: *rows })
            .collect();
        Counts { tables, ..Counts::default() }
    }

    #[test]
    fn equal_counts_do_not_differ_whatever_their_order() {
        assert!(tables(&[("a", 1), ("b", 2)]).differences(&tables(&[("b", 2), ("a", 1)])).is_empty());
    }

    #[test]
    fn each_kind_of_difference_is_named() {
        let wrong = tables(&[("a", 1), ("b", 2)]).differences(&tables(&[("a", 3), ("c", 0)]));
        assert_eq!(
            wrong,
            [
                "table public.a: expected 1 rows, found 3",
                "table public.b: expected 2 rows, found nothing",
                "table public.c: not expected",
            ]
        );
    }
}
