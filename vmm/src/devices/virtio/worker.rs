//! The task of one device, and the gate that keeps it from guest memory while the machine is paused.
//!
//! ```text
//!   task:     gate.enter().await --> Inside ... drop            (never held across a wait for the driver)
//!   machine:  close().await ------------> nobody is inside; open() lets them in again
//! ```
//! What blocks goes to a thread of its own through [`Blocking`], and takes its place inside the gate along: it cannot be
//! aborted, so whoever stops the task waits for it. So do tasks that the device's own task has started.

mod gate;

use std::{io, sync::Arc};

use tokio::{
    runtime::Handle,
    sync,
    task::{self, JoinHandle},
};
use tracing::Span;

pub use self::gate::{Gate, Inside};

/// Runs what blocks for one device.
#[derive(Clone, Default)]
pub struct Blocking(Arc<sync::RwLock<()>>);

/// Whoever stops the device waits until this is dropped.
pub struct Busy {
    _shared: sync::OwnedRwLockReadGuard<()>,
}

impl Blocking {
    /// Runs `work` on a thread where it may block. The gate that `inside` (an [`Inside`], or what has one) is in does not
    /// close before it is done, even if the future is dropped meanwhile.
    pub async fn run<I: Send + 'static, T: Send + 'static>(
        &self,
        inside: I,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<(I, T)> {
        let busy = self.busy().await;
        let span = Span::current();
        let work = task::spawn_blocking(move || {
            let _busy = busy;
            (inside, span.in_scope(work))
        });
        // It fails if the work panicked, or the runtime ends.
        work.await.map_err(io::Error::other)
    }

    /// For a task beside the device's own, which ends it: to be kept as long as it runs.
    pub async fn busy(&self) -> Busy {
        Busy {
            _shared: self.0.clone().read_owned().await,
        }
    }

    /// Waits until nothing runs.
    async fn idle(&self) {
        drop(self.0.write().await);
    }
}

/// A task that is ended when this is dropped.
pub struct Worker {
    task: JoinHandle<()>,
    blocking: Blocking,
}

impl Worker {
    /// Starts `work`, which does what blocks by `blocking`.
    pub fn spawn(
        runtime: &Handle,
        blocking: Blocking,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let task = runtime.spawn(work);
        Self { task, blocking }
    }

    /// Ends the task, and waits until it uses nothing any more: until it waits for the driver, or at the gate, and what it
    /// does on other threads is done.
    pub async fn stop(mut self) {
        self.task.abort();
        // An aborted task ends with an error that says no more than that.
        let _ = (&mut self.task).await;
        self.blocking.idle().await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::{gate::tests::ready, *};

    #[tokio::test]
    async fn what_blocks_outlives_its_task_and_is_waited_for() {
        let (gate, blocking) = (Gate::default(), Blocking::default());
        gate.open();
        let (began, has_begun) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let worker = Worker::spawn(&Handle::current(), blocking.clone(), {
            let gate = gate.clone();
            async move {
                let inside = gate.enter().await;
                let work = move || {
                    began.send(()).unwrap();
                    released.recv().unwrap();
                };
                blocking.run(inside, work).await.unwrap();
            }
        });
        let begun = task::spawn_blocking(move || has_begun.recv().unwrap());
        begun.await.unwrap();
        let stop = worker.stop();
        let mut stop = std::pin::pin!(stop);
        // The task is gone after its abort; what it had begun is not.
        for _ in 0..10 {
            assert!(!ready(stop.as_mut()));
            task::yield_now().await;
        }
        assert!(!ready(gate.close()));
        release.send(()).unwrap();
        stop.await;
        gate.close().await;
    }
}
