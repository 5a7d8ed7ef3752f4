//! JSON as Python writes it: parsed without recursion, and changed without rewriting the unchanged parts.

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt, str::Utf8Error};

/// A strict JSON text, with the depth of its nesting and an upper bound of the number of its values.
#[derive(Debug)]
pub(super) struct StrictJson<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) depth: usize,
    pub(super) values: usize,
}

/// Converts the JSON that Python's `json` writes and accepts into strict JSON.
///
/// `NaN`, `Infinity` and numbers beyond a double become strings, so that no number is invented;
/// surrogate escapes without their other half become U+FFFD. Any other text is left unchanged, valid or
/// not. One pass, no recursion: safe on any bytes.
pub(super) fn to_strict(bytes: &[u8]) -> Result<StrictJson<'_>, Utf8Error> {
    let text = std::str::from_utf8(bytes)?;
    let mut out = String::new();
    let (mut copied, mut at) = (0, 0);
    let (mut depth, mut deepest, mut values) = (0_usize, 0, 1);
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
                values += 1;
                at + 1
            }
            b',' => {
                values += 1;
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
    Ok(StrictJson { text, depth: deepest, values })
}

/// Converts one string; `at` is the index after its opening quote. Returns the index after its closing quote.
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

/// Returns the code unit that `\u` and four hexadecimal digits at this index name.
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

/// Returns `true` for `NaN`, an infinity, or a number that a double cannot hold.
fn is_no_double(token: &[u8]) -> bool {
    match token {
        b"NaN" | b"Infinity" | b"-Infinity" => true,
        // Shorter numbers without an exponent always fit into a double.
        [b'-' | b'0'..=b'9', ..] if token.len() > 300 || token.iter().any(|b| matches!(b, b'e' | b'E')) => {
            let number = std::str::from_utf8(token).ok().and_then(|text| text.parse::<f64>().ok());
            number.is_some_and(f64::is_infinite)
        }
        _ => false,
    }
}

/// One JSON object as its keys and the texts of their values, in order.
///
/// The texts of values are kept unparsed, so they stay unchanged, and their depth does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Object<'a>(Vec<(String, Cow<'a, str>)>);

impl<'a> Object<'a> {
    /// Parses an object; `None` if the text is not one.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut parser = serde_json::Deserializer::from_str(text);
        let object = parser.deserialize_map(Entries).ok()?;
        parser.end().ok().map(|()| object)
    }

    /// Returns the JSON text of a value. If a key is repeated, its last value counts, as in Python.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, text)| &**text)
    }

    /// Returns the value as a `T`; `None` if it is missing or of another type.
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        serde_json::from_str(self.get(key)?).ok()
    }

    /// Returns the value as an object; an empty object if the value is missing or not an object.
    pub(super) fn object(&'a self, key: &str) -> Object<'a> {
        self.get(key).and_then(Self::parse).unwrap_or_default()
    }

    /// Sets a value by its JSON text. An existing key keeps its place.
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

    /// Returns the JSON text of a value; `None` if the value is missing or null.
    pub(super) fn some(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|text| *text != "null")
    }

    /// Returns the JSON texts of a value as a list, as Python's `maybe_list` does: the elements of an array, any
    /// other value alone, no element for null.
    pub(super) fn list(&self, key: &str) -> Vec<&str> {
        let Some(text) = self.some(key) else { return Vec::new() };
        items(text).unwrap_or_else(|| vec![text])
    }

    /// Copies all values of `other` that are not null.
    pub(super) fn update(&mut self, other: &Object<'_>) {
        for (key, text) in other.0.iter().filter(|(_, text)| text != "null") {
            self.set(key, &**text);
        }
    }

    /// Iterates over the keys with the texts of their values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, text)| (&**key, &**text))
    }

    pub(super) fn into_owned(self) -> Object<'static> {
        Object(self.0.into_iter().map(|(key, text)| (key, Cow::Owned(text.into_owned()))).collect())
    }
}

/// Formats the object as JSON, with Python's separators.
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

/// Returns the texts of an array's elements unchanged, with `NaN` and other values that Python writes beyond JSON.
///
/// Returns `None` if the text is not an array, or if [`to_strict`] cannot convert it to strict JSON.
pub(super) fn items(text: &str) -> Option<Vec<&str>> {
    within(text, '[', ']')
}

/// Returns the text of an object's value unchanged, as [`items`] does for an array.
pub(super) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let entries = within(text, '{', '}')?;
    entries.into_iter().rev().find_map(|entry| {
        let (name, value) = entry.split_once(outside(':'))?;
        let name: Cow<'_, str> = serde_json::from_str(name).ok()?;
        (name == key).then(|| value.trim())
    })
}

/// Returns the texts between the commas of an array or object.
fn within(text: &str, open: char, close: char) -> Option<Vec<&str>> {
    let strict = to_strict(text.as_bytes()).ok()?;
    serde_json::from_str::<IgnoredAny>(&strict.text).ok()?;
    let inner = text.trim().strip_prefix(open)?.strip_suffix(close)?;
    if inner.trim().is_empty() {
        return Some(Vec::new());
    }
    Some(inner.split(outside(',')).map(str::trim).collect())
}

/// Finds a separator that is neither in a string nor in a nested array or object.
fn outside(separator: char) -> impl FnMut(char) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == separator && depth == 0 && !quoted
    }
}

/// Formats a string as JSON.
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
        for (text, strict) in cases {
            assert_eq!(to_strict(text.as_bytes()).unwrap().text, strict);
        }
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        for (text, depth) in [("1", 0), ("[]", 1), (r#"{"a[[[": [{}]}"#, 3), ("]]][", 1), ("[\"\\\"[", 1)] {
            assert_eq!(to_strict(text.as_bytes()).unwrap().depth, depth, "{text}");
        }
        assert_eq!(to_strict("[".repeat(1 << 20).as_bytes()).unwrap().depth, 1 << 20);
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

    #[test]
    fn items_stay_as_they_are_written() {
        let text = r#" [1, "a, [\"b\\", NaN, {"c": [1.50, 2]} ,[]] "#;
        let expected = ["1", r#""a, [\"b\\""#, "NaN", r#"{"c": [1.50, 2]}"#, "[]"];
        assert_eq!(items(text).unwrap(), expected);
        assert_eq!(items(" [ ] ").unwrap(), Vec::<&str>::new());
        for none in ["", "[", "{}", "[1", "[1,]", "[1}, {2]", "1"] {
            assert_eq!(items(none), None, "{none}");
        }
        let text = r#"{"a:\"": "b:,", "c" : {"d": NaN}, "a:\"":[ 1.0 ]}"#;
        assert_eq!(
            (field(text, "c"), field(text, "a:\""), field(text, "d")),
            (Some(r#"{"d": NaN}"#), Some("[ 1.0 ]"), None)
        );
    }

    proptest! {
        #[test]
        fn items_are_all_there_is(values: Vec<(String, f64)>) {
            let text = serde_json::to_string(&values).unwrap();
            let items: Vec<(String, f64)> = items(&text).unwrap().iter().map(|item| serde_json::from_str(item).unwrap()).collect();
            prop_assert_eq!(format!("{items:?}"), format!("{:?}", serde_json::from_str::<Vec<(String, f64)>>(&text).unwrap()));
        }

        #[test]
        fn any_bytes_can_be_made_strict(bytes: Vec<u8>) {
            let _ = to_strict(&bytes);
        }

        #[test]
        fn strict_json_stays_as_it_is(text in r#"(\[|\]|\{|\}|"|\\u[dD][89a-fA-F][0-9]{2}|\\|,|:|NaN|-|Infinity|1e|9|a){0,40}"#) {
            let strict = to_strict(text.as_bytes()).unwrap().text;
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                prop_assert_eq!(serde_json::from_str::<Value>(&strict).unwrap(), value);
            }
        }
    }
}
