//! Counts the rows in the script that `pg_restore --data-only` writes.

use crate::component::postgres::names::decode_name;
use memchr::memchr;
use std::collections::BTreeMap;

/// Longer statements than this are not `COPY … FROM stdin`: 1,600 columns of 63 bytes each, every
/// byte a doubled quote, are 210 KB.
const LONGEST_STATEMENT: usize = 1 << 20;

/// Reads the script as it streams by, in memory that does not grow with it.
///
/// The reader is exact, not a search: statements are read with their quotes and comments, so that text
/// which only looks like `COPY` does not count, and every byte between `FROM stdin;` and `\.` is a
/// row's. Of the statements, `--data-only` leaves little more than `SET`, `setval` and the large
/// objects: there are no function bodies, hence no dollar quotes. In quotes a backslash is a
/// letter like any other: `pg_dump` always doubles the quote instead.
#[derive(Debug)]
pub struct RowCounter {
    state: State,
    statement: Vec<u8>,
    encoding: String,
    tables: BTreeMap<(String, String), u64>,
}

#[derive(Debug)]
enum State {
    Statement,
    /// After one `-`: perhaps a comment.
    Dash,
    /// A comment or a command of psql, up to the end of its line.
    Line,
    /// Inside quotes, up to the same character.
    Quoted(u8),
    /// After `FROM stdin;`, up to the end of that line.
    Opened((String, String)),
    Rows {
        table: (String, String),
        rows: u64,
        line: Line,
    },
}

/// The state of the line that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Start,
    Backslash,
    /// Exactly `\.` so far: a newline now ends the rows.
    Dot,
    Inside,
}

/// The script is not one that `pg_restore` writes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// A `COPY` whose table could not be read.
    #[error("the name of a table in the archive cannot be read")]
    Table,
    /// The script ends within rows or a statement.
    #[error("the archive ends in the middle of its data")]
    Unfinished,
}

impl Default for RowCounter {
    fn default() -> Self {
        Self {
            state: State::Statement,
            statement: Vec::new(),
            encoding: "UTF8".to_owned(),
            tables: BTreeMap::new(),
        }
    }
}

impl RowCounter {
    /// Reads the next bytes of the script.
    ///
    /// # Errors
    ///
    /// [`ScriptError::Table`]: after it, further reading makes no sense.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<(), ScriptError> {
        while !bytes.is_empty() {
            let used = if matches!(self.state, State::Rows { .. }) {
                self.read_rows(bytes)
            } else {
                self.read_statement(bytes)?
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// The rows of each table (schema, name), once the script has ended.
    ///
    /// # Errors
    ///
    /// [`ScriptError::Unfinished`] when it has not.
    pub fn finish(self) -> Result<BTreeMap<(String, String), u64>, ScriptError> {
        match self.state {
            State::Statement | State::Line if self.statement.is_empty() => Ok(self.tables),
            _ => Err(ScriptError::Unfinished),
        }
    }

    fn read_rows(&mut self, bytes: &[u8]) -> usize {
        let State::Rows { table, rows, line } = &mut self.state else { return 0 };
        let mut at = 0;
        while at < bytes.len() {
            if *line == Line::Inside {
                match memchr(b'\n', &bytes[at..]) {
                    None => return bytes.len(),
                    Some(end) => at += end + 1,
                }
                *rows += 1;
                *line = Line::Start;
                continue;
            }
            let byte = bytes[at];
            at += 1;
            *line = match (*line, byte) {
                (Line::Dot, b'\n') => {
                    *self.tables.entry(std::mem::take(table)).or_default() += *rows;
                    self.state = State::Statement;
                    return at;
                }
                // A table without columns has empty lines for rows.
                (_, b'\n') => {
                    *rows += 1;
                    Line::Start
                }
                (Line::Start, b'\\') => Line::Backslash,
                (Line::Backslash, b'.') => Line::Dot,
                _ => Line::Inside,
            };
        }
        at
    }

    /// Reads up to the end of the current state; returns how many bytes that were.
    fn read_statement(&mut self, bytes: &[u8]) -> Result<usize, ScriptError> {
        match &mut self.state {
            State::Quoted(mark) => {
                let mark = *mark;
                let (used, closed) = up_to(mark, bytes);
                self.keep(&bytes[..used]);
                if closed {
                    self.state = State::Statement;
                }
                return Ok(used);
            }
            State::Line => {
                let (used, ended) = up_to(b'\n', bytes);
                if ended {
                    self.state = State::Statement;
                }
                return Ok(used);
            }
            State::Opened(table) => {
                let (used, ended) = up_to(b'\n', bytes);
                if ended {
                    self.state = State::Rows { table: std::mem::take(table), rows: 0, line: Line::Start };
                }
                return Ok(used);
            }
            State::Dash if bytes[0] == b'-' => {
                self.state = State::Line;
                return Ok(1);
            }
            State::Dash => {
                self.keep(b"-");
                self.state = State::Statement;
            }
            State::Statement | State::Rows { .. } => {}
        }
        match bytes[0] {
            b'-' => self.state = State::Dash,
            b'\\' if self.statement.is_empty() => self.state = State::Line,
            b';' => self.end_statement()?,
            byte => {
                if byte == b'\'' || byte == b'"' {
                    self.state = State::Quoted(byte);
                }
                if !(self.statement.is_empty() && byte.is_ascii_whitespace()) {
                    self.keep(&[byte]);
                }
            }
        }
        Ok(1)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LONGEST_STATEMENT.saturating_sub(self.statement.len());
        self.statement.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_statement(&mut self) -> Result<(), ScriptError> {
        let statement = std::mem::take(&mut self.statement);
        self.state = State::Statement;
        if let Some(copy) = statement.strip_prefix(b"COPY ").and_then(|s| s.strip_suffix(b" FROM stdin")) {
            self.state = State::Opened(self.table(copy).ok_or(ScriptError::Table)?);
        } else if let Some(set) = statement.strip_prefix(b"SET client_encoding = '") {
            self.encoding = String::from_utf8_lossy(set.strip_suffix(b"'").unwrap_or(set)).into_owned();
        }
        Ok(())
    }

    /// The table of `schema.table (columns)`. Dumps of long ago name no schema.
    fn table(&self, text: &[u8]) -> Option<(String, String)> {
        let (first, rest) = identifier(text)?;
        let name = |raw: &[u8]| decode_name(raw, &self.encoding);
        match rest.strip_prefix(b".") {
            None => Some((String::new(), name(&first))),
            Some(rest) => identifier(rest).map(|(second, _)| (name(&first), name(&second))),
        }
    }
}

/// The number of bytes up to and with `mark`, and whether `mark` is there.
fn up_to(mark: u8, bytes: &[u8]) -> (usize, bool) {
    memchr(mark, bytes).map_or((bytes.len(), false), |at| (at + 1, true))
}

/// Takes an SQL identifier, quoted or not, off the front.
fn identifier(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|b| matches!(b, b'.' | b' ')).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_vec(), &text[end..]));
    };
    let mut name = Vec::new();
    loop {
        let end = memchr(b'"', rest)?;
        name.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(b"\"") {
            Some(after) => {
                name.push(b'"');
                rest = after;
            }
            None => return Some((name, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(
        chunks: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Result<Vec<(String, String, u64)>, ScriptError> {
        let mut counter = RowCounter::default();
        chunks.into_iter().try_for_each(|chunk| counter.read(chunk.as_ref()))?;
        Ok(counter.finish()?.into_iter().map(|((schema, table), rows)| (schema, table, rows)).collect())
    }

    #[test]
    fn only_rows_between_copy_and_its_end_are_counted() {
        type Rows = &'static [(&'static str, &'static str, u64)];
        let cases: [(&str, Rows); 9] = [
            ("", &[]),
            ("COPY public.t (a) FROM stdin;\n\\.\n", &[("public", "t", 0)]),
            ("COPY public.t  FROM stdin;\n\n\n\\.\n\n\n", &[("public", "t", 2)]),
            ("COPY public.t (a) FROM stdin;\n\\N\n\\\\.\nCOPY x FROM stdin;\n\\.\n", &[("public", "t", 3)]),
            ("COPY t (a) FROM stdin;\n1\n\\.\n", &[("", "t", 1)]),
            (
                "-- COPY public.t (a) FROM stdin;\n\\restrict COPY\nSET x = 'COPY public.t (a) FROM stdin;\n';\n",
                &[],
            ),
            ("COPY \"a.b\"\"c\".\"d;'\n\\.\" (\"x;--\") FROM stdin;\n1\n\\.\n", &[("a.b\"c", "d;'\n\\.", 1)]),
            ("SELECT 1 - 2, '\\', '''--';\nCOPY p.t (a) FROM stdin;\n1\n\\.\n", &[("p", "t", 1)]),
            ("COPY p.t (a) FROM stdin;\n1\n\\.\nCOPY p.t (a) FROM stdin;\n2\n\\.\n", &[("p", "t", 2)]),
        ];
        for (script, want) in cases {
            let want: Vec<_> = want.iter().map(|(s, t, n)| ((*s).to_owned(), (*t).to_owned(), *n)).collect();
            assert_eq!(count([script]), Ok(want), "{script}");
        }
    }

    #[test]
    fn a_script_that_stops_in_the_middle_is_unfinished() {
        let whole = "SET a = 'x';\nCOPY public.t (a) FROM stdin;\n1\n\\.\n";
        let statement = "SET a = 'x';".len();
        for end in 0..=whole.len() {
            let between = [0, statement, statement + 1, whole.len()].contains(&end);
            assert_eq!(count([&whole[..end]]).is_ok(), between, "{:?}", &whole[..end]);
        }
        assert_eq!(count(["COPY \"t FROM stdin;"]), Err(ScriptError::Unfinished));
        assert_eq!(count(["COPY  FROM stdin;"]), Err(ScriptError::Table));
    }

    #[test]
    fn names_come_in_the_encoding_that_the_script_sets() {
        let script = b"SET client_encoding = 'LATIN1';\nCOPY public.\"gr\xF6\xDFe\" (a) FROM stdin;\n\\.\n";
        assert_eq!(count([script]).unwrap()[0].1, "größe");
    }

    #[test]
    fn memory_does_not_grow_with_a_row_or_a_statement() {
        let mut counter = RowCounter::default();
        counter.read(b"SELECT pg_catalog.lowrite(0, '").unwrap();
        let chunk = vec![b'a'; 1 << 16];
        (0..100).try_for_each(|_| counter.read(&chunk)).unwrap();
        assert!(counter.statement.capacity() <= 2 * LONGEST_STATEMENT);
        counter.read(b"');\nCOPY public.t (a) FROM stdin;\n").unwrap();
        (0..100).try_for_each(|_| counter.read(&chunk)).unwrap();
        assert!(counter.statement.capacity() < 100);
        counter.read(b"\n\\.\n").unwrap();
        assert_eq!(counter.finish().unwrap().into_values().collect::<Vec<_>>(), [1]);
    }

    proptest! {
        #[test]
        fn any_tables_in_any_chunks_are_counted(
            tables in prop::collection::btree_map(("[^\0]{1,8}", "[^\0]{1,8}"), prop::collection::vec(r"[a\\.N\t;'-]{0,4}", 0..6), 0..4),
            sizes in prop::collection::vec(1usize..12, 1..200),
        ) {
            let mut script = "SET client_encoding = 'UTF8';\n".to_owned();
            for ((schema, table), rows) in &tables {
                let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
                script.extend(["COPY ", &quote(schema), ".", &quote(table), " (a) FROM stdin;\n"]);
                for row in rows {
                    script.extend([&row.replace('\\', "\\\\"), "\n"]);
                }
                script += "\\.\n\n\n--\n-- PostgreSQL database dump complete\n--\n\n";
            }
            let mut rest = script.as_bytes();
            let mut chunks = Vec::new();
            for size in sizes.iter().cycle() {
                let (chunk, after) = rest.split_at((*size).min(rest.len()));
                chunks.push(chunk);
                rest = after;
                if rest.is_empty() { break; }
            }
            let want: Vec<_> = tables.into_iter().map(|((s, t), rows)| (s, t, rows.len() as u64)).collect();
            prop_assert_eq!(count(chunks), Ok(want));
        }
    }
}
