//! An image and those behind it: opened, locked and checked, before any of them is used.
//!
//! A backing file is named by the image in front of it, and that may come from anywhere: so only files in the directory of
//! the disk's image, or in directories within that, are opened. The kernel sees to it (`openat2(2)`, `RESOLVE_BENEATH`):
//! neither `..` nor a symbolic link leads out.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::File,
    io::{Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::{Mode, fstatat},
};

use super::{
    Qcow2Error,
    header::{Format, Header},
    tables,
};
use crate::devices::virtio::block::image::{self, DiskError};

/// Most images in a chain.
const LEN_MAX: usize = 32;

/// One image.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) file: File,
    /// What its header says; `None` of a raw one.
    pub(super) header: Option<Header>,
}

/// Opens the image at `path` and all that is behind it, the foremost first. Blocks.
pub(super) fn open_all(path: &Path, read_only: bool) -> Result<Vec<Link>, DiskError> {
    let (file, _) = image::open(path, read_only)?;
    let image = identity(&file)?;
    let mut seen = HashSet::from([image]);
    let header = check(&file, read_only)?;
    let mut next = header.backing.clone();
    let mut links = vec![Link {
        file,
        header: Some(header),
    }];
    if next.is_none() {
        return Ok(links);
    }

    let root = Root::of(path, image)?;
    // Relative to the root: where the image is that names the next one.
    let mut directory = PathBuf::new();
    while let Some((name, format)) = next.take() {
        let behind = |source: DiskError| {
            DiskError::Qcow2(Qcow2Error::Backing {
                name: name.clone(),
                source: Box::new(source),
            })
        };
        if links.len() >= LEN_MAX {
            return Err(behind(Qcow2Error::TooLong(LEN_MAX).into()));
        }
        let place = root.place(&directory, &name);
        let place = place.ok_or_else(|| behind(Qcow2Error::NotBelow.into()))?;
        let file = root.open(&place).map_err(behind)?;
        image::kind_of(&file).map_err(behind)?;
        if !seen.insert(identity(&file).map_err(behind)?) {
            return Err(behind(Qcow2Error::Loop.into()));
        }
        image::lock(&file, true).map_err(behind)?;
        let header = match format {
            Format::Raw => None,
            Format::Qcow2 => Some(check(&file, true).map_err(behind)?),
        };
        next = header.as_ref().and_then(|header| header.backing.clone());
        directory = place.parent().unwrap_or(Path::new("")).to_owned();
        links.push(Link { file, header });
    }
    Ok(links)
}

fn check(file: &File, read_only: bool) -> Result<Header, DiskError> {
    let mut end = file;
    let len = end.seek(SeekFrom::End(0))?;
    let header = Header::read(file, len, read_only)?;
    tables::check(file, len, &header)?;
    Ok(header)
}

/// The same for all names of a file.
fn identity(file: &File) -> Result<(u64, u64), DiskError> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The directory that backing files are in or below.
struct Root {
    directory: std::os::fd::OwnedFd,
    /// Its names: as the disk's image was given, and without symbolic links.
    names: [PathBuf; 2],
}

impl Root {
    /// That of the disk's image at `path`, which is `image`.
    fn of(path: &Path, image: (u64, u64)) -> Result<Self, DiskError> {
        let real = path.canonicalize()?;
        let parent = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
        let name = real.file_name().unwrap_or_default().to_owned();
        let (given, real) = (parent(path), parent(&real));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(&real, flags, Mode::empty()).map_err(std::io::Error::from)?;
        // Directories may be moved about, and links put in their places: this is the one that the image is in.
        let there = fstatat(&directory, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        let there = there.map_err(std::io::Error::from)?;
        if (there.st_dev, there.st_ino) != image {
            return Err(Qcow2Error::NotBelow.into());
        }
        Ok(Self {
            directory,
            names: [given, real],
        })
    }

    /// Where below the root a file is that an image in `directory` calls `name`; `None` if that is elsewhere.
    fn place(&self, directory: &Path, name: &str) -> Option<PathBuf> {
        let name = Path::new(OsStr::new(name));
        if !name.is_absolute() {
            return Some(directory.join(name));
        }
        let below = |root: &PathBuf| name.strip_prefix(root).ok().map(Path::to_owned);
        self.names.iter().find_map(below)
    }

    fn open(&self, place: &Path) -> Result<File, DiskError> {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        match openat2(&self.directory, place, how) {
            Ok(file) => Ok(file.into()),
            Err(Errno::EXDEV) => Err(Qcow2Error::NotBelow.into()),
            Err(Errno::ENXIO) => Err(DiskError::NotADisk),
            Err(errno) => Err(std::io::Error::from(errno).into()),
        }
    }
}
