//! Raw images: a regular file or a block device, a disk's sectors in their order.
//!
//! A raw image that begins as a qcow2 image does is only taken for what it is asked to be: its guest may have written that.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileExt, FileTypeExt},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    libc,
};
use vm_memory::VolatileSlice;

use super::{
    backing::{Backing, ResizeError, SECTOR},
    image::{self, DiskError},
    vectored,
};

/// A raw image, locked.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    size: AtomicU64,
    read_only: bool,
    is_device: bool,
}

impl RawFile {
    /// Opens the image at `path`. Blocks.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let (mut file, kind) = image::open(path, read_only)?;
        // Of a block device, too.
        let size = file.seek(SeekFrom::End(0))?;
        match size {
            0 => Err(DiskError::Empty),
            size if size.is_multiple_of(SECTOR) => Ok(Self {
                file,
                size: size.into(),
                read_only,
                is_device: kind.is_block_device(),
            }),
            size => Err(DiskError::Size(size)),
        }
    }

    /// Whether these are its first bytes.
    pub(super) fn begins_with(&self, bytes: &[u8]) -> io::Result<bool> {
        let mut first = vec![0; bytes.len()];
        self.file.read_exact_at(&mut first, 0)?;
        Ok(first == bytes)
    }

    fn allocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> nix::Result<()> {
        let number = |value: u64| libc::off_t::try_from(value).map_err(|_| Errno::EFBIG);
        let flags = flags | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, flags, number(offset)?, number(len)?)
    }
}

impl Backing for RawFile {
    fn size(&self) -> u64 {
        self.size.load(Ordering::SeqCst)
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, into: &[VolatileSlice<'_>]) -> io::Result<()> {
        vectored::read(&self.file, offset, into)
    }

    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        vectored::write(&self.file, offset, from)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, offset, len) {
            // It is a hint.
            Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let (hole, zeroes) = (
            FallocateFlags::FALLOC_FL_PUNCH_HOLE,
            FallocateFlags::FALLOC_FL_ZERO_RANGE,
        );
        let ways = if unmap {
            &[hole, zeroes][..]
        } else {
            &[zeroes]
        };
        for way in ways {
            match self.allocate(*way, offset, len) {
                Err(Errno::EOPNOTSUPP) => {}
                result => return Ok(result?),
            }
        }
        vectored::write_zeroes(&self.file, offset, len)
    }

    fn resize(&self, size: Option<u64>) -> Result<(), ResizeError> {
        let size = match size {
            Some(size) if !self.is_device => {
                self.file.set_len(size)?;
                size
            }
            asked => {
                let now = (&self.file).seek(SeekFrom::End(0))?;
                if now == 0 || !now.is_multiple_of(SECTOR) {
                    return Err(ResizeError::Image(now));
                }
                if asked.is_some_and(|asked| asked > now) {
                    return Err(ResizeError::Device(now));
                }
                asked.unwrap_or(now)
            }
        };
        self.size.store(size, Ordering::SeqCst);
        Ok(())
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn close(&self) {
        image::unlock(&self.file);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use nix::sys::stat::Mode;
    use tempfile::TempDir;
    use vm_memory::VolatileMemory;

    use super::*;

    fn image(directory: &TempDir, size: u64) -> std::path::PathBuf {
        let path = directory.path().join("disk");
        File::create(&path).unwrap().set_len(size).unwrap();
        path
    }

    #[test]
    fn only_whole_unused_images_are_disks() {
        let directory = TempDir::new().unwrap();
        let open = |path: &Path| RawFile::open(path, false).unwrap_err();
        let read = |path: &Path| RawFile::open(path, true).unwrap_err();
        let missing = directory.path().join("missing");
        assert!(matches!(open(&missing), DiskError::Io(_)));
        for not_a_disk in [directory.path(), Path::new("/dev/null")] {
            assert!(matches!(open(not_a_disk), DiskError::NotADisk));
            assert!(matches!(read(not_a_disk), DiskError::NotADisk));
        }
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        assert!(matches!(open(&fifo), DiskError::NotADisk));
        assert!(matches!(read(&fifo), DiskError::NotADisk));
        assert!(matches!(
            open(&image(&directory, 1000)),
            DiskError::Size(1000)
        ));
        let path = image(&directory, 0);
        assert!(matches!(open(&path), DiskError::Empty));
        fs::write(&path, [0; 512]).unwrap();
        assert_eq!(RawFile::open(&path, false).unwrap().size(), 512);
    }

    #[test]
    fn writers_are_alone_and_readers_share() {
        let directory = TempDir::new().unwrap();
        let path = image(&directory, 512);
        let open = |read_only| RawFile::open(&path, read_only);
        let reader = open(true).unwrap();
        drop(open(true).unwrap());
        assert!(matches!(open(false).unwrap_err(), DiskError::Locked));
        reader.close();
        let writer = open(false).unwrap();
        for read_only in [false, true] {
            assert!(matches!(open(read_only).unwrap_err(), DiskError::Locked));
        }
        drop(writer);
        open(false).unwrap();
    }

    #[test]
    fn data_comes_back_and_goes() {
        let directory = TempDir::new().unwrap();
        let path = image(&directory, 4 * 4096);
        let disk = RawFile::open(&path, false).unwrap();
        let mut bytes = [7_u8; 4096];
        let slice = VolatileSlice::from(&mut bytes[..]);
        let parts = [
            slice.subslice(0, 1000).unwrap(),
            slice.subslice(1000, 3096).unwrap(),
        ];
        for page in 0..4 {
            disk.write(page * 4096, &parts).unwrap();
        }
        disk.flush().unwrap();
        disk.write_zeroes(0, 4096, true).unwrap();
        disk.write_zeroes(4096, 4096, false).unwrap();
        vectored::write_zeroes(&disk.file, 2 * 4096, 4096).unwrap();
        disk.discard(3 * 4096, 4096).unwrap();
        let image = fs::read(&path).unwrap();
        assert_eq!(image.len(), 4 * 4096);
        assert!(image[..3 * 4096].iter().all(|byte| *byte == 0));
        let mut back = [9_u8; 4096];
        let into = [VolatileSlice::from(&mut back[..])];
        disk.read(0, &into).unwrap();
        assert_eq!(back, [0; 4096]);
    }

    #[test]
    fn what_was_cut_off_cannot_be_read() {
        let directory = TempDir::new().unwrap();
        let path = image(&directory, 1024);
        let disk = RawFile::open(&path, true).unwrap();
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(512)
            .unwrap();
        let mut back = [9_u8; 1024];
        let into = [VolatileSlice::from(&mut back[..])];
        let error = disk.read(0, &into).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert_eq!(into[0].as_volatile_slice().len(), 1024);
    }

    #[test]
    fn a_file_grows_and_shrinks_and_is_read_again() {
        let directory = TempDir::new().unwrap();
        let path = image(&directory, 1024);
        let disk = RawFile::open(&path, false).unwrap();
        for size in [4096, 512] {
            disk.resize(Some(size)).unwrap();
            assert_eq!(
                (disk.size(), fs::metadata(&path).unwrap().len()),
                (size, size)
            );
        }
        let elsewhere = OpenOptions::new().write(true).open(&path).unwrap();
        elsewhere.set_len(2048).unwrap();
        assert_eq!(disk.size(), 512);
        disk.resize(None).unwrap();
        assert_eq!(disk.size(), 2048);
        for no_disk in [0, 700] {
            elsewhere.set_len(no_disk).unwrap();
            let error = disk.resize(None).unwrap_err();
            assert!(matches!(error, ResizeError::Image(size) if size == no_disk));
            assert_eq!(disk.size(), 2048);
        }
    }
}
