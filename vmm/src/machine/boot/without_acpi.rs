//! What a kernel is told that does not use ACPI: virtio devices by words on its command line (Linux:
//! `virtio_mmio.device=`), and CPUs and interrupts by an MP table (Intel MultiProcessor Specification 1.4, chapter 4).
//!
//! | part | bytes | what it says |
//! | --- | --- | --- |
//! | floating pointer | 16 | where the table is; found by a search from 0xf_0000 on |
//! | header | 44 | how long it is, where the local APICs are |
//! | processors | 20 each | local APIC ids; the first boots |
//! | bus | 8 | ISA |
//! | IOAPIC | 8 | where it is |
//! | interrupts | 8 each | each input of the IOAPIC is that of the bus's line of the same number; LINT0, LINT1 |

use super::super::virtio::Place;
use crate::devices::virtio::mmio;

/// Where the floating pointer is, and the table behind it.
pub(super) const MP_TABLE: u64 = 0xf_0000;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IOAPIC: u32 = 0xfec0_0000;
/// Of both sorts of APIC: version 0x14, as KVM's say.
const APIC_VERSION: u8 = 0x14;
const IOAPIC_PINS: u8 = 24;
/// A Pentium Pro, and what it needs: an FPU and an APIC.
const CPU_SIGNATURE: u32 = 0x600;
const CPU_FEATURES: u32 = 0x201;
const HEADER: usize = 44;
const POINTER: u64 = 16;

/// Whether a command line has the kernel do without ACPI.
pub(super) fn is_asked_for(cmdline: &str) -> bool {
    words(cmdline)
        .0
        .split_whitespace()
        .any(|word| word == "acpi=off")
}

/// The kernel's words, and the rest, which is for the init.
fn words(cmdline: &str) -> (&str, &str) {
    match cmdline.find(" -- ") {
        Some(end) => cmdline.split_at(end),
        None => (cmdline, ""),
    }
}

/// The command line with a word for each device.
pub(super) fn with_devices(cmdline: &str, places: &[Place]) -> String {
    let (kernels, inits) = words(cmdline);
    let mut text = kernels.to_owned();
    for Place { base, gsi } in places {
        let size = mmio::SIZE;
        text.push_str(&format!(" virtio_mmio.device={size}@{base:#x}:{gsi}"));
    }
    text + inits
}

/// The MP table of a machine with `vcpus` vCPUs, to be written at [`MP_TABLE`].
pub(super) fn mp_table(vcpus: u32) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count = 0_u16;
    let mut add = |entry: &[u8]| {
        entries.extend(entry);
        count += 1;
    };
    for id in (0..u8::MAX).take(vcpus as usize) {
        // Usable; the first is the one that boots.
        let flags = if id == 0 { 0b11 } else { 0b01 };
        let mut processor = vec![0, id, APIC_VERSION, flags];
        processor.extend(CPU_SIGNATURE.to_le_bytes());
        processor.extend(CPU_FEATURES.to_le_bytes());
        processor.extend([0; 8]);
        add(&processor);
    }
    add(b"\x01\x00ISA   ");
    // Local APIC ids come first.
    let ioapic = u8::try_from(vcpus).unwrap_or(u8::MAX);
    let mut controller = vec![2, ioapic, APIC_VERSION, 1];
    controller.extend(IOAPIC.to_le_bytes());
    add(&controller);
    for pin in 0..IOAPIC_PINS {
        // Polarity and trigger as the bus has them: edges, active high.
        add(&[3, 0, 0, 0, 0, pin, ioapic, pin]);
    }
    // LINT0 of the first local APIC is the PICs', LINT1 of all is the NMI.
    add(&[4, 3, 0, 0, 0, 0, 0, 0]);
    add(&[4, 1, 0, 0, 0, 0, 0xff, 1]);

    let mut header = Vec::with_capacity(HEADER);
    header.extend(b"PCMP");
    header.extend(((HEADER + entries.len()) as u16).to_le_bytes());
    // Version 1.4, then the checksum.
    header.extend([4, 0]);
    header.extend(b"VMD     VMDTABLE    ");
    // No table of the manufacturer's.
    header.extend([0; 6]);
    header.extend(count.to_le_bytes());
    header.extend(LOCAL_APIC.to_le_bytes());
    header.extend([0; 4]);
    let table = summed([header, entries].concat(), 7);

    let mut pointer = b"_MP_".to_vec();
    pointer.extend(((MP_TABLE + POINTER) as u32).to_le_bytes());
    // One paragraph, version 1.4, checksum, a table is there, PICs are connected ("virtual wire").
    pointer.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    [summed(pointer, 10), table].concat()
}

/// Has the bytes add up to zero, by the one at `at`.
fn summed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(place) = bytes.get_mut(at) {
        *place = place.wrapping_sub(sum);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn devices_are_told_of_among_the_kernels_words() {
        let place = |base, gsi| Place { base, gsi };
        let places = [place(0xd000_0000, 16), place(0xd000_1000, 17)];
        let two = " virtio_mmio.device=512@0xd0000000:16 virtio_mmio.device=512@0xd0001000:17";
        assert_eq!(
            with_devices("a acpi=off", &places),
            format!("a acpi=off{two}")
        );
        let inits = "acpi=off -- single";
        assert_eq!(
            with_devices(inits, &places),
            format!("acpi=off{two} -- single")
        );
        assert_eq!(with_devices("acpi=off", &[]), "acpi=off");
    }

    #[test]
    fn the_word_stands_alone_and_is_the_kernels() {
        assert!(is_asked_for("acpi=off") && is_asked_for("quiet\tacpi=off panic=1"));
        for line in [
            "",
            "acpi=offx",
            "xacpi=off",
            "acpi=force",
            "quiet -- acpi=off",
        ] {
            assert!(!is_asked_for(line), "{line}");
        }
    }

    #[test]
    fn the_table_is_found_and_adds_up() {
        for vcpus in [1, 2, 64] {
            let bytes = mp_table(vcpus);
            let (pointer, table) = bytes.split_at(16);
            assert_eq!((&pointer[..4], sum(pointer)), (&b"_MP_"[..], 0));
            let at = u32::from_le_bytes(pointer[4..8].try_into().unwrap());
            assert_eq!(u64::from(at), MP_TABLE + 16);
            assert_eq!((&table[..4], sum(table)), (&b"PCMP"[..], 0));
            let length = u16::from_le_bytes([table[4], table[5]]);
            assert_eq!(usize::from(length), table.len());
            // Every entry has the length of its sort, and there are as many as it says.
            let (mut rest, mut kinds) = (&table[44..], Vec::new());
            while let Some(kind) = rest.first() {
                kinds.push(*kind);
                rest = &rest[if *kind == 0 { 20 } else { 8 }..];
            }
            let count = u16::from_le_bytes([table[34], table[35]]);
            assert_eq!(usize::from(count), kinds.len());
            let of = |kind| kinds.iter().filter(|it| **it == kind).count();
            let counts = [of(0), of(1), of(2), of(3), of(4)];
            assert_eq!(counts, [vcpus as usize, 1, 1, 24, 2]);
            assert!(MP_TABLE + (bytes.len() as u64) < 0x10_0000);
        }
    }
}
