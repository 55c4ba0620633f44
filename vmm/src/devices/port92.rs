//! System control port A at 0x92 (IBM PS/2 technical reference): the fast way to reset, and to open address line 20.
//!
//! | bit | meaning |
//! | --- | --- |
//! | 0 | write 1: reset; reads 0 |
//! | 1 | A20; kept and read back, without effect: the line is always open |
//! | 2..=7 | kept and read back |

use std::ops::RangeInclusive;

use super::{PioDevice, read_bytes, write_bytes};
use crate::runstate::{Request, Requests, ShutdownCause};

/// The port.
pub const PORTS: RangeInclusive<u16> = 0x92..=0x92;

const RESET: u8 = 0x01;

/// System control port A.
pub struct Port92 {
    requests: Requests,
    value: u8,
}

impl Port92 {
    /// A port that resets by `requests`.
    pub fn new(requests: Requests) -> Self {
        Self { requests, value: 0 }
    }
}

impl PioDevice for Port92 {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        read_bytes(offset, data, |_| self.value);
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        write_bytes(offset, data, |_, value| {
            self.value = value & !RESET;
            if value & RESET != 0 {
                self.requests
                    .raise(Request::Reset(ShutdownCause::GuestReset));
            }
        });
    }

    /// As in QEMU the A20 bit outlives a reset; the reset bit is never kept.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{access_everything, read_byte, requests},
        *,
    };

    #[test]
    fn bit_0_resets_and_the_others_are_kept() {
        let requests = requests();
        let mut port = Port92::new(requests.clone());
        assert_eq!(read_byte(&mut port, 0), 0);
        port.write(0, &[0x02]);
        assert_eq!(requests.take_raised(), []);
        assert_eq!(read_byte(&mut port, 0), 0x02);
        port.write(0, &[0x03]);
        let reset = Request::Reset(ShutdownCause::GuestReset);
        assert_eq!(requests.take_raised(), [reset]);
        assert!(requests.stops_vcpu());
        assert_eq!(read_byte(&mut port, 0), 0x02);
        port.reset();
        assert_eq!(read_byte(&mut port, 0), 0x02);
        port.write(0, &[0x01]);
        assert_eq!(requests.take_raised(), [reset], "each write counts");
        access_everything(&mut port, &PORTS);
    }
}
