//! What is shown: the machines as they are, since when, and the last events.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, SystemTime},
};

use prost_types::Timestamp;

use super::cpu::Usage;
use crate::v1::{Event, RunState, Vm, event::Kind, watch_vms_response::Update};

/// Events kept for the pane: more than a terminal has lines.
const EVENTS: usize = 200;

/// By what machines are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Name,
    State,
    Since,
    Vcpus,
    Cpu,
    Memory,
    Last,
    Events,
}

impl Order {
    /// All of them, in the order of the columns, with the key that chooses it.
    pub(super) const ALL: [(Self, char); 8] = [
        (Self::Name, 'n'),
        (Self::State, 's'),
        (Self::Since, 't'),
        (Self::Vcpus, 'c'),
        (Self::Cpu, 'p'),
        (Self::Memory, 'm'),
        (Self::Last, 'l'),
        (Self::Events, 'e'),
    ];

    /// The one that a key chooses.
    pub(super) fn of_key(key: char) -> Option<Self> {
        let found = Self::ALL.into_iter().find(|(_, its)| *its == key);
        found.map(|(order, _)| order)
    }
}

/// When a machine's state and its last event came to be, as far as events tell.
#[derive(Clone, Copy, Debug)]
struct Seen {
    state: RunState,
    ended: bool,
    since: Option<SystemTime>,
    last: Option<SystemTime>,
}

/// One machine, as its row shows it.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) vm: &'a Vm,
    /// How much of one of the host's CPUs its vCPUs use, in percent.
    pub(super) cpu: Option<u64>,
    /// How long it has been in its state.
    pub(super) since: Option<Duration>,
    /// How long ago its last event was.
    pub(super) last: Option<Duration>,
}

/// Everything that is shown.
pub(super) struct Model {
    /// Where the daemon is.
    pub(super) endpoint: String,
    pub(super) colored: bool,
    pub(super) order: Order,
    pub(super) reversed: bool,
    /// The first row that is shown.
    pub(super) first: usize,
    /// The newest comes last.
    pub(super) events: VecDeque<Event>,
    /// Events that came too fast to be read.
    pub(super) lost: u64,
    pub(super) usage: Usage,
    /// By id.
    machines: BTreeMap<String, Vm>,
    seen: HashMap<String, Seen>,
}

impl Model {
    pub(super) fn new(endpoint: String, colored: bool) -> Self {
        Self {
            endpoint,
            colored,
            order: Order::Name,
            reversed: false,
            first: 0,
            events: VecDeque::new(),
            lost: 0,
            usage: Usage::default(),
            machines: BTreeMap::new(),
            seen: HashMap::new(),
        }
    }

    /// A machine is as it is now, or is gone.
    pub(super) fn update(&mut self, update: Option<Update>) {
        match update {
            Some(Update::Vm(vm)) => drop(self.machines.insert(vm.id.clone(), vm)),
            Some(Update::Deleted(vm)) => drop(self.machines.remove(&vm.id)),
            Some(Update::Synced(_)) | None => {}
        }
    }

    /// Something has happened.
    pub(super) fn event(&mut self, event: Event) {
        let time = event.time.and_then(|time: Timestamp| time.try_into().ok());
        let (state, ended) = (event.state(), matches!(event.kind, Some(Kind::Ended(_))));
        if let Some(Kind::Deleted(_)) = event.kind {
            self.seen.remove(&event.vm_id);
        } else {
            let new = Seen {
                state,
                ended,
                since: time,
                last: time,
            };
            // The first event that is known tells nothing of the state before, unless it is the machine's first.
            let since = if event.vm_seq == 1 { time } else { None };
            let seen = self.seen.entry(event.vm_id.clone());
            let seen = seen.or_insert(Seen { since, ..new });
            if (seen.state, seen.ended) != (state, ended) {
                *seen = new;
            }
            seen.last = time;
        }
        if self.events.len() >= EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// So many events are not to be had: what they changed is not known.
    pub(super) fn lost(&mut self, count: u64) {
        self.lost += count;
        self.seen.clear();
    }

    /// Orders by this; again by the same turns the order round.
    pub(super) fn order_by(&mut self, order: Order) {
        self.reversed = order == self.order && !self.reversed;
        self.order = order;
        self.first = 0;
    }

    pub(super) fn reverse(&mut self) {
        self.reversed = !self.reversed;
    }

    /// So many rows on, or back; [`Model::rows`] stops at the ends.
    pub(super) fn scroll(&mut self, rows: isize) {
        self.first = self.first.saturating_add_signed(rows);
    }

    /// The machines in order, as they are at `now`. Numbers and times begin with the largest.
    pub(super) fn rows<'a>(&'a self, now: SystemTime) -> Vec<Row<'a>> {
        let age = |time: Option<SystemTime>| {
            // Clocks may differ.
            time.map(|time| now.duration_since(time).unwrap_or_default())
        };
        let row = |vm: &'a Vm| {
            let seen = self.seen_of(vm);
            let ended = vm.status.as_ref().is_some_and(|its| its.end.is_some());
            let cpu = self.usage.percent(&vm.id);
            Row {
                vm,
                cpu: cpu.filter(|_| !ended),
                since: age(seen.and_then(|seen| seen.since)),
                last: age(seen.and_then(|seen| seen.last)),
            }
        };
        let mut rows: Vec<_> = self.machines.values().map(row).collect();
        rows.sort_by(|a, b| {
            let by_name = a.vm.name.cmp(&b.vm.name);
            let order = compare(self.order, a, b).then(by_name);
            if self.reversed {
                order.reverse()
            } else {
                order
            }
        });
        rows
    }

    /// What events tell of the machine, if they tell of the state that it is in.
    fn seen_of(&self, vm: &Vm) -> Option<&Seen> {
        let status = vm.status.as_ref()?;
        let seen = self.seen.get(&vm.id)?;
        let same = (seen.state, seen.ended) == (status.state(), status.end.is_some());
        same.then_some(seen)
    }
}

fn compare(order: Order, a: &Row<'_>, b: &Row<'_>) -> Ordering {
    let status = |row: &Row<'_>| row.vm.status.clone().unwrap_or_default();
    let definition = |row: &Row<'_>| row.vm.definition.clone().unwrap_or_default();
    match order {
        Order::Name => Ordering::Equal,
        Order::State => {
            let key = |row: &Row<'_>| {
                let status = status(row);
                (status.end.is_some(), status.state)
            };
            key(a).cmp(&key(b))
        }
        Order::Since => b.since.cmp(&a.since),
        Order::Vcpus => definition(b).vcpus.cmp(&definition(a).vcpus),
        Order::Cpu => b.cpu.cmp(&a.cpu),
        Order::Memory => definition(b).memory_bytes.cmp(&definition(a).memory_bytes),
        // What happened last comes first.
        Order::Last => match (a.last, b.last) {
            (Some(a), Some(b)) => a.cmp(&b),
            (a, b) => b.is_some().cmp(&a.is_some()),
        },
        Order::Events => status(b).vm_seq.cmp(&status(a).vm_seq),
    }
}
