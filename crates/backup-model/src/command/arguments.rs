//! The arguments of a call, bound as Python would bind them.

use super::{Backup, InvalidCommand};
use crate::component::ComponentName;
use serde_json::{Map, Value};

/// The values of one call by parameter name; nulls are as good as absent, as the defaults are None.
pub(super) struct Arguments {
    pub(super) function: String,
    values: Map<String, Value>,
}

impl Arguments {
    pub(super) fn bind(
        task_name: &str,
        parameters: &[&str],
        args: &[Value],
        kwargs: &Map<String, Value>,
    ) -> Result<Self, InvalidCommand> {
        let function = task_name.rsplit('.').next().unwrap_or(task_name).to_owned();
        let wrong = |why: String| Err(InvalidCommand::Signature(format!("{function}() {why}")));
        if args.len() > parameters.len() {
            let (most, given) = (parameters.len(), args.len());
            return wrong(format!("takes at most {most} positional arguments but {given} were given"));
        }
        let mut values: Map<String, Value> =
            parameters.iter().zip(args).map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        for (name, value) in kwargs {
            // The name is the sender's text: short enough for an error, whatever was sent.
            let shown: String = name.chars().take(40).collect();
            if !parameters.contains(&name.as_str()) {
                return wrong(format!("got an unexpected keyword argument '{shown}'"));
            }
            if values.insert(name.clone(), value.clone()).is_some() {
                return wrong(format!("got multiple values for argument '{shown}'"));
            }
        }
        values.retain(|_, value| !value.is_null());
        Ok(Self { function, values })
    }

    fn mistyped(&self, name: &str, wanted: &str) -> InvalidCommand {
        InvalidCommand::Signature(format!("{}() argument '{name}' must be {wanted}", self.function))
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, InvalidCommand> {
        match self.values.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.mistyped(name, "a string or None")),
        }
    }

    /// A text that cannot be left out.
    pub(super) fn required(&mut self, name: &str) -> Result<String, InvalidCommand> {
        self.text(name)?.ok_or_else(|| {
            let function = &self.function;
            InvalidCommand::Signature(format!(
                "{function}() missing 1 required positional argument: '{name}'"
            ))
        })
    }

    pub(super) fn label(&mut self) -> Result<Option<String>, InvalidCommand> {
        let label = self.text("label")?;
        match &label {
            Some(text) if text.chars().count() > Backup::LABEL_CHARS => {
                Err(InvalidCommand::Value(format!("label is longer than {} characters", Backup::LABEL_CHARS)))
            }
            Some(text) if text.chars().any(char::is_control) => {
                Err(InvalidCommand::Value("label holds control characters".to_owned()))
            }
            _ => Ok(label),
        }
    }

    pub(super) fn flag(&mut self, name: &str, default: bool) -> Result<bool, InvalidCommand> {
        match self.values.remove(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(self.mistyped(name, "True or False")),
        }
    }

    /// Reads a list of names, at least one, and none of them empty.
    pub(super) fn names(&mut self, name: &str) -> Result<Option<Vec<String>>, InvalidCommand> {
        let Some(value) = self.values.remove(name) else { return Ok(None) };
        let names = value.as_array().filter(|names| !names.is_empty());
        let name_of = |one: &Value| one.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
        let names = names.and_then(|names| names.iter().map(name_of).collect());
        let wanted = "a list of strings with something in it, none of them empty, or None";
        names.map(Some).ok_or_else(|| self.mistyped(name, wanted))
    }

    pub(super) fn days(&mut self, name: &str) -> Result<Option<u32>, InvalidCommand> {
        let Some(value) = self.values.remove(name) else { return Ok(None) };
        let days = value.as_u64().and_then(|days| u32::try_from(days).ok());
        days.map(Some).ok_or_else(|| self.mistyped(name, "a whole number of days, 0 or more"))
    }

    pub(super) fn component(&mut self, name: &str) -> Result<Option<ComponentName>, InvalidCommand> {
        match self.text(name)?.as_deref() {
            None | Some("all") => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|err| InvalidCommand::Value(format!("{}() argument '{name}' {err}", self.function))),
        }
    }
}
