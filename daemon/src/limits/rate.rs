//! How often each caller may call: a token bucket for each.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::access::Peer;

/// Callers that are remembered; beyond them, those whose buckets are full again are forgotten.
const CALLERS: usize = 4096;

/// The buckets of one daemon's callers.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<HashMap<String, Bucket>>);

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Calls that are left, as of `time`.
    left: f64,
    time: Instant,
}

impl Rates {
    /// Takes one call of `peer`, who gets `rate` each second and may have `burst`.
    pub(super) fn take(&self, peer: &Peer, rate: u32, burst: u32) -> Result<(), Duration> {
        self.take_at(peer.identity(), rate, burst, Instant::now())
    }

    fn take_at(&self, who: String, rate: u32, burst: u32, now: Instant) -> Result<(), Duration> {
        // A rate of 0 would let nobody in, ever.
        let (rate, burst) = (f64::from(rate.max(1)), f64::from(burst.max(1)));
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refilled = |bucket: &Bucket| {
            let passed = now.saturating_duration_since(bucket.time).as_secs_f64();
            (bucket.left + passed * rate).min(burst)
        };
        if buckets.len() >= CALLERS {
            buckets.retain(|_, bucket| refilled(bucket) < burst);
        }
        let left = buckets.get(&who).map_or(burst, refilled);
        let (left, answer) = if left >= 1.0 {
            (left - 1.0, Ok(()))
        } else {
            (left, Err(Duration::from_secs_f64((1.0 - left) / rate)))
        };
        buckets.insert(who, Bucket { left, time: now });
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_a_burst_and_then_its_rate() {
        let rates = Rates::default();
        let start = Instant::now();
        let take = |who: &str, ms| {
            let now = start + Duration::from_millis(ms);
            rates.take_at(who.to_owned(), 2, 3, now)
        };
        for _ in 0..3 {
            assert_eq!(take("a", 0), Ok(()));
        }
        assert_eq!(take("a", 0), Err(Duration::from_millis(500)));
        assert_eq!(take("b", 0), Ok(()));
        // A refused call costs nothing.
        assert_eq!(take("a", 250), Err(Duration::from_millis(250)));
        assert_eq!(take("a", 500), Ok(()));
        assert!(take("a", 500).is_err());
        // It gets no more than the burst.
        for _ in 0..3 {
            assert_eq!(take("a", 60_000), Ok(()));
        }
        assert!(take("a", 60_000).is_err());
    }

    #[test]
    fn callers_that_have_all_again_are_forgotten() {
        let rates = Rates::default();
        let start = Instant::now();
        for number in 0..CALLERS {
            rates.take_at(number.to_string(), 1, 1, start).unwrap();
        }
        let later = start + Duration::from_secs(1);
        rates.take_at("last".to_owned(), 1, 1, later).unwrap();
        assert_eq!(rates.0.lock().unwrap().len(), 1);
    }
}
