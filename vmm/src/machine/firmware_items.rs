//! What firmware is told of the machine, through the firmware configuration device.
//!
//! | key or file | what |
//! | --- | --- |
//! | 0x0003 | u64: RAM, in bytes |
//! | 0x0004 | u16: 1, there is no display |
//! | 0x0005 | u16: number of vCPUs |
//! | 0x000f | u16: number of local APIC ids, as many |
//! | `etc/e820` | the address map: 20 bytes for each range: u64 address, u64 length, u32 type (1 RAM, 2 reserved) |
//! | `etc/sercon-port` | u16: 0x3f8, where SeaBIOS has its console, as there is no display |
//! | `etc/show-boot-menu` | u16: 0, do not wait for a key |
//! | `etc/boot-fail-wait` | u32: -1, stay when nothing boots: do not reset again and again |
//!
//! Not there, and so zero or empty: NUMA nodes, a boot order, the interrupt override of IRQ 0 (0x8002: the PIT is on GSI
//! 0 here), a machine UUID, SMBIOS and ACPI tables. ACPI tables are three more files, `etc/acpi/tables`, `etc/acpi/rsdp`
//! and `etc/table-loader`, to be added where this builds the others.

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::devices::{fw_cfg::Items, serial};

const RAM_SIZE: u16 = 0x03;
const NO_DISPLAY: u16 = 0x04;
const VCPUS: u16 = 0x05;
const APIC_IDS: u16 = 0x0f;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// The items of a machine with this RAM, these address ranges (start and length) that are KVM's own, and `vcpus` vCPUs.
pub(super) fn items(ram: &GuestMemoryMmap, reserved: &[(u64, u64)], vcpus: u32) -> Items {
    let regions = || {
        ram.iter()
            .map(|region| (region.start_addr().0, region.len()))
    };
    let total: u64 = regions().map(|(_, len)| len).sum();
    let vcpus = u16::try_from(vcpus).unwrap_or(u16::MAX);

    let mut items = Items::default();
    items.set(RAM_SIZE, total.to_le_bytes());
    items.set(NO_DISPLAY, 1_u16.to_le_bytes());
    items.set(VCPUS, vcpus.to_le_bytes());
    items.set(APIC_IDS, vcpus.to_le_bytes());

    let mut e820 = Vec::new();
    let ranges = regions().map(|range| (range, E820_RAM));
    for ((start, len), kind) in ranges.chain(reserved.iter().map(|range| (*range, E820_RESERVED))) {
        e820.extend(start.to_le_bytes());
        e820.extend(len.to_le_bytes());
        e820.extend(kind.to_le_bytes());
    }
    items.add_file("etc/e820", e820);
    items.add_file("etc/sercon-port", serial::PORTS.start().to_le_bytes());
    items.add_file("etc/show-boot-menu", 0_u16.to_le_bytes());
    items.add_file("etc/boot-fail-wait", u32::MAX.to_le_bytes());
    items
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;

    #[test]
    fn the_map_has_all_ram_and_what_is_reserved() {
        let ranges = [
            (GuestAddress(0), 0x20_0000),
            (GuestAddress(1 << 32), 0x1000),
        ];
        let ram = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        let items = items(&ram, &[(0xfeff_c000, 0x4000)], 3);
        assert_eq!(items.get(RAM_SIZE), 0x20_1000_u64.to_le_bytes());
        assert_eq!(items.get(VCPUS), [3, 0]);
        let entry = |start: u64, len: u64, kind: u32| {
            [
                &start.to_le_bytes()[..],
                &len.to_le_bytes(),
                &kind.to_le_bytes(),
            ]
            .concat()
        };
        let expected = [
            entry(0, 0x20_0000, E820_RAM),
            entry(1 << 32, 0x1000, E820_RAM),
            entry(0xfeff_c000, 0x4000, E820_RESERVED),
        ];
        assert_eq!(items.file("etc/e820"), Some(&expected.concat()[..]));
        assert_eq!(items.file("etc/sercon-port"), Some(&[0xf8, 0x03][..]));
    }
}
