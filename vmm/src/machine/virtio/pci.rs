//! virtio devices behind the PCI transport: one bus, bus 0, with a host bridge in slot 0 and a device in each other slot.
//!
//! | address | what |
//! | --- | --- |
//! | 0xc000_0000 | 512 MiB where devices have their registers; at first, slot n at n * 0x8000 |
//! | 0xe000_0000 | 1 MiB of configuration space (PCI Express 3.0, section 7.2.2): slot n at n * 0x8000, 4 KiB a function |
//!
//! ```text
//!   vCPU --- MMIO exit --+--> configuration space --> Config of slot n --- moved? ---> ioeventfds follow
//!                        +--> registers --> the slot that has them there now
//!   vCPU --- eject (devices/acpi_hotplug.rs) --> out of its slot --> the machine's owner ends it
//!   vCPU --- write to notify --(ioeventfd)--> the device's task --> MSI-X --(irqfd)--> local APIC
//! ```

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use tracing::debug;

use super::{Environment, lock, models::Made, stop};
use crate::{
    devices::{
        pci::{
            config::{Config, Identity},
            msix::Vector,
        },
        virtio::{
            pci::{BAR_SIZE, NOTIFY, NOTIFY_STRIDE, VirtioPci},
            worker::Worker,
        },
    },
    machine::{BuildError, msi::Routes},
    runstate::DeviceId,
};

/// Where the configuration space is: that of one bus.
pub(in crate::machine) const ECAM: Range<u64> = 0xe000_0000..0xe010_0000;
/// Where devices may have their registers.
pub(in crate::machine) const WINDOW: Range<u32> = 0xc000_0000..0xe000_0000;

/// Slots of a bus.
const SLOTS: usize = 32;
/// Most devices: the bridge has a slot, too.
pub(super) const MAX: usize = SLOTS - 1;
/// Slots for devices that come later. A guest takes its time for each slot that it is told of.
const FREE_SLOTS: usize = 8;

/// The slots, from 1 on, of a bus that begins with `count` devices.
pub(super) fn slots(count: usize) -> u8 {
    count.saturating_add(FREE_SLOTS).min(MAX) as u8
}

/// The host bridge. There is nothing to be set in it.
const BRIDGE: Identity = Identity {
    // Intel's, for a bridge without a driver of its own.
    vendor: 0x8086,
    device: 0x0d57,
    revision: 0,
    class: 0x06_0000,
    subsystem: (0, 0),
};

/// A machine's devices behind the PCI transport.
pub(super) struct PciBus {
    vm: Arc<VmFd>,
    routes: Arc<Routes>,
    bridge: Mutex<Config>,
    /// Slot 0 is the bridge's, and empty here.
    slots: Vec<Slot>,
    /// What the guest has given back.
    gone: Mutex<Vec<Plugged>>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Slot {
    /// Where its registers are now; 0 if nowhere. Beside the device, so that who looks for another does not wait for it.
    base: AtomicU32,
    device: Mutex<Option<Plugged>>,
}

/// A device in its slot.
struct Plugged {
    id: DeviceId,
    device: VirtioPci,
    notifies: Notifies,
    /// The guest was asked to give it back.
    leaves: bool,
}

/// A device that was taken out of its slot.
pub(super) struct Gone {
    /// What it is called.
    pub(super) id: DeviceId,
    /// Its task, which is to be stopped.
    pub(super) worker: Option<Worker>,
    /// What it had. To be dropped where that may take its time: KVM waits for whoever uses it.
    pub(super) device: VirtioPci,
}

impl PciBus {
    /// Puts the devices into the slots from 1 on, and wires them to `vm`. `wake` is called when the guest has given one back.
    pub(super) fn new(
        vm: &Arc<VmFd>,
        environment: &Environment,
        models: Vec<Made>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, BuildError> {
        let bus = Self {
            vm: vm.clone(),
            routes: Routes::new(vm.clone()),
            bridge: Mutex::new(Config::new(BRIDGE)),
            slots: (0..=slots(models.len())).map(|_| Slot::default()).collect(),
            gone: Mutex::default(),
            wake,
        };
        for model in models {
            bus.plug(environment, model)?;
        }
        Ok(bus)
    }

    /// Puts the device into the first slot that is free, which is returned; `None` if there is none.
    pub(super) fn plug(
        &self,
        environment: &Environment,
        made: Made,
    ) -> Result<Option<u8>, BuildError> {
        let mut slots = (0..).zip(&self.slots).skip(1);
        let free = slots.find(|(_, slot)| lock(&slot.device).is_none());
        let Some((number, slot)) = free else {
            return Ok(None);
        };
        let vectors = (0..VirtioPci::messages(&*made.model.device))
            .map(|_| Ok(Box::new(self.routes.vector()?) as Box<dyn Vector>))
            .collect::<Result<_, BuildError>>()?;
        let (memory, runtime, gate) = environment.clone();
        let base = WINDOW.start + u32::from(number) * BAR_SIZE;
        *lock(&slot.device) = Some(Plugged {
            id: made.id,
            device: VirtioPci::new(made.model, memory, runtime, gate, vectors, base)?,
            notifies: Notifies {
                vm: self.vm.clone(),
                at: Vec::new(),
            },
            leaves: false,
        });
        Ok(Some(number))
    }

    /// The device called `name` is to go; its slot, if it is there. It stays until the guest gives it back, or the machine is
    /// reset.
    pub(super) fn unplug(&self, name: &str) -> Option<u8> {
        (0..).zip(&self.slots).find_map(|(number, slot)| {
            let mut device = lock(&slot.device);
            let plugged = device
                .as_mut()
                .filter(|plugged| plugged.id.to_string() == name)?;
            plugged.leaves = true;
            Some(number)
        })
    }

    /// The guest gives the devices of these slots back, a bit each. Called by a vCPU's thread.
    pub(super) fn eject(&self, slots: u32) {
        let slots = (0..)
            .zip(&self.slots)
            .filter(|(number, _)| slots >> number & 1 != 0);
        for (_, slot) in slots {
            self.take(slot, |_| true);
        }
    }

    /// Takes the slot's device out of it, if there is one and it is to go.
    fn take(&self, slot: &Slot, is_to_go: impl FnOnce(&Plugged) -> bool) {
        let mut device = lock(&slot.device);
        let Some(mut plugged) = device.take_if(|plugged| is_to_go(plugged)) else {
            return;
        };
        slot.base.store(0, Ordering::SeqCst);
        plugged.notifies.clear();
        lock(&self.gone).push(plugged);
        (self.wake)();
    }

    /// What was taken out of the slots since the last call.
    pub(super) fn gone(&self) -> Vec<Gone> {
        let gone = std::mem::take(&mut *lock(&self.gone));
        let gone = gone.into_iter().map(|mut plugged| Gone {
            worker: plugged.device.take_worker(),
            id: plugged.id,
            device: plugged.device,
        });
        gone.collect()
    }

    /// A read at `address`; whether the bus has that address.
    pub(super) fn read(&self, address: u64, data: &mut [u8]) -> bool {
        if ECAM.contains(&address) {
            self.read_config(address - ECAM.start, data);
            return true;
        }
        let found = self.find(address, |device, offset| device.read(offset, data));
        found.is_some()
    }

    /// A write at `address`.
    pub(super) fn write(&self, address: u64, data: &[u8]) {
        if ECAM.contains(&address) {
            self.write_config(address - ECAM.start, data);
        } else {
            self.find(address, |device, offset| device.write(offset, data));
        }
    }

    fn find<T>(&self, address: u64, access: impl FnOnce(&mut VirtioPci, u32) -> T) -> Option<T> {
        let address = u32::try_from(address).ok()?;
        let at = |slot: &Slot| match slot.base.load(Ordering::SeqCst) {
            0 => None,
            base => address
                .checked_sub(base)
                .filter(|offset| *offset < BAR_SIZE),
        };
        let (slot, offset) = self.slots.iter().find_map(|slot| Some((slot, at(slot)?)))?;
        let mut device = lock(&slot.device);
        Some(access(&mut device.as_mut()?.device, offset))
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let Some((number, register)) = place(offset) else {
            return;
        };
        if number == 0 {
            lock(&self.bridge).read(register, data);
        } else if let Some(slot) = self.slots.get(number)
            && let Some(plugged) = lock(&slot.device).as_mut()
        {
            plugged.device.read_config(register, data);
        }
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        let Some((number, register)) = place(offset) else {
            return;
        };
        if number == 0 {
            lock(&self.bridge).write(register, data);
        } else if let Some(slot) = self.slots.get(number)
            && let Some(plugged) = lock(&slot.device).as_mut()
        {
            plugged.device.write_config(register, data);
            slot.follow(plugged);
        }
    }

    /// Ends the devices' tasks.
    pub(super) async fn stop(&self) {
        for slot in &self.slots {
            stop(|| lock(&slot.device).as_mut()?.device.take_worker()).await;
        }
    }

    /// Puts every device into its power-on state.
    pub(super) async fn reset(&self) {
        self.stop().await;
        lock(&self.bridge).reset();
        for slot in &self.slots {
            // The guest that begins now has no use of it yet.
            self.take(slot, |plugged| plugged.leaves);
            if let Some(plugged) = lock(&slot.device).as_mut() {
                plugged.device.reset();
                slot.follow(plugged);
            }
        }
    }
}

impl Slot {
    /// The device may be elsewhere now: what is wired to an address goes with it.
    fn follow(&self, plugged: &mut Plugged) {
        let base = plugged.device.base().filter(|base| may_be_at(*base));
        let base = base.unwrap_or(0);
        if self.base.swap(base, Ordering::SeqCst) != base {
            plugged.notifies.move_to(base, &plugged.device);
        }
    }
}

/// Whether a device's registers may be there: elsewhere there is memory, or something of KVM's.
fn may_be_at(base: u32) -> bool {
    base.is_multiple_of(BAR_SIZE) && WINDOW.contains(&base)
}

/// The slot and the register of an access to the configuration space; `None` if it is to another function than the first.
fn place(offset: u64) -> Option<(usize, u16)> {
    let register = u16::try_from(offset & 0xfff).ok()?;
    let function = (offset >> 12) & 7;
    let slot = usize::try_from(offset >> 15).ok()?;
    (function == 0).then_some((slot, register))
}

/// The ioeventfds of a device: where its queues are notified.
struct Notifies {
    vm: Arc<VmFd>,
    at: Vec<(u64, Arc<vmm_sys_util::eventfd::EventFd>)>,
}

impl Notifies {
    /// Registers them for the registers at `base`, and no longer where they were; nowhere if it is 0.
    fn move_to(&mut self, base: u32, device: &VirtioPci) {
        self.clear();
        if base == 0 {
            return;
        }
        let places = (0..).map(|index| u64::from(base + NOTIFY + index * NOTIFY_STRIDE));
        for (address, kick) in places.zip(device.kicks()) {
            // A driver may write its notification in any width; the place says which queue it is.
            let notify = IoEventAddress::Mmio(address);
            match self.vm.register_ioevent(kick, &notify, NoDatamatch) {
                Ok(()) => self.at.push((address, kick.clone())),
                // The guest has put two devices to one place, or KVM has no room: then the vCPU leaves the guest for it.
                Err(error) => debug!(%error, address, "KVM_IOEVENTFD"),
            }
        }
    }

    fn clear(&mut self) {
        for (address, kick) in self.at.drain(..) {
            let notify = IoEventAddress::Mmio(address);
            if let Err(error) = self.vm.unregister_ioevent(&kick, &notify, NoDatamatch) {
                debug!(%error, address, "KVM_IOEVENTFD");
            }
        }
    }
}

impl Drop for Notifies {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_configuration_space_for_its_first_function() {
        assert_eq!(place(0), Some((0, 0)));
        assert_eq!(place(0x8000 + 0x40), Some((1, 0x40)));
        assert_eq!(place(0xf_8fff), Some((31, 0xfff)));
        for function in 1..8 {
            assert_eq!(place(0x8000 + function * 0x1000), None);
        }
        assert_eq!((slots(0), slots(2), slots(30), slots(MAX)), (8, 10, 31, 31));
        let last = place(ECAM.end - ECAM.start - 0x8000).map(|(slot, _)| slot);
        assert_eq!(last, Some(SLOTS - 1));
    }

    #[test]
    fn registers_lie_in_the_window() {
        let first = (0..SLOTS as u32).map(|slot| WINDOW.start + slot * BAR_SIZE);
        assert!(first.into_iter().all(may_be_at));
        assert!(may_be_at(WINDOW.end - BAR_SIZE));
        // In RAM, at its end, in the configuration space, at the interrupt controllers; as a guest asks for the size.
        for base in [
            0,
            0xbfff_8000,
            0xe000_0000,
            0xfec0_0000,
            0xfee0_0000,
            0xffff_8000,
        ] {
            assert!(!may_be_at(base), "{base:#x}");
        }
    }
}
