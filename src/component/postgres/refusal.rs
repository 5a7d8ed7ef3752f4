//! Entries of an archive that a server refuses, read from what `pg_restore --verbose` says.

use crate::component::ComponentError;
use crate::component::postgres::entries::{ROWS, is_derived, kind_of};
use crate::component::postgres::server_messages::{without_rows, without_value};
use crate::component::process::LineAction;
use rustix::process::Pid;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// One refused entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The entry's kind, as `INDEX`.
    pub kind: String,
    /// The entry's schema, where `pg_restore` has said it.
    pub schema: Option<String>,
    /// The entry's name as `pg_restore --list` has it: of a trigger, a policy and a constraint the table and the name.
    pub tag: String,
    /// The server's words.
    pub said: String,
}

impl Refusal {
    /// The entry's name with the schema: `public.words`.
    pub fn name(&self) -> String {
        let name = self.of_object();
        self.schema.as_ref().map_or_else(|| name.to_owned(), |schema| format!("{schema}.{name}"))
    }

    /// The entry's name and the cause, in words.
    pub fn words(&self) -> String {
        format!("{} {} ({})", self.kind.to_lowercase(), self.name(), self.said)
    }

    /// True if all rows can be there without the entry.
    pub fn is_derived(&self) -> bool {
        is_derived(&self.kind)
    }

    /// True if the server did not find a name without a schema.
    fn is_of_the_search_path(&self) -> bool {
        let missing = self.said.split_once(" does not exist").map(|(object, _)| object);
        let kinds = ["function ", "procedure ", "relation ", "type "];
        let name = missing.and_then(|object| kinds.iter().find_map(|kind| object.strip_prefix(kind)));
        name.is_some_and(|name| !name.split('(').next().unwrap_or_default().contains('.'))
    }

    /// True if the entry holds privileges on an object of the server itself.
    pub fn is_right_on_server(&self) -> bool {
        self.kind == "ACL" && self.schema.as_deref() == Some("pg_catalog")
    }

    /// The entry's name, or that of the object whose right or comment the entry is.
    pub fn of_object(&self) -> &str {
        let is_addition = ["ACL", "COMMENT", "SECURITY LABEL"].contains(&self.kind.as_str());
        if is_addition { strip_kind(&self.tag) } else { &self.tag }
    }

    /// True if one of these names is that of the entry, of its table, or of the object that it is a right or a comment of.
    pub fn is_named_by(&self, names: &[String]) -> bool {
        let bare = self.of_object();
        let is_it = |name: &String| {
            let ends =
                |bare: &str| name == bare || name.strip_suffix(bare).is_some_and(|rest| rest.ends_with('.'));
            // `docs no_stranger`: the table, or the function without its arguments.
            let parts = bare.match_indices([' ', '(']).map(|(at, _)| &bare[..at]);
            ends(bare) || parts.into_iter().any(ends)
        };
        names.iter().any(is_it)
    }
}

/// The error of a restore that the server refuses these entries.
pub fn error(refused: &[Refusal]) -> ComponentError {
    let of_others =
        |refusal: &&Refusal| !["ACL", "COMMENT", "SECURITY LABEL"].contains(&refusal.kind.as_str());
    let mut named: Vec<_> = refused.iter().filter(of_others).collect();
    if named.is_empty() {
        named = refused.iter().collect();
    }
    let words: Vec<_> = named.iter().map(|refusal| refusal.words()).collect();
    let names: BTreeSet<_> = named.iter().map(|refusal| refusal.name()).collect();
    let rows = if named.iter().any(|refusal| refusal.kind == ROWS) {
        "; of a table that is named, the rows would be missing"
    } else {
        ""
    };
    let cure = if named.iter().any(|refusal| refusal.is_of_the_search_path()) {
        "; names without a schema are not found, since search_path is empty during a restore: in the source, give the \
         functions a search_path (ALTER FUNCTION … SET search_path = …), or name the schemas, and back up anew"
    } else {
        ""
    };
    let what = format!("the server refuses {}{rows}{cure}", words.join("; "));
    ComponentError::Refused { what, names: names.into_iter().collect() }
}

/// `TABLE docs` without the kind.
fn strip_kind(tag: &str) -> &str {
    let is_kind = |word: &str| !word.is_empty() && word.chars().all(|letter| letter.is_ascii_uppercase());
    let mut rest = tag;
    while let Some((word, after)) = rest.split_once(' ')
        && is_kind(word)
    {
        rest = after;
    }
    rest
}

/// The reader of the lines of `pg_restore --verbose`.
#[derive(Debug, Default)]
pub struct Refusals {
    /// All refused entries, in order.
    pub found: Vec<Refusal>,
    /// True if something failed that is no entry: the archive, the connection, the program.
    pub is_broken: bool,
    /// True if the program has said at its end that it went on past the refusals.
    pub is_at_end: bool,
    /// The number of times that the server refused the program's own `SET transaction_timeout`.
    pub timeouts: usize,
    /// The processes of the program, each with its progress. `pg_restore --jobs` has several, which write side by side.
    processes: HashMap<Option<Pid>, Process>,
}

/// The progress of one process of `pg_restore`.
#[derive(Debug, Default)]
struct Process {
    /// The last entries that were begun: kind, and name with schema.
    begun: VecDeque<(String, String)>,
    /// The entry that errors are of: kind and tag. The program names an entry before its first error alone.
    entry: Option<(String, String)>,
    /// The error that is being read: the server's words, and the statement.
    open: Option<(String, String)>,
}

/// The most refused entries that are read: the rest says nothing new.
const ENOUGH: usize = 200;

/// A setting of the whole server that a hint of `pg_cron` would point at the copy.
const HARMFUL: &str = "cron.database_name";

/// The bytes of the server's words that are kept of each refused entry.
const WORDS_KEPT: usize = 400;

/// The entries that are kept of those that a process has begun: the one that fails is among the last.
const BEGUN: usize = 8;

impl Refusals {
    /// Reads one line of a process. `may_go_on` tells of an entry that is refused whether the rest makes sense without it.
    pub fn read(
        &mut self,
        process: Option<Pid>,
        line: &str,
        may_go_on: impl Fn(&Refusal) -> bool,
    ) -> LineAction {
        let Some(message) = line.strip_prefix("pg_restore: ") else {
            return self.detail(process, line, &may_go_on);
        };
        let stop = self.close(process, &may_go_on);
        let labels = ["error: ", "warning: ", "detail: ", "hint: "];
        let told = labels.iter().find_map(|label| message.strip_prefix(label));
        let said = told.unwrap_or(message);
        let mut action = if told.is_some() { LineAction::Keep } else { LineAction::Skip };
        let at = self.processes.entry(process).or_default();
        if let Some(words) = refused(said) {
            at.open = Some((words, String::new()));
            action = LineAction::Keep;
        } else if let Some(entry) = said.strip_prefix("from TOC entry ") {
            at.entry = toc_entry(entry);
        } else if let Some((kind, name)) = begun(said) {
            at.begun.push_front((kind.to_owned(), name.to_owned()));
            at.begun.truncate(BEGUN);
        } else if said.starts_with("errors ignored on restore: ") {
            self.is_at_end = true;
            action = LineAction::Keep;
        } else if is_of_no_entry(said) {
            self.is_broken = true;
            // Without a session each further entry would fail as well.
            let is_over = said.starts_with("could not execute query: ");
            action = if is_over { LineAction::Stop } else { LineAction::Keep };
        }
        if stop { LineAction::Stop } else { action }
    }

    /// Ends the reading.
    pub fn finish(&mut self) {
        let processes: Vec<_> = self.processes.keys().copied().collect();
        for process in processes {
            self.close(process, &|_: &Refusal| true);
        }
    }

    /// Reads a line that belongs to the message before it.
    fn detail(
        &mut self,
        process: Option<Pid>,
        line: &str,
        may_go_on: &impl Fn(&Refusal) -> bool,
    ) -> LineAction {
        let open = self.processes.get_mut(&process).and_then(|at| at.open.as_mut());
        let Some((words, statement)) = open else { return LineAction::Keep };
        let shown = without_rows(line);
        let detail = ["HINT:", "DETAIL:", "CONTEXT:"].iter().find_map(|label| shown.strip_prefix(label));
        if let Some(command) = line.strip_prefix("Command was: ") {
            command.clone_into(statement);
            if self.close(process, may_go_on) {
                return LineAction::Stop;
            }
        } else if let Some(detail) = detail.filter(|text| words.len() < WORDS_KEPT && !text.contains(HARMFUL))
        {
            words.push_str("; ");
            words.push_str(detail.trim());
        }
        LineAction::Keep
    }

    /// Ends the error that is being read of a process. Returns true if the program is to end.
    fn close(&mut self, process: Option<Pid>, may_go_on: &impl Fn(&Refusal) -> bool) -> bool {
        let Some(at) = self.processes.get_mut(&process) else { return false };
        let Some((mut said, statement)) = at.open.take() else { return false };
        if statement == "SET transaction_timeout = 0;" {
            self.timeouts += 1;
            return false;
        }
        said.truncate(said.floor_char_boundary(WORDS_KEPT));
        let Some((kind, tag)) = at.entry.clone() else {
            self.is_broken = true;
            return true;
        };
        let begun = at.begun.iter().find(|(begun, name)| *begun == kind && name.ends_with(&*tag));
        let schema =
            begun.and_then(|(_, name)| name.strip_suffix(&*tag)?.strip_suffix('.')).map(str::to_owned);
        let refusal = Refusal { kind, schema, tag, said };
        let goes_on = may_go_on(&refusal);
        self.found.push(refusal);
        !goes_on || self.found.len() >= ENOUGH
    }
}

/// Returns whether a message is an error of the program and not of one entry.
fn is_of_no_entry(message: &str) -> bool {
    message.starts_with("could not ") || message.starts_with("error returned by ")
}

/// The server's words of a refusal. The server says `ERROR` in its own language.
fn refused(message: &str) -> Option<String> {
    let said = |said: &'_ str| {
        let (severity, words) = said.split_once(":  ")?;
        // After these there is no session any more.
        let is_end = ["FATAL", "PANIC"].contains(&severity) || severity.contains(' ');
        (!is_end).then(|| words.to_owned())
    };
    if let Some(query) = message.strip_prefix("could not execute query: ") {
        return said(query);
    }
    let (_, copy) = message.strip_prefix("COPY failed for table \"")?.split_once("\": ")?;
    said(copy).map(|words| without_value(&words).into_owned())
}

/// The kind and the name of an entry that is begun.
fn begun(message: &str) -> Option<(&str, &str)> {
    if let Some(sequence) = message.strip_prefix("executing SEQUENCE SET ") {
        return Some(("SEQUENCE SET", sequence));
    }
    let table = message.strip_prefix("processing data for table \"").map(|table| (ROWS, table));
    let (kind, name) = table.or_else(|| message.strip_prefix("creating ")?.split_once(" \""))?;
    Some((kind, name.strip_suffix('"')?))
}

/// The kind and the tag of `3383; 0 16392 MATERIALIZED VIEW DATA words postgres`. The owner is one word, as far as anybody can tell.
fn toc_entry(text: &str) -> Option<(String, String)> {
    let rest = text.splitn(4, ' ').nth(3)?;
    let kind = kind_of(rest);
    let named = rest.get(kind.len() + 1..)?;
    let named = named.strip_suffix(" (no owner)").map_or_else(|| named.to_owned(), |tag| format!("{tag} -"));
    let tag = named.rsplit_once(' ').map_or(&*named, |(tag, _)| tag);
    Some((kind.to_owned(), tag.to_owned()))
}

#[cfg(test)]
mod tests;
