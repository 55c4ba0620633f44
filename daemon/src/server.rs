//! The daemon's way from start to end.
//!
//! ```text
//!   open KVM -> take the data directory, open its store -> listen -> show the store's machines
//!            -> serve ... SIGTERM, SIGINT -> machines end -> streams end -> the store is closed
//! ```
//! While the machines end, calls are still answered and streams still carry their last events.

use std::{
    fs::{self, File, Permissions},
    io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
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
    unistd::chown,
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{Signal, SignalKind, signal},
    task::{self, JoinSet, block_in_place},
    time::timeout,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};
use tonic_health::server::HealthReporter;
use tonic_reflection::pb;
use tracing::{info, warn};
use vmctl::Endpoint;
use vmd_proto::v1::vm_service_server::VmServiceServer;
use vmm::machine::{Host, HostError};

pub use crate::config::Config;
use crate::{
    Daemon, Reload,
    access::{Access, AccessError, Entrance, GuardLayer, incoming},
    config::{ConfigError, FileMode, Group, Listen, Source},
    containment::ContainmentError,
    event_log::{EventLog, MAX_WAITING},
    listener::{SocketFile, UnixSocket, make_parent},
    logging::LogFilter,
    metrics::{self, CallLayer},
    recovery,
    service::{Service, deadline},
    store::{Contents, Log, Retention, Store, StoreError},
    systemd::{Given, Manager, Sockets, SocketsError},
};

/// How long clients have at the end to take what was sent to them.
const DRAIN: Duration = Duration::from_secs(2);

/// Why a daemon cannot be started, or could not go on.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What the daemon denies itself.
    #[error(transparent)]
    Containment(#[from] ContainmentError),
    /// A socket that the daemon was started with.
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    /// What the configuration names.
    #[error(transparent)]
    Access(#[from] AccessError),
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
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store could not be read for another reason.
    #[error("the store: {0}")]
    StoreInterrupted(#[from] tokio::task::JoinError),
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

/// Calls of one connection at a time, streams among them; a client's next ones wait with it.
const STREAMS: u32 = 256;

/// A daemon that listens, but does not serve yet.
pub struct Bound {
    daemon: Arc<Daemon>,
    listeners: Vec<Listener>,
    metrics: Option<Listener>,
    grace: Duration,
    /// Locked as long as it is open.
    _data_dir: Option<Flock<File>>,
}

struct Listener {
    entrance: Entrance,
    /// Of a Unix socket.
    file: Option<SocketFile>,
}

impl Listener {
    /// Where it listens, if that is TCP.
    fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.entrance {
            Entrance::Plaintext(listener, _) | Entrance::Tls(listener) => {
                listener.local_addr().ok()
            }
            Entrance::Unix(_) => None,
        }
    }
}

/// SIGTERM and SIGINT, which end the daemon (spec, section 11). So does SIGHUP, unless there is something to reload.
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

    /// Waits for one that ends the daemon; `reload` is told of each SIGHUP, and `manager` of the reload. On a runtime with
    /// threads.
    pub async fn end(&mut self, mut reload: Option<&mut Reload>, manager: &Manager) {
        let kind = loop {
            tokio::select! {
                _ = self.terminate.recv() => break SignalKind::terminate(),
                _ = self.interrupt.recv() => break SignalKind::interrupt(),
                _ = self.hangup.recv() => match &mut reload {
                    // It reads files.
                    Some(reload) => {
                        let _told = manager.reloading();
                        block_in_place(|| reload.now());
                    }
                    None => break SignalKind::hangup(),
                },
            }
        };
        // QEMU's text, without a sender: that is not told here.
        info!("terminating on signal {}", kind.as_raw_value());
    }

    /// Waits for SIGTERM or SIGINT.
    pub async fn again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Gets everything that can fail out of the way: clients can connect when this returns.
pub async fn bind(config: Config) -> Result<Bound, ServeError> {
    bind_given(config, Sockets::default()).await
}

/// The same; where one of the `sockets` listens already, that is used.
pub async fn bind_given(config: Config, mut sockets: Sockets) -> Result<Bound, ServeError> {
    raise_descriptor_limit();
    let host = Host::open()?
        .with_vcpu_filter(config.confined.vcpu_filter.clone())
        .with_device_runtime(config.confined.devices.clone());
    let host_memory = sysinfo().map_err(ServeError::HostMemory)?.ram_total();
    let access = Arc::new(Access::new(&config)?);
    let data_dir = config.data_dir.as_deref().map(lock_data_dir).transpose()?;
    let retention = Retention {
        kept: config.events_kept,
        max_age: config.events_max_age,
    };
    let (events, audit, machines) = match &config.data_dir {
        Some(path) => open_store(path.clone(), retention).await?,
        None => {
            let log = || EventLog::new(config.events_kept);
            (log(), log(), Vec::new())
        }
    };
    let metrics = match &config.metrics {
        Some(endpoint) => {
            let listener = listen(&endpoint.clone().into()).await?;
            match listener.tcp_address() {
                None => info!(%endpoint, "serving metrics"),
                // The port may have been left to the host.
                Some(address) => info!(%address, "serving metrics"),
            }
            Some(listener)
        }
        None => None,
    };
    let mut listeners = Vec::new();
    for one in &config.listen {
        let listener = match sockets.at(&one.endpoint) {
            Some(given) => take(given, one).map_err(|source| failed_at(&one.endpoint, source))?,
            None => listen(one).await?,
        };
        info!(endpoint = %one.endpoint, "listening");
        listeners.push(listener);
    }
    let daemon = Daemon::with_config(host, host_memory, &config, access, events, audit);
    recovery::recover(&daemon, machines);
    Ok(Bound {
        daemon,
        listeners,
        metrics,
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
        self.listeners
            .iter()
            .filter_map(Listener::tcp_address)
            .collect()
    }

    /// What reloads the configuration, which came from `source`.
    pub fn reload(&self, source: Source, config: Config, log: LogFilter) -> Reload {
        Reload::new(source, config, &self.daemon, log)
    }

    /// Serves until `end` comes, then ends every machine and returns when nothing is left of them.
    pub async fn serve(self, end: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self {
            daemon,
            listeners,
            metrics,
            grace,
            _data_dir,
        } = self;
        let (health, routes) = routes(&daemon).await?;
        let stop = CancellationToken::new();
        let mut servers = JoinSet::new();
        let mut files = Vec::new();
        // Dropped with this, at the end.
        let mut scrapes = JoinSet::new();
        if let Some(Listener { entrance, file }) = metrics {
            files.extend(file);
            match entrance {
                Entrance::Unix(listener) => {
                    let incoming = UnixListenerStream::new(listener);
                    scrapes.spawn(metrics::serve(daemon.clone(), incoming));
                }
                Entrance::Plaintext(listener, _) | Entrance::Tls(listener) => {
                    let incoming = TcpListenerStream::new(listener);
                    scrapes.spawn(metrics::serve(daemon.clone(), incoming));
                }
            }
        }
        for listener in listeners {
            let router = Server::builder()
                .max_concurrent_streams(STREAMS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .layer(CallLayer(daemon.metrics.calls.clone()))
                .layer(GuardLayer(daemon.clone()))
                .layer(deadline::layer())
                .add_routes(routes.clone());
            let stop = stop.clone().cancelled_owned();
            let Listener { entrance, file } = listener;
            files.extend(file);
            let incoming = incoming(entrance, daemon.access.clone(), daemon.limits.clone());
            servers.spawn(router.serve_with_incoming_shutdown(incoming, stop));
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
        // What was answered until now is in the audit trail, and that in the store.
        daemon.close().await;
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

/// The log and the audit trail that are in the data directory, and the machines there.
async fn open_store(
    path: PathBuf,
    retention: Retention,
) -> Result<(EventLog, EventLog, Vec<recovery::Recovered>), ServeError> {
    let open = move || {
        let (store, Contents { machines, newest }) = Store::open(&path, retention, MAX_WAITING)?;
        let machines = recovery::read(&path, machines)?;
        info!(machines = machines.len(), newest, "the store is open");
        let store = Arc::new(store);
        let log = |log| EventLog::stored_in(store.clone(), log);
        Ok((log(Log::Events), log(Log::Audit), machines))
    };
    task::spawn_blocking(open).await?
}

async fn listen(one: &Listen) -> Result<Listener, ServeError> {
    let bound = bind_to(one).await;
    bound.map_err(|source| failed_at(&one.endpoint, source))
}

fn failed_at(endpoint: &Endpoint, source: io::Error) -> ServeError {
    match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::InUse(endpoint.clone()),
        _ => ServeError::Listen {
            endpoint: endpoint.clone(),
            source,
        },
    }
}

async fn bind_to(listen: &Listen) -> io::Result<Listener> {
    let mut file = None;
    let entrance = match &listen.endpoint {
        Endpoint::Unix(path) => {
            make_parent(path, listen.mode.is_shared())?;
            let (listener, socket) = UnixSocket::bind(path)?.into_parts();
            file = Some(socket);
            // First whose it is: until then nobody else can connect.
            if let Some(Group(group)) = listen.group {
                chown(path, None, Some(group))?;
            }
            let FileMode(mode) = listen.mode;
            fs::set_permissions(path, Permissions::from_mode(mode.bits()))?;
            Entrance::Unix(listener)
        }
        Endpoint::Tcp(address) => {
            let listener = TcpListener::bind(address).await?;
            Entrance::Plaintext(listener, listen.plaintext_role)
        }
        Endpoint::Tls { host, port } => {
            Entrance::Tls(TcpListener::bind((host.as_str(), *port)).await?)
        }
    };
    Ok(Listener { entrance, file })
}

/// Takes a socket that listens already; its file, if it has one, is not the daemon's.
fn take(given: Given, listen: &Listen) -> io::Result<Listener> {
    let entrance = match given {
        Given::Unix(listener) => {
            listener.set_nonblocking(true)?;
            Entrance::Unix(UnixListener::from_std(listener)?)
        }
        Given::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            match listen.endpoint {
                Endpoint::Tls { .. } => Entrance::Tls(listener),
                _ => Entrance::Plaintext(listener, listen.plaintext_role),
            }
        }
    };
    Ok(Listener {
        entrance,
        file: None,
    })
}

/// Makes the data directory, unless it is there, for this user only.
pub(crate) fn make_data_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Makes the directory and locks it as long as the file is open.
fn lock_data_dir(path: &Path) -> Result<Flock<File>, ServeError> {
    let failed = |source| ServeError::DataDir {
        path: path.to_owned(),
        source,
    };
    make_data_dir(path).map_err(failed)?;
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
