//! What the transports share: one device, the features that both sides agree on, its queues, its status, its task.
//!
//! ```text
//!   mmio.rs --+                                     +--> VirtQueues --+
//!             +--> Function: features, queues, -----+                 +--> Device::run, a task (worker.rs)
//!   pci/    --+    status (section 2.1)   DRIVER_OK +--> Interrupt ---+
//! ```
//! A transport is a layout of registers: what a register means is here.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::runtime::Handle;
use tracing::{Instrument, warn};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{log, runstate::DeviceFault};

use super::{
    Device, DeviceError, Driver, Model, Report,
    interrupt::Interrupt,
    queue::VirtQueue,
    worker::{Blocking, Gate, Worker},
};

// Section 2.1.
pub(super) const DRIVER_OK: u32 = 4;
pub(super) const FEATURES_OK: u32 = 8;
pub(super) const NEEDS_RESET: u32 = 64;

// Section 6.
pub(super) const F_INDIRECT_DESC: u64 = 1 << 28;
pub(super) const F_EVENT_IDX: u64 = 1 << 29;
pub(super) const F_VERSION_1: u64 = 1 << 32;
/// What the transports and the queues offer for every device.
const FEATURES: u64 = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1;

/// Bytes of the longest configuration space there is.
const CONFIGURATION: usize = 64;

/// One device behind its transport.
pub struct Function {
    device: Box<dyn Device>,
    failing: Failing,
    memory: Arc<GuestMemoryMmap>,
    interrupt: Arc<Interrupt>,
    kicks: Vec<Arc<EventFd>>,
    runtime: Handle,
    gate: Gate,

    status: u32,
    driver_features: u64,
    queues: Vec<Queue>,
    worker: Option<Worker>,

    /// Counts the changes of the configuration space that the driver was told of, and what that was then.
    generation: u32,
    configuration: [u8; CONFIGURATION],
}

impl Function {
    /// The device of `model`, reset. Its task runs on `runtime`, while `gate` is open, and interrupts the guest by `interrupt`.
    pub(super) fn new(
        model: Model,
        memory: Arc<GuestMemoryMmap>,
        interrupt: Arc<Interrupt>,
        runtime: Handle,
        gate: Gate,
    ) -> std::io::Result<Self> {
        let Model { device, report } = model;
        let queues = device.queues().iter().map(|size| Queue::new(*size));
        let queues: Vec<_> = queues
            .collect::<Result<_, _>>()
            .map_err(std::io::Error::other)?;
        let kicks = queues
            .iter()
            .map(|_| EventFd::new(EFD_NONBLOCK).map(Arc::new));
        Ok(Self {
            kicks: kicks.collect::<Result<_, _>>()?,
            device,
            failing: Failing {
                broken: Arc::default(),
                interrupt: interrupt.clone(),
                report,
            },
            memory,
            interrupt,
            runtime,
            gate,
            status: 0,
            driver_features: 0,
            queues,
            worker: None,
            generation: 0,
            configuration: [0; CONFIGURATION],
        })
    }

    /// Which sort of device it is (section 5).
    pub fn id(&self) -> u32 {
        self.device.id()
    }

    /// What KVM is to write when the driver notifies each queue.
    pub fn kicks(&self) -> &[Arc<EventFd>] {
        &self.kicks
    }

    /// The device's interrupt.
    pub fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// Reads the configuration space from `offset` on.
    pub(super) fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }

    /// Which configuration the driver reads now. It changes with the space itself, whether the driver was interrupted for that
    /// or will be: a driver that finds the same before and after has read one configuration (section 2.5.1).
    pub(super) fn generation(&mut self) -> u32 {
        let mut now = [0; CONFIGURATION];
        self.device.read_config(0, &mut now);
        if now != self.configuration {
            self.configuration = now;
            self.generation = self.generation.wrapping_add(1);
        }
        self.generation
    }

    /// Writes the configuration space.
    pub(super) fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.device.write_config(offset, data);
    }

    /// The lower (`selector` 0) or the upper (1) 32 of the features that are offered.
    pub(super) fn offered_half(&self, selector: u32) -> u32 {
        half(self.offered(), selector)
    }

    /// The same of those that the driver has accepted.
    pub(super) fn accepted_half(&self, selector: u32) -> u32 {
        half(self.driver_features, selector)
    }

    fn offered(&self) -> u64 {
        self.device.features() | FEATURES
    }

    /// The driver accepts these 32 features. Once both sides have agreed it is too late.
    pub(super) fn accept_half(&mut self, selector: u32, value: u32) {
        if self.status & FEATURES_OK != 0 {
            return;
        }
        let shift = match selector {
            0 => 0,
            1 => 32,
            _ => return,
        };
        self.driver_features &= !(u64::from(u32::MAX) << shift);
        self.driver_features |= u64::from(value) << shift;
    }

    /// The queue of number `index`, as far as the driver has set it up.
    pub(super) fn queue(&self, index: u32) -> Option<&Queue> {
        self.queues.get(index as usize)
    }

    /// How many queues there are.
    pub(super) fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// Changes the queue of number `index`, if there is one and the device is not in use yet.
    pub(super) fn set_up_queue(&mut self, index: u32, change: impl FnOnce(&mut Queue)) {
        if self.status & DRIVER_OK != 0 {
            return;
        }
        if let Some(queue) = self.queues.get_mut(index as usize) {
            change(queue);
        }
    }

    /// The driver says that the queue has requests: where KVM has no ioeventfd for it, or the driver writes in another way.
    pub(super) fn notify(&self, index: u32) {
        if let Some(kick) = self.kicks.get(index as usize) {
            // Full means that one is under way.
            let _ = kick.write(1);
        }
    }

    /// The device status.
    pub(super) fn status(&self) -> u32 {
        let broken = self.failing.broken.load(Ordering::SeqCst);
        self.status | if broken { NEEDS_RESET } else { 0 }
    }

    /// Writes the device status; 0 resets, and `false` is returned for that. Not on a thread of the runtime: a reset waits for
    /// the device's task.
    pub(super) fn set_status(&mut self, value: u32) -> bool {
        if value == 0 {
            if let Some(worker) = self.take_worker() {
                // The driver may use its memory for something else from here on.
                self.runtime.block_on(worker.stop());
            }
            self.reset();
            return false;
        }
        let new = value & !self.status;
        self.status = value & !NEEDS_RESET;
        // Only what was offered, and that the driver speaks this version (section 3.1.1, step 5).
        let accepted = self.driver_features;
        if new & FEATURES_OK != 0
            && (accepted & !self.offered() != 0 || accepted & F_VERSION_1 == 0)
        {
            self.status &= !FEATURES_OK;
        }
        if new & DRIVER_OK != 0 && self.status & FEATURES_OK != 0 && self.worker.is_none() {
            self.start();
        }
        true
    }

    fn start(&mut self) {
        let _in_runtime = self.runtime.enter();
        let (driver_features, memory) = (self.driver_features, &self.memory);
        let queues =
            self.queues
                .iter_mut()
                .zip(&self.kicks)
                .zip(0..)
                .map(|((queue, kick), number)| {
                    if !queue.ready() {
                        return Ok(None);
                    }
                    queue.set_event_idx(driver_features & F_EVENT_IDX != 0);
                    let queue = Queue::try_from(queue.state())?;
                    let (kick, interrupt) = (kick.clone(), self.interrupt.clone());
                    VirtQueue::new(number, queue, memory.clone(), kick, interrupt).map(Some)
                });
        let queues = match queues.collect::<Result<_, _>>() {
            Ok(queues) => queues,
            Err(error) => return self.failing.fail(&DeviceError::Queue(error)),
        };
        let blocking = Blocking::default();
        let running = self.device.run(Driver {
            features: driver_features,
            queues,
            gate: self.gate.clone(),
            blocking: blocking.clone(),
            interrupt: self.interrupt.clone(),
        });
        let failing = TellPanic(self.failing.clone());
        let work = async move {
            let TellPanic(failing) = &failing;
            if let Err(error) = running.await {
                failing.fail(&error);
            }
        };
        self.worker = Some(Worker::spawn(
            &self.runtime,
            blocking,
            work.instrument(log::span()),
        ));
    }

    /// The device's task, if it has one; to be stopped before a reset.
    pub fn take_worker(&mut self) -> Option<Worker> {
        self.worker.take()
    }

    /// Puts the device into its state after power-on.
    pub(super) fn reset(&mut self) {
        self.worker = None;
        self.status = 0;
        self.driver_features = 0;
        self.queues.iter_mut().for_each(QueueT::reset);
        self.interrupt.acknowledge(u32::MAX);
        self.failing.broken.store(false, Ordering::SeqCst);
    }
}

/// What happens when a device does not go on with its driver: the driver learns it, and whoever wants to.
#[derive(Clone)]
struct Failing {
    /// The device needs a reset.
    broken: Arc<AtomicBool>,
    interrupt: Arc<Interrupt>,
    report: Report,
}

impl Failing {
    fn fail(&self, error: &DeviceError) {
        warn!(%error, "a virtio device stops: its driver must reset it");
        self.stop(error.fault());
    }

    fn stop(&self, fault: DeviceFault) {
        self.broken.store(true, Ordering::SeqCst);
        self.interrupt.configuration();
        (self.report)(fault);
    }
}

/// A device whose task panics stops as one whose driver lies.
struct TellPanic(Failing);

impl Drop for TellPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            warn!("a virtio device stops: its task has panicked");
            self.0.stop(DeviceFault::Panic);
        }
    }
}

/// The lower or the upper 32 of 64 feature bits.
fn half(features: u64, selector: u32) -> u32 {
    match selector {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
