//! `kill -9` in the middle of the load, again and again: what was answered is there, a call that was cut short is done, or
//! not, or up to one of its events, and no event has changed.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::Instant,
};

use nix::sys::signal::Signal;
use rusqlite::{Connection, OpenFlags};
use tempfile::tempdir;
use vmctl::{
    Client, names,
    v1::{self, Event, VmPhase},
};
use vmd_tests::{DEADLINE, Daemon, soon, within};

use super::{
    act::{Act, creation},
    book::{Book, Machine},
    dice::Dice,
    fleet::{Cut, Fleet},
};

const MACHINES: usize = 200;
const DEATHS: usize = 20;
/// The daemon dies within so many events.
const APART: usize = 300;
const SEED: u64 = 2;

/// All events there are.
async fn history(client: &Client) -> Vec<Event> {
    let mut stream = client.watch_events(0, None, true).await.unwrap();
    let mut events = Vec::<Event>::new();
    while let Some(event) = soon("an event", stream.next()).await.unwrap() {
        assert_eq!(event.seq, events.len() as u64 + 1, "a hole: {event:?}");
        events.push(event);
    }
    events
}

/// Adds what comes to `seen`, and has the daemon killed after so many events. What comes before it is dead counts, too.
async fn follow(daemon: &Daemon, seen: &mut Vec<Event>, count: usize) {
    let client = daemon.client().await;
    let newest = seen.len();
    let stream = client.watch_events(newest as u64, None, false).await;
    let mut stream = stream.unwrap();
    while let Ok(Some(event)) = soon("an event", stream.next()).await {
        assert_eq!(event.seq, seen.len() as u64 + 1, "a hole: {event:?}");
        seen.push(event);
        if seen.len() == newest + count {
            daemon.signal(Signal::SIGKILL);
        }
    }
}

/// SQLite finds nothing wrong with the store.
fn is_sound(data: &Path) {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let store = Connection::open_with_flags(data.join("vmd.db"), flags).unwrap();
    let check = "PRAGMA integrity_check";
    let answer: String = store.query_row(check, (), |row| row.get(0)).unwrap();
    assert_eq!(answer, "ok");
}

/// The machine that the book is about, or was, is as it must be after a death: `events` are those of its name, `vm` is what
/// the daemon has of it, and `cut` was not answered.
fn settle(book: &mut Book, cut: Option<Act>, events: &[&'static str], vm: Option<&v1::Vm>) {
    let what = format!("{cut:?} of {book:?}; now {events:?}, {vm:?}");
    let more = events.strip_prefix(&book.events[..]);
    let more = more.unwrap_or_else(|| panic!("events are lost: {what}"));
    let done = cut.map_or_else(Vec::new, |cut| cut.events(book));
    let done = done.iter().zip(more).take_while(|(a, b)| a == b).count();
    // A machine that was live has lost its guest.
    let rest = &more[done..];
    assert!(rest.is_empty() || rest == ["ENDED"], "{what}");
    if cut.is_none() {
        let was_live = book.machine.as_ref().is_some_and(|machine| !machine.ended);
        assert_eq!(!rest.is_empty(), was_live, "{what}");
    }

    let exists = events.last().is_some_and(|last| *last != "DELETED");
    assert_eq!(vm.is_some(), exists, "{what}");
    if let Some(vm) = vm {
        assert_eq!(
            vm.status.as_ref().unwrap().phase(),
            VmPhase::Ended,
            "{what}"
        );
    }
    let found = vm.map(Machine::new);
    if let (Some(machine), Some(found), None) = (&book.machine, &found, cut) {
        let expected = Machine {
            ended: true,
            vm_seq: machine.vm_seq + rest.len() as u64,
            seq: found.seq.max(machine.seq),
            ..machine.clone()
        };
        assert_eq!(*found, expected, "{what}");
    }
    book.machine = found;
    book.events = events.to_vec();
}

/// All machines and events are as they must be.
async fn check(daemon: &Daemon, fleet: &Fleet, seen: &[Event], cuts: &[Cut]) -> Vec<Event> {
    let client = daemon.client().await;
    // First: what the list shows is stored, and so in the history.
    let list = soon("list", client.list()).await.unwrap();
    let events = history(&client).await;
    assert!(events.len() >= seen.len(), "events that were seen are lost");
    for (seen, event) in seen.iter().zip(&events) {
        assert_eq!(seen, event, "one number, two events");
    }
    let mut by_name = HashMap::<&str, Vec<&'static str>>::new();
    for event in &events {
        let name = names::event_name(event.kind.as_ref().unwrap());
        by_name.entry(&event.vm_name).or_default().push(name);
    }
    let vms: BTreeMap<_, _> = list.vms.iter().map(|vm| (&*vm.name, vm)).collect();
    for (index, book) in fleet.books.iter().enumerate() {
        let mut book = book.lock().await;
        let cut = cuts.iter().find(|cut| cut.index == index);
        let events = by_name.get(&*book.name).map_or(&[][..], Vec::as_slice);
        let vm = vms.get(&*book.name).copied();
        settle(&mut book, cut.map(|cut| cut.act), events, vm);
    }
    events
}

/// A creation that was answered once is answered the same, whatever has become of the machine.
async fn repeat(daemon: &Daemon, fleet: &Fleet) -> usize {
    let client = daemon.client().await;
    let mut count = 0;
    for book in &fleet.books {
        let book = book.lock().await;
        let Some(created) = &book.created else {
            continue;
        };
        let request = creation(&book.name, &created.colour);
        let client = client.with_request_id(&created.request_id);
        let again = soon("create", client.create(request)).await.unwrap();
        assert_eq!(again.vm.unwrap().id, created.vm_id, "{book:?}");
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn whenever_the_daemon_is_killed_what_was_answered_is_there() {
    let data = tempdir().unwrap();
    let mut dice = Dice(SEED);
    let fleet = Fleet::new(MACHINES);
    let (mut seen, mut cuts) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for death in 0..=DEATHS {
        let daemon = Daemon::start_on(data.path(), &[]).await;
        seen = check(&daemon, &fleet, &seen, &cuts).await;
        let repeated = repeat(&daemon, &fleet).await;
        is_sound(data.path());
        println!(
            "death {death}: {:?}, {} events, {} calls cut short, {repeated} repeated",
            began.elapsed(),
            seen.len(),
            cuts.len()
        );
        if death == DEATHS {
            break;
        }
        let clients = tokio::spawn({
            let (fleet, clients) = (fleet.clone(), fleet.connect(&daemon).await);
            let seed = SEED + death as u64;
            async move { fleet.calls(clients, usize::MAX, seed).await }
        });
        follow(&daemon, &mut seen, 1 + dice.below(APART)).await;
        cuts = within(DEADLINE, "the clients", clients).await.unwrap();
        daemon.killed().await;
    }
    assert!(seen.len() > DEATHS * APART / 4, "{} events", seen.len());
}
