//! Readers of events over deaths of the daemon: each that goes on from the last number it has sees every event once, in
//! order, and all see the same.
//!
//! ```text
//!   load: machines that are stopped and go on --> daemon, killed and started again
//!                                                    |
//!   50 readers: steady, stalled, broken off at random +--> one book: what number was which event
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tempfile::tempdir;
use tokio::{sync::watch, task::JoinSet};
use vmctl::{
    Client, Endpoint, Error,
    v1::{self, Event, RestartMode},
};
use vmd_tests::{Daemon, request, soon};

const MACHINES: usize = 6;
const READERS: usize = 50;
/// Events between two deaths of the daemon.
const APART: u64 = 500;
const DEATHS: usize = 4;

/// Which event each number was, for whoever saw it first.
#[derive(Default)]
struct Book(Mutex<HashMap<u64, Event>>);

impl Book {
    fn saw(&self, event: Event) {
        let mut book = self.0.lock().unwrap();
        let known = book.entry(event.seq).or_insert_with(|| event.clone());
        assert_eq!(*known, event, "one number, two events");
    }

    /// What a call said: this was the machine's last event.
    fn check(&self, replies: &[(u64, String)]) {
        let book = self.0.lock().unwrap();
        for (seq, name) in replies {
            let event = book.get(seq);
            assert_eq!(event.map(|event| &event.vm_name), Some(name), "event {seq}");
        }
    }
}

/// Where the daemon is now; `None` while there is none.
type Place = watch::Receiver<Option<Endpoint>>;

async fn connect(place: &mut Place) -> Option<Client> {
    loop {
        let endpoint = place.wait_for(Option::is_some).await.ok()?.clone()?;
        if let Ok(client) = Client::connect(&endpoint).await {
            return Some(client);
        }
        // It has died: there will be another.
        place.changed().await.ok()?;
    }
}

/// Numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Reads up to event `last`, once that is known.
async fn reader(
    number: usize,
    mut place: Place,
    last: watch::Receiver<Option<u64>>,
    deaths: watch::Receiver<usize>,
    book: Arc<Book>,
    newest: Arc<watch::Sender<u64>>,
) {
    let mut dice = Dice(number as u64 + 1);
    let mut seq = 0;
    let is_done = |seq: u64| last.borrow().is_some_and(|last| seq >= last);
    'connected: while !is_done(seq) {
        let Some(client) = connect(&mut place).await else {
            return;
        };
        let mut last = last.clone();
        let mut stream = match client.watch_events(seq, None, false).await {
            Ok(stream) => stream,
            Err(Error::Refused(refusal)) => panic!("reader {number} at {seq}: {refusal:?}"),
            Err(_) => continue,
        };
        // A third break off somewhere, another third stop reading until the daemon dies.
        let stays = match number % 3 {
            0 => u64::MAX,
            _ => dice.below(APART),
        };
        for _ in 0..stays {
            let next = tokio::select! {
                next = stream.next() => next,
                _ = last.wait_for(|last| last.is_some_and(|last| seq >= last)) => return,
            };
            match next {
                Ok(Some(event)) => {
                    assert_eq!(event.seq, seq + 1, "reader {number}");
                    seq = event.seq;
                    book.saw(event);
                    newest.send_if_modified(|newest| {
                        let later = seq > *newest;
                        *newest = seq.max(*newest);
                        later
                    });
                }
                Err(Error::Refused(refusal)) if refusal.reason == "EVENTS_LOST" => {
                    panic!("reader {number} at {seq}: {refusal:?}")
                }
                // The daemon has died.
                Ok(None) | Err(_) => continue 'connected,
            }
        }
        if number % 3 == 1 {
            let mut deaths = deaths.clone();
            let before = *deaths.borrow_and_update();
            // The stream is there, and nobody reads it.
            let _ = deaths
                .wait_for(|deaths| *deaths > before || *deaths == DEATHS)
                .await;
        }
    }
}

/// Has a machine stop and go on until there is a last event.
async fn load(
    name: String,
    mut place: Place,
    mut last: watch::Receiver<Option<u64>>,
) -> Vec<(u64, String)> {
    let mut replies = Vec::new();
    let work = async {
        while let Some(client) = connect(&mut place).await {
            loop {
                let answer = match client.stop(&name).await {
                    Ok(_) => client.cont(&name).await,
                    stopped => stopped,
                };
                match answer {
                    Ok(reply) => replies.push((reply.seq, name.clone())),
                    // It is about to be started again.
                    Err(Error::Refused(refusal)) if refusal.reason == "VM_ENDED" => {
                        let running = client.wait_for_state(&name, v1::RunState::Running).await;
                        if running.is_err() {
                            break;
                        }
                    }
                    Err(_) => break,
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        _ = last.wait_for(Option::is_some) => {}
    }
    replies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn every_reader_sees_every_event_once_whatever_dies() {
    let data = tempdir().unwrap();
    let mut daemon = Daemon::start_on(data.path(), &[]).await;
    let (place, at) = watch::channel(Some(daemon.endpoint().clone()));
    let (last_known, last) = watch::channel(None);
    let (died, deaths) = watch::channel(0);
    let newest = Arc::new(watch::Sender::new(0));
    let book = Arc::new(Book::default());

    let client = daemon.client().await;
    let moment = Some(prost_types::Duration {
        seconds: 0,
        nanos: 1_000_000,
    });
    let mut loads = JoinSet::new();
    for number in 0..MACHINES {
        let name = format!("vm-{number}");
        let definition = v1::VmDefinition {
            memory_bytes: Some(16 << 20),
            restart: Some(v1::RestartPolicy {
                mode: RestartMode::OnFailure.into(),
                initial_backoff: moment,
                max_backoff: moment,
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = v1::CreateVmRequest {
            definition: Some(definition),
            ..request(&name)
        };
        soon("create", client.create(request)).await.unwrap();
        loads.spawn(load(name, at.clone(), last.clone()));
    }
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        let (book, newest) = (book.clone(), newest.clone());
        readers.spawn(reader(
            number,
            at.clone(),
            last.clone(),
            deaths.clone(),
            book,
            newest,
        ));
    }
    let mut seen = newest.subscribe();
    for death in 1..=DEATHS {
        let until = *seen.borrow() + APART;
        soon("events", seen.wait_for(|seen| *seen >= until))
            .await
            .unwrap();
        place.send_replace(None);
        daemon.killed().await;
        daemon = Daemon::start_on(data.path(), &[]).await;
        died.send_replace(death);
        place.send_replace(Some(daemon.endpoint().clone()));
    }
    let until = *seen.borrow() + APART;
    soon("events", seen.wait_for(|seen| *seen >= until))
        .await
        .unwrap();
    last_known.send_replace(Some(until));
    let mut replies = Vec::new();
    while let Some(load) = soon("the load's end", loads.join_next()).await {
        replies.extend(load.unwrap());
    }
    while let Some(reader) = soon("the readers' end", readers.join_next()).await {
        reader.unwrap();
    }
    replies.retain(|(seq, _)| *seq <= until);
    assert!(replies.len() > 50, "{} replies", replies.len());
    book.check(&replies);
    let book = book.0.lock().unwrap();
    assert!((1..=until).all(|seq| book.contains_key(&seq)));
    // Each machine's own numbers have no holes either.
    let mut own: HashMap<&str, u64> = HashMap::new();
    for seq in 1..=until {
        let event = &book[&seq];
        let count = own.entry(&event.vm_id).or_default();
        *count += 1;
        assert_eq!(event.vm_seq, *count, "{event:?}");
    }
    eprintln!(
        "{until} events, {} replies, {} readers",
        replies.len(),
        READERS
    );
}
