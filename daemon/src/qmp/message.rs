//! What QMP looks like: the greeting, requests, replies and errors, with QEMU 7.2's texts.

use serde_json::{Map, Value, json};

/// The QEMU whose behaviour this is.
fn version() -> Value {
    json!({
        "qemu": { "micro": 22, "minor": 2, "major": 7 },
        "package": concat!("vmd ", env!("CARGO_PKG_VERSION")),
    })
}

/// The first thing that a client is sent.
pub(super) fn greeting() -> Value {
    json!({ "QMP": { "version": version(), "capabilities": ["oob"] } })
}

/// The reply to `query-version`.
pub(super) fn query_version() -> Value {
    version()
}

/// An error's class, as clients tell errors apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Generic,
    CommandNotFound,
}

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QmpError {
    pub(super) class: Class,
    pub(super) desc: String,
}

impl QmpError {
    pub(super) fn generic(desc: impl Into<String>) -> Self {
        Self {
            class: Class::Generic,
            desc: desc.into(),
        }
    }

    pub(super) fn not_found(desc: impl Into<String>) -> Self {
        Self {
            class: Class::CommandNotFound,
            desc: desc.into(),
        }
    }
}

/// A request, as far as its form goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) execute: String,
    pub(super) arguments: Map<String, Value>,
    /// Whether it is not to wait for those before it.
    pub(super) out_of_band: bool,
}

/// Takes a request apart. The `id` is there also when the rest is wrong, for the error's reply. `oob`: whether a request
/// may be out of band.
pub(super) fn parse(value: Value, oob: bool) -> (Option<Value>, Result<Request, QmpError>) {
    let Value::Object(mut members) = value else {
        return (
            None,
            Err(QmpError::generic("QMP input must be a JSON object")),
        );
    };
    let id = members.remove("id");
    (id, parse_members(members, oob))
}

fn parse_members(mut members: Map<String, Value>, oob: bool) -> Result<Request, QmpError> {
    if !oob && members.contains_key("exec-oob") {
        return Err(unexpected("exec-oob"));
    }
    let urgent = command(&mut members, "exec-oob")?;
    let execute = command(&mut members, "execute")?;
    if execute.is_some() && urgent.is_some() {
        return Err(QmpError::generic(
            "QMP input member 'execute' clashes with 'exec-oob'",
        ));
    }
    let out_of_band = urgent.is_some();
    let arguments = match members.remove("arguments") {
        None => Map::new(),
        Some(Value::Object(arguments)) => arguments,
        Some(_) => {
            return Err(QmpError::generic(
                "QMP input member 'arguments' must be an object",
            ));
        }
    };
    if let Some(name) = members.keys().next() {
        return Err(unexpected(name));
    }
    let execute = execute
        .or(urgent)
        .ok_or_else(|| QmpError::generic("QMP input lacks member 'execute'"))?;
    Ok(Request {
        execute,
        arguments,
        out_of_band,
    })
}

fn unexpected(name: &str) -> QmpError {
    QmpError::generic(format!("QMP input member '{name}' is unexpected"))
}

fn command(members: &mut Map<String, Value>, name: &str) -> Result<Option<String>, QmpError> {
    match members.remove(name) {
        None => Ok(None),
        Some(Value::String(command)) => Ok(Some(command)),
        Some(_) => Err(QmpError::generic(format!(
            "QMP input member '{name}' must be a string"
        ))),
    }
}

/// A reply to the request with this `id`.
pub(super) fn reply(id: Option<Value>, result: Result<Value, QmpError>) -> Value {
    let mut reply = match result {
        Ok(value) => json!({ "return": value }),
        Err(QmpError { class, desc }) => {
            let class = match class {
                Class::Generic => "GenericError",
                Class::CommandNotFound => "CommandNotFound",
            };
            json!({ "error": { "class": class, "desc": desc } })
        }
    };
    if let (Some(id), Some(members)) = (id, reply.as_object_mut()) {
        members.insert("id".to_owned(), id);
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(value: Value) -> String {
        parse(value, false).1.unwrap_err().desc
    }

    #[test]
    fn a_request_has_execute_arguments_and_id() {
        let (id, request) = parse(
            json!({"execute": "a", "arguments": {"b": 1}, "id": [1]}),
            false,
        );
        assert_eq!(id, Some(json!([1])));
        let request = request.unwrap();
        assert_eq!(
            (request.execute.as_str(), &request.arguments["b"]),
            ("a", &json!(1))
        );
    }

    #[test]
    fn what_is_wrong_is_said_as_qemu_does() {
        assert_eq!(error_of(json!([1])), "QMP input must be a JSON object");
        assert_eq!(error_of(json!({})), "QMP input lacks member 'execute'");
        assert_eq!(
            error_of(json!({"execute": 1})),
            "QMP input member 'execute' must be a string"
        );
        assert_eq!(
            error_of(json!({"execute": "a", "arguments": 1})),
            "QMP input member 'arguments' must be an object"
        );
        assert_eq!(
            error_of(json!({"execute": "a", "foo": 1})),
            "QMP input member 'foo' is unexpected"
        );
    }

    #[test]
    fn a_request_is_out_of_band_only_if_that_was_agreed_on() {
        let parse = |value, oob| parse(value, oob).1.map_err(|error| error.desc);
        let unexpected = Err("QMP input member 'exec-oob' is unexpected".to_owned());
        assert_eq!(parse(json!({"exec-oob": 1}), false), unexpected);
        let request = parse(json!({"exec-oob": "a"}), true).unwrap();
        assert_eq!((request.execute.as_str(), request.out_of_band), ("a", true));
        assert_eq!(
            parse(json!({"exec-oob": "a", "execute": "a"}), true),
            Err("QMP input member 'execute' clashes with 'exec-oob'".to_owned())
        );
        assert_eq!(
            parse(json!({"exec-oob": null}), true),
            Err("QMP input member 'exec-oob' must be a string".to_owned())
        );
    }

    #[test]
    fn the_id_comes_back_with_errors_too() {
        let (id, request) = parse(json!({"id": {"a": null}, "execute": 1}), false);
        let reply = reply(id, request.map(|_| json!({})));
        assert_eq!(reply["id"], json!({"a": null}));
        assert_eq!(reply["error"]["class"], "GenericError");
    }
}
