//! How a device interrupts its guest: by a line, with a status that says why, or by messages, one for each reason.
//!
//! ```text
//!   used(queue), configuration() --+--> status, line --(irqfd)--> IOAPIC          (MMIO: one line a device)
//!                                  +--> Messages: the reason's vector --> MSI-X   (PCI)
//! ```

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tracing::warn;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// A queue has used buffers (virtio 1.2, section 4.2.2).
const USED_BUFFER: u32 = 1 << 0;
/// The configuration, or the device's status, has changed.
const CONFIGURATION: u32 = 1 << 1;

/// Messages to a guest: which is sent for what is the driver's choice.
pub trait Messages: Send + Sync {
    /// Sends the one for the queue of number `queue`, if the driver wants one.
    fn used(&self, queue: u16);

    /// Sends the one for changes of the configuration, if the driver wants one.
    fn configuration(&self);
}

/// A device's interrupt.
pub struct Interrupt {
    status: AtomicU32,
    delivery: Delivery,
}

enum Delivery {
    Line(EventFd),
    Messages(Arc<dyn Messages>),
}

impl Interrupt {
    /// A line that is low.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Self::by(Delivery::Line(EventFd::new(EFD_NONBLOCK)?)))
    }

    /// Messages instead of a line.
    pub fn messages(messages: Arc<dyn Messages>) -> Arc<Self> {
        Self::by(Delivery::Messages(messages))
    }

    fn by(delivery: Delivery) -> Arc<Self> {
        Arc::new(Self {
            status: AtomicU32::new(0),
            delivery,
        })
    }

    /// What KVM is to turn into an interrupt, if it has a line.
    pub fn line(&self) -> Option<&EventFd> {
        match &self.delivery {
            Delivery::Line(line) => Some(line),
            Delivery::Messages(_) => None,
        }
    }

    /// The queue of number `queue` has used buffers.
    pub fn used(&self, queue: u16) {
        self.status.fetch_or(USED_BUFFER, Ordering::SeqCst);
        match &self.delivery {
            // One line for all queues.
            Delivery::Line(line) => fire(line),
            Delivery::Messages(messages) => messages.used(queue),
        }
    }

    /// The configuration has changed, or the device needs a reset.
    pub fn configuration(&self) {
        self.status.fetch_or(CONFIGURATION, Ordering::SeqCst);
        match &self.delivery {
            Delivery::Line(line) => fire(line),
            Delivery::Messages(messages) => messages.configuration(),
        }
    }

    /// Why it was raised since it was acknowledged.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// The guest has seen these reasons.
    pub fn acknowledge(&self, reasons: u32) {
        self.status.fetch_and(!reasons, Ordering::SeqCst);
    }

    /// Why it was raised; the guest has seen all of it.
    pub fn take_status(&self) -> u32 {
        self.status.swap(0, Ordering::SeqCst)
    }
}

/// Has KVM interrupt the guest by the irqfd `event`.
pub(crate) fn fire(event: &EventFd) {
    // Full means that one is under way.
    if let Err(error) = event.write(1)
        && error.kind() != io::ErrorKind::WouldBlock
    {
        warn!(%error, "an interrupt is lost");
    }
}
