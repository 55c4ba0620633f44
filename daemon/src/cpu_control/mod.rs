//! How much of the host's processors a machine gets: a weight and a limit, by a cgroup of its vCPUs' threads.
//!
//! ```text
//!   Hierarchy (the daemon's own cgroup, found once) -- create --> Group: vmd-PID-ID, with the vCPUs' threads
//! ```
//! One process has all machines, so it is threads that are grouped: in cgroup v2 by threaded cgroups (Linux
//! `admin-guide/cgroup-v2.rst`, "Threads"), in v1 by the `cpu` hierarchy, where threads are on their own anyway. What the daemon
//! does for a machine, disks and network cards among it, does not count.

mod group;
mod hierarchy;

use std::{io, path::PathBuf};

use thiserror::Error;

pub(crate) use self::group::Group;
pub use self::hierarchy::Hierarchy;

/// The weight of a machine that says nothing.
pub const DEFAULT_WEIGHT: u32 = 100;
/// Largest weight (cgroup v2, `cpu.weight`).
pub const MAX_WEIGHT: u32 = 10_000;
/// Least limit, in thousandths of a CPU: a millisecond of each 100 (v1, `cpu.cfs_quota_us`).
pub const MIN_LIMIT: u32 = 10;
/// Largest limit, in thousandths of a CPU.
pub const MAX_LIMIT: u32 = 1_000_000;

/// What a machine gets of the processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuShare {
    /// How much beside others when all want some: 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// At most this, in thousandths of a CPU, in each 100 ms; at least [`MIN_LIMIT`].
    pub limit_millis: Option<u32>,
}

impl Default for CpuShare {
    fn default() -> Self {
        Self {
            weight: DEFAULT_WEIGHT,
            limit_millis: None,
        }
    }
}

/// Why a machine cannot have its share.
#[derive(Debug, Error)]
pub enum CpuControlError {
    /// The daemon has no cgroup to make others in.
    #[error(
        "this daemon can give CPU weights and limits to no machine: run it in a cgroup of its own with the controller cpu \
         (in its systemd unit: Delegate=cpu)"
    )]
    Unavailable,
    /// A file of the hierarchy cannot be written.
    #[error("CPU weights and limits cannot be set: {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
