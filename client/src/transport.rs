//! Opens the one connection a [`Client`](crate::Client) uses: socket in, gRPC channel out.

use std::{io, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tonic::transport::{Channel, Endpoint as Target, Uri};
use tower::service_fn;

use crate::{Endpoint, Error, TlsError, TlsFiles};

/// How long the socket may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How much the daemon may send on one stream ahead of what is read, in bytes. h2 breaks a connection with too many small
/// frames unread (each costs up to 256 bytes of half the connection's window): with these windows it is the daemon that
/// waits for a slow reader, of events or of a console, and the other streams go on.
const STREAM_WINDOW: u32 = 16 << 10;
/// The same for all streams of the connection together.
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Connects now; the channel connects again by itself should the connection break later.
pub(crate) async fn connect(endpoint: &Endpoint, tls: Option<&TlsFiles>) -> Result<Channel, Error> {
    let unreachable = |source: tonic::transport::Error| Error::Unreachable {
        endpoint: endpoint.clone(),
        source: Box::new(source),
    };
    let target = Target::new(authority(endpoint))
        .map_err(unreachable)?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .user_agent(concat!("vmctl/", env!("CARGO_PKG_VERSION")))
        .map_err(unreachable)?;
    let channel = match endpoint.clone() {
        Endpoint::Unix(path) => {
            let connector = service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            target.connect_with_connector(connector).await
        }
        Endpoint::Tcp(address) => {
            let connector = service_fn(move |_: Uri| async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            });
            target.connect_with_connector(connector).await
        }
        Endpoint::Tls { host, port } => {
            let unusable = |source| Error::Tls(Box::new(source));
            let files = tls.ok_or(TlsError::NoFiles).map_err(unusable)?;
            let tls = TlsConnector::from(files.load().map_err(unusable)?);
            let connector = service_fn(move |_: Uri| {
                let (tls, host) = (tls.clone(), host.clone());
                async move {
                    let stream = TcpStream::connect((host.as_str(), port)).await?;
                    stream.set_nodelay(true)?;
                    let name = ServerName::try_from(host).map_err(io::Error::other)?;
                    tls.connect(name, stream).await.map(TokioIo::new)
                }
            });
            target.connect_with_connector(connector).await
        }
    };
    channel.map_err(unreachable)
}

/// What the requests name as their `:authority`; a Unix socket has no host of its own.
fn authority(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Unix(_) => "http://localhost".to_owned(),
        Endpoint::Tcp(address) => format!("http://{address}"),
        // The scheme would have tonic ask for TLS of its own.
        Endpoint::Tls { .. } => endpoint.to_string().replacen("https", "http", 1),
    }
}
