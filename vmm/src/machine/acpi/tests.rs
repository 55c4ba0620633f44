use super::*;
use crate::machine::virtio::{VirtioTransport, layout};

fn plain() -> AcpiTables {
    AcpiTables::new(1, &Layout::Mmio(Vec::new()))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at `address`, as its header says.
fn at(tables: &AcpiTables, address: u64) -> &[u8] {
    let bytes = &tables.bytes[(address - START) as usize..];
    let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
    &bytes[..length as usize]
}

fn long(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

#[test]
fn every_table_is_found_from_the_root_and_adds_up() {
    for (vcpus, transport) in [
        (1, VirtioTransport::Mmio),
        (64, VirtioTransport::Mmio),
        (1, VirtioTransport::Pci),
    ] {
        let tables = AcpiTables::new(vcpus, &layout(transport, 16));
        assert!(tables.bytes.len() < 8192, "{}", tables.bytes.len());
        let root = &tables.bytes[..36];
        assert_eq!(
            (&root[..8], sum(&root[..20]), sum(root)),
            (&b"RSD PTR "[..], 0, 0)
        );
        let xsdt = at(&tables, long(root, 24));
        assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
        let (fadt, madt) = (at(&tables, long(xsdt, 36)), at(&tables, long(xsdt, 44)));
        assert_eq!((&fadt[..4], sum(fadt)), (&b"FACP"[..], 0));
        assert_eq!((&madt[..4], sum(madt)), (&b"APIC"[..], 0));
        assert_eq!(madt.len(), 44 + 8 * vcpus as usize + 12 + 10);
        let dsdt = at(&tables, long(fadt, 140));
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        let facs = u32::from_le_bytes(fadt[36..40].try_into().unwrap());
        assert_eq!(u64::from(facs), tables.facs);
        assert_eq!(facs % 64, 0);
        assert_eq!(&at(&tables, tables.facs)[..4], b"FACS");
        let has_pci = transport == VirtioTransport::Pci;
        assert_eq!(tables.ecam().is_some(), has_pci);
        assert_eq!(dsdt.windows(4).any(|name| name == b"PCI0"), has_pci);
        assert_eq!(dsdt.windows(4).any(|name| name == b"VR00"), !has_pci);
        assert_eq!(xsdt.len(), 36 + if has_pci { 3 * 8 } else { 2 * 8 });
        if has_pci {
            let mcfg = at(&tables, long(xsdt, 52));
            assert_eq!((&mcfg[..4], sum(mcfg)), (&b"MCFG"[..], 0));
            assert_eq!((long(mcfg, 44), long(mcfg, 52)), (ECAM.start, 0));
        }
    }
}

#[test]
fn the_waking_vector_is_what_the_guest_wrote() {
    let tables = plain();
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    ram.write_slice(tables.bytes(), GuestAddress(tables.start()))
        .unwrap();
    assert_eq!(tables.waking_vector(&ram).unwrap(), 0);
    ram.write_obj(0x9_a000_u32, GuestAddress(tables.facs + 12))
        .unwrap();
    assert_eq!(tables.waking_vector(&ram).unwrap(), 0x9_a000);
}

#[test]
fn each_machine_has_a_generation_of_its_own() {
    assert_ne!(plain().bytes, plain().bytes);
}
