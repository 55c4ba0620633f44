//! Which status, reason and details each error has on the wire.

use std::collections::HashMap;

use nix::errno::Errno;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use vmm::{machine::BuildError, runstate::chain};

use crate::{
    event_log::Lost,
    vm::{CreateError, VmError},
};

/// Of `google.rpc.ErrorInfo`.
const DOMAIN: &str = "vmd";

fn status(code: Code, reason: &str, message: String, metadata: &[(&str, String)]) -> Status {
    let metadata: HashMap<_, _> = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect();
    Status::with_error_details(
        code,
        message,
        ErrorDetails::with_error_info(reason, DOMAIN, metadata),
    )
}

/// A field with a bad value, under the general reason.
pub(super) fn invalid_field(field: &str, problem: &str) -> Status {
    bad_field(Code::InvalidArgument, "INVALID_FIELD", field, problem)
}

fn bad_field(code: Code, reason: &str, field: &str, problem: &str) -> Status {
    named_field(code, reason, field, problem, HashMap::new())
}

fn named_field(
    code: Code,
    reason: &str,
    field: &str,
    problem: &str,
    metadata: HashMap<String, String>,
) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    details.add_bad_request_violation(field, problem);
    Status::with_error_details(code, format!("{field}: {problem}"), details)
}

/// There is no machine of this name.
pub(super) fn not_found(name: &str) -> Status {
    let message = format!("there is no machine called '{name}'");
    status(
        Code::NotFound,
        "VM_NOT_FOUND",
        message,
        &[("name", name.to_owned())],
    )
}

/// A bug of the daemon's.
pub(super) fn internal(name: &str, problem: &str) -> Status {
    status(
        Code::Internal,
        "INTERNAL",
        problem.to_owned(),
        &[("name", name.to_owned())],
    )
}

/// Events that are gone, or have not come.
pub(super) fn lost(lost: &Lost) -> Status {
    let metadata = [
        ("oldest_seq", lost.oldest_seq.to_string()),
        ("newest_seq", lost.newest_seq.to_string()),
    ];
    status(Code::OutOfRange, "EVENTS_LOST", lost.to_string(), &metadata)
}

/// What a machine called `name` answered.
pub(super) fn vm(name: &str, error: &VmError) -> Status {
    let refuse = |code, reason, message| {
        let metadata = [("name", name.to_owned())];
        status(code, reason, message, &metadata)
    };
    let precondition = Code::FailedPrecondition;
    match error {
        VmError::Gone => not_found(name),
        VmError::Ended => refuse(
            precondition,
            "VM_ENDED",
            format!("machine '{name}' has ended"),
        ),
        VmError::Recording(_) => {
            let message = format!("machine '{name}' is being recorded already");
            refuse(precondition, "RECORDING", message)
        }
        VmError::NotEnded => {
            let message = format!("machine '{name}' has not ended");
            refuse(precondition, "VM_NOT_ENDED", message)
        }
        // QEMU's own words, and nothing else.
        VmError::Refused(refusal) => refuse(precondition, "INVALID_STATE", refusal.to_string()),
        VmError::Failed(_) => refuse(Code::Internal, "VM_FAILED", format!("{name}: {error}")),
        VmError::Create(error) => create(name, error),
    }
}

fn create(name: &str, error: &CreateError) -> Status {
    let refuse = |code, reason| status(code, reason, chain(error), &[("name", name.to_owned())]);
    match error {
        CreateError::Exists(_) => {
            let metadata = [("name".to_owned(), name.to_owned())].into();
            let problem = error.to_string();
            named_field(Code::AlreadyExists, "VM_EXISTS", "name", &problem, metadata)
        }
        CreateError::ShuttingDown => refuse(Code::Unavailable, "SHUTTING_DOWN"),
        CreateError::Firmware(error) => bad_field(
            Code::InvalidArgument,
            "FIRMWARE_UNUSABLE",
            "definition.firmware",
            &error.to_string(),
        ),
        CreateError::SerialSocket(error) => bad_field(
            Code::InvalidArgument,
            "SOCKET_UNUSABLE",
            "definition.serial_socket",
            &error.to_string(),
        ),
        CreateError::QmpSocket(error) => bad_field(
            Code::InvalidArgument,
            "SOCKET_UNUSABLE",
            "definition.qmp_socket",
            &error.to_string(),
        ),
        CreateError::Build(error) if is_exhausted(error) => {
            refuse(Code::ResourceExhausted, "HOST_EXHAUSTED")
        }
        CreateError::Build(_) | CreateError::Interrupted(_) | CreateError::Injected(_) => {
            refuse(Code::Internal, "INTERNAL")
        }
    }
}

/// Whether the host ran out of something, rather than a bug showed.
fn is_exhausted(error: &BuildError) -> bool {
    let errno = match error {
        BuildError::Kvm { source, .. } => Errno::from_raw(source.errno()),
        BuildError::VcpuThread(errno) => *errno,
        BuildError::Memory { .. } => return true,
        BuildError::Firmware(_) | BuildError::Injected(_) => return false,
    };
    matches!(
        errno,
        Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::EAGAIN | Errno::ENOSPC
    )
}
