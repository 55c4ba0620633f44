//! Sockets that the daemon is started with (sd_listen_fds(3)): socket activation.
//!
//! | socket | served as |
//! | --- | --- |
//! | Unix | `unix:PATH`; mode and group of the file are its maker's |
//! | TCP on loopback | `http://ADDRESS`, or `https://ADDRESS` if its name (`FileDescriptorName=`) is `https` |
//! | TCP on another address | `https://ADDRESS` |

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, TcpListener},
    os::{fd::AsFd, unix::net::UnixListener},
};

use listenfd::ListenFd;
use nix::sys::socket::{getsockopt, sockopt};
use thiserror::Error;
use vmctl::{Endpoint, EndpointError};

/// The name of a socket that is served with TLS.
const WITH_TLS: &str = "https";

/// The sockets that were given, each with its address.
#[derive(Debug, Default)]
pub struct Sockets(VecDeque<(Endpoint, Given)>);

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Given {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Why a socket that was given cannot be served.
#[derive(Debug, Error)]
pub enum SocketsError {
    /// What says which there are cannot be understood.
    #[error("LISTEN_FDS: {0}")]
    Environment(#[source] io::Error),
    /// It is none to listen on.
    #[error("socket '{0}' of the service manager: it is no stream socket that listens")]
    NotListening(String),
    /// Its address cannot be told.
    #[error("socket '{name}' of the service manager: {source}")]
    Socket {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A Unix socket without a path that clients could use.
    #[error("socket '{name}' of the service manager: {source}")]
    Address {
        /// Its name.
        name: String,
        /// Why.
        source: EndpointError,
    },
}

impl Sockets {
    /// Takes those that the environment tells of. To be called before there are threads: it changes the environment.
    pub fn from_env() -> Result<Self, SocketsError> {
        // Those of another process, which has started this one, do not count; nor do their names.
        let given = sd_notify::listen_fds().map_err(SocketsError::Environment)?;
        if given.len() == 0 {
            return Ok(Self::default());
        }
        let names = sd_notify::listen_fds_with_names().map_err(SocketsError::Environment)?;
        let names: Vec<_> = names.map(|(_, name)| name).collect();
        let mut sockets = ListenFd::from_env();
        let take = |(index, name)| Self::take(&mut sockets, index, name);
        names.into_iter().enumerate().map(take).collect()
    }

    fn take(
        sockets: &mut ListenFd,
        index: usize,
        name: String,
    ) -> Result<(Endpoint, Given), SocketsError> {
        if let Ok(Some(listener)) = sockets.take_unix_listener(index) {
            let endpoint = unix_endpoint(&listener, name)?;
            return Ok((endpoint, Given::Unix(listener)));
        }
        match sockets.take_tcp_listener(index) {
            Ok(Some(listener)) => {
                let endpoint = tcp_endpoint(&listener, name)?;
                Ok((endpoint, Given::Tcp(listener)))
            }
            _ => Err(SocketsError::NotListening(name)),
        }
    }

    /// Their addresses.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let endpoints = self.0.iter().map(|(endpoint, _)| endpoint);
        endpoints.cloned().collect()
    }

    /// Takes the one at `endpoint`, if it was given.
    pub(crate) fn at(&mut self, endpoint: &Endpoint) -> Option<Given> {
        let position = self.0.iter().position(|(other, _)| other == endpoint)?;
        self.0.remove(position).map(|(_, given)| given)
    }
}

impl FromIterator<(Endpoint, Given)> for Sockets {
    fn from_iter<T: IntoIterator<Item = (Endpoint, Given)>>(sockets: T) -> Self {
        Self(sockets.into_iter().collect())
    }
}

fn unix_endpoint(listener: &UnixListener, name: String) -> Result<Endpoint, SocketsError> {
    let name = listening(listener, name)?;
    let address = listener.local_addr();
    match address {
        Ok(address) => Endpoint::unix(address.as_pathname().unwrap_or("".as_ref()))
            .map_err(|source| SocketsError::Address { name, source }),
        Err(source) => Err(SocketsError::Socket { name, source }),
    }
}

fn tcp_endpoint(listener: &TcpListener, name: String) -> Result<Endpoint, SocketsError> {
    let name = listening(listener, name)?;
    match listener.local_addr() {
        Ok(address) => Ok(served_as(address, &name)),
        Err(source) => Err(SocketsError::Socket { name, source }),
    }
}

/// Without TLS nobody but this host is served.
fn served_as(address: SocketAddr, name: &str) -> Endpoint {
    if address.ip().is_loopback() && name != WITH_TLS {
        Endpoint::Tcp(address)
    } else {
        Endpoint::Tls {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

/// The name of `socket` again, if it listens.
fn listening(socket: &impl AsFd, name: String) -> Result<String, SocketsError> {
    match getsockopt(socket, sockopt::AcceptConn) {
        Ok(true) => Ok(name),
        _ => Err(SocketsError::NotListening(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_can_reach_is_served_with_tls() {
        let served = |address: &str, name| served_as(address.parse().unwrap(), name).to_string();
        assert_eq!(served("127.0.0.1:7", "vmd.socket"), "http://127.0.0.1:7");
        assert_eq!(served("[::1]:7", "http"), "http://[::1]:7");
        assert_eq!(served("127.0.0.1:7", "https"), "https://127.0.0.1:7");
        assert_eq!(served("0.0.0.0:7", "http"), "https://0.0.0.0:7");
        assert_eq!(served("[::]:7", "vmd.socket"), "https://[::]:7");
    }

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let listener = UnixListener::from(std::os::fd::OwnedFd::from(socket));
        let error = unix_endpoint(&listener, "a".to_owned()).unwrap_err();
        assert!(matches!(error, SocketsError::NotListening(name) if name == "a"));
    }
}
