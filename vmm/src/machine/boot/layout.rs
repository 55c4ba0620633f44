//! Where things are in the memory of a guest whose kernel is booted directly, and the map that it is given.
//!
//! | from | what |
//! | --- | --- |
//! | 0x0000_0500 | the descriptor table that the kernel starts with |
//! | 0x0000_6000 | PVH start info, its module list and memory map |
//! | 0x0000_7000 | Linux boot parameters (the "zero page") |
//! | 0x0000_9000 | page tables that map the first 4 GiB one to one |
//! | 0x0002_0000 | command line, 64 KiB at most |
//! | 0x0009_fc00 | end of the RAM below 1 MiB |
//! | 0x000e_0000 | ACPI tables, reserved |
//! | 0x000f_0000 | MP table, reserved, for a kernel that does without them |
//! | 0x0010_0000 | the kernel, where its image says; RAM goes on to its end or to 3 GiB |
//! | end of that | initial RAM disk, ends below it |
//! | 0xe000_0000 | PCI configuration space, reserved, if there is a PCI bus |
//! | 0x1_0000_0000 | the rest of RAM |

use std::ops::Range;

pub(super) const GDT: u64 = 0x500;
pub(super) const START_INFO: u64 = 0x6000;
pub(super) const MODULES: u64 = 0x6100;
pub(super) const MEMORY_MAP: u64 = 0x6200;
pub(super) const ZERO_PAGE: u64 = 0x7000;
pub(super) const PAGE_TABLES: u64 = 0x9000;
pub(super) const CMDLINE: u64 = 0x2_0000;
/// Longest command line, in bytes, without its end mark.
pub(super) const CMDLINE_MAX: usize = 0xffff;
/// End of the RAM below 1 MiB; a PC has its extended BIOS data area there.
const EBDA: u64 = 0x9_fc00;
/// Where kernels may begin.
pub(super) const HIGH_MEMORY: u64 = 0x10_0000;

/// What a range of the memory map is (ACPI specification 6.5, section 15, table 15.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ram = 1,
    Reserved = 2,
}

/// The memory map for a guest whose RAM is in `ram`, with its PCI configuration space at `ecam` if it has one; in order.
pub(super) fn memory_map(ram: &[Range<u64>], ecam: Option<Range<u64>>) -> Vec<(Range<u64>, Kind)> {
    let mut map = vec![(0..EBDA, Kind::Ram), (EBDA..HIGH_MEMORY, Kind::Reserved)];
    map.extend(
        ram.iter()
            .map(|range| range.start.max(HIGH_MEMORY)..range.end)
            .filter(|range| !range.is_empty())
            .map(|range| (range, Kind::Ram)),
    );
    map.extend(ecam.map(|ecam| (ecam, Kind::Reserved)));
    map.sort_by_key(|(range, _)| range.start);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_ordered_and_leaves_the_tables_out() {
        let ram = [0..3 << 30, 4 << 30..5 << 30];
        let ecam = 0xe000_0000..0xe010_0000;
        let map = memory_map(&ram, Some(ecam.clone()));
        assert!(map.windows(2).all(|pair| pair[0].0.end <= pair[1].0.start));
        let reserved: Vec<_> = map
            .iter()
            .filter(|entry| entry.1 == Kind::Reserved)
            .collect();
        let low = (0x9_fc00..0x10_0000, Kind::Reserved);
        assert_eq!(reserved, [&low, &(ecam, Kind::Reserved)]);
        assert_eq!(map.last(), Some(&(4 << 30..5 << 30, Kind::Ram)));
        // Nothing above 1 MiB.
        assert_eq!(
            memory_map(std::slice::from_ref(&(0..1 << 20)), None).len(),
            2
        );
    }
}
