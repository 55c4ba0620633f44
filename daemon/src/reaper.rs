//! Closing machines off every caller's path: in parallel, but not all at once.
//!
//! Closing a VM waits for its threads and for the kernel's RCU, tens of milliseconds during which nothing else has to
//! wait. When no more machines come for a while, the heap's free pages go back to the host.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, task, time::sleep};
use tokio_util::task::TaskTracker;
use tracing::Span;
use vmm::heap;

/// Machines closed at the same time: threads are left for other things.
const PARALLEL: usize = 8;

/// How long no machine was closed when the heap is trimmed.
const QUIET: Duration = Duration::from_secs(1);

/// Closes what it is given.
pub(crate) struct Reaper {
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
    /// How many machines were closed.
    closed: Arc<AtomicU64>,
}

impl Default for Reaper {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(PARALLEL)),
            tasks: TaskTracker::new(),
            closed: Arc::default(),
        }
    }
}

impl Reaper {
    /// Drops `machine` soon, on a thread where that may block.
    pub(crate) fn close(&self, machine: impl Send + 'static) {
        let permits = self.permits.clone();
        let (span, closed) = (Span::current(), self.closed.clone());
        self.tasks.spawn(async move {
            // The semaphore is never closed; without a permit it is dropped all the same.
            let _permit = permits.acquire_owned().await;
            // A panic while dropping is that machine's alone.
            let _ = task::spawn_blocking(move || span.in_scope(|| drop(machine))).await;
            let number = closed.fetch_add(1, Ordering::Relaxed) + 1;
            // The daemon's end does not wait for that.
            tokio::spawn(trim_if_last(closed, number));
        });
    }

    /// How many machines are still being closed.
    pub(crate) fn pending(&self) -> usize {
        self.tasks.len()
    }

    /// Waits until everything is closed. Nothing may be given to it after this.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Trims the heap, if machine `number` is still the last one that was closed when all has been quiet.
async fn trim_if_last(closed: Arc<AtomicU64>, number: u64) {
    sleep(QUIET).await;
    if closed.load(Ordering::Relaxed) == number {
        // It does not panic.
        let _ = task::spawn_blocking(heap::trim).await;
    }
}
