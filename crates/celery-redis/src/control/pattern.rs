//! Patterns of node names, by the rules of `kombu/matcher.py`, matched in bounded time also for hostile patterns.

use regex_lite::RegexBuilder;

/// Maximum length of a pattern, in bytes: no node name is that long.
const LONGEST: usize = 1024;

/// Maximum memory of a compiled regular expression, in bytes.
const REGEX_SIZE: usize = 1 << 16;

/// Returns `true` if `name` matches `pattern` by the rules of `matcher`; `false` for an unknown matcher.
pub(super) fn matches(name: &str, pattern: &str, matcher: &str) -> bool {
    if pattern.len() > LONGEST {
        return false;
    }
    match matcher {
        "glob" => glob(name, pattern),
        "pcre" => RegexBuilder::new(&format!("^(?:{pattern})"))
            .size_limit(REGEX_SIZE)
            .build()
            .is_ok_and(|regex| regex.is_match(name)),
        _ => false,
    }
}

/// Matches by Python's `fnmatch`: `*`, `?`, `[abc]`, `[a-z]`, `[!abc]`; any other character matches itself.
fn glob(name: &str, pattern: &str) -> bool {
    let (name, pattern): (Vec<char>, Vec<char>) = (name.chars().collect(), pattern.chars().collect());
    let (mut at, mut p) = (0, 0);
    // The place to go back to when the text after the last `*` does not match; earlier `*` need no second try.
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p + 1, at));
            p += 1;
        } else if let Some(next) = one(name[at], &pattern, p) {
            (at, p) = (at + 1, next);
        } else if let Some((after, from)) = star {
            star = Some((after, from + 1));
            (at, p) = (from + 1, after);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Returns the index after the part of the pattern that matches `c`, if that part does.
fn one(c: char, pattern: &[char], p: usize) -> Option<usize> {
    match pattern.get(p)? {
        '?' => Some(p + 1),
        '[' => {
            let start = p + 1 + usize::from(pattern.get(p + 1) == Some(&'!'));
            // A `]` in the first place belongs to the set.
            let end = (start + 1..pattern.len()).find(|end| pattern[*end] == ']');
            let Some(end) = end else { return (c == '[').then_some(p + 1) };
            let wanted = start == p + 1;
            (in_set(c, &pattern[start..end]) == wanted).then_some(end + 1)
        }
        other => (c == *other).then_some(p + 1),
    }
}

fn in_set(c: char, mut set: &[char]) -> bool {
    while let [first, rest @ ..] = set {
        if let ['-', last, rest @ ..] = rest {
            if (first..=last).contains(&&c) {
                return true;
            }
            set = rest;
        } else {
            if c == *first {
                return true;
            }
            set = rest;
        }
    }
    false
}

#[test]
fn globs_are_those_of_python() {
    let cases = [
        ("w1@*", true),
        ("*", true),
        ("*host", true),
        ("w?@*h*t", true),
        ("w[0-9]@*", true),
        ("w[!0-9]@*", false),
        ("w[!a]@caphost", true),
        ("[]w]1*", true),
        ("w1", false),
        ("w1@caphost?", false),
        ("w[1", false),
        ("", false),
        ("w1@caphost**", true),
    ];
    for (pattern, expected) in cases {
        assert_eq!(matches("w1@caphost", pattern, "glob"), expected, "{pattern}");
    }
    assert!(matches("w[1", "w[1", "glob"));
    assert!(!matches("w1@caphost", "*", "telepathy"));
}

#[test]
fn regular_expressions_match_from_the_start_and_stay_small() {
    for (pattern, expected) in
        [("w1", true), ("w\\d@", true), ("caphost", false), ("(", false), ("x|w", true), ("", true)]
    {
        assert_eq!(matches("w1@caphost", pattern, "pcre"), expected, "{pattern}");
    }
    let bombs = ["(a*)*b".to_owned(), "((a{99}){99}){99}".to_owned(), "(".repeat(1000), "a?".repeat(9999)];
    for bomb in bombs {
        assert!(!matches(&"a".repeat(200), &format!("{bomb}$"), "pcre"));
    }
    assert!(!matches(&"a".repeat(200), &"*a".repeat(500), "glob"));
}
