//! What a machine is built from.

use std::sync::Arc;

use thiserror::Error;

use super::{
    BuildStep, VirtioConfig, VirtioTransport,
    boot::DirectBoot,
    cpu::{CpuConfig, CpuModel, PORTABLE_PHYSICAL_BITS},
};
use crate::probe;

/// Guest memory is a multiple of this, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Least guest memory, in bytes: firmware is copied to just below 1 MiB.
pub const MIN_MEMORY: u64 = 1 << 20;

/// Most guest memory, in bytes: what 46 bits of physical address leave room for above the hole below 4 GiB.
pub const MAX_MEMORY: u64 = 1 << 45;

/// Largest firmware image, in bytes: below the KVM pages at 0xfeffc000 there are other things.
pub const MAX_FIRMWARE: u64 = 16 << 20;

/// What a machine is built from. A configuration is kept as long as its machine: a reset writes the image again.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Names the machine's threads and log lines.
    pub name: String,
    /// Guest memory, in bytes.
    pub memory_bytes: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// What the vCPUs are like.
    pub cpu: CpuConfig,
    /// What the vCPUs start in.
    pub boot: Boot,
    /// How its virtio devices are reached.
    pub virtio_transport: VirtioTransport,
    /// These devices, at most [`VirtioTransport::max_devices`].
    pub virtio: Vec<VirtioConfig>,
    /// For tests: fail at this step of the build.
    pub fail_at: Option<BuildStep>,
}

/// What a machine starts in.
#[derive(Clone, Debug)]
pub enum Boot {
    /// Firmware, at the reset vector.
    Firmware(Firmware),
    /// A kernel, at its entry point.
    Direct(DirectBoot),
}

/// A flat firmware image. It ends at 4 GiB, where the reset vector is; its last 256 KiB are also below 1 MiB.
#[derive(Clone, Debug)]
pub enum Firmware {
    /// The probe guest.
    Probe,
    /// An image that was read from a file.
    Image(Arc<[u8]>),
}

impl Boot {
    /// The firmware image; empty without firmware.
    pub(super) fn firmware(&self) -> &[u8] {
        match self {
            Self::Firmware(firmware) => firmware.bytes(),
            Self::Direct(_) => &[],
        }
    }
}

impl Firmware {
    /// The image.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Probe => probe::image(),
            Self::Image(bytes) => bytes,
        }
    }
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The memory size.
    #[error("{0} bytes: guest memory must be a multiple of {PAGE_SIZE} bytes, at least 1 MiB")]
    MemorySize(u64),
    /// More memory than there is.
    #[error("{asked} bytes: the host has {host} bytes of memory")]
    MemoryBeyondHost {
        /// What was asked for, in bytes.
        asked: u64,
        /// What the host has, in bytes.
        host: u64,
    },
    /// More memory than the CPU model can address.
    #[error("{asked} bytes: the CPU model `portable` has at most {most}")]
    MemoryBeyondModel {
        /// What was asked for, in bytes.
        asked: u64,
        /// What can be addressed, in bytes.
        most: u64,
    },
    /// The number of vCPUs.
    #[error("{asked}: a machine has 1 to {max} vCPUs on this host")]
    Vcpus {
        /// What was asked for.
        asked: u32,
        /// What is possible.
        max: u32,
    },
    /// An empty firmware image.
    #[error("the image is empty")]
    FirmwareEmpty,
    /// A firmware image that does not fit.
    #[error("{0} bytes: a firmware image has at most {MAX_FIRMWARE} bytes")]
    FirmwareTooLarge(u64),
}

/// Checks a memory size, in bytes, against the rules and against what the host has.
pub fn check_memory(asked: u64, host: u64) -> Result<(), ConfigError> {
    if asked < MIN_MEMORY || !asked.is_multiple_of(PAGE_SIZE) {
        Err(ConfigError::MemorySize(asked))
    } else if asked > host.min(MAX_MEMORY) {
        Err(ConfigError::MemoryBeyondHost { asked, host })
    } else {
        Ok(())
    }
}

/// Checks a memory size, in bytes, against what the CPU model can address.
pub fn check_model_memory(asked: u64, model: CpuModel) -> Result<(), ConfigError> {
    // The gigabyte below 4 GiB is not RAM's.
    let most = (1 << PORTABLE_PHYSICAL_BITS) - (1 << 30);
    if model == CpuModel::Portable && asked > most {
        Err(ConfigError::MemoryBeyondModel { asked, most })
    } else {
        Ok(())
    }
}

/// Checks the size of a firmware image, in bytes.
pub fn check_firmware(size: u64) -> Result<(), ConfigError> {
    match size {
        0 => Err(ConfigError::FirmwareEmpty),
        1..=MAX_FIRMWARE => Ok(()),
        _ => Err(ConfigError::FirmwareTooLarge(size)),
    }
}

/// Checks a number of vCPUs.
pub fn check_vcpus(asked: u32, max: u32) -> Result<(), ConfigError> {
    if (1..=max).contains(&asked) {
        Ok(())
    } else {
        Err(ConfigError::Vcpus { asked, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_multiple_of_pages_within_bounds() {
        let host = 8 << 30;
        for good in [1 << 20, (1 << 20) + 4096, 3 << 30, 8 << 30] {
            assert_eq!(check_memory(good, host), Ok(()), "{good}");
        }
        for bad in [0, 4096, 4097, (1 << 20) - 4096, (1 << 20) + 1] {
            assert_eq!(check_memory(bad, host), Err(ConfigError::MemorySize(bad)));
        }
        for asked in [(8 << 30) + 4096, 1 << 62] {
            assert_eq!(
                check_memory(asked, host),
                Err(ConfigError::MemoryBeyondHost { asked, host })
            );
        }
    }

    #[test]
    fn the_portable_model_addresses_39_bits() {
        let most = 511 << 30;
        assert_eq!(check_model_memory(most, CpuModel::Portable), Ok(()));
        let asked = most + PAGE_SIZE;
        assert_eq!(
            check_model_memory(asked, CpuModel::Portable),
            Err(ConfigError::MemoryBeyondModel { asked, most })
        );
        assert_eq!(check_model_memory(asked, CpuModel::Host), Ok(()));
    }

    #[test]
    fn firmware_and_vcpus_have_bounds() {
        assert_eq!(check_firmware(0), Err(ConfigError::FirmwareEmpty));
        assert_eq!(check_firmware(MAX_FIRMWARE), Ok(()));
        let size = MAX_FIRMWARE + 1;
        assert_eq!(
            check_firmware(size),
            Err(ConfigError::FirmwareTooLarge(size))
        );
        assert!(check_vcpus(1, 64).is_ok() && check_vcpus(64, 64).is_ok());
        assert!(check_vcpus(0, 64).is_err() && check_vcpus(65, 64).is_err());
    }
}
