//! The block device (virtio 1.2, section 5.2): a disk.
//!
//! | offset | configuration space | offset | |
//! | --- | --- | --- | --- |
//! | 0 | capacity in sectors | 36 | most sectors of a range to discard |
//! | 8 | largest part of a request | 40 | most ranges of a request to discard |
//! | 12 | most parts of a request | 44 | sectors that ranges to discard are aligned to |
//! | 20 | block size | 48 | most sectors to zero |
//! | 34 | number of queues | | |
//! | | | 52 | most ranges of a request to zero |
//! | | | 56 | zeroing may free space |
//!
//! ```text
//!   queue --> serve: up to 16 requests --+--> io_uring (ring.rs) -------------------+--> used ring
//!               ^                        +--> a thread where it may block ----------+
//!               |                                  |
//!               |                                  | the host failed, and the policy says stop
//!               +-- the machine goes on <-- BLOCK_IO_ERROR, the request is kept
//! ```
//! Each queue has a task of its own that does so. The gate is held from the first of these requests to their answers, so a pause waits for them: that is the drain.

mod backing;
mod disk;
mod image;
mod policy;
mod qcow2;
mod raw;
mod request;
mod ring;
mod serve;
#[cfg(test)]
mod tests;
mod vectored;

use std::sync::Arc;

pub(crate) use self::disk::Disk;
use self::disk::{DISCARD_RANGES_MAX, DISCARD_SECTORS_MAX, ZERO_SECTORS_MAX};
pub use self::{
    backing::{Backing, ResizeError, SECTOR},
    image::{DiskError, Format, open_disk},
    policy::Policies,
    qcow2::{Qcow2Error, Qcow2File},
    raw::RawFile,
};
use super::{Device, Driver, Running, rate::RateLimit};

/// Longest serial number, in bytes.
pub const SERIAL_MAX: usize = 20;

const ID: u32 = 2;
/// Most queues of a disk.
pub const QUEUES_MAX: u16 = 16;
const QUEUE_SIZE: u16 = 128;

// Section 5.2.3.
const F_SIZE_MAX: u64 = 1 << 1;
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// Most parts of a request's data: the queue's size, less its head and its status.
const SEGMENTS_MAX: u32 = 126;
/// Largest of these parts, in bytes: together they are less than [`disk::REQUEST_MAX`].
const SIZE_MAX: u32 = 64 << 10;

/// How the I/O of a disk is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// By io_uring where the host has it and the image is raw, else on threads.
    #[default]
    Auto,
    /// By io_uring.
    IoUring,
    /// On threads.
    Threads,
}

impl Engine {
    /// Whether the host lets this process have it.
    pub fn check(self) -> Result<(), DiskError> {
        match self {
            Self::IoUring => ring::Ring::check().map_err(DiskError::NoIoUring),
            Self::Auto | Self::Threads => Ok(()),
        }
    }
}

/// A disk that a machine is to have.
#[derive(Clone, Debug)]
pub struct BlockConfig {
    /// What its data is in.
    pub backing: Arc<dyn Backing>,
    /// Its serial number, at most [`SERIAL_MAX`] bytes.
    pub serial: String,
    /// What is done about errors.
    pub policies: Policies,
    /// How fast it may be.
    pub rate_limit: RateLimit,
    /// How its I/O is done.
    pub engine: Engine,
    /// How many queues it has, 1 to [`QUEUES_MAX`]. Their requests are served side by side.
    pub queues: u16,
}

/// The block device.
pub struct Block {
    disk: Arc<Disk>,
    queues: Vec<u16>,
}

impl Block {
    /// The device of a disk that has no machine: it raises its errors at `requests`.
    #[cfg(fuzzing)]
    pub fn alone(config: BlockConfig, requests: crate::runstate::Requests) -> Self {
        Self::new(Disk::new(config, 0, requests))
    }

    /// The device of `disk`.
    pub(crate) fn new(disk: Arc<Disk>) -> Self {
        let queues = disk.config.queues.clamp(1, QUEUES_MAX);
        Self {
            disk,
            queues: vec![QUEUE_SIZE; queues.into()],
        }
    }
}

/// Section 5.2.4.
fn configuration(sectors: u64, queues: u16) -> Vec<u8> {
    let mut space = Vec::new();
    space.extend(sectors.to_le_bytes());
    space.extend(SIZE_MAX.to_le_bytes());
    space.extend(SEGMENTS_MAX.to_le_bytes());
    // No geometry.
    space.extend([0; 4]);
    space.extend((SECTOR as u32).to_le_bytes());
    // No topology, no choice of write-back.
    space.extend([0; 10]);
    space.extend(queues.to_le_bytes());
    space.extend(DISCARD_SECTORS_MAX.to_le_bytes());
    space.extend((DISCARD_RANGES_MAX as u32).to_le_bytes());
    space.extend(1_u32.to_le_bytes());
    space.extend(ZERO_SECTORS_MAX.to_le_bytes());
    space.extend(1_u32.to_le_bytes());
    space.extend([1, 0, 0, 0]);
    space
}

impl Device for Block {
    fn id(&self) -> u32 {
        ID
    }

    fn features(&self) -> u64 {
        let queues = if self.queues.len() > 1 { F_MQ } else { 0 };
        let every = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | queues;
        if self.disk.config.backing.is_read_only() {
            every | F_RO
        } else {
            every | F_DISCARD | F_WRITE_ZEROES
        }
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let space = configuration(self.disk.sectors(), self.queues.len() as u16);
        let mut bytes = space.into_iter().skip(start);
        data.fill_with(|| bytes.next().unwrap_or(0));
    }

    fn run(&mut self, driver: Driver) -> Running {
        Box::pin(serve::serve(self.disk.clone(), driver))
    }
}
