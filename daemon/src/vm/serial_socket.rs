//! The first serial port on a Unix socket.
//!
//! ```text
//!   guest --> Console (keeps a bounded history) --> every client
//!   guest <-- Console (bounded queue)           <-- any client
//! ```
//! A client gets what the guest wrote and no client of the socket has been given yet, then what comes.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span, debug, warn};
use vmm::devices::console::Console;

use crate::listener::{SocketFile, UnixSocket};

/// The socket cannot be made.
#[derive(Debug, Error)]
#[error("{}: {source}", path.display())]
pub struct SerialSocketError {
    path: PathBuf,
    source: io::Error,
}

/// A socket that is served, until it is dropped.
pub(super) struct SerialSocket {
    _server: AbortOnDropHandle<()>,
    _file: SocketFile,
}

impl SerialSocket {
    /// Listens at `path` for clients of `console`.
    pub(super) fn open(path: &Path, console: Arc<Console>) -> Result<Self, SerialSocketError> {
        let socket = UnixSocket::bind(path).map_err(|source| SerialSocketError {
            path: path.to_owned(),
            source,
        })?;
        let (listener, file) = socket.into_parts();
        let server = tokio::spawn(serve(listener, console).instrument(Span::current()));
        Ok(Self {
            _server: AbortOnDropHandle::new(server),
            _file: file,
        })
    }
}

/// Accepts clients for ever. Dropping this ends them, too.
async fn serve(listener: UnixListener, console: Arc<Console>) {
    let given = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    clients.spawn(client(stream, console.clone(), given.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely; the next client that goes frees one.
                    warn!(%error, "the serial socket accepts nobody");
                    if clients.join_next().await.is_none() {
                        return;
                    }
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

/// Serves one client until it goes away.
async fn client(stream: UnixStream, console: Arc<Console>, given: Arc<AtomicU64>) {
    let (reader, writer) = stream.into_split();
    let result = tokio::select! {
        result = to_client(writer, &console, &given) => result,
        result = from_client(reader, &console) => result,
    };
    if let Err(error) = result {
        debug!(%error, "a client of the serial socket has gone");
    }
}

async fn to_client(
    mut writer: OwnedWriteHalf,
    console: &Console,
    given: &AtomicU64,
) -> io::Result<()> {
    let mut position = given.load(Ordering::Relaxed);
    loop {
        let chunk = console.read_output(position);
        if chunk.bytes.is_empty() {
            if console.is_closed() {
                return Ok(());
            }
            console.wait_output(position).await;
            continue;
        }
        writer.write_all(&chunk.bytes).await?;
        position = chunk.offset + chunk.bytes.len() as u64;
        given.fetch_max(position, Ordering::Relaxed);
    }
}

async fn from_client(mut reader: OwnedReadHalf, console: &Console) -> io::Result<()> {
    let mut buffer = [0; 512];
    loop {
        let count = reader.read(&mut buffer).await?;
        match buffer.get(..count) {
            // The client may have closed its sending side only, and go on reading.
            Some([]) | None => return std::future::pending().await,
            Some(bytes) => {
                if console.write_input(bytes).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}
