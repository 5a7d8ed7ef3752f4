//! The contents of a database beside rows and rights, and those of them that a restore does not bring back by itself.

use serde::{Deserialize, Serialize};

/// Objects of a database whose contents or definitions depend on others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Derived {
    /// The `search_path` of the role of the backup in this database. `pg_restore` has an empty one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub search_path: String,
    /// The `lc_monetary` of the role of the backup, where a column is of type `money`: its text is read in no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lc_monetary: Option<String>,
    /// The tablespaces of tables and indexes, beside that of the database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tablespaces: Vec<String>,
    /// Objects and properties that `pg_dump` leaves out, a whole sentence for each. The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Materialized views that were empty (`WITH NO DATA`), with their schemas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub empty_views: Vec<String>,
    /// Objects that cannot be made under an empty `search_path`. The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unqualified: Vec<UnqualifiedObject>,
    /// Objects that a restore cannot make as they were for other causes. The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<PredictedDifference>,
    /// Statements that bring back what a user has put on tables of extensions, which `pg_dump` leaves out. The first of
    /// them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_extensions: Vec<String>,
    /// Rows of tables of extensions that are not in the archive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_rows: Vec<ExtensionRows>,
    /// The user mappings whose options the role of the backup may not read, each as the statement that changes it. The
    /// first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden_mappings: Vec<String>,
}

/// The rows of a table of an extension that are the extension's own: `CREATE EXTENSION` writes them, and no archive has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionRows {
    /// The table with its schema, quoted.
    pub table: String,
    /// The name of the extension.
    pub extension: String,
    /// The version of the extension.
    pub version: String,
    /// The number of rows.
    pub rows: u64,
    /// A hash of all rows, whatever their order: a number of the server's.
    pub hash: String,
    /// The number of rows that no script of the extension has written.
    pub changed: u64,
}

impl ExtensionRows {
    /// The loss and its cure, as a whole sentence; `None` where the rows are in `found`, or where the table is not and nobody
    /// has changed the rows. Rows of another version of the extension are others by themselves.
    fn lost(&self, found: &[Self]) -> Option<String> {
        let Self { table, extension, rows, changed, .. } = self;
        let what = match found.iter().find(|found| found.table == *table) {
            // Rows that scripts alone have written may hold the time at which they did.
            Some(found) if found.rows == *rows && (*changed == 0 || found.hash == self.hash) => return None,
            Some(found) if found.version == self.version => {
                format!(
                    "had {rows} rows of its own at the backup, and has {} now that are not the same",
                    found.rows
                )
            }
            _ if *changed > 0 => {
                format!("has rows that were added or changed since CREATE EXTENSION, {changed} in all")
            }
            _ => return None,
        };
        Some(format!(
            "Table {table} of extension {extension} {what}, and pg_dump leaves them out: keep them beside the backup (psql: \\copy \
             {table} TO 'rows.copy'), and bring them back after a restore, each on a line of its own: BEGIN; TRUNCATE {table}; \\copy {table} FROM \
             'rows.copy'; COMMIT. TRUNCATE refuses while foreign keys refer to the table: drop these before, and add them again."
        ))
    }
}

/// An object that a restore cannot make as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PredictedDifference {
    /// The name by which a restore goes on without the object, or, of a table, without its rows.
    pub name: String,
    /// The object, the cause and the way out, as a whole sentence.
    pub warning: String,
}

/// The kind of [`UnqualifiedObject`] objects that a restore fills once everything else is there.
pub const VIEW: &str = "materialized view";

/// An object that cannot be made under an empty `search_path`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnqualifiedObject {
    /// The object's kind: `materialized view`, `index`, `generated column`, `check constraint`.
    pub kind: String,
    /// The object's name with its schema; for a generated column and a check constraint, the name of the table.
    pub name: String,
    /// The server's words.
    pub said: String,
}

impl Derived {
    /// At most this many of each list are kept.
    pub const KEPT: usize = 200;

    /// Returns whole sentences about the statements on tables of extensions that `pg_dump` leaves out and `found` has not,
    /// about rows of extensions that are others in `found`, and about user mappings without options.
    pub fn lost(&self, found: &Self) -> Vec<String> {
        let not_found = |statement: &&String| !found.on_extensions.contains(statement);
        let on_extensions: Vec<_> = self.on_extensions.iter().filter(not_found).cloned().collect();
        let on_extensions = (!on_extensions.is_empty()).then(|| {
            format!(
                "pg_dump leaves out what was put on tables of extensions; after a restore, run as their owner: {}",
                on_extensions.join("; ")
            )
        });
        let mappings: Vec<_> =
            self.hidden_mappings.iter().map(|alter| format!("{alter} OPTIONS (ADD …)")).collect();
        let mappings = (!mappings.is_empty()).then(|| {
            format!(
                "User mappings are in the backup without their options (user, password), which the role of the backup may \
                 not read: back up as a superuser, or run after a restore, with the options: {}",
                mappings.join("; ")
            )
        });
        let own_rows = self.own_rows.iter().filter_map(|rows| rows.lost(&found.own_rows));
        on_extensions.into_iter().chain(own_rows).chain(mappings).collect()
    }
}

impl UnqualifiedObject {
    /// The object, the cause, the consequence and the cure, as a whole sentence.
    pub fn warning(&self) -> String {
        let Self { kind, name, said } = self;
        let (what, cure) = if kind == VIEW {
            (
                "cannot be filled by pg_restore, and a restore fills it afterwards where the server lets it",
                "name the schemas in its query",
            )
        } else {
            (
                "cannot be restored",
                "give the functions that it calls a search_path (ALTER FUNCTION … SET search_path = …)",
            )
        };
        format!("The {kind} {name} {what}, since search_path is empty during a restore ({said}): {cure}.")
    }
}
