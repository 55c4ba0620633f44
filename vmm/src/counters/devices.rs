//! What devices count.

use std::sync::Arc;

use super::Counter;

/// A device's counters, and what it is called.
#[derive(Clone, Debug)]
pub struct NamedCounters {
    /// `d0`, `n0`, ...
    pub name: String,
    /// What it counts.
    pub counters: DeviceCounters,
}

/// What a device counts.
#[derive(Clone, Debug)]
pub enum DeviceCounters {
    /// A disk.
    Disk(Arc<DiskCounters>),
    /// A network card.
    Net(Arc<NetCounters>),
}

/// What a disk counts: requests as they are answered, and the host's failures.
#[derive(Debug, Default)]
pub struct DiskCounters {
    /// Reads.
    pub reads: Counter,
    /// Bytes that they read.
    pub read_bytes: Counter,
    /// Writes.
    pub writes: Counter,
    /// Bytes that they wrote.
    pub written_bytes: Counter,
    /// Flushes.
    pub flushes: Counter,
    /// Discards, and writes of zeroes.
    pub discards: Counter,
    /// How often the host failed to read; again for each time that a kept request is tried.
    pub read_errors: Counter,
    /// How often it failed to write or to flush.
    pub write_errors: Counter,
    /// How long queues waited because of the rate limit, in nanoseconds.
    pub throttled_ns: Counter,
}

/// What a network card counts, as its guest sees it.
#[derive(Debug, Default)]
pub struct NetCounters {
    /// To the guest.
    pub received: Frames,
    /// From the guest.
    pub sent: Frames,
}

/// What is counted of one direction.
#[derive(Debug, Default)]
pub struct Frames {
    /// Frames that got through.
    pub frames: Counter,
    /// Their bytes.
    pub bytes: Counter,
    /// Frames that were dropped.
    pub dropped: Counter,
    /// How long queues waited because of the rate limit, in nanoseconds.
    pub throttled_ns: Counter,
}
