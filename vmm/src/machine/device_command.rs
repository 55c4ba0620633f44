//! What a machine's owner asks of its devices, whether the vCPUs run or not.
//!
//! ```text
//!   service --> mailbox --> actor --> KvmMachine::device --> VirtioBus --> the device's own
//! ```
//! None of it changes the run state, so it goes beside the main loop; its owner sees to it that the main loop does nothing
//! meanwhile.

use thiserror::Error;

use super::{BuildError, KvmMachine, VirtioConfig};
use crate::devices::virtio::block::ResizeError;

/// What is asked for.
#[derive(Clone, Debug)]
pub enum DeviceCommand {
    /// To have one more, and tell the guest (QEMU's `device_add`).
    Add(VirtioConfig),
    /// To ask the guest to give one back (QEMU's `device_del`). It is gone when the guest has done so, or at a reset.
    Remove {
        /// Its name: d0, n0, rng, ...
        device: String,
    },
    /// To change the size of a disk, and tell its driver.
    ResizeDisk {
        /// Its name: d0, d1, ...
        disk: String,
        /// Its new size in bytes; the size that its image has now, if there is none.
        size: Option<u64>,
        /// Whether it may become smaller.
        allow_shrink: bool,
    },
    /// To ask the guest to have so many bytes of memory.
    Balloon {
        /// Bytes; more than the machine has is all of it.
        size: u64,
    },
    /// To take a network card's link up or down, and tell its driver.
    SetLink {
        /// Its name: n0, n1, ...
        net: String,
        /// Which of them.
        up: bool,
    },
}

/// Why it was not done. Nothing has changed.
#[derive(Debug, Error)]
pub enum DeviceCommandError {
    /// There is no balloon. The words are QEMU's.
    #[error("No balloon device has been activated")]
    NoBalloon,
    /// There is no such device.
    #[error("the machine has no device '{0}'")]
    NoDevice(String),
    /// Devices come and go on a PCI bus only.
    #[error("the machine has no PCI bus, on which devices can come and go")]
    NoHotplug,
    /// All slots have devices.
    #[error("the machine's PCI bus has no free slot")]
    NoSlot,
    /// The device cannot be made.
    #[error(transparent)]
    Add(#[from] BuildError),
    /// There is no such disk.
    #[error("the machine has no disk '{0}'")]
    NoDisk(String),
    /// There is no such network card.
    #[error("the machine has no network card '{0}'")]
    NoNet(String),
    /// Its size cannot be changed.
    #[error("disk '{disk}': {source}")]
    ResizeDisk {
        /// Its name.
        disk: String,
        /// Why.
        source: ResizeError,
    },
}

impl KvmMachine {
    /// Does what is asked for; the name of the device.
    pub async fn device(&mut self, command: DeviceCommand) -> Result<String, DeviceCommandError> {
        match command {
            DeviceCommand::Add(config) => {
                let (slot, device) = self.virtio.clone().add(config).await?;
                self.board.slot_changed(slot, true);
                Ok(device)
            }
            DeviceCommand::Remove { device } => {
                let slot = self.virtio.remove(&device)?;
                self.board.slot_changed(slot, false);
                Ok(device)
            }
            DeviceCommand::ResizeDisk {
                disk,
                size,
                allow_shrink,
            } => self.virtio.resize_disk(disk, size, allow_shrink).await,
            DeviceCommand::Balloon { size } => {
                let balloon = self.virtio.balloon();
                let balloon = balloon.ok_or(DeviceCommandError::NoBalloon)?;
                balloon.set_target(size);
                Ok("balloon".to_owned())
            }
            DeviceCommand::SetLink { net, up } => self.virtio.set_link(net, up),
        }
    }

    /// The devices that the guest has given back since the last call, by their names. What was written to them is safe, and
    /// what they had is free.
    pub async fn devices_gone(&mut self) -> Vec<String> {
        self.virtio.gone().await
    }
}
