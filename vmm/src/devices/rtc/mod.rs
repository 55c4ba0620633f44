//! The real-time clock and its battery-backed memory (Motorola MC146818A datasheet), on the host's wall clock.
//!
//! | port | what |
//! | --- | --- |
//! | 0x70 | write: the index, 7 bits; bit 7 (NMI mask) does not count. Reads 0xff |
//! | 0x71 | the register at the index |
//!
//! | index | register |
//! | --- | --- |
//! | 0x00, 0x02, 0x04 | second, minute, hour |
//! | 0x01, 0x03, 0x05 | their alarms; 0xc0 and above means any |
//! | 0x06 to 0x09, 0x32 | weekday (1 is Sunday), day, month, year, century |
//! | 0x0a (A) | UIP 7, divider 4..=6, periodic rate 0..=3 |
//! | 0x0b (B) | SET 7, PIE 6, AIE 5, UIE 4, SQWE 3, binary 2, 24 hours 1, DSE 0 (kept, without effect) |
//! | 0x0c (C) | IRQF 7, PF 6, AF 5, UF 4; reading clears it and lowers IRQ 8 |
//! | 0x0d (D) | 0x80: the battery is good |
//! | others | memory; what the machine writes there is in `cmos.rs` |
//!
//! The guest's time is the wall clock plus an offset, which changes when the guest sets the time. It is not counted:
//! what has happened since the last look is computed when the guest or the timer looks. The timer is armed only for
//! interrupts that are enabled.

mod calendar;
mod cmos;
mod format;
mod interrupts;
mod time;

use std::{ops::RangeInclusive, sync::Arc};

use self::{calendar::DateTime, format::Format, time::seconds};
use super::{
    IrqLine, PioDevice, read_bytes,
    timer::{TimedDevice, Timer},
    write_bytes,
};
use crate::runstate::Requests;

/// The index and data ports.
pub const PORTS: RangeInclusive<u16> = 0x70..=0x71;
/// The clock's interrupt.
pub const IRQ: u32 = 8;

const SECOND: u8 = 0x00;
const SECOND_ALARM: u8 = 0x01;
const MINUTE: u8 = 0x02;
const MINUTE_ALARM: u8 = 0x03;
const HOUR: u8 = 0x04;
const HOUR_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REG_A: u8 = 0x0a;
const REG_B: u8 = 0x0b;
const REG_C: u8 = 0x0c;
const REG_D: u8 = 0x0d;
const SHUTDOWN_STATUS: u8 = 0x0f;
const CENTURY: u8 = 0x32;
const TIME_REGISTERS: [u8; 8] = [SECOND, MINUTE, HOUR, WEEKDAY, DAY, MONTH, YEAR, CENTURY];

const A_UIP: u8 = 0x80;
const A_DIVIDER: u8 = 0x70;
/// The highest divider that counts; above it the clock is tested or held in reset.
const A_DIVIDER_COUNTS: u8 = 0x20;
const A_RATE: u8 = 0x0f;
const A_DEFAULT: u8 = 0x26;

const B_SET: u8 = 0x80;
const B_UIE: u8 = 0x10;
const B_SQWE: u8 = 0x08;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;

/// The flags in register C, at the place of their enable bits in register B.
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE: u8 = 0x10;
const C_IRQ: u8 = 0x80;

/// What the boot firmware looks for after S3.
const RESUME_FROM_S3: u8 = 0xfe;

const NS_PER_S: i128 = 1_000_000_000;
const TICKS_PER_S: i128 = 32_768;

/// The real-time clock.
pub struct Rtc {
    requests: Requests,
    timer: Timer,
    irq: Arc<dyn IrqLine>,
    on_alarm: Box<dyn Fn() + Send>,
    index: u8,
    /// The memory. The time registers in it count only while the time stands still.
    cmos: [u8; 128],
    a: u8,
    b: u8,
    flags: u8,
    /// The guest's time minus the wall clock's, in nanoseconds.
    offset_ns: i128,
    /// The guest's time up to which the flags are computed.
    seen_ns: i128,
    /// What the timer is armed for, in nanoseconds of the wall clock.
    armed_ns: Option<u64>,
    irq_high: bool,
}

impl Rtc {
    /// A clock that shows the wall clock's time in UTC. `timer` is [`super::timer::TimerId::Rtc`]; `on_alarm` is called
    /// each time the alarm interrupts, from the thread that found out, with the clock locked.
    pub fn new(
        requests: Requests,
        timer: Timer,
        irq: Arc<dyn IrqLine>,
        on_alarm: Box<dyn Fn() + Send>,
    ) -> Self {
        let mut rtc = Self {
            requests,
            timer,
            irq,
            on_alarm,
            index: 0,
            cmos: [0; 128],
            a: A_DEFAULT,
            b: B_24_HOURS,
            flags: 0,
            offset_ns: 0,
            seen_ns: 0,
            armed_ns: None,
            irq_high: false,
        };
        rtc.seen_ns = rtc.now_ns();
        rtc
    }

    /// The guest goes to S3: leaves the mark for the firmware that it is to resume.
    pub fn suspended(&mut self) {
        self.store(SHUTDOWN_STATUS, RESUME_FROM_S3);
    }

    /// The guest's time, in nanoseconds since the epoch. It goes on while the registers stand still.
    fn now_ns(&self) -> i128 {
        i128::from(self.timer.now_ns()) + self.offset_ns
    }

    fn format(&self) -> Format {
        Format {
            binary: self.b & B_BINARY != 0,
            hours_24: self.b & B_24_HOURS != 0,
        }
    }

    fn divider_held(&self) -> bool {
        self.a & A_DIVIDER > A_DIVIDER_COUNTS
    }

    /// Whether the time registers follow the time.
    fn running(&self) -> bool {
        self.b & B_SET == 0 && !self.divider_held()
    }

    fn load(&self, register: u8) -> u8 {
        self.cmos
            .get(usize::from(register))
            .copied()
            .unwrap_or(0xff)
    }

    fn store(&mut self, register: u8, value: u8) {
        if let Some(cell) = self.cmos.get_mut(usize::from(register)) {
            *cell = value;
        }
    }
}

impl PioDevice for Rtc {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        read_bytes(offset, data, |port| {
            if port != 1 {
                return 0xff;
            }
            match self.index {
                REG_A => self.read_a(),
                REG_B => self.b,
                REG_C => self.read_c(),
                REG_D => 0x80,
                index if TIME_REGISTERS.contains(&index) && self.running() => {
                    self.time_register(index, &DateTime::at(seconds(self.now_ns())))
                }
                index => self.load(index),
            }
        });
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        write_bytes(offset, data, |port, value| match (port, self.index) {
            (0, _) => self.index = value & 0x7f,
            (1, REG_A) => self.write_control(value, self.b),
            (1, REG_B) => self.write_control(self.a, value),
            (1, REG_C | REG_D) => {}
            (1, index @ (SECOND_ALARM | MINUTE_ALARM | HOUR_ALARM)) => {
                self.look();
                self.store(index, value);
                self.update();
            }
            (1, index) if TIME_REGISTERS.contains(&index) => self.write_time(index, value),
            (1, index) => self.store(index, value),
            _ => {}
        });
    }

    /// The battery keeps the memory, the time and the alarm; the interrupts are off.
    fn reset(&mut self) {
        self.b &= !(PERIODIC | ALARM | UPDATE | B_SQWE);
        self.flags = 0;
        self.seen_ns = self.now_ns();
        // The interrupt controllers may have forgotten the line: drive it whatever it was.
        self.irq_high = false;
        self.irq.set(false);
        self.update();
    }
}

impl TimedDevice for Rtc {
    fn expire(&mut self) {
        // Armed anew below, also if the wall clock was set back and nothing has come.
        self.timer.disarm();
        self.armed_ns = None;
        self.look();
        self.update();
    }
}

#[cfg(test)]
mod tests;
