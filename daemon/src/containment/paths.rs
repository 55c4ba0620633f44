//! The files and ports that landlock leaves to the daemon (landlock(7)).
//!
//! | path | what of it |
//! | --- | --- |
//! | the data directory, the directories of its sockets, `paths.roots` | everything |
//! | `/dev/kvm`, `/dev/net/tun`, `/dev/null` | reading, writing, their own calls |
//! | the directories of its configuration and its certificates | reading |
//! | `/etc`, `/usr`, `/lib`, `/lib64`, `/var/lib/sss`: who users are, and the libraries that know it | reading |
//! | `/proc`, `/sys/devices/system/cpu`, `/dev/urandom` | reading |
//! | `/sys/fs/cgroup` | reading and writing, making groups |
//!
//! TCP ports are those that it listens at; it connects to none. It signals nobody but itself.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use vmctl::Endpoint;

use super::ContainmentError;
use crate::{config::Config, listener::make_parent, server::make_data_dir};

/// What is asked for; a kernel that has less does what it can.
const KNOWN: ABI = ABI::V6;

const DEVICES: [&str; 3] = ["/dev/kvm", "/dev/net/tun", "/dev/null"];
const READ: [&str; 8] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/var/lib/sss",
    "/proc",
    "/sys/devices/system/cpu",
    "/dev/urandom",
];
const CGROUPS: [&str; 1] = ["/sys/fs/cgroup"];

/// Leaves the calling thread no more than this; `false` if the kernel has no landlock. Directories that the daemon would make
/// are made before.
pub(super) fn enter(config: &Config, file: Option<&Path>) -> Result<bool, ContainmentError> {
    let own = own_directories(config)?;
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read | AccessFs::WriteFile | AccessFs::Truncate;
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(
            own,
            AccessFs::from_all(KNOWN) & !AccessFs::Execute,
        ))?
        .add_rules(path_beneath_rules(DEVICES, write | AccessFs::IoctlDev))?
        .add_rules(path_beneath_rules(
            CGROUPS,
            write | AccessFs::MakeDir | AccessFs::RemoveDir,
        ))?
        .add_rules(path_beneath_rules(READ, read))?
        .add_rules(path_beneath_rules(read_directories(config, file), read))?;
    let status = add_ports(rules, config)?.restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// What it has all of.
fn own_directories(config: &Config) -> Result<Vec<PathBuf>, ContainmentError> {
    let mut directories = config.paths.roots.clone();
    if let Some(path) = &config.data_dir {
        make_data_dir(path).map_err(|source| ContainmentError::Directory {
            path: path.clone(),
            source,
        })?;
        directories.push(path.clone());
    }
    let metrics = config.metrics.iter().map(|endpoint| (endpoint, false));
    let listen = config.listen.iter();
    let listen = listen.map(|one| (&one.endpoint, one.mode.is_shared()));
    for (endpoint, is_shared) in listen.chain(metrics) {
        let Endpoint::Unix(path) = endpoint else {
            continue;
        };
        make_parent(path, is_shared).map_err(|source| ContainmentError::Directory {
            path: path.clone(),
            source,
        })?;
        directories.extend(parent(path));
    }
    Ok(directories)
}

/// What is read again on SIGHUP: whole directories, since files are replaced.
fn read_directories(config: &Config, file: Option<&Path>) -> Vec<PathBuf> {
    let tls = config.tls.iter();
    let tls = tls.flat_map(|tls| [&tls.certificate, &tls.key, &tls.client_ca]);
    let files = tls.map(PathBuf::as_path).chain(file);
    files.filter_map(parent).collect()
}

fn parent(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    let here = parent.as_os_str().is_empty();
    Some(if here { ".".into() } else { parent.to_owned() })
}

fn add_ports(rules: RulesetCreated, config: &Config) -> Result<RulesetCreated, RulesetError> {
    let endpoints = config.listen.iter().map(|one| &one.endpoint);
    let endpoints = endpoints.chain(&config.metrics);
    let ports = endpoints.filter_map(|endpoint| match endpoint {
        Endpoint::Unix(_) => None,
        Endpoint::Tcp(address) => Some(address.port()),
        Endpoint::Tls { port, .. } => Some(*port),
    });
    rules.add_rules(ports.map(|port| Ok::<_, RulesetError>(NetPort::new(port, AccessNet::BindTcp))))
}
