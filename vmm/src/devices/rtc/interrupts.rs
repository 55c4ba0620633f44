//! The three interrupts: periodic, alarm, update ended.

use super::{
    A_RATE, ALARM, HOUR_ALARM, MINUTE_ALARM, NS_PER_S, PERIODIC, Rtc, SECOND_ALARM, TICKS_PER_S,
    UPDATE, format::Alarm, time::seconds,
};
use crate::runstate::{Request, WakeupReason};

/// Flags, interrupts and the timer.
impl Rtc {
    /// Sets the flags of what has happened since the last look.
    pub(super) fn look(&mut self) {
        let now = self.now_ns();
        let before = std::mem::replace(&mut self.seen_ns, now);
        if now <= before {
            // The wall clock was set back: it counts on from there.
            return;
        }
        if let Some(period) = self.period_ticks()
            && ticks(before).div_euclid(period) != ticks(now).div_euclid(period)
        {
            self.flags |= PERIODIC;
        }
        if self.running() && seconds(before) < seconds(now) {
            self.flags |= UPDATE;
            let alarm = self.alarm().after(seconds(before));
            if alarm.is_some_and(|at| at <= seconds(now)) {
                self.go_off();
            }
        }
    }

    fn go_off(&mut self) {
        self.flags |= ALARM;
        if self.b & ALARM != 0 {
            (self.on_alarm)();
            self.requests.raise(Request::Wakeup(WakeupReason::Rtc));
        }
    }

    fn alarm(&self) -> Alarm {
        let [hour, minute, second] =
            [HOUR_ALARM, MINUTE_ALARM, SECOND_ALARM].map(|register| self.load(register));
        Alarm::new(self.format(), hour, minute, second)
    }

    pub(super) fn interrupts(&self) -> bool {
        self.flags & self.b & (PERIODIC | ALARM | UPDATE) != 0
    }

    /// The period of the periodic interrupt, in ticks of 32.768 kHz.
    fn period_ticks(&self) -> Option<i128> {
        if self.divider_held() {
            return None;
        }
        match self.a & A_RATE {
            0 => None,
            // Too fast for this time base: the chip takes these for 8 and 9.
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    /// Drives the interrupt line and arms the timer, as the registers say now.
    pub(super) fn update(&mut self) {
        let irq_high = self.interrupts();
        if irq_high != self.irq_high {
            self.irq_high = irq_high;
            self.irq.set(irq_high);
        }
        let deadline_ns = self.next_interrupt_ns().map(|at| {
            // Before the epoch of the wall clock means at once.
            u64::try_from((at - self.offset_ns).max(0)).unwrap_or(u64::MAX)
        });
        if deadline_ns != self.armed_ns {
            self.armed_ns = deadline_ns;
            match deadline_ns {
                Some(deadline_ns) => self.timer.arm(deadline_ns),
                None => self.timer.disarm(),
            }
        }
    }

    /// The guest's time at which the next enabled interrupt comes. A periodic or update interrupt that the guest has
    /// not read yet does not come again; the alarm does, because it also wakes.
    fn next_interrupt_ns(&self) -> Option<i128> {
        let enabled = |interrupt| self.b & interrupt != 0;
        let unread = |interrupt| self.flags & interrupt != 0;
        let second = seconds(self.seen_ns);
        let periodic = self
            .period_ticks()
            .filter(|_| enabled(PERIODIC) && !unread(PERIODIC))
            .map(|period| {
                let tick = (ticks(self.seen_ns).div_euclid(period) + 1) * period;
                (tick * NS_PER_S + TICKS_PER_S - 1).div_euclid(TICKS_PER_S)
            });
        let update = (self.running() && enabled(UPDATE) && !unread(UPDATE))
            .then(|| (i128::from(second) + 1) * NS_PER_S);
        let alarm = (self.running() && enabled(ALARM))
            .then(|| self.alarm().after(second))
            .flatten()
            .map(|at| i128::from(at) * NS_PER_S);
        [periodic, update, alarm].into_iter().flatten().min()
    }
}

/// Whole ticks of 32.768 kHz of a time in nanoseconds.
fn ticks(ns: i128) -> i128 {
    (ns * TICKS_PER_S).div_euclid(NS_PER_S)
}
