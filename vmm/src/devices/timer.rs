//! Timers: how a device asks to be called at a time.
//!
//! ```text
//!   device --- arm(deadline) ---> Timers --- wake ---> the machine's owner sleeps until the next deadline
//!   device <-- expire ---------------------------------- and asks Timers which have come
//! ```

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::clock::Clock;

/// Whose timer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerId {
    /// The real-time clock's alarm, update and periodic interrupts; on the wall clock.
    Rtc,
    /// The overflow of the ACPI PM timer; on the virtual clock.
    PmTimer,
    /// The ib700 watchdog; on the virtual clock.
    Watchdog,
}

impl TimerId {
    /// Every timer of a machine.
    pub const ALL: [Self; 3] = [Self::Rtc, Self::PmTimer, Self::Watchdog];

    /// Whether it counts on the virtual clock, whose timers are held while the vCPUs are paused.
    pub const fn is_virtual(self) -> bool {
        !matches!(self, Self::Rtc)
    }
}

/// The deadlines of one machine's timers, each in nanoseconds of its own clock.
pub struct Timers {
    deadlines: Mutex<[Option<u64>; TimerId::ALL.len()]>,
    armed: AtomicU64,
    changed: Box<dyn Fn() + Send + Sync>,
}

impl Timers {
    /// No timer armed. `changed` is called, from the device's thread, each time one is armed.
    pub fn new(changed: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            deadlines: Mutex::default(),
            armed: AtomicU64::new(0),
            changed: Box::new(changed),
        })
    }

    /// When `id` is to expire, in nanoseconds of its clock.
    pub fn deadline(&self, id: TimerId) -> Option<u64> {
        self.lock().get(id as usize).copied().flatten()
    }

    /// How often a timer was armed so far.
    pub fn armed(&self) -> u64 {
        self.armed.load(Ordering::Relaxed)
    }

    fn set(&self, id: TimerId, deadline: Option<u64>) {
        if let Some(slot) = self.lock().get_mut(id as usize) {
            *slot = deadline;
        }
        if deadline.is_some() {
            self.armed.fetch_add(1, Ordering::Relaxed);
            (self.changed)();
        }
    }

    fn lock(&self) -> MutexGuard<'_, [Option<u64>; TimerId::ALL.len()]> {
        self.deadlines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One device's timer and the clock it counts on. It stays armed until it is armed anew or disarmed.
pub struct Timer {
    id: TimerId,
    timers: Arc<Timers>,
    clock: Arc<dyn Clock>,
}

impl Timer {
    /// The timer `id` of `timers`.
    pub fn new(id: TimerId, timers: Arc<Timers>, clock: Arc<dyn Clock>) -> Self {
        Self { id, timers, clock }
    }

    /// The clock's time.
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// Expires at `deadline_ns` of the clock, at once if that has passed.
    pub fn arm(&self, deadline_ns: u64) {
        self.timers.set(self.id, Some(deadline_ns));
    }

    /// Never expires.
    pub fn disarm(&self) {
        self.timers.set(self.id, None);
    }
}

/// A device that has a [`Timer`].
pub trait TimedDevice {
    /// The timer's deadline has come. The device arms the timer anew or disarms it.
    fn expire(&mut self);
}
