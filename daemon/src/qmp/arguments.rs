//! The arguments of a command: each is taken once, and what is left over is an error. Nothing is done before all are
//! checked.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::message::QmpError;

/// The arguments of one request.
pub(super) struct Arguments(Map<String, Value>);

impl Arguments {
    pub(super) fn new(members: Map<String, Value>) -> Self {
        Self(members)
    }

    /// An optional string.
    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>, QmpError> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong_type(name, "string")),
        }
    }

    /// A string that must be given.
    pub(super) fn mandatory(&mut self, name: &str) -> Result<String, QmpError> {
        self.string(name)?.ok_or_else(|| missing(name))
    }

    /// An optional value of an enumeration.
    pub(super) fn choice<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, QmpError> {
        let parse = |text: String| text.parse().map_err(|_| not_accepted(name, &text));
        self.string(name)?.map(parse).transpose()
    }

    /// An optional list of strings.
    pub(super) fn strings(&mut self, name: &str) -> Result<Vec<String>, QmpError> {
        match self.0.remove(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .into_iter()
                .enumerate()
                .map(|(n, item)| match item {
                    Value::String(text) => Ok(text),
                    _ => Err(wrong_type(&format!("{name}[{n}]"), "string")),
                })
                .collect(),
            Some(_) => Err(wrong_type(name, "array")),
        }
    }

    /// An optional whole number.
    pub(super) fn integer(&mut self, name: &str) -> Result<Option<i64>, QmpError> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(value) => match value.as_i64() {
                Some(number) => Ok(Some(number)),
                None => Err(wrong_type(name, "integer")),
            },
        }
    }

    /// There must be no others.
    pub(super) fn finish(self) -> Result<(), QmpError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(QmpError::generic(format!(
                "Parameter '{name}' is unexpected"
            ))),
        }
    }
}

fn wrong_type(name: &str, expected: &str) -> QmpError {
    QmpError::generic(format!(
        "Invalid parameter type for '{name}', expected: {expected}"
    ))
}

/// A value that an enumeration does not have.
pub(super) fn not_accepted(name: &str, value: &str) -> QmpError {
    QmpError::generic(format!(
        "Parameter '{name}' does not accept value '{value}'"
    ))
}

/// A mandatory argument that was not given.
pub(super) fn missing(name: &str) -> QmpError {
    QmpError::generic(format!("Parameter '{name}' is missing"))
}
