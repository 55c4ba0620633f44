//! The daemon's configuration: a file and the command line in, one typed [`Config`] out.
//!
//! ```text
//!   vmd.toml --> File (one type a section) --+
//!                                            +--> Config --> server::bind
//!   command line --> Overrides --------------+       |
//!                                                    +----> what SIGHUP reloads: roles, roots, certificates, limits, log filter
//! ```
//! | file | what is there |
//! | --- | --- |
//! | `mod` | what comes of it: [`Config`], and where it is from: [`Source`] |
//! | `file` | the sections of the file; to add one: a struct there, a field of [`File`], a place in `deploy/vmd.toml` |
//! | `containment` | the section about what the daemon denies itself |
//! | `limits` | the section about how much there may be |
//! | `values` | what values look like: users and groups, modes of files |
//! | `show` | a configuration as the text of a file |
//! | `error` | what is wrong, with file, line and key |

mod containment;
mod error;
mod file;
mod limits;
mod show;
mod values;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::geteuid;
use vmctl::Endpoint;

pub use containment::{Capability, Containment, Seccomp};
pub use error::{ConfigError, Place};
pub use file::{File, LogFormat, Paths, RoleMembers, Roles, Tls, parse_metrics};
pub use limits::{Limits, Quota, QuotaLabel};
pub use values::{FileMode, Group, User};

use crate::{
    access::{Access, AccessError, Role},
    containment::Confined,
    event_log::DEFAULT_CAPACITY,
    vm::OpenDisk,
};

/// Read for root if no other is named and it is there.
pub const DEFAULT_FILE: &str = "/etc/vmd/vmd.toml";

/// How a daemon is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens; at least one.
    pub listen: Vec<Listen>,
    /// What it serves `https` with.
    pub tls: Option<Tls>,
    /// Who may do what.
    pub roles: Roles,
    /// Where paths that clients name lead.
    pub paths: Paths,
    /// Its own directory, which no other daemon may use at the same time.
    pub data_dir: Option<PathBuf>,
    /// Where it serves metrics, if anywhere.
    pub metrics: Option<Endpoint>,
    /// How many events it keeps.
    pub events_kept: usize,
    /// How old events may become; only in a data directory.
    pub events_max_age: Option<Duration>,
    /// How long guests get to obey the power button when the daemon ends.
    pub grace: Duration,
    /// How long after a press of the power button the next one comes, until then; zero: there is one press.
    pub grace_press_interval: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_filter: String,
    /// How much there may be.
    pub limits: Limits,
    /// What it denies itself.
    pub containment: Containment,
    /// What is in force of that in this process.
    pub confined: Confined,
    /// How it opens disks.
    pub open_disk: OpenDisk,
}

impl Default for Config {
    fn default() -> Self {
        Self::from(File::default())
    }
}

impl From<File> for Config {
    fn from(file: File) -> Self {
        Self {
            listen: file.listen.into_iter().map(Listen::from).collect(),
            tls: file.tls,
            roles: file.roles,
            paths: file.paths,
            data_dir: file.daemon.data_dir,
            metrics: file.daemon.metrics,
            events_kept: file.events.kept.unwrap_or(DEFAULT_CAPACITY),
            events_max_age: file.events.max_age,
            grace: Duration::from_secs(file.shutdown.grace_seconds),
            grace_press_interval: Duration::from_secs(file.shutdown.press_interval_seconds),
            log_format: file.log.format,
            log_filter: file.log.filter,
            limits: file.limits,
            containment: file.containment,
            confined: Confined::default(),
            open_disk: OpenDisk::default(),
        }
    }
}

/// An address to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub endpoint: Endpoint,
    /// Of a Unix socket: the mode of its file.
    pub mode: FileMode,
    /// Of a Unix socket: whose group its file is.
    pub group: Option<Group>,
    /// Of TCP without TLS: what whoever connects may do.
    pub plaintext_role: Option<Role>,
}

impl From<Endpoint> for Listen {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            mode: FileMode::default(),
            group: None,
            plaintext_role: Some(Role::Admin),
        }
    }
}

/// What the command line says; it wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Where the sockets listen that the daemon was started with: those and no others are served. What the file says of
    /// such an address counts.
    pub given: Vec<Endpoint>,
    /// Instead of the file's addresses, if there are any.
    pub listen: Vec<Endpoint>,
    /// Instead of `daemon.data_dir`.
    pub data_dir: Option<PathBuf>,
    /// Instead of `daemon.metrics`.
    pub metrics: Option<Endpoint>,
    /// Instead of `events.kept`.
    pub events_kept: Option<usize>,
    /// Instead of `events.max_age`.
    pub events_max_age: Option<Duration>,
    /// Instead of `shutdown.grace_seconds`.
    pub grace: Option<Duration>,
    /// Instead of `shutdown.press_interval_seconds`.
    pub grace_press_interval: Option<Duration>,
    /// Instead of `log.format`.
    pub log_format: Option<LogFormat>,
    /// Instead of `log.filter`.
    pub log_filter: Option<String>,
}

/// Where a configuration comes from; it may be read again.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// What wins over it.
    pub overrides: Overrides,
}

impl Source {
    /// The file that is read: `named`, or for root [`DEFAULT_FILE`] if it is there.
    pub fn file_for_user(named: Option<PathBuf>) -> Option<PathBuf> {
        let default = Path::new(DEFAULT_FILE);
        let for_root = || (geteuid().is_root() && default.exists()).then(|| default.to_owned());
        named.or_else(for_root)
    }

    /// Reads it. Blocks.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let file = self.file.as_deref().map(File::read).transpose()?;
        let mut config = Config::from(file.unwrap_or_default());
        let Overrides {
            given,
            listen,
            data_dir,
            metrics,
            events_kept,
            events_max_age,
            grace,
            grace_press_interval,
            log_format,
            log_filter,
        } = self.overrides.clone();
        if !given.is_empty() {
            let section = |endpoint: Endpoint| {
                let mut sections = config.listen.iter();
                let section = sections.find(|listen| listen.endpoint == endpoint);
                section.cloned().unwrap_or_else(|| endpoint.into())
            };
            config.listen = given.into_iter().map(section).collect();
        } else if !listen.is_empty() {
            config.listen = listen.into_iter().map(Listen::from).collect();
        }
        if config.listen.is_empty() {
            let endpoint = Endpoint::default_for_user().map_err(ConfigError::NoAddress)?;
            config.listen.push(endpoint.into());
        }
        config.data_dir = data_dir.or(config.data_dir);
        config.metrics = metrics.or(config.metrics);
        config.events_max_age = events_max_age.or(config.events_max_age);
        config.events_kept = events_kept.unwrap_or(config.events_kept);
        config.grace = grace.unwrap_or(config.grace);
        config.grace_press_interval = grace_press_interval.unwrap_or(config.grace_press_interval);
        config.log_format = log_format.unwrap_or(config.log_format);
        config.log_filter = log_filter.unwrap_or(config.log_filter);
        config.check()?;
        Ok(config)
    }
}

impl Config {
    /// Checks what the file names as well: certificates and directories. Blocks.
    pub fn check_files(&self) -> Result<(), AccessError> {
        Access::new(self).map(drop)
    }

    /// Whether it is to reach only the files that are named here.
    pub fn is_landlocked(&self) -> bool {
        let default = !self.paths.roots.is_empty();
        self.containment.landlock.unwrap_or(default)
    }

    /// The sections whose change from `self` to `new` waits for a restart.
    pub(crate) fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        changed([
            ("listen", self.listen != new.listen),
            (
                "daemon",
                self.data_dir != new.data_dir || self.metrics != new.metrics,
            ),
            (
                "events",
                self.events_kept != new.events_kept || self.events_max_age != new.events_max_age,
            ),
            (
                "shutdown",
                (self.grace, self.grace_press_interval) != (new.grace, new.grace_press_interval),
            ),
            ("log.format", self.log_format != new.log_format),
            ("containment", self.containment != new.containment),
            ("paths", self.confined.paths && self.paths != new.paths),
        ])
    }

    /// Has `new` keep what this process cannot change any more.
    pub(crate) fn keep_confined(&self, new: &mut Self) {
        new.confined = self.confined.clone();
        if self.confined.paths {
            new.paths = self.paths.clone();
        }
    }

    /// Takes over from `new` what is reloaded, and names what of it has changed. The certificates' files are read again
    /// whether or not they have other names.
    pub(crate) fn take_reloaded(&mut self, new: Self) -> Vec<&'static str> {
        let changes = changed([
            ("tls", self.tls != new.tls),
            ("roles", self.roles != new.roles),
            ("paths", self.paths != new.paths),
            ("limits", self.limits != new.limits),
            ("log.filter", self.log_filter != new.log_filter),
        ]);
        self.tls = new.tls;
        self.roles = new.roles;
        self.paths = new.paths;
        self.limits = new.limits;
        self.log_filter = new.log_filter;
        changes
    }

    /// What no single value can be wrong about.
    fn check(&self) -> Result<(), ConfigError> {
        let encrypted = |listen: &&Listen| matches!(listen.endpoint, Endpoint::Tls { .. });
        match self.listen.iter().find(encrypted) {
            Some(listen) if self.tls.is_none() => {
                Err(ConfigError::NoCertificates(listen.endpoint.clone()))
            }
            _ if self.limits.burst.is_some() && self.limits.calls_per_second.is_none() => {
                Err(ConfigError::BurstWithoutRate)
            }
            _ => Ok(()),
        }
    }
}

impl File {
    /// Reads the file at `path`. Blocks.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source: io::Error| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }
}

fn changed<const N: usize>(sections: [(&'static str, bool); N]) -> Vec<&'static str> {
    let changed = sections.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(section, _)| section).collect()
}

#[cfg(test)]
mod tests;
