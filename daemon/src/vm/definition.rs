//! What a machine is built from, at creation and each time it is started again.

use std::path::{Path, PathBuf};

use thiserror::Error;
use vmm::{
    devices::virtio::balloon::BalloonConfig,
    machine::{
        Firmware, VirtioTransport,
        config::{ConfigError, MAX_FIRMWARE, check_firmware},
        cpu::{CpuModel, CpuPin, CpuTemplate, MAX_TEMPLATE, TemplateError},
    },
    runstate::Actions,
};

use super::{
    Disk, Kernel, Net, RestartPolicy,
    file::{FileError, read_file},
};
use crate::{
    access::{Beneath, Reach},
    cpu_control::CpuShare,
};

/// A machine's definition; the values have been checked.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Where its paths may lead: as far as those of whoever made it.
    pub reach: Reach,
    /// Guest memory, in bytes.
    pub memory_bytes: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// A flat firmware image; the probe guest if there is none.
    pub firmware: Option<PathBuf>,
    /// A kernel to boot instead.
    pub kernel: Option<Kernel>,
    /// The actions it starts with.
    pub actions: Actions,
    /// Where the Unix socket of the first serial port is made.
    pub serial_socket: Option<PathBuf>,
    /// Where the Unix socket of the QMP door is made.
    pub qmp_socket: Option<PathBuf>,
    /// What the guest is told of the host's processor.
    pub cpu_model: CpuModel,
    /// A file that changes that.
    pub cpu_template: Option<PathBuf>,
    /// The vCPUs that may run only on certain host CPUs.
    pub cpu_pins: Vec<CpuPin>,
    /// What it gets of the host's processors.
    pub cpu_share: CpuShare,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Whether it has a source of entropy.
    pub rng: bool,
    /// Its network cards.
    pub nets: Vec<Net>,
    /// Its sockets to the host's programs.
    pub vsock: Option<Vsock>,
    /// Its balloon.
    pub balloon: Option<BalloonConfig>,
    /// How its virtio devices are reached.
    pub virtio_transport: VirtioTransport,
    /// The ports of its console device.
    pub console_ports: Vec<ConsolePort>,
    /// Whether it is started again when it has ended.
    pub restart: RestartPolicy,
}

/// A port of a console device.
#[derive(Clone, Debug)]
pub struct ConsolePort {
    /// What the guest finds it by.
    pub name: String,
    /// Where its Unix socket is made.
    pub path: PathBuf,
    /// Whether it is a console.
    pub is_console: bool,
}

/// Sockets between guest and host.
#[derive(Clone, Debug)]
pub struct Vsock {
    /// The guest's address.
    pub cid: u32,
    /// Where the Unix socket for the host's programs is made.
    pub path: PathBuf,
}

/// Why a firmware image cannot be used.
#[derive(Debug, Error)]
pub enum FirmwareError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its size is wrong.
    #[error("{}: {source}", path.display())]
    Size {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
}

/// Why a CPU template cannot be used.
#[derive(Debug, Error)]
pub enum CpuTemplateError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is wrong.
    #[error("{}: {source}", path.display())]
    Content {
        /// The template.
        path: PathBuf,
        /// What is wrong.
        source: TemplateError,
    },
}

/// Reads a firmware image. Blocks.
pub(super) fn read_firmware(paths: &Beneath, path: &Path) -> Result<Firmware, FirmwareError> {
    let image = match read_file(paths, path, MAX_FIRMWARE) {
        Err(FileError::TooLarge { path, size, .. }) => {
            let source = ConfigError::FirmwareTooLarge(size);
            return Err(FirmwareError::Size { path, source });
        }
        other => other?,
    };
    check_firmware(image.len() as u64).map_err(|source| FirmwareError::Size {
        path: path.to_owned(),
        source,
    })?;
    Ok(Firmware::Image(image.into()))
}

/// Reads a CPU template. Blocks.
pub(super) fn read_cpu_template(
    paths: &Beneath,
    path: &Path,
) -> Result<CpuTemplate, CpuTemplateError> {
    let json = read_file(paths, path, MAX_TEMPLATE)?;
    CpuTemplate::parse(&json).map_err(|source| CpuTemplateError::Content {
        path: path.to_owned(),
        source,
    })
}
