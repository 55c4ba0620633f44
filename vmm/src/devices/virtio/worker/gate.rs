//! The gate that keeps a machine's devices from guest memory while the machine is paused, and the doors behind it, each of
//! which keeps one device from it.
//!
//! ```text
//!   close(), open()            the machine's gate --+--> door of one device --> Inside
//!   shut_door(), open_door()                        +--> door of another
//! ```

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{sync::Notify, task};

/// Lets the tasks of a machine's devices use guest memory, or not. Closed at first. A clone has the same door.
#[derive(Clone)]
pub struct Gate(Arc<Door>);

struct Door {
    gate: Arc<Shared>,
    // Both change only while the gate's state is locked, which is what orders them.
    is_open: AtomicBool,
    inside: AtomicUsize,
    /// Its own, so that whoever waits at other doors sleeps on.
    opened: Notify,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    opened: Notify,
    /// Somebody is no longer inside.
    left: Notify,
}

#[derive(Default)]
struct State {
    open: bool,
    /// How often it was opened.
    openings: u64,
    inside: usize,
}

/// What is in the way.
enum Shut {
    Gate,
    Door,
}

/// As long as this is held, neither the gate nor the door is closed.
pub struct Inside(Arc<Door>);

impl Default for Gate {
    fn default() -> Self {
        Self(Door::new(Arc::default(), true))
    }
}

impl Gate {
    /// The same gate, with a door behind it that is shut at first.
    pub fn with_door(&self) -> Self {
        Self(Door::new(self.0.gate.clone(), false))
    }

    /// Waits until the gate is open, and the door, and keeps them so. Every device comes by here for each of its turns: a
    /// driver that always has another request leaves the runtime to others as well.
    pub async fn enter(&self) -> Inside {
        task::consume_budget().await;
        loop {
            // These know of openings from here on.
            let gate_opens = self.0.gate.opened.notified();
            let door_opens = self.0.opened.notified();
            match self.try_enter() {
                Ok(inside) => return inside,
                Err(Shut::Gate) => gate_opens.await,
                Err(Shut::Door) => door_opens.await,
            }
        }
    }

    fn try_enter(&self) -> Result<Inside, Shut> {
        let mut state = self.0.gate.lock();
        if !state.open {
            return Err(Shut::Gate);
        }
        if !self.0.is_open.load(Ordering::Relaxed) {
            return Err(Shut::Door);
        }
        state.inside += 1;
        self.0.inside.fetch_add(1, Ordering::Relaxed);
        Ok(Inside(self.0.clone()))
    }

    /// Lets nobody in any more, and waits until nobody is inside.
    pub async fn close(&self) {
        let gate = &self.0.gate;
        gate.lock().open = false;
        gate.left_by(|state| state.inside == 0).await;
    }

    /// Lets everybody in whose door is open.
    pub fn open(&self) {
        {
            let mut state = self.0.gate.lock();
            state.open = true;
            state.openings += 1;
        }
        self.0.gate.opened.notify_waiters();
    }

    /// Lets nobody in by this door any more.
    pub fn shut_door(&self) {
        let _state = self.0.gate.lock();
        self.0.is_open.store(false, Ordering::Relaxed);
    }

    /// Waits until nobody is inside who came by this door.
    pub async fn door_left(&self) {
        let inside = &self.0.inside;
        self.0
            .gate
            .left_by(|_| inside.load(Ordering::Relaxed) == 0)
            .await;
    }

    /// Lets everybody in by this door while the gate is open.
    pub fn open_door(&self) {
        {
            let _state = self.0.gate.lock();
            self.0.is_open.store(true, Ordering::Relaxed);
        }
        self.0.opened.notify_waiters();
    }

    /// How often it was opened so far.
    pub fn openings(&self) -> u64 {
        self.0.gate.lock().openings
    }

    /// Waits until it has been opened more often than `before`.
    pub async fn opened_since(&self, before: u64) {
        loop {
            let opened = self.0.gate.opened.notified();
            if self.openings() > before {
                return;
            }
            opened.await;
        }
    }
}

impl Door {
    fn new(gate: Arc<Shared>, is_open: bool) -> Arc<Self> {
        Arc::new(Self {
            gate,
            is_open: is_open.into(),
            inside: AtomicUsize::new(0),
            opened: Notify::new(),
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn left_by(&self, all: impl Fn(&State) -> bool) {
        loop {
            let left = self.left.notified();
            if all(&self.lock()) {
                return;
            }
            left.await;
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        {
            let mut state = self.0.gate.lock();
            state.inside -= 1;
            self.0.inside.fetch_sub(1, Ordering::Relaxed);
        }
        self.0.gate.left.notify_waiters();
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

    #[tokio::test]
    async fn a_door_keeps_out_who_comes_by_it_and_nobody_else() {
        let gate = Gate::default();
        gate.open();
        let doors = [gate.with_door(), gate.with_door()];
        assert!(ready(gate.enter()));
        assert!(!ready(doors[0].enter()), "a door is shut at first");
        let waiting = tokio::spawn({
            let door = doors[0].clone();
            async move { door.enter().await }
        });
        task::yield_now().await;
        doors.iter().for_each(Gate::open_door);
        let insides = [waiting.await.unwrap(), doors[1].enter().await];
        doors[0].shut_door();
        assert!(!ready(doors[0].enter()));
        assert!(ready(doors[1].enter()));
        assert!(!ready(doors[0].door_left()));
        let [first, second] = insides;
        let left = tokio::spawn({
            let door = doors[0].clone();
            async move { door.door_left().await }
        });
        task::yield_now().await;
        drop(first);
        left.await.unwrap();
        assert!(!ready(gate.close()), "the other is inside");
        drop(second);
        gate.close().await;
    }

    #[tokio::test]
    async fn gate_and_door_are_both_to_be_open() {
        let gate = Gate::default();
        let door = gate.with_door();
        let waiting = tokio::spawn({
            let door = door.clone();
            async move { door.enter().await }
        });
        for open in [Gate::open_door, Gate::open] {
            assert!(!ready(door.enter()));
            task::yield_now().await;
            assert!(!waiting.is_finished());
            open(&door);
        }
        drop(waiting.await.unwrap());
        gate.close().await;
        door.shut_door();
        gate.open();
        assert!(!ready(door.enter()), "it stays as it was left");
    }
}
