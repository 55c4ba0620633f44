//! The socket device (virtio 1.2, section 5.10): streams between programs of the guest and Unix sockets of the host.
//!
//! ```text
//!   host program --- connect to PATH, "CONNECT 52\n", "OK 1073741824\n" ---> the guest's port 52
//!   guest program -- connect to CID 2, port 52 ------------------------> the host's PATH_52
//!
//!   tx queue --> serve --> Mux::receive --> a connection's buffer --> its Unix socket
//!   rx queue <-- serve <-- Mux::next    <-- what a connection has to say, or its Unix socket
//! ```
//! That is the form that Firecracker gave it. One task serves all of a device's connections and does all of its work with
//! the gate held, so while the machine is stopped data waits: what the host sends in its socket, what the guest sends in
//! its queue. Nothing is read from a socket before the guest has room for it, and nothing is taken of the guest beyond
//! what it was told that there is room for. A reset of the device or the machine closes the connections; until a driver
//! is ready (again), those who connect to PATH wait.
//!
//! | bound | of a device |
//! | --- | --- |
//! | `CONNECTIONS_MAX` | connections; more are refused (the guest's), or wait (the host's) |
//! | `BUFFER` | bytes of the guest's that wait for each Unix socket |
//! | `RESETS_MAX` | answers to packets that belong to no connection; more packets wait |

mod connection;
mod host;
mod mux;
mod packet;
mod serve;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

use tokio::net::UnixListener;

use super::{Device, Driver, Running};
use crate::place::Resolve;

const ID: u32 = 19;
const RX: usize = 0;
const TX: usize = 1;
/// The third is for events. There is but one, that all connections were lost by a migration: none is ever sent.
const QUEUE_SIZES: &[u16] = &[128, 128, 16];

/// Section 5.10.3.
const F_STREAM: u64 = 1 << 0;

/// The host's CID.
const HOST_CID: u64 = 2;
/// The lowest CID that a guest may have: those below are reserved.
pub const CID_MIN: u32 = 3;
/// The highest: the one above it means any.
pub const CID_MAX: u32 = u32::MAX - 1;

/// Most connections of a device.
const CONNECTIONS_MAX: usize = 256;
/// Bytes of a connection that wait for the host: the `buf_alloc` that the guest is told.
const BUFFER: u32 = 64 << 10;
/// Most resets that wait for the guest to take them.
const RESETS_MAX: usize = 256;

/// A socket device that a machine is to have.
#[derive(Clone, Debug)]
pub struct VsockConfig {
    /// The guest's CID, from [`CID_MIN`] to [`CID_MAX`].
    pub cid: u32,
    /// Where the host's programs connect to the guest.
    pub listener: Arc<UnixListener>,
    /// The path of that; with `_PORT` after it, of the sockets that the guest connects to.
    pub path: PathBuf,
    /// How those are found.
    pub resolve: Resolve,
}

/// The socket device.
pub struct Vsock(VsockConfig);

impl Vsock {
    /// The device of `config`.
    pub fn new(config: VsockConfig) -> Self {
        Self(config)
    }
}

impl Device for Vsock {
    fn id(&self) -> u32 {
        ID
    }

    fn features(&self) -> u64 {
        F_STREAM
    }

    fn queues(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // Section 5.10.4: the guest's CID, and nothing else.
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut bytes = u64::from(self.0.cid).to_le_bytes().into_iter().skip(start);
        data.fill_with(|| bytes.next().unwrap_or(0));
    }

    fn run(&mut self, driver: Driver) -> Running {
        Box::pin(serve::serve(self.0.clone(), driver))
    }
}
