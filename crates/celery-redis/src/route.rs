//! The queues that an exchange routes to, by the bindings that kombu keeps in Redis.

use super::CeleryError;
use super::lease::Leases;
use std::collections::HashMap;

/// Maximum number of bindings of an exchange. One with more counts as having none: no task queue has so many.
const MOST_BINDINGS: usize = 10_000;

/// Maximum number of exchanges whose bindings are remembered at a time.
const MOST_EXCHANGES: usize = 16;

/// Maximum length, in bytes, of a routing key that is matched against topics: AMQP allows no longer one.
const LONGEST_KEY: usize = 255;

/// The bindings of exchanges, each read once.
#[derive(Debug)]
pub(super) struct Routes {
    leases: Leases,
    tables: HashMap<String, Vec<Binding>>,
}

/// One member of `_kombu.binding.<exchange>`.
#[derive(Debug)]
struct Binding {
    key: String,
    /// True if `key` is a topic. Kombu then stores a regular expression made from the topic as well.
    topic: bool,
    queue: String,
}

impl Routes {
    pub(super) fn new(leases: Leases) -> Self {
        Self { leases, tables: HashMap::new() }
    }

    /// Returns the queues that a message is routed to; empty if there are none.
    ///
    /// Source: `Channel._lookup` in `kombu/transport/virtual/base.py` and the exchange types in
    /// `kombu/transport/virtual/exchange.py`.
    pub(super) async fn queues<'a>(
        &'a mut self,
        exchange: &str,
        key: &'a str,
    ) -> Result<Vec<&'a str>, CeleryError> {
        if exchange.is_empty() {
            return Ok(if key.is_empty() { Vec::new() } else { vec![key] });
        }
        if !self.tables.contains_key(exchange) {
            let table = self.read(exchange).await?;
            if self.tables.len() == MOST_EXCHANGES {
                self.tables.clear();
            }
            self.tables.insert(exchange.to_owned(), table);
        }
        let bindings = self.tables[exchange].iter().filter(|binding| binding.feeds(key));
        let mut queues: Vec<_> = bindings.map(|binding| binding.queue.as_str()).collect();
        queues.sort_unstable();
        queues.dedup();
        Ok(queues)
    }

    async fn read(&self, exchange: &str) -> Result<Vec<Binding>, CeleryError> {
        let (client, key) = (self.leases.client(), self.leases.keys().binding(exchange));
        let mut count = redis::cmd("SCARD");
        count.arg(&key);
        let count: usize = client.command("count bindings", &count).await?;
        if count == 0 || count > MOST_BINDINGS {
            return Ok(Vec::new());
        }
        let mut members = redis::cmd("SMEMBERS");
        members.arg(&key);
        let members: Vec<Vec<u8>> = client.command("read bindings", &members).await?;
        let sep = &*self.leases.keys().priorities().sep;
        Ok(members.iter().filter_map(|member| Binding::parse(member, sep)).collect())
    }
}

impl Binding {
    fn parse(member: &[u8], sep: &str) -> Option<Self> {
        let mut parts = std::str::from_utf8(member).ok()?.split(sep);
        let (key, pattern, queue) = (parts.next()?, parts.next()?, parts.next()?);
        let whole = parts.next().is_none() && !queue.is_empty();
        whole.then(|| Self { key: key.to_owned(), topic: !pattern.is_empty(), queue: queue.to_owned() })
    }

    fn feeds(&self, key: &str) -> bool {
        self.key == key || (self.topic && matches(&self.key, key))
    }
}

/// A part of a topic pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Byte(u8),
    /// A byte of a word.
    InWord,
    RestOfWord,
    /// Any number of bytes, dots too.
    Anything,
}

/// Returns `true` if a topic (`*`: one word, `#`: anything) matches a routing key, as does the regular expression
/// that kombu makes from the topic. Takes time proportional to the length of the topic times that of the key.
fn matches(topic: &str, key: &str) -> bool {
    if topic.len().max(key.len()) > LONGEST_KEY {
        return false;
    }
    let mut pieces = Vec::with_capacity(topic.len() + 1);
    for (at, word) in topic.split('.').enumerate() {
        pieces.extend((at > 0).then_some(Piece::Byte(b'.')));
        match word {
            "*" => pieces.extend([Piece::InWord, Piece::RestOfWord]),
            "#" => pieces.push(Piece::Anything),
            word => pieces.extend(word.bytes().map(Piece::Byte)),
        }
    }
    // `reached[n]` is true if the first n pieces match the bytes read so far.
    let mut reached = vec![false; pieces.len() + 1];
    reached[0] = true;
    skip(&pieces, &mut reached);
    for byte in key.bytes() {
        let mut next = vec![false; pieces.len() + 1];
        for (at, piece) in pieces.iter().enumerate().filter(|(at, _)| reached[*at]) {
            match piece {
                Piece::Byte(expected) => next[at + 1] |= *expected == byte,
                Piece::InWord => next[at + 1] |= byte != b'.',
                Piece::RestOfWord => next[at] |= byte != b'.',
                Piece::Anything => next[at] = true,
            }
        }
        skip(&pieces, &mut next);
        reached = next;
    }
    reached[pieces.len()]
}

/// Skips the pieces that may match no byte.
fn skip(pieces: &[Piece], reached: &mut [bool]) {
    for (at, piece) in pieces.iter().enumerate() {
        if matches!(piece, Piece::RestOfWord | Piece::Anything) {
            reached[at + 1] |= reached[at];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_matches_as_it_does_in_kombu() {
        let cases = [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("*", "word", true),
            ("*", "", false),
            ("*", "two.words", false),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a..c", false),
            ("#", "", true),
            ("#", "any.thing", true),
            ("a.#", "a.b.c", true),
            ("a.#", "a", false), // kombu wants the dot
            ("#.z", "a.b.z", true),
            ("a+", "aa", false),
        ];
        for (topic, key, expected) in cases {
            assert_eq!(matches(topic, key), expected, "{topic} on {key}");
        }
        let hostile = "#.".repeat(120);
        assert!(!matches(&hostile, &"x.".repeat(100)));
    }

    #[test]
    fn a_binding_is_three_parts() {
        let parse = |text: &str| {
            Binding::parse(text.as_bytes(), "\x06\x16").map(|binding| (binding.key, binding.queue))
        };
        assert_eq!(parse("k\x06\x16\x06\x16q"), Some(("k".to_owned(), "q".to_owned())));
        for text in ["", "k", "k\x06\x16\x06\x16", "k\x06\x16q", "a\x06\x16b\x06\x16c\x06\x16d"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
