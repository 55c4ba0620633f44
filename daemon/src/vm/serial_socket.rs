//! The first serial port on a Unix socket.
//!
//! ```text
//!   guest --> Console (keeps a bounded history) --> every client
//!   guest <-- Console (bounded queue)           <-- any client
//! ```
//! A client gets what the guest wrote and no client of the socket has been given yet, then what comes.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use vmm::devices::console::Console;

use crate::listener::{SocketError, SocketServer};

/// Listens at `path` for clients of `console`.
pub(super) fn open(path: &Path, console: Arc<Console>) -> Result<SocketServer, SocketError> {
    let given = Arc::new(AtomicU64::new(0));
    SocketServer::open(path, move |stream| {
        client(stream, console.clone(), given.clone())
    })
}

/// Serves one client until it goes away, or the machine has ended and all was sent.
async fn client(
    stream: UnixStream,
    console: Arc<Console>,
    given: Arc<AtomicU64>,
) -> io::Result<()> {
    let (reader, writer) = stream.into_split();
    tokio::select! {
        result = to_client(writer, &console, &given) => result,
        result = from_client(reader, &console) => result,
    }
}

async fn to_client(
    mut writer: OwnedWriteHalf,
    console: &Console,
    given: &AtomicU64,
) -> io::Result<()> {
    let mut position = given.load(Ordering::Relaxed);
    loop {
        // Looked at first: output that came before the end is sent.
        let closed = console.is_closed();
        let chunk = console.read_output(position);
        if chunk.bytes.is_empty() {
            if closed {
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
            Some([]) | None => return hung_up(reader.as_ref().as_fd()).await,
            // A machine that has ended takes nothing; there may be output left.
            Some(bytes) if console.write_input(bytes).await.is_err() => {
                return std::future::pending().await;
            }
            Some(_) => {}
        }
    }
}

/// Returns once the other side of a socket is closed in both directions. Nobody else's waiting for the socket is
/// disturbed: this waits through a descriptor of its own.
async fn hung_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    let socket = UnixStream::from_std(socket.try_clone_to_owned()?.into())?;
    loop {
        if socket.ready(Interest::WRITABLE).await?.is_write_closed() {
            return Ok(());
        }
        // That there is room to write is no news: only the next change is waited for.
        let seen = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = socket.try_io(Interest::WRITABLE, seen);
    }
}
