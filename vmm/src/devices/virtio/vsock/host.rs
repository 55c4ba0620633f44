//! The host's side: Unix sockets, and what is waited for there.

use std::{
    ffi::OsString,
    future, io,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::sys::socket::{Shutdown, shutdown};
use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    time::{sleep, timeout},
};

use super::{super::hung_up::hung_up, packet::Ports};
use crate::place::Resolve;

/// How long a program of the host's may take to say which port it wants.
const GREETING: Duration = Duration::from_secs(10);
/// Longest such line: "CONNECT 4294967295\n".
const GREETING_MAX: usize = 32;
/// How long the guest may take to agree to the end of a connection. (Linux gives the other side as long.)
const CLOSING: Duration = Duration::from_secs(8);
/// When the host is out of descriptors: until the next try.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A connection's ports, and its number: ports are used again.
pub(super) type Whose = (Ports, u64);

/// What came of a wait.
pub(super) enum Event {
    /// A program of the host's has connected.
    Accepted(io::Result<UnixStream>),
    /// It may be tried again whether one has.
    AcceptAgain,
    /// It has said which port of the guest's it wants, or went away, or said something else.
    Greeted(Option<(UnixStream, u32)>),
    /// The guest's connection to a socket of the host's is there, or failed.
    Connected(Whose, io::Result<UnixStream>),
    /// There may be something to read.
    Readable(Whose),
    /// There may be room to write.
    Writable(Whose),
    /// The program at the other end has closed its socket.
    HungUp(Whose),
    /// The guest has not agreed to a connection's end in time.
    Expired(Whose),
}

/// What is waited for.
#[derive(Default)]
pub(super) struct Waits(FuturesUnordered<Pin<Box<dyn Future<Output = Event> + Send>>>);

impl Waits {
    /// The next that has come. May be cancelled.
    pub(super) async fn next(&mut self) -> Event {
        match self.0.next().await {
            Some(event) => event,
            None => future::pending().await,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn push(&self, wait: impl Future<Output = Event> + Send + 'static) {
        self.0.push(Box::pin(wait));
    }

    pub(super) fn accept_again(&self) {
        self.push(async {
            sleep(ACCEPT_AGAIN).await;
            Event::AcceptAgain
        });
    }

    /// Reads "CONNECT <port>\n", and nothing of what follows.
    pub(super) fn greeting(&self, mut stream: UnixStream) {
        self.push(async move {
            let port = timeout(GREETING, read_port(&mut stream)).await;
            Event::Greeted(port.ok().flatten().map(|port| (stream, port)))
        });
    }

    pub(super) fn connect(&self, whose: Whose, resolve: Resolve, path: PathBuf) {
        self.push(async move {
            let connected = match resolve.find(&path) {
                Ok(place) => UnixStream::connect(place.path()).await,
                Err(error) => Err(error),
            };
            Event::Connected(whose, connected)
        });
    }

    pub(super) fn readable(&self, whose: Whose, stream: Arc<UnixStream>) {
        self.push(async move {
            // An error shows when it is read.
            let _ = stream.readable().await;
            Event::Readable(whose)
        });
    }

    pub(super) fn writable(&self, whose: Whose, stream: Arc<UnixStream>) {
        self.push(async move {
            let _ = stream.writable().await;
            Event::Writable(whose)
        });
    }

    pub(super) fn hung_up(&self, whose: Whose, stream: Arc<UnixStream>) {
        self.push(async move {
            // Out of descriptors: as if it had. The connection ends.
            let _ = hung_up(stream.as_fd()).await;
            Event::HungUp(whose)
        });
    }

    pub(super) fn expiry(&self, whose: Whose) {
        self.push(async move {
            sleep(CLOSING).await;
            Event::Expired(whose)
        });
    }
}

/// The guest's port that a program of the host's asks for.
async fn read_port(stream: &mut UnixStream) -> Option<u32> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await.ok()? {
            b'\n' => break,
            _ if line.len() == GREETING_MAX => return None,
            byte => line.push(byte),
        }
    }
    let port = std::str::from_utf8(&line).ok()?.strip_prefix("CONNECT ")?;
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse().ok().filter(|_| is_number)
}

/// Where the guest's connections to `port` go.
pub(super) fn path_of(path: &Path, port: u32) -> PathBuf {
    let mut of_port = OsString::from(path);
    of_port.push(format!("_{port}"));
    of_port.into()
}

/// Sends nothing more.
pub(super) fn close_sending(stream: &UnixStream) {
    // It fails if the other side has gone.
    let _ = shutdown(stream.as_raw_fd(), Shutdown::Write);
}

/// Takes nothing more: whoever sends is told.
pub(super) fn close_receiving(stream: &UnixStream) {
    let _ = shutdown(stream.as_raw_fd(), Shutdown::Read);
}

/// Does nothing more with it. Whatever still waits for it, and keeps it open with that, comes to an end.
pub(super) fn close(stream: &UnixStream) {
    let _ = shutdown(stream.as_raw_fd(), Shutdown::Both);
}
