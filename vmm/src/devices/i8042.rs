//! The keyboard controller, as far as it resets the machine (Intel 8042 datasheet, "pulse output port").
//!
//! | port | read | write |
//! | --- | --- | --- |
//! | 0x60 | 0: no data | ignored |
//! | 0x61..=0x63 | 0xff: not the controller's | ignored |
//! | 0x64 | 0: nothing to read, ready for a command | command |
//!
//! Commands 0xf0 to 0xff pulse those lines of the output port low whose bit is 0. Line 0 is the reset line of the CPU,
//! so every even one of them resets; software uses 0xfe. Around `vm_superio::I8042Device`, which knows 0xfe alone.

use std::{convert::Infallible, ops::RangeInclusive};

use vm_superio::{I8042Device, Trigger};

use super::{PioDevice, read_bytes, write_bytes};
use crate::runstate::{Request, Requests, ShutdownCause};

/// The ports of the keyboard controller, and those between them.
pub const PORTS: RangeInclusive<u16> = 0x60..=0x64;

const DATA: u16 = 0;
const COMMAND: u16 = 4;

const PULSE: u8 = 0xf0;
const PULSE_RESET_LINE: u8 = 0xfe;

struct ResetLine(Requests);

impl Trigger for ResetLine {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.raise(Request::Reset(ShutdownCause::GuestReset));
        Ok(())
    }
}

/// A keyboard controller without a keyboard.
pub struct I8042 {
    controller: I8042Device<ResetLine>,
}

impl I8042 {
    /// A controller that resets by `requests`.
    pub fn new(requests: Requests) -> Self {
        Self {
            controller: I8042Device::new(ResetLine(requests)),
        }
    }
}

impl PioDevice for I8042 {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        read_bytes(offset, data, |register| match register {
            DATA | COMMAND => self.controller.read(register as u8),
            _ => 0xff,
        });
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        write_bytes(offset, data, |register, value| {
            let pulses_reset = value & (PULSE | 1) == PULSE;
            let value = if pulses_reset {
                PULSE_RESET_LINE
            } else {
                value
            };
            if matches!(register, DATA | COMMAND) {
                let Ok(()) = self.controller.write(register as u8, value);
            }
        });
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{access_everything, read_byte, requests},
        *,
    };

    #[test]
    fn the_pulse_of_the_reset_line_resets() {
        let requests = requests();
        let mut i8042 = I8042::new(requests.clone());
        for value in 0..=u8::MAX {
            i8042.write(COMMAND, &[value]);
            let resets = value >= 0xf0 && value & 1 == 0;
            let expected = [Request::Reset(ShutdownCause::GuestReset)];
            assert_eq!(requests.take_raised(), expected[..usize::from(resets)]);
            i8042.write(DATA, &[value]);
            assert_eq!(requests.take_raised(), []);
        }
        i8042.write(COMMAND, &[0xfe]);
        assert!(requests.stops_vcpu());
    }

    #[test]
    fn it_is_always_ready_and_the_ports_between_are_inert() {
        let requests = requests();
        let mut i8042 = I8042::new(requests.clone());
        assert_eq!(read_byte(&mut i8042, DATA), 0);
        assert_eq!(read_byte(&mut i8042, COMMAND), 0);
        assert_eq!(read_byte(&mut i8042, 1), 0xff);
        i8042.write(0, &[0xfe; 4]);
        assert_eq!(requests.take_raised(), []);
        access_everything(&mut i8042, &PORTS);
    }
}
