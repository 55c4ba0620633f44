//! Connections of all sorts: each is accepted, its peer told, and handed on.
//!
//! ```text
//!   listener --> a task each: TLS handshake, groups of the user (bounded in number and time) --> Seat, Connection --> HTTP/2
//! ```

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::{Access, Peer, Role};
use crate::limits::{Limits, Seat};

/// Connections whose peers are not known yet; the next ones wait in the kernel.
const GREETED: usize = 256;
/// How long a peer may take to say who it is.
const GREETING: Duration = Duration::from_secs(10);
/// When the host is out of descriptors: until the next try.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Where connections come in.
pub(crate) enum Entrance {
    /// A Unix socket.
    Unix(UnixListener),
    /// TCP without TLS; what whoever comes may do.
    Plaintext(TcpListener, Option<Role>),
    /// TCP with TLS.
    Tls(TcpListener),
}

/// A connection, and who is at its other end.
pub(crate) struct Connection {
    stream: Io,
    peer: Arc<Peer>,
    _seat: Seat,
}

enum Io {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What was accepted, its peer not known yet.
enum Accepted {
    Unix(UnixStream),
    Plaintext(TcpStream, Option<Role>),
    Tls(TcpStream),
}

impl Entrance {
    async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Unix(listener) => Accepted::Unix(listener.accept().await?.0),
            Self::Plaintext(listener, role) => {
                let stream = listener.accept().await?.0;
                stream.set_nodelay(true)?;
                Accepted::Plaintext(stream, *role)
            }
            Self::Tls(listener) => {
                let stream = listener.accept().await?.0;
                stream.set_nodelay(true)?;
                Accepted::Tls(stream)
            }
        })
    }
}

/// The connections that come in at `entrance`, until what is returned is dropped.
pub(crate) fn incoming(
    entrance: Entrance,
    access: Arc<Access>,
    limits: Arc<Limits>,
) -> impl Stream<Item = io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(1);
    let greeted = Arc::new(Semaphore::new(GREETED));
    tokio::spawn(async move {
        loop {
            let Ok(turn) = greeted.clone().acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = entrance.accept() => accepted,
                () = sender.closed() => return,
            };
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely.
                    warn!(%error, "nobody can connect");
                    let _ = timeout(ACCEPT_AGAIN, sender.closed()).await;
                    continue;
                }
            };
            let (sender, access, limits) = (sender.clone(), access.clone(), limits.clone());
            tokio::spawn(async move {
                match timeout(GREETING, accepted.greet(&access, &limits)).await {
                    // The server may have ended meanwhile.
                    Ok(Ok(connection)) => drop(sender.send(Ok(connection)).await),
                    Ok(Err(error)) => warn!(%error, "a client was not let in"),
                    Err(_) => debug!("a client did not say who it is"),
                }
                drop(turn);
            });
        }
    });
    ReceiverStream::new(receiver)
}

impl Accepted {
    /// Finds out who it is, and whether it may have another connection.
    async fn greet(self, access: &Access, limits: &Limits) -> io::Result<Connection> {
        let (stream, peer) = match self {
            Self::Unix(stream) => {
                let peer = Peer::unix(stream.peer_cred()?).await;
                (Io::Unix(stream), peer)
            }
            Self::Plaintext(stream, role) => {
                let address = stream.peer_addr()?;
                (Io::Tcp(stream), Peer::Plaintext { address, role })
            }
            Self::Tls(stream) => {
                let address = stream.peer_addr()?;
                let config = access.tls().ok_or(io::ErrorKind::Unsupported)?;
                let accept = TlsAcceptor::from(config).accept(stream).await;
                let stream = accept
                    .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
                let (_, session) = stream.get_ref();
                let end_entity = session.peer_certificates().and_then(|chain| chain.first());
                let end_entity = end_entity.ok_or(io::ErrorKind::PermissionDenied)?;
                let peer = Peer::certificate(address, end_entity);
                (Io::Tls(Box::new(stream)), peer)
            }
        };
        let seat = limits.connect(&peer);
        let seat = seat.map_err(|error| io::Error::other(format!("{peer}: {error}")))?;
        Ok(Connection {
            stream,
            peer: Arc::new(peer),
            _seat: seat,
        })
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        self.peer.clone()
    }
}

/// Calls the same function of whatever sort of stream it is.
macro_rules! with_stream {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().stream {
            Io::Unix(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Io::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Io::Tls(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with_stream!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        with_stream!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        with_stream!(self, stream => stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Io::Unix(stream) => stream.is_write_vectored(),
            Io::Tcp(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(self, stream => stream.poll_shutdown(context))
    }
}
