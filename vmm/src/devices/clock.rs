//! The clocks that devices count on.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A clock, in nanoseconds from a start of its own.
pub trait Clock: Send + Sync {
    /// Nanoseconds since the clock's start.
    fn now_ns(&self) -> u64;
}

/// The host's wall clock: nanoseconds since 1970-01-01 00:00:00 UTC. It goes on while the guest is stopped, and may
/// jump when the host's time is set.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock;

impl Clock for WallClock {
    fn now_ns(&self) -> u64 {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The guest's virtual clock: it starts at 0, stopped, and stands still while ticks are disabled (spec, section 4.5).
#[derive(Debug, Default)]
pub struct VirtualClock {
    ticks: Mutex<Ticks>,
}

#[derive(Debug, Default)]
struct Ticks {
    /// What had passed when ticks were last enabled.
    before: Duration,
    /// When that was; `None` while they are disabled.
    enabled_at: Option<Instant>,
}

impl Ticks {
    fn now(&self) -> Duration {
        self.before + self.enabled_at.map_or(Duration::ZERO, |at| at.elapsed())
    }
}

impl VirtualClock {
    /// Lets the clock run or stand still. Idempotent.
    pub fn set_ticks(&self, enabled: bool) {
        let mut ticks = self.lock();
        ticks.before = ticks.now();
        ticks.enabled_at = enabled.then(Instant::now);
    }

    fn lock(&self) -> MutexGuard<'_, Ticks> {
        self.ticks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for VirtualClock {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.lock().now().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
pub(crate) mod manual {
    //! A clock that moves when a test says so.

    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Clock;

    /// Stands still until [`ManualClock::advance`].
    #[derive(Default)]
    pub(crate) struct ManualClock(AtomicU64);

    impl ManualClock {
        pub(crate) fn advance(&self, ns: u64) {
            self.0.fetch_add(ns, Ordering::Relaxed);
        }
    }

    impl Clock for ManualClock {
        fn now_ns(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }
}
