//! The console device (virtio 1.2, section 5.3), with several ports: byte streams between the guest and Unix sockets of the
//! host.
//!
//! | offset | configuration space | queues | |
//! | --- | --- | --- | --- |
//! | 0, 2 | columns, rows: not offered | 0, 1 | to and from the guest, of port 0 |
//! | 4 | ports | 2, 3 | control messages to and from the guest |
//! | | | 2n + 2, 2n + 3 | to and from the guest, of port n from 1 on |
//!
//! ```text
//!   /dev/vport0p1 --> queue 1 --> port.rs: up to BUFFER bytes --> the Unix socket's one client
//!   (or hvc0)     <-- queue 0 <-- port.rs: as the guest has room  <--
//!   driver <------ queues 2, 3 ------> control.rs: which ports there are, their names, and who has opened them
//! ```
//! A port has one client at a time; others wait until it goes. What is sent to a port that the other side has not opened
//! waits there; only a console's output does not, since its driver would: without a client, or beyond the buffer of a slow
//! one, it is lost. Clients stay over a reset.

mod control;
mod port;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::UnixListener;

use self::{control::Control, port::Port};
use super::{Device, DeviceError, Driver, Running};

const ID: u32 = 3;
/// Section 5.3.3.
const F_MULTIPORT: u64 = 1 << 1;

const CONTROL_TO_GUEST: usize = 2;
const CONTROL_FROM_GUEST: usize = 3;
const QUEUE_SIZE: u16 = 64;

/// Most ports of a machine.
pub const PORTS_MAX: usize = 8;
/// Longest name of a port, in bytes.
pub const NAME_MAX: usize = 63;
/// Bytes of the guest's that wait for a client.
const BUFFER: usize = 64 << 10;

/// A port that a machine is to have.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// What the guest is told, at most [`NAME_MAX`] bytes.
    pub name: String,
    /// Whether it is a console: the guest's terminal hvc0 and so on.
    pub is_console: bool,
    /// Where its clients connect.
    pub listener: Arc<UnixListener>,
}

/// The console device.
pub struct Console {
    ports: Vec<Arc<Port>>,
    queues: Vec<u16>,
}

impl Console {
    /// The device with these ports, at most [`PORTS_MAX`].
    pub fn new(ports: Vec<PortConfig>) -> Self {
        let queues = vec![QUEUE_SIZE; 2 * (ports.len() + 1)];
        let ports = ports.into_iter().map(Port::new).collect();
        Self { ports, queues }
    }
}

impl Device for Console {
    fn id(&self) -> u32 {
        ID
    }

    fn features(&self) -> u64 {
        F_MULTIPORT
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let ports = (self.ports.len() as u32).to_le_bytes();
        let mut bytes = [0; 4].into_iter().chain(ports).skip(start);
        data.fill_with(|| bytes.next().unwrap_or(0));
    }

    fn run(&mut self, driver: Driver) -> Running {
        Box::pin(serve(self.ports.clone(), driver))
    }
}

/// The queues of port `index`: to the guest, and from it.
const fn queues_of(index: usize) -> (usize, usize) {
    match index {
        0 => (0, 1),
        _ => (2 * index + 2, 2 * index + 3),
    }
}

/// Serves a driver until it does what it must not.
async fn serve(ports: Vec<Arc<Port>>, mut driver: Driver) -> Result<(), DeviceError> {
    let is_multiport = driver.features & F_MULTIPORT != 0;
    let mut queues = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        // A driver that knows of one port only has it without control messages, and uses no others.
        if index > 0 && !is_multiport {
            break;
        }
        port.begin(!is_multiport);
        let (to_guest, from_guest) = queues_of(index);
        queues.push((driver.take(to_guest)?, driver.take(from_guest)?));
    }
    let control = match is_multiport {
        true => Some(Control::new(
            &ports,
            driver.take(CONTROL_TO_GUEST)?,
            driver.take(CONTROL_FROM_GUEST)?,
        )),
        false => None,
    };
    let gate = &driver.gate;
    let served = ports.iter().zip(queues);
    let mut served: FuturesUnordered<_> = served
        .map(|(port, (to_guest, from_guest))| port.serve(gate, to_guest, from_guest))
        .collect();
    let control = async {
        match control {
            Some(control) => control.serve(gate).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = control => ended,
        // None of them ends well.
        ended = served.next() => ended.unwrap_or(Ok(())),
    }
}
