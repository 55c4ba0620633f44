//! passt, which turns a guest's frames into connections of an ordinary user's.
//!
//! It listens on a Unix socket. Over that go frames without virtio's header, each after its length: 32 bits, the most
//! significant first (as with QEMU's `-netdev stream`).
//!
//! ```text
//!   receive:  socket --> bytes, up to a frame and more --> buffers
//!   send:     buffers --> socket; the rest of a frame that was taken only in part is kept, and goes before the next
//! ```
//! Without a connection the link is down. The next driver (after a reset, say) tries to connect again.

use std::{
    io::{self, ErrorKind},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::{Interest, unix::AsyncFd};
use vm_memory::VolatileSlice;

use super::{Backend, FRAME_MIN, HEADER, buffer, descriptor};
use crate::place::{Place, Resolve};

/// Bytes of a frame's length.
const LENGTH: usize = 4;
/// Longest frame that passt takes.
const LONGEST: usize = 65535;
/// What goes before each received frame: nothing is asked of the driver.
const NO_HEADER: [u8; HEADER] = [0; HEADER];

/// A connection to passt.
#[derive(Debug)]
pub struct Passt {
    path: PathBuf,
    resolve: Resolve,
    connection: Mutex<Option<Arc<Connection>>>,
}

#[derive(Debug)]
struct Connection {
    socket: AsyncFd<OwnedFd>,
    received: Mutex<Received>,
    /// The rest of a frame.
    unsent: Mutex<Vec<u8>>,
}

/// What came of the stream.
#[derive(Debug)]
struct Received {
    bytes: Box<[u8]>,
    /// Those that have not been given to the driver.
    from: usize,
    to: usize,
}

impl Passt {
    /// Connects to the passt that listens at `path`. Must be called within a tokio runtime.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::found_by(Resolve::default(), path)
    }

    /// The same; each time that it connects, the socket is looked for with `resolve`.
    pub fn found_by(resolve: Resolve, path: &Path) -> io::Result<Self> {
        let connection = Connection::open(&resolve.find(path)?)?;
        Ok(Self {
            path: path.to_owned(),
            resolve,
            connection: Mutex::new(Some(connection)),
        })
    }

    fn connection(&self) -> io::Result<Arc<Connection>> {
        lock(&self.connection)
            .clone()
            .ok_or_else(|| ErrorKind::NotConnected.into())
    }

    /// The connection is over if `result` says so.
    fn check<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() != ErrorKind::WouldBlock
        {
            *lock(&self.connection) = None;
        }
        result
    }
}

impl Backend for Passt {
    fn features(&self) -> u64 {
        0
    }

    fn start(&self, _: u64) -> io::Result<()> {
        let mut connection = lock(&self.connection);
        if connection.is_none() {
            *connection = Some(Connection::open(&self.resolve.find(&self.path)?)?);
        }
        Ok(())
    }

    fn poll_receive(&self, _: u16, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Ok(connection) = self.connection() else {
            // `receive` says so.
            return Poll::Ready(Ok(()));
        };
        // A frame that is not good is not waited for either.
        if !matches!(lock(&connection.received).next(), Ok(None)) {
            return Poll::Ready(Ok(()));
        }
        let _ = ready!(connection.socket.poll_read_ready(context))?;
        Poll::Ready(Ok(()))
    }

    fn receive(&self, _: u16, into: &[VolatileSlice<'_>]) -> io::Result<usize> {
        let received = self.connection()?.receive(into);
        self.check(received)
    }

    fn poll_send(&self, _: u16, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Ok(connection) = self.connection() {
            let _ = ready!(connection.socket.poll_write_ready(context))?;
        }
        Poll::Ready(Ok(()))
    }

    fn send(&self, _: u16, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        // An error is told by `receive`, too.
        self.connection()?.send(from)
    }

    fn poll_flush(&self, _: u16, context: &mut Context<'_>) -> Poll<()> {
        let Ok(connection) = self.connection() else {
            return Poll::Ready(());
        };
        loop {
            match connection.flush() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if ready!(connection.socket.poll_write_ready(context)).is_err() {
                        return Poll::Ready(());
                    }
                }
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl Connection {
    fn open(place: &Place) -> io::Result<Arc<Self>> {
        let socket = UnixStream::connect(place.path())?;
        socket.set_nonblocking(true)?;
        Ok(Arc::new(Self {
            socket: descriptor::watch(socket.into())?,
            received: Mutex::new(Received {
                bytes: vec![0; 2 * (LENGTH + LONGEST)].into(),
                from: 0,
                to: 0,
            }),
            unsent: Mutex::default(),
        }))
    }

    fn receive(&self, into: &[VolatileSlice<'_>]) -> io::Result<usize> {
        let mut received = lock(&self.received);
        loop {
            if let Some(len) = received.next()? {
                let frame = received.take(len);
                buffer::fill(into, 0, &NO_HEADER);
                buffer::fill(into, HEADER, frame);
                return Ok(HEADER + len);
            }
            let room = received.room();
            let room = [VolatileSlice::from(room)];
            let read = |socket: &OwnedFd| descriptor::read(socket, &room);
            match self.socket.try_io(Interest::READABLE, read)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => received.to += count,
            }
        }
    }

    fn send(&self, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.flush()?;
        let frame = without_header(from);
        let len = buffer::total(&frame);
        if len > LONGEST {
            return Err(io::Error::other("a frame is too long"));
        }
        // The frame is not longer than that.
        let mut length = (len as u32).to_be_bytes();
        let mut parts = vec![VolatileSlice::from(&mut length[..])];
        parts.extend(frame);
        let write = |socket: &OwnedFd| descriptor::write(socket, &parts);
        let sent = self.socket.try_io(Interest::WRITABLE, write)?;
        let rest = LENGTH + len - sent.min(LENGTH + len);
        if rest > 0 {
            *lock(&self.unsent) = last(&parts, rest);
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut unsent = lock(&self.unsent);
        while !unsent.is_empty() {
            let rest = [VolatileSlice::from(&mut unsent[..])];
            let write = |socket: &OwnedFd| descriptor::write(socket, &rest);
            let sent = self.socket.try_io(Interest::WRITABLE, write)?;
            let sent = sent.min(unsent.len());
            unsent.drain(..sent);
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Whoever else has the descriptor: the other end is told. It may have gone first.
        let _ = shutdown(self.socket.get_ref().as_raw_fd(), Shutdown::Both);
    }
}

impl Received {
    /// The length of the next frame, if it is there in whole. An error if this is not what passt says.
    fn next(&self) -> io::Result<Option<usize>> {
        let rest = self.bytes.get(self.from..self.to).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*length) as usize;
        if !(FRAME_MIN - HEADER..=LONGEST).contains(&len) {
            let problem = format!("the other end is not passt: a frame of {len} bytes");
            return Err(io::Error::new(ErrorKind::InvalidData, problem));
        }
        Ok((rest.len() >= len).then_some(len))
    }

    /// The frame of this length, which is there.
    fn take(&mut self, len: usize) -> &[u8] {
        let start = self.from + LENGTH;
        self.from = start + len;
        self.bytes.get(start..self.from).unwrap_or_default()
    }

    /// Where more may come: for any frame, once all before it were taken.
    fn room(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.from..self.to, 0);
        self.to -= self.from;
        self.from = 0;
        self.bytes.get_mut(self.to..).unwrap_or_default()
    }
}

/// What follows virtio's header.
fn without_header<'a>(slices: &[VolatileSlice<'a>]) -> Vec<VolatileSlice<'a>> {
    let mut skip = HEADER;
    let rest = slices.iter().filter_map(|slice| {
        let from = skip.min(slice.len());
        skip -= from;
        slice.offset(from).ok().filter(|slice| !slice.is_empty())
    });
    rest.collect()
}

/// A copy of the last `count` bytes.
fn last(slices: &[VolatileSlice<'_>], count: usize) -> Vec<u8> {
    let mut skip = buffer::total(slices).saturating_sub(count);
    let mut bytes = Vec::with_capacity(count);
    for slice in slices {
        let from = skip.min(slice.len());
        skip -= from;
        if let Ok(slice) = slice.offset(from) {
            let start = bytes.len();
            bytes.resize(start + slice.len(), 0);
            slice.copy_to(bytes.get_mut(start..).unwrap_or_default());
        }
    }
    bytes
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
