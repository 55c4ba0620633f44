//! What the daemon streams, as a caller takes it: one message at a time until the end.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio_stream::{Stream, StreamExt};
use tonic::Streaming;

use crate::{Endpoint, Error, v1};

/// Lifecycle events, in order and without a gap.
pub type EventStream = Feed<v1::Event>;

/// Changes of machines: all as they are, `synced`, then each change.
pub type VmStream = Feed<v1::WatchVmsResponse>;

/// The lines of a recording.
pub type RecordStream = Feed<v1::RecordResponse>;

/// A stream of messages from the daemon. Dropping it ends the call.
///
/// After an error there is nothing more to come.
#[derive(Debug)]
pub struct Feed<T> {
    endpoint: Endpoint,
    messages: Streaming<T>,
}

impl<T> Feed<T> {
    pub(crate) fn new(endpoint: Endpoint, messages: Streaming<T>) -> Self {
        Self { endpoint, messages }
    }

    /// The next message; `None` once the daemon has ended the stream in order.
    ///
    /// # Errors
    /// [`Error::Refused`] if the daemon ended the stream with an error, such as `EVENTS_LOST`;
    /// [`Error::Unreachable`] if the connection broke.
    pub async fn next(&mut self) -> Result<Option<T>, Error> {
        StreamExt::next(self).await.transpose()
    }
}

impl<T> Stream for Feed<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(Pin::new(&mut self.messages).poll_next(cx));
        Poll::Ready(
            next.map(|item| item.map_err(|status| Error::from_status(&self.endpoint, status))),
        )
    }
}
