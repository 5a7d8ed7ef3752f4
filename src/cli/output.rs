//! Text and tables for people, JSON for programs.

use crate::cli::Exit;
use serde::Serialize;
use std::{
    fmt,
    io::{self, Write},
};

/// Prints to standard output. A reader that has gone away, as in `| head`, is no failure.
pub(super) fn print(text: impl fmt::Display) -> Exit {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => Exit::Done,
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(err) => {
            note(format_args!("error: write to standard output: {err}"));
            Exit::Failed
        }
    }
}

/// Prints one JSON document.
pub(super) fn json(value: &impl Serialize) -> Exit {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(text),
        Err(err) => {
            note(format_args!("error: write JSON: {err}"));
            Exit::Failed
        }
    }
}

/// Prints a line for the person on standard error.
pub(super) fn note(text: impl fmt::Display) {
    // Nobody left to tell.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Rows under a heading, columns as wide as their widest cell; numbers to the right.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    right: &'static [usize],
}

impl Table {
    /// A table with these headings; the columns numbered in `right` hold numbers.
    pub(super) fn new(headings: &[&str], right: &'static [usize]) -> Self {
        Self { rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()], right }
    }

    /// One more row.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let padded = |(column, cell): (usize, &String)| {
            let width = widths[column];
            if self.right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        };
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row.iter().enumerate().map(padded).collect();
            cells.join("  ").trim_end().to_owned()
        };
        f.write_str(&self.rows.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

#[test]
fn columns_line_up() {
    let mut table = Table::new(&["NAME", "SIZE"], &[1]);
    table.row(vec!["postgres".into(), "1".into()]);
    table.row(vec!["é".into(), "1000".into()]);
    assert_eq!(table.to_string(), "NAME      SIZE\npostgres     1\né         1000");
}
