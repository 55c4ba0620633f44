//! The MADT: the interrupt controllers (ACPI specification 6.5, section 5.2.12). KVM wires each line of the ISA bus to the
//! IOAPIC's input of the same number.

use acpi_tables::{
    Aml,
    madt::{EnabledStatus, IoApic, ProcessorLocalApic},
    sdt::Sdt,
};

use crate::machine::irq::SCI_GSI;

const REVISION: u8 = 5;
const LOCAL_APIC: u32 = 0xfee0_0000;
const IOAPIC: u32 = 0xfec0_0000;
/// There are two 8259 as well.
const PCAT_COMPAT: u32 = 1 << 0;
/// Active high, level triggered (section 5.2.12.5).
const LEVEL_HIGH: u16 = 0b1101;

/// The MADT of a machine with `vcpus` vCPUs, whose local APIC ids are their numbers.
pub(super) fn table(vcpus: u32) -> Sdt {
    let mut body = Vec::new();
    body.extend(LOCAL_APIC.to_le_bytes());
    body.extend(PCAT_COMPAT.to_le_bytes());
    for id in (0..=u8::MAX).take(vcpus as usize) {
        ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut body);
    }
    IoApic::new(0, IOAPIC, 0).to_aml_bytes(&mut body);
    // Interrupt source override: type 2, 10 bytes, bus 0 (ISA), from the SCI's line to the same input.
    body.extend([2, 10, 0, SCI_GSI as u8]);
    body.extend(SCI_GSI.to_le_bytes());
    body.extend(LEVEL_HIGH.to_le_bytes());
    super::table(*b"APIC", REVISION, &body)
}
