//! How fast a device may work: so many bytes and so many operations in a second, and more at once after a rest.
//!
//! ```text
//!   loop:  limiter.ready().await        outside of the gate: a pause need not wait for it
//!          enter the gate
//!          limiter.admit(bytes)?        else leave the gate, and begin anew
//!          do it
//! ```
//! An operation is admitted as long as what was done in advance is less than the burst, and whole, however large it is: what
//! it takes too much, later ones wait for. So the mean rate holds, and nothing is refused for ever.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// Of one quantity, how much in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// How much in a second; 0 is no limit.
    pub per_second: u64,
    /// How much at once after a rest; 0 is what a tenth of a second allows.
    pub burst: u64,
}

/// What limits a device. The default limits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Bytes of data.
    pub bytes: Rate,
    /// Operations: a request of a disk, a packet of a network card.
    pub ops: Rate,
}

/// Holds a device to its [`RateLimit`]. May be shared by its queues.
#[derive(Debug)]
pub struct Limiter(Mutex<Buckets>);

#[derive(Debug)]
struct Buckets {
    bytes: Option<Bucket>,
    ops: Option<Bucket>,
}

/// A bucket that time empties at a constant rate.
#[derive(Debug)]
struct Bucket {
    per_second: u64,
    /// How long the whole burst takes at the mean rate.
    burst: Duration,
    /// When what was admitted so far would be done at the mean rate.
    done_at: Instant,
}

impl Limiter {
    /// A limiter after a rest.
    pub fn new(limit: RateLimit) -> Self {
        let now = Instant::now();
        Self(Mutex::new(Buckets {
            bytes: Bucket::new(limit.bytes, now),
            ops: Bucket::new(limit.ops, now),
        }))
    }

    /// Whether an operation of so many bytes may be done now. It counts as done if so.
    pub fn admit(&self, bytes: u64) -> bool {
        let mut buckets = self.lock();
        let now = Instant::now();
        if !buckets.has_room(now) {
            return false;
        }
        for (bucket, is_bytes) in buckets.iter_mut() {
            bucket.add(now, if is_bytes { bytes } else { 1 });
        }
        true
    }

    /// Whether the next operation is admitted, unless others come first: for those whose size is known once they are done.
    pub fn has_room(&self) -> bool {
        self.lock().has_room(Instant::now())
    }

    /// Waits until [`Limiter::admit`] admits something, unless others come first; how long it waited.
    pub async fn ready(&self) -> Duration {
        let mut waited = Duration::ZERO;
        loop {
            let wait = {
                let now = Instant::now();
                let mut buckets = self.lock();
                let waits = buckets.iter_mut().map(|(bucket, _)| bucket.wait(now));
                waits.max().unwrap_or_default()
            };
            if wait.is_zero() {
                return waited;
            }
            sleep(wait).await;
            waited = waited.saturating_add(wait);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    fn has_room(&mut self, now: Instant) -> bool {
        self.iter_mut()
            .all(|(bucket, _)| bucket.wait(now).is_zero())
    }

    /// Those there are, and whether each is the one of bytes.
    fn iter_mut(&mut self) -> impl Iterator<Item = (&mut Bucket, bool)> {
        let bytes = self.bytes.iter_mut().map(|bucket| (bucket, true));
        bytes.chain(self.ops.iter_mut().map(|bucket| (bucket, false)))
    }
}

impl Bucket {
    /// An empty one; `None` without a limit.
    fn new(rate: Rate, now: Instant) -> Option<Self> {
        let Rate { per_second, burst } = rate;
        let burst = match burst {
            0 => Duration::from_millis(100),
            burst => time_of(burst, per_second)?,
        };
        (per_second > 0).then_some(Self {
            per_second,
            burst,
            done_at: now,
        })
    }

    /// How long until something more is admitted.
    fn wait(&self, now: Instant) -> Duration {
        let ahead = self.done_at.saturating_duration_since(now);
        if ahead.is_zero() || ahead < self.burst {
            return Duration::ZERO;
        }
        // A little longer: less than the burst is to be left.
        ahead - self.burst + Duration::from_nanos(1)
    }

    fn add(&mut self, now: Instant, amount: u64) {
        let time = time_of(amount, self.per_second).unwrap_or_default();
        let begin = self.done_at.max(now);
        // What is beyond the clock's range is the end of time.
        self.done_at = begin.checked_add(time).unwrap_or(begin);
    }
}

/// How long `amount` takes; `None` if nothing is allowed.
fn time_of(amount: u64, per_second: u64) -> Option<Duration> {
    let nanos = u128::from(amount) * 1_000_000_000;
    let nanos = nanos.checked_div(per_second.into())?;
    Some(Duration::from_nanos(
        u64::try_from(nanos).unwrap_or(u64::MAX),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u64, burst: u64) -> Rate {
        Rate { per_second, burst }
    }

    /// How long `count` operations of `bytes` take, one after the other.
    async fn time(limiter: &Limiter, count: u32, bytes: u64) -> Duration {
        let begin = Instant::now();
        for _ in 0..count {
            while !limiter.admit(bytes) {
                limiter.ready().await;
            }
        }
        begin.elapsed()
    }

    /// Tokio's timer has a resolution of a millisecond.
    fn is_about(time: Duration, seconds: f64) -> bool {
        (time.as_secs_f64() - seconds).abs() < 0.005
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let limiter = Limiter::new(RateLimit::default());
        assert_eq!(time(&limiter, 1000, u64::MAX).await, Duration::ZERO);
        limiter.ready().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let bytes = rate(1000, 500);
        let limiter = Limiter::new(RateLimit {
            bytes,
            ..Default::default()
        });
        assert_eq!(time(&limiter, 5, 100).await, Duration::ZERO);
        assert!(!limiter.admit(0));
        // As soon as there is any room, an operation is admitted whole.
        let one = time(&limiter, 1, 100).await;
        assert!(is_about(one, 0.001), "{one:?}");
        for _ in 0..3 {
            let ten = time(&limiter, 10, 100).await;
            assert!(is_about(ten, 1.0), "{ten:?}");
        }
        // A rest that is longer than the burst is worth no more.
        sleep(Duration::from_secs(60)).await;
        assert_eq!(time(&limiter, 5, 100).await, Duration::ZERO);
        assert!(!limiter.admit(0));
    }

    #[tokio::test(start_paused = true)]
    async fn operations_count_whatever_their_size() {
        let ops = rate(100, 1);
        let limiter = Limiter::new(RateLimit {
            ops,
            ..Default::default()
        });
        assert_eq!(time(&limiter, 1, u64::MAX).await, Duration::ZERO);
        assert!(!limiter.admit(0));
        time(&limiter, 1, u64::MAX).await;
        let hundred = time(&limiter, 100, 0).await;
        assert!(is_about(hundred, 1.0), "{hundred:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_larger_than_the_burst_is_paid_for_later() {
        let bytes = rate(1000, 1);
        let ops = rate(10, 10);
        let limiter = Limiter::new(RateLimit { bytes, ops });
        assert_eq!(time(&limiter, 1, 5000).await, Duration::ZERO);
        let next = time(&limiter, 1, 0).await;
        assert!(is_about(next, 4.999), "{next:?}");
        // The stricter one counts: of the ten operations of its burst one is left for the next second.
        let twenty = time(&limiter, 30, 1).await;
        assert!(is_about(twenty, 2.0), "{twenty:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn several_share_it() {
        let ops = rate(10, 1);
        let limiter = std::sync::Arc::new(Limiter::new(RateLimit {
            ops,
            ..Default::default()
        }));
        let begin = Instant::now();
        let tasks = (0..4).map(|_| {
            let limiter = limiter.clone();
            tokio::spawn(async move { time(&limiter, 10, 0).await })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let all = begin.elapsed();
        assert!((3.79..3.91).contains(&all.as_secs_f64()), "{all:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn extremes_do_no_harm() {
        for (per_second, burst) in [(1, u64::MAX), (u64::MAX, 1), (u64::MAX, u64::MAX), (0, 5)] {
            let bytes = rate(per_second, burst);
            let limiter = Limiter::new(RateLimit { bytes, ops: bytes });
            assert!(limiter.admit(u64::MAX), "{per_second} {burst}");
            limiter.admit(u64::MAX);
        }
    }
}
