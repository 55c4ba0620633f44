//! Opening the database: what is refused, its versions, and how one becomes the next.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::StoreError;

/// In the file's header: this is a store of vmd.
const APPLICATION_ID: u32 = u32::from_be_bytes(*b"vmd1");

/// What makes version N + 1 of version N; the first makes version 1 of nothing. A step that was released is never changed.
pub(super) const MIGRATIONS: &[&str] = &[
    // `vm` is a vmd.v1.Vm without its status, `status` a vmd.v1.VmStatus, `event` a vmd.v1.Event; times are nanoseconds.
    "CREATE TABLE machines (
         id TEXT PRIMARY KEY,
         name TEXT NOT NULL UNIQUE,
         vm BLOB NOT NULL,
         status BLOB NOT NULL
     ) STRICT;
     CREATE TABLE events (
         seq INTEGER PRIMARY KEY,
         time INTEGER NOT NULL,
         event BLOB NOT NULL
     ) STRICT;",
    // Of calls with a request id; `request` and `answer` are messages of vmd.v1.
    "CREATE TABLE answers (
         id TEXT PRIMARY KEY,
         time INTEGER NOT NULL,
         method TEXT NOT NULL,
         request BLOB NOT NULL,
         answer BLOB NOT NULL
     ) STRICT;",
    // The audit trail, as events.
    "CREATE TABLE audit (
         seq INTEGER PRIMARY KEY,
         time INTEGER NOT NULL,
         event BLOB NOT NULL
     ) STRICT;",
    // A request id is its caller's own. Whose the answers from before were is not known: they are nobody's.
    "DROP TABLE answers;
     CREATE TABLE answers (
         caller TEXT NOT NULL,
         id TEXT NOT NULL,
         time INTEGER NOT NULL,
         method TEXT NOT NULL,
         request BLOB NOT NULL,
         answer BLOB NOT NULL,
         PRIMARY KEY (caller, id)
     ) STRICT;",
];

/// How long another program that has the database locked, such as one that copies it, is waited for.
const BUSY: Duration = Duration::from_secs(5);

/// The write-ahead log is cut to this size when it was longer.
const WAL_KEPT: u32 = 16 << 20;

/// The writer's memory for pages, in KiB: rows are added at the end, and the host has the rest in its own cache.
const CACHE_KIB: i32 = 128;
/// That of each that reads: from one end to the other.
const READERS_CACHE_KIB: i32 = 64;

/// Where SQLite's file format has the beginning, the version, the application's id, and the end of the header.
const MAGIC: &[u8] = b"SQLite format 3\0";
const VERSION_AT: usize = 60;
const APPLICATION_AT: usize = 68;
const HEADER: u64 = 100;

/// Opens the database at `path`, or makes it; it is sound, and of the latest version.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    open_as(path, MIGRATIONS)
}

pub(super) fn open_as(path: &Path, migrations: &[&str]) -> Result<Connection, StoreError> {
    let on_file = |source| StoreError::File {
        path: path.to_owned(),
        source,
    };
    match File::open(path) {
        Ok(file) => check_header(file, path, migrations).map_err(|error| match error {
            HeaderError::File(source) => on_file(source),
            HeaderError::Store(error) => error,
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path, migrations)?,
        Err(error) => return Err(on_file(error)),
    }
    let on_sqlite = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            StoreError::Damaged {
                path: path.to_owned(),
                problem: source.to_string(),
            }
        }
        _ => StoreError::Database {
            path: path.to_owned(),
            source,
        },
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(on_sqlite)?;
    // What is refused is left as it is, also by the last connection that closes it.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .and_then(|_| connection.busy_timeout(BUSY))
        .map_err(on_sqlite)?;
    let found = version(&connection).map_err(on_sqlite)?;
    known(found, path, migrations)?;
    let sound: String = connection
        .query_row("PRAGMA quick_check(1)", (), |row| row.get(0))
        .map_err(on_sqlite)?;
    if sound != "ok" {
        return Err(StoreError::Damaged {
            path: path.to_owned(),
            // Errors have one line.
            problem: sound.lines().collect::<Vec<_>>().join(" "),
        });
    }
    prepare(&mut connection, migrations).map_err(on_sqlite)?;
    Ok(connection)
}

/// Opens it for reading alone.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "cache_size", -READERS_CACHE_KIB)?;
    Ok(connection)
}

enum HeaderError {
    File(io::Error),
    Store(StoreError),
}

/// Looks at the file without SQLite, which would take it for its own.
fn check_header(file: File, path: &Path, migrations: &[&str]) -> Result<(), HeaderError> {
    let mut header = Vec::new();
    let read = file.take(HEADER).read_to_end(&mut header);
    read.map_err(HeaderError::File)?;
    let number = |at: usize| {
        let bytes = header
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_be_bytes)
    };
    if !header.starts_with(MAGIC) || number(APPLICATION_AT) != Some(APPLICATION_ID) {
        return Err(HeaderError::Store(StoreError::Foreign(path.to_owned())));
    }
    known(number(VERSION_AT).unwrap_or(0), path, migrations).map_err(HeaderError::Store)
}

fn known(found: u32, path: &Path, migrations: &[&str]) -> Result<(), StoreError> {
    let known = latest(migrations);
    if found > known {
        let path = path.to_owned();
        return Err(StoreError::Newer { path, found, known });
    }
    Ok(())
}

fn latest(migrations: &[&str]) -> u32 {
    u32::try_from(migrations.len()).unwrap_or(u32::MAX)
}

fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", (), |row| row.get(0))
}

/// Makes a database beside `path`, and gives it that name when it is whole.
fn create(path: &Path, migrations: &[&str]) -> Result<(), StoreError> {
    let new = PathBuf::from(format!("{}.new", path.display()));
    let on_file = |source| StoreError::File {
        path: path.to_owned(),
        source,
    };
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(on_file(error)),
        _ => {}
    }
    // Events and definitions are nobody else's business, wherever the directory is.
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(&new);
    made.map_err(on_file)?;
    let make = || {
        let mut connection = Connection::open(&new)?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        migrate(&mut connection, migrations)?;
        connection.close().map_err(|(_, error)| error)
    };
    make().map_err(|source| StoreError::Database {
        path: path.to_owned(),
        source,
    })?;
    let name = || {
        fs::rename(&new, path)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        File::open(directory)?.sync_all()
    };
    name().map_err(on_file)
}

fn prepare(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    migrate(connection, migrations)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // A daemon that confines itself to its directories has no other for temporary files.
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "journal_size_limit", WAL_KEPT)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(())
}

/// Makes the latest version of what there is, in one transaction.
fn migrate(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let found = version(connection)?;
    let steps = migrations.get(usize::try_from(found).unwrap_or(usize::MAX)..);
    let Some(steps @ [_, ..]) = steps else {
        return Ok(());
    };
    connection.pragma_update(None, "synchronous", "full")?;
    let transaction = connection.transaction()?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", latest(migrations))?;
    transaction.commit()
}
