//! How long things took: a histogram.

use std::time::Duration;

use super::Counter;

/// The upper bounds of the buckets; a last one has what took longer.
pub const LATENCY_BOUNDS: [Duration; 10] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(10),
];

/// How long something took, each time.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [Counter; LATENCY_BOUNDS.len() + 1],
    sum_ns: Counter,
}

impl Latency {
    /// It took so long.
    pub fn observe(&self, time: Duration) {
        let place = LATENCY_BOUNDS.iter().position(|bound| time <= *bound);
        let bucket = self.buckets.get(place.unwrap_or(LATENCY_BOUNDS.len()));
        bucket.iter().for_each(|bucket| bucket.add(1));
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.add(nanos);
    }

    /// How many were within each bound and not within the one before, and at last, how many took longer.
    pub fn buckets(&self) -> [u64; LATENCY_BOUNDS.len() + 1] {
        self.buckets.each_ref().map(Counter::get)
    }

    /// All times together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_long_as_a_bound_is_within_it() {
        let latency = Latency::default();
        let nanosecond = Duration::from_nanos(1);
        for bound in LATENCY_BOUNDS {
            latency.observe(bound);
            latency.observe(bound + nanosecond);
        }
        assert_eq!(latency.buckets(), [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]);
        let bounds: Duration = LATENCY_BOUNDS.iter().sum();
        assert_eq!(latency.sum(), 2 * bounds + 10 * nanosecond);
    }
}
