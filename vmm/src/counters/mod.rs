//! What a machine counts while it works, for whoever looks on from outside.
//!
//! ```text
//!   vCPU threads, devices' tasks, KvmMachine --- add, observe (relaxed atomics) --> Counters <-- get --- a scrape
//! ```
//! Counting waits for nobody and nobody waits for it; a reader sees each number as of some moment. They belong to one
//! machine as it was built, hold nothing else of it, and can be read after its end.

mod devices;
mod exits;
mod latency;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

pub use self::{
    devices::{DeviceCounters, DiskCounters, Frames, NamedCounters, NetCounters},
    exits::{ExitKind, VcpuCounters},
    latency::{LATENCY_BOUNDS, Latency},
};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it, from any thread.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// What was added so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one machine counts.
#[derive(Debug, Default)]
pub struct Counters {
    vcpus: Vec<Arc<VcpuCounters>>,
    devices: Mutex<Arc<[NamedCounters]>>,
    /// From the wish to pause until every vCPU has and no device uses guest memory.
    pub pause: Latency,
    /// Of each vCPU, from being let go until it is about to enter the guest.
    pub resume: Latency,
}

impl Counters {
    /// Those of a machine with so many vCPUs.
    pub fn new(vcpus: u32) -> Arc<Self> {
        Arc::new(Self {
            vcpus: (0..vcpus).map(|_| Arc::default()).collect(),
            ..Self::default()
        })
    }

    /// Each vCPU's, in order.
    pub fn vcpus(&self) -> &[Arc<VcpuCounters>] {
        &self.vcpus
    }

    /// Those of the devices that there are.
    pub fn devices(&self) -> Arc<[NamedCounters]> {
        let devices = self.devices.lock();
        devices.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// These are the devices from now on.
    pub(crate) fn set_devices(&self, devices: Vec<NamedCounters>) {
        let mut all = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        *all = devices.into();
    }
}
