//! The words of a server and of `pg_restore`, as results and logs may have them: without the contents of rows and without the
//! text of statements, which may hold secrets.

use std::borrow::Cow;

/// The lines that follow one another on a program's standard error.
#[derive(Debug, Default)]
pub struct StderrFilter {
    /// True while the lines belong to a value or a statement that is left out.
    is_left_out: bool,
}

impl StderrFilter {
    /// The next line as it may be shown; `None` where nothing of the line may be.
    pub fn line(&mut self, line: &str) -> Option<String> {
        let is_labelled =
            line.starts_with("pg_restore:") || label(line).is_some() || line.starts_with(COMMAND);
        if self.is_left_out && !is_labelled {
            return None;
        }
        let shown = without_rows(line);
        // The rest of a value that has a line break in it, and the rest of a statement, are on the next lines.
        self.is_left_out = line.starts_with(COMMAND) || *shown != *line && !line.ends_with(['.', '"']);
        Some(shown.into_owned())
    }
}

/// The words (in English) of libpq and the server for faults that pass.
pub const PASSING: [&str; 12] = [
    "server closed the connection unexpectedly",
    "could not receive data from server",
    "could not send data to server",
    "Connection refused",
    "timeout expired",
    "the database system is",
    "too many clients",
    "too many connections for role",
    "too many connections for database",
    "remaining connection slots",
    "terminating connection",
    "canceling statement due to",
];

/// The warnings in the output of `pg_dump`, each with the details that follow it.
pub fn warnings(stderr: &str) -> impl Iterator<Item = String> {
    let mut found: Vec<String> = Vec::new();
    for line in stderr.lines() {
        if let Some((_, warning)) = line.split_once("warning: ") {
            found.push(format!("pg_dump: {warning}"));
        } else if let Some(last) = found.last_mut() {
            last.push(' ');
            last.push_str(line.trim_start_matches("pg_dump: "));
        }
    }
    found.into_iter()
}

/// The consequence and the cure of a row that no `pg_dump` can write.
pub const LONG_ROW: &str = "a row of this table is longer than 1 GB as text, in which each byte of bytea takes two letters, and \
     pg_dump cannot write such a row: find it by octet_length(), and keep its value as a large object, as a file or in pieces";

/// Tests whether the words of `pg_dump` are those of a row that is longer than what a server can send as one text
/// (`src/common/stringinfo.c`, `src/backend/utils/mmgr/mcxt.c`).
pub fn is_of_a_long_row(stderr: &str) -> bool {
    const TOO_LONG: [&str; 3] = [
        "invalid memory alloc request size",
        "Cannot enlarge string buffer",
        "string buffer exceeds maximum allowed length",
    ];
    stderr.contains("Dumping the contents of table") && TOO_LONG.iter().any(|words| stderr.contains(words))
}

#[test]
fn a_row_that_is_longer_than_a_server_can_send_is_known_by_the_words_of_each_version() {
    let failed = "pg_dump: error: Dumping the contents of table \"big\" failed: PQgetResult() failed.\n\
                  pg_dump: detail: Error message from server: ERROR:  ";
    for said in [
        "invalid memory alloc request size 1080000003",
        "out of memory\nDETAIL:  Cannot enlarge string buffer containing 600000007 bytes by 600000002 more bytes.",
        "string buffer exceeds maximum allowed length (1073741823 bytes)",
    ] {
        assert!(is_of_a_long_row(&format!("{failed}{said}")), "{said}");
    }
    assert!(!is_of_a_long_row(&format!("{failed}out of memory\nDETAIL:  Failed on request of size 1024.")));
}

const COMMAND: &str = "Command was: ";

/// The label of a line of details, `DETAIL` in the language of the server.
fn label(line: &str) -> Option<&str> {
    let (label, _) = line.split_once(":  ")?;
    (!label.is_empty() && label.chars().all(char::is_uppercase)).then_some(label)
}

/// A line without the values of a row that the line quotes, and a statement without what stands in brackets and quotes.
///
/// PostgreSQL quotes rows in `Failing row contains (…)`, `Key (…)=(…)` and `COPY table, line 1: "…"`, and a value in `invalid
/// input syntax for type …: "…"` and messages like it (`src/backend/executor/execMain.c`, `src/backend/commands/copyfrom.c`).
pub fn without_rows(line: &str) -> Cow<'_, str> {
    if line.starts_with(COMMAND) {
        return cut(line, line.find(['(', '\'', '$']));
    }
    if let Some(failed) = line.find("COPY failed for table ") {
        let (head, words) = line.split_at(failed);
        return format!("{head}{}", without_value(words)).into();
    }
    if let Some(copied) = line.find("COPY ") {
        // `COPY table, line 1, column c: "…"`, in the language and with the quotes of the server.
        let place = line[copied..].find(", ").map(|at| copied + at);
        return cut(line, place.and_then(|place| line[place..].find(": ").map(|at| place + at + 1)));
    }
    if label(line).is_some() {
        if let Some((key, rest)) = line.split_once(")=(") {
            let rest = rest.rsplit_once(')').map_or("", |(_, rest)| rest);
            return format!("{key})=(…){rest}").into();
        }
        return cut(line, line.find(" (").filter(|_| !line.contains(" SET ")).map(|at| at + 1));
    }
    Cow::Borrowed(line)
}

/// The words of a message about a row, without the value that the message ends with.
pub fn without_value(words: &str) -> Cow<'_, str> {
    const QUOTES: [char; 5] = ['"', '»', '„', '“', '«'];
    let value = words.match_indices(": ").find(|(at, _)| words[at + 2..].starts_with(QUOTES));
    cut(words, value.map(|(at, _)| at + 1))
}

fn cut(line: &str, at: Option<usize>) -> Cow<'_, str> {
    at.map_or(Cow::Borrowed(line), |at| format!("{} …", line[..at].trim_end()).into())
}

#[test]
fn rows_and_the_text_of_statements_are_left_out() {
    let said = "pg_restore: from TOC entry 3388; 0 16467 TABLE DATA patients postgres
pg_restore: error: COPY failed for table \"patients\": ERROR:  new row for relation \"patients\" violates check constraint \"ok\"
DETAIL:  Failing row contains (Alice Secret,
HIV positive).
CONTEXT:  COPY patients, line 1: \"Alice Secret\tHIV positive\"
pg_restore: error: could not execute query: ERROR:  could not create unique index \"u\"
DETAIL:  Key (name)=(alice secret) is duplicated.
Command was: ALTER USER MAPPING FOR rna SERVER other OPTIONS (password 'S3CRET',
  user 'x');
pg_restore: error: COPY failed for table \"t\": ERROR:  invalid input syntax for type money: \"1.234,56\"
DÉTAIL:  La ligne en échec contient (Alice Secret).
HINT:  No function matches the given name and argument types.";
    let mut lines = StderrFilter::default();
    let shown: Vec<_> = said.lines().filter_map(|line| lines.line(line)).collect();
    assert_eq!(
        shown,
        [
            "pg_restore: from TOC entry 3388; 0 16467 TABLE DATA patients postgres",
            "pg_restore: error: COPY failed for table \"patients\": ERROR:  new row for relation \"patients\" violates check constraint \"ok\"",
            "DETAIL:  Failing row contains …",
            "CONTEXT:  COPY patients, line 1: …",
            "pg_restore: error: could not execute query: ERROR:  could not create unique index \"u\"",
            "DETAIL:  Key (name)=(…) is duplicated.",
            "Command was: ALTER USER MAPPING FOR rna SERVER other OPTIONS …",
            "pg_restore: error: COPY failed for table \"t\": ERROR:  invalid input syntax for type money: …",
            "DÉTAIL:  La ligne en échec contient …",
            "HINT:  No function matches the given name and argument types.",
        ]
    );
    let german = "COPY patients, Zeile 1: »Alice Secret\tHIV positive«";
    assert_eq!(without_rows(german), "COPY patients, Zeile 1: …");
    let mut short = StderrFilter::default();
    let lines = ["DETAIL:  Failing row contains (1,", "x)."];
    let shown: Vec<_> = lines.iter().filter_map(|line| short.line(line)).collect();
    assert_eq!(shown, ["DETAIL:  Failing row contains …"]);
    assert_eq!(without_value("Syntax für Typ money: »1,5«"), "Syntax für Typ money: …");
    assert_eq!(
        without_value("invalid input syntax for type money: \"1\""),
        "invalid input syntax for type money: …"
    );
}
