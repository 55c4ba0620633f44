//! Files that disks are in: opened, and locked as long as they are in use.
//!
//! The lock is one of an open file description (`fcntl(2)`): shared by those who only read, else held alone. Other processes
//! and other machines of this one are treated alike.

use std::{
    fs::{File, FileType, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
};
use thiserror::Error;
use tracing::warn;

use super::{
    Backing, SECTOR,
    qcow2::{self, Qcow2Error, Qcow2File},
    raw::RawFile,
};

/// Why a file cannot be a disk.
#[derive(Debug, Error)]
pub enum DiskError {
    /// It cannot be opened, or asked for its size.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is a directory, a FIFO, ...
    #[error("neither a regular file nor a block device")]
    NotADisk,
    /// It is in use.
    #[error("in use: another machine or process has locked it")]
    Locked,
    /// It has no sectors.
    #[error("it is empty")]
    Empty,
    /// It ends within a sector.
    #[error("its size, {0} bytes, is not a multiple of {SECTOR} bytes")]
    Size(u64),
    /// It is no good qcow2 image.
    #[error("qcow2: {0}")]
    Qcow2(#[from] Qcow2Error),
    /// The way that its I/O was to go is not there.
    #[error("the host has no io_uring for it: {0}")]
    NoIoUring(io::Error),
    /// It looks like a qcow2 image, and nothing says what it is.
    #[error("it begins as a qcow2 image does: say whether its format is qcow2 or raw")]
    Ambiguous,
}

/// What an image is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Nobody has said. It is taken for a raw image, unless it begins as a qcow2 image does: then it is none. To go by what
    /// it begins with would let a guest turn its raw image into one that has other files behind it.
    #[default]
    Unsaid,
    /// A raw image, whatever is in it.
    Raw,
    /// A qcow2 image.
    Qcow2,
}

/// Opens the image at `path`. Blocks.
pub fn open_disk(
    path: &Path,
    read_only: bool,
    format: Format,
) -> Result<Arc<dyn Backing>, DiskError> {
    match format {
        Format::Qcow2 => Ok(Arc::new(Qcow2File::open(path, read_only)?)),
        Format::Raw => Ok(Arc::new(RawFile::open(path, read_only)?)),
        Format::Unsaid => {
            let raw = RawFile::open(path, read_only)?;
            if raw.begins_with(&qcow2::MAGIC)? {
                return Err(DiskError::Ambiguous);
            }
            Ok(Arc::new(raw))
        }
    }
}

/// Opens and locks the image at `path`; what sort of file it is. Blocks.
pub(super) fn open(path: &Path, read_only: bool) -> Result<(File, FileType), DiskError> {
    // O_NONBLOCK: the open of a FIFO would wait for its other end. What a disk is kept in takes no notice.
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(!read_only)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            // To write to a directory, or a FIFO's or socket's like.
            Some(libc::EISDIR | libc::ENXIO) => DiskError::NotADisk,
            _ => error.into(),
        })?;
    let kind = kind_of(&file)?;
    // An io_uring would take it at its word.
    let flags = FcntlArg::F_SETFL(OFlag::empty());
    fcntl(&file, flags).map_err(io::Error::from)?;
    lock(&file, read_only)?;
    Ok((file, kind))
}

/// What sort of file it is, if a disk may be in it.
pub(super) fn kind_of(file: &File) -> Result<FileType, DiskError> {
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_block_device() {
        Ok(kind)
    } else {
        Err(DiskError::NotADisk)
    }
}

/// Locks `file`, until it is closed or unlocked.
pub(super) fn lock(file: &File, read_only: bool) -> Result<(), DiskError> {
    let kind = if read_only {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    };
    set_lock(file, kind).map_err(|errno| match errno {
        Errno::EAGAIN | Errno::EACCES => DiskError::Locked,
        other => DiskError::Io(other.into()),
    })
}

/// Lets others have `file`.
pub(super) fn unlock(file: &File) {
    if let Err(error) = set_lock(file, libc::F_UNLCK) {
        warn!(%error, "a disk stays locked until its machine is closed");
    }
}

/// Sets or takes back the lock on all of `file`. Does not wait.
fn set_lock(file: &File, kind: libc::c_int) -> nix::Result<()> {
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        // To the end, wherever that will be.
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).map(drop)
}
