//! JSON as Python writes it: read without recursion, changed without touching the rest.

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt, str::Utf8Error};

/// A text that every JSON parser reads, and how deep it is nested.
#[derive(Debug)]
pub(super) struct Tamed<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) depth: usize,
}

/// Makes strict JSON of what Python's `json` writes and accepts beyond it.
///
/// `NaN`, `Infinity` and numbers beyond a double become strings, so that no number is invented;
/// surrogate escapes without their other half become U+FFFD. Anything else is left as it is, valid or
/// not. One pass, no recursion: safe on any bytes.
pub(super) fn tame(bytes: &[u8]) -> Result<Tamed<'_>, Utf8Error> {
    let text = std::str::from_utf8(bytes)?;
    let mut out = String::new();
    let (mut copied, mut at) = (0, 0);
    let (mut depth, mut deepest) = (0_usize, 0);
    while let Some(&byte) = bytes.get(at) {
        let end = match byte {
            b'"' => {
                at = tame_string(text, at + 1, &mut out, &mut copied);
                continue;
            }
            b'N' | b'I' | b'-' | b'0'..=b'9' => at + token_len(&bytes[at..]),
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
                at + 1
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at + 1
            }
            _ => at + 1,
        };
        if is_no_double(&bytes[at..end]) {
            out.extend([&text[copied..at], "\"", &text[at..end], "\""]);
            copied = end;
        }
        at = end;
    }
    let text = if copied == 0 {
        Cow::Borrowed(text)
    } else {
        out.push_str(&text[copied..]);
        Cow::Owned(out)
    };
    Ok(Tamed { text, depth: deepest })
}

/// Goes from behind a string's opening quote to behind its closing one.
fn tame_string(text: &str, mut at: usize, out: &mut String, copied: &mut usize) -> usize {
    let bytes = text.as_bytes();
    while let Some(&byte) = bytes.get(at) {
        match (byte, escape(bytes, at)) {
            (b'"', _) => return at + 1,
            (b'\\', None) => at += 2,
            (_, None) => at += 1,
            (_, Some(0xD800..=0xDBFF)) if matches!(escape(bytes, at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
            (_, Some(unit)) => {
                if (0xD800..=0xDFFF).contains(&unit) {
                    out.extend([&text[*copied..at], "\\ufffd"]);
                    *copied = at + 6;
                }
                at += 6;
            }
        }
    }
    at
}

/// The code unit of the `\uXXXX` at this place.
fn escape(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(br"\u")?;
    digits.iter().try_fold(0, |unit: u16, digit| {
        Some((unit << 4) | u16::try_from((*digit as char).to_digit(16)?).ok()?)
    })
}

fn token_len(bytes: &[u8]) -> usize {
    for word in ["NaN", "Infinity", "-Infinity"] {
        if bytes.starts_with(word.as_bytes()) {
            return word.len();
        }
    }
    let in_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    1 + bytes[1..].iter().take_while(|byte| in_number(byte)).count()
}

/// Whether this is one of Python's words for no number, or a number that a double cannot hold.
fn is_no_double(token: &[u8]) -> bool {
    match token {
        b"NaN" | b"Infinity" | b"-Infinity" => true,
        // Shorter ones without an exponent always fit.
        [b'-' | b'0'..=b'9', ..] if token.len() > 300 || token.iter().any(|b| matches!(b, b'e' | b'E')) => {
            let number = std::str::from_utf8(token).ok().and_then(|text| text.parse::<f64>().ok());
            number.is_some_and(f64::is_infinite)
        }
        _ => false,
    }
}

/// One JSON object as its keys and the texts of their values, in order.
///
/// Values are not looked into, so nothing is lost on them, and depth does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Object<'a>(Vec<(String, Cow<'a, str>)>);

impl<'a> Object<'a> {
    /// Reads an object; `None` if the text is anything else.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut parser = serde_json::Deserializer::from_str(text);
        let object = parser.deserialize_map(Entries).ok()?;
        parser.end().ok().map(|()| object)
    }

    /// The JSON text of a value; the last one counts if a key is repeated, as in Python.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, text)| &**text)
    }

    /// The value as a `T`, if it is one.
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        serde_json::from_str(self.get(key)?).ok()
    }

    /// The value as an object; empty if it is none.
    pub(super) fn object(&'a self, key: &str) -> Object<'a> {
        self.get(key).and_then(Self::parse).unwrap_or_default()
    }

    /// Sets a value by its JSON text, in its old place if it has one.
    pub(super) fn set(&mut self, key: &str, json: impl Into<String>) {
        let value = Cow::Owned(json.into());
        match self.0.iter_mut().rev().find(|(name, _)| name == key) {
            Some((_, text)) => *text = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.0.retain(|(name, _)| name != key);
    }

    pub(super) fn into_owned(self) -> Object<'static> {
        Object(self.0.into_iter().map(|(key, text)| (key, Cow::Owned(text.into_owned()))).collect())
    }
}

/// The object's text, with Python's separators.
impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (at, (key, text)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{}: {text}", quoted(key))?;
        }
        f.write_str("}")
    }
}

/// A string as JSON text.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            entries.push((key, Cow::Borrowed(value.get())));
        }
        Ok(Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn what_python_writes_beyond_json_becomes_strings() {
        let long = format!("1{}", "0".repeat(400));
        let cases = [
            ("[NaN, Infinity, -Infinity]", r#"["NaN", "Infinity", "-Infinity"]"#.to_owned()),
            ("[1e999, -1, 1e3]", r#"["1e999", -1, 1e3]"#.to_owned()),
            (&long, format!("\"{long}\"")),
            (
                r#"["\ud83d", "\ude80\ud83d", "\ud83d\ude80"]"#,
                r#"["\ufffd", "\ufffd\ufffd", "\ud83d\ude80"]"#.into(),
            ),
            (r#"["NaN \\ud83d \" Infinity"]"#, r#"["NaN \\ud83d \" Infinity"]"#.to_owned()),
        ];
        for (text, tamed) in cases {
            assert_eq!(tame(text.as_bytes()).unwrap().text, tamed);
        }
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        for (text, depth) in [("1", 0), ("[]", 1), (r#"{"a[[[": [{}]}"#, 3), ("]]][", 1), ("[\"\\\"[", 1)] {
            assert_eq!(tame(text.as_bytes()).unwrap().depth, depth, "{text}");
        }
        assert_eq!(tame("[".repeat(1 << 20).as_bytes()).unwrap().depth, 1 << 20);
    }

    #[test]
    fn an_object_changes_where_it_is_set_and_nowhere_else() {
        let mut object = Object::parse(r#"{"a":{"x":[1,  2.50]},"b":1e2}"#).unwrap();
        object.set("b", "true");
        object.set("c", "null");
        assert_eq!(object.to_string(), r#"{"a": {"x":[1,  2.50]}, "b": true, "c": null}"#);
        for none in ["[]", "1", "", "{", r#"{"a":1}}"#] {
            assert_eq!(Object::parse(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_tamed(bytes: Vec<u8>) {
            let _ = tame(&bytes);
        }

        #[test]
        fn strict_json_stays_as_it_is(text in r#"(\[|\]|\{|\}|"|\\u[dD][89a-fA-F][0-9]{2}|\\|,|:|NaN|-|Infinity|1e|9|a){0,40}"#) {
            let tamed = tame(text.as_bytes()).unwrap().text;
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                prop_assert_eq!(serde_json::from_str::<Value>(&tamed).unwrap(), value);
            }
        }
    }
}
