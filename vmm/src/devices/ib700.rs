//! The ib700 watchdog (iBASE IB700 board, as Linux's `ib700wdt` drives it), on the virtual clock.
//!
//! | port | write |
//! | --- | --- |
//! | 0x441 | any value: disarm |
//! | 0x442 | not the watchdog's |
//! | 0x443 | arm anew: the low four bits count down from 30 s in steps of 2 s, so 0 is 30 s, 14 is 2 s, 15 is at once |
//!
//! Nothing can be read. It fires once and is disarmed then.

use std::ops::RangeInclusive;

use super::{
    PioDevice,
    timer::{TimedDevice, Timer},
    write_bytes,
};
use crate::runstate::{Request, Requests};

/// The ports of the watchdog, and the one between them.
pub const PORTS: RangeInclusive<u16> = 0x441..=0x443;

const DISARM: u16 = 0;
const ARM: u16 = 2;

const NS_PER_S: u64 = 1_000_000_000;

/// The ib700 watchdog.
pub struct Ib700 {
    requests: Requests,
    timer: Timer,
    /// When it fires, in nanoseconds of the virtual clock.
    deadline_ns: Option<u64>,
}

impl Ib700 {
    /// A disarmed watchdog that fires into `requests`. `timer` is [`super::timer::TimerId::Watchdog`].
    pub fn new(requests: Requests, timer: Timer) -> Self {
        Self {
            requests,
            timer,
            deadline_ns: None,
        }
    }

    fn arm(&mut self, value: u8) {
        let timeout_s = 30 - 2 * u64::from(value & 0x0f);
        let deadline_ns = self.timer.now_ns().saturating_add(timeout_s * NS_PER_S);
        self.deadline_ns = Some(deadline_ns);
        self.timer.arm(deadline_ns);
    }

    fn disarm(&mut self) {
        self.deadline_ns = None;
        self.timer.disarm();
    }
}

impl PioDevice for Ib700 {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        write_bytes(offset, data, |register, value| match register {
            DISARM => self.disarm(),
            ARM => self.arm(value),
            _ => {}
        });
    }

    fn reset(&mut self) {
        self.disarm();
    }
}

impl TimedDevice for Ib700 {
    fn expire(&mut self) {
        // The guest may have armed it anew or disarmed it while the expiry was on its way.
        let come = self
            .deadline_ns
            .is_some_and(|deadline_ns| deadline_ns <= self.timer.now_ns());
        if come {
            self.disarm();
            self.requests.raise(Request::WatchdogExpired);
        } else if let Some(deadline_ns) = self.deadline_ns {
            self.timer.arm(deadline_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{
            clock::manual::ManualClock,
            testing::{access_at_random, access_everything, read_byte, requests, timer},
            timer::{TimerId, Timers},
        },
        *,
    };

    fn watchdog() -> (Ib700, Requests, Arc<ManualClock>, Arc<Timers>) {
        let (timer, clock, timers) = timer(TimerId::Watchdog);
        let requests = requests();
        let device = Ib700::new(requests.clone(), timer);
        (device, requests, clock, timers)
    }

    #[test]
    fn the_low_bits_choose_the_timeout() {
        let (mut device, _, clock, timers) = watchdog();
        clock.advance(5);
        for (value, seconds) in [(0, 30), (1, 28), (14, 2), (15, 0), (0xf0, 30), (0xfe, 2)] {
            device.write(2, &[value]);
            let deadline = timers.deadline(TimerId::Watchdog);
            assert_eq!(deadline, Some(5 + seconds * NS_PER_S));
        }
        device.write(0, &[0]);
        assert_eq!(timers.deadline(TimerId::Watchdog), None);
        device.write(2, &[14]);
        device.write(1, &[0]);
        assert!(timers.deadline(TimerId::Watchdog).is_some());
        device.reset();
        assert_eq!(timers.deadline(TimerId::Watchdog), None);
        assert_eq!(read_byte(&mut device, 0), 0xff);
    }

    #[test]
    fn it_fires_once_and_not_early() {
        let (mut device, requests, clock, timers) = watchdog();
        device.write(2, &[14]);
        clock.advance(2 * NS_PER_S - 1);
        device.expire();
        assert_eq!(requests.take_raised(), []);
        assert_eq!(timers.deadline(TimerId::Watchdog), Some(2 * NS_PER_S));
        clock.advance(1);
        device.expire();
        assert_eq!(requests.take_raised(), [Request::WatchdogExpired]);
        assert_eq!(timers.deadline(TimerId::Watchdog), None);
        device.expire();
        assert_eq!(requests.take_raised(), []);
    }

    #[test]
    fn hostile_accesses_are_harmless() {
        let (mut device, _, clock, _) = watchdog();
        access_everything(&mut device, &PORTS);
        clock.advance(u64::MAX - 1);
        access_at_random(&mut device, &PORTS, 1000, |_, _| {});
        device.expire();
    }
}
