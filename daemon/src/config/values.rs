//! What values in a configuration file look like.

use std::fmt;

use nix::{
    sys::stat::Mode,
    unistd::{self, Gid, Uid},
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Visitor},
};

/// A user of this host: a name or a number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User(pub Uid);

/// A group of this host: a name or a number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group(pub Gid);

impl<'de> Deserialize<'de> for User {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let lookup = Lookup {
            what: "user",
            find: |name| Ok(unistd::User::from_name(name)?.map(|user| user.uid.as_raw())),
        };
        deserializer
            .deserialize_any(lookup)
            .map(|id| Self(Uid::from_raw(id)))
    }
}

impl<'de> Deserialize<'de> for Group {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let lookup = Lookup {
            what: "group",
            find: |name| Ok(unistd::Group::from_name(name)?.map(|group| group.gid.as_raw())),
        };
        deserializer
            .deserialize_any(lookup)
            .map(|id| Self(Gid::from_raw(id)))
    }
}

impl Serialize for User {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_raw().serialize(serializer)
    }
}

impl Serialize for Group {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_raw().serialize(serializer)
    }
}

struct Lookup {
    what: &'static str,
    find: fn(&str) -> nix::Result<Option<u32>>,
}

impl Visitor<'_> for Lookup {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the name or the number of a {}", self.what)
    }

    fn visit_i64<E: Error>(self, id: i64) -> Result<u32, E> {
        let what = self.what;
        u32::try_from(id).map_err(|_| E::custom(format_args!("{id} is no {what} number")))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<u32, E> {
        let what = self.what;
        match (self.find)(name) {
            Ok(Some(id)) => Ok(id),
            Ok(None) => Err(E::custom(format_args!("this host has no {what} '{name}'"))),
            Err(errno) => Err(E::custom(format_args!("{what} '{name}': {errno}"))),
        }
    }
}

/// The mode of a file: four octal digits in the file, as in `"0660"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub Mode);

impl FileMode {
    /// Whether others than its owner may open it.
    pub fn is_shared(self) -> bool {
        self.0.intersects(Mode::S_IRWXG | Mode::S_IRWXO)
    }
}

impl Default for FileMode {
    fn default() -> Self {
        Self(Mode::S_IRUSR | Mode::S_IWUSR)
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bits = u32::from_str_radix(&text, 8).ok();
        bits.filter(|bits| *bits <= 0o777)
            .and_then(Mode::from_bits)
            .map(Self)
            .ok_or_else(|| D::Error::custom(format_args!("'{text}' is no mode such as \"0660\"")))
    }
}

impl Serialize for FileMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0.bits()))
    }
}
