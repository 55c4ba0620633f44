//! The ACPI tables of a machine (ACPI specification 6.5, sections 5.2 and 16).
//!
//! ```text
//!   RSDP --> XSDT --> FADT --> DSDT (dsdt.rs: sleep states and devices)
//!     |         |         \--> FACS (waking vector: written by the guest)
//!     |         \--> MADT (local APICs, IOAPIC)
//!     |         \--> MCFG (PCI configuration space), if there is a PCI bus
//!     +-- followed by a page of which the VM generation identifier is a part
//! ```
//! They lie where firmware puts them, below 1 MiB in memory that the map calls reserved. They are made once a machine and
//! written again at each reset; a wake-up leaves them, for the waking vector.

mod dsdt;
mod fadt;
mod hotplug;
mod madt;

use std::ops::Range;

use acpi_tables::{Aml, facs::FACS, mcfg::MCFG, rsdp::Rsdp, sdt::Sdt, xsdt::XSDT};
use uuid::Uuid;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::virtio::{Layout, pci::ECAM};

/// Where the tables begin: a guest may look for the RSDP from here on (section 5.2.5.1).
const START: u64 = 0xe_0000;
/// Where they end at the latest.
const END: u64 = 0x10_0000;

const OEM: [u8; 6] = *b"VMD   ";
const OEM_TABLE: [u8; 8] = *b"VMDTABLE";
const OEM_REVISION: u32 = 1;
/// Bytes of a table's header.
const HEADER: u32 = 36;

/// Alignment of the FACS (section 5.2.10); enough for all.
const ALIGNMENT: usize = 64;
/// Where the vectors are in the FACS.
const WAKING_VECTOR: u64 = 12;

/// A machine's tables, ready to be written.
pub(super) struct AcpiTables {
    bytes: Vec<u8>,
    facs: u64,
    ecam: Option<Range<u64>>,
}

impl AcpiTables {
    /// The tables of a machine with `vcpus` vCPUs, and virtio devices as `layout` has them.
    pub(super) fn new(vcpus: u32, layout: &Layout) -> Self {
        let has_pci = matches!(layout, Layout::Pci { .. });
        // The RSDP comes first, and its place is kept until the XSDT is known.
        let mut tables = Self {
            bytes: vec![0; Rsdp::len()],
            facs: 0,
            ecam: has_pci.then_some(ECAM),
        };
        let generation = tables.add(Uuid::new_v4().as_bytes());
        tables.facs = tables.add(&aml(&FACS::new()));
        let dsdt = tables.add(dsdt::table(generation, layout).as_slice());
        let fadt = tables.add(&aml(&fadt::table(dsdt, tables.facs, has_pci)));
        let madt = tables.add(madt::table(vcpus).as_slice());
        let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
        xsdt.add_entry(fadt);
        xsdt.add_entry(madt);
        if has_pci {
            let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
            mcfg.add_ecam(ECAM.start, 0, 0, 0);
            xsdt.add_entry(tables.add(&aml(&mcfg)));
        }
        let xsdt = tables.add(&aml(&xsdt));
        let rsdp = aml(&Rsdp::new(OEM, xsdt));
        for (byte, value) in tables.bytes.iter_mut().zip(rsdp) {
            *byte = value;
        }
        debug_assert!(tables.bytes.len() as u64 <= END - START);
        tables
    }

    /// Appends a table; where it will be.
    fn add(&mut self, table: &[u8]) -> u64 {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let at = START + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        at
    }

    /// What is to be written at [`AcpiTables::start`].
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where they begin.
    pub(super) fn start(&self) -> u64 {
        START
    }

    /// Where the root pointer is.
    pub(super) fn rsdp(&self) -> u64 {
        START
    }

    /// The PCI configuration space, which the memory map has to call reserved: a guest uses it only then.
    pub(super) fn ecam(&self) -> Option<Range<u64>> {
        self.ecam.clone()
    }

    /// Where the guest wants to go on after a wake-up: what it wrote into the FACS (section 5.2.10).
    pub(super) fn waking_vector(&self, ram: &GuestMemoryMmap) -> Result<u32, GuestMemoryError> {
        ram.read_obj(GuestAddress(self.facs + WAKING_VECTOR))
            .map(u32::from_le)
    }
}

fn aml(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// A table of which the library knows only the header.
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Sdt {
    let mut table = Sdt::new(signature, HEADER, revision, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(body);
    table
}

#[cfg(test)]
mod tests;
