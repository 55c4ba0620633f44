//! A guest with several vCPUs: the first obeys letters, the others run once it has started them.
//!
//! It prints `!` when it starts; each vCPU that it starts prints a dot and counts ticks in memory from then on.
//!
//! | letter | what the first vCPU does |
//! | --- | --- |
//! | `i` | echoes it, and sends INIT and SIPI to all others through the xAPIC |
//! | `x` | echoes it, turns its x2APIC on, and sends them through that |
//! | `t` | waits for a tick of the others, and echoes it |
//! | `z` | prints `y` if there was no tick since it started, else `n` |
//! | `c` | prints CPUID's leaf 1 ECX and leaf 0x4000_0001 EAX, eight digits each |
//! | `m` | prints MSR 0x8b, sixteen digits |
//! | `f` | prints the low half of IA32_MISC_ENABLE, eight digits, and turns fast strings (bit 0) off there |
//!
//! It echoes all other letters.

use std::{
    arch::global_asm,
    fs,
    path::{Path, PathBuf},
};

use super::SIZE;

global_asm!(include_str!("smp.s"), options(att_syntax));

unsafe extern "C" {
    static vmd_test_smp: [u8; SIZE];
}

/// Writes the guest's firmware image into `directory`; returns its path.
pub fn write_to(directory: &Path) -> PathBuf {
    let path = directory.join("smp.rom");
    // SAFETY: `smp.s` defines the symbol as exactly SIZE bytes of read-only data, which live as long as the program.
    let image: &'static [u8] = unsafe { &vmd_test_smp };
    fs::write(&path, image).expect("the image is written");
    path
}
