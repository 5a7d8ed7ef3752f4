//! Lists beside those of this worker's queues that hold tasks of this worker, and that this worker does not read.
//!
//! Another worker may read such a list, which nothing in Redis tells. Else such lists come of options of the app's broker transport that this worker does not know: `priority_steps`, `sep`,
//! `global_keyprefix`, or a queue of another name.

use super::CeleryError;
use super::client::Client;
use super::keys::Keys;
use super::message::{Envelope, Limits, Peeked};
use redis::Script;
use std::{fmt, sync::LazyLock};

static ENTRY: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/entry.lua")));

/// Maximum length, in bytes, of an entry that is read.
const LONGEST: usize = 2 << 20;

/// Number of keys that Redis looks at in one step of a scan.
const STEP: usize = 1000;

/// Maximum number of steps of all scans together: a million keys.
const STEPS: usize = 1000;

/// Maximum number of lists that are looked into.
const MOST: usize = 100;

/// A list that this worker does not read, with a task of this worker in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// The queue of ours whose name is in the list's.
    pub queue: String,
    /// The key of the list.
    pub list: String,
    /// The number of its entries.
    pub length: usize,
    /// The option that would name the list.
    pub option: TransportOption,
}

/// The option of the broker's transport by which an app names a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportOption {
    /// `priority_steps` has this step.
    Step(u8),
    /// `sep` is this text, and `priority_steps` has this step.
    Separator(String, u8),
    /// `global_keyprefix` is this text.
    Prefix(String),
    /// The list is a queue of this name.
    Queue(String),
}

impl TransportOption {
    /// Returns the option that makes `list` one of the lists of `queue`.
    fn of(keys: &Keys, queue: &str, list: &str) -> Self {
        let name = list.strip_prefix(keys.prefix());
        let tail = name.and_then(|name| name.strip_prefix(queue)).unwrap_or_default();
        let sep = tail.trim_end_matches(|digit: char| digit.is_ascii_digit());
        match tail[sep.len()..].parse() {
            Ok(step) if sep == keys.priorities().sep => return Self::Step(step),
            Ok(step) if !sep.is_empty() => return Self::Separator(sep.to_owned(), step),
            _ => {}
        }
        let ours = keys.lists(&[queue.to_owned()]);
        let names = ours.iter().filter_map(|(_, key)| key.strip_prefix(keys.prefix()));
        let prefix = names.filter_map(|name| list.strip_suffix(name)).min_by_key(|prefix| prefix.len());
        match prefix.filter(|prefix| prefix.ends_with(|last: char| !last.is_alphanumeric())) {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Queue(name.unwrap_or(list).to_owned()),
        }
    }
}

/// Searches the keys of the broker for lists whose name has that of one of `queues` in it, which are not theirs, and
/// whose oldest or newest entry is a task of ours by `ours`. Reads only. On a broker with more than a million keys
/// some lists are not found.
///
/// # Errors
///
/// As [`Client::once`].
pub async fn find(
    client: &Client,
    keys: &Keys,
    queues: &[String],
    ours: impl Fn(&str) -> bool,
) -> Result<Vec<Stray>, CeleryError> {
    let read: Vec<_> = keys.lists(queues).into_iter().map(|(_, key)| key).collect();
    let (mut found, mut looked_at, mut steps) = (Vec::<Stray>::new(), 0, 0);
    for queue in queues {
        let pattern = format!("*{}*", literal(queue));
        let mut cursor = 0_u64;
        while steps < STEPS {
            steps += 1;
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(STEP).arg("TYPE").arg("list");
            let (next, lists): (u64, Vec<Vec<u8>>) = client.command("look for other lists", &scan).await?;
            for list in lists.into_iter().filter_map(|list| String::from_utf8(list).ok()) {
                let known = read.contains(&list) || found.iter().any(|stray| stray.list == list);
                if known || looked_at == MOST {
                    continue;
                }
                looked_at += 1;
                let length = match length_if_ours(client, &list, &ours).await {
                    Err(err) if !err.is_transient() => continue, // a list that this user may not read
                    length => length?,
                };
                if let Some(length) = length {
                    let option = TransportOption::of(keys, queue, &list);
                    found.push(Stray { queue: queue.clone(), list, length, option });
                }
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
    found.sort_by(|a, b| a.list.cmp(&b.list)); // a scan has no order
    Ok(found)
}

/// Returns the length of a list if its oldest or its newest entry is a task of ours.
async fn length_if_ours(
    client: &Client,
    list: &str,
    ours: &impl Fn(&str) -> bool,
) -> Result<Option<usize>, CeleryError> {
    for end in [-1, 0] {
        let mut call = ENTRY.key(list);
        call.arg(end).arg(LONGEST);
        let entry: Option<Vec<u8>> = client.script("look into a list", &call).await?;
        let Some(entry) = entry else { continue };
        let look = Envelope::peek(&entry, &Limits::default());
        if matches!(look, Peeked::Task(look) if ours(&look.task)) {
            return client.command("count messages", redis::cmd("LLEN").arg(list)).await.map(Some);
        }
    }
    Ok(None)
}

/// Escapes the characters of `text` that have a meaning in a pattern of Redis.
fn literal(text: &str) -> String {
    text.chars()
        .flat_map(|c| matches!(c, '*' | '?' | '[' | ']' | '\\' | '^').then_some('\\').into_iter().chain([c]))
        .collect()
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.length, self.list.escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::Priorities;
    use super::*;

    #[test]
    fn the_option_that_names_a_list_is_told_from_its_name() {
        let keys = Keys::new("");
        let of = |list: &str| TransportOption::of(&keys, "reports", list);
        assert_eq!(of("reports\x06\x165"), TransportOption::Step(5));
        assert_eq!(of("reports:5"), TransportOption::Separator(":".to_owned(), 5));
        assert_eq!(of("app:reports"), TransportOption::Prefix("app:".to_owned()));
        assert_eq!(of("app:reports\x06\x163"), TransportOption::Prefix("app:".to_owned()));
        for name in ["reports2", "reports-nightly", "myreports", "reports:999"] {
            assert_eq!(of(name), TransportOption::Queue(name.to_owned()));
        }
        let keys = Keys::new("app:").with_priorities(Priorities { steps: vec![0], sep: ":".to_owned() });
        let of = |list: &str| TransportOption::of(&keys, "reports", list);
        assert_eq!(of("app:reports:3"), TransportOption::Step(3));
        assert_eq!(of("reports"), TransportOption::Queue("reports".to_owned()));
        assert_eq!(of("app:reports2"), TransportOption::Queue("reports2".to_owned()));
        assert_eq!(of("app:old.reports"), TransportOption::Prefix("app:old.".to_owned()));
    }

    #[test]
    fn a_queue_named_like_a_pattern_is_searched_by_its_letters() {
        assert_eq!(literal(r"a*[b]?\c"), r"a\*\[b\]\?\\c");
    }
}
