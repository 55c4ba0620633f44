//! Kernels as bzImages (Linux `Documentation/x86/boot.rst`): what distributions ship as `vmlinuz`.

use std::io::{self, Read, Seek};

use linux_loader::{
    bootparam::{LOADED_HIGH, XLF_KERNEL_64},
    loader::bootparam::setup_header,
};
use vm_memory::ByteValued;

use super::{
    image::{ImageError, Plan, Protocol, read_at},
    layout::HIGH_MEMORY,
};

/// Where the setup header is in the file.
const HEADER: u64 = 0x1f1;
/// Where its magic number is in the file.
const MAGIC_AT: u64 = 0x202;
pub(super) const MAGIC: [u8; 4] = *b"HdrS";
/// The first version of the protocol with `xloadflags`.
const VERSION_64: u16 = 0x20c;
const SECTOR: u64 = 512;
/// What `syssize` counts.
const UNIT: u64 = 16;
/// The 64-bit entry point is this far into the part that is loaded.
const ENTRY_64: u64 = 0x200;

/// Whether `file` begins as a bzImage does.
pub(super) fn is_one(file: &mut (impl Read + Seek)) -> io::Result<bool> {
    let mut magic = [0; 4];
    Ok(read_at(file, MAGIC_AT, &mut magic)? && magic == MAGIC)
}

/// What the kernel in `file`, which has `size` bytes and begins as a bzImage does, says of itself.
pub(super) fn read(file: &mut (impl Read + Seek), size: u64) -> Result<Plan, ImageError> {
    let mut header = setup_header::default();
    if !read_at(file, HEADER, header.as_mut_slice())? {
        let what = format!("its {size} bytes do not hold the setup header");
        return Err(ImageError::CutShort(what));
    }
    // It ends where the jump over it leads to: what follows is code, in files of older protocols.
    let length = MAGIC_AT - HEADER + u64::from(header.jump >> 8);
    if let Some(code) = header.as_mut_slice().get_mut(length as usize..) {
        code.fill(0);
    }
    let wrong = |what: String| Err(ImageError::WrongBzImage(what));
    let version = header.version;
    if version < VERSION_64 {
        return wrong(format!(
            "of boot protocol {}.{:02}",
            version >> 8,
            version & 0xff
        ));
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return wrong("that is loaded low (a zImage)".to_owned());
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return wrong("without a 64-bit entry point".to_owned());
    }

    let setup_sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let setup = (setup_sectors + 1) * SECTOR;
    // In units of 16 bytes, of which the file may lack the end of the last.
    let kernel = u64::from(header.syssize) * UNIT;
    if setup >= size || (size - setup).next_multiple_of(UNIT) < kernel {
        return Err(ImageError::CutShort(format!(
            "it has {size} bytes, of {} that its header tells of",
            setup + kernel
        )));
    }
    header.code32_start = HIGH_MEMORY as u32;
    // It unpacks itself to its preferred address, or in place if that is below.
    let start = header.pref_address.max(HIGH_MEMORY);
    Ok(Plan {
        protocol: Protocol::Linux64 {
            entry: HIGH_MEMORY + ENTRY_64,
            header: Some(header),
        },
        // With what follows the kernel, such as a signature. A file has at most 2^63 bytes.
        parts: vec![(setup, HIGH_MEMORY..HIGH_MEMORY.saturating_add(size - setup))],
        zeroes: Vec::new(),
        end: start.saturating_add(header.init_size.into()),
    })
}
