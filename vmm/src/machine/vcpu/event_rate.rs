//! Holds back all vCPUs of a machine whose guest makes events without end, so that the history of others lasts: the log
//! that all machines share has no holes and forgets from its old end.
//!
//! Whoever raises what becomes an event, a vCPU or a device's thread, it is charged to the machine. A vCPU that leaves the
//! guest while more is charged than may be does not go back before its time has come.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::warn;

/// Events that a guest may cause in one go: a 64th of the events that a daemon keeps by default.
const BURST: u32 = 1024;
/// Time that each further one takes: with 8 a second, one guest needs two hours to fill that log.
const INTERVAL: Duration = Duration::from_millis(125);
const FULL: Duration = INTERVAL.saturating_mul(BURST);

/// What a machine's guest may still cause.
pub(in crate::machine) struct EventRate(Mutex<Charged>);

struct Charged {
    /// How many were charged.
    count: u64,
    /// When all of it will have been paid for.
    paid: Instant,
    /// Whether it was logged: once is enough.
    told: bool,
}

impl EventRate {
    pub(in crate::machine) fn new() -> Self {
        Self(Mutex::new(Charged {
            count: 0,
            paid: Instant::now(),
            told: false,
        }))
    }

    /// Charges what is new of the `count` events that the guest has caused so far. Returns until when its vCPUs are to be
    /// held back, if they are.
    pub(super) fn hold_until(&self, count: u64, now: Instant) -> Option<Instant> {
        let mut charged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = count.saturating_sub(charged.count);
        charged.count += new;
        let new = u32::try_from(new).unwrap_or(u32::MAX);
        charged.paid = charged.paid.max(now) + INTERVAL.saturating_mul(new);
        let unpaid = charged.paid.saturating_duration_since(now);
        let wait = unpaid.checked_sub(FULL).filter(|wait| !wait.is_zero())?;
        if !std::mem::replace(&mut charged.told, true) {
            warn!("the guest causes events without end: its vCPUs are held back");
        }
        Some(now + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_each_further_event_takes_its_time() {
        let rate = EventRate::new();
        let start = Instant::now();
        let burst = u64::from(BURST);
        assert_eq!(rate.hold_until(burst, start), None);
        // All that are charged together are paid for one after the other.
        let until = rate.hold_until(burst + 3, start);
        assert_eq!(until, Some(start + INTERVAL * 3));
        // Whoever asks without anything new has to wait as well.
        let later = start + INTERVAL;
        assert_eq!(rate.hold_until(burst + 3, later), until);
        let until = until.unwrap();
        assert_eq!(rate.hold_until(burst + 3, until), None);
        assert_eq!(
            rate.hold_until(burst + 4, until),
            Some(until + INTERVAL),
            "the rate holds from now on"
        );
    }

    #[test]
    fn who_keeps_quiet_may_cause_a_burst_again_and_no_more() {
        let rate = EventRate::new();
        let start = Instant::now();
        let burst = u64::from(BURST);
        assert!(rate.hold_until(2 * burst, start).is_some());
        let later = start + FULL * 10;
        assert_eq!(rate.hold_until(3 * burst, later), None);
        assert_eq!(
            rate.hold_until(3 * burst + 1, later),
            Some(later + INTERVAL)
        );
    }
}
