//! What a machine starts in, read from files: kernels and initial RAM disks. What several machines use at a time is read
//! and kept once.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    hash::Hash,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use nix::libc;
use thiserror::Error;
use vmm::machine::boot::{BootError, DirectBoot, ImageError, KernelImage, MAX_INITRD};

use crate::access::Beneath;

/// A kernel and what it is given, by their files.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// A bzImage or an ELF file.
    pub path: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The command line.
    pub cmdline: String,
}

/// Why a kernel cannot be booted.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The kernel cannot be read, or is none.
    #[error("{}: {source}", path.display())]
    Kernel {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        source: ImageError,
    },
    /// The initial RAM disk cannot be read, or does not fit into the machine beside the kernel.
    #[error("{}: {source}", path.display())]
    Initrd {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// They do not go together.
    #[error(transparent)]
    Boot(#[from] BootError),
}

/// The images in use.
#[derive(Default)]
pub struct Images {
    kernels: Shared<KernelImage>,
    initrds: Shared<[u8]>,
}

impl Images {
    /// Reads what `kernel` names, for a machine of `memory_bytes` bytes. Blocks.
    pub(super) fn load(
        &self,
        paths: &Beneath,
        kernel: &Kernel,
        memory_bytes: u64,
    ) -> Result<DirectBoot, KernelError> {
        let image = self.kernels.get(paths, &kernel.path, |file| {
            KernelImage::read(file, memory_bytes).map(Arc::new)
        });
        let image = image.map_err(|source| KernelError::Kernel {
            path: kernel.path.clone(),
            source,
        })?;
        let initrd = match &kernel.initrd {
            None => None,
            Some(path) => {
                let initrd = self
                    .initrds
                    .get(paths, path, |file| read(file, memory_bytes));
                Some(initrd.map_err(|source| KernelError::Initrd {
                    path: path.clone(),
                    source,
                })?)
            }
        };
        DirectBoot::new(image, initrd, &kernel.cmdline, memory_bytes)
            .map_err(|error| kernel.unfit(error))
    }
}

impl Kernel {
    /// What does not fit, by its file.
    fn unfit(&self, error: BootError) -> KernelError {
        match (error, &self.initrd) {
            (BootError::Kernel(source), _) => KernelError::Kernel {
                path: self.path.clone(),
                source: source.into(),
            },
            (error @ (BootError::InitrdEmpty | BootError::Initrd { .. }), Some(path)) => {
                KernelError::Initrd {
                    path: path.clone(),
                    source: io::Error::other(error),
                }
            }
            (error, _) => KernelError::Boot(error),
        }
    }
}

/// All of `file`, unless it is larger than the memory it is for.
fn read(file: &mut File, memory_bytes: u64) -> io::Result<Arc<[u8]>> {
    let size = file.metadata()?.len();
    let room = memory_bytes.min(MAX_INITRD);
    if size > room {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{size} bytes, more than the machine's memory below 3 GiB, {room} bytes"),
        ));
    }
    let mut bytes = Vec::new();
    file.take(size).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// What was read from files, as long as somebody uses it.
struct Shared<T: ?Sized>(Mutex<HashMap<Version, Weak<T>>>);

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// A file as it was at one time.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl<T: ?Sized> Shared<T> {
    /// What `path` holds; `read` is called if nobody uses that.
    fn get<E: From<io::Error>>(
        &self,
        paths: &Beneath,
        path: &Path,
        read: impl FnOnce(&mut File) -> Result<Arc<T>, E>,
    ) -> Result<Arc<T>, E> {
        let mut file = open(paths.find(path)?.path())?;
        let version = Version::of(&file)?;
        let found = self.lock().get(&version).and_then(Weak::upgrade);
        if let Some(found) = found {
            return Ok(found);
        }
        let image = read(&mut file)?;
        // Kept only if nobody wrote to the file meanwhile.
        if Version::of(&file)? == version {
            let mut kept = self.lock();
            kept.retain(|_, image| image.strong_count() > 0);
            kept.insert(version, Arc::downgrade(&image));
        }
        Ok(image)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Version, Weak<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Version {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Opens a regular file.
fn open(path: &Path) -> io::Result<File> {
    // O_NONBLOCK: the open of a FIFO would wait for its other end.
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("not a regular file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_once_while_it_is_used_and_unchanged() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one").unwrap();
        let shared = Shared::<[u8]>::default();
        let paths = Beneath::anywhere();
        let get = || {
            shared
                .get(&paths, file.path(), |file| read(file, 1 << 20))
                .unwrap()
        };
        let (first, second) = (get(), get());
        assert!(Arc::ptr_eq(&first, &second));
        std::fs::write(file.path(), "three").unwrap();
        assert_eq!((&*get(), &*first), (&b"three"[..], &b"one"[..]));
        drop((first, second));
        get();
        assert!(shared.lock().len() <= 1);
    }
}
