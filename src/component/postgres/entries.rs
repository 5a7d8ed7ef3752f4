//! The kinds of entries of an archive (`pg_restore --list`), from the [list](super::kinds) of everything that a database holds.

use crate::component::postgres::kinds::KINDS;

/// The kind of the rows of a table.
pub const ROWS: &str = "TABLE DATA";

/// The kind of the contents of a materialized view.
pub const CONTENTS: &str = "MATERIALIZED VIEW DATA";

/// Tests whether all rows can be there without an entry of this kind.
pub fn is_derived(kind: &str) -> bool {
    KINDS.iter().any(|listed| listed.derived.contains(&kind))
}

/// The kind that an entry begins with.
pub fn kind_of(entry: &str) -> &str {
    let kinds = KINDS.iter().flat_map(|listed| listed.holding.iter().chain(listed.derived));
    let begins = |kind: &&&str| entry.strip_prefix(**kind).is_some_and(|rest| rest.starts_with(' '));
    let first_word = entry.split(' ').next().unwrap_or_default();
    kinds.filter(begins).max_by_key(|kind| kind.len()).map_or(first_word, |kind| &entry[..kind.len()])
}
