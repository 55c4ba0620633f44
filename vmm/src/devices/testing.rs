//! What the tests of the devices share.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{
    IrqLine, PioDevice,
    clock::manual::ManualClock,
    timer::{Timer, TimerId, Timers},
};
use crate::runstate::{Actions, Requests, TransitionTable};

/// A wire that remembers its level and counts its rising edges.
#[derive(Default)]
pub(super) struct Line {
    high: AtomicBool,
    edges: AtomicUsize,
}

impl Line {
    pub(super) fn is_high(&self) -> bool {
        self.high.load(Ordering::Relaxed)
    }

    /// The rising edges since the last call.
    pub(super) fn take_edges(&self) -> usize {
        self.edges.swap(0, Ordering::Relaxed)
    }
}

impl IrqLine for Line {
    fn set(&self, high: bool) {
        if high && !self.high.swap(high, Ordering::Relaxed) {
            self.edges.fetch_add(1, Ordering::Relaxed);
        }
        self.high.store(high, Ordering::Relaxed);
    }
}

pub(super) fn requests() -> Requests {
    Requests::new(TransitionTable::Seed, Actions::default(), || {})
}

/// A timer, its clock, which stands at 0, and where its deadline can be seen.
pub(super) fn timer(id: TimerId) -> (Timer, Arc<ManualClock>, Arc<Timers>) {
    let clock = Arc::new(ManualClock::default());
    let timers = Timers::new(|| {});
    let timer = Timer::new(id, Arc::clone(&timers), clock.clone());
    (timer, clock, timers)
}

pub(super) fn read_byte(device: &mut dyn PioDevice, offset: u16) -> u8 {
    let mut data = [0];
    device.read(offset, &mut data);
    data[0]
}

pub(super) fn read_word(device: &mut dyn PioDevice, offset: u16) -> u16 {
    let mut data = [0; 2];
    device.read(offset, &mut data);
    u16::from_le_bytes(data)
}

pub(super) fn read_dword(device: &mut dyn PioDevice, offset: u16) -> u32 {
    let mut data = [0; 4];
    device.read(offset, &mut data);
    u32::from_le_bytes(data)
}

/// Writes every byte value, and reads, with every width at every port that has room for it.
pub(super) fn access_everything(device: &mut dyn PioDevice, ports: &RangeInclusive<u16>) {
    let len = ports.end() - ports.start() + 1;
    for width in [1_u16, 2, 4] {
        for offset in 0..=len.saturating_sub(width) {
            if width > len {
                continue;
            }
            for value in 0..=u8::MAX {
                let data = [value, value.rotate_left(3), !value, value];
                device.write(offset, &data[..usize::from(width)]);
                let mut read = [0; 4];
                device.read(offset, &mut read[..usize::from(width)]);
            }
        }
    }
}

/// A deterministic stream of hostile accesses.
pub(super) fn access_at_random(
    device: &mut dyn PioDevice,
    ports: &RangeInclusive<u16>,
    rounds: usize,
    mut between: impl FnMut(&mut dyn PioDevice, u64),
) {
    let len = ports.end() - ports.start() + 1;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..rounds {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let bytes = seed.to_le_bytes();
        let width = [1_u16, 2, 4][usize::from(bytes[0]) % 3];
        if width > len {
            continue;
        }
        let offset = u16::from(bytes[1]) % (len - width + 1);
        let data = &bytes[2..2 + usize::from(width)];
        if bytes[7] & 1 == 0 {
            device.write(offset, data);
        } else {
            device.read(offset, &mut [0; 4][..usize::from(width)]);
        }
        between(device, seed >> 20);
    }
}
