//! One queue of received frames.
//!
//! ```text
//!   a frame may be there? --> gate --> buffers for the longest frame? --> straight into them
//!                                       | no, but frames may be cut (section 5.1.6.4)
//!                                       +--> into `frame`, kept until the driver gives buffers enough
//! ```
//! Buffers are taken out of the queue ahead, and go back in order. A frame that does not fit where frames may not be cut
//! is dropped.

use std::{collections::VecDeque, convert::Infallible, future::poll_fn, io};

use vm_memory::VolatileSlice;

use super::{
    super::{
        DeviceError,
        queue::{Chain, QueueError, VirtQueue},
    },
    BATCH_MAX, F_GUEST_CSUM, F_MRG_RXBUF, FRAME_MAX, HEADER,
    buffer::{Direction, fill, slices, total},
    descriptor::PARTS_MAX,
    serve::Shared,
};

/// Where a header's flags are.
const FLAGS: usize = 0;
/// Where it says how many buffers its frame is in.
const NUM_BUFFERS: usize = 10;

/// Gives received frames to the driver by one queue.
pub(super) struct Receiver {
    shared: Shared,
    pair: u16,
    queue: VirtQueue,
    mergeable: bool,
    buffers: VecDeque<Buffer>,
    frame: Vec<u8>,
    /// How much of `frame` is one that waits for buffers.
    kept: usize,
}

/// Where frames go.
struct Buffer {
    chain: Chain,
    len: usize,
    parts: usize,
}

/// Why a turn is over.
enum Next {
    /// The back end has no frame.
    Frame,
    /// The driver is to give more buffers.
    Buffers,
    /// Others get their turn.
    Turn,
    /// Its rate is reached.
    Rate,
}

impl Receiver {
    pub(super) fn new(shared: &Shared, pair: u16, queue: VirtQueue) -> Self {
        Self {
            shared: shared.clone(),
            pair,
            queue,
            mergeable: shared.features & F_MRG_RXBUF != 0,
            buffers: VecDeque::new(),
            frame: vec![0; FRAME_MAX],
            kept: 0,
        }
    }

    pub(super) async fn run(mut self) -> Result<Infallible, DeviceError> {
        let mut pairs = self.shared.pairs.subscribe();
        let mut link = self.shared.card.watch_link();
        loop {
            // The sender lives as long as this does.
            let _ = pairs.wait_for(|pairs| *pairs > self.pair).await;
            if self.kept == 0 {
                let (backend, pair) = (&self.shared.backend, self.pair);
                poll_fn(|context| backend.poll_receive(pair, context)).await?;
            }
            let inside = self.shared.gate.enter().await;
            if *pairs.borrow() <= self.pair {
                continue;
            }
            let next = self.turn();
            drop(inside);
            match next {
                Ok(Next::Frame) => {}
                Ok(Next::Rate) => self.shared.card.receive_ready().await,
                Ok(Next::Turn) => tokio::task::yield_now().await,
                Ok(Next::Buffers) => tokio::select! {
                    kicked = self.queue.kicked() => kicked?,
                    // Without a link none are needed.
                    _ = link.changed() => {}
                },
                Err(Failure::Queue(error)) => return Err(error.into()),
                Err(Failure::Backend(error)) => {
                    self.shared.card.set_connected(&Err(error));
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Receives some frames.
    fn turn(&mut self) -> Result<Next, Failure> {
        let mut used = Vec::new();
        let mut result = Ok(Next::Turn);
        for _ in 0..BATCH_MAX {
            match self.receive(&mut used) {
                Ok(None) => {}
                Ok(Some(next)) => {
                    result = Ok(next);
                    break;
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.queue.notify()?;
        result
    }

    /// Receives one frame, or drops it; the reason if it cannot.
    fn receive(&mut self, used: &mut Vec<(Chain, u32)>) -> Result<Option<Next>, Failure> {
        if !self.shared.card.link().is_up() {
            if std::mem::take(&mut self.kept) > 0 {
                self.shared.card.counters.received.dropped.add(1);
            }
            return self.take_frame().map(|frame| match frame {
                Some(_) => {
                    self.shared.card.counters.received.dropped.add(1);
                    None
                }
                None => Some(Next::Frame),
            });
        }
        if !self.shared.card.receive_limiter.has_room() {
            return Ok(Some(Next::Rate));
        }
        self.gather()?;
        if self.buffers.is_empty() {
            return Ok(Some(Next::Buffers));
        }
        if self.kept == 0 && (!self.mergeable || self.has_room_for_any()) {
            return match self.take_into_buffers()? {
                Some(len) => self.finish(len, used).map(|()| None),
                None => Ok(Some(Next::Frame)),
            };
        }
        if self.kept == 0 {
            match self.take_frame()? {
                Some(len) => self.kept = len,
                None => return Ok(Some(Next::Frame)),
            }
        }
        if self.kept > self.room() && self.buffers.len() < usize::from(self.queue.size()) {
            return Ok(Some(Next::Buffers));
        }
        let len = std::mem::take(&mut self.kept);
        if len <= self.room() {
            self.copy(len)?;
        }
        self.finish(len, used).map(|()| None)
    }

    /// Takes buffers out of the queue: one, or as many as the longest frame needs.
    fn gather(&mut self) -> Result<(), QueueError> {
        while if self.mergeable {
            self.room() < FRAME_MAX
        } else {
            self.buffers.is_empty()
        } {
            let Some(chain) = self.queue.pop()? else {
                return Ok(());
            };
            let parts = slices(&chain, self.queue.memory(), Direction::Writable)?;
            let (len, parts) = (total(&parts), parts.len());
            if len < HEADER {
                return Err(QueueError::Request("has no room for a header"));
            }
            self.buffers.push_back(Buffer { chain, len, parts });
        }
        Ok(())
    }

    fn room(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.len).sum()
    }

    /// Whether any frame can go straight into the buffers.
    fn has_room_for_any(&self) -> bool {
        let parts: usize = self.buffers.iter().map(|buffer| buffer.parts).sum();
        self.room() >= FRAME_MAX && parts < PARTS_MAX
    }

    /// The memory of the first buffers, of as many as `len` bytes need.
    fn memory(&self, len: usize) -> Result<Vec<VolatileSlice<'_>>, QueueError> {
        let (mut all, mut room) = (Vec::new(), 0);
        for buffer in &self.buffers {
            if room >= len {
                break;
            }
            room += buffer.len;
            let memory = self.queue.memory();
            all.extend(slices(&buffer.chain, memory, Direction::Writable)?);
        }
        Ok(all)
    }

    /// Has the next frame written to the buffers: how long it is, which may be more than they have room for.
    fn take_into_buffers(&mut self) -> Result<Option<usize>, Failure> {
        // What has no room is read all the same, so that its length is known.
        let mut rest = std::mem::take(&mut self.frame);
        let memory = self.memory(FRAME_MAX).map(|mut memory| {
            memory.push(VolatileSlice::from(&mut rest[..]));
            self.shared.backend.receive(self.pair, &memory)
        });
        self.frame = rest;
        received(memory?)
    }

    /// Has it written to `frame`.
    fn take_frame(&mut self) -> Result<Option<usize>, Failure> {
        let frame = VolatileSlice::from(&mut self.frame[..]);
        received(self.shared.backend.receive(self.pair, &[frame]))
    }

    /// Copies the frame that was kept to the buffers.
    fn copy(&mut self, len: usize) -> Result<(), QueueError> {
        let memory = self.memory(len)?;
        fill(&memory, 0, self.frame.get(..len).unwrap_or(&self.frame));
        Ok(())
    }

    /// Gives the buffers that a frame of `len` bytes is in back; none, if it has no room: it is lost.
    fn finish(&mut self, len: usize, used: &mut Vec<(Chain, u32)>) -> Result<(), Failure> {
        let counters = &self.shared.card.counters.received;
        if len > self.room() || len < HEADER {
            counters.dropped.add(1);
            return Ok(());
        }
        let limiter = &self.shared.card.receive_limiter;
        limiter.admit((len - HEADER) as u64);
        let head = self.memory(HEADER)?;
        used.clear();
        let mut rest = len;
        let mut lens = self.buffers.iter().map_while(|buffer| {
            let now = rest.min(buffer.len);
            rest -= now;
            (now > 0).then_some(now as u32)
        });
        let lens: Vec<_> = lens.by_ref().collect();
        fill(&head, NUM_BUFFERS, &(lens.len() as u16).to_le_bytes());
        if self.shared.features & F_GUEST_CSUM == 0 {
            // The back end may have found a checksum good: nothing is said of that (section 5.1.6.4.1).
            fill(&head, FLAGS, &[0]);
        }
        let buffers = self.buffers.drain(..lens.len()).map(|buffer| buffer.chain);
        used.extend(buffers.zip(lens));
        counters.frames.add(1);
        counters.bytes.add((len - HEADER) as u64);
        self.queue.use_together(used)?;
        Ok(())
    }
}

fn received(result: io::Result<usize>) -> Result<Option<usize>, Failure> {
    match result {
        Ok(len) => Ok(Some(len)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(Failure::Backend(error)),
    }
}

/// Why there is no next frame.
enum Failure {
    Queue(QueueError),
    Backend(io::Error),
}

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}
