//! The keyboard controller, without a keyboard and without an auxiliary port, as far as it resets the machine (Intel 8042
//! datasheet, "pulse output port") and says what is not there (IBM PS/2 technical reference, "keyboard and auxiliary device
//! controller").
//!
//! | port | read | write |
//! | --- | --- | --- |
//! | 0x60 | the answer to the last command, once; 0 if there is none | the byte that a command waits for; else to no keyboard |
//! | 0x61..=0x63 | 0xff: not the controller's | ignored |
//! | 0x64 | bit 0: there is an answer; 2: the configuration's; 4: not locked; ready for a command | command |
//!
//! | command | answer |
//! | --- | --- |
//! | 0x20, read the configuration | it |
//! | 0x60, write it: the next byte | none |
//! | 0xa7, 0xa8, auxiliary port off, on: bit 5 of the configuration | none |
//! | 0xa9, auxiliary interface test; 0xab, keyboard interface test | 0x02, the clock line is stuck high |
//! | 0xaa, self-test, which sets bit 2 of the configuration | 0x55, passed |
//! | 0xad, 0xae, keyboard off, on: bit 4 of the configuration | none |
//! | 0xc0, read the input port | 0x80, not locked |
//! | 0xd0, read the output port | 0x03: no reset, A20 |
//! | 0xd1, write it: the next byte | none; resets if its bit 0 is 0 |
//! | 0xd2, 0xd3, the next byte as if of keyboard, of auxiliary port | that byte, as the keyboard's |
//! | 0xf0..=0xff, pulse those lines of the output port low whose bit is 0 | none |
//! | others | none |
//!
//! Line 0 is the reset line of the CPU, so every even pulse resets; software uses 0xfe. Who gets no answer waits for half a
//! second, of which a guest that is emulated makes two: SeaBIOS for the tests, Linux without ACPI for the configuration and
//! for what the auxiliary port would send back. There are no interrupts: nothing comes but answers, which are there at
//! once. Around `vm_superio::I8042Device`, which knows 0xfe alone.

use std::{convert::Infallible, ops::RangeInclusive};

use vm_superio::{I8042Device, Trigger};

use super::{PioDevice, read_bytes, write_bytes};
use crate::runstate::{Request, Requests, ShutdownCause};

/// The ports of the keyboard controller, and those between them.
pub const PORTS: RangeInclusive<u16> = 0x60..=0x64;

const DATA: u16 = 0;
const COMMAND: u16 = 4;

// Of the status, and the configuration's bits.
const OUTPUT_FULL: u8 = 1 << 0;
const SYSTEM: u8 = 1 << 2;
const NOT_LOCKED: u8 = 1 << 4;
const KEYBOARD_OFF: u8 = 1 << 4;
const AUXILIARY_OFF: u8 = 1 << 5;

const READ_CONFIGURATION: u8 = 0x20;
const WRITE_CONFIGURATION: u8 = 0x60;
const DISABLE_AUXILIARY: u8 = 0xa7;
const ENABLE_AUXILIARY: u8 = 0xa8;
const AUXILIARY_TEST: u8 = 0xa9;
const SELF_TEST: u8 = 0xaa;
const KEYBOARD_TEST: u8 = 0xab;
const DISABLE_KEYBOARD: u8 = 0xad;
const ENABLE_KEYBOARD: u8 = 0xae;
const READ_INPUT_PORT: u8 = 0xc0;
const READ_OUTPUT_PORT: u8 = 0xd0;
const WRITE_OUTPUT_PORT: u8 = 0xd1;
const WRITE_KEYBOARD_OUTPUT: u8 = 0xd2;
const WRITE_AUXILIARY_OUTPUT: u8 = 0xd3;
const PULSE: u8 = 0xf0;

const SELF_TEST_PASSED: u8 = 0x55;
const CLOCK_STUCK_HIGH: u8 = 0x02;
const INPUT_PORT: u8 = 0x80;
const RESET_LINE: u8 = 1 << 0;
const A20_LINE: u8 = 1 << 1;
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
    configuration: u8,
    answer: Option<u8>,
    /// The command whose byte is the next that is written.
    waiting: Option<u8>,
}

impl I8042 {
    /// A controller that resets by `requests`.
    pub fn new(requests: Requests) -> Self {
        Self {
            controller: I8042Device::new(ResetLine(requests)),
            configuration: KEYBOARD_OFF | AUXILIARY_OFF,
            answer: None,
            waiting: None,
        }
    }

    fn command(&mut self, command: u8) {
        // One that comes instead of the byte is a new beginning.
        self.waiting = None;
        match command {
            READ_CONFIGURATION => self.answer = Some(self.configuration),
            DISABLE_AUXILIARY => self.configuration |= AUXILIARY_OFF,
            ENABLE_AUXILIARY => self.configuration &= !AUXILIARY_OFF,
            SELF_TEST => {
                self.configuration |= SYSTEM;
                self.answer = Some(SELF_TEST_PASSED);
            }
            AUXILIARY_TEST | KEYBOARD_TEST => self.answer = Some(CLOCK_STUCK_HIGH),
            DISABLE_KEYBOARD => self.configuration |= KEYBOARD_OFF,
            ENABLE_KEYBOARD => self.configuration &= !KEYBOARD_OFF,
            READ_INPUT_PORT => self.answer = Some(INPUT_PORT),
            READ_OUTPUT_PORT => self.answer = Some(RESET_LINE | A20_LINE),
            WRITE_CONFIGURATION
            | WRITE_OUTPUT_PORT
            | WRITE_KEYBOARD_OUTPUT
            | WRITE_AUXILIARY_OUTPUT => self.waiting = Some(command),
            PULSE.. if command & RESET_LINE == 0 => self.pulse_reset_line(),
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        match self.waiting.take() {
            Some(WRITE_CONFIGURATION) => self.configuration = value,
            Some(WRITE_OUTPUT_PORT) if value & RESET_LINE == 0 => self.pulse_reset_line(),
            // Without the auxiliary port's mark: who looks for that port sees by it that there is none.
            Some(WRITE_KEYBOARD_OUTPUT | WRITE_AUXILIARY_OUTPUT) => self.answer = Some(value),
            _ => {}
        }
    }

    fn pulse_reset_line(&mut self) {
        let Ok(()) = self.controller.write(COMMAND as u8, PULSE_RESET_LINE);
    }
}

impl PioDevice for I8042 {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        read_bytes(offset, data, |register| match register {
            DATA => self.answer.take().unwrap_or(0),
            COMMAND => {
                let full = self.answer.map_or(0, |_| OUTPUT_FULL);
                let system = self.configuration & SYSTEM;
                self.controller.read(COMMAND as u8) | NOT_LOCKED | system | full
            }
            _ => 0xff,
        });
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        write_bytes(offset, data, |register, value| match register {
            DATA => self.data(value),
            COMMAND => self.command(value),
            _ => {}
        });
    }

    fn reset(&mut self) {
        self.configuration = KEYBOARD_OFF | AUXILIARY_OFF;
        self.answer = None;
        self.waiting = None;
    }
}

#[cfg(test)]
mod tests;
