//! The Unix sockets of a machine's devices.
//!
//! A device takes connections itself, when its guest is ready for them; the file is the daemon's, and is removed at the
//! machine's end.

use std::path::Path;

use vmm::{
    devices::virtio::{console::PortConfig, vsock::VsockConfig},
    machine::VirtioConfig,
};

use super::{CreateError, Definition, Vsock};
use crate::access::Beneath;
use crate::listener::{SocketError, SocketFile, UnixSocket};

/// Adds the devices that have sockets to `devices`. The sockets' files are removed when the result is dropped. Within a
/// runtime.
pub(super) fn open(
    paths: &Beneath,
    definition: &Definition,
    devices: &mut Vec<VirtioConfig>,
) -> Result<Vec<SocketFile>, CreateError> {
    let mut files = Vec::new();
    if let Some(Vsock { cid, path }) = &definition.vsock {
        let (listener, file) = bind(paths, path)
            .map_err(CreateError::VsockSocket)?
            .into_parts();
        files.push(file);
        devices.push(VirtioConfig::Vsock(VsockConfig {
            cid: *cid,
            listener: listener.into(),
            path: path.clone(),
            resolve: paths.resolve(),
        }));
    }
    let mut ports = Vec::new();
    for (index, port) in definition.console_ports.iter().enumerate() {
        let socket = bind(paths, &port.path);
        let socket = socket.map_err(|source| CreateError::ConsoleSocket { index, source })?;
        let (listener, file) = socket.into_parts();
        files.push(file);
        ports.push(PortConfig {
            name: port.name.clone(),
            is_console: port.is_console,
            listener: listener.into(),
        });
    }
    if !ports.is_empty() {
        devices.push(VirtioConfig::Console(ports));
    }
    Ok(files)
}

fn bind(paths: &Beneath, path: &Path) -> Result<UnixSocket, SocketError> {
    let bound = paths.make(path).and_then(UnixSocket::bind_at);
    bound.map_err(|source| SocketError::new(path, source))
}
