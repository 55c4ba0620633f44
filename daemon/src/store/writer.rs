//! The writer: the one thread that changes the database.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use rusqlite::{Connection, TransactionBehavior};
use tracing::{error, info};
use vmd_proto::v1::Event;

use super::{
    Retention, Unavailable, events, machines,
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
    events: Vec<Arc<Event>>,
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
                    let newest = events.last().map_or(0, |event| event.seq);
                    let oldest = self.pruned();
                    self.shared.committed(oldest, newest);
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
            events: queue.events.iter().cloned().collect(),
            changes: std::mem::take(&mut queue.changes),
            work: std::mem::take(&mut queue.work),
        })
    }

    /// One transaction; each piece of work has a result of its own.
    fn commit(
        &mut self,
        new: &[Arc<Event>],
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
        // Some in between were given up: nobody may read across the gap.
        if let Some(first) = new.first()
            && first.seq > self.shared.stored.get() + 1
        {
            events::forget(&transaction, first.seq)?;
        }
        for event in new {
            events::insert(&transaction, event)?;
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
        events::prune(&transaction, self.retention, SystemTime::now())?;
        transaction.commit()?;
        Ok(results)
    }

    /// The oldest event kept; sees to it that this is looked at again in time.
    fn pruned(&mut self) -> u64 {
        let next = events::next_prune(&self.connection, self.retention, SystemTime::now());
        let next = next.ok().flatten();
        self.prune_at = next.and_then(|next| Instant::now().checked_add(next.max(PRUNE_APART)));
        match events::bounds(&self.connection) {
            Ok((oldest, _)) => oldest,
            // What was known before is not wrong: a read finds what is gone.
            Err(_) => self
                .shared
                .oldest
                .load(std::sync::atomic::Ordering::Acquire),
        }
    }
}
