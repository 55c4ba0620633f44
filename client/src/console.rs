//! A machine's first serial port: bytes to the guest one way, bytes from it the other.

use thiserror::Error;
use tokio::sync::mpsc;

use crate::{Error, Feed, v1};

/// The most bytes one message carries.
const CHUNK: usize = 32 * 1024;

/// Messages on their way to the daemon that [`ConsoleInput::send`] does not wait for.
pub(crate) const IN_FLIGHT: usize = 16;

/// The way to the guest's serial input. Dropping it closes this direction alone: output goes on.
#[derive(Clone, Debug)]
pub struct ConsoleInput {
    requests: mpsc::Sender<v1::ConsoleRequest>,
}

/// The console call is over; its [`ConsoleOutput`] says why.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the console is closed")]
pub struct ConsoleClosed;

impl ConsoleInput {
    pub(crate) fn new(requests: mpsc::Sender<v1::ConsoleRequest>) -> Self {
        Self { requests }
    }

    /// Sends bytes to the guest, and waits while it takes them slower than they come.
    ///
    /// # Errors
    /// [`ConsoleClosed`] once the call has ended.
    pub async fn send(&self, bytes: &[u8]) -> Result<(), ConsoleClosed> {
        for chunk in bytes.chunks(CHUNK) {
            let input = v1::ConsoleRequest {
                input: chunk.to_vec(),
                ..Default::default()
            };
            self.requests.send(input).await.map_err(|_| ConsoleClosed)?;
        }
        Ok(())
    }

    /// Waits until the connection has taken everything that was sent.
    ///
    /// # Errors
    /// [`ConsoleClosed`] once the call has ended.
    pub async fn drain(&self) -> Result<(), ConsoleClosed> {
        self.requests
            .reserve_many(IN_FLIGHT)
            .await
            .map(drop)
            .map_err(|_| ConsoleClosed)
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
}
