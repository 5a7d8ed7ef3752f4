//! The exceptions in results of tasks that failed.

use super::super::repr;
use serde_json::{Value, json};
use std::fmt;

/// An exception that Python raises from `AsyncResult.get()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    name: String,
    args: Vec<Value>,
    module: &'static str,
}

impl Exception {
    /// Creates a built-in exception of Python, such as `ConnectionError`.
    pub fn builtin(name: &str, message: impl Into<String>) -> Self {
        Self::of("builtins", name, message)
    }

    /// Creates an exception of `celery.exceptions`. For an unknown name the reader creates a class of that name.
    pub fn celery(name: &str, message: impl Into<String>) -> Self {
        Self::of("celery.exceptions", name, message)
    }

    /// Creates an exception of `kombu.exceptions`: `DecodeError`, `ContentDisallowed`.
    pub fn kombu(name: &str, message: impl Into<String>) -> Self {
        Self::of("kombu.exceptions", name, message)
    }

    /// Creates an exception of `billiard.exceptions`, which Celery raises when a time limit is over.
    pub fn billiard(name: &str, args: Vec<Value>) -> Self {
        Self { name: name.to_owned(), args, module: "billiard.exceptions" }
    }

    fn of(module: &'static str, name: &str, message: impl Into<String>) -> Self {
        Self { name: name.to_owned(), args: vec![Value::String(message.into())], module }
    }

    /// Replaces the arguments of the class's constructor.
    #[must_use]
    pub fn with_args(mut self, args: Vec<Value>) -> Self {
        self.args = args;
        self
    }

    /// The name of the class.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The module of the class.
    pub fn module(&self) -> &'static str {
        self.module
    }

    /// The first argument as text; the name of the class if there is none.
    pub fn message(&self) -> &str {
        self.args.first().and_then(Value::as_str).unwrap_or(&self.name)
    }

    /// Returns the JSON object that is the result of a FAILURE, RETRY or REVOKED.
    pub fn to_value(&self) -> Value {
        json!({"exc_type": self.name, "exc_message": self.args, "exc_module": self.module})
    }
}

/// Formats the exception as Python's `repr` does: `ValueError('boom', 42)`.
impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let args: Vec<_> = self.args.iter().map(repr::short).collect();
        write!(f, "{}({})", self.name, args.join(", "))
    }
}

#[test]
fn an_exception_is_an_object_that_python_raises_again() {
    let failure = super::TaskResult::failure("1", &Exception::builtin("ConnectionError", "no route"), None);
    let expected =
        json!({"exc_type": "ConnectionError", "exc_message": ["no route"], "exc_module": "builtins"});
    assert_eq!(failure.result, expected);
}
