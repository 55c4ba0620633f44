//! The pvpanic port at 0x505 (QEMU `docs/specs/pvpanic`): how a guest tells that it panicked.
//!
//! One byte. Reading tells which events the host takes; writing raises one:
//!
//! | bit | event |
//! | --- | --- |
//! | 0 | the guest panicked; the other bits do not count then |
//! | 1 | the guest panicked and handles it itself (a crash kernel is loaded) |

use std::ops::RangeInclusive;

use super::{PioDevice, read_bytes, write_bytes};
use crate::runstate::{Request, Requests};

/// The port.
pub const PORTS: RangeInclusive<u16> = 0x505..=0x505;

const PANICKED: u8 = 0x01;
const CRASHLOADED: u8 = 0x02;
const EVENTS: u8 = PANICKED | CRASHLOADED;

/// The pvpanic device.
pub struct PvPanic {
    requests: Requests,
    unknown_logged: bool,
}

impl PvPanic {
    /// A device that reports to `requests`.
    pub fn new(requests: Requests) -> Self {
        Self {
            requests,
            unknown_logged: false,
        }
    }

    fn report(&mut self, events: u8) {
        if events & !EVENTS != 0 && !self.unknown_logged {
            self.unknown_logged = true;
            tracing::warn!(events, "pvpanic: the guest wrote unknown events");
        }
        if events & PANICKED != 0 {
            self.requests.raise(Request::GuestPanicked);
        } else if events & CRASHLOADED != 0 {
            self.requests.raise(Request::GuestCrashloaded);
        }
    }
}

impl PioDevice for PvPanic {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        read_bytes(offset, data, |_| EVENTS);
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        write_bytes(offset, data, |_, events| self.report(events));
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{access_everything, read_byte, requests},
        *,
    };
    use crate::runstate::{Event, GuestPanicAction};

    #[test]
    fn bit_0_comes_before_bit_1() {
        let requests = requests();
        let mut device = PvPanic::new(requests.clone());
        assert_eq!(read_byte(&mut device, 0), 0x03);
        for value in 0..=u8::MAX {
            device.write(0, &[value]);
            let expected: &[Request] = match value & 3 {
                0 => &[],
                2 => &[Request::GuestCrashloaded],
                _ => &[Request::GuestPanicked],
            };
            assert_eq!(requests.take_raised(), expected);
        }
        assert!(device.unknown_logged);
        device.reset();
        access_everything(&mut device, &PORTS);
    }

    #[test]
    fn the_events_are_emitted_at_once() {
        let requests = requests();
        let mut device = PvPanic::new(requests.clone());
        device.write(0, &[2]);
        device.write(0, &[3]);
        let events: Vec<Event> = requests.take_events().iter().map(|e| e.event).collect();
        let panicked = Event::GuestPanicked(GuestPanicAction::Poweroff);
        assert_eq!(events, [Event::GuestCrashloaded, panicked]);
        assert!(requests.stops_vcpu());
    }
}
