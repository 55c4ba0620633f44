//! The first serial port on a Unix socket.
//!
//! ```text
//!   guest --> Console (keeps a bounded history) --> every client
//!   guest <-- Console (bounded queue)           <-- any client
//! ```
//! A client gets what the guest wrote and no client of the socket has been given yet, then what comes. At the end of the
//! machine it is sent all there is, and disconnected when the monitors' clients are: those are closed first.

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
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use vmm::devices::console::Console;

use crate::access::Beneath;
use crate::listener::{SocketError, SocketServer};

/// Listens at `path` for clients of `console`. They are disconnected after `monitors_gone`.
pub(super) fn open(
    clients: &TaskTracker,
    paths: &Beneath,
    path: &Path,
    console: Arc<Console>,
    monitors_gone: CancellationToken,
) -> Result<SocketServer, SocketError> {
    let given = Arc::new(AtomicU64::new(0));
    SocketServer::open(clients, paths, path, move |stream| {
        let (console, given, monitors_gone) =
            (console.clone(), given.clone(), monitors_gone.clone());
        async move { client(stream, console, given, monitors_gone).await }
    })
}

/// Serves one client until it goes away, or the machine has ended and all was sent.
async fn client(
    stream: UnixStream,
    console: Arc<Console>,
    given: Arc<AtomicU64>,
    monitors_gone: CancellationToken,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    // Before its input is read: the answer to that is for this client, too, whoever is given it first.
    let position = given.load(Ordering::Relaxed);
    let output = async {
        // Still open when this is done.
        to_client(&mut writer, &console, &given, position).await?;
        monitors_gone.cancelled().await;
        Ok(())
    };
    tokio::select! {
        result = output => result,
        result = from_client(reader, &console) => result,
    }
}

async fn to_client(
    writer: &mut OwnedWriteHalf,
    console: &Console,
    given: &AtomicU64,
    mut position: u64,
) -> io::Result<()> {
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
        position = chunk.offset + chunk.bytes.len() as u64;
        let mut claim = Claim::new(given, chunk.offset, position);
        let mut rest = chunk.bytes.as_slice();
        while !rest.is_empty() {
            let taken = writer.write(rest).await?;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            claim.from += taken as u64;
            rest = rest.get(taken..).unwrap_or_default();
        }
    }
}

/// Output that is being given to a client. It counts as given before the client can see it, so that one that comes when
/// this one has read it does not get it again; what the client does not take any more is there for the next.
struct Claim<'a> {
    given: &'a AtomicU64,
    from: u64,
    to: u64,
}

impl<'a> Claim<'a> {
    fn new(given: &'a AtomicU64, from: u64, to: u64) -> Self {
        given.fetch_max(to, Ordering::Relaxed);
        Self { given, from, to }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Unless another client has been given more meanwhile.
        let (to, from) = (self.to, self.from);
        let _ = self
            .given
            .compare_exchange(to, from, Ordering::Relaxed, Ordering::Relaxed);
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
    while !socket.ready(Interest::WRITABLE).await?.is_write_closed() {
        // That there is room to write is no news; what comes next may be.
        let seen = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = socket.try_io(Interest::WRITABLE, seen);
    }
    Ok(())
}
