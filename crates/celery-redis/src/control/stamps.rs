//! Stamped headers as `revoke_by_stamped_headers` names and shows them.

use super::super::repr;
use super::super::result::Exception;
use super::arguments::type_error;
use serde_json::{Map, Value};

/// Reads the requested headers: an object, or, from the command line, a list of `name=value`.
pub(super) fn headers(given: &Value) -> Result<Map<String, Value>, Exception> {
    match given {
        Value::Object(headers) => Ok(headers.clone()),
        Value::Array(lines) => lines.iter().map(line).collect(),
        _ => Err(type_error("headers are neither an object nor a list")),
    }
}

fn line(line: &Value) -> Result<(String, Value), Exception> {
    let line = line.as_str().ok_or_else(|| type_error("headers are not strings"))?;
    let mut parts = line.split('=');
    match (parts.next(), parts.next()) {
        (Some(name), Some(value)) => Ok((name.to_owned(), value.into())),
        _ => Err(Exception::builtin("IndexError", "list index out of range")),
    }
}

/// Returns each header with each of its values.
pub(super) fn pairs(headers: &Map<String, Value>) -> Vec<(&str, &Value)> {
    headers.iter().flat_map(|(name, value)| values(value).iter().map(move |value| (&**name, value))).collect()
}

fn values(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) => values,
        one => std::slice::from_ref(one),
    }
}

/// Formats pairs, grouped by header, as Python's `repr` does a `defaultdict` of sets.
pub(super) fn grouped(pairs: &[(&str, &Value)]) -> String {
    let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
    for (name, value) in pairs {
        let shown = repr::value(value);
        match groups.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) if values.contains(&shown) => {}
            Some((_, values)) => values.push(shown),
            None => groups.push((name, vec![shown])),
        }
    }
    let shown: Vec<_> = groups
        .iter()
        .map(|(name, values)| format!("{}: {{{}}}", repr::value(&Value::from(*name)), values.join(", ")))
        .collect();
    format!("defaultdict(<class 'set'>, {{{}}})", shown.join(", "))
}
