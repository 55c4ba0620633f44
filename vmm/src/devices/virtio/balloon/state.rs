//! What the owner of a machine and its driver tell each other by a balloon.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};

use super::{BalloonConfig, PAGE, Statistics};
use crate::devices::virtio::interrupt::Interrupt;

/// BALLOON_CHANGE comes at most once in this time, as with QEMU: the last one of those that were too many comes at its end.
const WINDOW: Duration = Duration::from_secs(1);

/// A machine's balloon.
pub struct Balloon {
    pub(super) config: BalloonConfig,
    /// Pages of the machine.
    pages: u32,
    /// Pages that the guest is asked to give back.
    target: AtomicU32,
    /// Pages that it has given back.
    given: AtomicU32,
    changed: Notify,
    on_change: OnChange,
    driver: Mutex<Option<Arc<Interrupt>>>,
    statistics: Mutex<Option<Statistics>>,
}

/// Told, from any thread, how many bytes of memory the guest has. Must not block.
pub type OnChange = Box<dyn Fn(u64) + Send + Sync>;

/// A driver that is told of the target, until this is dropped: it is reset then, and its balloon empty.
pub(super) struct Begun(Arc<Balloon>);

impl Begun {
    pub(super) fn balloon(&self) -> &Balloon {
        &self.0
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        *lock(&self.0.driver) = None;
        *lock(&self.0.statistics) = None;
        self.0.given.store(0, Ordering::SeqCst);
    }
}

impl Balloon {
    /// The balloon of a machine with `memory` bytes of RAM. `on_change` is told of what the guest does, at most once a
    /// second.
    pub fn new(config: BalloonConfig, memory: u64, on_change: OnChange) -> Arc<Self> {
        let balloon = Self {
            // A machine with more has a balloon of 16 TiB.
            pages: u32::try_from(memory / PAGE).unwrap_or(u32::MAX),
            target: AtomicU32::new(0),
            given: AtomicU32::new(0),
            changed: Notify::new(),
            on_change,
            driver: Mutex::default(),
            statistics: Mutex::default(),
            config,
        };
        if let Some(size) = balloon.config.size {
            balloon.set_target(size);
        }
        Arc::new(balloon)
    }

    /// Asks the guest to have `size` bytes of memory from here on; all of its memory, if it is more than that. A driver
    /// that comes later, after a reset for one, is asked for the same.
    pub fn set_target(&self, size: u64) {
        let keeps = u32::try_from(size / PAGE).unwrap_or(u32::MAX);
        let target = self.pages.saturating_sub(keeps);
        if self.target.swap(target, Ordering::SeqCst) == target {
            return;
        }
        let driver = lock(&self.driver).clone();
        if let Some(driver) = driver {
            driver.configuration();
        }
    }

    /// Bytes of memory that the guest is asked to have.
    pub fn target(&self) -> u64 {
        self.bytes_without(self.target.load(Ordering::SeqCst))
    }

    /// Bytes of memory that the guest has, as it says.
    pub fn actual(&self) -> u64 {
        self.bytes_without(self.given.load(Ordering::SeqCst))
    }

    /// What the guest said last of its memory, if it has.
    pub fn statistics(&self) -> Option<Statistics> {
        lock(&self.statistics).clone()
    }

    fn bytes_without(&self, pages: u32) -> u64 {
        u64::from(self.pages.saturating_sub(pages)) * PAGE
    }

    /// The configuration space.
    pub(super) fn space(&self) -> Vec<u8> {
        let target = self.target.load(Ordering::SeqCst).to_le_bytes();
        let given = self.given.load(Ordering::SeqCst).to_le_bytes();
        [target, given].concat()
    }

    /// The driver says how many pages it has given back.
    pub(super) fn set_actual(&self, pages: u32) {
        let pages = pages.min(self.pages);
        if self.given.swap(pages, Ordering::SeqCst) != pages {
            self.changed.notify_one();
        }
    }

    pub(super) fn set_statistics(&self, statistics: Statistics) {
        *lock(&self.statistics) = Some(statistics);
    }

    /// A driver is ready. It is told of the target as long as the result is kept.
    pub(super) fn begin(self: &Arc<Self>, driver: Arc<Interrupt>) -> Begun {
        *lock(&self.driver) = Some(driver);
        Begun(self.clone())
    }

    /// Tells of what the driver does, and never ends.
    pub(super) async fn tell(&self) {
        // The driver may have been quicker than this task.
        let mut told = self.bytes_without(0);
        loop {
            self.changed.notified().await;
            let actual = self.actual();
            if actual != told {
                told = actual;
                (self.on_change)(actual);
                sleep(WINDOW).await;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
