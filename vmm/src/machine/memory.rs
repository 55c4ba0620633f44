//! Guest memory and where the firmware is in it.
//!
//! ```text
//!  0                   1 MiB              3 GiB        4 GiB - image      4 GiB
//!  |  RAM  ...  copy --|----- RAM ... -----|  no memory  |  firmware ROM --|-- the rest of RAM ...
//!               of the last 256 KiB                        read-only
//! ```
//! The copy below 1 MiB is in RAM, as on a PC that shadows its firmware: the guest may write to it, and a reset writes
//! it again. A wake-up writes nothing.

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion,
    VolatileMemory,
};

use super::{BuildError, config::PAGE_SIZE};

const FOUR_GIB: u64 = 1 << 32;
/// RAM below 4 GiB ends here at the latest: above are interrupt controllers and firmware.
pub(super) const LOW_RAM_END: u64 = 3 << 30;
const ONE_MIB: u64 = 1 << 20;
/// How much of the firmware's end is also below 1 MiB, at most: from 0xc0000 on. SeaBIOS needs all of its 256 KiB there
/// where it finds no PCI host bridge to copy it with.
const SHADOW: usize = 256 << 10;

/// A machine's memory. It must outlive the VM that uses it.
pub(super) struct Memory {
    ram: GuestMemoryMmap,
    /// Of a machine with firmware.
    rom: Option<MmapRegion>,
}

impl Memory {
    /// Reserves the memory and gives it to `vm`, with room for `firmware` if it is not empty. Pages are taken from the
    /// host only when they are touched.
    pub(super) fn new(vm: &VmFd, bytes: u64, firmware: &[u8]) -> Result<Self, BuildError> {
        let low = bytes.min(LOW_RAM_END);
        let mut ranges = vec![(GuestAddress(0), size(low)?)];
        if bytes > low {
            ranges.push((GuestAddress(FOUR_GIB), size(bytes - low)?));
        }
        let ram = GuestMemoryMmap::from_ranges(&ranges).map_err(|error| BuildError::Memory {
            bytes,
            source: Box::new(error),
        })?;

        let rom_bytes = (firmware.len() as u64).next_multiple_of(PAGE_SIZE);
        let rom = match size(rom_bytes)? {
            0 => None,
            size => Some(MmapRegion::new(size).map_err(|error| BuildError::Memory {
                bytes: rom_bytes,
                source: Box::new(error),
            })?),
        };
        let memory = Self { ram, rom };

        let mut slot = 0;
        for region in memory.ram.iter() {
            let start = region.start_addr();
            let host = memory
                .ram
                .get_host_address(start)
                .map_err(|error| BuildError::Memory {
                    bytes,
                    source: Box::new(error),
                })?;
            set_slot(vm, slot, 0, start.0, region.len(), host)?;
            slot += 1;
        }
        if let Some(rom) = &memory.rom {
            let start = FOUR_GIB - rom_bytes;
            set_slot(vm, slot, KVM_MEM_READONLY, start, rom_bytes, rom.as_ptr())?;
        }
        Ok(memory)
    }

    /// The RAM, to be shared with the devices. It is unmapped with the last of its holders.
    pub(super) fn ram(&self) -> &GuestMemoryMmap {
        &self.ram
    }

    /// Bytes of RAM below and above 4 GiB.
    pub(super) fn low_and_high(&self) -> (u64, u64) {
        let lengths = |high| {
            let regions = self.ram.iter();
            let of_half = regions.filter(move |region| (region.start_addr().0 >= FOUR_GIB) == high);
            of_half.map(GuestMemoryRegion::len).sum()
        };
        (lengths(false), lengths(true))
    }

    /// Puts the firmware to its two places. The read-only one cannot change, so a reset needs only the shadow.
    pub(super) fn load_firmware(&self, firmware: &[u8]) -> Result<(), BuildError> {
        let failed = |error| BuildError::Firmware(Box::new(error));
        if let Some(rom) = &self.rom {
            let padding = rom.size().saturating_sub(firmware.len());
            let rom = rom.as_volatile_slice();
            rom.write_slice(firmware, padding).map_err(failed)?;
        }
        self.load_shadow(firmware)
    }

    /// Writes the copy below 1 MiB.
    pub(super) fn load_shadow(&self, firmware: &[u8]) -> Result<(), BuildError> {
        let (_, shadow) = firmware.split_at(firmware.len().saturating_sub(SHADOW));
        let start = GuestAddress(ONE_MIB - shadow.len() as u64);
        self.ram
            .write_slice(shadow, start)
            .map_err(|error| BuildError::Firmware(Box::new(error)))
    }
}

fn size(bytes: u64) -> Result<usize, BuildError> {
    usize::try_from(bytes).map_err(|error| BuildError::Memory {
        bytes,
        source: Box::new(error),
    })
}

/// `host` must be the start of a mapping of at least `bytes` bytes.
fn set_slot(
    vm: &VmFd,
    slot: u32,
    flags: u32,
    guest_start: u64,
    bytes: u64,
    host: *mut u8,
) -> Result<(), BuildError> {
    let region = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: guest_start,
        memory_size: bytes,
        userspace_addr: host as u64,
    };
    // SAFETY: the callers pass mappings of their `Memory`, which outlives every use of the VM by its machine; the
    // guest's accesses to them are volatile on this side (vm-memory).
    unsafe { vm.set_user_memory_region(region) }.map_err(|source| BuildError::Kvm {
        call: "KVM_SET_USER_MEMORY_REGION",
        source,
    })
}
