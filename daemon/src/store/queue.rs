//! What waits for the writer, and how it is doing.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};
use vmd_proto::v1::{Event, Vm, VmStatus};

use super::{
    Unavailable,
    log::{Log, PerLog},
};

/// A change of a machine.
#[derive(Clone, Debug)]
pub struct Change {
    /// The machine's id.
    pub id: String,
    /// What it is.
    pub what: What,
}

/// What changes of a machine.
#[derive(Clone, Debug)]
pub enum What {
    /// Its status.
    Status(VmStatus),
    /// Everything: it is new, or has a new definition. With its status.
    Machine(Box<Vm>),
    /// It is gone.
    Deleted,
}

impl What {
    /// This, and `later` after it, as one change.
    fn then(self, later: Self) -> Self {
        match (self, later) {
            (Self::Machine(vm), Self::Status(status)) => {
                let status = Some(status);
                Self::Machine(Box::new(Vm { status, ..*vm }))
            }
            (_, later) => later,
        }
    }

    /// Whether it changes which machines there are, or what they are.
    pub(super) fn is_definition(&self) -> bool {
        !matches!(self, Self::Status(_))
    }
}

/// What somebody else does in a transaction.
pub(super) type Statements = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;

/// A part of a transaction that is somebody else's.
pub(super) struct Work {
    pub(super) run: Statements,
    /// Told when it is stored.
    pub(super) done: oneshot::Sender<Result<(), Unavailable>>,
}

impl Work {
    /// The value that `work` returns comes beside `done`.
    pub(super) fn new<T: Send + 'static>(
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        done: oneshot::Sender<Result<(), Unavailable>>,
    ) -> (Self, oneshot::Receiver<T>) {
        let (value, receiver) = oneshot::channel();
        let run = Box::new(move |connection: &Connection| {
            // Whoever asked may have gone.
            let _ = value.send(work(connection)?);
            Ok(())
        });
        (Self { run, done }, receiver)
    }
}

/// What the writer and everybody else share.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    logs: PerLog<Kept>,
    failing: AtomicBool,
    health: watch::Sender<Health>,
    /// Events of a log that may wait.
    capacity: usize,
}

/// What is stored of a log.
pub(super) struct Kept {
    /// All up to this number.
    pub(super) stored: Watermark,
    /// The oldest number.
    pub(super) oldest: AtomicU64,
}

impl Kept {
    pub(super) fn new((oldest, newest): (u64, u64)) -> Self {
        Self {
            stored: Watermark::new(newest),
            oldest: AtomicU64::new(oldest),
        }
    }
}

/// How the writer's last try went.
#[derive(Clone, Default)]
struct Health {
    tries: u64,
    failure: Option<Unavailable>,
}

#[derive(Default)]
pub(super) struct Queue {
    /// Not stored yet, consecutive.
    pub(super) events: PerLog<VecDeque<Arc<Event>>>,
    /// By the machine's id.
    pub(super) changes: HashMap<String, What>,
    pub(super) work: Vec<Work>,
    /// Somebody wants to know now whether it works.
    pub(super) hurry: bool,
    pub(super) stop: bool,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        Log::ALL.iter().all(|log| self.events.of(*log).is_empty())
            && self.changes.is_empty()
            && self.work.is_empty()
    }
}

impl Shared {
    pub(super) fn new(logs: PerLog<Kept>, capacity: usize) -> Self {
        Self {
            queue: Mutex::default(),
            wake: Condvar::new(),
            logs,
            failing: AtomicBool::new(false),
            health: watch::Sender::default(),
            capacity: capacity.max(1),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake(&self) -> &Condvar {
        &self.wake
    }

    pub(super) fn log(&self, log: Log) -> &Kept {
        self.logs.of(log)
    }

    pub(super) fn append(&self, log: Log, event: Arc<Event>, change: Option<Change>) {
        let mut queue = self.lock();
        let events = queue.events.of_mut(log);
        if events.len() == self.capacity {
            events.pop_front();
        }
        events.push_back(event);
        if let Some(Change { id, what }) = change {
            let what = match queue.changes.remove(&id) {
                Some(earlier) => earlier.then(what),
                None => what,
            };
            queue.changes.insert(id, what);
        }
        self.wake.notify_one();
    }

    pub(super) fn work(&self, work: Work) {
        let mut queue = self.lock();
        if queue.stop {
            // Dropped: whoever waits is told.
            return;
        }
        queue.work.push(work);
        // Its answer is waited for.
        queue.hurry = true;
        self.wake.notify_one();
    }

    /// Gives back memory that nothing waits in.
    pub(super) fn rest(&self) {
        let mut queue = self.lock();
        for log in Log::ALL {
            queue.events.of_mut(log).shrink_to_fit();
        }
        queue.changes.shrink_to_fit();
        queue.work.shrink_to_fit();
    }

    pub(super) fn stop(&self) {
        let mut queue = self.lock();
        (queue.stop, queue.hurry) = (true, true);
        self.wake.notify_one();
    }

    /// Changes that could not be stored wait again.
    pub(super) fn put_back(&self, changes: HashMap<String, What>) {
        let mut queue = self.lock();
        for (id, earlier) in changes {
            let what = match queue.changes.remove(&id) {
                Some(later) => earlier.then(later),
                None => earlier,
            };
            queue.changes.insert(id, what);
        }
    }

    /// All of `log` up to event `newest` is stored; `oldest` is the oldest kept.
    pub(super) fn committed(&self, log: Log, oldest: u64, newest: u64) {
        let mut queue = self.lock();
        let events = queue.events.of_mut(log);
        while events.front().is_some_and(|event| event.seq <= newest) {
            events.pop_front();
        }
        drop(queue);
        let kept = self.log(log);
        kept.oldest.store(oldest, Ordering::Release);
        kept.stored.raise(newest);
        kept.stored.tell(newest);
    }

    /// Tells how the last try went; returns whether that is another way than before.
    pub(super) fn tried(&self, failure: Option<Unavailable>) -> bool {
        let failing = failure.is_some();
        let changed = self.failing.swap(failing, Ordering::AcqRel) != failing;
        self.health.send_modify(|health| {
            health.tries += 1;
            health.failure = failure;
        });
        changed
    }

    /// Nothing will be stored any more.
    pub(super) fn closed(&self, why: Unavailable) {
        let mut queue = self.lock();
        queue.stop = true;
        let work = std::mem::take(&mut queue.work);
        drop((queue, work));
        self.tried(Some(why));
    }

    pub(super) async fn stored(&self, log: Log, seq: u64) -> Result<(), Unavailable> {
        let stored = &self.log(log).stored;
        if stored.get() >= seq {
            return Ok(());
        }
        let (mut stored, mut health) = (stored.subscribe(), self.health.subscribe());
        tokio::select! {
            biased;
            // The senders live as long as this.
            _ = stored.wait_for(|stored| *stored >= seq) => Ok(()),
            failed = health.wait_for(|health| health.failure.is_some()) => {
                match failed.ok().and_then(|health| health.failure.clone()) {
                    Some(failure) => Err(failure),
                    None => Ok(()),
                }
            }
        }
    }

    pub(super) async fn ready(&self) -> Result<(), Unavailable> {
        if !self.failing.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut health = self.health.subscribe();
        let tries = health.borrow_and_update().tries;
        {
            let mut queue = self.lock();
            if queue.stop {
                return health.borrow().failure.clone().map_or(Ok(()), Err);
            }
            queue.hurry = true;
            self.wake.notify_one();
        }
        match health.wait_for(|health| health.tries > tries).await {
            Ok(health) => health.failure.clone().map_or(Ok(()), Err),
            // The sender lives as long as this.
            Err(_) => Ok(()),
        }
    }
}

/// The number of an event up to which all can be seen: it is cheap to look at, and can be waited for.
pub(crate) struct Watermark {
    seq: AtomicU64,
    changes: watch::Sender<u64>,
}

impl Watermark {
    pub(crate) fn new(seq: u64) -> Self {
        Self {
            seq: AtomicU64::new(seq),
            changes: watch::Sender::new(seq),
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.seq.load(Ordering::Acquire)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn raise(&self, seq: u64) {
        self.seq.fetch_max(seq, Ordering::AcqRel);
    }

    /// Tells those who wait. Calls may come in another order than the numbers.
    pub(crate) fn tell(&self, seq: u64) {
        self.changes.send_if_modified(|newest| {
            let later = seq > *newest;
            *newest = seq.max(*newest);
            later
        });
    }
}
