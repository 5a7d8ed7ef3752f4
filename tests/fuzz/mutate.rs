//! Damage to messages, from single bits to bodies that are packed again around damaged contents.

use crate::support::chance::Chance;
use async_compression::tokio::bufread::{BzEncoder, GzipEncoder, XzEncoder, ZlibEncoder, ZstdEncoder};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE},
};
use futures_util::FutureExt;
use serde_json::Value;
use std::ops::Range;
use tokio::io::{AsyncRead, AsyncReadExt};

/// No input is longer than this: a little more than what is read of a message.
const LONGEST: usize = (1 << 20) + 4096;

/// JSON and near-JSON that readers stumble over.
const TOKENS: [&str; 62] = [
    "null",
    "true",
    "false",
    "{}",
    "[]",
    "\"\"",
    "0",
    "-0",
    "-1",
    "1",
    "10",
    "0.5",
    "-0.0",
    "1e-400",
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "-Infinity",
    "01",
    "1.",
    ".5",
    "+1",
    "0x10",
    "255",
    "4294967295",
    "4294967296",
    "2147483648",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "123456789012345678901234567890",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"\\ud83d\\ude80\"",
    "\"\\u0000\"",
    "\"\\x\"",
    "\"\\\"",
    "\"a\\\\\"",
    "\"base64\"",
    "\"application/json\"",
    "\"application/x-gzip\"",
    "\"application/x-bz2\"",
    "\"application/x-lzma\"",
    "\"application/zstd\"",
    "\"application/x-python-serialize\"",
    "\"utf-8\"",
    "\"UTF-16\"",
    "\"2026-11-22T09:54:46.057967+00:00\"",
    "\"-009999-01-01T00:00:00Z\"",
    "\"9999-12-31T23:59:59.999999-23:59\"",
    "\"2026-11-22\"",
    "[null, null]",
    "[1e308, -1]",
    "[0.000000001]",
    "[[\"a\", null], null]",
    "{\"__type__\": \"uuid\", \"__value__\": {\"hex\": \"zz\"}}",
    "{\"__type__\": \"datetime\", \"__value__\": \"\"}",
    "{\"__type__\": \"set\", \"__value__\": [1]}",
    "\"celery.ping\"",
    "\"api.backup.tasks.backup_media_files\"",
];

/// Keys that some reader looks for.
const KEYS: [&str; 44] = [
    "args",
    "arguments",
    "body",
    "body_encoding",
    "callbacks",
    "chain",
    "children",
    "chord",
    "clock",
    "compression",
    "content-encoding",
    "content-type",
    "delivery_info",
    "delivery_tag",
    "destination",
    "errbacks",
    "eta",
    "exchange",
    "expires",
    "group",
    "group_index",
    "headers",
    "id",
    "ignore_result",
    "kwargs",
    "matcher",
    "method",
    "options",
    "parent_id",
    "pattern",
    "priority",
    "properties",
    "redelivered",
    "reply_to",
    "result",
    "retries",
    "root_id",
    "routing_key",
    "stamped_headers",
    "stamps",
    "status",
    "task",
    "ticket",
    "timelimit",
];

/// Damages inputs.
pub struct Mutator {
    pub chance: Chance,
}

impl Mutator {
    /// `input` with one to four wounds, some of them with pieces of `other`.
    pub fn mutate(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut out = input.to_vec();
        for _ in 0..=self.chance.below(4) {
            out = match self.chance.below(10) {
                0 | 1 => self.bytes(out, other),
                2..=4 => self.token(out, other),
                5 | 6 => self.value(&out, other).unwrap_or(out),
                _ => self.body(&out, other).unwrap_or(out),
            };
        }
        out.truncate(LONGEST);
        out
    }

    /// Damage that knows nothing of JSON.
    fn bytes(&mut self, mut out: Vec<u8>, other: &[u8]) -> Vec<u8> {
        let range = self.range(out.len());
        match self.chance.below(8) {
            0 if !range.is_empty() => out[range.start] ^= 1 << self.chance.below(8),
            1 if !range.is_empty() => out[range.start] = u8::try_from(self.chance.below(256)).unwrap_or(0),
            2 => drop(out.drain(range)),
            3 => out.truncate(range.start),
            4 => {
                let piece = out[range.clone()].to_vec();
                drop(out.splice(range.start..range.start, piece));
            }
            5 => {
                let piece = other[self.range(other.len())].to_vec();
                drop(out.splice(range, piece));
            }
            6 => {
                let wrong: [&[u8]; 6] =
                    [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\0"];
                let wrong = self.chance.of(&wrong).to_vec();
                drop(out.splice(range.start..range.start, wrong));
            }
            _ => {
                let at = *self.chance.of(b"\"\\{}[],:");
                out.insert(range.start, at);
            }
        }
        out
    }

    /// Another token where one stood: an odd one, one of `other`, or one of the same text.
    fn token(&mut self, mut out: Vec<u8>, other: &[u8]) -> Vec<u8> {
        let spans = tokens(&out);
        let Some(span) = pick(&mut self.chance, &spans) else { return out };
        let new = match self.chance.below(8) {
            0..=3 => self.odd(),
            4 | 5 => match pick(&mut self.chance, &tokens(other)) {
                Some(theirs) => other[theirs].to_vec(),
                None => self.odd(),
            },
            6 => pick(&mut self.chance, &spans).map(|own| out[own].to_vec()).unwrap_or_default(),
            _ => serde_json::to_vec(*self.chance.of(&KEYS)).expect("a string is JSON"),
        };
        drop(out.splice(span, new));
        out
    }

    /// A token that readers stumble over; seldom one that is very deep or very long.
    fn odd(&mut self) -> Vec<u8> {
        if self.chance.below(200) > 0 {
            return self.chance.of(&TOKENS).as_bytes().to_vec();
        }
        let times = *self.chance.of(&[63, 64, 65, 127, 129, 1000, 100_000]);
        match self.chance.below(6) {
            0 => b"[".repeat(times),
            1 => [b"[".repeat(times), b"]".repeat(times)].concat(),
            2 => [b"{\"a\":".repeat(times), b"1".to_vec(), b"}".repeat(times)].concat(),
            3 => b"9".repeat(times),
            4 => [b"\"".to_vec(), b"\\ud800".repeat(times), b"\"".to_vec()].concat(),
            _ => [b"[0".to_vec(), b",1e999".repeat(times), b"]".to_vec()].concat(),
        }
    }

    /// Another value somewhere in a text that is JSON.
    fn value(&mut self, text: &[u8], other: &[u8]) -> Option<Vec<u8>> {
        let mut value: Value = serde_json::from_slice(text).ok()?;
        let theirs =
            serde_json::from_slice(other).unwrap_or_else(|_| Value::from(self.chance.below(1 << 40)));
        self.change(&mut value, theirs);
        serde_json::to_vec(&value).ok()
    }

    fn change(&mut self, value: &mut Value, other: Value) {
        let inward = self.chance.below(4) > 0;
        match value {
            Value::Array(items) if inward && !items.is_empty() => {
                let at = self.chance.below(items.len());
                match self.chance.below(6) {
                    0 => drop(items.remove(at)),
                    1 => items.insert(at, items[at].clone()),
                    2 => items.reverse(),
                    _ => self.change(&mut items[at], other),
                }
            }
            Value::Object(map) if inward && !map.is_empty() => {
                let key = map.keys().nth(self.chance.below(map.len())).cloned().unwrap_or_default();
                match self.chance.below(6) {
                    0 => drop(map.shift_remove(&key)),
                    1 => {
                        let moved = map.shift_remove(&key).unwrap_or_default();
                        map.insert((*self.chance.of(&KEYS)).to_owned(), moved);
                    }
                    2 => drop(map.insert((*self.chance.of(&KEYS)).to_owned(), other)),
                    _ => self.change(&mut map[&key], other),
                }
            }
            _ => *value = serde_json::from_slice(&self.odd()).unwrap_or(other),
        }
    }

    /// Damage to what a message carries, packed again so that it is reached.
    fn body(&mut self, text: &[u8], other: &[u8]) -> Option<Vec<u8>> {
        let mut message: Value = serde_json::from_slice(text).ok()?;
        let body = message.get("body")?.as_str()?.to_owned();
        let encoded = message.pointer("/properties/body_encoding").is_some_and(|name| name == "base64");
        let plain = if encoded { STANDARD.decode(&body).ok()? } else { body.into_bytes() };
        let inner = match self.chance.below(8) {
            0..=2 => self.bytes(plain, other),
            3..=5 => self.token(plain, other),
            6 => self.value(&plain, other)?,
            _ => self.packed(plain, &mut message),
        };
        let mut body = match self.chance.below(8) {
            0 => STANDARD_NO_PAD.encode(&inner),
            1 => URL_SAFE.encode(&inner),
            _ => STANDARD.encode(&inner),
        };
        if self.chance.below(16) == 0 {
            body.truncate(self.chance.below(body.len() + 1));
        }
        message["body"] = body.into();
        message.get_mut("properties")?.as_object_mut()?.insert("body_encoding".to_owned(), "base64".into());
        serde_json::to_vec(&message).ok()
    }

    /// A body compressed by a method that the headers then name; seldom a bomb.
    fn packed(&mut self, mut plain: Vec<u8>, message: &mut Value) -> Vec<u8> {
        if self.chance.below(500) == 0 {
            plain = b"[[], {}, {}]".repeat(1 + self.chance.below(1 << 20));
        }
        let (method, packed) = match self.chance.below(5) {
            0 => ("application/x-gzip", read(ZlibEncoder::new(&*plain))),
            1 => ("application/x-gzip", read(GzipEncoder::new(&*plain))),
            2 => ("application/x-bz2", read(BzEncoder::new(&*plain))),
            3 => (
                "application/x-lzma",
                read(XzEncoder::with_quality(&*plain, async_compression::Level::Fastest)),
            ),
            _ => ("application/zstd", read(ZstdEncoder::new(&*plain))),
        };
        if let Some(Value::Object(headers)) = message.get_mut("headers") {
            headers.insert("compression".to_owned(), method.into());
        }
        packed
    }

    /// Some bytes of so many; often few.
    fn range(&mut self, len: usize) -> Range<usize> {
        let start = self.chance.below(len + 1);
        let most = (len - start).min(*self.chance.of(&[1, 4, 32, 1024, usize::MAX]));
        start..start + self.chance.below(most + 1)
    }
}

fn pick(chance: &mut Chance, spans: &[Range<usize>]) -> Option<Range<usize>> {
    if spans.is_empty() { None } else { Some(chance.of(spans).clone()) }
}

fn read(encoder: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut out, mut encoder) = (Vec::new(), encoder);
    let done = encoder.read_to_end(&mut out).now_or_never();
    done.expect("an encoder over bytes in memory never waits").expect("memory can be written");
    out
}

/// Where strings, brackets and words of JSON stand, in any bytes.
fn tokens(text: &[u8]) -> Vec<Range<usize>> {
    let (mut spans, mut at) = (Vec::new(), 0);
    while let Some(&byte) = text.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'"' => {
                while let Some(&inside) = text.get(at) {
                    at += if inside == b'\\' { 2 } else { 1 };
                    if inside == b'"' {
                        break;
                    }
                }
                at = at.min(text.len());
            }
            b' ' | b',' | b':' => continue,
            b'{' | b'}' | b'[' | b']' => {}
            _ => at += text[at..].iter().take_while(|byte| !b"\"{}[] ,:".contains(byte)).count(),
        }
        spans.push(start..at);
    }
    spans
}
