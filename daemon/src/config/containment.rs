//! `[containment]`: what the daemon denies itself.

use std::fmt;

use rustix::thread::CapabilitySet;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Visitor},
};

/// `[containment]`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Containment {
    /// Which system calls may be made.
    pub seccomp: Seccomp,
    /// Whether files other than those that the configuration names are out of reach; `None`: if it has `paths.roots`.
    pub landlock: Option<bool>,
    /// Capabilities that are not given up, as far as the daemon has them.
    pub keep_capabilities: Vec<Capability>,
}

impl Default for Containment {
    fn default() -> Self {
        Self {
            seccomp: Seccomp::default(),
            landlock: None,
            keep_capabilities: vec![Capability(CapabilitySet::NET_ADMIN)],
        }
    }
}

impl Containment {
    /// The capabilities that are not given up.
    pub(crate) fn kept(&self) -> CapabilitySet {
        let kept = self.keep_capabilities.iter();
        kept.map(|Capability(one)| *one).collect()
    }
}

/// Whether threads may make only the system calls that they need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// They may; others fail.
    #[default]
    On,
    /// Others are made, and logged by the kernel.
    Log,
    /// They may make any.
    Off,
}

impl<'de> Deserialize<'de> for Seccomp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;

        impl Visitor<'_> for Value {
            type Value = Seccomp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or \"log\"")
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<Seccomp, E> {
                Ok(if on { Seccomp::On } else { Seccomp::Off })
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Seccomp, E> {
                match text {
                    "log" => Ok(Seccomp::Log),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }
        }

        deserializer.deserialize_any(Value)
    }
}

impl Serialize for Seccomp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::On => serializer.serialize_bool(true),
            Self::Log => serializer.serialize_str("log"),
            Self::Off => serializer.serialize_bool(false),
        }
    }
}

/// One capability (capabilities(7)); `net_admin` or `CAP_NET_ADMIN` in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability(CapabilitySet);

impl<'de> Deserialize<'de> for Capability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let set = CapabilitySet::from_name(name);
        set.map(Self)
            .ok_or_else(|| D::Error::custom(format_args!("there is no capability '{text}'")))
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let names = self
            .0
            .iter_names()
            .map(|(name, _)| name.to_ascii_lowercase());
        serializer.collect_str(&names.collect::<String>())
    }
}
