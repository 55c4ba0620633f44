//! The machines, the clients that act on them, and the watcher of their events.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
};
use vmctl::{Client, names};
use vmd_tests::{DEADLINE, Daemon, within};

use super::{
    act::{Act, LABEL, act},
    book::{Book, Created},
    dice::Dice,
};

/// How many clients there are, each with a connection of its own.
pub(crate) const CLIENTS: usize = 32;

/// A call that was not answered.
#[derive(Debug)]
pub(crate) struct Cut {
    /// Which book is about the machine.
    pub(crate) index: usize,
    pub(crate) act: Act,
}

/// Machines that may be there or not, each taken by one client at a time: what comes of a call is no matter of luck.
pub(crate) struct Fleet {
    pub(crate) books: Vec<Mutex<Book>>,
    /// Calls that are left to be made.
    left: AtomicUsize,
    /// Of the calls, so that each has a request id of its own.
    ids: AtomicU64,
}

impl Fleet {
    pub(crate) fn new(size: usize) -> Arc<Self> {
        let book = |number| Book {
            name: format!("vm-{number:04}"),
            ..Book::default()
        };
        Arc::new(Self {
            books: (0..size).map(|number| Mutex::new(book(number))).collect(),
            left: AtomicUsize::new(0),
            ids: AtomicU64::new(0),
        })
    }

    /// The clients' connections.
    pub(crate) async fn connect(&self, daemon: &Daemon) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(daemon.client().await);
        }
        clients
    }

    /// Has the clients make so many calls, each to any machine that nobody else has. Returns those that were not answered.
    pub(crate) async fn calls(
        self: &Arc<Self>,
        clients: Vec<Client>,
        calls: usize,
        seed: u64,
    ) -> Vec<Cut> {
        self.left.store(calls, Ordering::Relaxed);
        let mut running = JoinSet::new();
        for (number, client) in (0..).zip(clients) {
            let dice = Dice(seed << 8 | number);
            running.spawn(self.clone().client(client, dice));
        }
        let ended = running.join_all();
        let cuts = within(10 * DEADLINE, "the clients", ended).await;
        cuts.into_iter().flatten().collect()
    }

    async fn client(self: Arc<Self>, client: Client, mut dice: Dice) -> Option<Cut> {
        let one_less = |left: usize| left.checked_sub(1);
        while self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
        {
            let (index, mut book) = loop {
                let index = dice.below(self.books.len());
                if let Ok(book) = self.books[index].try_lock() {
                    break (index, book);
                }
            };
            let request_id = format!("id-{}", self.ids.fetch_add(1, Ordering::Relaxed));
            let client = client.with_request_id(&request_id);
            let (what, was_there) = (Act::any(&mut dice), book.machine.is_some());
            if act(&client, &mut book, what, &mut dice).await.is_err() {
                return Some(Cut { index, act: what });
            }
            if let (Some(machine), false) = (&book.machine, was_there) {
                book.created = Some(Created {
                    request_id,
                    colour: machine.labels[LABEL].clone(),
                    vm_id: machine.id.clone(),
                });
            }
        }
        None
    }

    /// Has the clients do the same to each machine.
    pub(crate) async fn each(self: &Arc<Self>, daemon: &Daemon, what: Act) {
        let next = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (fleet, next, client) = (self.clone(), next.clone(), daemon.client().await);
            let mut dice = Dice(number as u64);
            clients.spawn(async move {
                while let Some(book) = fleet.books.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut book = book.lock().await;
                    act(&client, &mut book, what, &mut dice).await.unwrap();
                }
            });
        }
        within(10 * DEADLINE, "the clients", clients.join_all()).await;
    }

    /// The events of each name are those that the answers were for.
    pub(crate) async fn agrees_with(&self, watched: &HashMap<String, Vec<&'static str>>) {
        for book in &self.books {
            let book = book.lock().await;
            let seen = watched.get(&book.name).map_or(&[][..], Vec::as_slice);
            assert_eq!(seen, book.events, "the events of {}", book.name);
        }
    }
}

/// Reads every event, which must have no holes, up to the last one, once that is known; sorts them by name.
pub(crate) async fn watch(
    client: Client,
    mut last: watch::Receiver<Option<u64>>,
) -> HashMap<String, Vec<&'static str>> {
    let mut events = HashMap::<String, Vec<_>>::new();
    let mut own = HashMap::<String, u64>::new();
    let mut stream = client.watch_events(0, None, false).await.unwrap();
    let mut seq = 0;
    loop {
        let event = tokio::select! {
            event = stream.next() => event.unwrap().unwrap(),
            _ = last.wait_for(|last| last.is_some_and(|last| seq >= last)) => return events,
        };
        seq += 1;
        assert_eq!(event.seq, seq, "a hole: {event:?}");
        let own = own.entry(event.vm_id.clone()).or_default();
        *own += 1;
        assert_eq!(event.vm_seq, *own, "a hole: {event:?}");
        let name = names::event_name(event.kind.as_ref().unwrap());
        events.entry(event.vm_name).or_default().push(name);
    }
}
