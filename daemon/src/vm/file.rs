//! Reading the files that a definition names: whatever is at the path, with a bound.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::libc;
use thiserror::Error;

use crate::access::Beneath;

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be opened or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a device, ...
    #[error("{}: not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// It is too large.
    #[error("{}: {size} bytes: at most {most}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size, in bytes.
        size: u64,
        /// How large it may be, in bytes.
        most: u64,
    },
}

/// Reads a regular file of at most `most` bytes. Blocks.
pub(super) fn read_file(paths: &Beneath, path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Io {
        path: path.to_owned(),
        source,
    };
    let place = paths.find(path).map_err(failed)?;
    // O_NONBLOCK: the open of a FIFO would wait for its other end.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(place.path())
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile(path.to_owned()));
    }
    let size = metadata.len();
    if size > most {
        let path = path.to_owned();
        return Err(FileError::TooLarge { path, size, most });
    }
    // The file may change meanwhile: what was read counts, and it is bounded.
    let mut bytes = Vec::new();
    file.take(size).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_the_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "1234").unwrap();
        let paths = Beneath::anywhere();
        for most in [4, 5, u64::MAX] {
            assert_eq!(read_file(&paths, &path, most).unwrap(), b"1234");
        }
        let large = read_file(&paths, &path, 3).unwrap_err().to_string();
        assert_eq!(large, format!("{}: 4 bytes: at most 3", path.display()));
        for (path, says) in [
            (directory.path(), "not a regular file"),
            (Path::new("/dev/zero"), "not a regular file"),
            (&directory.path().join("none"), "No such file"),
        ] {
            let error = read_file(&paths, path, 4).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
