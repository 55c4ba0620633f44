//! What the battery-backed memory tells firmware of the machine, where a PC and QEMU have it. Words are little-endian.
//!
//! | index | what |
//! | --- | --- |
//! | 0x10 | floppy drives: none |
//! | 0x14 | equipment: 0x02, a floating-point unit |
//! | 0x15, 0x16 | RAM below 640 KiB, in KiB |
//! | 0x17, 0x18 and 0x30, 0x31 | RAM above 1 MiB, in KiB, at most 65535 |
//! | 0x34, 0x35 | RAM from 16 MiB to its end below 4 GiB, in units of 64 KiB, at most 65535 |
//! | 0x5b to 0x5d | RAM above 4 GiB, in units of 64 KiB |
//! | 0x5f | number of vCPUs, less 1 |

use super::Rtc;

const EQUIPMENT: u8 = 0x14;
const BASE_MEMORY: u8 = 0x15;
const EXTENDED_MEMORY: [u8; 2] = [0x17, 0x30];
const MEMORY_ABOVE_16_MIB: u8 = 0x34;
const MEMORY_ABOVE_4_GIB: u8 = 0x5b;
const VCPUS: u8 = 0x5f;

const HAS_FPU: u8 = 0x02;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const UNIT: u64 = 64 * KIB;

impl Rtc {
    /// Writes down that the machine has this much RAM below and above 4 GiB, in bytes, and this many vCPUs. The guest may
    /// write over it, and a reset keeps what is there.
    pub fn describe_machine(&mut self, low_ram: u64, high_ram: u64, vcpus: u32) {
        self.store(EQUIPMENT, HAS_FPU);
        self.store_word(BASE_MEMORY, (low_ram / KIB).min(640));
        for register in EXTENDED_MEMORY {
            self.store_word(register, low_ram.saturating_sub(MIB) / KIB);
        }
        self.store_word(MEMORY_ABOVE_16_MIB, low_ram.saturating_sub(16 * MIB) / UNIT);
        let [low, middle, high, ..] = (high_ram / UNIT).min(0xff_ffff).to_le_bytes();
        for (register, value) in (MEMORY_ABOVE_4_GIB..).zip([low, middle, high]) {
            self.store(register, value);
        }
        self.store(VCPUS, u8::try_from(vcpus.saturating_sub(1)).unwrap_or(0xff));
    }

    fn store_word(&mut self, register: u8, value: u64) {
        let [low, high] = u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
        self.store(register, low);
        self.store(register + 1, high);
    }
}
