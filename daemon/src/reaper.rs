//! Closing machines off every caller's path: in parallel, but not all at once.
//!
//! Closing a VM waits for its threads and for the kernel's RCU, tens of milliseconds during which nothing else has to
//! wait. When no more machines come for a while, the daemon rests.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, task, time::sleep};
use tokio_util::task::TaskTracker;

use crate::{Daemon, vm::Record};

/// Machines closed at the same time: threads are left for other things.
const PARALLEL: usize = 4;

/// How long no machine was closed when the daemon rests.
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
    /// Drops `machine`, one of `daemon`, soon, on a thread where that may block.
    pub(crate) fn close(
        &self,
        daemon: &Arc<Daemon>,
        record: &Arc<Record>,
        machine: impl Send + 'static,
    ) {
        let permits = self.permits.clone();
        let (record, closed) = (record.clone(), self.closed.clone());
        let daemon = Arc::downgrade(daemon);
        self.tasks.spawn(async move {
            // The semaphore is never closed; without a permit it is dropped all the same.
            let _permit = permits.acquire_owned().await;
            // A panic while dropping is that machine's alone.
            let close = move || record.span().in_scope(|| drop(machine));
            let _ = task::spawn_blocking(close).await;
            let number = closed.fetch_add(1, Ordering::Relaxed) + 1;
            // The daemon's end does not wait for that.
            tokio::spawn(rest_after(number, closed, daemon));
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

/// Has `daemon` rest, if machine `number` is still the last one that was closed when all has been quiet.
async fn rest_after(number: u64, closed: Arc<AtomicU64>, daemon: Weak<Daemon>) {
    sleep(QUIET).await;
    if closed.load(Ordering::Relaxed) == number
        && let Some(daemon) = daemon.upgrade()
    {
        daemon.rest().await;
    }
}
