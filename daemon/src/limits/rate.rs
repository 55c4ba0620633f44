//! How often each caller may call: a token bucket for each.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::access::Peer;

/// Callers that have a bucket of their own; those who come while all of them are busy share one.
const CALLERS: usize = 4096;

/// The buckets of one daemon's callers.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    of_callers: HashMap<String, Bucket>,
    /// Of all others.
    shared: Option<Bucket>,
    /// When those that are full again were last forgotten.
    tidied: Option<Instant>,
}

/// How often at most that is done: it looks at each.
const TIDY: Duration = Duration::from_secs(1);

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
        let Buckets {
            of_callers,
            shared,
            tidied,
        } = &mut *buckets;
        let refilled = |bucket: &Bucket| {
            let passed = now.saturating_duration_since(bucket.time).as_secs_f64();
            (bucket.left + passed * rate).min(burst)
        };
        let is_time = || tidied.is_none_or(|last| now.saturating_duration_since(last) >= TIDY);
        if of_callers.len() >= CALLERS && !of_callers.contains_key(&who) && is_time() {
            of_callers.retain(|_, bucket| refilled(bucket) < burst);
            *tidied = Some(now);
        }
        let full = Bucket {
            left: burst,
            time: now,
        };
        let has_place = of_callers.len() < CALLERS || of_callers.contains_key(&who);
        let bucket = if has_place {
            of_callers.entry(who).or_insert(full)
        } else {
            shared.get_or_insert(full)
        };
        let left = refilled(bucket);
        let (left, answer) = if left >= 1.0 {
            (left - 1.0, Ok(()))
        } else {
            (left, Err(Duration::from_secs_f64((1.0 - left) / rate)))
        };
        *bucket = Bucket { left, time: now };
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
    fn callers_are_forgotten_when_they_have_all_again_and_until_then_others_share_a_bucket() {
        let rates = Rates::default();
        let start = Instant::now();
        let take = |who: &str, ms| {
            let now = start + Duration::from_millis(ms);
            rates.take_at(who.to_owned(), 1, 1, now)
        };
        for number in 0..CALLERS {
            take(&number.to_string(), 0).unwrap();
        }
        let known = || rates.0.lock().unwrap().of_callers.len();
        assert_eq!(take("other", 0), Ok(()));
        assert!(take("another", 0).is_err(), "they share one");
        assert!(take("0", 500).is_err(), "it has its own");
        assert_eq!(known(), CALLERS);
        assert_eq!(take("last", 1000), Ok(()));
        assert_eq!(known(), 1);
    }
}
