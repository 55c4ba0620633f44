//! The sections of the configuration file. Every key is optional; what it means is in `deploy/vmd.toml`.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use toml::Spanned;
use vmctl::{Endpoint, EndpointError};

use super::{Config, ConfigError, Containment, FileMode, Group, Limits, Listen, Place, User};
use crate::{access::Role, store::parse_age};

/// All of the file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    pub(super) listen: Vec<FileListen>,
    pub(super) tls: Option<Tls>,
    pub(super) roles: Roles,
    pub(super) paths: Paths,
    pub(super) daemon: Daemon,
    pub(super) events: Events,
    pub(super) shutdown: Shutdown,
    pub(super) log: Log,
    pub(super) containment: Containment,
    pub(super) limits: Limits,
}

/// `[[listen]]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileListen {
    #[serde(deserialize_with = "endpoint", serialize_with = "show_endpoint")]
    address: Spanned<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<FileMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<Group>,
    #[serde(
        default,
        deserialize_with = "plaintext_role",
        serialize_with = "show_plaintext_role",
        skip_serializing_if = "Option::is_none"
    )]
    plaintext_role: Option<Option<Role>>,
}

/// `[tls]`: PEM files.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The daemon's certificate, and those between it and the authority that its clients trust.
    #[serde(deserialize_with = "absolute")]
    pub certificate: PathBuf,
    /// Its private key.
    #[serde(deserialize_with = "absolute")]
    pub key: PathBuf,
    /// The authorities whose certificates clients may have.
    #[serde(deserialize_with = "absolute")]
    pub client_ca: PathBuf,
}

/// `[roles.*]`: who has which.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Roles {
    /// May look.
    pub viewer: RoleMembers,
    /// May drive machines that there are, too.
    pub operator: RoleMembers,
    /// May do everything.
    pub admin: RoleMembers,
}

/// Who has a role.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct RoleMembers {
    /// On Unix sockets: users.
    pub users: Vec<User>,
    /// On Unix sockets: groups.
    pub groups: Vec<Group>,
    /// With TLS: names in certificates, DNS names or URIs.
    pub certificates: Vec<String>,
}

/// `[paths]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// Directories in and below which clients may name files and sockets.
    #[serde(deserialize_with = "all_absolute")]
    pub roots: Vec<PathBuf>,
}

/// `[daemon]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Daemon {
    pub(super) data_dir: Option<PathBuf>,
    #[serde(deserialize_with = "metrics", serialize_with = "show")]
    pub(super) metrics: Option<Endpoint>,
}

/// `[events]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Events {
    pub(super) kept: Option<usize>,
    #[serde(deserialize_with = "age", serialize_with = "show_age")]
    pub(super) max_age: Option<Duration>,
}

/// `[shutdown]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Shutdown {
    pub(super) grace_seconds: u64,
    pub(super) press_interval_seconds: u64,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            grace_seconds: 0,
            press_interval_seconds: 5,
        }
    }
}

/// `[log]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    pub(super) format: LogFormat,
    #[serde(deserialize_with = "filter")]
    pub(super) filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            filter: "info".to_owned(),
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl File {
    /// Reads `text`, which is that of the file at `path`.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let place = |span| Place::of(path.to_owned(), text, &span);
        let file: Self = toml::from_str(text).map_err(|error| ConfigError::Wrong {
            place: place(error.span().unwrap_or_default()),
            problem: error.message().to_owned(),
        })?;
        for listen in &file.listen {
            listen.check(file.tls.is_some()).map_err(|problem| {
                let place = place(listen.address.span());
                ConfigError::Wrong { place, problem }
            })?;
        }
        Ok(file)
    }
}

impl From<&Config> for File {
    fn from(config: &Config) -> Self {
        Self {
            listen: config.listen.iter().map(FileListen::from).collect(),
            tls: config.tls.clone(),
            roles: config.roles.clone(),
            paths: config.paths.clone(),
            daemon: Daemon {
                data_dir: config.data_dir.clone(),
                metrics: config.metrics.clone(),
            },
            events: Events {
                kept: Some(config.events_kept),
                max_age: config.events_max_age,
            },
            shutdown: Shutdown {
                grace_seconds: config.grace.as_secs(),
                press_interval_seconds: config.grace_press_interval.as_secs(),
            },
            log: Log {
                format: config.log_format,
                filter: config.log_filter.clone(),
            },
            containment: config.containment.clone(),
            limits: config.limits.clone(),
        }
    }
}

impl FileListen {
    fn check(&self, has_tls: bool) -> Result<(), String> {
        let endpoint = self.address.as_ref();
        let is_unix = matches!(endpoint, Endpoint::Unix(_));
        if !is_unix && (self.mode.is_some() || self.group.is_some()) {
            return Err(format!(
                "{endpoint} has no file: `mode` and `group` are for Unix sockets"
            ));
        }
        if !matches!(endpoint, Endpoint::Tcp(_)) && self.plaintext_role.is_some() {
            return Err(format!(
                "{endpoint} tells who connects: `plaintext_role` is for http:// addresses"
            ));
        }
        if matches!(endpoint, Endpoint::Tls { .. }) && !has_tls {
            return Err(format!(
                "{endpoint} needs a section [tls] with certificate, key and client_ca"
            ));
        }
        Ok(())
    }
}

impl From<FileListen> for Listen {
    fn from(file: FileListen) -> Self {
        let default = Self::from(file.address.into_inner());
        Self {
            mode: file.mode.unwrap_or(default.mode),
            group: file.group,
            plaintext_role: file.plaintext_role.unwrap_or(default.plaintext_role),
            endpoint: default.endpoint,
        }
    }
}

impl From<&Listen> for FileListen {
    /// With those keys alone that its address may have.
    fn from(listen: &Listen) -> Self {
        let is_unix = matches!(listen.endpoint, Endpoint::Unix(_));
        let is_plaintext = matches!(listen.endpoint, Endpoint::Tcp(_));
        Self {
            address: Spanned::new(0..0, listen.endpoint.clone()),
            mode: is_unix.then_some(listen.mode),
            group: listen.group,
            plaintext_role: is_plaintext.then_some(listen.plaintext_role),
        }
    }
}

fn endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Spanned<Endpoint>, D::Error> {
    let text = Spanned::<String>::deserialize(deserializer)?;
    let endpoint = text.as_ref().parse().map_err(D::Error::custom)?;
    Ok(Spanned::new(text.span(), endpoint))
}

fn show_endpoint<S: Serializer>(
    endpoint: &Spanned<Endpoint>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(endpoint.as_ref())
}

/// A role, or `none`.
fn plaintext_role<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<Role>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Asked {
        None,
        Viewer,
        Operator,
        Admin,
    }
    Ok(Some(match Asked::deserialize(deserializer)? {
        Asked::None => None,
        Asked::Viewer => Some(Role::Viewer),
        Asked::Operator => Some(Role::Operator),
        Asked::Admin => Some(Role::Admin),
    }))
}

fn show_plaintext_role<S: Serializer>(
    role: &Option<Option<Role>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match role.flatten() {
        Some(role) => serializer.collect_str(&role),
        None => serializer.serialize_str("none"),
    }
}

fn filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let filter = String::deserialize(deserializer)?;
    crate::logging::check(&filter).map_err(D::Error::custom)?;
    Ok(filter)
}

fn absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    check_absolute::<D::Error>(&path)?;
    Ok(path)
}

fn all_absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths = Vec::<PathBuf>::deserialize(deserializer)?;
    for path in &paths {
        check_absolute::<D::Error>(path)?;
    }
    Ok(paths)
}

fn check_absolute<E: Error>(path: &Path) -> Result<(), E> {
    if path.is_absolute() {
        return Ok(());
    }
    let path = path.display();
    Err(E::custom(format_args!("'{path}' is not an absolute path")))
}

/// How old events may become.
fn age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_age(&text).map(Some).map_err(D::Error::custom)
}

/// In the largest unit that needs no fraction.
fn show_age<S: Serializer>(age: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    let units = [(24 * 3600, 'd'), (3600, 'h'), (60, 'm')];
    let text = age.map(|age| {
        let seconds = age.as_secs();
        match units.into_iter().find(|(unit, _)| seconds % unit == 0) {
            Some((unit, letter)) => format!("{}{letter}", seconds / unit),
            None => format!("{seconds}s"),
        }
    });
    show(&text, serializer)
}

/// As text, if there is one.
fn show<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// Where metrics are served.
fn metrics<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Endpoint>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_metrics(&text).map(Some).map_err(D::Error::custom)
}

/// An address for metrics: they are for whoever can connect, so it is one of this host.
pub fn parse_metrics(text: &str) -> Result<Endpoint, String> {
    match text
        .parse()
        .map_err(|error: EndpointError| error.to_string())?
    {
        Endpoint::Tls { .. } => Err(
            "metrics are served at unix:PATH, or http://HOST:PORT on a loopback address".to_owned(),
        ),
        local => Ok(local),
    }
}
