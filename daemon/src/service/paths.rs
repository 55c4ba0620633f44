//! Which path of a request leads where its caller's may not, and in which field it is.

use std::io;

use tonic::{Code, Status};
use vmm::{devices::virtio::block::DiskError, machine::boot::ImageError};

use super::errors::bad_field;
use crate::{
    access::PathError,
    vm::{CpuTemplateError, CreateError, FileError, FirmwareError, KernelError, NetError},
};

/// The refusal of a creation that failed for such a path.
pub(super) fn of_create(error: &CreateError) -> Option<Status> {
    let field = |name: &str| format!("definition.{name}");
    let (field, error) = match error {
        CreateError::Firmware(FirmwareError::File(file)) => (field("firmware"), of_file(file)?),
        CreateError::CpuTemplate(CpuTemplateError::File(file)) => {
            (field("cpu_template"), of_file(file)?)
        }
        CreateError::Kernel(KernelError::Kernel {
            source: ImageError::Io(error),
            ..
        }) => (field("kernel"), error),
        CreateError::Kernel(KernelError::Initrd { source, .. }) => (field("initrd"), source),
        CreateError::Disk { index, source, .. } => {
            return of_disk(&field(&format!("disks[{index}].path")), source);
        }
        CreateError::Net { index, source } => {
            return of_net(&field(&format!("nets[{index}]")), source);
        }
        CreateError::SerialSocket(socket) => (field("serial_socket"), socket.io()),
        CreateError::QmpSocket(socket) => (field("qmp_socket"), socket.io()),
        CreateError::VsockSocket(socket) => (field("vsock.path"), socket.io()),
        CreateError::ConsoleSocket { index, source } => {
            (field(&format!("console_ports[{index}].path")), source.io())
        }
        _ => return None,
    };
    refusal(&field, error)
}

/// The refusal of a disk, in the field `field`, for such a path.
pub(super) fn of_disk(field: &str, error: &DiskError) -> Option<Status> {
    match error {
        DiskError::Io(error) => refusal(field, error),
        _ => None,
    }
}

/// The refusal of a network card, in the field `of`, for such a path.
pub(super) fn of_net(of: &str, error: &NetError) -> Option<Status> {
    match error {
        NetError::Passt { source, .. } => refusal(&format!("{of}.passt"), source),
        NetError::Tap { .. } => None,
    }
}

fn of_file(error: &FileError) -> Option<&io::Error> {
    match error {
        FileError::Io { source, .. } => Some(source),
        _ => None,
    }
}

fn refusal(field: &str, error: &io::Error) -> Option<Status> {
    let error = PathError::of(error)?;
    let code = Code::PermissionDenied;
    Some(bad_field(
        code,
        "PATH_NOT_ALLOWED",
        field,
        &error.to_string(),
    ))
}
