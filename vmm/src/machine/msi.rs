//! Interrupts by message: KVM's routes from GSIs to messages, and the irqfds behind them (KVM API, KVM_SET_GSI_ROUTING and
//! KVM_IRQFD).
//!
//! ```text
//!   MsiVector::connect --> Routes: GSIs 0 to 23 to PIC and IOAPIC as at first, GSI n to its message --> KVM
//!   MsiVector::fire --> irqfd --> GSI n --> local APIC
//! ```
//! KVM takes all routes at once, so they are kept here. A message that changes is rare: when a driver sets its device up,
//! or moves an interrupt to another vCPU.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use tracing::warn;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::BuildError;
use crate::devices::{pci::msix::Vector, virtio::interrupt::fire};

/// Inputs of the IOAPIC; the first 16 are also those of the two PICs.
const IOAPIC_PINS: u32 = 24;
const PIC_PINS: u32 = 8;

/// The routes of one machine.
pub(super) struct Routes {
    vm: Arc<VmFd>,
    /// The GSIs in use, and their messages if they have one.
    messages: Mutex<BTreeMap<u32, Option<Message>>>,
}

type Message = (u64, u32);

impl Routes {
    /// Those that KVM has at first.
    pub(super) fn new(vm: Arc<VmFd>) -> Arc<Self> {
        let messages = Mutex::default();
        Arc::new(Self { vm, messages })
    }

    /// An interrupt that is free, without a message yet.
    pub(super) fn vector(self: &Arc<Self>) -> Result<MsiVector, BuildError> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        let gsi = {
            let mut messages = self.lock();
            let gsi = (IOAPIC_PINS..).find(|gsi| !messages.contains_key(gsi));
            let gsi = gsi.ok_or_else(|| io::Error::other("no interrupt is free"))?;
            messages.insert(gsi, None);
            gsi
        };
        let vector = MsiVector {
            routes: self.clone(),
            gsi,
            event,
        };
        self.vm
            .register_irqfd(&vector.event, gsi)
            .map_err(BuildError::kvm("KVM_IRQFD"))?;
        Ok(vector)
    }

    fn connect(&self, gsi: u32, message: Message) {
        let mut messages = self.lock();
        messages.insert(gsi, Some(message));
        if let Err(error) = self.set(&messages) {
            warn!(%error, gsi, "KVM_SET_GSI_ROUTING: an interrupt does not reach its guest");
        }
    }

    fn set(&self, messages: &BTreeMap<u32, Option<Message>>) -> io::Result<()> {
        let messages = messages
            .iter()
            .filter_map(|(gsi, message)| Some(to_message(*gsi, (*message)?)));
        let entries: Vec<_> = to_chips().chain(messages).collect();
        let routing = KvmIrqRouting::from_entries(&entries).map_err(io::Error::other)?;
        Ok(self.vm.set_gsi_routing(&routing)?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Option<Message>>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lines of the ISA bus go to the input of the same number of the PICs and of the IOAPIC; the IOAPIC has eight more.
fn to_chips() -> impl Iterator<Item = kvm_irq_routing_entry> {
    let to_chip = |gsi: u32, irqchip: u32, pin: u32| {
        let mut entry = kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            ..Default::default()
        };
        entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
        entry
    };
    (0..IOAPIC_PINS).flat_map(move |gsi| {
        let pic = match gsi / PIC_PINS {
            0 => Some(KVM_IRQCHIP_PIC_MASTER),
            1 => Some(KVM_IRQCHIP_PIC_SLAVE),
            _ => None,
        };
        let pic = pic.map(|chip| to_chip(gsi, chip, gsi % PIC_PINS));
        std::iter::once(to_chip(gsi, KVM_IRQCHIP_IOAPIC, gsi)).chain(pic)
    })
}

fn to_message(gsi: u32, (address, data): Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: address as u32,
        address_hi: (address >> 32) as u32,
        data,
        ..Default::default()
    };
    entry
}

/// An interrupt by message. It is free again when this is dropped.
pub(super) struct MsiVector {
    routes: Arc<Routes>,
    gsi: u32,
    event: EventFd,
}

impl Vector for MsiVector {
    fn connect(&self, address: u64, data: u32) {
        self.routes.connect(self.gsi, (address, data));
    }

    fn fire(&self) {
        fire(&self.event);
    }
}

impl Drop for MsiVector {
    fn drop(&mut self) {
        // It is not if its registration failed. Its route goes when the next is set; until then it leads nowhere.
        let _ = self.routes.vm.unregister_irqfd(&self.event, self.gsi);
        self.routes.lock().remove(&self.gsi);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_of_the_chips_has_its_route() {
        let entries: Vec<_> = to_chips().collect();
        assert_eq!(entries.len(), 40);
        for gsi in 0..24 {
            let of_gsi = entries.iter().filter(|entry| entry.gsi == gsi).count();
            assert_eq!(of_gsi, if gsi < 16 { 2 } else { 1 }, "{gsi}");
        }
    }

    #[test]
    fn a_message_keeps_both_halves_of_its_address() {
        let entry = to_message(24, (0x12_fee0_1000, 0x41));
        assert_eq!((entry.gsi, entry.type_), (24, KVM_IRQ_ROUTING_MSI));
        // SAFETY: every field of the union is plain data, so any of them may be read.
        let msi = unsafe { entry.u.msi };
        assert_eq!(
            (msi.address_lo, msi.address_hi, msi.data),
            (0xfee0_1000, 0x12, 0x41)
        );
    }
}
