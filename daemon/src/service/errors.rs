//! Which status, reason and details each error has on the wire.

use std::{collections::HashMap, time::Duration};

use nix::errno::Errno;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use vmm::{
    devices::virtio::block::{DiskError, ResizeError},
    machine::{BuildError, DeviceCommandError, boot::BootError, cpu::CpuError},
    runstate::chain,
};

use super::paths;
use crate::{
    access::{Peer, Role},
    event_log::{Lost, ReadError},
    limits::OverLimit,
    vm::{CreateError, KernelError, NetError, VmError},
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

pub(super) fn bad_field(code: Code, reason: &str, field: &str, problem: &str) -> Status {
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

/// `peer`, who has `role`, may not call `method`.
pub(crate) fn access_denied(method: &str, needed: Role, peer: &Peer, role: Option<Role>) -> Status {
    let has = role.map_or("none".to_owned(), |role| role.to_string());
    let message = format!("{method} needs role {needed}; {peer} has {has}");
    let metadata = [("method", method.to_owned()), ("role", needed.to_string())];
    status(Code::PermissionDenied, "ACCESS_DENIED", message, &metadata)
}

/// It is not known who calls.
pub(crate) fn unauthenticated(message: &str) -> Status {
    let (code, message) = (Code::Unauthenticated, message.to_owned());
    status(code, "UNAUTHENTICATED", message, &[])
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

/// The machine has another etag than the call is for.
pub(super) fn etag_mismatch(name: &str, etag: &str) -> Status {
    let message = format!("machine '{name}' has changed: its etag is '{etag}' now");
    let metadata = [("name", name.to_owned()), ("etag", etag.to_owned())];
    status(Code::Aborted, "ETAG_MISMATCH", message, &metadata)
}

/// The id is another call's.
pub(super) fn request_id_reused(id: &str) -> Status {
    bad_field(
        Code::InvalidArgument,
        "REQUEST_ID_REUSED",
        "request_id",
        &format!("'{id}' is the id of another call: make up one for each"),
    )
}

/// The time that the client gave its call is over.
pub(super) fn deadline_exceeded() -> Status {
    let message = "the call was not answered in the time that it was given; what the machine had begun goes on";
    status(
        Code::DeadlineExceeded,
        "DEADLINE_EXCEEDED",
        message.to_owned(),
        &[],
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

/// A disk that cannot be opened.
pub(super) fn disk_unusable(field: &str, error: &DiskError, problem: &str) -> Status {
    if let Some(refusal) = paths::of_disk(field, error) {
        return refusal;
    }
    bad_field(Code::InvalidArgument, "DISK_UNUSABLE", field, problem)
}

/// A network card, in the field `of`, that cannot be connected.
pub(super) fn net_unusable(of: &str, error: &NetError) -> Status {
    if let Some(refusal) = paths::of_net(of, error) {
        return refusal;
    }
    let backend = match error {
        NetError::Tap { .. } => "tap",
        NetError::Passt { .. } => "passt",
    };
    bad_field(
        Code::InvalidArgument,
        "NET_UNUSABLE",
        &format!("{of}.{backend}"),
        &error.to_string(),
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

/// Events that cannot be read.
pub(super) fn unread(error: &ReadError) -> Status {
    match error {
        ReadError::Lost(error) => lost(error),
        ReadError::Store(error) => unavailable(error.to_string(), false),
    }
}

/// The store does not work; `applied` if the change was made all the same.
pub(super) fn unavailable(message: String, applied: bool) -> Status {
    let metadata = [("applied", applied.to_string())];
    status(Code::Unavailable, "STORE_UNAVAILABLE", message, &metadata)
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
        VmError::NotChangeable(field) => {
            let problem = format!(
                "machine '{name}' has not ended: only its labels can change, and what has a call of its own"
            );
            let metadata = [("name", name), ("field", field)];
            let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
            named_field(
                precondition,
                "NOT_CHANGEABLE",
                field,
                &problem,
                metadata.into(),
            )
        }
        // Callers try again.
        VmError::Updated => refuse(Code::Aborted, "ETAG_MISMATCH", error.to_string()),
        VmError::NotEnded => {
            let message = format!("machine '{name}' has not ended");
            refuse(precondition, "VM_NOT_ENDED", message)
        }
        // QEMU's own words, and nothing else.
        VmError::Refused(refusal) => refuse(precondition, "INVALID_STATE", refusal.to_string()),
        VmError::Failed(_) => refuse(Code::Internal, "VM_FAILED", format!("{name}: {error}")),
        VmError::Device(error) => device(name, error),
        VmError::Create(error) => create(name, error),
        VmError::OverLimit(error) => over_limit(name, error),
        VmError::NotReady(_) => unavailable(format!("'{name}': {error}"), false),
        VmError::NotStored(_) => unavailable(format!("'{name}': {error}"), true),
    }
}

fn over_limit(name: &str, error: &OverLimit) -> Status {
    let refuse = |code, reason, facts: &[(&str, String)]| {
        let message = format!("'{name}': {error}");
        let metadata = [&[("name", name.to_owned())], facts].concat();
        status(code, reason, message, &metadata)
    };
    match error {
        OverLimit::Quota {
            group,
            what,
            limit,
            needed,
        } => {
            let facts = [
                ("label", group.clone().unwrap_or_default()),
                ("quota", (*what).to_owned()),
                ("limit", limit.to_string()),
                ("needed", needed.to_string()),
            ];
            refuse(Code::ResourceExhausted, "QUOTA_EXCEEDED", &facts)
        }
        OverLimit::HostMemory {
            has,
            promised,
            asked,
        } => {
            let facts = [
                ("limit", has.to_string()),
                ("needed", promised.saturating_add(*asked).to_string()),
            ];
            refuse(Code::ResourceExhausted, "HOST_MEMORY", &facts)
        }
        OverLimit::Unknown(_) => refuse(Code::Internal, "INTERNAL", &[]),
    }
}

/// The caller has no calls left for so long.
pub(crate) fn rate_limited(peer: &Peer, wait: Duration) -> Status {
    let message = format!(
        "{peer} calls too often: try again in {} ms (limits.calls_per_second in the daemon's configuration)",
        wait.as_millis() + 1
    );
    let mut details = ErrorDetails::with_error_info("RATE_LIMITED", DOMAIN, HashMap::new());
    details.set_retry_info(Some(wait));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

fn device(name: &str, error: &DeviceCommandError) -> Status {
    let refuse = |code, reason, disk: &str| {
        let metadata = [("name", name.to_owned()), ("disk", disk.to_owned())];
        status(code, reason, error.to_string(), &metadata)
    };
    match error {
        DeviceCommandError::NoBalloon => {
            let metadata = [("name", name.to_owned())];
            let code = Code::FailedPrecondition;
            status(code, "NO_BALLOON", error.to_string(), &metadata)
        }
        DeviceCommandError::NoDevice(device) => status(
            Code::NotFound,
            "DEVICE_NOT_FOUND",
            error.to_string(),
            &[("name", name.to_owned()), ("device", device.clone())],
        ),
        DeviceCommandError::NoHotplug => {
            let metadata = [("name", name.to_owned())];
            let message = format!("{error}: create it with virtio_transport PCI");
            status(Code::FailedPrecondition, "NO_HOTPLUG", message, &metadata)
        }
        DeviceCommandError::NoSlot => {
            let metadata = [("name", name.to_owned())];
            status(
                Code::ResourceExhausted,
                "NO_FREE_SLOT",
                error.to_string(),
                &metadata,
            )
        }
        DeviceCommandError::Add(error) => {
            let (code, reason) = if is_exhausted(error) {
                (Code::ResourceExhausted, "HOST_EXHAUSTED")
            } else {
                (Code::Internal, "INTERNAL")
            };
            status(code, reason, chain(error), &[("name", name.to_owned())])
        }
        DeviceCommandError::NoDisk(disk) => refuse(Code::NotFound, "DISK_NOT_FOUND", disk),
        DeviceCommandError::NoNet(net) => {
            let metadata = [("name", name.to_owned()), ("net", net.clone())];
            let message = error.to_string();
            status(Code::NotFound, "NET_NOT_FOUND", message, &metadata)
        }
        DeviceCommandError::ResizeDisk { disk, source } => match source {
            ResizeError::Size(_) => invalid_field("size_bytes", &source.to_string()),
            ResizeError::Shrinks { .. } => {
                let problem = format!("{source}; set allow_shrink to have it so");
                invalid_field("size_bytes", &problem)
            }
            _ => refuse(Code::FailedPrecondition, "DISK_NOT_RESIZED", disk),
        },
    }
}

fn create(name: &str, error: &CreateError) -> Status {
    if let Some(refusal) = paths::of_create(error) {
        return refusal;
    }
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
        CreateError::Disk { index, source, .. } => disk_unusable(
            &format!("definition.disks[{index}].path"),
            source,
            &error.to_string(),
        ),
        CreateError::Net { index, source } => {
            net_unusable(&format!("definition.nets[{index}]"), source)
        }
        CreateError::Kernel(error) => {
            let (reason, field) = match error {
                KernelError::Kernel { .. } | KernelError::Boot(BootError::Kernel { .. }) => {
                    ("KERNEL_UNUSABLE", "definition.kernel")
                }
                KernelError::Initrd { .. }
                | KernelError::Boot(BootError::InitrdEmpty | BootError::Initrd { .. }) => {
                    ("INITRD_UNUSABLE", "definition.initrd")
                }
                KernelError::Boot(BootError::CmdlineLength { .. } | BootError::CmdlineZero) => {
                    ("INVALID_FIELD", "definition.cmdline")
                }
            };
            bad_field(Code::InvalidArgument, reason, field, &error.to_string())
        }
        CreateError::Build(error @ BuildError::Cmdline(_)) => {
            invalid_field("definition.cmdline", &error.to_string())
        }
        CreateError::CpuTemplate(error) => cpu_template(&error.to_string()),
        CreateError::Build(BuildError::Cpu(CpuError::Template(error))) => {
            cpu_template(&error.to_string())
        }
        // A host CPU that went away since the request was checked.
        CreateError::Build(BuildError::Cpu(error @ CpuError::Pin(_))) => {
            invalid_field("definition.cpu_pins", &error.to_string())
        }
        CreateError::SerialSocket(error) => bad_field(
            Code::InvalidArgument,
            "SOCKET_UNUSABLE",
            "definition.serial_socket",
            &error.to_string(),
        ),
        CreateError::ConsoleSocket { index, .. } => bad_field(
            Code::InvalidArgument,
            "SOCKET_UNUSABLE",
            &format!("definition.console_ports[{index}].path"),
            &error.to_string(),
        ),
        CreateError::VsockSocket(error) => bad_field(
            Code::InvalidArgument,
            "SOCKET_UNUSABLE",
            "definition.vsock.path",
            &error.to_string(),
        ),
        CreateError::QmpSocket(error) => bad_field(
            Code::InvalidArgument,
            "SOCKET_UNUSABLE",
            "definition.qmp_socket",
            &error.to_string(),
        ),
        CreateError::CpuControl(_) => refuse(Code::FailedPrecondition, "CPU_CONTROL_UNAVAILABLE"),
        CreateError::Build(error) if is_exhausted(error) => {
            refuse(Code::ResourceExhausted, "HOST_EXHAUSTED")
        }
        CreateError::Build(_) | CreateError::Interrupted(_) | CreateError::Injected(_) => {
            refuse(Code::Internal, "INTERNAL")
        }
    }
}

fn cpu_template(problem: &str) -> Status {
    let field = "definition.cpu_template";
    bad_field(
        Code::InvalidArgument,
        "CPU_TEMPLATE_UNUSABLE",
        field,
        problem,
    )
}

/// Whether the host ran out of something, rather than a bug showed.
fn is_exhausted(error: &BuildError) -> bool {
    let errno = match error {
        BuildError::Kvm { source, .. } => Errno::from_raw(source.errno()),
        BuildError::VcpuThread(errno) => *errno,
        BuildError::Memory { .. } => return true,
        BuildError::Device(error) => Errno::from_raw(error.raw_os_error().unwrap_or_default()),
        BuildError::Firmware(_)
        | BuildError::Boot(_)
        | BuildError::Cmdline(_)
        | BuildError::Cpu(_)
        | BuildError::Confine(_)
        | BuildError::Injected(_) => return false,
    };
    matches!(
        errno,
        Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::EAGAIN | Errno::ENOSPC
    )
}
