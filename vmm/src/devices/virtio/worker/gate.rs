//! The gate that keeps a machine's devices from guest memory while the machine is paused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{sync::Notify, task};

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

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Whether the future is ready when it is asked for the first time.
    pub(in super::super) fn ready(future: impl Future) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(future).poll(&mut context).is_ready()
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
        said.recv_timeout(super::super::super::testing::DEADLINE)
            .unwrap();
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
