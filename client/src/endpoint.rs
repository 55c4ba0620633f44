//! Where a daemon is: text in, a checked address out.
//!
//! The daemon reads its `--listen` with the same type, so that both sides agree on every spelling.

use std::{
    env,
    ffi::OsString,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use nix::unistd::geteuid;
use thiserror::Error;

/// The longest path that fits a Unix socket address, its terminating NUL left out.
const SOCKET_PATH_MAX: usize = 107;

/// The address of a daemon.
///
/// Written as `unix:PATH`, `unix:///PATH` (absolute), `http://HOST:PORT`, where HOST is `localhost`
/// or a loopback address, or `https://HOST:PORT`. [`fmt::Display`] writes a form that reads back as
/// the same value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// TCP on a loopback address.
    Tcp(SocketAddr),
    /// TCP with TLS, on any address.
    Tls {
        /// A host name or an address.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Why an address cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointError {
    /// The text starts with neither `unix:` nor `http://` nor `https://`.
    #[error("'{0}' is not an address: expected unix:PATH, http://HOST:PORT or https://HOST:PORT")]
    Scheme(String),
    /// `unix:` without a path.
    #[error("'{0}' names no socket: expected unix:PATH")]
    NoPath(String),
    /// `unix://` followed by something that is not an absolute path.
    #[error("'{0}' has a relative path after unix://: expected unix:PATH or unix:///PATH")]
    Authority(String),
    /// The path holds a NUL byte.
    #[error("the socket path holds a NUL byte")]
    Nul,
    /// The path is too long for a Unix socket.
    #[error("the socket path is {0} bytes long, a Unix socket takes {SOCKET_PATH_MAX} at most")]
    TooLong(usize),
    /// `http://` not followed by a host and a port.
    #[error(
        "'{0}' is not an address: expected HOST:PORT after the slashes, for example http://127.0.0.1:7070"
    )]
    HostPort(String),
    /// A TCP address that other hosts can reach.
    #[error(
        "'{0}' is not a loopback address: without TLS only 127.0.0.0/8, [::1] and localhost are served; for others use \
         https://HOST:PORT with certificates"
    )]
    NotLoopback(String),
    /// No default can be told: `XDG_RUNTIME_DIR` is not set to an absolute path.
    #[error(
        "XDG_RUNTIME_DIR is not set, so there is no default socket: set it, or name an address"
    )]
    NoRuntimeDir,
}

impl Endpoint {
    /// The address that `vmd serve` and `vmctl` use when none is given:
    /// `unix:/run/vmd/vmd.sock` for root, `unix:$XDG_RUNTIME_DIR/vmd/vmd.sock` for everybody else.
    ///
    /// # Errors
    /// [`EndpointError::NoRuntimeDir`] if a user who is not root has no `XDG_RUNTIME_DIR`.
    pub fn default_for_user() -> Result<Self, EndpointError> {
        Self::default_for(geteuid().is_root(), env::var_os("XDG_RUNTIME_DIR"))
    }

    fn default_for(root: bool, runtime_dir: Option<OsString>) -> Result<Self, EndpointError> {
        let base = match runtime_dir.map(PathBuf::from) {
            _ if root => PathBuf::from("/run"),
            Some(dir) if dir.is_absolute() => dir,
            _ => return Err(EndpointError::NoRuntimeDir),
        };
        Self::unix(base.join("vmd/vmd.sock"))
    }

    /// The Unix socket at `path`, checked for what a socket address can hold.
    ///
    /// # Errors
    /// [`EndpointError`] if the path is empty, too long or holds a NUL byte.
    pub fn unix(path: impl Into<PathBuf>) -> Result<Self, EndpointError> {
        let path = path.into();
        let bytes = path.as_os_str().as_encoded_bytes();
        if bytes.is_empty() {
            return Err(EndpointError::NoPath("unix:".to_owned()));
        }
        if bytes.contains(&0) {
            return Err(EndpointError::Nul);
        }
        if bytes.len() > SOCKET_PATH_MAX {
            return Err(EndpointError::TooLong(bytes.len()));
        }
        Ok(Self::Unix(path))
    }

    /// The socket's path, if this is a Unix socket.
    pub fn unix_path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(_) | Self::Tls { .. } => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Tls { host, port } if host.contains(':') => write!(f, "https://[{host}]:{port}"),
            Self::Tls { host, port } => write!(f, "https://{host}:{port}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(rest) = text.strip_prefix("unix:") {
            let path = match rest.strip_prefix("//") {
                Some(path) if path.starts_with('/') => path,
                Some(_) => return Err(EndpointError::Authority(text.to_owned())),
                None => rest,
            };
            if path.is_empty() {
                return Err(EndpointError::NoPath(text.to_owned()));
            }
            return Self::unix(path);
        }
        if let Some(rest) = text.strip_prefix("https://") {
            let (host, port) = host_and_port(rest.strip_suffix('/').unwrap_or(rest))
                .ok_or_else(|| EndpointError::HostPort(text.to_owned()))?;
            return Ok(Self::Tls { host, port });
        }
        let Some(rest) = text.strip_prefix("http://") else {
            return Err(EndpointError::Scheme(text.to_owned()));
        };
        let address = socket_address(rest.strip_suffix('/').unwrap_or(rest))
            .ok_or_else(|| EndpointError::HostPort(text.to_owned()))?;
        if address.ip().to_canonical().is_loopback() {
            Ok(Self::Tcp(address))
        } else {
            Err(EndpointError::NotLoopback(text.to_owned()))
        }
    }
}

/// Reads `HOST:PORT`; `localhost` is 127.0.0.1, other names are not looked up.
fn socket_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::new(
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            port.parse().ok()?,
        )),
        None => text.parse().ok(),
    }
}

/// Reads `HOST:PORT`, where HOST is a name, an IPv4 address, or an IPv6 address in brackets.
fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    if let Some(address) = host.strip_prefix('[') {
        let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
        return Some((address.to_string(), port));
    }
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let is_host = !host.is_empty() && host.bytes().all(good);
    is_host.then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Endpoint, EndpointError> {
        text.parse()
    }

    #[test]
    fn reads_each_spelling_and_writes_one_that_reads_back() {
        for (text, shown) in [
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("unix:///run/a.sock", "unix:/run/a.sock"),
            ("unix:a.sock", "unix:a.sock"),
            ("http://127.0.0.1:80", "http://127.0.0.1:80"),
            ("http://127.8.0.1:0/", "http://127.8.0.1:0"),
            ("http://[::1]:7070", "http://[::1]:7070"),
            ("http://localhost:7070", "http://127.0.0.1:7070"),
            ("https://vm.example.org:7443", "https://vm.example.org:7443"),
            ("https://192.0.2.1:1/", "https://192.0.2.1:1"),
            ("https://[2001:db8::1]:1", "https://[2001:db8::1]:1"),
        ] {
            let endpoint = parse(text).unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(parse(shown).unwrap(), endpoint);
        }
    }

    #[test]
    fn refuses_what_is_no_address_or_not_loopback() {
        use EndpointError as E;
        assert!(matches!(parse(""), Err(E::Scheme(_))));
        assert!(matches!(parse("/run/a.sock"), Err(E::Scheme(_))));
        for bad in [
            "https://",
            "https://host",
            "https://host:x",
            "https://:1",
            "https://a:b:1",
            "https://a/b:1",
        ] {
            assert!(matches!(parse(bad), Err(E::HostPort(_))), "{bad}");
        }
        assert!(matches!(parse("unix:"), Err(E::NoPath(_))));
        assert!(matches!(parse("unix://a.sock"), Err(E::Authority(_))));
        assert!(matches!(parse("unix:/a\0b"), Err(E::Nul)));
        assert!(matches!(parse("http://127.0.0.1"), Err(E::HostPort(_))));
        assert!(matches!(
            parse("http://localhost:99999"),
            Err(E::HostPort(_))
        ));
        assert!(matches!(
            parse("http://example.com:80"),
            Err(E::HostPort(_))
        ));
        assert!(matches!(parse("http://0.0.0.0:80"), Err(E::NotLoopback(_))));
        assert!(matches!(
            parse("http://192.0.2.1:80"),
            Err(E::NotLoopback(_))
        ));
        assert_eq!(
            parse(&format!("unix:/{}", "x".repeat(107))),
            Err(E::TooLong(108))
        );
        assert!(parse(&format!("unix:/{}", "x".repeat(106))).is_ok());
    }

    #[test]
    fn the_default_depends_on_who_asks() {
        let default = |root, dir: Option<&str>| Endpoint::default_for(root, dir.map(Into::into));
        let shown = |root, dir| default(root, dir).unwrap().to_string();
        assert_eq!(shown(true, Some("/run/user/0")), "unix:/run/vmd/vmd.sock");
        assert_eq!(shown(true, None), "unix:/run/vmd/vmd.sock");
        assert_eq!(
            shown(false, Some("/run/user/7")),
            "unix:/run/user/7/vmd/vmd.sock"
        );
        for missing in [None, Some(""), Some("here")] {
            assert_eq!(default(false, missing), Err(EndpointError::NoRuntimeDir));
        }
    }
}
