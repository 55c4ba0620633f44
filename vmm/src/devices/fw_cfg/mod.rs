//! QEMU's firmware configuration device (QEMU documentation, "QEMU Firmware Configuration (fw_cfg) Device"): what firmware
//! is told of its machine.
//!
//! | port | width | read | write |
//! | --- | --- | --- | --- |
//! | 0x510 | word | as 0x511, for each byte | selects an item; its first byte is next |
//! | 0x511 | byte | the selected item's next byte; 0 after its end | ignored |
//! | 0x512, 0x513 | | 0xff: not the device's | ignored |
//! | 0x514 | dword, big-endian | `QEMU` | DMA address, upper half |
//! | 0x518 | dword, big-endian | ` CFG` | DMA address, lower half: starts the transfer (see `dma.rs`) |
//!
//! | key | item | what it is |
//! | --- | --- | --- |
//! | 0x0000 | signature | `QEMU` |
//! | 0x0001 | features | u32: 3, these ports and DMA |
//! | 0x0019 | file directory | a big-endian u32 count, then 64 bytes for each file: u32 size, u16 key, u16 0, name |
//! | 0x0020... | files | in the order in which they were added |
//!
//! [`Items`] has those from the start; the machine adds its own. Numbers are little-endian where nothing else is said. Bit
//! 14 of a key does not count (it asked for write access in old versions). A key without an item is an empty item. Every
//! item is read-only and stays as it was built; what the guest can change is the selection, which goes back to the
//! signature at reset.

mod dma;
mod items;

use std::ops::RangeInclusive;

use vm_memory::GuestMemoryMmap;

pub use self::items::Items;
use super::{PioDevice, read_bytes};

/// The device's ports.
pub const PORTS: RangeInclusive<u16> = 0x510..=0x51b;

const SELECTOR: u16 = 0;
const DATA: u16 = 1;
const DMA_HIGH: u16 = 4;
const DMA_LOW: u16 = 8;
/// What the DMA address register reads as.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

/// The firmware configuration device.
pub struct FwCfg {
    memory: GuestMemoryMmap,
    items: Items,
    key: u16,
    /// Of the selected item's next byte; at most its length.
    offset: usize,
    /// The upper half of the address, until the lower one comes.
    dma_high: u32,
}

impl FwCfg {
    /// A device that offers `items`, and copies them into `memory` when the guest asks for that.
    pub fn new(memory: GuestMemoryMmap, items: Items) -> Self {
        Self {
            memory,
            items,
            key: items::SIGNATURE,
            offset: 0,
            dma_high: 0,
        }
    }

    fn select(&mut self, key: u16) {
        self.key = key;
        self.offset = 0;
    }

    /// What is left of the selected item.
    fn rest(&self) -> &[u8] {
        self.items
            .get(self.key)
            .get(self.offset..)
            .unwrap_or_default()
    }

    fn next_byte(&mut self) -> u8 {
        let byte = self.rest().first().copied();
        self.offset += usize::from(byte.is_some());
        byte.unwrap_or(0)
    }
}

impl PioDevice for FwCfg {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        read_bytes(offset, data, |register| match register {
            SELECTOR | DATA => self.next_byte(),
            DMA_HIGH.. => DMA_SIGNATURE
                .get(usize::from(register - DMA_HIGH))
                .copied()
                .unwrap_or(0xff),
            _ => 0xff,
        });
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        match (offset, data) {
            (SELECTOR, &[low, high]) => self.select(u16::from_le_bytes([low, high])),
            (DMA_HIGH, &[a, b, c, d]) => self.dma_high = u32::from_be_bytes([a, b, c, d]),
            (DMA_LOW, &[a, b, c, d]) => {
                let low = u32::from_be_bytes([a, b, c, d]);
                let high = std::mem::take(&mut self.dma_high);
                self.transfer((u64::from(high) << 32) | u64::from(low));
            }
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.select(items::SIGNATURE);
        self.dma_high = 0;
    }
}

#[cfg(test)]
mod tests;
