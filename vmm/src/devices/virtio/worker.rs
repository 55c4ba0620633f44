//! The task of one device, and the gate that keeps it from guest memory while the machine is paused.
//!
//! ```text
//!   task:     gate.enter().await --> Inside ... drop            (never held across a wait for the driver)
//!   machine:  close().await ------------> nobody is inside; open() lets them in again
//! ```
//! What blocks goes to a thread of its own through [`Blocking`], and takes its place inside the gate along: it cannot be
//! aborted, so whoever stops the task waits for it. So do tasks that the device's own task has started.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    runtime::Handle,
    sync::{self, Notify},
    task::{self, JoinHandle},
};
use tracing::Span;

/// Lets the tasks of a machine's devices use guest memory, or not. Closed at first.
#[derive(Clone, Default)]
pub struct Gate(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    open: bool,
    /// How often it was opened.
    openings: u64,
    inside: usize,
}

/// As long as this is held, the gate does not close.
pub struct Inside(Arc<Shared>);

impl Gate {
    /// Waits until the gate is open, and keeps it so. Every device comes by here for each of its turns: a driver that always
    /// has another request leaves the runtime to others as well.
    pub async fn enter(&self) -> Inside {
        task::consume_budget().await;
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.0.lock();
                if state.open {
                    state.inside += 1;
                    return Inside(self.0.clone());
                }
            }
            changed.await;
        }
    }

    /// Lets nobody in any more, and waits until nobody is inside.
    pub async fn close(&self) {
        self.0.lock().open = false;
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            if self.0.lock().inside == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Lets everybody in.
    pub fn open(&self) {
        {
            let mut state = self.0.lock();
            state.open = true;
            state.openings += 1;
        }
        self.0.changed.notify_waiters();
    }

    /// How often it was opened so far.
    pub fn openings(&self) -> u64 {
        self.0.lock().openings
    }

    /// Waits until it has been opened more often than `before`.
    pub async fn opened_since(&self, before: u64) {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            if self.openings() > before {
                return;
            }
            changed.await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.lock().inside -= 1;
        self.0.changed.notify_waiters();
    }
}

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

    use super::*;

    fn ready(future: impl Future) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(future).poll(&mut context).is_ready()
    }

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

    #[test]
    fn who_enters_again_and_again_leaves_the_runtime_to_others() {
        let (say, said) = mpsc::channel();
        // Not joined: where this fails, it does not end.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(async {
                let gate = Gate::default();
                gate.open();
                let busy = gate.clone();
                // A device whose driver always has another request.
                let device = task::spawn(async move {
                    loop {
                        drop(busy.enter().await);
                    }
                });
                task::yield_now().await;
                gate.close().await;
                device.abort();
                say.send(()).unwrap();
            });
        });
        said.recv_timeout(super::super::testing::DEADLINE).unwrap();
    }

    #[tokio::test]
    async fn an_opening_is_seen_also_if_the_gate_was_open() {
        let gate = Gate::default();
        gate.open();
        let before = gate.openings();
        assert!(!ready(gate.opened_since(before)));
        gate.open();
        gate.opened_since(before).await;
        gate.close().await;
        let before = gate.openings();
        assert!(!ready(gate.opened_since(before)));
    }
}
