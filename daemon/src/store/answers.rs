//! The table of answers to calls with a request id.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, OptionalExtension, Row, Rows};

/// Which call with a request id it was: ids are the caller's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Who called.
    pub(crate) caller: String,
    /// The request id.
    pub(crate) id: String,
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Which it was.
    pub(crate) key: Key,
    /// When it was answered.
    pub(crate) time: SystemTime,
    /// Which call it was.
    pub(crate) method: String,
    /// Its request, encoded.
    pub(crate) request: Vec<u8>,
    /// The answer, encoded.
    pub(crate) answer: Vec<u8>,
}

/// How many answers there are, at most.
pub(crate) const MAX_ANSWERS: i64 = 10_000;
/// How many bytes they, their ids and their requests have in all, at most.
pub(crate) const MAX_BYTES: i64 = 32 << 20;
/// How long they are kept.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    /// Answers.
    pub(crate) count: i64,
    /// Bytes of all that they consist of.
    pub(crate) bytes: i64,
}

/// What the table has, in memory: so that an id that is new is not looked for there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    pub(crate) sum: Sum,
    /// Hashes of keys. Two are the same once in 10^11 daemons; then the later one's forgetting is the other's, too.
    keys: HashSet<u64>,
    hasher: RandomState,
}

impl Index {
    /// Of what is there.
    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut index = Self::default();
        let mut statement =
            connection.prepare(&format!("SELECT caller, id, {BYTES} FROM answers"))?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            index.count(row)?;
        }
        Ok(index)
    }

    /// Whether there may be an answer to this call.
    pub(crate) fn may_have(&self, key: &Key) -> bool {
        self.keys.contains(&self.hash(&key.caller, &key.id))
    }

    fn count(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        let (hash, bytes) = self.seen(row)?;
        self.keys.insert(hash);
        self.sum.count += 1;
        self.sum.bytes += bytes;
        Ok(())
    }

    /// Takes what was deleted off; whether that was anything.
    fn forget(&mut self, mut rows: Rows<'_>) -> rusqlite::Result<bool> {
        let mut any = false;
        while let Some(row) = rows.next()? {
            let (hash, bytes) = self.seen(row)?;
            self.keys.remove(&hash);
            self.sum.count -= 1;
            self.sum.bytes -= bytes;
            any = true;
        }
        Ok(any)
    }

    /// Caller, id, bytes.
    fn seen(&self, row: &Row<'_>) -> rusqlite::Result<(u64, i64)> {
        let caller = row.get_ref(0)?.as_str()?;
        let id = row.get_ref(1)?.as_str()?;
        Ok((self.hash(caller, id), row.get(2)?))
    }

    fn hash(&self, caller: &str, id: &str) -> u64 {
        self.hasher.hash_one((caller, id))
    }
}

/// Of a row.
const BYTES: &str = "octet_length(caller) + octet_length(id) + length(request) + length(answer)";

/// Adds an answer to those of `index`, and forgets what is too much then, or too old.
pub(crate) fn insert(
    connection: &Connection,
    answer: &Answer,
    index: &mut Index,
) -> rusqlite::Result<()> {
    let now = nanos(answer.time);
    let Answer {
        key: Key { caller, id },
        method,
        request,
        answer,
        ..
    } = answer;
    // The same id may be there, too old and not yet forgotten.
    let mut delete = connection.prepare_cached(&format!(
        "DELETE FROM answers WHERE caller = ?1 AND id = ?2 RETURNING caller, id, {BYTES}"
    ))?;
    index.forget(delete.query((caller, id))?)?;
    let mut insert = connection.prepare_cached(&format!(
        "INSERT INTO answers (caller, id, time, method, request, answer) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         RETURNING caller, id, {BYTES}"
    ))?;
    let row = (caller, id, now, method, request, answer);
    insert.query_row(row, |row| index.count(row))?;
    // Rows are numbered as they come.
    let mut forget = connection.prepare_cached(&format!(
        "DELETE FROM answers WHERE rowid = (SELECT min(rowid) FROM answers) AND (?1 OR time <= ?2)
         RETURNING caller, id, {BYTES}"
    ))?;
    let old = now.saturating_sub(i64::try_from(MAX_AGE.as_nanos()).unwrap_or(i64::MAX));
    loop {
        let Sum { count, bytes } = index.sum;
        let too_much = count > MAX_ANSWERS || bytes > MAX_BYTES;
        if !index.forget(forget.query((too_much, old))?)? {
            return Ok(());
        }
    }
}

/// The answer to this call, if it is kept at this time.
pub(crate) fn find(
    connection: &Connection,
    key: &Key,
    now: SystemTime,
) -> rusqlite::Result<Option<Answer>> {
    let mut statement = connection.prepare_cached(
        "SELECT time, method, request, answer FROM answers WHERE caller = ?1 AND id = ?2",
    )?;
    let found = statement.query_row((&key.caller, &key.id), |row| {
        let nanos: i64 = row.get(0)?;
        Ok(Answer {
            key: key.clone(),
            time: UNIX_EPOCH + Duration::from_nanos(nanos.unsigned_abs()),
            method: row.get(1)?,
            request: row.get(2)?,
            answer: row.get(3)?,
        })
    });
    Ok(found.optional()?.filter(|answer| !is_old(answer.time, now)))
}

/// Whether an answer of this `time` is kept no more. A clock that was set back makes nothing old.
pub(crate) fn is_old(time: SystemTime, now: SystemTime) -> bool {
    now.duration_since(time).is_ok_and(|age| age >= MAX_AGE)
}

fn nanos(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
