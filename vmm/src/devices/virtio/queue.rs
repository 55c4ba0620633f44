//! One virtqueue, as a device uses it: requests out of the available ring, answers into the used ring (virtio 1.2,
//! section 2.7). The rings are the guest's: nothing in them is believed.

use std::{
    io,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use thiserror::Error;
use tokio::io::{Interest, unix::AsyncFd};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT, Reader, Writer};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::Interrupt;

/// A chain of descriptors: one request.
pub type Chain = DescriptorChain<Arc<GuestMemoryMmap>>;

/// What a driver did to a queue that it must not.
#[derive(Debug, Error)]
pub enum QueueError {
    /// The rings are not where memory is, or the available index runs ahead.
    #[error("a queue's rings: {0}")]
    Rings(#[from] virtio_queue::Error),
    /// A chain does not end, or leads outside its table.
    #[error("a descriptor chain from {0} does not end")]
    Endless(u16),
    /// A chain is not what the device's requests are.
    #[error("a request {0}")]
    Request(&'static str),
    /// The kick cannot be waited for.
    #[error("waiting for the driver: {0}")]
    Kick(#[from] io::Error),
}

/// A queue that a driver has set up.
pub struct VirtQueue {
    queue: Queue,
    memory: Arc<GuestMemoryMmap>,
    number: u16,
    kick: AsyncFd<Arc<EventFd>>,
    interrupt: Arc<Interrupt>,
    /// How many chains came back that the driver was not told of.
    untold: u16,
}

impl VirtQueue {
    /// The queue `number` of its device, in `memory`; the driver writes `kick`, which does not block, when there are requests. Must be called within
    /// a tokio runtime.
    pub fn new(
        number: u16,
        queue: Queue,
        memory: Arc<GuestMemoryMmap>,
        kick: Arc<EventFd>,
        interrupt: Arc<Interrupt>,
    ) -> Result<Self, QueueError> {
        Ok(Self {
            queue,
            memory,
            number,
            kick: register(kick)?,
            interrupt,
            untold: 0,
        })
    }

    /// Waits for the driver to say that there are requests. It may say so for none.
    pub async fn kicked(&self) -> Result<(), QueueError> {
        let mut guard = self.kick.readable().await?;
        let _ = guard.try_io(|kick| kick.get_ref().read());
        Ok(())
    }

    /// The next request; `None` once there is none, and the driver is asked to kick for the next.
    pub fn pop(&mut self) -> Result<Option<Chain>, QueueError> {
        loop {
            let memory = self.memory.clone();
            if let Some(chain) = self.queue.iter(memory)?.next() {
                check_end(&chain)?;
                return Ok(Some(chain));
            }
            if !self.queue.enable_notification(&*self.memory)? {
                return Ok(None);
            }
        }
    }

    /// Takes back that the last request was popped: it is the next one again.
    pub fn unpop(&mut self) {
        let next = self.queue.next_avail().wrapping_sub(1);
        self.queue.set_next_avail(next);
    }

    /// The memory that the queue is in, and its requests.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// What the driver has the device read, in order.
    pub fn reader<'a>(&'a self, chain: &Chain) -> Result<Reader<'a>, QueueError> {
        Ok(chain.clone().reader(&self.memory)?)
    }

    /// What the driver has the device write, in order.
    pub fn writer<'a>(&'a self, chain: &Chain) -> Result<Writer<'a>, QueueError> {
        Ok(chain.clone().writer(&self.memory)?)
    }

    /// Gives `chain` back, with the first `written` bytes of what the device may write.
    pub fn push(&mut self, chain: &Chain, written: u32) -> Result<(), QueueError> {
        self.queue
            .add_used(&*self.memory, chain.head_index(), written)?;
        if self.queue.needs_notification(&*self.memory)? {
            self.interrupt.used(self.number);
        }
        Ok(())
    }

    /// Most chains that may wait in it.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Gives `chains` back, each with how many of its bytes were written: the driver sees all of them or none. It is not
    /// told: see [`VirtQueue::notify`].
    pub fn use_together(&mut self, chains: &[(Chain, u32)]) -> Result<(), QueueError> {
        let Some(((last, written), others)) = chains.split_last() else {
            return Ok(());
        };
        let (ring, size) = (self.queue.used_ring(), self.queue.size());
        let first = self.queue.next_used();
        for (at, (chain, written)) in (0..).zip(others) {
            // Section 2.7.8: 4 bytes, then elements of 8.
            let slot = u64::from(first.wrapping_add(at) % size);
            let element = u64::from(*written) << 32 | u64::from(chain.head_index());
            let outside = |error| QueueError::Rings(virtio_queue::Error::GuestMemory(error));
            let address = GuestAddress(ring.saturating_add(4 + 8 * slot));
            let written = self.memory.write_obj(element.to_le(), address);
            written.map_err(outside)?;
        }
        // With the last one goes the index.
        self.queue
            .set_next_used(first.wrapping_add(others.len() as u16));
        self.queue
            .add_used(&*self.memory, last.head_index(), *written)?;
        self.untold = self.untold.wrapping_add(chains.len() as u16);
        Ok(())
    }

    /// Tells the driver of what came back by [`VirtQueue::use_together`] since the last time, if it wants to know.
    pub fn notify(&mut self) -> Result<(), QueueError> {
        let untold = std::mem::take(&mut self.untold);
        if untold == 0 {
            return Ok(());
        }
        if self.queue.event_idx_enabled() {
            // The index is there before it is read what the driver waits for (section 2.7.10).
            fence(Ordering::SeqCst);
            let event = 4 + 2 * u64::from(self.queue.size());
            let event = GuestAddress(self.queue.avail_ring().saturating_add(event));
            let outside = |error| QueueError::Rings(virtio_queue::Error::GuestMemory(error));
            let event: u16 = self.memory.read_obj(event).map_err(outside)?;
            let since = self.queue.next_used().wrapping_sub(u16::from_le(event));
            if since.wrapping_sub(1) >= untold {
                return Ok(());
            }
        }
        self.interrupt.used(self.number);
        Ok(())
    }
}

/// Lets the runtime tell when the driver has kicked.
pub(super) fn register(kick: Arc<EventFd>) -> io::Result<AsyncFd<Arc<EventFd>>> {
    // SAFETY: an eventfd's descriptor stays open, and the same, as long as the eventfd is there, which the result keeps.
    Ok(unsafe { AsyncFd::register_with_interest(kick, Interest::READABLE) }?)
}

/// The library ends a chain where it cannot go on; a chain that ends so asks for more.
fn check_end(chain: &Chain) -> Result<(), QueueError> {
    match chain.clone().last() {
        Some(last) if !last.has_next() => Ok(()),
        _ => Err(QueueError::Endless(chain.head_index())),
    }
}
