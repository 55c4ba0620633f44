//! The interrupt lines of the in-kernel controllers, and their reset.

use std::sync::Arc;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY,
    kvm_irqchip, kvm_pit_config, kvm_pit_state2,
};
use kvm_ioctls::VmFd;
use tracing::warn;

use super::BuildError;
use crate::devices::IrqLine;

/// ACPI's system control interrupt; level triggered.
pub(super) const SCI_GSI: u32 = 9;

/// One input pin of the PIC and the IOAPIC.
pub(super) struct GsiLine {
    vm: Arc<VmFd>,
    gsi: u32,
}

impl GsiLine {
    pub(super) fn new(vm: Arc<VmFd>, gsi: u32) -> Self {
        Self { vm, gsi }
    }
}

impl IrqLine for GsiLine {
    fn set(&self, high: bool) {
        if let Err(error) = self.vm.set_irq_line(self.gsi, high) {
            warn!(%error, gsi = self.gsi, "KVM_IRQ_LINE");
        }
    }
}

/// The controllers and the PIT as they were before the guest ran, for reset.
pub(super) struct ChipState {
    chips: [kvm_irqchip; 3],
    pit: kvm_pit_state2,
}

/// Creates the PIC, the IOAPIC and the local APICs to come.
pub(super) fn create_irqchip(vm: &VmFd) -> Result<(), BuildError> {
    vm.create_irq_chip()
        .map_err(BuildError::kvm("KVM_CREATE_IRQCHIP"))
}

/// Creates the PIT, with port 0x61.
pub(super) fn create_pit(vm: &VmFd) -> Result<(), BuildError> {
    let config = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(config)
        .map_err(BuildError::kvm("KVM_CREATE_PIT2"))
}

impl ChipState {
    /// Reads the power-on state.
    pub(super) fn read(vm: &VmFd) -> Result<Self, BuildError> {
        let chip = |chip_id| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.get_irqchip(&mut chip)
                .map_err(BuildError::kvm("KVM_GET_IRQCHIP"))?;
            Ok::<_, BuildError>(chip)
        };
        Ok(Self {
            chips: [
                chip(KVM_IRQCHIP_PIC_MASTER)?,
                chip(KVM_IRQCHIP_PIC_SLAVE)?,
                chip(KVM_IRQCHIP_IOAPIC)?,
            ],
            pit: vm.get_pit2().map_err(BuildError::kvm("KVM_GET_PIT2"))?,
        })
    }

    /// Puts the controllers and the PIT back into it.
    pub(super) fn restore(&self, vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
        for chip in &self.chips {
            vm.set_irqchip(chip)?;
        }
        vm.set_pit2(&self.pit)
    }
}
