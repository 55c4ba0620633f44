//! How far the readers of the event log are.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// The readers of one log.
#[derive(Default)]
pub(crate) struct Readers(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    next: u64,
    places: HashMap<u64, Arc<AtomicU64>>,
}

impl Readers {
    /// One more, that has read all up to event `seq`.
    pub(crate) fn enter(self: &Arc<Self>, seq: u64) -> Place {
        let at = Arc::new(AtomicU64::new(seq));
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        inner.places.insert(id, at.clone());
        Place {
            readers: self.clone(),
            id,
            at,
        }
    }

    /// How many there are, and up to where the slowest has read.
    pub(super) fn slowest(&self) -> (usize, Option<u64>) {
        let inner = self.lock();
        let places = inner.places.values();
        let slowest = places.map(|at| at.load(Ordering::Relaxed)).min();
        (inner.places.len(), slowest)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a reader is. It is one as long as this is kept.
pub(crate) struct Place {
    readers: Arc<Readers>,
    id: u64,
    at: Arc<AtomicU64>,
}

impl Place {
    /// It has read all up to event `seq`.
    pub(crate) fn set(&self, seq: u64) {
        self.at.store(seq, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.readers.lock().places.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_counts_as_long_as_it_is_there() {
        let readers = Arc::new(Readers::default());
        assert_eq!(readers.slowest(), (0, None));
        let (fast, slow) = (readers.enter(3), readers.enter(3));
        fast.set(9);
        assert_eq!(readers.slowest(), (2, Some(3)));
        slow.set(5);
        assert_eq!(readers.slowest(), (2, Some(5)));
        drop(slow);
        assert_eq!(readers.slowest(), (1, Some(9)));
    }
}
