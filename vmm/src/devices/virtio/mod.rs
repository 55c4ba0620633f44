//! virtio devices (virtio specification 1.2): the device models, and the transports that guests reach them by.
//!
//! ```text
//!   vCPU --- MMIO exit -----> transport (mmio.rs, pci/): features, queues, status (transport.rs)
//!                                 | DRIVER_OK                      | reset, pause
//!                                 v                                v
//!   vCPU --- ioeventfd ---> VirtQueue <--- Worker (worker.rs): the task of one device
//!                                 |            runs Device::run (rng.rs, block/, ...)
//!                                 +-- Interrupt -- irqfd --> guest
//! ```
//! A model knows its queues, its configuration space and what its requests mean; it does not know the transport. Its
//! requests are served by one task, which works only while its gate is open: the machine closes it to pause and waits
//! until nothing touches guest memory any more. The PCI transport keeps a device that is no bus master out in the same way.
//!
//! A driver that lies (a chain that loops, addresses outside memory, an index that runs ahead) ends the task: the device
//! then needs a reset, which the driver is told by its status, and the machine's owner by a warning.

pub mod balloon;
pub mod block;
pub mod console;
mod hung_up;
pub mod interrupt;
pub mod mmio;
pub mod net;
pub mod pci;
pub mod queue;
pub mod rate;
pub mod rng;
#[cfg(test)]
mod testing;
pub mod transport;
pub mod vsock;
pub mod worker;

use std::{future::Future, pin::Pin, sync::Arc};

use thiserror::Error;

use crate::runstate::DeviceFault;

use self::{
    interrupt::Interrupt,
    queue::{QueueError, VirtQueue},
    worker::{Blocking, Gate},
};

/// What a driver that is ready gives a device.
pub struct Driver {
    /// The features that both sides have agreed on.
    pub features: u64,
    /// The queues that it has set up, by their numbers; those it has not are absent.
    pub queues: Vec<Option<VirtQueue>>,
    /// To be held while guest memory is used.
    pub gate: Gate,
    /// For what blocks.
    pub blocking: Blocking,
    /// To tell it that the configuration has changed.
    pub interrupt: Arc<Interrupt>,
}

impl Driver {
    /// Takes the queue of number `index`, without which the device cannot work.
    pub fn take(&mut self, index: usize) -> Result<VirtQueue, DeviceError> {
        let queue = self.queues.get_mut(index).and_then(Option::take);
        queue.ok_or(DeviceError::QueueMissing(index))
    }
}

/// Serves requests until the driver does what it must not. Dropped when the driver resets the device.
pub type Running = Pin<Box<dyn Future<Output = Result<(), DeviceError>> + Send>>;

/// A device model.
pub trait Device: Send {
    /// Which sort of device it is (section 5).
    fn id(&self) -> u32;

    /// The features it offers, beside those of the transport and the queues (section 6).
    fn features(&self) -> u64 {
        0
    }

    /// The largest size of each of its queues, each a power of two.
    fn queues(&self) -> &[u16];

    /// Reads the configuration space from `offset` on. What is beyond its end reads as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let _ = offset;
        data.fill(0);
    }

    /// Writes the configuration space.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// Begins to serve a driver.
    fn run(&mut self, driver: Driver) -> Running;
}

/// A device model, and who is told when it cannot go on with its driver.
pub struct Model {
    /// The model.
    pub device: Box<dyn Device>,
    /// Called from any thread; must not block.
    pub report: Report,
}

/// Is told why a device does not go on.
pub type Report = Arc<dyn Fn(DeviceFault) + Send + Sync>;

/// Why a device cannot go on with its driver.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// A queue is not as it must be.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A queue that the device needs was not set up.
    #[error("queue {0} is not set up")]
    QueueMissing(usize),
    /// The host failed.
    #[error("{0}")]
    Host(#[from] std::io::Error),
}

impl DeviceError {
    /// The same, as the event has it.
    pub fn fault(&self) -> DeviceFault {
        match self {
            Self::Queue(QueueError::Rings(_)) => DeviceFault::Rings,
            Self::Queue(QueueError::Endless(_)) => DeviceFault::Chain,
            Self::Queue(QueueError::Request(_)) => DeviceFault::Request,
            Self::QueueMissing(_) => DeviceFault::Queue,
            Self::Queue(QueueError::Kick(_)) | Self::Host(_) => DeviceFault::Host,
        }
    }
}
