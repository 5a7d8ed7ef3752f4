//! The table of contents of an archive, as `pg_restore --list` prints it and `--use-list` takes it.

use crate::base::durable::blocking;
use crate::component::postgres::{
    clients::Client,
    entries::{ROWS, kind_of},
    refusal::Refusal,
};
use crate::component::process::Program;
use crate::component::{ComponentError, scratch::Scratch};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The whole line.
    line: String,
    /// The entry's kind, as `INDEX`.
    pub kind: String,
    /// The entry's schema; `-` where it has none.
    pub schema: String,
    /// The entry's name: of a trigger, a policy and a constraint the table and the name.
    pub tag: String,
}

impl Entry {
    /// The schema and the name of the entry: where both have spaces, the end of the schema cannot be told.
    pub fn whole(&self) -> String {
        format!("{} {}", self.schema, self.tag)
    }

    /// True if one of these names is that of the entry, and no rows but its own need it.
    pub fn may_be_missing(&self, names: &[String]) -> bool {
        let refusal = self.refused("");
        let full = refusal.name();
        let (bare, tag) = (refusal.of_object(), self.tag.as_str());
        let is_it = |name: &String| {
            *name == full
                || name == tag
                || name == bare
                || *name == format!("{}.{bare}", self.schema)
                || name.replacen('.', " ", 1) == self.whole()
        };
        (refusal.is_derived() || self.kind == ROWS) && names.iter().any(is_it)
    }

    /// The entry as one that the server has refused.
    pub fn refused(&self, said: &str) -> Refusal {
        Refusal {
            kind: self.kind.clone(),
            schema: (self.schema != "-").then(|| self.schema.clone()),
            tag: self.tag.clone(),
            said: said.to_owned(),
        }
    }
}

/// The kind of primary keys, unique and exclusion constraints.
const CONSTRAINT: &str = "CONSTRAINT";

/// The entries of an archive, in order.
#[derive(Debug, Default)]
pub struct Contents(pub Vec<Entry>);

impl Contents {
    /// Reads what `pg_restore --list` has printed. A schema and an owner are one word, as far as anybody can tell.
    pub fn parse(text: &str) -> Self {
        let entry = |line: &str| {
            let (_, numbered) = line.split_once("; ").filter(|(id, _)| id.parse::<u32>().is_ok())?;
            let rest = numbered.splitn(3, ' ').nth(2)?;
            let kind = kind_of(rest);
            let (schema, named) = rest.get(kind.len() + 1..)?.split_once(' ')?;
            let tag = named.rsplit_once(' ').map_or(named, |(tag, _)| tag);
            Some(Entry { line: line.to_owned(), kind: kind.into(), schema: schema.into(), tag: tag.into() })
        };
        Self(text.lines().filter_map(entry).collect())
    }

    /// The table of contents of a file.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Failed`] when it is no archive.
    pub async fn of_file(client: &Client, file: &Scratch) -> Result<Self, ComponentError> {
        let program = Program::new("pg_restore", &client.dir.join("pg_restore")).env("LC_ALL", "C");
        let text = program.args(["--list", Scratch::AS_STDIN]).stdin(file.handle()?).text().await?;
        Ok(Self::parse(&text))
    }

    /// Puts these constraints, each with schema and table, before all others. `pg_restore --clean` goes the other way
    /// round, so that they go with the constraints of their parents, and PostgreSQL drops them in no other way.
    pub fn put_first(&mut self, constraints: &[String]) {
        let ranks: HashMap<_, _> =
            constraints.iter().enumerate().map(|(rank, name)| (name.as_str(), rank)).collect();
        let rank = |entry: &Entry| {
            let whole = entry.whole();
            // The owner at the end of a line may have spaces.
            let shorter = |text: &&str| text.rfind(' ').map(|end| &whole[..end]);
            let mut names = std::iter::successors(Some(&*whole), |text| shorter(text));
            names.find_map(|name| ranks.get(name).copied()).filter(|_| entry.kind == CONSTRAINT)
        };
        let Some(first) = self.0.iter().position(|entry| entry.kind == CONSTRAINT) else { return };
        let rest = self.0.split_off(first);
        let (mut put, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|entry| rank(entry).is_some());
        put.sort_by_key(rank);
        self.0.extend(put.into_iter().chain(rest));
    }

    /// Writes the entries that `is_wanted` into a file in `folder`.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`] when the disk does not take it.
    pub async fn list(
        &self,
        folder: &Path,
        is_wanted: impl Fn(&Entry) -> bool,
    ) -> Result<ListFile, ComponentError> {
        let lines: Vec<_> =
            self.0.iter().filter(|entry| is_wanted(entry)).map(|entry| entry.line.as_str()).collect();
        let (into, text) = (folder.to_owned(), lines.join("\n"));
        let written = blocking(move || ListFile::write(&into, &text)).await;
        written.map_err(|err| ComponentError::Unavailable {
            what: format!("write a scratch file in {}", folder.display()),
            source: Some(err.into()),
        })
    }
}

/// A list of entries on disk, removed with the value.
#[derive(Debug)]
pub struct ListFile(PathBuf);

impl ListFile {
    fn write(folder: &Path, text: &str) -> io::Result<Self> {
        let file = Self(folder.join(format!(".rna-restore-{}.list", Uuid::new_v4())));
        File::options().write(true).create_new(true).mode(0o600).open(&file.0)?.write_all(text.as_bytes())?;
        Ok(file)
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ListFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // a few kilobytes, in a folder for such things
    }
}

#[test]
fn entries_are_read_with_their_schemas_and_names() {
    let text = ";\n; Archive created at 2026-11-29\n;     dbname: app\n;\n3383; 0 16392 MATERIALIZED VIEW DATA public words app\n\
                3218; 3466 16425 EVENT TRIGGER - et postgres\n3220; 2606 16391 FK CONSTRAINT public b b_a_fk app\n";
    let found = Contents::parse(text).0;
    let found: Vec<_> = found.iter().map(|e| (e.kind.as_str(), e.schema.as_str(), e.tag.as_str())).collect();
    assert_eq!(
        found,
        [
            ("MATERIALIZED VIEW DATA", "public", "words"),
            ("EVENT TRIGGER", "-", "et"),
            ("FK CONSTRAINT", "public", "b b_a_fk")
        ]
    );
}

#[test]
fn constraints_of_partitions_are_made_before_those_of_their_parents() {
    let line = |at, rest: &str| format!("{at}; 2606 {at} {rest}\n");
    let text = line(1, "TABLE public parent app")
        + &line(2, "CONSTRAINT public other k app")
        + &line(3, "CONSTRAINT public parent parent_pkey app")
        + &line(4, "CONSTRAINT lab data ch 1 ch_pkey the app")
        + &line(5, "CONSTRAINT public sub sub_pkey app");
    let mut contents = Contents::parse(&text);
    contents.put_first(&["public sub sub_pkey".into(), "lab data ch 1 ch_pkey".into()]);
    let order: Vec<_> = contents.0.iter().map(|entry| &entry.line[..1]).collect();
    assert_eq!(order, ["1", "5", "4", "2", "3"]);
}
