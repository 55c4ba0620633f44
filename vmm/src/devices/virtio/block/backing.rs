//! What a disk's sectors are in.

use std::{fmt::Debug, fs::File, io};

use thiserror::Error;
use vm_memory::VolatileSlice;

/// Bytes of a sector: the unit of a disk's size and of every address in it.
pub const SECTOR: u64 = 512;

/// What keeps a disk's data. Every call may block, and several may be under way at a time; ranges are within
/// [`Backing::size`].
pub trait Backing: Debug + Send + Sync {
    /// Its size in bytes, a multiple of [`SECTOR`].
    fn size(&self) -> u64;

    /// Whether it must not be written to.
    fn is_read_only(&self) -> bool;

    /// Fills `into` with what is at `offset`.
    fn read(&self, offset: u64, into: &[VolatileSlice<'_>]) -> io::Result<()>;

    /// Writes `from` at `offset`.
    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<()>;

    /// Returns once all that was written before outlives a loss of power.
    fn flush(&self) -> io::Result<()>;

    /// The data in this range is not needed any more. It may stay.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes the range read as zeroes. With `unmap` it need not keep its space.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;

    /// Makes it `size` bytes long, a multiple of [`SECTOR`] and not 0; without `size`, as long as it has become on the
    /// host by other means. What is beyond a smaller size is lost; what a larger one adds reads as zeroes. No other call
    /// is under way.
    fn resize(&self, size: Option<u64>) -> Result<(), ResizeError> {
        let _ = size;
        Err(ResizeError::Unsupported)
    }

    /// The file that its sectors are in, in their order, if that is so: it may be read, written and flushed instead of
    /// this.
    fn file(&self) -> Option<&File> {
        None
    }

    /// Lets others have it. No call but this one follows.
    fn close(&self);
}

/// Why a disk's size was not changed.
#[derive(Debug, Error)]
pub enum ResizeError {
    /// It asks for no whole sectors, or for none.
    #[error("{0} bytes: a disk has one or more sectors of {SECTOR} bytes")]
    Size(u64),
    /// What is beyond the new size would be lost, and that was not asked for.
    #[error("the disk has {now} bytes, and {asked} are less: what is beyond them would be lost")]
    Shrinks {
        /// Its size, in bytes.
        now: u64,
        /// What it is to have.
        asked: u64,
    },
    /// It must not be written to.
    #[error("the disk is read-only")]
    ReadOnly,
    /// A block device has the size that it has.
    #[error("its block device has {0} bytes: make that larger first")]
    Device(u64),
    /// Its image has become no disk.
    #[error("its image has {0} bytes now, and a disk has one or more sectors of {SECTOR} bytes")]
    Image(u64),
    /// It is in nothing that can change its size.
    #[error("its image cannot change its size")]
    Unsupported,
    /// The host failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}
