//! The time registers, and the control registers as far as they set and stop the time.

use super::{
    A_UIP, B_SET, B_UIE, C_IRQ, CENTURY, DAY, HOUR, MINUTE, MONTH, NS_PER_S, Rtc, SECOND,
    TICKS_PER_S, TIME_REGISTERS, WEEKDAY, YEAR, calendar::DateTime, format::Format,
};

/// How long before an update UIP is set: 244 us.
const UIP_NS: i128 = 8 * NS_PER_S / TICKS_PER_S;

/// The time registers.
impl Rtc {
    pub(super) fn time_register(&self, register: u8, time: &DateTime) -> u8 {
        let format = self.format();
        let of_hundred = |number: i64| u8::try_from(number.rem_euclid(100)).unwrap_or(0);
        match register {
            SECOND => format.encode(time.second),
            MINUTE => format.encode(time.minute),
            HOUR => format.encode_hour(time.hour),
            WEEKDAY => format.encode(time.weekday()),
            DAY => format.encode(time.day),
            MONTH => format.encode(time.month),
            YEAR => format.encode(of_hundred(time.year)),
            _ => format.encode(of_hundred(time.year.div_euclid(100))),
        }
    }

    /// Copies the time into the registers, which then stand still.
    fn latch_time(&mut self) {
        let time = DateTime::at(seconds(self.now_ns()));
        for register in TIME_REGISTERS {
            self.store(register, self.time_register(register, &time));
        }
    }

    /// Sets the time to what the registers hold in `format`. The fraction of the second goes on.
    fn set_time(&mut self, format: Format) {
        let number = |register| format.decode(self.load(register));
        let time = DateTime {
            year: i64::from(number(CENTURY) % 100) * 100 + i64::from(number(YEAR)),
            month: number(MONTH),
            day: number(DAY),
            hour: format.decode_hour(self.load(HOUR)),
            minute: number(MINUTE),
            second: number(SECOND),
        };
        let difference_s = i128::from(time.seconds()) - i128::from(seconds(self.now_ns()));
        self.offset_ns += difference_s * NS_PER_S;
    }

    pub(super) fn write_time(&mut self, register: u8, value: u8) {
        if !self.running() {
            self.store(register, value);
            return;
        }
        self.look();
        self.latch_time();
        self.store(register, value);
        self.set_time(self.format());
        self.seen_ns = self.now_ns();
        self.update();
    }
}

/// Registers A to C.
impl Rtc {
    pub(super) fn read_a(&self) -> u8 {
        let updates_soon = self.now_ns().rem_euclid(NS_PER_S) >= NS_PER_S - UIP_NS;
        if self.running() && updates_soon {
            self.a | A_UIP
        } else {
            self.a
        }
    }

    pub(super) fn read_c(&mut self) -> u8 {
        self.look();
        let irq = if self.interrupts() { C_IRQ } else { 0 };
        let value = self.flags | irq;
        self.flags = 0;
        self.update();
        value
    }

    /// Writes registers A and B and does what their change means for the time.
    pub(super) fn write_control(&mut self, a: u8, b: u8) {
        self.look();
        let (was_running, was_held) = (self.running(), self.divider_held());
        if was_running {
            self.latch_time();
        }
        let format = self.format();
        self.a = a & !A_UIP;
        // Setting the time stops the update interrupt.
        self.b = if b & B_SET != 0 { b & !B_UIE } else { b };
        if was_held && !self.divider_held() {
            // The first update comes half a second after the divider is let go.
            self.offset_ns += NS_PER_S / 2 - self.now_ns().rem_euclid(NS_PER_S);
        }
        if !was_running && self.running() {
            // As in QEMU the registers hold what register B said until now.
            self.set_time(format);
        }
        self.seen_ns = self.now_ns();
        self.update();
    }
}

/// Whole seconds of a time in nanoseconds.
pub(super) fn seconds(ns: i128) -> i64 {
    // Fits: the wall clock has 64 bits of nanoseconds, the offset at most 10,000 years.
    i64::try_from(ns.div_euclid(NS_PER_S)).unwrap_or(i64::MAX)
}
