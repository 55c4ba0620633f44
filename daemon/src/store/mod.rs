//! The durable store: machines, events and the audit trail, in one SQLite database in the data directory.
//!
//! ```text
//!   EventLog::append --> queue --> writer thread: all that waits, in one transaction --> vmd.db
//!                                      |                                                   |
//!   replies, streams <-- watermark ----+              events older than the log's window <-+
//! ```
//! A process that is killed loses nothing that was committed; a host that loses power may lose the latest events, but no
//! machine that was answered for, and the database stays sound: transactions that change definitions are synced.
//!
//! While the database cannot be written, events and changes wait, in bounded memory, and the writer tries again. What does
//! not fit is forgotten from the old end, in the database too, so that a reader is told instead of missing something.
//!
//! | file | what is there |
//! | --- | --- |
//! | `schema` | opening: what is refused, the versions and how one becomes the next |
//! | `queue` | what waits for the writer, and how it is doing |
//! | `writer` | the thread that owns the connection |
//! | `log` | which logs there are: events, audit trail |
//! | `machines`, `events`, `answers` | the tables |
//!
//! To add a table: a step in `schema::MIGRATIONS`, a file with its statements, and calls of [`Store::transact`], which is
//! done after all that was appended to the log before, and of [`Store::read`].

pub(crate) mod answers;
mod events;
mod log;
mod machines;
mod queue;
mod schema;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;
use thiserror::Error;
use tokio::{
    sync::{Semaphore, oneshot},
    task,
};
use vmd_proto::v1::{Event, Vm};

pub use self::queue::{Change, What};
pub(crate) use self::{log::Log, queue::Watermark};
use self::{
    log::PerLog,
    queue::{Kept, Shared, Work},
    writer::Writer,
};

/// The database's name in the data directory.
pub const FILE: &str = "vmd.db";

/// Connections that read at the same time. They are there from the start, and stay: SQLite keeps the descriptor of one that
/// is closed for as long as others have the file locked (its `os_unix.c`, "Posix Advisory Locking").
const READERS: usize = 4;

/// Which events are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// How many, at least one.
    pub kept: usize,
    /// How old they may become. The newest is always kept.
    pub max_age: Option<Duration>,
}

/// Reads an age: `30s`, `90m`, `36h`, `7d`.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number with s, m, h or d, for example 7d".to_owned();
    let unit = text.chars().last().ok_or_else(expected)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(expected()),
    };
    let digits = text.strip_suffix(unit).unwrap_or_default();
    let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let count: u64 = digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(expected)?;
    let seconds = count.checked_mul(seconds).ok_or("the time is too long")?;
    if seconds == 0 {
        return Err("the time is too short".to_owned());
    }
    Ok(Duration::from_secs(seconds))
}

/// Why a store cannot be used. It was left as it is.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file cannot be read or made.
    #[error("the store {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// It is something else.
    #[error(
        "the store {}: not a store of vmd; it was left as it is: move it away, or name another data directory",
        .0.display()
    )]
    Foreign(PathBuf),
    /// A later vmd made it.
    #[error(
        "the store {}: its version is {found}, this vmd knows versions up to {known}; it was left as it is: use the vmd \
         that made it, or a later one", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The latest that is known.
        known: u32,
    },
    /// It is not sound.
    #[error(
        "the store {}: damaged: {problem}; it was left as it is: restore it from a copy, or move it away, with \
         {FILE}-wal and {FILE}-shm, to begin without machines and events", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// SQLite failed.
    #[error("the store {}: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: rusqlite::Error,
    },
    /// A machine in it cannot be understood.
    #[error("the store {}: machine '{name}': {problem}; nothing was changed", path.display())]
    Machine {
        /// The file.
        path: PathBuf,
        /// The machine.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

/// The store does not work at the moment; it is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the store {path} cannot be used: {problem}; {remedy}")]
pub struct Unavailable {
    path: Arc<str>,
    problem: Arc<str>,
    remedy: &'static str,
}

impl Unavailable {
    fn new(path: &Path, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let remedy = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => "free some space there; vmd tries again",
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                "make it writable; vmd tries again"
            }
            _ => "look at its file system; vmd tries again",
        };
        Self {
            path: path.display().to_string().into(),
            problem: error.to_string().into(),
            remedy,
        }
    }

    fn gone(path: &Path) -> Self {
        Self {
            path: path.display().to_string().into(),
            problem: "it is closed".into(),
            remedy: "the daemon is shutting down",
        }
    }
}

/// What was in a store when it was opened.
#[derive(Debug)]
pub struct Contents {
    /// The machines, each with its last status.
    pub machines: Vec<Vm>,
    /// The newest event's number; 0 if there was none. The audit trail has its own.
    pub newest: u64,
}

/// An open store. Its writer ends, with all done that was given to it if that can be, when this is dropped.
pub struct Store {
    path: PathBuf,
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    readers: Readers,
}

impl Store {
    /// Opens the store in `directory`, or makes one. At most `waiting` events wait while it cannot be written. Blocks.
    pub fn open(
        directory: &Path,
        retention: Retention,
        waiting: usize,
    ) -> Result<(Self, Contents), StoreError> {
        let path = directory.join(FILE);
        let connection = schema::open(&path)?;
        let failed = |source| StoreError::Database {
            path: path.clone(),
            source,
        };
        let logs = PerLog::new(|log| events::bounds(&connection, log).map(Kept::new));
        let logs = logs.map_err(failed)?;
        let contents = Contents {
            machines: machines::load(&connection).map_err(failed)?,
            newest: logs.of(Log::Events).stored.get(),
        };
        let shared = Arc::new(Shared::new(logs, waiting));
        let writer = Writer::new(connection, path.clone(), shared.clone(), retention);
        let writer = writer.spawn().map_err(|source| StoreError::File {
            path: path.clone(),
            source,
        })?;
        let store = Self {
            readers: Readers::new(path.clone()).map_err(failed)?,
            path,
            shared,
            writer: Mutex::new(Some(writer)),
        };
        Ok((store, contents))
    }

    /// Hands the writer an event of `log`, whose number is the next, and what it changes.
    pub(crate) fn append(&self, log: Log, event: Arc<Event>, change: Option<Change>) {
        self.shared.append(log, event, change);
    }

    /// The number of the oldest event that is kept of `log`, or will be the first.
    pub(crate) fn oldest(&self, log: Log) -> u64 {
        self.shared.log(log).oldest.load(Ordering::Acquire)
    }

    /// The number up to which all of `log` is stored.
    pub(crate) fn watermark(&self, log: Log) -> &Watermark {
        &self.shared.log(log).stored
    }

    /// Waits until event `seq` of `log` and what it changed are stored; fails if the store does not work. Does not wait
    /// if they are.
    pub(crate) async fn stored(&self, log: Log, seq: u64) -> Result<(), Unavailable> {
        self.shared.stored(log, seq).await
    }

    /// Whether the store works, as far as is known; if it did not, it is tried again first.
    pub async fn ready(&self) -> Result<(), Unavailable> {
        self.shared.ready().await
    }

    /// Has the writer do `work` in a transaction, after all that was appended before. It is stored when this returns. If
    /// `work` fails, it has changed nothing.
    pub async fn transact<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (done, answer) = oneshot::channel();
        let (work, value) = Work::new(work, done);
        self.shared.work(work);
        match answer.await {
            Ok(Ok(())) => value.await.map_err(|_| Unavailable::gone(&self.path)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Unavailable::gone(&self.path)),
        }
    }

    /// Has `query` read what is stored, on a thread where that may block.
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.readers.read(query).await
    }

    /// The events of `log` after `after_seq` up to `last_seq`, oldest first, `limit` at most.
    pub(crate) async fn events(
        &self,
        log: Log,
        after_seq: u64,
        last_seq: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, Unavailable> {
        self.read(move |connection| events::read(connection, log, after_seq, last_seq, limit))
            .await
    }

    /// Gives back memory that is kept for what comes next.
    pub(crate) async fn rest(&self) {
        self.shared.rest();
        let shrink = |connection: &Connection| {
            connection.flush_prepared_statement_cache();
            connection.execute_batch("PRAGMA shrink_memory")
        };
        // Nothing depends on any of it.
        self.readers.rest(shrink).await;
        let _ = self.transact(shrink).await;
    }

    /// Ends the writer, which does what it was given if it can. Blocks.
    pub fn close(&self) {
        // The last connection that closes tidies up: the writer's.
        drop(lock(&self.readers.idle).take());
        self.shared.stop();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = writer.take() {
            // It has said why, if it panicked.
            let _ = writer.join();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// Connections that only read.
struct Readers {
    path: PathBuf,
    /// `None` once the store is closed.
    idle: Arc<Mutex<Option<Vec<Connection>>>>,
    permits: Semaphore,
}

fn lock(idle: &Mutex<Option<Vec<Connection>>>) -> MutexGuard<'_, Option<Vec<Connection>>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Readers {
    fn new(path: PathBuf) -> rusqlite::Result<Self> {
        let open = (0..READERS).map(|_| schema::open_reader(&path));
        let open = open.collect::<rusqlite::Result<_>>()?;
        Ok(Self {
            path,
            idle: Arc::new(Mutex::new(Some(open))),
            permits: Semaphore::new(READERS),
        })
    }

    /// Has each that is idle do `shrink`.
    async fn rest(&self, shrink: impl Fn(&Connection) -> rusqlite::Result<()> + Send + 'static) {
        let idle = self.idle.clone();
        let each = move || {
            let mut all = lock(&idle).as_mut().map(std::mem::take).unwrap_or_default();
            all.retain(|connection| shrink(connection).is_ok());
            if let Some(idle) = lock(&idle).as_mut() {
                idle.append(&mut all);
            }
        };
        // It does not panic.
        let _ = task::spawn_blocking(each).await;
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let (path, idle) = (self.path.clone(), self.idle.clone());
        let read = move || {
            let kept = lock(&idle).as_mut().and_then(Vec::pop);
            // One that failed is not used again.
            let connection = kept.map_or_else(|| schema::open_reader(&path), Ok)?;
            let answer = query(&connection)?;
            if let Some(idle) = lock(&idle).as_mut() {
                idle.push(connection);
            }
            Ok(answer)
        };
        match task::spawn_blocking(read).await {
            Ok(read) => read.map_err(|error| Unavailable::new(&self.path, &error)),
            Err(_) => Err(Unavailable::gone(&self.path)),
        }
    }
}

#[cfg(test)]
mod tests;
