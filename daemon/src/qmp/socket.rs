//! The QMP door's socket.

use std::{
    path::Path,
    sync::{Arc, Weak},
};

use super::session::{Machine, serve};
use crate::{
    Daemon,
    listener::{SocketError, SocketServer},
    vm::VmHandle,
};

/// Listens at `path` for clients of the machine that `vm` is a handle of. A connection keeps nothing of a machine that
/// was deleted.
pub(crate) fn open(
    path: &Path,
    daemon: Arc<Daemon>,
    vm: Weak<VmHandle>,
) -> Result<SocketServer, SocketError> {
    SocketServer::open(path, move |stream| {
        let machine = vm.upgrade().map(|vm| Machine {
            daemon: daemon.clone(),
            vm,
        });
        async move {
            let (reader, writer) = stream.into_split();
            match machine {
                Some(machine) => serve(machine, reader, writer).await,
                None => Ok(()),
            }
        }
    })
}
