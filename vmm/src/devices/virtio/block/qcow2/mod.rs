//! qcow2 images, with those behind them (backing files), by the crate `imago`.
//!
//! ```text
//!   open:  chain (open, lock, header, tables of each) --> imago, back to front
//!   I/O:   a thread where it may block --> imago --> the foremost image's file, else the next one's
//! ```
//! All is checked before imago has any of it, so that a bad image is told from a good one with nothing written. Only the
//! foremost image is ever written to.

mod chain;
mod header;
mod tables;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::Path,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, StorageOpenOptions,
    file::File as Storage,
    format::PreallocateMode,
    io_buffers::{IoVector, IoVectorMut},
    qcow2::Qcow2,
    raw::Raw,
};
use nix::libc;
use thiserror::Error;
use tracing::warn;
use vm_memory::VolatileSlice;

use self::chain::Link;
pub(super) use self::header::MAGIC;
use super::{
    backing::{Backing, ResizeError, SECTOR},
    image::DiskError,
};

type Image = FormatAccess<Storage>;

/// What is wrong with a qcow2 image.
#[derive(Debug, Error)]
pub enum Qcow2Error {
    /// It is something else.
    #[error("it does not begin as a qcow2 image does")]
    Magic,
    /// Neither of the two there are.
    #[error("version {0}: only 2 and 3 are known")]
    Version(u32),
    /// Clusters of less than 512 bytes or more than 2 MiB.
    #[error("cluster_bits is {0}: 9 to 21 are allowed")]
    ClusterBits(u32),
    /// It is encrypted.
    #[error("it is encrypted, which is not supported")]
    Encrypted,
    /// Somebody had it open, and did not close it.
    #[error("it was not closed cleanly: `qemu-img check -r all` repairs it")]
    Dirty,
    /// It is marked as broken.
    #[error("it is marked as corrupt: `qemu-img check -r all` repairs it")]
    Corrupt,
    /// Its data is in another file.
    #[error("its data is in an external file, which is not supported")]
    DataFile,
    /// It is compressed in another way than by zlib.
    #[error("its compression type is not supported: only zlib is")]
    Compression,
    /// It has subclusters.
    #[error("it has extended L2 entries, which are not supported")]
    ExtendedL2,
    /// It has features that nobody here has heard of.
    #[error("it has unknown incompatible features: {0:#x}")]
    Features(u64),
    /// It cannot be written to without doing harm to them.
    #[error("it has internal snapshots: it may only be read")]
    Snapshots,
    /// Its reference counts are too wide.
    #[error("refcount_order is {0}: at most 6 is allowed")]
    RefcountOrder(u32),
    /// Its header is too short or too long.
    #[error("its header has {0} bytes: 104 to a cluster's are allowed, in multiples of 8")]
    HeaderLength(u64),
    /// Its header's extensions do not end, or contradict each other.
    #[error("its header extensions are malformed")]
    Extensions,
    /// It has no sectors, or ends within one.
    #[error("its disk has {0} bytes: one or more sectors of {SECTOR} are allowed")]
    Size(u64),
    /// It was cut off, or was never good.
    #[error("it is cut short or damaged: {0} lies outside of it")]
    Outside(&'static str),
    /// The table has fewer entries than the disk needs.
    #[error("its L1 table is too short for its disk")]
    ShortTable,
    /// It names no file.
    #[error("its backing file has no name of a file")]
    BackingName,
    /// It does not say what its backing file is.
    #[error(
        "it does not say which format its backing file has: `qemu-img rebase -u -b NAME -F FORMAT` puts that in"
    )]
    NoBackingFormat,
    /// Its backing file is something that is not supported.
    #[error("its backing file's format, '{0}', is not supported: raw and qcow2 are")]
    BackingFormat(String),
    /// A backing file is not where it must be.
    #[error("it is not in the directory of the disk's image, nor below that")]
    NotBelow,
    /// A backing file is in the chain already.
    #[error("the chain of backing files loops")]
    Loop,
    /// There are too many.
    #[error("the chain has more than {0} images")]
    TooLong(usize),
    /// A backing file cannot be used.
    #[error("backing file '{name}': {source}")]
    Backing {
        /// As the image in front of it has it.
        name: String,
        /// Why not.
        source: Box<DiskError>,
    },
    /// The host failed, or imago found something else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A qcow2 image, locked, with those behind it.
#[derive(Debug)]
pub struct Qcow2File {
    /// `None` once it is closed. Held alone where clusters may be taken away.
    image: RwLock<Option<Image>>,
    size: AtomicU64,
    read_only: bool,
    cluster: u64,
    /// Bytes of the longest image behind it.
    behind: u64,
}

impl Qcow2File {
    /// Opens the image at `path`. Blocks.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let links = chain::open_all(path, read_only)?;
        let foremost = links.first().and_then(|link| link.header.as_ref());
        let (size, cluster) = foremost.map_or((0, 0), |header| (header.size, header.cluster()));
        if !read_only {
            // Imago writes as it opens: once more than needed it opens what it only reads.
            assemble(&links, true).map_err(Qcow2Error::from)?;
        }
        let (image, behind) = assemble(&links, read_only).map_err(Qcow2Error::from)?;
        Ok(Self {
            image: RwLock::new(Some(image)),
            size: size.into(),
            read_only,
            cluster,
            behind,
        })
    }

    /// Does something that others may do at the same time.
    fn share<T>(&self, run: impl FnOnce(&Image) -> io::Result<T>) -> io::Result<T> {
        let image = self.image.read().unwrap_or_else(PoisonError::into_inner);
        run(image.as_ref().ok_or_else(closed)?).map_err(with_number)
    }

    /// Does something alone.
    fn alone<T>(&self, run: impl FnOnce(&mut Image) -> io::Result<T>) -> io::Result<T> {
        let mut image = self.image.write().unwrap_or_else(PoisonError::into_inner);
        run(image.as_mut().ok_or_else(closed)?).map_err(with_number)
    }
}

/// The images as imago has them, and the size of the longest but the first.
fn assemble(links: &[Link], read_only: bool) -> io::Result<(Image, u64)> {
    let (mut behind, mut longest) = (None, 0);
    for (index, link) in links.iter().enumerate().rev() {
        let write = index == 0 && !read_only;
        // The lock is of the open file, which the two have together.
        let options = StorageOpenOptions::new().write(write);
        let storage = Storage::from_open_file(link.file.try_clone()?, options)?;
        let image = match link.header {
            Some(_) => Image::new(
                Qcow2::<Storage>::builder(storage)
                    .write(write)
                    .backing(behind.take())
                    .open(DenyImplicitOpenGate::default())?,
            ),
            None => Image::new(Raw::builder(storage).open(DenyImplicitOpenGate::default())?),
        };
        if index == 0 {
            return Ok((image, longest));
        }
        longest = longest.max(image.size());
        behind = Some(image);
    }
    Err(closed())
}

impl Backing for Qcow2File {
    fn size(&self) -> u64 {
        self.size.load(Ordering::SeqCst)
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, into: &[VolatileSlice<'_>]) -> io::Result<()> {
        let (vector, _guard) = IoVectorMut::from_volatile_slice(into);
        self.share(|image| image.readv(vector, offset))
    }

    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        let (vector, _guard) = IoVector::from_volatile_slice(from);
        self.share(|image| image.writev(vector, offset))
    }

    fn flush(&self) -> io::Result<()> {
        self.share(|image| {
            image.flush()?;
            image.sync()
        })
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.alone(|image| image.discard_to_zero(offset, len)) {
            // It is a hint.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let zeroed = if unmap {
            self.alone(|image| image.discard_to_zero(offset, len))
        } else {
            self.share(|image| image.write_zeroes(offset, len))
        };
        match zeroed {
            // Version 2 has no clusters of zeroes.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.share(|image| write_zeroes(image, offset, len))
            }
            result => result,
        }
    }

    fn resize(&self, size: Option<u64>) -> Result<(), ResizeError> {
        // Its size is in the image, which nobody else changes.
        let Some(size) = size else { return Ok(()) };
        let before = self.size();
        self.alone(|image| image.resize(size, PreallocateMode::None))?;
        self.size.store(size, Ordering::SeqCst);
        if size > before {
            // The rest of the last cluster, and what images behind have there.
            let stale = before.next_multiple_of(self.cluster).max(self.behind);
            let end = stale.min(size);
            if end > before {
                self.write_zeroes(before, end - before, false)?;
            }
        }
        self.flush()?;
        Ok(())
    }

    fn close(&self) {
        let image = self.image.write();
        let image = image.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(image) = image
            && !self.read_only
            && let Err(error) = image.flush().and_then(|()| image.sync())
        {
            warn!(%error, "a disk's image was not closed cleanly");
        }
    }
}

fn write_zeroes(image: &Image, offset: u64, len: u64) -> io::Result<()> {
    let zeroes = [0; 64 << 10];
    let (mut offset, mut len) = (offset, len);
    while len > 0 {
        let part = len.min(zeroes.len() as u64);
        image.write(zeroes.get(..part as usize).unwrap_or(&zeroes), offset)?;
        (offset, len) = (offset + part, len - part);
    }
    Ok(())
}

/// An error with the kernel's number: imago keeps no more of it than its kind.
fn with_number(error: io::Error) -> io::Error {
    let number = match error.kind() {
        _ if error.raw_os_error().is_some() => return error,
        io::ErrorKind::Unsupported => return error,
        io::ErrorKind::StorageFull => libc::ENOSPC,
        io::ErrorKind::QuotaExceeded => libc::EDQUOT,
        io::ErrorKind::FileTooLarge => libc::EFBIG,
        _ => libc::EIO,
    };
    warn!(%error, "a qcow2 image failed");
    io::Error::from_raw_os_error(number)
}

fn closed() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}
