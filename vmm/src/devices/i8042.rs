//! The keyboard controller, without a keyboard, as far as it resets the machine (Intel 8042 datasheet, "pulse output
//! port") and says that there is no keyboard (IBM PS/2 technical reference, "keyboard and auxiliary device controller").
//!
//! | port | read | write |
//! | --- | --- | --- |
//! | 0x60 | the answer to the last command, once; 0 if there is none | ignored |
//! | 0x61..=0x63 | 0xff: not the controller's | ignored |
//! | 0x64 | bit 0: there is an answer; ready for a command | command |
//!
//! | command | answer |
//! | --- | --- |
//! | 0xaa, self-test | 0x55, passed |
//! | 0xab, keyboard interface test | 0x02, the clock line is stuck high |
//! | 0xf0..=0xff, pulse those lines of the output port low whose bit is 0 | none |
//! | others | none |
//!
//! Line 0 is the reset line of the CPU, so every even pulse resets; software uses 0xfe. Firmware that gets no answer
//! waits for half a second, of which a guest that is emulated makes two. Around `vm_superio::I8042Device`, which knows
//! 0xfe alone.

use std::{convert::Infallible, ops::RangeInclusive};

use vm_superio::{I8042Device, Trigger};

use super::{PioDevice, read_bytes, write_bytes};
use crate::runstate::{Request, Requests, ShutdownCause};

/// The ports of the keyboard controller, and those between them.
pub const PORTS: RangeInclusive<u16> = 0x60..=0x64;

const DATA: u16 = 0;
const COMMAND: u16 = 4;

const OUTPUT_FULL: u8 = 0x01;

const SELF_TEST: u8 = 0xaa;
const SELF_TEST_PASSED: u8 = 0x55;
const KEYBOARD_TEST: u8 = 0xab;
const CLOCK_STUCK_HIGH: u8 = 0x02;
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
    answer: Option<u8>,
}

impl I8042 {
    /// A controller that resets by `requests`.
    pub fn new(requests: Requests) -> Self {
        Self {
            controller: I8042Device::new(ResetLine(requests)),
            answer: None,
        }
    }
}

impl PioDevice for I8042 {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        read_bytes(offset, data, |register| match register {
            DATA => self.answer.take().unwrap_or(0),
            COMMAND => {
                let full = if self.answer.is_some() {
                    OUTPUT_FULL
                } else {
                    0
                };
                self.controller.read(COMMAND as u8) | full
            }
            _ => 0xff,
        });
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        write_bytes(offset, data, |register, value| {
            match (register, value) {
                (COMMAND, SELF_TEST) => self.answer = Some(SELF_TEST_PASSED),
                (COMMAND, KEYBOARD_TEST) => self.answer = Some(CLOCK_STUCK_HIGH),
                _ => {}
            }
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

    fn reset(&mut self) {
        self.answer = None;
    }
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
    fn it_passes_its_test_and_has_no_keyboard() {
        let mut i8042 = I8042::new(requests());
        for (command, answer) in [(0xaa, 0x55), (0xab, 0x02)] {
            for _ in 0..2 {
                i8042.write(COMMAND, &[command]);
                assert_eq!(read_byte(&mut i8042, COMMAND), 0x01);
                assert_eq!(read_byte(&mut i8042, DATA), answer);
                assert_eq!(read_byte(&mut i8042, COMMAND), 0);
                assert_eq!(read_byte(&mut i8042, DATA), 0);
            }
        }
        i8042.write(COMMAND, &[0xaa]);
        i8042.reset();
        assert_eq!(read_byte(&mut i8042, COMMAND), 0);
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
