//! The registry: which machines there are, by name.
//!
//! A name is taken from the moment a creation begins; until it is done nobody else sees the machine.

use std::sync::Arc;

use dashmap::{DashMap, Entry};

use crate::vm::VmHandle;

/// The machines of one daemon.
#[derive(Default)]
pub(crate) struct Registry {
    slots: DashMap<String, Slot>,
}

enum Slot {
    Reserved,
    Vm(Arc<VmHandle>),
}

impl Registry {
    /// Takes `name`, until the reservation is dropped or filled. `None` if it is taken.
    pub(crate) fn reserve(self: &Arc<Self>, name: &str) -> Option<Reservation> {
        match self.slots.entry(name.to_owned()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(slot) => {
                slot.insert(Slot::Reserved);
                Some(Reservation {
                    registry: self.clone(),
                    name: name.to_owned(),
                    filled: false,
                })
            }
        }
    }

    /// The machine called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<VmHandle>> {
        self.slots.get(name).and_then(|slot| slot.vm())
    }

    /// All machines, ordered by name.
    pub(crate) fn list(&self) -> Vec<Arc<VmHandle>> {
        let mut vms: Vec<_> = self.slots.iter().filter_map(|slot| slot.vm()).collect();
        vms.sort_unstable_by(|a, b| a.record.name.cmp(&b.record.name));
        vms
    }

    /// Gives back the memory of places that are free.
    pub(crate) fn rest(&self) {
        self.slots.shrink_to_fit();
    }

    /// Frees the name of the machine with this name and id.
    pub(crate) fn remove(&self, name: &str, id: &str) {
        self.slots.remove_if(
            name,
            |_, slot| matches!(slot, Slot::Vm(vm) if vm.record.id == id),
        );
    }
}

impl Slot {
    fn vm(&self) -> Option<Arc<VmHandle>> {
        match self {
            Self::Reserved => None,
            Self::Vm(vm) => Some(vm.clone()),
        }
    }
}

/// A name that is taken by a machine yet to be.
pub(crate) struct Reservation {
    registry: Arc<Registry>,
    name: String,
    filled: bool,
}

impl Reservation {
    /// Shows `vm`, which has the reserved name, to everybody.
    pub(crate) fn fill(mut self, vm: Arc<VmHandle>) {
        self.registry.slots.insert(self.name.clone(), Slot::Vm(vm));
        self.filled = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.filled {
            self.registry.slots.remove(&self.name);
        }
    }
}
