//! The tables of events, one for each log.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prost::Message;
use rusqlite::{Connection, OptionalExtension, types::Type};
use vmd_proto::v1::Event;

use super::{Retention, log::Log};

/// Adds an event. One whose commit failed may be there all the same.
pub(super) fn insert(connection: &Connection, log: Log, event: &Event) -> rusqlite::Result<()> {
    let time = event.time.unwrap_or_default();
    let time = time
        .seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(time.nanos.into());
    let mut statement = connection.prepare_cached(&format!(
        "INSERT OR REPLACE INTO {} (seq, time, event) VALUES (?1, ?2, ?3)",
        log.table()
    ))?;
    statement.execute((seq(event.seq), time, event.encode_to_vec()))?;
    Ok(())
}

/// Those after `after_seq` up to `last_seq`, oldest first, `limit` at most.
pub(super) fn read(
    connection: &Connection,
    log: Log,
    after_seq: u64,
    last_seq: u64,
    limit: usize,
) -> rusqlite::Result<Vec<Arc<Event>>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT event FROM {} WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
        log.table()
    ))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map((seq(after_seq), seq(last_seq), limit), |row| {
        let bytes = row.get_ref(0)?.as_blob()?;
        let event = Event::decode(bytes).map_err(|error| decode_error(0, error))?;
        Ok(Arc::new(event))
    })?;
    rows.collect()
}

/// The oldest number, and the newest; 1 and 0 if there are none.
pub(super) fn bounds(connection: &Connection, log: Log) -> rusqlite::Result<(u64, u64)> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) FROM {}",
        log.table()
    ))?;
    statement.query_row((), |row| Ok((number(row.get(0)?), number(row.get(1)?))))
}

/// Forgets those before `first_seq`.
pub(super) fn forget(connection: &Connection, log: Log, first_seq: u64) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached(&format!("DELETE FROM {} WHERE seq < ?1", log.table()))?;
    statement.execute([seq(first_seq)])?;
    Ok(())
}

/// Forgets what need not be kept; the newest is, so that its number is not given again.
pub(super) fn prune(
    connection: &Connection,
    log: Log,
    retention: Retention,
    now: SystemTime,
) -> rusqlite::Result<()> {
    let (oldest, newest) = bounds(connection, log)?;
    let kept = u64::try_from(retention.kept).unwrap_or(u64::MAX).max(1);
    let mut first = oldest.max((newest + 1).saturating_sub(kept));
    if let Some(age) = retention.max_age {
        let mut statement = connection.prepare_cached(&format!(
            "SELECT seq FROM {} WHERE time >= ?1 ORDER BY seq LIMIT 1",
            log.table()
        ))?;
        let young: Option<i64> = statement
            .query_row([nanos(now.checked_sub(age))], |row| row.get(0))
            .optional()?;
        first = first.max(young.map_or(newest, number));
    }
    if first > oldest {
        forget(connection, log, first)?;
    }
    Ok(())
}

/// When the next event will be too old: not before this much time from `now`. `None` if none will be.
pub(super) fn next_prune(
    connection: &Connection,
    log: Log,
    retention: Retention,
    now: SystemTime,
) -> rusqlite::Result<Option<Duration>> {
    let Some(age) = retention.max_age else {
        return Ok(None);
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT time FROM {table} WHERE seq < (SELECT max(seq) FROM {table}) ORDER BY seq LIMIT 1",
        table = log.table()
    ))?;
    let oldest: Option<i64> = statement.query_row((), |row| row.get(0)).optional()?;
    Ok(oldest.map(|time| {
        let time = UNIX_EPOCH + Duration::from_nanos(number(time));
        (time + age).duration_since(now).unwrap_or_default()
    }))
}

fn nanos(time: Option<SystemTime>) -> i64 {
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

/// Numbers of events are counted from 1: they do not get near SQLite's limit.
fn seq(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A value that is no message.
pub(super) fn decode_error(column: usize, error: prost::DecodeError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::new(error))
}
