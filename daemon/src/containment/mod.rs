//! What the daemon may do of the host, once it is broken into: as little as it needs.
//!
//! ```text
//!   one thread:  configuration --> Containment::enter: no new privileges, landlock, the process's seccomp filter
//!   runtimes:    main     devices      each thread gives up capabilities; those of `devices` take a filter of their own
//!   the start:   sockets, store, machines of the store
//!   then:        Containment::started: the first thread gives up its capabilities, too
//!   vCPUs:       each thread takes a filter before the guest can run (vmm::confine)
//! ```
//! | file | what is there |
//! | --- | --- |
//! | `mod` | the order of things |
//! | `calls` | the system calls of the whole process |
//! | `capabilities` | which are kept |
//! | `paths` | the files and ports that landlock leaves |
//! | `runtimes` | the threads |
//!
//! `deploy/threat-model.md` tells against what all this is.

mod calls;
mod capabilities;
mod paths;
mod runtimes;

use std::path::Path;

use rustix::{io::Errno, thread::CapabilitySet};
use thiserror::Error;
use tokio::runtime::Handle;
use tracing::{info, warn};
use vmm::confine::{ConfineError, DEVICE, Filter, Mode, VCPU};

pub use self::runtimes::Runtimes;
use crate::config::{Config, Seccomp};

/// Why the daemon cannot confine itself; it does not start then.
#[derive(Debug, Error)]
pub enum ContainmentError {
    /// The kernel does not take its privileges.
    #[error("{what}: {errno}")]
    Privileges {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        errno: Errno,
    },
    /// System calls.
    #[error(transparent)]
    Seccomp(#[from] ConfineError),
    /// Files and ports.
    #[error("landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// A directory that the daemon is to have all of.
    #[error("{}: {source}", path.display())]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// Why it cannot be made.
        source: std::io::Error,
    },
    /// It is asked for, and the kernel has none.
    #[error(
        "containment.landlock is true, but this kernel has no landlock, or it is not in its list of security modules \
         (/sys/kernel/security/lsm)"
    )]
    NoLandlock,
    /// The runtimes' threads.
    #[error("cannot start threads: {0}")]
    Threads(#[source] std::io::Error),
}

/// What is in force of this in a process: by default, nothing.
#[derive(Clone, Debug, Default)]
pub struct Confined {
    /// Whether only those files can be reached that the configuration names.
    pub paths: bool,
    /// What vCPUs' threads may do.
    pub vcpu_filter: Option<Filter>,
    /// Where devices' tasks run.
    pub devices: Option<Handle>,
}

/// A process that is confined, but for its first thread's capabilities.
#[derive(Debug)]
pub struct Containment {
    kept: CapabilitySet,
    has_landlock: bool,
    device_filter: Option<Filter>,
    vcpu_filter: Option<Filter>,
}

impl Containment {
    /// Confines the calling thread, and with it each that it makes. It must be the only one of the process. `file` is what
    /// the configuration is from, which will be read again. Blocks.
    pub fn enter(config: &Config, file: Option<&Path>) -> Result<Self, ContainmentError> {
        let kept = config.containment.kept();
        capabilities::no_more(kept)?;
        let has_landlock = config.is_landlocked() && paths::enter(config, file)?;
        if has_landlock {
            info!("landlock: no other files can be reached than those of the configuration");
        } else if config.containment.landlock == Some(true) {
            return Err(ContainmentError::NoLandlock);
        } else if config.is_landlocked() {
            warn!(
                "this kernel has no landlock: every file can be reached that the daemon's user may open"
            );
        }
        let mode = match config.containment.seccomp {
            Seccomp::Off => None,
            Seccomp::Log => Some(Mode::Log),
            Seccomp::On => Some(Mode::Enforce),
        };
        let Some(mode) = mode else {
            warn!("seccomp is off: threads may make every system call");
            return Ok(Self {
                kept,
                has_landlock,
                device_filter: None,
                vcpu_filter: None,
            });
        };
        let this = Self {
            kept,
            has_landlock,
            device_filter: Some(Filter::new(&[DEVICE], mode)?),
            vcpu_filter: Some(Filter::of_vcpus(mode)?),
        };
        // What the others may do comes first: it is what is done most often.
        Filter::new(&[VCPU, DEVICE, calls::OTHERS], mode)?.enter()?;
        Ok(this)
    }

    /// To be called by the first thread when all has been opened that needs capabilities.
    pub fn started(&self) -> Result<(), ContainmentError> {
        capabilities::give_up(self.kept)
    }
}

#[cfg(test)]
mod tests;
