//! Names in an archive, which may have been made to climb out of the folder that it is unpacked into.

/// The most folders that may lie in one another: each is held open while something is put into it.
pub(super) const DEEPEST: usize = 512;

/// Takes a path apart into names, none of which leads anywhere but down; the root has none.
///
/// # Errors
///
/// The fault of a path, for people.
pub(super) fn parts(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if path.starts_with(b"/") {
        return Err("its path is absolute");
    }
    if path.is_empty() {
        return Err("it has no name");
    }
    if memchr::memchr(0, path).is_some() {
        return Err("its name holds a NUL");
    }
    let names: Vec<_> =
        path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    if names.contains(&&b".."[..]) {
        return Err("its path leads upwards");
    }
    if names.len() > DEEPEST {
        return Err("it lies deeper than 512 folders");
    }
    Ok(names)
}

/// Tests whether a symbolic link that lies `depth` folders below the root may lead out of it, whatever other
/// links there are.
///
/// Above a link there are folders only, so steps upwards are counted as long as they come first. After a name
/// they are not: that name may be another link, and upwards is then anywhere.
pub(super) fn leaves(target: &[u8], depth: usize) -> bool {
    let mut names = target.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).peekable();
    let mut up = 0;
    while names.next_if_eq(&&b".."[..]).is_some() {
        up += 1;
    }
    target.starts_with(b"/") || up > depth || names.any(|name| name == b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_down_or_nowhere() {
        for (path, names) in [
            ("a/b", Ok(vec!["a", "b"])),
            ("./a//b/./", Ok(vec!["a", "b"])),
            ("./", Ok(vec![])),
            ("..a/.b", Ok(vec!["..a", ".b"])),
            ("", Err("it has no name")),
            ("/a", Err("its path is absolute")),
            ("a/../b", Err("its path leads upwards")),
            ("a/..", Err("its path leads upwards")),
            ("a\0b", Err("its name holds a NUL")),
        ] {
            let names = names.map(|names| names.into_iter().map(str::as_bytes).collect());
            assert_eq!(parts(path.as_bytes()), names, "{path}");
        }
        assert_eq!(parts("a/".repeat(512).as_bytes()).map(|names| names.len()), Ok(512));
        parts("a/".repeat(513).as_bytes()).unwrap_err();
    }

    #[test]
    fn links_stay_below_the_root_or_leave() {
        for (target, depth, out) in [
            ("a", 0, false),
            ("../a/b", 1, false),
            (".././../a", 2, false),
            ("", 0, false),
            (".", 0, false),
            ("..", 0, true),
            ("../..", 1, true),
            ("/", 3, true),
            ("/a", 3, true),
            ("a/..", 3, true), // `a` may be a link to the root
        ] {
            assert_eq!(leaves(target.as_bytes(), depth), out, "{target} at {depth}");
        }
    }
}
