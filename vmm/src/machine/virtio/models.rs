//! Device models out of what was asked for, and what their machine's owner keeps of them.

use std::sync::Arc;

use super::VirtioConfig;
use crate::{
    counters::{DeviceCounters, NamedCounters},
    devices::virtio::{
        Device, Model,
        balloon::{Balloon, BalloonDevice},
        block::{Block, Disk},
        console::Console,
        net::{Card, Net},
        rng::Rng,
        vsock::Vsock,
    },
    runstate::{DeviceError, DeviceId, DeviceKind, Request, Requests},
};

/// A device before it is behind a transport.
pub(super) struct Made {
    pub(super) id: DeviceId,
    pub(super) model: Model,
}

/// What can be done something with from outside, or has something that others may want.
#[derive(Clone, Default)]
pub(super) struct Owned {
    /// By their numbers.
    disks: Vec<(u8, Arc<Disk>)>,
    cards: Vec<(u8, Arc<Card>)>,
    balloon: Option<Arc<Balloon>>,
    /// Bytes of the machine's memory.
    memory: u64,
}

impl Owned {
    /// Nothing, of a machine with so many bytes of memory.
    pub(super) fn new(memory: u64) -> Self {
        Self {
            memory,
            ..Self::default()
        }
    }

    /// Makes what was asked for. It gets the lowest number that is free among those of its kind, and tells of its faults by
    /// `requests`.
    pub(super) fn make(&mut self, config: &VirtioConfig, requests: &Requests) -> Made {
        let (kind, index, device): (_, _, Box<dyn Device>) = match config {
            VirtioConfig::Block(config) => {
                let make = |index| Disk::new(config.clone(), index, requests.clone());
                let (index, disk) = insert(&mut self.disks, make);
                (DeviceKind::Disk, index, Box::new(Block::new(disk)))
            }
            VirtioConfig::Net(config) => {
                let make = |_| Card::new(config.clone());
                let (index, card) = insert(&mut self.cards, make);
                (DeviceKind::Net, index, Box::new(Net::new(card)))
            }
            VirtioConfig::Rng => (DeviceKind::Rng, 0, Box::new(Rng)),
            VirtioConfig::Vsock(config) => {
                let device = Box::new(Vsock::new(config.clone()));
                (DeviceKind::Vsock, 0, device)
            }
            VirtioConfig::Balloon(config) => {
                let requests = requests.clone();
                let on_change = move |actual| requests.raise(Request::BalloonChange(actual));
                let balloon = Balloon::new(config.clone(), self.memory, Box::new(on_change));
                self.balloon = Some(balloon.clone());
                let device = Box::new(BalloonDevice::new(balloon));
                (DeviceKind::Balloon, 0, device)
            }
            VirtioConfig::Console(ports) => {
                let device = Box::new(Console::new(ports.clone()));
                (DeviceKind::Console, 0, device)
            }
        };
        let id = DeviceId { kind, index };
        let requests = requests.clone();
        let report = Arc::new(move |fault| {
            requests.raise(Request::DeviceError(DeviceError { device: id, fault }));
        });
        let model = Model { device, report };
        Made { id, model }
    }

    /// The disks, in the order of their numbers.
    pub(super) fn disks(&self) -> impl Iterator<Item = &Arc<Disk>> {
        self.disks.iter().map(|(_, disk)| disk)
    }

    /// The disk of this name.
    pub(super) fn disk(&self, name: &str) -> Option<&Arc<Disk>> {
        self.disks().find(|disk| disk.name() == name)
    }

    /// The network cards, in the order of their numbers.
    pub(super) fn cards(&self) -> impl Iterator<Item = &Arc<Card>> {
        self.cards.iter().map(|(_, card)| card)
    }

    /// The network card of this name.
    pub(super) fn card(&self, name: &str) -> Option<&Arc<Card>> {
        let kind = DeviceKind::Net;
        let named = |index| DeviceId { kind, index }.to_string() == name;
        let mut cards = self.cards.iter();
        cards.find_map(|(index, card)| named(*index).then_some(card))
    }

    /// What they count.
    pub(super) fn counters(&self) -> Vec<NamedCounters> {
        let named = |kind, index: &u8, counters| NamedCounters {
            name: DeviceId {
                kind,
                index: *index,
            }
            .to_string(),
            counters,
        };
        let disks = self.disks.iter().map(|(index, disk)| {
            let counters = DeviceCounters::Disk(disk.counters.clone());
            named(DeviceKind::Disk, index, counters)
        });
        let cards = self.cards.iter().map(|(index, card)| {
            let counters = DeviceCounters::Net(card.counters.clone());
            named(DeviceKind::Net, index, counters)
        });
        disks.chain(cards).collect()
    }

    /// The balloon.
    pub(super) fn balloon(&self) -> Option<&Arc<Balloon>> {
        self.balloon.as_ref()
    }

    /// Takes out what there is of a device that is gone.
    pub(super) fn remove(&mut self, id: DeviceId) -> Self {
        let mut removed = Self::default();
        match id.kind {
            DeviceKind::Disk => removed.disks = extract(&mut self.disks, id.index),
            DeviceKind::Net => removed.cards = extract(&mut self.cards, id.index),
            DeviceKind::Balloon => removed.balloon = self.balloon.take(),
            _ => {}
        }
        removed
    }
}

/// Adds what `make` makes with the lowest number that is free.
fn insert<T>(all: &mut Vec<(u8, Arc<T>)>, make: impl FnOnce(u8) -> Arc<T>) -> (u8, Arc<T>) {
    let is_taken = |index: &u8| all.iter().any(|(taken, _)| taken == index);
    // A machine has fewer devices than there are numbers.
    let index = (0..u8::MAX).find(|index| !is_taken(index));
    let index = index.unwrap_or(u8::MAX);
    let made = make(index);
    all.push((index, made.clone()));
    all.sort_by_key(|(index, _)| *index);
    (index, made)
}

fn extract<T>(all: &mut Vec<(u8, Arc<T>)>, index: u8) -> Vec<(u8, Arc<T>)> {
    all.extract_if(.., |(its, _)| *its == index).collect()
}
