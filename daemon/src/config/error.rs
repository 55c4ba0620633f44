//! What is wrong with a configuration, and where.

use std::{fmt, io, ops::Range, path::PathBuf};

use thiserror::Error;
use vmctl::{Endpoint, EndpointError};

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says what cannot be.
    #[error("{place}: {problem}")]
    Wrong {
        /// Where.
        place: Place,
        /// What is wrong there.
        problem: String,
    },
    /// There is no address to listen at.
    #[error("no default address: {0}")]
    NoAddress(#[source] EndpointError),
    /// TLS without certificates.
    #[error(
        "{0} needs certificates: name them in the configuration file, in [tls] certificate, key and client_ca"
    )]
    NoCertificates(Endpoint),
    /// A burst of what is not limited.
    #[error("limits.burst needs limits.calls_per_second: calls are not limited without it")]
    BurstWithoutRate,
    /// No file can say it.
    #[error("it cannot be shown: {0}")]
    NotText(#[source] serde_json::Error),
}

/// A place in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The key with that of its section, as in `tls.key`; empty if there is none.
    pub key: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)?;
        match self.key.as_str() {
            "" => Ok(()),
            key => write!(f, ": {key}"),
        }
    }
}

impl Place {
    /// The place of the bytes `span` of `text`.
    pub(super) fn of(path: PathBuf, text: &str, span: &Range<usize>) -> Self {
        let mut section = "";
        let mut key = "";
        let (mut line, mut start) = (1, 0);
        for (number, content) in (1..).zip(text.split_inclusive('\n')) {
            if start > span.start {
                break;
            }
            start += content.len();
            line = number;
            let content = content.trim();
            if let Some(name) = content.strip_prefix('[')
                && content.ends_with(']')
            {
                section = name.trim_matches(['[', ']']);
                key = "";
            } else if let Some((name, _)) = content.split_once('=')
                && !content.starts_with('#')
            {
                key = name.trim();
            }
        }
        let key = match (section, key) {
            ("", key) | (key, "") => key.to_owned(),
            (section, key) => format!("{section}.{key}"),
        };
        Self { path, line, key }
    }
}
