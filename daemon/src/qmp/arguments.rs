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
            Some(_) => Err(QmpError::generic(format!(
                "Invalid parameter type for '{name}', expected: string"
            ))),
        }
    }

    /// A string that must be given.
    pub(super) fn mandatory(&mut self, name: &str) -> Result<String, QmpError> {
        self.string(name)?.ok_or_else(|| missing(name))
    }

    /// An optional value of an enumeration.
    pub(super) fn choice<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, QmpError> {
        let parse = |text: String| {
            text.parse().map_err(|_| {
                QmpError::generic(format!("Parameter '{name}' does not accept value '{text}'"))
            })
        };
        self.string(name)?.map(parse).transpose()
    }

    /// An optional list of strings.
    pub(super) fn strings(&mut self, name: &str) -> Result<Vec<String>, QmpError> {
        let wrong = |expected| {
            QmpError::generic(format!(
                "Invalid parameter type for '{name}', expected: {expected}"
            ))
        };
        match self.0.remove(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| {
                    item.as_str()
                        .map(str::to_owned)
                        .ok_or_else(|| wrong("string"))
                })
                .collect(),
            Some(_) => Err(wrong("array")),
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

/// A mandatory argument that was not given.
pub(super) fn missing(name: &str) -> QmpError {
    QmpError::generic(format!("Parameter '{name}' is missing"))
}
