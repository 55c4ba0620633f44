//! The metrics over HTTP/1.1: `GET /metrics`, and nothing else.
//!
//! Clients have no say in what it costs: there are few connections at a time, others wait to be accepted; each is for one
//! request, whose head is bounded in size and time; and one that does not take its answer is cut off.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{encoding, registry::Registry};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    task::{self, JoinSet},
    time::{sleep, timeout},
};
use tokio_stream::{Stream, StreamExt};
use tracing::{debug, warn};

use super::{collect::Collect, text};
use crate::Daemon;

/// Connections at a time.
const CONNECTIONS: usize = 8;
/// How long a client may take for the head of its request.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last in all.
const CONNECTION: Duration = Duration::from_secs(30);
/// Bytes of a request's head, at most.
const HEAD_MAX: usize = 16 << 10;
/// How long to wait when a connection cannot be accepted.
const PAUSE: Duration = Duration::from_millis(100);

const OPEN_METRICS: &str = "application/openmetrics-text";
const OPEN_METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves the metrics of `daemon` to whoever comes in, until it is dropped.
pub(crate) async fn serve<I>(
    daemon: Arc<Daemon>,
    mut incoming: impl Stream<Item = io::Result<I>> + Unpin,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collect(Arc::downgrade(&daemon))));
    let registry = Arc::new(registry);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Ok(place) = places.clone().acquire_owned().await {
        while connections.try_join_next().is_some() {}
        match incoming.next().await {
            Some(Ok(stream)) => {
                let registry = registry.clone();
                connections.spawn(async move {
                    connection(stream, registry).await;
                    drop(place);
                });
            }
            Some(Err(error)) => {
                // Such as no descriptors: trying again at once would only cost time.
                warn!(%error, "a client of the metrics cannot be accepted");
                sleep(PAUSE).await;
            }
            None => return,
        }
    }
}

async fn connection<I>(stream: I, registry: Arc<Registry>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request| answer(request, registry.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    match timeout(CONNECTION, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a client of the metrics"),
        Err(_) => debug!("a client of the metrics is too slow"),
    }
}

async fn answer<B>(
    request: Request<B>,
    registry: Arc<Registry>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "only /metrics is here\n"));
    }
    if request.method() != Method::GET {
        let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n");
        let allow = HeaderValue::from_static("GET");
        refusal.headers_mut().insert(ALLOW, allow);
        return Ok(refusal);
    }
    let accepted = request.headers().get_all(ACCEPT).iter();
    let open_metrics = accepted
        .filter_map(|accept| accept.to_str().ok())
        .any(|accept| accept.contains(OPEN_METRICS));
    // Thousands of machines take a while.
    let text = task::spawn_blocking(move || text(&registry, open_metrics)).await;
    let (Ok(Ok(text)), content_type) = (
        text,
        if open_metrics {
            OPEN_METRICS_TYPE
        } else {
            PROMETHEUS_TYPE
        },
    ) else {
        return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "no metrics\n"));
    };
    let mut response = Response::new(Full::from(text));
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}

fn text(registry: &Registry, open_metrics: bool) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    encoding::text::encode(&mut text, registry)?;
    Ok(if open_metrics {
        text
    } else {
        text::prometheus(&text)
    })
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
