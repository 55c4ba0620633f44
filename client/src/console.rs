//! A machine's first serial port: bytes to the guest one way, bytes from it the other.

use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{Error, Feed, v1};

/// The most bytes one message carries.
const CHUNK: usize = 32 * 1024;

/// Messages on their way to the daemon that [`ByteInput::send`] does not wait for.
const IN_FLIGHT: usize = 16;

/// The way of bytes to a machine: to its serial input, or to its QMP monitor. Dropping it closes this direction alone:
/// output goes on.
#[derive(Clone, Debug)]
pub struct ByteInput {
    pieces: mpsc::Sender<Vec<u8>>,
}

/// The call is over; its output says why.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the stream is closed")]
pub struct InputClosed;

impl ByteInput {
    /// The input, and the pieces that are sent on it.
    pub(crate) fn new() -> (Self, ReceiverStream<Vec<u8>>) {
        let (pieces, queue) = mpsc::channel(IN_FLIGHT);
        (Self { pieces }, ReceiverStream::new(queue))
    }

    /// Sends bytes, and waits while the machine takes them slower than they come.
    ///
    /// # Errors
    /// [`InputClosed`] once the call has ended.
    pub async fn send(&self, bytes: &[u8]) -> Result<(), InputClosed> {
        for chunk in bytes.chunks(CHUNK) {
            let sent = self.pieces.send(chunk.to_vec()).await;
            sent.map_err(|_| InputClosed)?;
        }
        Ok(())
    }

    /// Waits until the connection has taken everything that was sent.
    ///
    /// # Errors
    /// [`InputClosed`] once the call has ended.
    pub async fn drain(&self) -> Result<(), InputClosed> {
        self.pieces
            .reserve_many(IN_FLIGHT)
            .await
            .map(drop)
            .map_err(|_| InputClosed)
    }
}

/// What the guest writes to its serial port.
#[derive(Debug)]
pub struct ConsoleOutput {
    feed: Feed<v1::ConsoleResponse>,
}

impl ConsoleOutput {
    pub(crate) fn new(feed: Feed<v1::ConsoleResponse>) -> Self {
        Self { feed }
    }

    /// The next bytes and their position in all the guest wrote; `None` at the end of the stream.
    ///
    /// # Errors
    /// As [`Feed::next`].
    pub async fn next(&mut self) -> Result<Option<v1::ConsoleResponse>, Error> {
        self.feed.next().await
    }

    /// The stream of messages.
    pub(crate) fn into_feed(self) -> Feed<v1::ConsoleResponse> {
        self.feed
    }
}
