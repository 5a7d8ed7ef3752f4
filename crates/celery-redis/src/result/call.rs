//! The call of a task, as a part of its result.

use super::super::message::Message;
use serde_json::{Map, Value, json};

/// The call of a task: the fields that `result_extended` adds to a result.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    task: String,
    args: Vec<Value>,
    kwargs: Map<String, Value>,
    retries: u32,
    queue: String,
    stamped_headers: Vec<String>,
    stamps: Map<String, Value>,
}

impl Call {
    /// Returns the call of a message.
    pub fn of(message: &Message) -> Self {
        Self {
            task: message.task.clone(),
            args: message.args.clone(),
            kwargs: message.kwargs.clone(),
            retries: message.retries,
            queue: message.routing_key.clone(),
            stamped_headers: message.stamped_headers(),
            stamps: message.stamps.clone(),
        }
    }

    pub(super) fn write(&self, worker: &str, meta: &mut Map<String, Value>) {
        let fields = [
            ("name", json!(self.task)),
            ("args", json!(self.args)),
            ("kwargs", json!(self.kwargs)),
            ("worker", json!(worker)),
            ("retries", json!(self.retries)),
            ("queue", json!(self.queue)),
        ];
        meta.extend(fields.map(|(key, value)| (key.to_owned(), value)));
        if self.stamps.is_empty() {
            return;
        }
        meta.insert("stamped_headers".to_owned(), json!(self.stamped_headers));
        let stamps = self.stamps.iter().filter(|(name, _)| self.stamped_headers.contains(name));
        meta.extend(stamps.map(|(name, value)| (name.clone(), value.clone())));
    }
}
