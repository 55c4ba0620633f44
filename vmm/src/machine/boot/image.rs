//! A kernel image, read and laid out once; every machine that boots it, and each of their resets, copies it.
//!
//! ```text
//!   file --- elf.rs or bzimage.rs ---> Plan --- check ---> parts (address, bytes) --- write ---> guest memory
//!            headers, read once         |       does it fit?                  at each start
//!                                       \--> entry point and protocol
//! ```
//! The file is hostile, and may be written to while it is read. Each header is read once, so that what was checked is
//! what is used; and no more is read than the machine has memory for, however large the file says that it is.

use std::{
    collections::TryReserveError,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
};

use linux_loader::loader::bootparam::setup_header;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{bzimage, elf, layout::HIGH_MEMORY};
use crate::machine::memory::LOW_RAM_END;

/// How a kernel is entered, and what it is given.
#[derive(Clone, Copy, Debug)]
pub(super) enum Protocol {
    /// In 32-bit protected mode, by the PVH entry point of the image's note (Xen's `misc/pvh`).
    Pvh { entry: u32 },
    /// In 64-bit mode, with boot parameters (Linux `Documentation/x86/boot.rst`, "64-bit boot protocol").
    Linux64 {
        entry: u64,
        /// Of a bzImage.
        header: Option<setup_header>,
    },
}

/// A kernel image.
pub struct KernelImage {
    pub(super) protocol: Protocol,
    /// What the file holds, and where the guest is to have it.
    parts: Vec<(GuestAddress, Vec<u8>)>,
    /// What follows the parts and starts as zeroes.
    zeroes: Vec<Range<u64>>,
    /// The first address above the kernel and what it needs to unpack itself.
    pub(super) end: u64,
}

/// Why a file is no kernel that can be booted.
#[derive(Debug, Error)]
pub enum ImageError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There is nothing in it.
    #[error("the file is empty")]
    Empty,
    /// It is of another kind.
    #[error(
        "neither an ELF file nor a bzImage: give an uncompressed vmlinux or a bzImage (a distribution's /boot/vmlinuz)"
    )]
    Unknown,
    /// It is an ELF file, but not for this machine.
    #[error("an ELF file {0}; an x86-64 executable is needed, or a 32-bit one with a PVH note")]
    WrongElf(String),
    /// It is a bzImage that cannot be entered in 64-bit mode.
    #[error(
        "a bzImage {0}; one with the 64-bit boot protocol is needed (Linux 3.8 or later, x86-64)"
    )]
    WrongBzImage(String),
    /// It ends before what it says is in it.
    #[error("the file is cut short: {0}")]
    CutShort(String),
    /// A part of it cannot be where it says.
    #[error("the segment at {:#x}..{:#x} {why}", range.start, range.end)]
    Segment {
        /// Where it is to be, in bytes of guest memory.
        range: Range<u64>,
        /// What is wrong with that.
        why: &'static str,
    },
    /// The place to enter it is not in it.
    #[error("its entry point, {0:#x}, is in none of its segments")]
    Entry(u64),
    /// The machine has too little memory for it.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The host did not give the memory to hold it.
    #[error("no memory to hold the image: {0}")]
    Memory(#[from] TryReserveError),
}

/// A kernel does not fit into a machine's memory.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the kernel needs {needs} bytes of guest memory; the machine has {has} below 3 GiB")]
pub struct TooLarge {
    /// Up to the end of the kernel.
    pub needs: u64,
    /// Below 3 GiB.
    pub has: u64,
}

/// What the headers of a file say. Where parts lie in the file has been checked; where they are to be in memory, not.
pub(super) struct Plan {
    pub(super) protocol: Protocol,
    /// Offsets in the file, and what is to be read from there to where in memory.
    pub(super) parts: Vec<(u64, Range<u64>)>,
    pub(super) zeroes: Vec<Range<u64>>,
    /// The end of what the kernel needs beside that, if it says.
    pub(super) end: u64,
}

impl KernelImage {
    /// Reads the kernel in `file`, of either kind, for a machine of `memory_bytes` bytes.
    pub fn read(file: &mut (impl Read + Seek), memory_bytes: u64) -> Result<Self, ImageError> {
        let size = file.seek(SeekFrom::End(0))?;
        if size == 0 {
            return Err(ImageError::Empty);
        }
        let plan = if elf::is_one(file)? {
            elf::read(file, size)?
        } else if bzimage::is_one(file)? {
            bzimage::read(file, size)?
        } else {
            return Err(ImageError::Unknown);
        };
        let end = plan.check(memory_bytes)?;
        let parts = plan.parts.into_iter();
        Ok(Self {
            protocol: plan.protocol,
            parts: parts
                .map(|(offset, range)| {
                    let bytes = read_part(file, offset, range.end - range.start)?;
                    Ok((GuestAddress(range.start), bytes))
                })
                .collect::<Result<_, ImageError>>()?,
            zeroes: plan.zeroes,
            end,
        })
    }

    /// How many bytes a reset writes.
    pub(super) fn size(&self) -> u64 {
        let parts = self.parts.iter().map(|(_, bytes)| bytes.len() as u64);
        let zeroes = self.zeroes.iter().map(|range| range.end - range.start);
        parts.chain(zeroes).sum()
    }

    /// Whether it fits into a machine of `memory_bytes` bytes.
    pub(super) fn check(&self, memory_bytes: u64) -> Result<(), TooLarge> {
        fits(self.end, memory_bytes)
    }

    /// Writes the image into `ram`, which it fits into. Memory that the kernel starts with as zeroes is written only if
    /// the guest has `run` before.
    pub(super) fn write(&self, ram: &GuestMemoryMmap, run: bool) -> Result<(), GuestMemoryError> {
        if run {
            for range in &self.zeroes {
                super::zero(ram, range.clone())?;
            }
        }
        for (start, bytes) in &self.parts {
            ram.write_slice(bytes, *start)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for KernelImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelImage")
            .field("protocol", &self.protocol)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl Plan {
    /// Whether everything has a place of its own in the memory where kernels may be; where it ends. So the parts
    /// together are not larger than the memory, and neither are the zeroes that a reset writes.
    fn check(&self, memory_bytes: u64) -> Result<u64, ImageError> {
        let parts = self.parts.iter().map(|(_, range)| range);
        let mut ranges: Vec<_> = parts.clone().chain(&self.zeroes).collect();
        ranges.sort_by_key(|range| range.start);
        let mut end = HIGH_MEMORY;
        for range in ranges {
            let why = if range.start < HIGH_MEMORY {
                "begins below 1 MiB"
            } else if range.end > LOW_RAM_END {
                "ends above 3 GiB, where there is no memory"
            } else if range.start < end {
                "overlaps another"
            } else {
                end = range.end;
                continue;
            };
            let range = range.clone();
            return Err(ImageError::Segment { range, why });
        }
        let end = end.max(self.end);
        fits(end, memory_bytes)?;
        let entry = match self.protocol {
            Protocol::Pvh { entry } => entry.into(),
            Protocol::Linux64 { entry, .. } => entry,
        };
        if !parts.into_iter().any(|range| range.contains(&entry)) {
            return Err(ImageError::Entry(entry));
        }
        Ok(end)
    }
}

fn fits(needs: u64, memory_bytes: u64) -> Result<(), TooLarge> {
    let has = memory_bytes.min(LOW_RAM_END);
    if needs > has {
        return Err(TooLarge { needs, has });
    }
    Ok(())
}

/// Reads `length` bytes, at most as many as the machine has memory, from `offset` on.
pub(super) fn read_part(
    file: &mut (impl Read + Seek),
    offset: u64,
    length: u64,
) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    // At most 3 GiB.
    bytes.try_reserve_exact(length as usize)?;
    file.seek(SeekFrom::Start(offset))?;
    file.take(length).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < length {
        return Err(ImageError::CutShort(
            "it became shorter while it was read".to_owned(),
        ));
    }
    Ok(bytes)
}

/// Fills `bytes` with what is in the file from `offset` on; whether there are as many.
pub(super) fn read_at(
    file: &mut (impl Read + Seek),
    offset: u64,
    bytes: &mut [u8],
) -> io::Result<bool> {
    file.seek(SeekFrom::Start(offset))?;
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
