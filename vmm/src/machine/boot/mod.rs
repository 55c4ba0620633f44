//! Direct boot: a kernel, its initial RAM disk and its command line, put into guest memory without firmware.
//!
//! ```text
//!   KernelImage, initrd, command line --> DirectBoot::new (does it all fit?) --> write --> guest memory
//!                                                   |                             ^
//!                                                   +--> Start (entry.rs) --------|--> vCPU 0
//!                                        AcpiTables (../acpi) --------------------+
//! ```
//! Everything is written at each start and each reset; nothing is parsed again. A wake-up writes nothing.

mod bzimage;
mod elf;
mod elf_class;
pub(super) mod entry;
#[cfg(fuzzing)]
mod fuzzing;
mod image;
mod layout;
mod linux;
mod note;
mod pvh;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod without_acpi;

use std::{ops::Range, sync::Arc};

use linux_loader::{configurator, loader::bootparam::setup_header};
use thiserror::Error;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion,
};

pub use self::image::{ImageError, KernelImage, TooLarge};
use self::{
    entry::Start,
    image::Protocol,
    layout::{CMDLINE, CMDLINE_MAX},
    without_acpi::MP_TABLE,
};
use super::{acpi::AcpiTables, config::PAGE_SIZE, memory::LOW_RAM_END, virtio::Layout};

/// Largest initial RAM disk, in bytes: it lies below 3 GiB.
pub const MAX_INITRD: u64 = LOW_RAM_END;

/// Lowest address above the initial RAM disk for a kernel that does not say: all below 4 GiB.
const INITRD_END: u64 = 1 << 32;

/// What a machine without firmware starts in.
#[derive(Clone, Debug)]
pub struct DirectBoot {
    kernel: Arc<KernelImage>,
    initrd: Option<(u64, Arc<[u8]>)>,
    cmdline: Arc<str>,
    /// For a kernel that does not use ACPI.
    mp_table: Option<Arc<[u8]>>,
}

/// Why a kernel cannot be booted with what it is given.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BootError {
    /// The kernel does not fit.
    #[error(transparent)]
    Kernel(#[from] TooLarge),
    /// The initial RAM disk is empty.
    #[error("the file is empty")]
    InitrdEmpty,
    /// The initial RAM disk does not fit.
    #[error("{size} bytes: of the guest memory below 3 GiB, the kernel leaves {room} for it")]
    Initrd {
        /// Its size in bytes.
        size: u64,
        /// The room in bytes.
        room: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("{length} bytes: this kernel takes {max} at most")]
    CmdlineLength {
        /// Its length in bytes.
        length: usize,
        /// The longest.
        max: usize,
    },
    /// The command line has a byte that ends it.
    #[error("it contains a zero byte")]
    CmdlineZero,
}

/// Guest memory could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// An access failed.
    #[error(transparent)]
    Memory(#[from] GuestMemoryError),
    /// The boot parameters could not be written.
    #[error("boot parameters: {0}")]
    Parameters(configurator::Error),
}

impl DirectBoot {
    /// A boot of `kernel` in a machine with `memory_bytes` bytes of memory.
    pub fn new(
        kernel: Arc<KernelImage>,
        initrd: Option<Arc<[u8]>>,
        cmdline: &str,
        memory_bytes: u64,
    ) -> Result<Self, BootError> {
        // It may have been read for a larger machine.
        kernel.check(memory_bytes)?;

        let header = header(&kernel);
        check_length(cmdline, &kernel)?;
        if cmdline.contains('\0') {
            return Err(BootError::CmdlineZero);
        }

        let end = header.map_or(INITRD_END, |header| u64::from(header.initrd_addr_max) + 1);
        let top = end.min(memory_bytes).min(LOW_RAM_END);
        let place = |bytes: Arc<[u8]>| {
            let start = place(bytes.len() as u64, kernel.end, top)?;
            Ok::<_, BootError>((start, bytes))
        };
        Ok(Self {
            initrd: initrd.map(place).transpose()?,
            cmdline: cmdline.into(),
            mp_table: None,
            kernel,
        })
    }

    /// The same boot for a machine with these virtio devices and vCPUs: told on the command line and by an MP table, if the
    /// kernel does not use ACPI. Not twice.
    pub(super) fn describing(self, layout: &Layout, vcpus: u32) -> Result<Self, BootError> {
        let Layout::Mmio(places) = layout else {
            return Ok(self);
        };
        if !without_acpi::is_asked_for(&self.cmdline) {
            return Ok(self);
        }
        let cmdline = without_acpi::with_devices(&self.cmdline, places);
        check_length(&cmdline, &self.kernel)?;
        Ok(Self {
            cmdline: cmdline.into(),
            mp_table: Some(without_acpi::mp_table(vcpus).into()),
            ..self
        })
    }

    /// Where the first vCPU begins.
    pub(super) fn start(&self) -> Start {
        match self.kernel.protocol {
            Protocol::Pvh { entry } => Start::Pvh { entry },
            Protocol::Linux64 { entry, .. } => Start::Linux64 { entry },
        }
    }

    /// How many bytes kernel and initial RAM disk have.
    pub(super) fn size(&self) -> u64 {
        let initrd = self.initrd.as_ref();
        self.kernel.size() + initrd.map_or(0, |(_, bytes)| bytes.len() as u64)
    }

    /// Writes everything into the memory of a machine, in which a guest may have `run` before.
    pub(super) fn write(
        &self,
        ram: &GuestMemoryMmap,
        acpi: &AcpiTables,
        run: bool,
    ) -> Result<(), WriteError> {
        self.kernel.write(ram, run)?;
        if let Some((start, bytes)) = &self.initrd {
            ram.write_slice(bytes, GuestAddress(*start))?;
        }
        ram.write_slice(self.cmdline.as_bytes(), GuestAddress(CMDLINE))?;
        // Its end mark.
        let end = CMDLINE + self.cmdline.len() as u64;
        ram.write_obj(0_u8, GuestAddress(end))?;
        if let Some(table) = &self.mp_table {
            ram.write_slice(table, GuestAddress(MP_TABLE))?;
        }
        ram.write_slice(acpi.bytes(), GuestAddress(acpi.start()))?;

        let ranges: Vec<_> = ram
            .iter()
            .map(|region| {
                let start = region.start_addr().0;
                start..start.saturating_add(region.len())
            })
            .collect();
        let map = layout::memory_map(&ranges, acpi.ecam());
        let initrd = self.initrd.as_ref();
        let initrd = initrd.map(|(start, bytes)| *start..*start + bytes.len() as u64);
        let written = match self.kernel.protocol {
            Protocol::Pvh { .. } => pvh::write_start_info(ram, &map, initrd, acpi.rsdp()),
            Protocol::Linux64 { header, .. } => {
                linux::write_mode(ram)?;
                linux::write_parameters(ram, header, &map, initrd, acpi.rsdp())
            }
        };
        written.map_err(WriteError::Parameters)
    }
}

/// The header of an image that has one.
fn header(kernel: &KernelImage) -> Option<setup_header> {
    match kernel.protocol {
        Protocol::Linux64 { header, .. } => header,
        Protocol::Pvh { .. } => None,
    }
}

/// Whether the kernel takes so long a command line.
fn check_length(cmdline: &str, kernel: &KernelImage) -> Result<(), BootError> {
    let max = header(kernel).map_or(CMDLINE_MAX, |header| {
        (header.cmdline_size as usize).min(CMDLINE_MAX)
    });
    match cmdline.len() {
        length if length > max => Err(BootError::CmdlineLength { length, max }),
        _ => Ok(()),
    }
}

/// Where `size` bytes go: to the top of the whole pages between the kernel's end and `top`.
fn place(size: u64, kernel_end: u64, top: u64) -> Result<u64, BootError> {
    if size == 0 {
        return Err(BootError::InitrdEmpty);
    }
    let page = |address: u64| address / PAGE_SIZE * PAGE_SIZE;
    let (floor, top) = (kernel_end.next_multiple_of(PAGE_SIZE), page(top));
    match top.checked_sub(size).map(page) {
        Some(start) if start >= floor => Ok(start),
        _ => {
            let room = top.saturating_sub(floor);
            Err(BootError::Initrd { size, room })
        }
    }
}

/// Fills a range of guest memory with zeroes.
fn zero(ram: &GuestMemoryMmap, range: Range<u64>) -> Result<(), GuestMemoryError> {
    const ZEROES: [u8; 4096] = [0; 4096];
    let mut at = range.start;
    while at < range.end {
        let length = (range.end - at).min(ZEROES.len() as u64);
        let chunk = ZEROES.get(..length as usize).unwrap_or(&ZEROES);
        ram.write_slice(chunk, GuestAddress(at))?;
        at += length;
    }
    Ok(())
}
