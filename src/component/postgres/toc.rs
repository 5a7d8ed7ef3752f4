//! The table of contents of an archive, as `pg_restore --list` prints it and `--use-list` takes it.

use crate::component::postgres::{
    clients::Client,
    entries::{ROWS, kind_of},
    refusal::Refusal,
};
use crate::component::process::Program;
use crate::component::{ComponentError, Feed, scratch::Scratch};
use crate::domain::progress::Meter;
use std::{
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
    /// Its kind, as `INDEX`.
    pub kind: String,
    /// Its schema; `-` where it has none.
    pub schema: String,
    /// Its name: of a trigger, a policy and a constraint the table and the name.
    pub tag: String,
}

impl Entry {
    /// True if one of these names is that of the entry, and no rows but its own need it.
    pub fn may_be_missing(&self, names: &[String]) -> bool {
        let refusal = self.refused("");
        let full = refusal.name();
        let (bare, tag) = (refusal.of_object(), self.tag.as_str());
        let is_it = |name: &String| {
            *name == full || name == tag || name == bare || *name == format!("{}.{bare}", self.schema)
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

    /// The table of contents at the beginning of an archive, of which no more is read.
    ///
    /// # Errors
    ///
    /// As for [`Contents::of_file`]; that of the feed, sorted.
    pub async fn of_feed(client: &Client, feed: Feed<'_>) -> Result<Self, ComponentError> {
        let mut text = Vec::new();
        let program = Program::new("pg_restore", &client.dir.join("pg_restore")).env("LC_ALL", "C");
        let seen = |chunk: &[u8]| {
            text.extend_from_slice(chunk);
            Ok(())
        };
        program.args(["--list"]).pass(feed, &Meter::default(), seen).await?;
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    /// Writes the entries that `is_wanted` into a file in `folder`.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`] when the disk does not take it.
    pub fn list(
        &self,
        folder: &Path,
        is_wanted: impl Fn(&Entry) -> bool,
    ) -> Result<ListFile, ComponentError> {
        let lines: Vec<_> =
            self.0.iter().filter(|entry| is_wanted(entry)).map(|entry| entry.line.as_str()).collect();
        ListFile::write(folder, &lines.join("\n")).map_err(|err| ComponentError::Unavailable {
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

    /// Its path.
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
