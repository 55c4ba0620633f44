//! Where the paths lead that clients name: for most of them, nowhere but in and below certain directories.
//!
//! ```text
//!   path named --> root that it begins with --> openat2(root, the rest, RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS) --> Place
//! ```
//! The kernel sees to it that neither `..` nor a symbolic link leads out. What was found is held by a descriptor and used
//! through that (`/proc/self/fd/N`), so that nobody can put something else there meanwhile.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::Mode,
};
use thiserror::Error;
use vmm::place::{Place, Resolve};

/// How often a path is looked up that others are moving about.
const TRIES: usize = 16;

/// Whether a caller's paths are bound to the roots. It stays with what is made from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// The paths may lead anywhere.
    Anywhere,
    /// They lead nowhere but into the roots.
    #[default]
    Roots,
}

/// Why a path is not allowed, or a root cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PathError {
    /// It begins with no root.
    #[error("{} is not below a directory that clients may name ({roots})", path.display())]
    Outside {
        /// The path.
        path: PathBuf,
        /// The directories.
        roots: String,
    },
    /// It begins with one, but leads elsewhere.
    #[error(
        "{} leads out of {}: symbolic links must be relative and stay below it", path.display(), root.display()
    )]
    Escapes {
        /// The path.
        path: PathBuf,
        /// The root.
        root: PathBuf,
    },
    /// A root cannot be opened.
    #[error("{}: {errno}", path.display())]
    Root {
        /// The root.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
}

impl PathError {
    /// The one that `error` is about.
    pub(crate) fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// The directories that clients may name.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    all: Arc<[Root]>,
    /// Whether there is nothing else that this process can open.
    confined: bool,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    directory: OwnedFd,
}

impl Roots {
    /// The directories at `paths`. Blocks.
    pub fn open(paths: &[PathBuf]) -> Result<Self, PathError> {
        let open = |path: &PathBuf| {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let directory = open(path, flags, Mode::empty());
            let directory = directory.map_err(|errno| PathError::Root {
                path: path.clone(),
                errno,
            })?;
            Ok(Root {
                path: path.clone(),
                directory,
            })
        };
        let all = paths.iter().map(open).collect::<Result<_, _>>()?;
        let confined = false;
        Ok(Self { all, confined })
    }

    /// The same, in a process that can open nothing else: then nobody's paths lead anywhere else, whoever names them.
    #[must_use]
    pub fn confined(self, confined: bool) -> Self {
        Self { confined, ..self }
    }

    /// What is there at `path`, held.
    fn find(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let inside = |root: &'_ Root| {
            let rest = path.strip_prefix(&root.path).ok()?;
            Some(rest.to_owned())
        };
        let found = self
            .all
            .iter()
            .filter_map(|root| Some((root, inside(root)?)))
            .max_by_key(|(root, _)| root.path.as_os_str().len());
        let Some((root, rest)) = found else {
            return Err(denied(PathError::Outside {
                path: path.to_owned(),
                roots: self.to_string(),
            }));
        };
        let rest = match rest.as_os_str().is_empty() {
            true => Path::new("."),
            false => &rest,
        };
        match beneath(&root.directory, rest, flags) {
            Err(Errno::EXDEV | Errno::ELOOP) => Err(denied(PathError::Escapes {
                path: path.to_owned(),
                root: root.path.clone(),
            })),
            other => Ok(other?),
        }
    }
}

impl std::fmt::Display for Roots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.all.is_empty() {
            f.write_str("the configuration names none in [paths] roots")?;
        }
        for (index, root) in self.all.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", root.path.display())?;
        }
        if self.confined {
            f.write_str("; the daemon itself can open nothing else: containment.landlock")?;
        }
        Ok(())
    }
}

fn denied(error: PathError) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, error)
}

fn beneath(directory: impl AsFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut tries = 1;
    loop {
        match openat2(&directory, path, how) {
            // Something was moved while the kernel followed `..`.
            Err(Errno::EAGAIN) if tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

/// How the paths of one caller, or of one machine's definition, are used.
#[derive(Clone, Debug)]
pub struct Beneath {
    reach: Reach,
    roots: Roots,
}

impl Beneath {
    /// Paths with this reach, and these roots.
    pub fn new(reach: Reach, roots: Roots) -> Self {
        let reach = if roots.confined { Reach::Roots } else { reach };
        Self { reach, roots }
    }

    /// Any paths.
    pub fn anywhere() -> Self {
        Self::new(Reach::Anywhere, Roots::default())
    }

    /// The file or socket that is there at `path`. Blocks.
    pub fn find(&self, path: &Path) -> io::Result<Place> {
        match self.reach {
            Reach::Anywhere => Ok(path.into()),
            Reach::Roots => {
                let found = self.roots.find(path, OFlag::empty())?;
                let path = through(&found);
                Ok(Place::held(path, found))
            }
        }
    }

    /// Where a socket is to be made at `path`, in a directory that is there. Blocks.
    pub fn make(&self, path: &Path) -> io::Result<Place> {
        if self.reach == Reach::Anywhere {
            return Ok(path.into());
        }
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let directory = self.roots.find(parent, OFlag::O_DIRECTORY)?;
        let path = through(&directory).join::<&OsStr>(name);
        Ok(Place::held(path, directory))
    }

    /// The same as [`Self::find`], for whoever looks later.
    pub fn resolve(&self) -> Resolve {
        let this = self.clone();
        Resolve::new(move |path| this.find(path))
    }
}

/// The path of what a descriptor of this process is of.
fn through(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn nothing_leads_out_of_a_root() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path();
        for directory in ["root/in", "root/deep/er", "other"] {
            fs::create_dir_all(top.join(directory)).unwrap();
        }
        fs::write(top.join("root/in/file"), "inside").unwrap();
        fs::write(top.join("root/deep/er/file"), "deeper").unwrap();
        fs::write(top.join("other/file"), "outside").unwrap();
        symlink("in/file", top.join("root/link")).unwrap();
        symlink("../other/file", top.join("root/out")).unwrap();
        symlink(top.join("root/in/file"), top.join("root/absolute")).unwrap();
        symlink("../other", top.join("root/outdir")).unwrap();
        symlink("/proc/self/root", top.join("root/magic")).unwrap();

        let root = |name: &str| top.join(name);
        let roots = Roots::open(&[root("root"), root("root/deep")]).unwrap();
        let paths = Beneath::new(Reach::Roots, roots);
        let read = |path: &str| {
            let place = paths.find(&top.join(path))?;
            fs::read_to_string(place.path())
        };
        assert_eq!(read("root/in/file").unwrap(), "inside");
        assert_eq!(read("root/link").unwrap(), "inside");
        assert_eq!(read("root/in/../in/file").unwrap(), "inside");
        assert_eq!(read("root/deep/er/file").unwrap(), "deeper");
        let missing = read("root/none").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        for out in [
            "root/out",
            "root/absolute",
            "root/outdir/file",
            "root/magic/etc/passwd",
            "root/../other/file",
            "root/in/../../other/file",
            "other/file",
            "root-not/file",
        ] {
            let error = read(out).unwrap_err();
            assert!(PathError::of(&error).is_some(), "{out}: {error}");
        }
        let socket = |path: &str| paths.make(&top.join(path));
        let made = socket("root/in/socket").unwrap();
        fs::write(made.path(), "").unwrap();
        assert!(top.join("root/in/socket").exists());
        for out in [
            "root/outdir/socket",
            "other/socket",
            "root/../socket",
            "root",
        ] {
            assert!(PathError::of(&socket(out).unwrap_err()).is_some(), "{out}");
        }
        assert!(socket("root/in/..").is_err());

        let free = Beneath::new(Reach::Anywhere, Roots::default());
        let file = free.find(&root("other/file")).unwrap();
        assert_eq!(file.path(), root("other/file"));
        let none = Beneath::new(Reach::Roots, Roots::default());
        let error = none.find(&root("other/file")).unwrap_err().to_string();
        assert!(error.contains("names none"), "{error}");
        assert!(Roots::open(&[root("root/in/file")]).is_err());
    }
}
