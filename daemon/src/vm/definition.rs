//! What a machine is built from, at creation and each time it is started again.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::libc;
use thiserror::Error;
use vmm::{
    machine::{
        Firmware,
        config::{ConfigError, check_firmware},
    },
    runstate::Actions,
};

/// A machine's definition; the values have been checked.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Guest memory, in bytes.
    pub memory_bytes: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// A flat firmware image; the probe guest if there is none.
    pub firmware: Option<PathBuf>,
    /// The actions it starts with.
    pub actions: Actions,
    /// Where the Unix socket of the first serial port is made.
    pub serial_socket: Option<PathBuf>,
    /// Where the Unix socket of the QMP door is made.
    pub qmp_socket: Option<PathBuf>,
}

/// Why a firmware image cannot be used.
#[derive(Debug, Error)]
pub enum FirmwareError {
    /// It cannot be opened or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a device, ...
    #[error("{}: not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Its size is wrong.
    #[error("{}: {source}", path.display())]
    Size {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
}

/// Reads a firmware image. Blocks.
pub(super) fn read_firmware(path: &Path) -> Result<Firmware, FirmwareError> {
    let failed = |source| FirmwareError::Io {
        path: path.to_owned(),
        source,
    };
    let wrong_size = |source| FirmwareError::Size {
        path: path.to_owned(),
        source,
    };

    // O_NONBLOCK: the open of a FIFO would wait for its other end.
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FirmwareError::NotAFile(path.to_owned()));
    }
    check_firmware(metadata.len()).map_err(wrong_size)?;

    // The file may change meanwhile: what was read counts, and it is bounded.
    let mut image = Vec::new();
    file.take(metadata.len())
        .read_to_end(&mut image)
        .map_err(failed)?;
    check_firmware(image.len() as u64).map_err(wrong_size)?;
    Ok(Firmware::Image(image.into()))
}
