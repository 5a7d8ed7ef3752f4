//! Properties of a database itself (owner, privileges, locale, limits, settings): read at the backup, and compared with those
//! that the database has after a restore, which takes them over from the live one.

use crate::component::ComponentError;
use crate::component::postgres::{
    admin::fault,
    mark::{FRESH, Mark},
    names::decode_name,
    restore_target::RestoreTarget,
};
use crate::domain::{facts::Facts, properties::Properties};
use deadpool_postgres::tokio_postgres::GenericClient;
use sha2::{Digest, Sha256};

/// Name and value of every property of the database `$1`.
const PROPERTIES: &str = include_str!("properties.sql");

const COMMENT: &str = "comment";
const LIMIT: &str = "connection limit";

/// Reads the properties of a database, on a session whose search path is `pg_catalog`, in whatever database. The
/// connection limit of a new copy and the mark of this program in the comment are skipped.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn read(client: &impl GenericClient, database: &str) -> Result<Properties, ComponentError> {
    let rows = client.query(PROPERTIES, &[&database]).await;
    let rows = rows.map_err(|err| fault("read the properties of the database", err))?;
    let mut found = Properties::default();
    let mut rest = (0_u64, Sha256::new());
    for row in &rows {
        // Bytes of an encoding that the session does not know: the same ones have the same spelling everywhere.
        let text = |column: usize| decode_name(&row.get::<_, Vec<u8>>(column), "SQL_ASCII");
        let (name, mut value) = (text(0), text(1));
        if name == COMMENT
            && let Some(mark) = Mark::parse(database, &value)
        {
            let Some(comment) = mark.comment else { continue };
            value = comment;
        }
        if name == LIMIT && value == FRESH.to_string() {
            continue;
        }
        if found.0.len() < Properties::KEPT {
            found.0.insert(name, shortened(value));
        } else {
            rest.0 += 1;
            rest.1.update(format!("{name}\t{value}\n"));
        }
    }
    if rest.0 > 0 {
        let value = format!("{} more, SHA-256 {}", rest.0, hex::encode(rest.1.finalize()));
        found.0.insert("other settings".to_owned(), value);
    }
    Ok(found)
}

/// A value of at most [`Properties::VALUE_KEPT`] bytes: of a longer one the beginning, and a hash of all.
fn shortened(value: String) -> String {
    if value.len() <= Properties::VALUE_KEPT {
        return value;
    }
    let beginning = &value[..value.floor_char_boundary(Properties::VALUE_KEPT)];
    format!("{beginning}… ({} bytes, SHA-256 {})", value.len(), hex::encode(Sha256::digest(&value)))
}

/// The differences of the properties of a restored database.
#[derive(Debug, Default)]
pub struct Compared {
    /// The properties that the copy should have taken over from the live database and lacks, in words.
    pub wrong: Vec<String>,
    /// The sentence about properties that the backup has noted with other values.
    pub warning: Option<String>,
}

impl RestoreTarget {
    /// Compares the properties of a copy with those of the live database, which the copy is to have, and with those of the
    /// backup. `found` are those of the copy, whose comment is still our mark.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn compare_properties(
        &self,
        mut found: Properties,
        facts: Option<&Facts>,
    ) -> Result<Compared, ComponentError> {
        let Some(live) = &self.live else {
            return Ok(Compared { wrong: Vec::new(), warning: self.other_properties(&found, facts) });
        };
        let expected = read(&*self.admin.client, &live.name).await?;
        // The swap takes the comment over.
        found.0.remove(COMMENT);
        found.0.extend(expected.0.get_key_value(COMMENT).map(|(name, text)| (name.clone(), text.clone())));
        let wrong = expected.differences(&found, ["in the live database", "in the restored one"]);
        Ok(Compared { wrong, warning: self.other_properties(&expected, facts) })
    }

    /// The properties of the backup that `found` has not, a whole sentence with the reason: those of the live database, or of
    /// a new one where there is none.
    pub fn other_properties(&self, found: &Properties, facts: Option<&Facts>) -> Option<String> {
        let noted = facts?.properties.as_ref()?;
        let others = noted.differences(found, ["at the backup", "now"]);
        if others.is_empty() {
            return None;
        }
        let name = &self.name;
        let (why, cure) = match &self.live {
            Some(_) if self.swaps => {
                ("since a restore keeps those of the live database (ALTER DATABASE changes them)", "")
            }
            Some(_) => ("since a restore in place changes none (ALTER DATABASE does)", ""),
            None => (
                "since there was no database to take them over from",
                " The archive has the statements that set them (ALTER DATABASE, GRANT … ON DATABASE), with the name of the database \
                 of the backup: unpack the archive as `show` prints it, and end the line with | pg_restore --create \
                 --section=pre-data --file=-",
            ),
        };
        Some(format!(
            "Properties of database {name} differ from the backup, {why}: {}.{cure}",
            others.join("; ")
        ))
    }
}

#[test]
fn a_long_value_is_told_by_its_hash() {
    let long = |last: &str| shortened(format!("{}{last}", "é".repeat(Properties::VALUE_KEPT)));
    assert_ne!(long("a"), long("b"));
    assert!(long("a").len() < Properties::VALUE_KEPT + 120);
    assert_eq!(shortened("7MB".into()), "7MB");
}
