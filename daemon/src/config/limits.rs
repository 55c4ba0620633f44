//! `[limits]`: how much of the host machines may have, and how often somebody may call.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use vmctl::{format_size, parse_size};

use crate::vm::Labels;

/// The section; what is absent is not limited.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Machines that there may be, those that have ended among them.
    pub machines: Option<u64>,
    /// vCPUs that live machines may have together.
    pub vcpus: Option<u64>,
    /// Memory that live machines may have together, in bytes.
    #[serde(deserialize_with = "size", serialize_with = "show_size")]
    pub memory: Option<u64>,
    /// Memory of the host that stays free whatever machines use of theirs, in bytes; with it, a machine is made only if the
    /// host has its memory.
    #[serde(deserialize_with = "size", serialize_with = "show_size")]
    pub host_memory_reserve: Option<u64>,
    /// Connections of all callers together.
    pub connections: Option<u32>,
    /// Connections of one caller.
    pub connections_per_caller: Option<u32>,
    /// Calls that one caller may make each second.
    pub calls_per_second: Option<u32>,
    /// Calls that one who has made none for a while may make at once; `calls_per_second` if it is absent.
    pub burst: Option<u32>,
    /// Quotas for machines with a label.
    pub quota: Vec<Quota>,
}

impl Limits {
    /// Machines, vCPUs, bytes of memory.
    pub(crate) fn amounts(&self) -> [Option<u64>; 3] {
        [self.machines, self.vcpus, self.memory]
    }
}

/// `[[limits.quota]]`: what machines with a label may have together.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Whose it is.
    pub label: QuotaLabel,
    /// As [`Limits::machines`].
    pub machines: Option<u64>,
    /// As [`Limits::vcpus`].
    pub vcpus: Option<u64>,
    /// As [`Limits::memory`].
    #[serde(default, deserialize_with = "size", serialize_with = "show_size")]
    pub memory: Option<u64>,
}

impl Quota {
    /// As [`Limits::amounts`].
    pub(crate) fn amounts(&self) -> [Option<u64>; 3] {
        [self.machines, self.vcpus, self.memory]
    }
}

/// `KEY=VALUE`, or `KEY`: then each value has the quota for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaLabel {
    key: String,
    value: Option<String>,
}

impl QuotaLabel {
    /// The group whose quota counts for a machine with these labels: `KEY=VALUE`. `None` if none does.
    pub(crate) fn group(&self, labels: &Labels) -> Option<String> {
        let value = labels.get(&self.key)?;
        let is_meant = self.value.as_ref().is_none_or(|meant| meant == value);
        is_meant.then(|| format!("{}={value}", self.key))
    }
}

impl<'de> Deserialize<'de> for QuotaLabel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text.as_str(), None),
        };
        if key.is_empty() {
            return Err(D::Error::custom("expected KEY=VALUE, or KEY"));
        }
        Ok(Self {
            key: key.to_owned(),
            value,
        })
    }
}

impl Serialize for QuotaLabel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Some(value) => serializer.collect_str(&format_args!("{}={value}", self.key)),
            None => serializer.serialize_str(&self.key),
        }
    }
}

/// Bytes: a number, or text such as "64G".
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected bytes, or text such as \"64G\"")]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    match Size::deserialize(deserializer)? {
        Size::Bytes(bytes) => Ok(Some(bytes)),
        Size::Text(text) => parse_size(&text).map(Some).map_err(D::Error::custom),
    }
}

fn show_size<S: Serializer>(bytes: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    bytes.map(format_size).serialize(serializer)
}
