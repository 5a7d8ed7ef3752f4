//! The children of a task: the tasks that it sent, as named in its result.

use serde_json::{Value, json};

/// A task that another one sent, in the shape of Celery's result tuples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Child {
    /// A task, by its id.
    Task(String),
    /// A group, by its id, with its members.
    Group(String, Vec<Child>),
}

impl Child {
    /// The id of the task or group.
    pub fn id(&self) -> &str {
        match self {
            Self::Task(id) | Self::Group(id, _) => id,
        }
    }

    /// Parses a result tuple; `None` if the value is not one. The parent in the tuple is ignored.
    pub fn from_value(tuple: &Value) -> Option<Self> {
        let [own, members] = tuple.as_array()?.as_slice() else { return None };
        // A bare id is an older form.
        let id = own.get(0).unwrap_or(own).as_str()?.to_owned();
        match members {
            Value::Null => Some(Self::Task(id)),
            Value::Array(members) => {
                members.iter().map(Self::from_value).collect::<Option<_>>().map(|all| Self::Group(id, all))
            }
            _ => None,
        }
    }

    /// Returns `[[id, parent], members]`: `ResultBase.as_tuple` in `celery/result.py`.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Task(id) => json!([[id, null], null]),
            Self::Group(id, members) => {
                let members: Vec<_> = members.iter().map(Self::to_value).collect();
                json!([[id, null], members])
            }
        }
    }
}
