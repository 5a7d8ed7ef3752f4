//! Arguments of control commands, with the exceptions that Python raises over wrong ones.

use super::super::result::Exception;
use serde_json::{Map, Value, json};

/// The arguments of one call of a command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arguments<'a> {
    method: &'a str,
    given: &'a Map<String, Value>,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(method: &'a str, given: &'a Map<String, Value>) -> Self {
        Self { method, given }
    }

    /// Returns an optional argument; a null counts as left out.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.given.get(name).filter(|value| !value.is_null())
    }

    /// Returns `true` if an argument is given and is true in Python.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(truthy)
    }

    /// Returns required arguments, which may be null, or Python's exception for missing ones.
    pub(super) fn require<const N: usize>(&self, names: [&str; N]) -> Result<[&'a Value; N], Exception> {
        let missing: Vec<_> = names.iter().filter(|name| !self.given.contains_key(**name)).collect();
        if missing.is_empty() {
            return Ok(names.map(|name| &self.given[name]));
        }
        let (count, plural) = (missing.len(), if missing.len() == 1 { "" } else { "s" });
        let list: Vec<_> = missing.iter().map(|name| format!("'{name}'")).collect();
        Err(type_error(format!(
            "{}() missing {count} required positional argument{plural}: {}",
            self.method,
            list.join(" and ")
        )))
    }

    /// Returns a required string of 1 to 255 bytes.
    pub(super) fn name(&self, argument: &str) -> Result<&'a str, Exception> {
        let [value] = self.require([argument])?;
        let name = value.as_str().ok_or_else(|| type_error(format!("{argument} is not a string")))?;
        if name.is_empty() || name.len() > 255 {
            return Err(value_error(format!("{argument} has no length between 1 and 255")));
        }
        Ok(name)
    }

    /// Returns an optional count of at least one; the default is one.
    pub(super) fn count(&self, name: &str) -> Result<usize, Exception> {
        let Some(value) = self.get(name) else { return Ok(1) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
        count.ok_or_else(|| value_error(format!("{name} is not a positive integer")))
    }
}

/// Returns `true` if a value is true in Python.
pub(super) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Returns a single string, or the strings of a list, each once and in order.
pub(super) fn strings(value: &Value) -> Result<Vec<&str>, Exception> {
    let items = match value {
        Value::Null => &[][..],
        Value::Array(items) => items,
        one => std::slice::from_ref(one),
    };
    let mut seen = std::collections::HashSet::new();
    let mut strings = Vec::with_capacity(items.len());
    for item in items {
        let text = item.as_str().ok_or_else(|| type_error("expected a string or a list of strings"))?;
        if seen.insert(text) {
            strings.push(text);
        }
    }
    Ok(strings)
}

/// Returns the number of a signal given by number or name; `SIGTERM` if none is given.
///
/// Source: `Signals.signum` in `celery/platforms.py`; the numbers are Linux's, see signal(7).
pub(super) fn signal(value: Option<&Value>) -> Result<i32, Exception> {
    let Some(value) = value.filter(|value| truthy(value)) else { return Ok(15) };
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    if let Some(number) = number {
        let valid = i32::try_from(number).ok().filter(|number| (1..=64).contains(number));
        return valid.ok_or_else(|| value_error("signal number out of range [1, 64]"));
    }
    let name =
        value.as_str().filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()));
    let name = name.ok_or_else(|| type_error("signal name must be uppercase string."))?;
    let short = name.strip_prefix("SIG").unwrap_or(name);
    let number = SIGNALS.iter().position(|known| *known == short).and_then(|at| i32::try_from(at + 1).ok());
    number.ok_or_else(|| {
        Exception::builtin("AttributeError", format!("module 'signal' has no attribute 'SIG{short}'"))
    })
}

/// The names of the signals, from number 1 on.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

pub(super) fn type_error(message: impl Into<String>) -> Exception {
    Exception::builtin("TypeError", message)
}

pub(super) fn value_error(message: impl Into<String>) -> Exception {
    Exception::builtin("ValueError", message)
}

/// Builds Celery's reply to a command that succeeded.
pub(super) fn ok(what: impl Into<Value>) -> Value {
    json!({"ok": what.into()})
}

/// Builds Celery's reply to a command that failed without an exception.
pub(super) fn nok(what: impl Into<Value>) -> Value {
    json!({"error": what.into()})
}

#[test]
fn signals_are_known_by_name_and_number() {
    for (value, number) in [
        (json!(null), 15),
        (json!("SIGKILL"), 9),
        (json!("TERM"), 15),
        (json!("SYS"), 31),
        (json!(2), 2),
        (json!("9"), 9),
        (json!(0), 15),
    ] {
        assert_eq!(signal(Some(&value)), Ok(number), "{value}");
    }
    for (value, error) in [
        (json!("term"), "TypeError('signal name must be uppercase string.')"),
        (json!("SIGFOO"), r#"AttributeError("module 'signal' has no attribute 'SIGFOO'")"#),
        (json!(-1), "ValueError('signal number out of range [1, 64]')"),
        (json!([9]), "TypeError('signal name must be uppercase string.')"),
    ] {
        assert_eq!(signal(Some(&value)).unwrap_err().to_string(), error);
    }
}
