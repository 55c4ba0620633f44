//! The port I/O bus: finds the device that an access is for.
//!
//! An access that lies within one device goes to it whole. One that does not is split into byte accesses, as the ISA
//! bus does; where no device answers, reads give 0xff and writes are lost.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::devices::PioDevice;

struct Entry {
    first: u16,
    last: u16,
    device: Arc<Mutex<dyn PioDevice>>,
}

/// The devices by port.
#[derive(Default)]
pub(super) struct PioBus {
    entries: Vec<Entry>,
}

impl PioBus {
    /// Puts `device` at `ports`. Devices do not overlap.
    pub(super) fn add(&mut self, ports: RangeInclusive<u16>, device: Arc<Mutex<dyn PioDevice>>) {
        let (first, last) = ports.into_inner();
        let at = self.entries.partition_point(|entry| entry.first < first);
        self.entries.insert(
            at,
            Entry {
                first,
                last,
                device,
            },
        );
    }

    /// A read of `data.len()` (1, 2 or 4) bytes at `port`.
    pub(super) fn read(&self, port: u16, data: &mut [u8]) {
        if let Some((entry, offset)) = self.find(port, data.len()) {
            entry.device().read(offset, data);
        } else if let [byte] = data {
            *byte = 0xff;
        } else {
            for (port, byte) in ports_from(port).zip(data.chunks_mut(1)) {
                self.read(port, byte);
            }
        }
    }

    /// A write of `data.len()` (1, 2 or 4) bytes at `port`.
    pub(super) fn write(&self, port: u16, data: &[u8]) {
        if let Some((entry, offset)) = self.find(port, data.len()) {
            entry.device().write(offset, data);
        } else if data.len() > 1 {
            for (port, byte) in ports_from(port).zip(data.chunks(1)) {
                self.write(port, byte);
            }
        }
    }

    /// The device that has all of the `len` ports from `port`, and where in it they are.
    fn find(&self, port: u16, len: usize) -> Option<(&Entry, u16)> {
        let after = self.entries.partition_point(|entry| entry.first <= port);
        let entry = self.entries.get(after.checked_sub(1)?)?;
        let last = usize::from(port) + len.saturating_sub(1);
        (last <= usize::from(entry.last)).then(|| (entry, port - entry.first))
    }
}

impl Entry {
    fn device(&self) -> MutexGuard<'_, dyn PioDevice + 'static> {
        // A panic in a device ends its machine; until then others may still look at it.
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `port` and those after it, around the end of the port space.
fn ports_from(port: u16) -> impl Iterator<Item = u16> {
    (0..).map(move |offset| port.wrapping_add(offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers the last access; reads as its offset.
    #[derive(Default)]
    struct Echo(Vec<(u16, Vec<u8>)>);

    impl PioDevice for Echo {
        fn read(&mut self, offset: u16, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u16, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
        fn reset(&mut self) {}
    }

    #[test]
    fn accesses_go_whole_to_one_device_and_in_bytes_to_several() {
        let (a, b) = (
            Arc::new(Mutex::new(Echo::default())),
            Arc::new(Mutex::new(Echo::default())),
        );
        let mut bus = PioBus::default();
        bus.add(0x604..=0x607, b.clone());
        bus.add(0x600..=0x603, a.clone());
        bus.write(0x600, &[1, 2, 3, 4]);
        bus.write(0x602, &[5, 6, 7, 8]);
        bus.write(0x606, &[9, 10, 11, 12]);
        assert_eq!(
            a.lock().unwrap().0,
            [(0, vec![1, 2, 3, 4]), (2, vec![5]), (3, vec![6])]
        );
        assert_eq!(
            b.lock().unwrap().0,
            [(0, vec![7]), (1, vec![8]), (2, vec![9]), (3, vec![10])]
        );
    }

    #[test]
    fn ports_without_a_device_read_as_ones_and_the_space_wraps() {
        let device = Arc::new(Mutex::new(Echo::default()));
        let mut bus = PioBus::default();
        bus.add(0..=0, device);
        let mut data = [0; 4];
        bus.read(0xfffe, &mut data);
        assert_eq!(data, [0xff, 0xff, 0, 0xff]);
    }
}
