//! Tests of the store, with a database in a directory of its own.

use std::{cell::RefCell, fs, os::unix::fs::PermissionsExt, time::SystemTime};

use rusqlite::Connection;
use tempfile::TempDir;
use vmd_proto::v1::VmStatus;

use super::answers::{Answer, Index, Key, Sum};
use super::*;
use crate::event_log::{EventLog, ReadError};

const KEEP_ALL: Retention = Retention {
    kept: usize::MAX,
    max_age: None,
};

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(directory: &TempDir) -> (Store, Contents) {
    Store::open(directory.path(), KEEP_ALL, 100).unwrap()
}

fn path(directory: &TempDir) -> PathBuf {
    directory.path().join(FILE)
}

fn event(seq: u64) -> Arc<Event> {
    event_at(seq, SystemTime::now())
}

fn event_at(seq: u64, time: SystemTime) -> Arc<Event> {
    Arc::new(Event {
        seq,
        vm_name: format!("vm-{seq}"),
        time: Some(time.into()),
        ..Default::default()
    })
}

fn status(seq: u64) -> VmStatus {
    VmStatus {
        seq,
        ..Default::default()
    }
}

fn machine(id: &str, name: &str, seq: u64) -> Option<Change> {
    let vm = Vm {
        id: id.to_owned(),
        name: name.to_owned(),
        status: Some(status(seq)),
        ..Default::default()
    };
    Some(Change {
        id: id.to_owned(),
        what: What::Machine(Box::new(vm)),
    })
}

fn change(id: &str, what: What) -> Option<Change> {
    let id = id.to_owned();
    Some(Change { id, what })
}

/// Makes the database refuse events, until it is dropped.
struct Failing(Connection);

impl Failing {
    fn new(directory: &TempDir) -> Self {
        let other = Connection::open(path(directory)).unwrap();
        other
            .execute_batch(
                "CREATE TRIGGER fail BEFORE INSERT ON events BEGIN SELECT raise(ABORT, 'no'); END",
            )
            .unwrap();
        Self(other)
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.0.execute_batch("DROP TRIGGER fail").unwrap();
    }
}

async fn numbers(store: &Store, after: u64, last: u64) -> Vec<u64> {
    let events = store.events(Log::Events, after, last, 100).await.unwrap();
    events.iter().map(|event| event.seq).collect()
}

#[tokio::test]
async fn what_was_stored_is_there_the_next_time() {
    let directory = directory();
    {
        let (store, contents) = open(&directory);
        assert_eq!((contents.newest, contents.machines.len()), (0, 0));
        store.append(Log::Events, event(1), machine("1", "a", 1));
        store.append(Log::Events, event(2), machine("2", "b", 2));
        store.append(Log::Events, event(3), change("1", What::Status(status(3))));
        store.stored(Log::Events, 3).await.unwrap();
        store.append(Log::Events, event(4), change("2", What::Status(status(4))));
        assert_eq!(store.oldest(Log::Events), 1);
        // The last is stored as it closes.
    }
    let (store, contents) = open(&directory);
    assert_eq!(contents.newest, 4);
    let machines: Vec<_> = contents
        .machines
        .iter()
        .map(|vm| (vm.name.as_str(), vm.status.as_ref().unwrap().seq))
        .collect();
    assert_eq!(machines, [("a", 3), ("b", 4)]);
    assert_eq!(numbers(&store, 1, 3).await, [2, 3]);
    let first = store.events(Log::Events, 0, 4, 1).await.unwrap();
    assert_eq!((first.len(), first[0].vm_name.as_str()), (1, "vm-1"));
    assert!(!directory.path().join("vmd.db.new").exists());
    for file in fs::read_dir(directory.path()).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_name_may_go_from_one_machine_to_another_at_once() {
    let directory = directory();
    {
        let (store, _) = open(&directory);
        store.append(Log::Events, event(1), machine("1", "a", 1));
        store.stored(Log::Events, 1).await.unwrap();
        let failing = Failing::new(&directory);
        store.append(Log::Events, event(2), change("1", What::Deleted));
        store.append(Log::Events, event(3), machine("2", "a", 3));
        store.append(Log::Events, event(4), machine("3", "b", 4));
        store.stored(Log::Events, 4).await.unwrap_err();
        store.append(Log::Events, event(5), change("3", What::Deleted));
        store.append(Log::Events, event(6), change("2", What::Status(status(6))));
        drop(failing);
        store.ready().await.unwrap();
        store.stored(Log::Events, 6).await.unwrap();
    }
    let machines = open(&directory).1.machines;
    assert_eq!(machines.len(), 1);
    assert_eq!(
        (machines[0].id.as_str(), machines[0].name.as_str()),
        ("2", "a")
    );
    assert_eq!(machines[0].status.as_ref().unwrap().seq, 6);
}

#[tokio::test]
async fn while_it_cannot_be_written_everything_waits() {
    let directory = directory();
    let (store, _) = open(&directory);
    let log = EventLog::stored_in(Arc::new(store), Log::Events);
    let append = || log.append(Event::default(), |_| None);
    append();
    log.stored(1).await.unwrap();
    let failing = Failing::new(&directory);
    let seq = append();
    let error = log.stored(seq).await.unwrap_err();
    assert!(
        error.to_string().contains("no; look at its file system"),
        "{error}"
    );
    assert_eq!(log.ready().await, Err(error));
    // Nobody sees what is not stored.
    assert_eq!(log.newest(), 1);
    assert_eq!(log.read_after(1).await.unwrap().len(), 0);
    assert!(matches!(log.read_after(2).await, Err(ReadError::Lost(_))));
    drop(failing);
    log.ready().await.unwrap();
    log.stored(seq).await.unwrap();
    assert_eq!(log.read_after(1).await.unwrap()[0].seq, 2);
}

#[tokio::test]
async fn what_finds_no_room_is_a_gap_that_is_told() {
    let directory = directory();
    let (store, _) = Store::open(directory.path(), KEEP_ALL, 2).unwrap();
    let log = EventLog::stored_in(Arc::new(store), Log::Events);
    let append = || log.append(Event::default(), |_| None);
    append();
    log.stored(1).await.unwrap();
    let failing = Failing::new(&directory);
    for _ in 2..=5 {
        append();
    }
    log.stored(5).await.unwrap_err();
    drop(failing);
    log.ready().await.unwrap();
    log.stored(5).await.unwrap();
    for after in [0, 1, 2] {
        let lost = log.check(after).unwrap_err();
        assert_eq!((lost.oldest_seq, lost.newest_seq), (4, 5));
    }
    assert_eq!(log.read_after(3).await.unwrap().len(), 2);
    let store = log.store().unwrap();
    assert_eq!(numbers(store, 0, 9).await, [4, 5]);
}

#[tokio::test]
async fn events_are_kept_by_count_and_by_age() {
    let day = Duration::from_secs(24 * 3600);
    let old = SystemTime::now() - 2 * day;
    let directory = directory();
    let with = |kept, max_age| {
        let retention = Retention { kept, max_age };
        Store::open(directory.path(), retention, 100).unwrap()
    };
    {
        let (store, _) = with(3, None);
        for seq in 1..=5 {
            store.append(Log::Events, event_at(seq, old), None);
        }
        store.stored(Log::Events, 5).await.unwrap();
        assert_eq!(
            (store.oldest(Log::Events), numbers(&store, 0, 9).await),
            (3, vec![3, 4, 5])
        );
    }
    let (store, contents) = with(3, Some(day));
    assert_eq!(contents.newest, 5);
    // Those at the start are forgotten first; the newest keeps its number.
    store.transact(|_| Ok(())).await.unwrap();
    assert_eq!(
        (store.oldest(Log::Events), numbers(&store, 0, 9).await),
        (5, vec![5])
    );
    store.append(Log::Events, event(6), None);
    store.stored(Log::Events, 6).await.unwrap();
    assert_eq!(
        (store.oldest(Log::Events), numbers(&store, 0, 9).await),
        (6, vec![6])
    );
}

#[tokio::test]
async fn each_log_has_its_own_numbers_and_its_own_retention() {
    let directory = directory();
    let keep = Retention {
        kept: 2,
        max_age: None,
    };
    {
        let (store, _) = Store::open(directory.path(), keep, 100).unwrap();
        for seq in 1..=5 {
            store.append(Log::Audit, event(seq), None);
        }
        store.append(Log::Events, event(1), None);
        store.stored(Log::Audit, 5).await.unwrap();
        store.stored(Log::Events, 1).await.unwrap();
        assert_eq!(numbers(&store, 0, 9).await, [1]);
    }
    let (store, contents) = Store::open(directory.path(), keep, 100).unwrap();
    assert_eq!((contents.newest, store.oldest(Log::Events)), (1, 1));
    let audit = EventLog::stored_in(Arc::new(store), Log::Audit);
    assert_eq!(audit.append(Event::default(), |_| None), 6);
    audit.stored(6).await.unwrap();
    let lost = audit.check(3).unwrap_err();
    assert_eq!((lost.oldest_seq, lost.newest_seq), (5, 6));
    let read = audit.read_after(4).await.unwrap();
    let seqs: Vec<_> = read.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, [5, 6]);
}

#[tokio::test]
async fn others_have_tables_of_their_own() {
    let directory = directory();
    let (store, _) = open(&directory);
    let create = "CREATE TABLE requests (id TEXT PRIMARY KEY) STRICT";
    store
        .transact(move |c| c.execute(create, ()))
        .await
        .unwrap();
    let add = || |c: &Connection| c.execute("INSERT INTO requests VALUES ('x')", ());
    assert_eq!(store.transact(add()).await, Ok(1));
    let both = |c: &Connection| {
        c.execute("INSERT INTO requests VALUES ('y')", ())?;
        c.execute("INSERT INTO requests VALUES ('x')", ())
    };
    // What fails is undone, and nothing else with it.
    store.append(Log::Events, event(1), None);
    let error = store.transact(both).await.unwrap_err();
    assert!(error.to_string().contains("UNIQUE"), "{error}");
    store.stored(Log::Events, 1).await.unwrap();
    let count = |c: &Connection| c.query_row("SELECT count(*) FROM requests", (), |r| r.get(0));
    assert_eq!(store.read::<i64>(count).await, Ok(1));
    store.close();
    assert!(store.transact(add()).await.is_err());
    assert!(store.ready().await.is_err());
}

#[tokio::test]
async fn a_writer_that_dies_leaves_nobody_waiting() {
    let directory = directory();
    let (store, _) = open(&directory);
    let panics = |_: &Connection| -> rusqlite::Result<()> { panic!("as the test wants it") };
    let error = store.transact(panics).await.unwrap_err();
    assert!(error.to_string().contains("it is closed"), "{error}");
    store.append(Log::Events, event(1), None);
    assert!(store.stored(Log::Events, 1).await.is_err());
    assert!(store.ready().await.is_err());
    assert!(store.transact(|_| Ok(())).await.is_err());
}

/// Opens what is in the directory, which is refused and left as it is.
fn refused(directory: &TempDir) -> StoreError {
    let before = fs::read(path(directory)).unwrap();
    let error = Store::open(directory.path(), KEEP_ALL, 1).err().unwrap();
    assert_eq!(fs::read(path(directory)).unwrap(), before, "{error}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("the store {}", path(directory).display())));
    error
}

#[test]
fn what_is_no_store_is_refused() {
    let directory = directory();
    let text = b"SQLite format 3\0, not really".to_vec();
    for content in [Vec::new(), b"hello".to_vec(), text] {
        fs::write(path(&directory), content).unwrap();
        assert!(matches!(refused(&directory), StoreError::Foreign(_)));
    }
    fs::remove_file(path(&directory)).unwrap();
    let other = Connection::open(path(&directory)).unwrap();
    other.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(other);
    assert!(matches!(refused(&directory), StoreError::Foreign(_)));
}

#[tokio::test]
async fn a_damaged_store_is_refused() {
    let directory = directory();
    {
        let (store, _) = open(&directory);
        for seq in 1..=90 {
            store.append(Log::Events, event(seq), None);
        }
        store.stored(Log::Events, 90).await.unwrap();
    }
    let whole = fs::read(path(&directory)).unwrap();
    let page = 4096;
    for damaged in [whole.len() - page..whole.len(), 100..page] {
        let mut content = whole.clone();
        content[damaged].fill(0xa5);
        fs::write(path(&directory), content).unwrap();
        let error = refused(&directory);
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }
    // Cut short.
    fs::write(path(&directory), &whole[..whole.len() - page]).unwrap();
    let error = refused(&directory);
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    fs::write(path(&directory), &whole).unwrap();
    assert_eq!(open(&directory).1.newest, 90);
}

#[test]
fn versions_go_forward_only() {
    let directory = directory();
    let path = path(&directory);
    let steps = [
        "CREATE TABLE a (x INTEGER) STRICT; INSERT INTO a VALUES (1)",
        "ALTER TABLE a ADD COLUMN y INTEGER; UPDATE a SET y = x + 1",
        "UPDATE a SET y = y * 10; this is no statement",
    ];
    drop(schema::open_as(&path, &steps[..1]).unwrap());
    let value = |connection: &Connection| -> i64 {
        let query = "SELECT y FROM a";
        connection.query_row(query, (), |row| row.get(0)).unwrap()
    };
    let second = schema::open_as(&path, &steps[..2]).unwrap();
    assert_eq!(value(&second), 2);
    drop(second);
    // Done once.
    assert_eq!(value(&schema::open_as(&path, &steps[..2]).unwrap()), 2);
    // A step that fails leaves the version before.
    schema::open_as(&path, &steps).unwrap_err();
    assert_eq!(value(&schema::open_as(&path, &steps[..2]).unwrap()), 2);
    let before = fs::read(&path).unwrap();
    let error = schema::open_as(&path, &steps[..1]).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Newer {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_store_from_before_the_audit_trail_keeps_its_events() {
    let directory = directory();
    let old = schema::open_as(&path(&directory), &schema::MIGRATIONS[..2]).unwrap();
    events::insert(&old, Log::Events, &event(1)).unwrap();
    let answer = "INSERT INTO answers VALUES ('id', 1, 'Stop', x'00', x'00')";
    old.execute(answer, ()).unwrap();
    drop(old);
    let (store, contents) = open(&directory);
    assert_eq!(contents.newest, 1);
    assert_eq!(store.watermark(Log::Audit).get(), 0);
    // Whose it was is not known.
    let index = store.read(Index::read).await.unwrap();
    assert_eq!(index.sum, Sum::default());
}

#[test]
fn answers_are_bounded_in_number_size_and_age() {
    let directory = directory();
    let connection = schema::open(&path(&directory)).unwrap();
    let start = SystemTime::now();
    let answer = |id: &str, size: usize, time| Answer {
        key: Key {
            caller: "uid 0".to_owned(),
            id: id.to_owned(),
        },
        time,
        method: "Stop".to_owned(),
        request: Vec::new(),
        answer: vec![0; size],
    };
    let index = RefCell::new(Index::read(&connection).unwrap());
    let put = |answer| {
        let mut index = index.borrow_mut();
        answers::insert(&connection, &answer, &mut index).unwrap();
        assert_eq!(Index::read(&connection).unwrap().sum, index.sum);
        index.sum
    };
    let has = |id: &str, now| {
        let key = answer(id, 0, now).key;
        let found = answers::find(&connection, &key, now).unwrap().is_some();
        // What is too old is there until the next comes.
        assert!(index.borrow().may_have(&key) >= found, "{id}");
        found
    };
    let third = usize::try_from(answers::MAX_BYTES).unwrap() / 3;
    for id in ["a", "b", "c"] {
        put(answer(id, third, start));
    }
    assert!(!has("a", start) && has("b", start) && has("c", start));
    // The same again is not another.
    let later = start + Duration::from_secs(1);
    assert_eq!(put(answer("c", 1, later)).count, 2);
    let end = start + answers::MAX_AGE;
    assert!(!has("b", end) && has("c", end));
    assert_eq!(put(answer("d", 1, end)).count, 2, "c and d");
    put(answer("e", 1, end));
    let none = end + Duration::from_secs(1);
    assert_eq!(put(answer("f", 1, none)).count, 3, "all but c");
    assert!(!index.borrow().may_have(&answer("c", 0, none).key));

    let transaction = connection.unchecked_transaction().unwrap();
    let mut index = Index::read(&transaction).unwrap();
    for n in 0..answers::MAX_ANSWERS + 10 {
        answers::insert(&transaction, &answer(&n.to_string(), 0, none), &mut index).unwrap();
    }
    assert_eq!(index.sum.count, answers::MAX_ANSWERS);
    assert_eq!(Index::read(&transaction).unwrap().sum, index.sum);
    for (id, is_kept) in [("9", false), ("10", true)] {
        assert_eq!(index.may_have(&answer(id, 0, none).key), is_kept, "{id}");
    }
    drop(transaction);
}

#[test]
fn ages_have_a_unit() {
    assert_eq!(parse_age("7d"), Ok(Duration::from_secs(7 * 24 * 3600)));
    assert_eq!(parse_age("90m"), Ok(Duration::from_secs(5400)));
    for bad in ["", "7", "d", "7w", "-1s", "1.5h", "+1s", "0s", "7dd", "7ü"] {
        assert!(parse_age(bad).is_err(), "{bad}");
    }
    assert!(parse_age("99999999999999999999d").is_err());
}
