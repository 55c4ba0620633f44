//! How many connections there are, and how many each caller has.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;

/// Connections of all callers together, unless configured otherwise.
const DEFAULT_ALL: u32 = 4096;
/// Connections of one caller, unless configured otherwise: a few callers who forget to close theirs keep nobody out.
const DEFAULT_EACH: u32 = 1024;

/// Why a connection is closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum TooMany {
    /// All callers have too many.
    #[error("there are {0} connections already (limits.connections in the daemon's configuration)")]
    All(u32),
    /// This one has.
    #[error("it has {0} already (limits.connections_per_caller in the daemon's configuration)")]
    OfCaller(u32),
}

/// The connections of one daemon.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    all: u32,
    of: HashMap<String, u32>,
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    connections: Arc<Connections>,
    who: String,
}

impl Connections {
    /// A place for another connection of `who`.
    pub(super) fn enter(
        self: &Arc<Self>,
        who: String,
        all: Option<u32>,
        each: Option<u32>,
    ) -> Result<Seat, TooMany> {
        let (all, each) = (all.unwrap_or(DEFAULT_ALL), each.unwrap_or(DEFAULT_EACH));
        let mut inner = self.lock();
        if inner.all >= all {
            return Err(TooMany::All(all));
        }
        let now = inner.of.get(&who).copied().unwrap_or(0);
        if now >= each {
            return Err(TooMany::OfCaller(each));
        }
        inner.of.insert(who.clone(), now + 1);
        inner.all += 1;
        drop(inner);
        let connections = self.clone();
        Ok(Seat { connections, who })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.connections.lock();
        inner.all = inner.all.saturating_sub(1);
        if let Entry::Occupied(mut entry) = inner.of.entry(std::mem::take(&mut self.who)) {
            match entry.get().saturating_sub(1) {
                0 => drop(entry.remove()),
                left => *entry.get_mut() = left,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_all_places_and_each_comes_back() {
        let connections = Arc::new(Connections::default());
        let enter = |who: &str| connections.enter(who.to_owned(), Some(3), Some(2));
        let a = [enter("a").unwrap(), enter("a").unwrap()];
        assert_eq!(enter("a").unwrap_err(), TooMany::OfCaller(2));
        let b = enter("b").unwrap();
        assert_eq!(enter("b").unwrap_err(), TooMany::All(3));
        drop(a);
        let more = [enter("b").unwrap(), enter("a").unwrap()];
        drop((b, more));
        let inner = connections.lock();
        assert_eq!((inner.all, inner.of.len()), (0, 0));
    }
}
