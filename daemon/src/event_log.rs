//! The event log: every lifecycle event of every machine, numbered without holes, kept up to a bound.
//!
//! ```text
//!   actors -- append --> [ oldest ... | window ... stored | ... newest ]      each reader keeps only its own position:
//!                          ^ store      ^ memory             ^ not seen yet     read_after(n) -> events, or Lost
//!                                                                               changed()     -> there are more
//! ```
//! A reader that goes away leaves nothing behind; one that is slow holds nobody up and is told when it has fallen
//! behind what is kept: there is never a silent gap. With a store, an event is seen by nobody before it is stored, so that
//! its number is never given to another.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;
use tokio::{sync::watch, task};
use vmd_proto::v1::Event;

use crate::{
    Daemon,
    metrics::Place,
    store::{Change, Log, Store, Unavailable, Watermark},
};

/// Events kept unless configured otherwise: about 16 MiB of memory when full.
pub const DEFAULT_CAPACITY: usize = 1 << 16;

/// Events that may wait for the store.
pub const MAX_WAITING: usize = 1 << 14;

/// Events that are in memory, too, if there is a store: those that most readers want.
const RECENT: usize = 1 << 10;

/// Most events that one read returns.
const BATCH: usize = 256;

/// The log of one daemon.
pub struct EventLog {
    inner: Mutex<Inner>,
    /// Of the window.
    capacity: usize,
    seen: Seen,
}

struct Inner {
    /// Consecutive numbers; the last is `newest`.
    events: VecDeque<Arc<Event>>,
    newest: u64,
}

/// Up to where events may be seen.
enum Seen {
    /// All at once.
    Appended(Watermark),
    /// What the store has of this log.
    Stored(Arc<Store>, Log),
}

/// What was asked for is not there: too old, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "events after {after_seq} are not kept: the log has {oldest_seq} to {newest_seq}; list the machines with WatchVms \
     and go on from the number it gives"
)]
pub struct Lost {
    /// The number that was to be continued from.
    pub after_seq: u64,
    /// The oldest event kept.
    pub oldest_seq: u64,
    /// The newest event.
    pub newest_seq: u64,
}

/// Why events cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// They are not there.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] Unavailable),
}

impl EventLog {
    /// An empty log in memory that keeps `capacity` events, at least one.
    pub fn new(capacity: usize) -> Self {
        Self::with(Seen::Appended(Watermark::new(0)), 0, capacity)
    }

    /// One that goes on in `store`, where that has `log`.
    pub(crate) fn stored_in(store: Arc<Store>, log: Log) -> Self {
        let newest = store.watermark(log).get();
        Self::with(Seen::Stored(store, log), newest, RECENT)
    }

    fn with(seen: Seen, newest: u64, capacity: usize) -> Self {
        let events = VecDeque::new();
        Self {
            inner: Mutex::new(Inner { events, newest }),
            capacity: capacity.max(1),
            seen,
        }
    }

    /// The store, if there is one.
    pub fn store(&self) -> Option<&Store> {
        match &self.seen {
            Seen::Appended(_) => None,
            Seen::Stored(store, _) => Some(store),
        }
    }

    /// Numbers `event` and keeps it. `seen` is called with the number before any reader can see the event, so that what
    /// it changes is in place for whoever reads the event; it returns what the store is to change. It must be quick and
    /// must not use the log.
    pub fn append(&self, mut event: Event, seen: impl FnOnce(u64) -> Option<Change>) -> u64 {
        let mut inner = self.lock();
        let seq = inner.newest + 1;
        event.seq = seq;
        let change = seen(seq);
        let event = Arc::new(event);
        if inner.events.len() == self.capacity {
            inner.events.pop_front();
        }
        inner.events.push_back(event.clone());
        inner.newest = seq;
        // In the order of the numbers; and whoever has the number from a status may read up to it.
        match &self.seen {
            Seen::Appended(watermark) => watermark.raise(seq),
            Seen::Stored(store, log) => store.append(*log, event, change),
        }
        drop(inner);
        if let Seen::Appended(watermark) = &self.seen {
            watermark.tell(seq);
        }
        seq
    }

    /// The number of the newest event that may be seen; 0 if there was none.
    pub fn newest(&self) -> u64 {
        self.watermark().get()
    }

    /// Waits until event `seq` may be seen; fails if the store does not work, and the event waits for that.
    pub async fn stored(&self, seq: u64) -> Result<(), Unavailable> {
        match &self.seen {
            Seen::Appended(_) => Ok(()),
            Seen::Stored(store, log) => store.stored(*log, seq).await,
        }
    }

    /// Whether changes can be stored, as far as is known: asked before the first side effect of a change.
    pub async fn ready(&self) -> Result<(), Unavailable> {
        match &self.seen {
            Seen::Appended(_) => Ok(()),
            Seen::Stored(store, _) => store.ready().await,
        }
    }

    /// Waits until all that was appended may be seen, or the store does not work.
    pub(crate) async fn settle(&self) {
        let newest = self.lock().newest;
        // What cannot be stored now waits.
        let _ = self.stored(newest).await;
    }

    /// Nothing more comes: what waits for the store is stored, if that can be.
    pub(crate) async fn close(self: &Arc<Self>) {
        let log = self.clone();
        let close = move || {
            if let Some(store) = log.store() {
                store.close();
            }
        };
        // It does not panic.
        let _ = task::spawn_blocking(close).await;
    }

    /// Whether the events after `after_seq` are there, or to come.
    pub fn check(&self, after_seq: u64) -> Result<(), Lost> {
        self.check_in(&self.lock(), after_seq).map(drop)
    }

    /// The same; returns the newest number that may be seen.
    fn check_in(&self, inner: &Inner, after_seq: u64) -> Result<u64, Lost> {
        let newest_seq = self.newest();
        let oldest_seq = match &self.seen {
            Seen::Appended(_) => inner.first(),
            Seen::Stored(store, log) => store.oldest(*log),
        };
        if after_seq > newest_seq || after_seq + 1 < oldest_seq {
            return Err(Lost {
                after_seq,
                oldest_seq,
                newest_seq,
            });
        }
        Ok(newest_seq)
    }

    /// How many events there are that can be read.
    pub fn kept(&self) -> u64 {
        match &self.seen {
            Seen::Appended(_) => self.lock().events.len() as u64,
            Seen::Stored(store, log) => (self.newest() + 1).saturating_sub(store.oldest(*log)),
        }
    }

    /// Gives back the memory of what the store has, too: it is kept only because readers want it soon.
    pub(crate) fn rest(&self) {
        if let Seen::Stored(..) = &self.seen {
            let newest = self.newest();
            let mut inner = self.lock();
            let waiting = inner.newest.saturating_sub(newest);
            let waiting = usize::try_from(waiting).unwrap_or(usize::MAX);
            let stored = inner.events.len().saturating_sub(waiting);
            inner.events.drain(..stored);
            inner.events.shrink_to_fit();
        }
    }

    /// The events after `after_seq`, oldest first, a bounded number at a time; none if it is the newest.
    pub async fn read_after(&self, after_seq: u64) -> Result<Vec<Arc<Event>>, ReadError> {
        let newest_seq = {
            let inner = self.lock();
            let newest_seq = self.check_in(&inner, after_seq)?;
            if let Some(skip) = (after_seq + 1).checked_sub(inner.first()) {
                let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                let events = inner.events.iter().skip(skip).take(BATCH);
                return Ok(events
                    .take_while(|event| event.seq <= newest_seq)
                    .cloned()
                    .collect());
            }
            newest_seq
        };
        let (Seen::Stored(store, log), true) = (&self.seen, after_seq < newest_seq) else {
            return Ok(Vec::new());
        };
        let events = store.events(*log, after_seq, newest_seq, BATCH).await?;
        // Some may have been forgotten meanwhile.
        if events.first().map(|event| event.seq) != Some(after_seq + 1) {
            return Err(ReadError::Lost(Lost {
                after_seq,
                oldest_seq: store.oldest(*log),
                newest_seq,
            }));
        }
        Ok(events)
    }

    /// For waiting until there is something new.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.watermark().subscribe()
    }

    fn watermark(&self) -> &Watermark {
        match &self.seen {
            Seen::Appended(watermark) => watermark,
            Seen::Stored(store, log) => store.watermark(*log),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The number of the oldest event in the window, or of the first to be there.
    fn first(&self) -> u64 {
        self.newest + 1 - self.events.len() as u64
    }
}

/// A reader's place in one of a daemon's logs.
pub(crate) struct Cursor {
    daemon: Arc<Daemon>,
    log: fn(&Daemon) -> &EventLog,
    changes: watch::Receiver<u64>,
    /// The same place, as the metrics see it.
    place: Place,
    /// The last event that was read.
    pub(crate) seq: u64,
}

impl Cursor {
    /// After event `seq`.
    pub(crate) fn new(daemon: Arc<Daemon>, seq: u64) -> Self {
        Self::of(|daemon| &daemon.events, daemon, seq)
    }

    /// The same in the log that `log` finds.
    pub(crate) fn of(log: fn(&Daemon) -> &EventLog, daemon: Arc<Daemon>, seq: u64) -> Self {
        let changes = log(&daemon).subscribe();
        let place = daemon.metrics.readers.enter(seq);
        Self {
            daemon,
            log,
            changes,
            place,
            seq,
        }
    }

    /// The next events there are, a bounded number; none if there are none yet.
    pub(crate) async fn read(&mut self) -> Result<Vec<Arc<Event>>, ReadError> {
        // First: what is appended after the read counts as a change.
        self.changes.mark_unchanged();
        let events = (self.log)(&self.daemon).read_after(self.seq).await?;
        if let Some(last) = events.last() {
            self.seq = last.seq;
        }
        self.place.set(self.seq);
        Ok(events)
    }

    /// Waits until there is more than the last read found; false if there will be nothing any more.
    pub(crate) async fn changed(&mut self) -> bool {
        tokio::select! {
            biased;
            changed = self.changes.changed() => changed.is_ok(),
            // The last events were appended before.
            () = self.daemon.ended.cancelled() => (self.log)(&self.daemon).newest() > self.seq,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(capacity: usize, events: u64) -> EventLog {
        let log = EventLog::new(capacity);
        for n in 1..=events {
            let appended = log.append(Event::default(), |seq| {
                assert_eq!(seq, n);
                None
            });
            assert_eq!(appended, n);
        }
        log
    }

    async fn numbers(log: &EventLog, after: u64) -> Result<Vec<u64>, ReadError> {
        let events = log.read_after(after).await?;
        Ok(events.iter().map(|event| event.seq).collect())
    }

    #[tokio::test]
    async fn numbers_have_no_holes_and_reading_goes_on_from_any_of_them() {
        let log = log_of(10, 5);
        assert_eq!(numbers(&log, 0).await, Ok(vec![1, 2, 3, 4, 5]));
        assert_eq!(numbers(&log, 3).await, Ok(vec![4, 5]));
        assert_eq!(numbers(&log, 5).await, Ok(vec![]));
        assert_eq!(numbers(&log_of(10, 0), 0).await, Ok(vec![]));
    }

    #[tokio::test]
    async fn what_is_gone_or_has_not_come_is_lost() {
        let log = log_of(3, 5);
        assert_eq!(numbers(&log, 2).await, Ok(vec![3, 4, 5]));
        for after_seq in [0, 1, 6, u64::MAX] {
            let lost = Lost {
                after_seq,
                oldest_seq: 3,
                newest_seq: 5,
            };
            assert_eq!(numbers(&log, after_seq).await, Err(ReadError::Lost(lost)));
            assert_eq!(log.check(after_seq), Err(lost));
        }
    }

    #[tokio::test]
    async fn a_read_is_bounded() {
        let log = log_of(1000, 1000);
        let first = numbers(&log, 0).await.unwrap();
        assert_eq!((first.len(), first[BATCH - 1]), (BATCH, BATCH as u64));
    }

    #[test]
    fn readers_are_woken_once_the_event_is_there() {
        let log = log_of(10, 1);
        let mut changes = log.subscribe();
        assert!(!changes.has_changed().unwrap());
        log.append(Event::default(), |_| None);
        assert!(changes.has_changed().unwrap());
        assert_eq!(*changes.borrow_and_update(), 2);
    }

    #[tokio::test]
    async fn what_the_window_has_no_more_is_read_from_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let keep = crate::store::Retention {
            kept: 600,
            max_age: None,
        };
        let (store, _) = Store::open(directory.path(), keep, 1000).unwrap();
        let log = EventLog::with(Seen::Stored(Arc::new(store), Log::Events), 0, 5);
        for _ in 0..1000 {
            log.append(Event::default(), |_| None);
        }
        log.settle().await;
        assert_eq!(log.kept(), 600);
        for in_memory in [5, 0] {
            assert_eq!(log.lock().events.len(), in_memory);
            let (mut seq, mut reads) = (400, 0);
            loop {
                let events = numbers(&log, seq).await.unwrap();
                let Some(last) = events.last() else { break };
                let expected: Vec<_> = (seq + 1..=*last).collect();
                assert_eq!(events, expected);
                (seq, reads) = (*last, reads + 1);
            }
            assert_eq!((seq, reads), (1000, 3));
            log.rest();
        }
        assert!(matches!(numbers(&log, 399).await, Err(ReadError::Lost(_))));
    }
}
