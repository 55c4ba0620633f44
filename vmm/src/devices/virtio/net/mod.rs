//! The network device (virtio 1.2, section 5.1): a card with pairs of queues, and a back end that its cable leads to.
//!
//! | queue | | configuration space | |
//! | --- | --- | --- | --- |
//! | 2n | received frames of pair n | 0 | MAC address |
//! | 2n + 1 | frames to send of pair n | 6 | status: bit 0 is the link |
//! | the one after the pairs | control: how many pairs, what offloads | 8 | most pairs |
//! | | | 10 | MTU |
//!
//! ```text
//!   receive queue <-- receive.rs (waits for a frame, then for the gate, then takes it) <-+
//!   send queue -----> transmit.rs -------------------------------------------------------+-- Backend: tap.rs, passt.rs
//!   control queue --> control.rs --- pairs, offloads ------------------------------------+
//!                     serve.rs: the device's task, which all of these run in
//! ```
//! A frame goes between guest memory and the back end in one system call, with its header before it. While the machine
//! is paused the gate is closed, and frames wait where they are: those to send in their queue, received ones in the back
//! end, which drops what it has no room for. Without a link frames are dropped, both ways.
//!
//! What a driver may get wrong without harm is dropped, as frames are anywhere on a network: one too long or too short to
//! be one, one that has no room in the buffer that the driver gave. A chain that is no frame stops the device.

mod backend;
mod buffer;
mod card;
mod control;
mod descriptor;
mod passt;
mod receive;
mod serve;
mod tap;
#[cfg(test)]
mod tests;
mod transmit;

use std::sync::Arc;

pub(crate) use self::card::Card;
pub use self::{
    backend::Backend,
    passt::Passt,
    tap::{NAME_MAX, Tap, TapError},
};
use super::{Device, Driver, Running, rate::RateLimit};

/// Bytes of the header before each frame (section 5.1.6).
pub const HEADER: usize = 12;
/// Most pairs of queues of a card.
pub const PAIRS_MAX: u16 = 8;
/// The sizes that an MTU may have (section 5.1.4.1).
pub const MTUS: std::ops::RangeInclusive<u16> = 68..=u16::MAX;

/// Longest frame with its header: what segmentation offload makes of 64 KiB, with an Ethernet head and a VLAN tag.
const FRAME_MAX: usize = HEADER + 18 + 65535;
/// Shortest: an Ethernet head.
const FRAME_MIN: usize = HEADER + 14;
/// Most frames that a queue moves before others get their turn.
const BATCH_MAX: usize = 64;

const ID: u32 = 1;
const QUEUE_SIZE: u16 = 256;

// Section 5.1.3.
const F_CSUM: u64 = 1 << 0;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
const F_MTU: u64 = 1 << 3;
const F_MAC: u64 = 1 << 5;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_GUEST_ECN: u64 = 1 << 9;
const F_GUEST_UFO: u64 = 1 << 10;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_HOST_ECN: u64 = 1 << 13;
const F_HOST_UFO: u64 = 1 << 14;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_STATUS: u64 = 1 << 16;
const F_CTRL_VQ: u64 = 1 << 17;
const F_MQ: u64 = 1 << 22;
const F_GUEST_USO4: u64 = 1 << 54;
const F_GUEST_USO6: u64 = 1 << 55;
const F_HOST_USO: u64 = 1 << 56;

/// What a driver may be left to do with received frames (section 5.1.6.5.6).
const GUEST_OFFLOADS: u64 = F_GUEST_CSUM
    | F_GUEST_TSO4
    | F_GUEST_TSO6
    | F_GUEST_ECN
    | F_GUEST_UFO
    | F_GUEST_USO4
    | F_GUEST_USO6;

/// Status: the link is up.
const S_LINK_UP: u16 = 1;

/// The rate limits of a network card. A packet is what its driver takes for one, however many segments it is cut into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of received frames. Others wait in the back end.
    pub receive: RateLimit,
    /// Of frames to send. Others wait in their queues.
    pub send: RateLimit,
}

/// A network card that a machine is to have.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// What it is connected to.
    pub backend: Arc<dyn Backend>,
    /// Its address.
    pub mac: [u8; 6],
    /// What the driver is told of its network's MTU, in bytes, one of [`MTUS`].
    pub mtu: Option<u16>,
    /// Whether its link is down at first.
    pub link_down: bool,
    /// How fast its driver may receive, and send.
    pub limits: Limits,
}

/// The network device.
pub struct Net {
    card: Arc<Card>,
    queues: Vec<u16>,
}

impl Net {
    /// The device of `card`.
    pub(crate) fn new(card: Arc<Card>) -> Self {
        let queues = 2 * usize::from(card.pairs) + 1;
        Self {
            card,
            queues: vec![QUEUE_SIZE; queues],
        }
    }

    /// The device of a card like this.
    pub fn of(config: NetConfig) -> Self {
        Self::new(Card::new(config))
    }

    /// Section 5.1.4.
    fn configuration(&self) -> [u8; 12] {
        let mut space = [0; 12];
        let status = if self.card.link().is_up() {
            S_LINK_UP
        } else {
            0
        };
        let words = [status, self.card.pairs, self.card.mtu.unwrap_or(0)];
        let words = words.into_iter().flat_map(u16::to_le_bytes);
        for (to, from) in space.iter_mut().zip(self.card.mac.into_iter().chain(words)) {
            *to = from;
        }
        space
    }
}

impl Device for Net {
    fn id(&self) -> u32 {
        ID
    }

    fn features(&self) -> u64 {
        let mut features = self.card.features | F_MAC | F_STATUS | F_MRG_RXBUF | F_CTRL_VQ;
        if self.card.mtu.is_some() {
            features |= F_MTU;
        }
        if self.card.pairs > 1 {
            features |= F_MQ;
        }
        if features & GUEST_OFFLOADS != 0 {
            features |= F_CTRL_GUEST_OFFLOADS;
        }
        features
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut bytes = self.configuration().into_iter().skip(start);
        data.fill_with(|| bytes.next().unwrap_or(0));
    }

    fn run(&mut self, driver: Driver) -> Running {
        Box::pin(serve::serve(self.card.clone(), driver))
    }
}
