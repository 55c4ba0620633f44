//! The logs that a store has: each is a table of events with numbers of its own.

/// A log of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Log {
    /// What happens to machines.
    Events,
    /// The audit trail.
    Audit,
}

impl Log {
    pub(super) const ALL: [Self; 2] = [Self::Events, Self::Audit];

    /// Its table in the database.
    pub(super) fn table(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Audit => "audit",
        }
    }
}

/// Something that there is for each log.
#[derive(Default)]
pub(super) struct PerLog<T> {
    events: T,
    audit: T,
}

impl<T> PerLog<T> {
    pub(super) fn new<E>(mut make: impl FnMut(Log) -> Result<T, E>) -> Result<Self, E> {
        Ok(Self {
            events: make(Log::Events)?,
            audit: make(Log::Audit)?,
        })
    }

    pub(super) fn of(&self, log: Log) -> &T {
        match log {
            Log::Events => &self.events,
            Log::Audit => &self.audit,
        }
    }

    pub(super) fn of_mut(&mut self, log: Log) -> &mut T {
        match log {
            Log::Events => &mut self.events,
            Log::Audit => &mut self.audit,
        }
    }

    pub(super) fn map<U>(&self, mut make: impl FnMut(&T) -> U) -> PerLog<U> {
        PerLog {
            events: make(&self.events),
            audit: make(&self.audit),
        }
    }
}
