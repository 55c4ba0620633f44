//! The guests of the project's own, assembled at compile time.
//!
//! [`image`] is the probe guest, 64 KiB of real-mode firmware. It prints `!` each time it starts, after a wake-up too, then takes one letter at a time from the first serial port,
//! echoes it, and acts on it. Idle, it halts until the serial interrupt.
//!
//! | letter | what the guest does |
//! | --- | --- |
//! | `R` `K` `N` `T` | resets: port 0xcf9, the keyboard controller, port 0x92, a triple fault |
//! | `S` `4` `O` | sleeps: S3, S4, S5 |
//! | `P` `C` `B` | pvpanic: panicked, crash-loaded, both bits |
//! | `W` `w` | arms the watchdog for 2 s, disarms it |
//! | `E` | enables the power button |
//! | `A` | an RTC alarm every second, enabled to wake from S3 |
//! | `D` | writes sector 0 of the first disk; prints `d` if that went well, else `e` |
//! | `I` | jumps to where there is no memory: an internal error of KVM |
//!
//! It is the guest of the tests, the benches and the demonstration, and of `vmctl create` without firmware.
//!
//! [`kernel`] is the probe kernel, an ELF file of 4 KiB that is booted directly, in 32-bit protected mode. It prints `!`
//! when it starts in memory that is as it was loaded (`?` in any other), `w` when it goes on at its waking vector with
//! memory as it left it, and echoes letters like the probe guest:
//!
//! | letter | what the guest does |
//! | --- | --- |
//! | `C` | starts all other CPUs, waits for them, prints how many there are as two hexadecimal digits |
//! | `S` `O` | sleeps: S3 with its waking vector in the FACS, S5 |
//! | `R` | resets by port 0xcf9 |

use std::{arch::global_asm, slice};

global_asm!(include_str!("probe.s"), options(att_syntax));
global_asm!(include_str!("kernel.s"), options(att_syntax));

unsafe extern "C" {
    static vmd_probe_start: u8;
    static vmd_probe_end: u8;
    static vmd_probe_kernel_start: u8;
    static vmd_probe_kernel_end: u8;
}

/// The probe guest: ends at the reset vector's 16 bytes, to be placed so that it ends at 4 GiB.
pub fn image() -> &'static [u8] {
    // SAFETY: the symbols bound one object of `probe.s`.
    unsafe { object(&raw const vmd_probe_start, &raw const vmd_probe_end) }
}

/// The probe kernel: an ELF file.
pub fn kernel() -> &'static [u8] {
    // SAFETY: the symbols bound one object of `kernel.s`.
    unsafe {
        object(
            &raw const vmd_probe_kernel_start,
            &raw const vmd_probe_kernel_end,
        )
    }
}

/// The bytes from `start` up to `end`.
///
/// # Safety
///
/// Both must be of one object in read-only data, `end` past its last byte.
unsafe fn object(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: by the caller's promise the range is initialised, immutable and lives as long as the program.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn is_64_kib_and_ends_with_a_far_jump() {
        let image = super::image();
        assert_eq!(image.len(), 64 * 1024);
        assert_eq!(image[0xfff0], 0xea, "the reset vector holds a far jump");
        let target = u16::from_le_bytes([image[0xfff1], image[0xfff2]]);
        let segment = u16::from_le_bytes([image[0xfff3], image[0xfff4]]);
        assert_eq!((target, segment), (0, 0xf000));
    }
}
