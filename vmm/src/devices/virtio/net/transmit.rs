//! One queue of frames to send.
//!
//! A header and a frame, cut into parts as the driver likes (section 5.1.6.2), go to the back end as they are. A frame
//! that finds no room there is kept, in order, until there is.

use std::{convert::Infallible, future::poll_fn, io::ErrorKind};

use tracing::debug;

use super::{
    super::{
        DeviceError,
        queue::{Chain, QueueError, VirtQueue},
    },
    BATCH_MAX, FRAME_MAX, FRAME_MIN, HEADER,
    buffer::{Direction, slices, total},
    serve::Shared,
};

/// Sends what the driver puts into one queue.
pub(super) struct Transmitter {
    shared: Shared,
    pair: u16,
    queue: VirtQueue,
    /// A frame that has to wait.
    kept: Option<Chain>,
    /// It was admitted by the limiter.
    admitted: bool,
}

/// Why a turn is over.
enum Next {
    /// The queue is empty.
    Idle,
    /// Others get their turn.
    Turn,
    /// The back end is full.
    Room,
    /// Its rate is reached.
    Rate,
}

impl Transmitter {
    pub(super) fn new(shared: &Shared, pair: u16, queue: VirtQueue) -> Self {
        Self {
            shared: shared.clone(),
            pair,
            queue,
            kept: None,
            admitted: false,
        }
    }

    pub(super) async fn run(mut self) -> Result<Infallible, DeviceError> {
        loop {
            self.queue.kicked().await?;
            loop {
                let inside = self.shared.gate.enter().await;
                let next = self.turn()?;
                drop(inside);
                let (backend, pair) = (&self.shared.backend, self.pair);
                poll_fn(|context| backend.poll_flush(pair, context)).await;
                match next {
                    Next::Idle => break,
                    Next::Turn => tokio::task::yield_now().await,
                    Next::Rate => self.shared.card.send_ready().await,
                    Next::Room => poll_fn(|context| backend.poll_send(pair, context)).await?,
                }
            }
        }
    }

    /// Sends some frames.
    fn turn(&mut self) -> Result<Next, QueueError> {
        let mut done = Vec::new();
        let mut next = Next::Turn;
        while done.len() < BATCH_MAX {
            let chain = match self.kept.take() {
                Some(chain) => chain,
                None => match self.queue.pop()? {
                    Some(chain) => chain,
                    None => {
                        next = Next::Idle;
                        break;
                    }
                },
            };
            match self.send(&chain)? {
                None => done.push((chain, 0)),
                Some(wait) => {
                    self.kept = Some(chain);
                    next = wait;
                    break;
                }
            }
        }
        self.queue.use_together(&done)?;
        self.queue.notify()?;
        Ok(next)
    }

    /// `None` if the frame is done with, sent or dropped; else what it waits for.
    fn send(&mut self, chain: &Chain) -> Result<Option<Next>, QueueError> {
        let frame = slices(chain, self.queue.memory(), Direction::Readable)?;
        let len = total(&frame);
        if len < HEADER {
            return Err(QueueError::Request("has no header"));
        }
        let is_frame = (FRAME_MIN..=FRAME_MAX).contains(&len);
        let card = &self.shared.card;
        let counters = &card.counters.sent;
        if !is_frame || !card.link().is_up() {
            counters.dropped.add(1);
            return Ok(None);
        }
        if !self.admitted && !card.send_limiter.admit((len - HEADER) as u64) {
            return Ok(Some(Next::Rate));
        }
        self.admitted = false;
        match self.shared.backend.send(self.pair, &frame) {
            Ok(()) => {
                counters.frames.add(1);
                counters.bytes.add((len - HEADER) as u64);
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.admitted = true;
                Ok(Some(Next::Room))
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => {
                counters.dropped.add(1);
                card.set_connected(&Err(error));
                Ok(None)
            }
            Err(error) => {
                // What the driver asks for in a header may be wrong, or the interface may be down: the frame is lost.
                counters.dropped.add(1);
                debug!(%error, "a frame is dropped");
                Ok(None)
            }
        }
    }
}
