//! The QMP door's socket.

use std::{
    path::Path,
    sync::{Arc, Weak},
};

use tokio_util::sync::DropGuard;

use super::{
    door::Door,
    session::{Machine, serve},
};
use crate::{
    Daemon,
    access::Beneath,
    listener::{SocketError, SocketServer},
    vm::VmHandle,
};

/// Listens at `path` for clients of the machine that `vm` is a handle of. A connection keeps nothing of a machine that
/// was deleted. `in_use` is dropped when the last client has come to its end.
pub(crate) fn open(
    paths: &Beneath,
    path: &Path,
    daemon: Arc<Daemon>,
    vm: Weak<VmHandle>,
    door: Arc<Door>,
    in_use: DropGuard,
) -> Result<SocketServer, SocketError> {
    let clients = daemon.clients.clone();
    SocketServer::open(&clients, paths, path, move |stream| {
        // With what serves them, which goes last.
        let _ = &in_use;
        let machine = vm.upgrade().map(|vm| Machine {
            daemon: daemon.clone(),
            vm,
            door: door.clone(),
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
