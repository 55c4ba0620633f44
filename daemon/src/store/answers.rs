//! The table of answers to calls with a request id.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

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

/// Adds an answer.
pub(crate) fn insert(connection: &Connection, answer: &Answer) -> rusqlite::Result<()> {
    let since = answer.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO answers (caller, id, time, method, request, answer)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let Answer {
        key: Key { caller, id },
        method,
        request,
        answer,
        ..
    } = answer;
    statement.execute((caller, id, nanos, method, request, answer))?;
    Ok(())
}

/// Forgets the answers to these calls.
pub(crate) fn forget(connection: &Connection, keys: &[Key]) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("DELETE FROM answers WHERE caller = ?1 AND id = ?2")?;
    for Key { caller, id } in keys {
        statement.execute((caller, id))?;
    }
    Ok(())
}

/// All of them, oldest first.
pub(crate) fn load(connection: &Connection) -> rusqlite::Result<Vec<Answer>> {
    let mut statement = connection.prepare(
        "SELECT caller, id, time, method, request, answer FROM answers ORDER BY time, rowid",
    )?;
    let rows = statement.query_map((), |row| {
        let nanos: i64 = row.get(2)?;
        Ok(Answer {
            key: Key {
                caller: row.get(0)?,
                id: row.get(1)?,
            },
            time: UNIX_EPOCH + Duration::from_nanos(nanos.unsigned_abs()),
            method: row.get(3)?,
            request: row.get(4)?,
            answer: row.get(5)?,
        })
    })?;
    rows.collect()
}
