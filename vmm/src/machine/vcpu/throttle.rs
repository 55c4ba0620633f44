//! Holds back a guest that raises requests or arms timers without end, so that its main loop leaves time for others. What
//! becomes of them in the log is bounded by `event_rate`.

use std::time::{Duration, Instant};

/// Requests and timers a vCPU may raise and arm in one go.
const BURST: u32 = 1024;
/// Those it may raise and arm in a second, on average.
const PER_SECOND: u32 = 512;

/// A token bucket for the requests of one vCPU.
pub(super) struct Throttle {
    tokens: u32,
    filled: Instant,
}

impl Throttle {
    pub(super) fn new() -> Self {
        Self {
            tokens: BURST,
            filled: Instant::now(),
        }
    }

    /// Takes a token; if there is none, returns when there will be one.
    pub(super) fn take(&mut self, now: Instant) -> Option<Instant> {
        const INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / PER_SECOND as u64);
        let new = now.saturating_duration_since(self.filled).as_nanos() / INTERVAL.as_nanos();
        let new = u32::try_from(new).unwrap_or(BURST).min(BURST);
        if new > 0 {
            self.tokens = self.tokens.saturating_add(new).min(BURST);
            self.filled = now;
        }
        match self.tokens.checked_sub(1) {
            Some(rest) => {
                self.tokens = rest;
                None
            }
            None => Some(now + INTERVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_the_rate_holds() {
        let mut throttle = Throttle::new();
        let start = throttle.filled;
        for n in 0..BURST {
            assert_eq!(throttle.take(start), None, "request {n}");
        }
        let free = throttle.take(start).expect("the burst is over");
        assert!(free > start);
        assert_eq!(throttle.take(free), None);
        assert!(throttle.take(free).is_some());
        let later = free + Duration::from_secs(1);
        let granted = (0..BURST)
            .filter(|_| throttle.take(later).is_none())
            .count();
        assert_eq!(granted, PER_SECOND as usize);
    }
}
