//! What a kernel that is entered in 64-bit mode is given: boot parameters, page tables and segments.

use std::ops::Range;

use linux_loader::{
    configurator::{BootConfigurator, BootParams, Error, linux::LinuxBootConfigurator},
    loader::bootparam::{boot_e820_entry, boot_params, setup_header},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{
    entry::DESCRIPTORS,
    layout::{CMDLINE, CMDLINE_MAX, GDT, Kind, PAGE_TABLES, ZERO_PAGE},
};

/// "No boot loader that has a number".
const LOADER_UNDEFINED: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Alignment that a kernel which does not say is assumed to need.
const ALIGNMENT: u32 = 0x100_0000;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
const TABLE: u64 = 4096;
const GIB: u64 = 1 << 30;
const LARGE: u64 = 2 << 20;

/// Writes the boot parameters. `header` is the image's own, if it has one.
pub(super) fn write_parameters(
    ram: &GuestMemoryMmap,
    header: Option<setup_header>,
    map: &[(Range<u64>, Kind)],
    initrd: Option<Range<u64>>,
    rsdp: u64,
) -> Result<(), Error> {
    let mut params = boot_params {
        hdr: header.unwrap_or(setup_header {
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            kernel_alignment: ALIGNMENT,
            cmdline_size: CMDLINE_MAX as u32,
            ..Default::default()
        }),
        acpi_rsdp_addr: rsdp,
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    // All of this is below 4 GiB.
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    // The file's header has room for these, and may hold anything there.
    let initrd = initrd.unwrap_or_default();
    params.hdr.ramdisk_image = initrd.start as u32;
    params.hdr.ramdisk_size = (initrd.end - initrd.start) as u32;
    params.hdr.setup_data = 0;
    let mut table = [boot_e820_entry::default(); 128];
    for (entry, (range, kind)) in table.iter_mut().zip(map) {
        *entry = boot_e820_entry {
            addr: range.start,
            size: range.end - range.start,
            r#type: *kind as u32,
        };
        params.e820_entries += 1;
    }
    params.e820_table = table;
    LinuxBootConfigurator::write_bootparams(&BootParams::new(&params, GuestAddress(ZERO_PAGE)), ram)
}

/// Writes the descriptor table, and page tables that map the first 4 GiB one to one in pages of 2 MiB.
pub(super) fn write_mode(ram: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    for (slot, descriptor) in (0_u64..).zip(DESCRIPTORS) {
        ram.write_obj(descriptor, GuestAddress(GDT + slot * 8))?;
    }
    // Four directories, the table of pointers to them, and the table with one pointer to that.
    let pointers = PAGE_TABLES + TABLE;
    let directories = pointers + TABLE;
    write_table(ram, PAGE_TABLES, [pointers | PRESENT_WRITABLE])?;
    let directory = |gib| directories + gib * TABLE;
    write_table(
        ram,
        pointers,
        (0..4).map(|gib| directory(gib) | PRESENT_WRITABLE),
    )?;
    for gib in 0..4 {
        let pages = (0..TABLE / 8).map(|index| gib * GIB + index * LARGE);
        let entries = pages.map(|page| page | PRESENT_WRITABLE | LARGE_PAGE);
        write_table(ram, directory(gib), entries)?;
    }
    Ok(())
}

/// Writes a table that begins with `entries`; the others are empty.
fn write_table(
    ram: &GuestMemoryMmap,
    at: u64,
    entries: impl IntoIterator<Item = u64>,
) -> Result<(), GuestMemoryError> {
    let mut table: Vec<u8> = entries.into_iter().flat_map(u64::to_le_bytes).collect();
    table.resize(TABLE as usize, 0);
    ram.write_slice(&table, GuestAddress(at))
}
