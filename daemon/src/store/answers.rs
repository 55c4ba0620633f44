//! The table of answers to calls with a request id.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The call's request id.
    pub(crate) id: String,
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
        "INSERT OR REPLACE INTO answers (id, time, method, request, answer) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let Answer {
        id,
        method,
        request,
        answer,
        ..
    } = answer;
    statement.execute((id, nanos, method, request, answer))?;
    Ok(())
}

/// Forgets the answers to these calls.
pub(crate) fn forget(connection: &Connection, ids: &[String]) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("DELETE FROM answers WHERE id = ?1")?;
    for id in ids {
        statement.execute([id])?;
    }
    Ok(())
}

/// All of them, oldest first.
pub(crate) fn load(connection: &Connection) -> rusqlite::Result<Vec<Answer>> {
    let mut statement = connection
        .prepare("SELECT id, time, method, request, answer FROM answers ORDER BY time, rowid")?;
    let rows = statement.query_map((), |row| {
        let nanos: i64 = row.get(1)?;
        Ok(Answer {
            id: row.get(0)?,
            time: UNIX_EPOCH + Duration::from_nanos(nanos.unsigned_abs()),
            method: row.get(2)?,
            request: row.get(3)?,
            answer: row.get(4)?,
        })
    })?;
    rows.collect()
}
