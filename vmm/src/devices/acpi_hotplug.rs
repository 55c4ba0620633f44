//! Hot-plug of PCI devices through ACPI (ACPI specification 6.5, sections 4.8.4.1 and 5.6.4): an event of the first
//! general-purpose block, and registers that say which slots it is about. The DSDT's methods read and write them.
//!
//! | port | register |
//! | --- | --- |
//! | 0x620 | GPE0 status, 8 bits, write 1 to clear: bit 1, something is to be looked at |
//! | 0x621 | GPE0 enable, 8 bits |
//! | 0x624 | slots with a new device, 32 bits; reading clears them |
//! | 0x628 | slots whose device is to be given back, 32 bits; reading clears them |
//! | 0x62c | write: the devices of these slots are given back, 32 bits |
//!
//! ```text
//!   plugged(slot) --> 0x624 --+--> status --> SCI --> \_GPE._E01 --> Notify(slot, 1: look)  --> the guest's driver
//!   unplug(slot) ---> 0x628 --+                              \----> Notify(slot, 3: eject)          |
//!   eject(slots) <--- 0x62c <----------------------------------- _EJ0 <-----------------------------+
//! ```

use std::{ops::RangeInclusive, sync::Arc};

use super::{IrqLine, PioDevice};

/// The ports of the GPE0 block.
pub const GPE0: RangeInclusive<u16> = 0x620..=0x621;
/// The ports of the slots' registers, 32 bits each: up, down, eject.
pub const SLOTS: RangeInclusive<u16> = 0x624..=0x62f;
/// All of them.
pub const PORTS: RangeInclusive<u16> = *GPE0.start()..=*SLOTS.end();
/// Which event of the block it is.
pub const EVENT: u8 = 1;

const STATUS: u16 = 0;
const ENABLE: u16 = 1;
const UP: u16 = 4;
const DOWN: u16 = 8;
const EJECT: u16 = 12;

/// What takes the devices of these slots, a bit each, away.
pub type Eject = Box<dyn Fn(u32) + Send>;

/// The registers.
pub struct AcpiHotplug {
    sci: Arc<dyn IrqLine>,
    eject: Eject,
    status: u8,
    enable: u8,
    up: u32,
    down: u32,
}

impl AcpiHotplug {
    /// Nothing is to be looked at. `sci` is level-triggered.
    pub fn new(sci: Arc<dyn IrqLine>, eject: Eject) -> Self {
        Self {
            sci,
            eject,
            status: 0,
            enable: 0,
            up: 0,
            down: 0,
        }
    }

    /// The slot has a new device.
    pub fn plugged(&mut self, slot: u8) {
        self.up |= 1 << (slot % 32);
        self.raise();
    }

    /// The guest is to give the slot's device back.
    pub fn unplug(&mut self, slot: u8) {
        self.down |= 1 << (slot % 32);
        self.raise();
    }

    fn raise(&mut self) {
        self.status |= 1 << EVENT;
        self.update();
    }

    fn update(&self) {
        self.sci.set(self.status & self.enable != 0);
    }
}

impl PioDevice for AcpiHotplug {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        let value = match (offset, data.len()) {
            (STATUS, 1) => self.status.into(),
            (STATUS, 2) => u16::from_le_bytes([self.status, self.enable]).into(),
            (ENABLE, 1) => self.enable.into(),
            (UP, 4) => std::mem::take(&mut self.up),
            (DOWN, 4) => std::mem::take(&mut self.down),
            _ => 0,
        };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        match (offset, data) {
            (STATUS, [status]) => self.status &= !status,
            (STATUS, [status, enable]) => {
                self.status &= !status;
                self.enable = *enable;
            }
            (ENABLE, [enable]) => self.enable = *enable,
            (EJECT, &[a, b, c, d]) => (self.eject)(u32::from_le_bytes([a, b, c, d])),
            _ => {}
        }
        self.update();
    }

    fn reset(&mut self) {
        (self.status, self.enable) = (0, 0);
        // A guest that starts looks at every slot anyway.
        (self.up, self.down) = (0, 0);
        self.update();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::{super::testing::Line, *};

    fn read(device: &mut AcpiHotplug, offset: u16) -> u32 {
        let mut data = [0xff; 4];
        device.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn device() -> (AcpiHotplug, Arc<Line>, Arc<Mutex<Vec<u32>>>) {
        let (line, ejected) = (Arc::<Line>::default(), Arc::<Mutex<Vec<u32>>>::default());
        let eject = {
            let ejected = ejected.clone();
            Box::new(move |slots| ejected.lock().unwrap().push(slots))
        };
        (AcpiHotplug::new(line.clone(), eject), line, ejected)
    }

    #[test]
    fn a_slot_is_told_of_once_the_guest_wants_to_know() {
        let (mut device, line, _) = device();
        device.plugged(3);
        assert!(!line.is_high());
        device.write(ENABLE, &[1 << EVENT]);
        assert!(line.is_high());
        // As a guest does: clears the event, then looks.
        device.write(STATUS, &[1 << EVENT]);
        assert!(!line.is_high());
        device.unplug(31);
        assert!(line.is_high());
        assert_eq!(
            (read(&mut device, UP), read(&mut device, DOWN)),
            (8, 1 << 31)
        );
        assert_eq!((read(&mut device, UP), read(&mut device, DOWN)), (0, 0));
        device.plugged(1);
        device.reset();
        assert!(!line.is_high());
        assert_eq!(read(&mut device, UP), 0);
        let mut both = [0xff; 2];
        device.read(STATUS, &mut both);
        assert_eq!(both, [0, 0]);
    }

    #[test]
    fn devices_are_given_back_by_whole_words() {
        let (mut device, _, ejected) = device();
        for offset in 0..=EJECT {
            for width in [1, 2, 4] {
                let mut data = vec![0xff; width];
                device.write(offset, &data);
                device.read(offset, &mut data);
            }
        }
        assert_eq!(*ejected.lock().unwrap(), [u32::MAX]);
    }
}
