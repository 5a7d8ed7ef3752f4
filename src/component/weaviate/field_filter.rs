//! Texts of JSON that are too long for memory, and of which a few fields are wanted.

use memchr::memchr2;

/// Takes a text of JSON and keeps it with `null` in place of the values of all fields but a few. In a value that is left out,
/// nothing but brackets and the ends of strings is looked at.
#[derive(Debug)]
pub(super) struct FieldFilter {
    fields: &'static [&'static str],
    /// The brackets around the fields: one of an object, two of the objects of a list.
    level: usize,
    depth: usize,
    string: StringState,
    /// The last string at that level, until it is known to be the name of a field.
    name: Vec<u8>,
    /// True within a value that is left out.
    skips: bool,
    kept: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StringState {
    Outside,
    Inside,
    /// Behind a backslash.
    Escaped,
}

impl FieldFilter {
    /// Keeps these fields of an object.
    pub(super) fn of_object(fields: &'static [&'static str]) -> Self {
        Self::new(fields, 1)
    }

    /// Keeps these fields of each object of a list.
    pub(super) fn of_list(fields: &'static [&'static str]) -> Self {
        Self::new(fields, 2)
    }

    const fn new(fields: &'static [&'static str], level: usize) -> Self {
        Self {
            fields,
            level,
            depth: 0,
            string: StringState::Outside,
            name: Vec::new(),
            skips: false,
            kept: Vec::new(),
        }
    }

    /// Takes the next bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            bytes = rest;
            if self.string == StringState::Outside {
                self.take_outside(byte);
                continue;
            }
            self.take_inside(byte);
            if self.skips && self.string == StringState::Inside {
                bytes = &bytes[memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len())..];
            }
        }
    }

    /// The text that was kept.
    pub(super) fn into_kept(self) -> Vec<u8> {
        self.kept
    }

    /// Takes a byte of a string.
    fn take_inside(&mut self, byte: u8) {
        self.string = match (self.string, byte) {
            (StringState::Inside, b'"') => StringState::Outside,
            (StringState::Inside, b'\\') => StringState::Escaped,
            _ => StringState::Inside,
        };
        if !self.skips {
            self.kept.push(byte);
            if self.string != StringState::Outside {
                self.name.push(byte);
            }
        }
    }

    /// Takes a byte between strings.
    fn take_outside(&mut self, byte: u8) {
        let is_at_level = self.depth == self.level;
        match byte {
            b'"' => {
                self.string = StringState::Inside;
                self.name.clear();
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.skips &= !is_at_level;
            }
            b',' if is_at_level => self.skips = false,
            b':' if is_at_level && !self.fields.iter().any(|field| field.as_bytes() == self.name) => {
                self.kept.extend_from_slice(b":null");
                self.skips = true;
            }
            _ => {}
        }
        if !self.skips {
            self.kept.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn kept(filter: fn() -> FieldFilter, text: &str) -> Vec<u8> {
        let of_pieces = |length: usize| {
            let mut filter = filter();
            text.as_bytes().chunks(length).for_each(|piece| filter.take(piece));
            filter.into_kept()
        };
        let whole = of_pieces(text.len().max(1));
        (1..9).for_each(|length| assert_eq!(of_pieces(length), whole, "{length}"));
        whole
    }

    fn of_object() -> FieldFilter {
        FieldFilter::of_object(&["id", "class"])
    }

    #[test]
    fn the_values_of_other_fields_are_left_out_whatever_is_in_them() {
        let object = json!({
            "class": "A \"quoted\" \\",
            "properties": {"id": "of another", "text": "} ] , : \" \\ \u{1f600}\n", "list": [[1, {"a": [2]}], "]"]},
            "vector": [1.5, -2e3],
            "tenant": null,
            "id": "1",
            "last": true,
        });
        let wanted = json!({"class": "A \"quoted\" \\", "properties": null, "vector": null, "tenant": null, "id": "1", "last": null});
        for text in [object.to_string(), serde_json::to_string_pretty(&object).unwrap()] {
            let found: Value = serde_json::from_slice(&kept(of_object, &text)).unwrap();
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn each_object_of_a_list_keeps_its_fields() {
        let item = |number: u32| json!({"properties": {"result": [number]}, "result": {"status": "FAILED", "errors": {"error": [{"message": ":,"}]}}});
        let text = json!([item(1), item(2), {}]).to_string();
        let found: Value =
            serde_json::from_slice(&kept(|| FieldFilter::of_list(&["result"]), &text)).unwrap();
        let wanted = |number: u32| json!({"properties": null, "result": item(number)["result"]});
        assert_eq!(found, json!([wanted(1), wanted(2), {}]));
        assert_eq!(kept(|| FieldFilter::of_list(&["result"]), "[]"), b"[]");
    }

    #[test]
    fn what_is_cut_or_no_json_does_not_become_json() {
        for text in [
            "",
            "{",
            "{\"a\":[1}",
            "{\"a\":\"x",
            "{\"id\":1]",
            "not JSON",
            "{\"a\":{\"b\":1}",
            "}{",
            "{\"a\":1}}",
        ] {
            assert!(serde_json::from_slice::<Value>(&kept(of_object, text)).is_err(), "{text}");
        }
    }
}
