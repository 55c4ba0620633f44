//! The data of an AUDIT event: what was called, by whom, and what was answered.

use serde_json::{Value, json};
use tonic::Code;

use crate::v1::event::{Audit, Caller};

/// The data of `audit`; what is not known of a caller is left out.
pub(super) fn data(audit: &Audit) -> Value {
    let mut data = json!({ "method": audit.method, "code": code(audit.code) });
    let caller = audit.caller.clone().unwrap_or_default();
    let Caller {
        uid,
        gid,
        pid,
        certificate_names,
        address,
        role,
    } = caller;
    let mut put = |name: &str, value: Option<Value>| {
        if let (Value::Object(data), Some(value)) = (&mut data, value) {
            data.insert(name.to_owned(), value);
        }
    };
    put("role", text(role));
    put("uid", uid.map(Value::from));
    put("gid", gid.map(Value::from));
    put("pid", pid.map(Value::from));
    put("certificate", text(certificate_names.join(",")));
    put("address", text(address));
    data
}

fn text(text: String) -> Option<Value> {
    (!text.is_empty()).then(|| text.into())
}

/// A code as gRPC spells it.
fn code(code: i32) -> &'static str {
    match Code::from(code) {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
