//! Closing machines off every caller's path: in parallel, but not all at once.
//!
//! Closing a VM waits for its threads and for the kernel's RCU, tens of milliseconds during which nothing else has to
//! wait.

use std::sync::Arc;

use tokio::{sync::Semaphore, task};
use tokio_util::task::TaskTracker;
use tracing::Span;

/// Machines closed at the same time.
const PARALLEL: usize = 16;

/// Closes what it is given.
pub(crate) struct Reaper {
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Default for Reaper {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(PARALLEL)),
            tasks: TaskTracker::new(),
        }
    }
}

impl Reaper {
    /// Drops `machine` soon, on a thread where that may block.
    pub(crate) fn close(&self, machine: impl Send + 'static) {
        let permits = self.permits.clone();
        let span = Span::current();
        self.tasks.spawn(async move {
            // The semaphore is never closed; without a permit it is dropped all the same.
            let _permit = permits.acquire_owned().await;
            // A panic while dropping is that machine's alone.
            let _ = task::spawn_blocking(move || span.in_scope(|| drop(machine))).await;
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
