//! Unix sockets that belong to the daemon: made with mode 0600, served, and removed again.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, FileTypeExt},
            net::UnixDatagram,
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::{
    socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr},
    stat::{Mode, fchmod},
};
use thiserror::Error;
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::{Instrument, Span, debug, warn};
use vmm::place::Place;

use crate::access::Beneath;

/// A listening Unix socket whose file goes with it.
pub struct UnixSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket: removed when this is dropped.
pub struct SocketFile(Place);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed by others.
        let _ = fs::remove_file(self.0.path());
    }
}

impl UnixSocket {
    /// Listens at `path`, reachable by this user only. A socket that nobody listens at any more is replaced.
    pub fn bind(path: &Path) -> io::Result<Self> {
        Self::bind_at(path.into())
    }

    /// The same at a place.
    pub fn bind_at(place: Place) -> io::Result<Self> {
        let path = place.path();
        let address = UnixAddr::new(path)?;
        let bind = || -> io::Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
            // The file gets the socket's mode at bind, so there is no moment at which others could connect.
            fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
            socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address)?;
            Ok(socket)
        };
        let socket = match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
                fs::remove_file(path)?;
                bind()
            }
            other => other,
        }?;
        let file = SocketFile(place);
        socket::listen(&socket, Backlog::MAXCONN)?;
        let listener = UnixListener::from_std(socket.into())?;
        Ok(Self { listener, file })
    }

    /// The listener, and what removes the file.
    pub fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

/// A Unix socket whose clients are served, each by a task of its own, until this is dropped. Those that are connected
/// then get a little time to come to their end.
pub struct SocketServer {
    _stop: DropGuard,
    _file: SocketFile,
}

/// Clients of one socket at a time; the next ones wait in the kernel.
const CLIENTS: usize = 64;
/// How long clients may go on after the end.
const LINGER: Duration = Duration::from_secs(5);

impl SocketServer {
    /// Listens at `path` and has `serve` serve each client. `serve` is dropped when no client is left; `clients` is done
    /// then, too.
    pub fn open<F>(
        clients: &TaskTracker,
        paths: &Beneath,
        path: &Path,
        serve: impl Fn(UnixStream) -> F + Send + 'static,
    ) -> Result<Self, SocketError>
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let socket = paths.make(path).and_then(UnixSocket::bind_at);
        let socket = socket.map_err(|source| SocketError::new(path, source))?;
        let (listener, file) = socket.into_parts();
        let stop = CancellationToken::new();
        clients.spawn(accept(listener, stop.clone(), serve).instrument(Span::current()));
        Ok(Self {
            _stop: stop.drop_guard(),
            _file: file,
        })
    }
}

/// A socket cannot be made.
#[derive(Debug, Error)]
#[error("{}: {source}", path.display())]
pub struct SocketError {
    path: PathBuf,
    source: io::Error,
}

impl SocketError {
    /// That at `path` cannot.
    pub fn new(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self { path, source }
    }

    /// Why.
    pub(crate) fn io(&self) -> &io::Error {
        &self.source
    }
}

async fn accept<F>(listener: UnixListener, stop: CancellationToken, serve: impl Fn(UnixStream) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = clients.join_next() => {}
            accepted = listener.accept(), if clients.len() < CLIENTS => match accepted {
                Ok((stream, _)) => {
                    let client = serve(stream);
                    clients.spawn(async {
                        if let Err(error) = client.await {
                            debug!(%error, "a client has gone");
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely; the next client that goes frees one.
                    warn!(%error, "nobody can connect");
                    if clients.join_next().await.is_none() {
                        return;
                    }
                }
            },
        }
    }
    drop(listener);
    // Those that are still there then are cut off.
    let _ = timeout(LINGER, async {
        while clients.join_next().await.is_some() {}
    })
    .await;
}

/// Makes the directory that `path` is in, unless it exists: for this user only or, if it is `shared`, so that others can
/// open what they know the name of.
pub fn make_parent(path: &Path, shared: bool) -> io::Result<()> {
    let mode = if shared { 0o711 } else { 0o700 };
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(parent),
        _ => Ok(()),
    }
}

/// Whether `path` is a socket that nobody listens at.
///
/// Asked with a socket of another type: who listens does not see a client come and go (which would cost a serial port the
/// output it keeps for its first client). The kernel looks for the listener first (ECONNREFUSED), then at the type
/// (EPROTOTYPE).
fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    let connect = || UnixDatagram::unbound()?.connect(path);
    is_socket && connect().is_err_and(refused)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn is_private_replaces_a_stale_one_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the stale socket");

        let socket = UnixSocket::bind(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let again = UnixSocket::bind(&path).map(drop).unwrap_err();
        assert_eq!(
            again.kind(),
            io::ErrorKind::AddrInUse,
            "somebody listens there"
        );
        let client = tokio::time::timeout(std::time::Duration::ZERO, socket.listener.accept());
        assert!(client.await.is_err(), "and did not notice");

        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(UnixSocket::bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
