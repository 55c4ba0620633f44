//! Control messages: which ports there are, and who has opened them (section 5.3.6.2).
//!
//! ```text
//!   driver: DEVICE_READY --> PORT_ADD for each;  PORT_READY --> CONSOLE_PORT, PORT_NAME, PORT_OPEN
//!   then PORT_OPEN of either side, as it opens and closes
//! ```
//! What the guest is to be told is kept as what is true now, not as a list: a driver that takes none of it makes nothing
//! grow.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;

use super::{
    super::{
        DeviceError,
        queue::{QueueError, VirtQueue},
        worker::Gate,
    },
    port::Port,
};

// Events.
pub(super) const DEVICE_READY: u16 = 0;
pub(super) const PORT_ADD: u16 = 1;
pub(super) const PORT_READY: u16 = 3;
pub(super) const CONSOLE_PORT: u16 = 4;
pub(super) const PORT_OPEN: u16 = 6;
pub(super) const PORT_NAME: u16 = 7;

/// Bytes of a message, without the name that may follow: port, event, value.
pub(super) const MESSAGE: usize = 8;
/// Most messages before others get their turn.
const BATCH_MAX: usize = 16;

/// What the guest is yet to be told of a port, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Untold {
    pub(super) add: bool,
    pub(super) console: bool,
    pub(super) name: bool,
    /// That the client has gone, which it knows of.
    pub(super) closed: bool,
    /// That there is a client.
    pub(super) open: bool,
}

pub(super) struct Control<'a> {
    ports: &'a [Arc<Port>],
    to_guest: VirtQueue,
    from_guest: VirtQueue,
}

impl<'a> Control<'a> {
    pub(super) fn new(ports: &'a [Arc<Port>], to_guest: VirtQueue, from_guest: VirtQueue) -> Self {
        Self {
            ports,
            to_guest,
            from_guest,
        }
    }

    pub(super) async fn serve(mut self, gate: &Gate) -> Result<(), DeviceError> {
        loop {
            tokio::select! {
                kicked = self.to_guest.kicked() => kicked?,
                kicked = self.from_guest.kicked() => kicked?,
                () = any(self.ports.iter().map(|port| port.untold_changed())) => {}
            }
            let mut may_be_more = true;
            while may_be_more {
                let _inside = gate.enter().await;
                may_be_more = false;
                for _ in 0..BATCH_MAX {
                    let (heard, told) = (self.hear()?, self.tell()?);
                    may_be_more = heard || told;
                    if !may_be_more {
                        break;
                    }
                }
            }
        }
    }

    /// Takes a message of the driver's; whether there was one.
    fn hear(&mut self) -> Result<bool, QueueError> {
        let Some(chain) = self.from_guest.pop()? else {
            return Ok(false);
        };
        let mut message = [0; MESSAGE];
        let mut reader = self.from_guest.reader(&chain)?;
        let too_short = |_| QueueError::Request("for the console's control is too short");
        reader.read_exact(&mut message).map_err(too_short)?;
        drop(reader);
        let [a, b, c, d, e, f, g, h] = message;
        let (id, event) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
        let value = u16::from_le_bytes([g, h]);
        let port = usize::try_from(id).ok().and_then(|id| self.ports.get(id));
        // What says that the driver failed needs nothing; what is not known, of a port that is not there, neither.
        match (event, port) {
            (DEVICE_READY, _) if value == 1 => {
                self.ports.iter().for_each(|port| port.ready_device());
            }
            (PORT_READY, Some(port)) if value == 1 => port.ready(),
            (PORT_OPEN, Some(port)) => port.guest_opens(value != 0),
            _ => {}
        }
        self.from_guest.push(&chain, 0)?;
        Ok(true)
    }

    /// Gives the driver a message; whether there was one, and a place for it.
    fn tell(&mut self) -> Result<bool, QueueError> {
        let mut ports = (0_u32..).zip(self.ports);
        let Some((id, port)) = ports.find(|(_, port)| port.is_untold()) else {
            return Ok(false);
        };
        let Some(chain) = self.to_guest.pop()? else {
            return Ok(false);
        };
        let Some((event, value, name)) = port.tell() else {
            self.to_guest.unpop();
            return Ok(false);
        };
        let mut message = id.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(name.as_bytes());
        let mut writer = self.to_guest.writer(&chain)?;
        if writer.available_bytes() < message.len() {
            return Err(QueueError::Request(
                "for a control message has no room for one",
            ));
        }
        writer.write_all(&message)?;
        drop(writer);
        self.to_guest.push(&chain, message.len() as u32)?;
        Ok(true)
    }
}

/// Waits for any of them.
async fn any<'a>(changes: impl Iterator<Item = &'a Notify>) {
    let mut changes: FuturesUnordered<_> = changes.map(Notify::notified).collect();
    changes.next().await;
}
