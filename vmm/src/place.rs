//! Paths of the host's, as they are used: as they were named, or through a descriptor that holds what was found there.

use std::{
    fmt, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A path to use, and what it needs to stay what it is.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    _held: Option<OwnedFd>,
}

impl Place {
    /// A path through the descriptor `held`.
    pub fn held(path: PathBuf, held: OwnedFd) -> Self {
        Self {
            path,
            _held: Some(held),
        }
    }

    /// What to use.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            _held: None,
        }
    }
}

type Find = dyn Fn(&Path) -> io::Result<Place> + Send + Sync;

/// How sockets are found that are connected to while a machine runs. By default they are where they are said to be.
#[derive(Clone)]
pub struct Resolve(Arc<Find>);

impl Resolve {
    /// By `find`, which may block for as long as the host's files do.
    pub fn new(find: impl Fn(&Path) -> io::Result<Place> + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }

    /// What is at `path`.
    pub fn find(&self, path: &Path) -> io::Result<Place> {
        (self.0)(path)
    }
}

impl Default for Resolve {
    fn default() -> Self {
        Self::new(|path| Ok(path.into()))
    }
}

impl fmt::Debug for Resolve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolve")
    }
}
