//! The kinds of entries of an archive (`pg_restore --list`): those that hold rows or that rows need, and the others.

/// The kinds of entries (`pg_restore --list`) that hold no rows and that no rows need.
pub const DERIVED: [&str; 45] = [
    "ACCESS METHOD",
    "ACL",
    "AGGREGATE",
    "CAST",
    "CHECK CONSTRAINT",
    "COLLATION",
    "COMMENT",
    "CONSTRAINT",
    "CONVERSION",
    "DEFAULT",
    "DEFAULT ACL",
    "EVENT TRIGGER",
    "EXTENSION",
    "FK CONSTRAINT",
    "FOREIGN DATA WRAPPER",
    "FOREIGN TABLE",
    "FUNCTION",
    "INDEX",
    "INDEX ATTACH",
    "MATERIALIZED VIEW",
    "MATERIALIZED VIEW DATA",
    "OPERATOR",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "POLICY",
    "PROCEDURAL LANGUAGE",
    "PROCEDURE",
    "PUBLICATION",
    "PUBLICATION TABLE",
    "PUBLICATION TABLES IN SCHEMA",
    "ROW SECURITY",
    "RULE",
    "SECURITY LABEL",
    "SEQUENCE OWNED BY",
    "SERVER",
    "STATISTICS",
    "STATISTICS DATA",
    "SUBSCRIPTION",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "TRANSFORM",
    "TRIGGER",
    "USER MAPPING",
];

/// The kinds of several words of entries that rows need.
const HOLDING: [&str; 6] =
    ["TABLE DATA", "TABLE ATTACH", "SEQUENCE SET", "LARGE OBJECT", "BLOB METADATA", "SHELL TYPE"];

/// The kind of the rows of a table.
pub const ROWS: &str = "TABLE DATA";

/// The kind of the contents of a materialized view.
pub const CONTENTS: &str = "MATERIALIZED VIEW DATA";

/// The kind that an entry begins with.
pub fn kind_of(entry: &str) -> &str {
    let kinds = DERIVED.iter().copied().chain(HOLDING);
    let begins = |kind: &&str| entry.strip_prefix(kind).is_some_and(|rest| rest.starts_with(' '));
    let first_word = entry.split(' ').next().unwrap_or_default();
    kinds.filter(begins).max_by_key(|kind| kind.len()).map_or(first_word, |kind| &entry[..kind.len()])
}
