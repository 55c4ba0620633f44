//! The reset control register at 0xcf9 (Intel PIIX3 datasheet, "RCR"), in the middle of the PCI address port.
//!
//! | port | width | what |
//! | --- | --- | --- |
//! | 0xcf8 | any | the PCI configuration address; there is no PCI bus: reads all ones, writes are ignored |
//! | 0xcf9 | byte | reset control |
//!
//! Bit 2 of the register resets the machine and reads 0, the other bits (bit 1: hard reset) are kept and read back.
//! An access that starts at 0xcf8 and covers 0xcf9 means the address port: it never resets.

use std::ops::RangeInclusive;

use super::PioDevice;
use crate::runstate::{Request, Requests, ShutdownCause};

/// The ports of the PCI address register, with the reset control register.
pub const PORTS: RangeInclusive<u16> = 0xcf8..=0xcfb;

/// The register's own.
pub const REGISTER: u16 = 0xcf9;

const RESET_CONTROL: u16 = REGISTER - *PORTS.start();
const RESET_CPU: u8 = 0x04;

/// The reset control register.
pub struct ResetControl {
    requests: Requests,
    value: u8,
}

impl ResetControl {
    /// A register that resets by `requests`.
    pub fn new(requests: Requests) -> Self {
        Self { requests, value: 0 }
    }
}

impl PioDevice for ResetControl {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        match (offset, data) {
            (RESET_CONTROL, [byte]) => *byte = self.value,
            (_, data) => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        let (RESET_CONTROL, [value]) = (offset, data) else {
            return;
        };
        self.value = value & !RESET_CPU;
        if value & RESET_CPU != 0 {
            self.requests
                .raise(Request::Reset(ShutdownCause::GuestReset));
        }
    }

    fn reset(&mut self) {
        self.value = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{access_everything, read_byte, read_dword, requests},
        *,
    };

    #[test]
    fn bit_2_resets() {
        let requests = requests();
        let mut device = ResetControl::new(requests.clone());
        device.write(1, &[0x02]);
        assert_eq!(requests.take_raised(), []);
        device.write(1, &[0x06]);
        let reset = Request::Reset(ShutdownCause::GuestReset);
        assert_eq!(requests.take_raised(), [reset]);
        assert!(requests.stops_vcpu());
        assert_eq!(read_byte(&mut device, 1), 0x02);
        device.reset();
        assert_eq!(read_byte(&mut device, 1), 0);
    }

    #[test]
    fn the_pci_address_is_not_a_reset() {
        let requests = requests();
        let mut device = ResetControl::new(requests.clone());
        device.write(0, &[0xff; 4]);
        device.write(0, &[0xff; 2]);
        device.write(1, &[0xff; 2]);
        for offset in [0, 2, 3] {
            device.write(offset, &[0xff]);
            assert_eq!(read_byte(&mut device, offset), 0xff);
        }
        assert_eq!(requests.take_raised(), []);
        assert_eq!(read_dword(&mut device, 0), u32::MAX);
        assert_eq!(read_byte(&mut device, 1), 0);
        access_everything(&mut device, &PORTS);
    }
}
