//! Guests with several vCPUs ([`smp`]), a bare virtio driver ([`driver`]), and guests that mean harm: small firmware images of the tests' own, assembled at compile time.
//!
//! | guest | what it does for ever, at full speed |
//! | --- | --- |
//! | `Spin` | spins with interrupts off |
//! | `Deaf` | says `!` and halts with interrupts off; never reads its serial port |
//! | `Chatter` | writes to the serial port: the byte at offset `n` is `n % 256`, counted from its start |
//! | `MostPorts` | writes every port, those below 0x1000 in every width, but for the bit that suspends or powers off |
//! | `AllPorts` | the same, and nothing is left out |
//! | `Storm` | reports crash-loaded and panicked by turns |
//! | `ResetStorm` | resets |
//! | `Bark` | has the watchdog expire at once |
//! | `Mmio` | writes and reads addresses where nothing is, if it has 1 MiB of memory |
//!
//! `MostPorts` and `AllPorts` go on with the next port after a reset, and tell the end of a round by S4.

pub mod driver;
pub mod smp;

use std::{
    arch::global_asm,
    fs,
    path::{Path, PathBuf},
};

global_asm!(include_str!("hostile.s"), options(att_syntax));

/// The size of each image, in bytes.
const SIZE: usize = 4096;

unsafe extern "C" {
    static vmd_test_spin: [u8; SIZE];
    static vmd_test_deaf: [u8; SIZE];
    static vmd_test_chatter: [u8; SIZE];
    static vmd_test_most_ports: [u8; SIZE];
    static vmd_test_all_ports: [u8; SIZE];
    static vmd_test_storm: [u8; SIZE];
    static vmd_test_reset_storm: [u8; SIZE];
    static vmd_test_bark: [u8; SIZE];
    static vmd_test_mmio: [u8; SIZE];
}

/// A guest that means harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the module's table tells")]
pub enum Hostile {
    Spin,
    Deaf,
    Chatter,
    MostPorts,
    AllPorts,
    Storm,
    ResetStorm,
    Bark,
    Mmio,
}

impl Hostile {
    /// Its firmware image.
    pub fn image(self) -> &'static [u8] {
        // SAFETY: `hostile.s` defines each symbol as exactly SIZE bytes of read-only data, which live as long as the
        // program.
        unsafe {
            match self {
                Self::Spin => &vmd_test_spin,
                Self::Deaf => &vmd_test_deaf,
                Self::Chatter => &vmd_test_chatter,
                Self::MostPorts => &vmd_test_most_ports,
                Self::AllPorts => &vmd_test_all_ports,
                Self::Storm => &vmd_test_storm,
                Self::ResetStorm => &vmd_test_reset_storm,
                Self::Bark => &vmd_test_bark,
                Self::Mmio => &vmd_test_mmio,
            }
        }
    }

    /// Writes the image into `directory`; returns its path.
    pub fn write_to(self, directory: &Path) -> PathBuf {
        let path = directory.join(format!("{self:?}.rom"));
        fs::write(&path, self.image()).expect("the image is written");
        path
    }
}

#[cfg(test)]
mod tests {
    use super::Hostile::*;

    #[test]
    fn every_image_ends_with_a_far_jump_to_its_start() {
        for guest in [
            Spin, Deaf, Chatter, MostPorts, AllPorts, Storm, ResetStorm, Bark, Mmio,
        ] {
            let image = guest.image();
            assert_eq!(image[0], 0xfa, "{guest:?} begins with cli");
            assert_eq!(image[0xff0..0xff5], [0xea, 0x00, 0xf0, 0x00, 0xf0]);
            assert!(image[0xff5..].iter().all(|byte| *byte == 0xff));
        }
    }
}
