//! The daemon's way from start to end.
//!
//! ```text
//!   open KVM -> take the data directory -> listen -> serve ... SIGTERM, SIGINT, SIGHUP -> machines end -> streams end
//! ```
//! While the machines end, calls are still answered and streams still carry their last events.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        sysinfo::sysinfo,
    },
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};
use tonic_health::server::HealthReporter;
use tonic_reflection::pb;
use tracing::{info, warn};
use vmctl::{Endpoint, EndpointError};
use vmd_proto::v1::vm_service_server::VmServiceServer;
use vmm::machine::{Host, HostError};

use crate::{
    Daemon,
    listener::{SocketFile, UnixSocket, make_parent},
    service::Service,
};

/// How long clients have at the end to take what was sent to them.
const DRAIN: Duration = Duration::from_secs(2);

/// How a daemon is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens; at least one.
    pub listen: Vec<Endpoint>,
    /// Its own directory, which no other daemon may use at the same time.
    pub data_dir: Option<PathBuf>,
    /// How many events it keeps.
    pub events_kept: usize,
    /// How long guests get to obey the power button when the daemon ends.
    pub grace: Duration,
}

/// Why a daemon cannot be started, or could not go on.
#[derive(Debug, Error)]
pub enum ServeError {
    /// There is no address to listen at.
    #[error("no default address: {0}")]
    Endpoint(#[from] EndpointError),
    /// KVM.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The size of the host's memory cannot be read.
    #[error("the host's memory size cannot be read: {0}")]
    HostMemory(#[source] nix::Error),
    /// The data directory cannot be made or locked.
    #[error("the data directory {}: {source}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon has the data directory.
    #[error("the data directory {} is in use by another vmd", .0.display())]
    DataDirInUse(PathBuf),
    /// An address cannot be listened at.
    #[error("cannot listen at {endpoint}: {source}")]
    Listen {
        /// The address.
        endpoint: Endpoint,
        /// Why.
        source: io::Error,
    },
    /// Another daemon listens there.
    #[error("cannot listen at {0}: somebody does already; is another vmd running?")]
    InUse(Endpoint),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(#[source] io::Error),
    /// Reflection cannot be set up.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A listener broke down.
    #[error("serving: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// How much a client may send on one stream ahead of what is read, in bytes. h2 breaks the connection of a peer that has
/// too many small frames unread (each costs up to 256 bytes of half the connection's window): with these windows a
/// console whose guest takes nothing makes its client wait, whatever the size of its pieces.
const STREAM_WINDOW: u32 = 16 << 10;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 64 << 20;

/// A daemon that listens, but does not serve yet.
pub struct Bound {
    daemon: Arc<Daemon>,
    listeners: Vec<Listener>,
    grace: Duration,
    /// Locked as long as it is open.
    _data_dir: Option<Flock<File>>,
}

enum Listener {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
}

/// SIGTERM, SIGINT and SIGHUP: each ends the daemon (spec, section 11).
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Receives them from now on, instead of ending at once.
    pub fn new() -> Result<Self, ServeError> {
        let hook = |kind| signal(kind).map_err(ServeError::Signals);
        Ok(Self {
            terminate: hook(SignalKind::terminate())?,
            interrupt: hook(SignalKind::interrupt())?,
            hangup: hook(SignalKind::hangup())?,
        })
    }

    /// Waits for one of them.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => info!("SIGTERM"),
            _ = self.interrupt.recv() => info!("SIGINT"),
            _ = self.hangup.recv() => info!("SIGHUP"),
        }
    }
}

/// Gets everything that can fail out of the way: clients can connect when this returns.
pub async fn bind(config: Config) -> Result<Bound, ServeError> {
    raise_descriptor_limit();
    let host = Host::open()?;
    let host_memory = sysinfo().map_err(ServeError::HostMemory)?.ram_total();
    let data_dir = config.data_dir.as_deref().map(lock_data_dir).transpose()?;
    let mut listeners = Vec::new();
    for endpoint in &config.listen {
        let listener = listen(endpoint)
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => ServeError::InUse(endpoint.clone()),
                _ => ServeError::Listen {
                    endpoint: endpoint.clone(),
                    source,
                },
            })?;
        info!(%endpoint, "listening");
        listeners.push(listener);
    }
    let daemon = Daemon::new(host, host_memory, config.events_kept);
    Ok(Bound {
        daemon,
        listeners,
        grace: config.grace,
        _data_dir: data_dir,
    })
}

impl Bound {
    /// The daemon that will be served, for whoever runs it in their own process.
    pub fn daemon(&self) -> &Arc<Daemon> {
        &self.daemon
    }

    /// The TCP addresses that were given with port 0 are known now.
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        let tcp = |listener: &Listener| match listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        };
        self.listeners.iter().filter_map(tcp).collect()
    }

    /// Serves until `end` comes, then ends every machine and returns when nothing is left of them.
    pub async fn serve(self, end: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self {
            daemon,
            listeners,
            grace,
            _data_dir,
        } = self;
        let (health, routes) = routes(&daemon).await?;
        let stop = CancellationToken::new();
        let mut servers = JoinSet::new();
        let mut files = Vec::new();
        for listener in listeners {
            let router = Server::builder()
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .add_routes(routes.clone());
            let stop = stop.clone().cancelled_owned();
            match listener {
                Listener::Unix(listener, file) => {
                    files.push(file);
                    let incoming = UnixListenerStream::new(listener);
                    servers.spawn(router.serve_with_incoming_shutdown(incoming, stop));
                }
                Listener::Tcp(listener) => {
                    let incoming = TcpListenerStream::new(listener);
                    servers.spawn(router.serve_with_incoming_shutdown(incoming, stop));
                }
            }
        }

        let mut result = Ok(());
        tokio::select! {
            () = end => {}
            Some(Ok(ended)) = servers.join_next() => result = ended,
        }
        health.set_not_serving::<VmServiceServer<Service>>().await;
        daemon.end(grace).await;
        // The streams have come to their end; connections are closed as soon as they are idle. A client that does not
        // read has no say in when that is.
        stop.cancel();
        let drained = async {
            while let Some(ended) = servers.join_next().await {
                if let Ok(Err(error)) = ended {
                    warn!(%error, "a listener ended");
                }
            }
        };
        if timeout(DRAIN, drained).await.is_err() {
            warn!("some clients do not take what was sent to them; they are cut off");
        }
        drop(files);
        info!("ended");
        Ok(result?)
    }
}

async fn routes(daemon: &Arc<Daemon>) -> Result<(HealthReporter, Routes), ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<VmServiceServer<Service>>().await;
    // Each of the two versions of reflection adds itself; both tell of everything.
    let reflection = |other_version: &'static [u8]| {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(vmd_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(other_version)
    };
    let v1 = reflection(pb::v1alpha::FILE_DESCRIPTOR_SET).build_v1()?;
    let v1alpha = reflection(pb::v1::FILE_DESCRIPTOR_SET).build_v1alpha()?;
    let service = VmServiceServer::new(Service::new(daemon.clone()));
    let routes = Routes::new(service)
        .add_service(health_service)
        .add_service(v1)
        .add_service(v1alpha);
    Ok((health, routes))
}

async fn listen(endpoint: &Endpoint) -> io::Result<Listener> {
    match endpoint {
        Endpoint::Unix(path) => {
            make_parent(path)?;
            let (listener, file) = UnixSocket::bind(path)?.into_parts();
            Ok(Listener::Unix(listener, file))
        }
        Endpoint::Tcp(address) => Ok(Listener::Tcp(TcpListener::bind(address).await?)),
    }
}

/// Makes the directory, for this user only, and locks it as long as the file is open.
fn lock_data_dir(path: &Path) -> Result<Flock<File>, ServeError> {
    let failed = |source| ServeError::DataDir {
        path: path.to_owned(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    let file = File::create(path.join("vmd.lock")).map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::Error::EWOULDBLOCK => ServeError::DataDirInUse(path.to_owned()),
        errno => failed(errno.into()),
    })
}

/// A machine needs a few descriptors; the usual soft limit of 1024 is for programs that use select(2).
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "the limit of open descriptors stays as it is");
    }
}
