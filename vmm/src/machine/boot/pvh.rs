//! What a kernel that is entered by its PVH note is given (Xen, `xen/include/public/arch-x86/hvm/start_info.h`).

use std::ops::Range;

use linux_loader::{
    configurator::{BootConfigurator, BootParams, Error, pvh::PvhBootConfigurator},
    loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info},
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::layout::{CMDLINE, Kind, MEMORY_MAP, MODULES, START_INFO};

const MAGIC: u32 = 0x336e_c578;
/// The first version with a memory map.
const VERSION: u32 = 1;

/// Writes the start info.
pub(super) fn write_start_info(
    ram: &GuestMemoryMmap,
    map: &[(Range<u64>, Kind)],
    initrd: Option<Range<u64>>,
    rsdp: u64,
) -> Result<(), Error> {
    let entries: Vec<_> = map
        .iter()
        .map(|(range, kind)| hvm_memmap_table_entry {
            addr: range.start,
            size: range.end - range.start,
            type_: *kind as u32,
            reserved: 0,
        })
        .collect();
    let start_info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        nr_modules: initrd.is_some().into(),
        modlist_paddr: MODULES,
        cmdline_paddr: CMDLINE,
        rsdp_paddr: rsdp,
        memmap_paddr: MEMORY_MAP,
        // A handful.
        memmap_entries: entries.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&start_info, GuestAddress(START_INFO));
    params.set_sections(&entries, GuestAddress(MEMORY_MAP));
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry {
            paddr: initrd.start,
            size: initrd.end - initrd.start,
            ..Default::default()
        };
        params.set_modules(&[module], GuestAddress(MODULES));
    }
    PvhBootConfigurator::write_bootparams(&params, ram)
}
