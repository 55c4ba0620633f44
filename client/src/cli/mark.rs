//! The last event that was seen, in a file, for `events --since last`.
//!
//! ```text
//! $XDG_STATE_HOME/vmctl/events/ENDPOINT[,NAME][,selector=...][,kind=...][,audit] (or ~/.local/state/...): one decimal number and a line feed
//! ```
//! Each daemon, and whatever else of it is asked for, has a file of its own, as other events are passed by. It is replaced
//! at once: a reader finds the old number or the new one.

use std::{
    env, fs, io,
    path::{Path, PathBuf, absolute},
    process,
};

use super::{args::Events, failure::Failure};
use crate::Endpoint;

/// Where a number is kept.
pub(super) struct Mark {
    path: PathBuf,
}

impl Mark {
    /// The one for the events that are asked of a daemon.
    pub(super) fn of(endpoint: &Endpoint, events: &Events) -> Result<Self, Failure> {
        let directory = |variable| env::var_os(variable).map(PathBuf::from);
        let state = directory("XDG_STATE_HOME").filter(|path| path.is_absolute());
        let home = || directory("HOME").map(|home| home.join(".local/state"));
        let state = state.or_else(home).ok_or_else(|| {
            Failure::Told(
                "neither XDG_STATE_HOME nor HOME says where to keep the number".to_owned(),
            )
        })?;
        Ok(Self {
            path: state
                .join("vmctl/events")
                .join(file_name(endpoint, &parts(events))),
        })
    }

    /// The number, if one was kept.
    pub(super) fn read(&self) -> Result<Option<u64>, Failure> {
        let shown = self.path.display();
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::Told(format!("cannot read {shown}: {error}"))),
        };
        let number = text.trim_end().parse();
        number.map(Some).map_err(|_| {
            Failure::Told(format!(
                "{shown} holds no event's number: remove it to begin with the oldest"
            ))
        })
    }

    /// Keeps a number in place of the one before.
    pub(super) fn write(&self, seq: u64) -> Result<(), Failure> {
        let written = replace(&self.path, &format!("{seq}\n"));
        written.map_err(|error| {
            Failure::Told(format!("cannot write {}: {error}", self.path.display()))
        })
    }
}

/// Writes a file beside it, and puts that in its place.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", process::id()));
    let done = fs::write(&beside, text).and_then(|()| fs::rename(&beside, path));
    if done.is_err() {
        // The first error counts.
        let _ = fs::remove_file(&beside);
    }
    done
}

/// What tells the events that are asked for from others.
fn parts(events: &Events) -> Vec<String> {
    let Events {
        name,
        selected,
        kinds,
        audit,
        ..
    } = events;
    let selector = selected.selector.iter();
    let selector = selector.map(|selector| format!("selector={selector}"));
    let kinds = (!kinds.is_empty()).then(|| format!("kind={}", kinds.join(" ")));
    let audit = audit.then(|| "audit".to_owned());
    let parts = name.iter().cloned().chain(selector).chain(kinds);
    parts.chain(audit).collect()
}

/// A name that no other endpoint and no other events have: `unix+_run_vmd_vmd.sock,web`.
fn file_name(endpoint: &Endpoint, parts: &[String]) -> String {
    let endpoint = match endpoint {
        Endpoint::Unix(path) => {
            let path = absolute(path).unwrap_or_else(|_| path.clone());
            format!("unix:{}", path.display())
        }
        other => other.to_string(),
    };
    let escape = |text: &str| -> String {
        let byte = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => char::from(byte).to_string(),
            b':' => "+".to_owned(),
            b'/' => "_".to_owned(),
            _ => format!("%{byte:02X}"),
        };
        text.bytes().map(byte).collect()
    };
    let parts = parts.iter().map(|part| format!(",{}", escape(part)));
    std::iter::once(escape(&endpoint)).chain(parts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_and_machine_has_a_file() {
        let unix = Endpoint::Unix("/run/a_b/vmd.sock".into());
        assert_eq!(file_name(&unix, &[]), "unix+_run_a%5Fb_vmd.sock");
        assert_eq!(
            file_name(&unix, &["../web".to_owned()]),
            "unix+_run_a%5Fb_vmd.sock,.._web"
        );
        let tcp: Endpoint = "http://[::1]:7070".parse().unwrap();
        assert_eq!(file_name(&tcp, &[]), "http+__%5B++1%5D+7070");
    }

    #[test]
    fn a_number_is_replaced_and_anything_else_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        let mark = Mark { path: path.clone() };
        assert!(matches!(mark.read(), Ok(None)));
        for seq in [0, u64::MAX, 41] {
            mark.write(seq).unwrap();
            assert!(matches!(mark.read(), Ok(Some(read)) if read == seq));
        }
        let files = fs::read_dir(directory.path().join("a")).unwrap();
        assert_eq!(files.count(), 1);
        fs::write(&path, "").unwrap();
        assert!(mark.read().is_err());
    }
}
