//! Python's `repr` of JSON values, for `argsrepr` and `kwargsrepr`.

use serde_json::{Map, Value};

/// Maximum length of a text in characters; Celery cuts its own at 1,024 characters (`argsrepr_maxsize`).
const LONGEST: usize = 1024;

/// Formats positional arguments as the tuple that a Python function gets.
///
/// ```
/// # use celery_redis::repr;
/// # use serde_json::json;
/// assert_eq!(repr::args(&[]), "()");
/// assert_eq!(repr::args(&[json!(1)]), "(1,)");
/// assert_eq!(repr::args(&[json!(null), json!("it's")]), r#"(None, "it's")"#);
/// ```
pub fn args(args: &[Value]) -> String {
    let mut out = String::from("(");
    list(args, &mut out);
    out.push_str(if args.len() == 1 { ",)" } else { ")" });
    cut(out)
}

/// Formats keyword arguments as a Python dictionary.
pub fn kwargs(kwargs: &Map<String, Value>) -> String {
    let mut out = String::new();
    dict(kwargs, &mut out);
    cut(out)
}

/// Formats a JSON value as Python's `repr` does, cut like arguments.
pub fn short(shown: &Value) -> String {
    cut(value(shown))
}

/// Formats a JSON value as Python's `repr` does.
pub fn value(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => string(text, out),
        Value::Array(items) => {
            out.push('[');
            list(items, out);
            out.push(']');
        }
        Value::Object(map) => dict(map, out),
    }
}

fn list(items: &[Value], out: &mut String) {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        write(item, out);
    }
}

fn dict(map: &Map<String, Value>, out: &mut String) {
    out.push('{');
    for (at, (key, value)) in map.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        string(key, out);
        out.push_str(": ");
        write(value, out);
    }
    out.push('}');
}

/// Quotes a string with single quotes, or with double quotes if the string contains single quotes alone.
fn string(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str(r"\n"),
            '\r' => out.push_str(r"\r"),
            '\t' => out.push_str(r"\t"),
            '\\' => out.push_str(r"\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out.extend(['\\', 'x', hex(c, 4), hex(c, 0)]),
            c => out.push(c),
        }
    }
    out.push(quote);
}

fn hex(c: char, shift: u32) -> char {
    char::from_digit((u32::from(c) >> shift) & 15, 16).expect("four bits are one digit")
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_look_as_python_shows_them() {
        let cases = [
            (json!([null, true, false, 1, -2.5]), "[None, True, False, 1, -2.5]"),
            (json!({"label": "x", "deep": {"a": []}}), "{'label': 'x', 'deep': {'a': []}}"),
            (json!("it's"), r#""it's""#),
            (json!("it's \"so\""), r#"'it\'s "so"'"#),
            (json!("a\n\t\\\u{1}é"), r"'a\n\t\\\x01é'"),
        ];
        for (json, python) in cases {
            assert_eq!(value(&json), python);
        }
        assert_eq!(kwargs(&Map::new()), "{}");
    }

    #[test]
    fn a_long_text_is_cut() {
        let shown = args(&[json!("é".repeat(5000))]);
        assert_eq!((shown.chars().count(), shown.ends_with("...")), (LONGEST + 3, true));
    }
}
