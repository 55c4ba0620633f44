//! The writer: the one thread that changes the database.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, PoisonError, atomic::Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use rusqlite::{Connection, TransactionBehavior};
use tracing::{error, info};
use vmd_proto::v1::Event;

use super::{
    Retention, Unavailable, events,
    log::{Log, PerLog},
    machines,
    queue::{Shared, Statements, What, Work},
};

/// How soon the database is tried again when it could not be written, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// Events that have become too old are forgotten together, at most so often.
const PRUNE_APART: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    connection: Connection,
    path: PathBuf,
    shared: Arc<Shared>,
    retention: Retention,
    /// Whether commits are synced.
    synced: Option<bool>,
    /// When the database is tried again, and how long that wait was; `None` if it works.
    retry: Option<(Instant, Duration)>,
    /// When events will have become too old.
    prune_at: Option<Instant>,
}

/// What is done in one transaction.
struct Batch {
    events: PerLog<Vec<Arc<Event>>>,
    changes: HashMap<String, What>,
    work: Vec<Work>,
}

impl Drop for Writer {
    /// Also after a panic: nobody waits for it any more.
    fn drop(&mut self) {
        self.shared.closed(Unavailable::gone(&self.path));
    }
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        path: PathBuf,
        shared: Arc<Shared>,
        retention: Retention,
    ) -> Self {
        Self {
            connection,
            path,
            shared,
            retention,
            synced: None,
            retry: None,
            // At once.
            prune_at: Some(Instant::now()),
        }
    }

    pub(super) fn spawn(self) -> io::Result<JoinHandle<()>> {
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || self.run())
    }

    fn run(mut self) {
        while let Some(batch) = self.next() {
            let Batch {
                events,
                changes,
                work,
            } = batch;
            let (work, done): (Vec<_>, Vec<_>) =
                work.into_iter().map(|work| (work.run, work.done)).unzip();
            match self.commit(&events, &changes, work) {
                Ok(results) => {
                    self.retry = None;
                    self.prune_at = self.next_prune();
                    for log in Log::ALL {
                        let newest = events.of(log).last().map_or(0, |event| event.seq);
                        self.shared.committed(log, self.oldest(log), newest);
                    }
                    if self.shared.tried(None) {
                        info!("the store can be written again");
                    }
                    for (done, result) in done.into_iter().zip(results) {
                        let result = result.map_err(|error| Unavailable::new(&self.path, &error));
                        // Whoever asked may have gone.
                        let _ = done.send(result);
                    }
                }
                Err(error) => {
                    self.shared.put_back(changes);
                    let why = Unavailable::new(&self.path, &error);
                    let wait = self.retry.map_or(RETRY_FIRST, |(_, wait)| wait * 2);
                    let wait = wait.min(RETRY_LAST);
                    self.retry = Some((Instant::now() + wait, wait));
                    for done in done {
                        let _ = done.send(Err(why.clone()));
                    }
                    if self.shared.tried(Some(why.clone())) {
                        error!("{why}");
                    }
                }
            }
        }
    }

    /// Waits for something to do; `None` if there will be nothing more, or it cannot be done.
    fn next(&mut self) -> Option<Batch> {
        let mut queue = self.shared.lock();
        loop {
            let now = Instant::now();
            let due = match self.retry {
                Some((at, _)) => queue.hurry || at <= now,
                None => !queue.is_empty() || self.prune_at.is_some_and(|at| at <= now),
            };
            if due {
                break;
            }
            if queue.stop {
                return None;
            }
            let wake_at = self.retry.map(|(at, _)| at).or(self.prune_at);
            let wake = self.shared.wake();
            queue = match wake_at {
                Some(at) => {
                    let waited = wake.wait_timeout(queue, at.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
        queue.hurry = false;
        Some(Batch {
            // They stay in the queue until they are stored: so it is known how many wait.
            events: queue
                .events
                .map(|waiting| waiting.iter().cloned().collect()),
            changes: std::mem::take(&mut queue.changes),
            work: std::mem::take(&mut queue.work),
        })
    }

    /// One transaction; each piece of work has a result of its own.
    fn commit(
        &mut self,
        new: &PerLog<Vec<Arc<Event>>>,
        changes: &HashMap<String, What>,
        work: Vec<Statements>,
    ) -> rusqlite::Result<Vec<rusqlite::Result<()>>> {
        let synced = changes.values().any(What::is_definition) || !work.is_empty();
        if self.synced != Some(synced) {
            let level = if synced { "full" } else { "normal" };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.synced = Some(synced);
        }
        let mut transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for log in Log::ALL {
            let new = new.of(log);
            // Some in between were given up: nobody may read across the gap.
            if let Some(first) = new.first()
                && first.seq > self.shared.log(log).stored.get() + 1
            {
                events::forget(&transaction, log, first.seq)?;
            }
            for event in new {
                events::insert(&transaction, log, event)?;
            }
        }
        // A name may be another machine's now.
        let (deleted, others): (Vec<_>, Vec<_>) = changes
            .iter()
            .partition(|(_, what)| matches!(what, What::Deleted));
        for (id, what) in deleted.into_iter().chain(others) {
            machines::apply(&transaction, id, what)?;
        }
        let mut results = Vec::new();
        for work in work {
            let part = transaction.savepoint()?;
            let result = work(&part);
            results.push(match result {
                Ok(()) => part.commit(),
                Err(error) => part.finish().and(Err(error)),
            });
        }
        for log in Log::ALL {
            events::prune(&transaction, log, self.retention, SystemTime::now())?;
        }
        transaction.commit()?;
        Ok(results)
    }

    /// When the next event will have become too old.
    fn next_prune(&self) -> Option<Instant> {
        let next = |log| {
            let next = events::next_prune(&self.connection, log, self.retention, SystemTime::now());
            next.ok().flatten()
        };
        let next = Log::ALL.into_iter().filter_map(next).min()?;
        Instant::now().checked_add(next.max(PRUNE_APART))
    }

    /// The oldest event kept.
    fn oldest(&self, log: Log) -> u64 {
        match events::bounds(&self.connection, log) {
            Ok((oldest, _)) => oldest,
            // What was known before is not wrong: a read finds what is gone.
            Err(_) => self.shared.log(log).oldest.load(Ordering::Acquire),
        }
    }
}
