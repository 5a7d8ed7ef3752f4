//! Lines of a query that are for newer servers only: such a line ends with `-- since 14`.

/// The lines of a query that a server of this version understands: those behind a newer `-- since` are left out.
pub fn of_version(query: &str, major: u32) -> String {
    let is_understood = |line: &&str| {
        let since = line.rsplit_once("-- since ").and_then(|(_, since)| since.trim().parse::<u32>().ok());
        since.is_none_or(|since| since <= major)
    };
    query.lines().filter(is_understood).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_line_of_a_newer_version_is_left_out() {
    let query = "SELECT a,\n  b, -- since 14\n  c FROM t";
    assert_eq!(of_version(query, 13), "SELECT a,\n  c FROM t");
    assert_eq!(of_version(query, 14), query);
}
