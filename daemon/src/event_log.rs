//! The event log: every lifecycle event of every machine, numbered without holes, kept up to a bound.
//!
//! ```text
//!   actors -- append --> [ oldest ... newest ]        each reader keeps only its own position:
//!                          ^ evicted beyond the bound   read_after(n) -> events, or Lost if n+1 is gone
//!                                                       changed()     -> something was appended
//! ```
//! A reader that goes away leaves nothing behind; one that is slow holds nobody up and is told when it has fallen
//! behind what is kept: there is never a silent gap.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;
use tokio::sync::watch;
use vmd_proto::v1::Event;

use crate::Daemon;

/// Events kept unless configured otherwise: about 16 MiB of memory when full.
pub const DEFAULT_CAPACITY: usize = 1 << 16;

/// Most events that one read returns.
const BATCH: usize = 256;

/// The log of one daemon.
pub struct EventLog {
    inner: Mutex<Inner>,
    capacity: usize,
    /// The newest number, for those who wait.
    newest: watch::Sender<u64>,
}

struct Inner {
    /// Consecutive numbers; the last is `newest`.
    events: VecDeque<Arc<Event>>,
    newest: u64,
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

impl EventLog {
    /// An empty log that keeps `capacity` events, at least one.
    pub fn new(capacity: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                events: VecDeque::new(),
                newest: 0,
            }),
            capacity: capacity.max(1),
            newest: watch::Sender::new(0),
        }
    }

    /// Numbers `event` and keeps it. `seen` is called with the number before any reader can see the event, so that what
    /// it changes is in place for whoever reads the event. It must be quick and must not use the log.
    pub fn append(&self, mut event: Event, seen: impl FnOnce(u64)) -> u64 {
        let mut inner = self.lock();
        let seq = inner.newest + 1;
        event.seq = seq;
        seen(seq);
        if inner.events.len() == self.capacity {
            inner.events.pop_front();
        }
        inner.events.push_back(Arc::new(event));
        inner.newest = seq;
        drop(inner);
        // Appends may get here in another order than they were numbered in.
        self.newest.send_if_modified(|newest| {
            let later = seq > *newest;
            *newest = seq.max(*newest);
            later
        });
        seq
    }

    /// The number of the newest event; 0 if there was none.
    pub fn newest(&self) -> u64 {
        self.lock().newest
    }

    /// The events after `after_seq`, oldest first, a bounded number at a time; none if it is the newest.
    pub fn read_after(&self, after_seq: u64) -> Result<Vec<Arc<Event>>, Lost> {
        let inner = self.lock();
        let oldest_seq = inner.newest + 1 - inner.events.len() as u64;
        let lost = Lost {
            after_seq,
            oldest_seq,
            newest_seq: inner.newest,
        };
        if after_seq > inner.newest {
            return Err(lost);
        }
        let skip = (after_seq + 1).checked_sub(oldest_seq).ok_or(lost)?;
        let skip = usize::try_from(skip).map_err(|_| lost)?;
        Ok(inner
            .events
            .iter()
            .skip(skip)
            .take(BATCH)
            .cloned()
            .collect())
    }

    /// For waiting until there is something new.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader's place in a daemon's log.
pub(crate) struct Cursor {
    daemon: Arc<Daemon>,
    changes: watch::Receiver<u64>,
    /// The last event that was read.
    pub(crate) seq: u64,
}

impl Cursor {
    /// After event `seq`.
    pub(crate) fn new(daemon: Arc<Daemon>, seq: u64) -> Self {
        let changes = daemon.events.subscribe();
        Self {
            daemon,
            changes,
            seq,
        }
    }

    /// The next events there are, a bounded number; none if there are none yet.
    pub(crate) fn read(&mut self) -> Result<Vec<Arc<Event>>, Lost> {
        // First: what is appended after the read counts as a change.
        self.changes.mark_unchanged();
        let events = self.daemon.events.read_after(self.seq)?;
        if let Some(last) = events.last() {
            self.seq = last.seq;
        }
        Ok(events)
    }

    /// Waits until there is more than the last read found; false if there will be nothing any more.
    pub(crate) async fn changed(&mut self) -> bool {
        tokio::select! {
            biased;
            changed = self.changes.changed() => changed.is_ok(),
            // The last events were appended before.
            () = self.daemon.ended.cancelled() => self.daemon.events.newest() > self.seq,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(capacity: usize, events: u64) -> EventLog {
        let log = EventLog::new(capacity);
        for n in 1..=events {
            assert_eq!(log.append(Event::default(), |seq| assert_eq!(seq, n)), n);
        }
        log
    }

    fn numbers(log: &EventLog, after: u64) -> Result<Vec<u64>, Lost> {
        log.read_after(after)
            .map(|events| events.iter().map(|event| event.seq).collect())
    }

    #[test]
    fn numbers_have_no_holes_and_reading_goes_on_from_any_of_them() {
        let log = log_of(10, 5);
        assert_eq!(numbers(&log, 0), Ok(vec![1, 2, 3, 4, 5]));
        assert_eq!(numbers(&log, 3), Ok(vec![4, 5]));
        assert_eq!(numbers(&log, 5), Ok(vec![]));
        assert_eq!(numbers(&log_of(10, 0), 0), Ok(vec![]));
    }

    #[test]
    fn what_is_gone_or_has_not_come_is_lost() {
        let log = log_of(3, 5);
        assert_eq!(numbers(&log, 2), Ok(vec![3, 4, 5]));
        for after_seq in [0, 1, 6, u64::MAX] {
            let lost = Lost {
                after_seq,
                oldest_seq: 3,
                newest_seq: 5,
            };
            assert_eq!(numbers(&log, after_seq), Err(lost));
        }
    }

    #[test]
    fn a_read_is_bounded() {
        let log = log_of(1000, 1000);
        let first = numbers(&log, 0).unwrap();
        assert_eq!((first.len(), first[BATCH - 1]), (BATCH, BATCH as u64));
    }

    #[test]
    fn readers_are_woken_once_the_event_is_there() {
        let log = log_of(10, 1);
        let mut changes = log.subscribe();
        assert!(!changes.has_changed().unwrap());
        log.append(Event::default(), |_| ());
        assert!(changes.has_changed().unwrap());
        assert_eq!(*changes.borrow_and_update(), 2);
    }
}
