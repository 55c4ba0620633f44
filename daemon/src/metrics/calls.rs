//! A layer around the gRPC service: counts each call by its code, and gives it a span.
//!
//! ```text
//!   request --> Call (guard) --> service --> answer --> body, with the guard --> trailers: the code
//!                 |                            |                                     | dropped before: CANCELLED
//!                 +-- open                     +-- how long it took                  +-- counted
//! ```
//! A client may ask for any path: those that are no method of a service here are counted together.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use hyper::{
    HeaderMap, Request, Response,
    body::{Body, Frame, SizeHint},
};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;
use tower::{Layer, Service};
use tracing::{Instrument, Span, debug, field, info_span};
use vmm::counters::{Counter, Latency};

/// Every code, by its number, as the specification of gRPC spells it.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// What is counted of the calls of one daemon.
pub(crate) struct Calls {
    /// By their paths.
    methods: BTreeMap<String, Arc<Method>>,
    /// All that are no method.
    other: Arc<Method>,
}

/// What is counted of one method.
pub(super) struct Method {
    service: String,
    name: String,
    begun: Counter,
    open: AtomicU64,
    codes: [Counter; CODES.len()],
    pub(super) answer: Latency,
}

impl Default for Calls {
    /// Of the services that the daemon has.
    fn default() -> Self {
        let sets = [
            vmd_proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let methods = sets.into_iter().flat_map(methods);
        let methods = methods.map(|method| {
            let path = format!("/{}/{}", method.service, method.name);
            (path, Arc::new(method))
        });
        Self {
            methods: methods.collect(),
            other: Arc::new(Method::new("other", "other")),
        }
    }
}

/// The methods that a set of `.proto` files describes.
fn methods(descriptors: &[u8]) -> Vec<Method> {
    // It is built in.
    let set = FileDescriptorSet::decode(descriptors).unwrap_or_default();
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let service_name = format!("{}.{}", file.package(), service.name());
            let names = service.method.iter().map(|method| method.name());
            methods.extend(names.map(|name| Method::new(&service_name, name)));
        }
    }
    methods
}

impl Calls {
    fn of(&self, path: &str) -> &Arc<Method> {
        self.methods.get(path).unwrap_or(&self.other)
    }

    /// Every method, and at last what is none.
    pub(super) fn methods(&self) -> impl Iterator<Item = &Method> {
        let all = self.methods.values().chain([&self.other]);
        all.map(AsRef::as_ref)
    }
}

impl Method {
    fn new(service: &str, name: &str) -> Self {
        Self {
            service: service.to_owned(),
            name: name.to_owned(),
            begun: Counter::default(),
            open: AtomicU64::new(0),
            codes: Default::default(),
            answer: Latency::default(),
        }
    }

    pub(super) fn labels(&self) -> [(&str, &str); 2] {
        [("service", &self.service), ("method", &self.name)]
    }

    /// Whether there was a call.
    pub(super) fn was_called(&self) -> bool {
        self.begun.get() > 0
    }

    /// Calls that are under way.
    pub(super) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// How often calls ended with each code. A series begins with 0, so that its first increase is seen.
    pub(super) fn codes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.codes.iter().map(Counter::get);
        CODES.into_iter().zip(counts)
    }
}

/// One call, until its end.
struct Call {
    method: Arc<Method>,
    span: Span,
    since: Instant,
    code: Option<Code>,
}

impl Call {
    fn begin(method: &Arc<Method>) -> Self {
        method.begun.add(1);
        method.open.fetch_add(1, Ordering::Relaxed);
        Self {
            method: method.clone(),
            // The service adds the machine's name once it has read the request.
            span: info_span!("call", method = %method.name, vm = field::Empty),
            since: Instant::now(),
            code: None,
        }
    }

    /// The call ends with the code in `headers`, if there is one.
    fn heard(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            self.code = Some(Code::from_bytes(code.as_bytes()));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        self.method.open.fetch_sub(1, Ordering::Relaxed);
        let count = self.method.codes.get(code as usize);
        count.iter().for_each(|count| count.add(1));
        debug!(parent: &self.span, ?code, time = ?self.since.elapsed(), "a call has ended");
    }
}

/// Puts [`Counted`] around a service.
#[derive(Clone)]
pub(crate) struct CallLayer(pub(crate) Arc<Calls>);

impl<S> Layer<S> for CallLayer {
    type Service = Counted<S>;

    fn layer(&self, service: S) -> Counted<S> {
        Counted {
            service,
            calls: self.0.clone(),
        }
    }
}

/// A service whose calls are counted.
#[derive(Clone)]
pub(crate) struct Counted<S> {
    service: S,
    calls: Arc<Calls>,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<CountedBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut call = Call::begin(self.calls.of(request.uri().path()));
        let answer = call.span.in_scope(|| self.service.call(request));
        let answer = answer.instrument(call.span.clone());
        Box::pin(async move {
            let response = answer.await?;
            call.method.answer.observe(call.since.elapsed());
            call.heard(response.headers());
            Ok(response.map(|body| CountedBody { body, call }))
        })
    }
}

/// The body of an answer.
pub(crate) struct CountedBody<B> {
    body: B,
    call: Call,
}

impl<B: Body + Unpin> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            this.call.heard(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_of_the_daemon_is_known_and_what_a_client_makes_up_is_one() {
        let calls = Calls::default();
        for path in [
            "/vmd.v1.VmService/GetVm",
            "/vmd.v1.VmService/WatchEvents",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert_eq!(
                path,
                format!("/{}/{}", calls.of(path).service, calls.of(path).name)
            );
        }
        for path in ["", "/", "/vmd.v1.VmService/Nothing", "/x/y"] {
            assert_eq!(calls.of(path).name, "other");
        }
    }

    #[test]
    fn codes_are_in_the_order_of_their_numbers() {
        for (number, name) in (0..).zip(CODES) {
            let code = Code::from_i32(number);
            let spelled = format!("{code:?}").to_uppercase();
            assert_eq!(spelled, name.replace('_', ""), "{number}");
        }
    }

    #[test]
    fn a_call_that_is_dropped_was_cancelled() {
        let calls = Calls::default();
        let method = calls.of("/vmd.v1.VmService/Stop");
        let call = Call::begin(method);
        assert_eq!(method.open(), 1);
        drop(call);
        let mut call = Call::begin(method);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "9".parse().unwrap());
        call.heard(&trailers);
        drop(call);
        assert_eq!(method.open(), 0);
        let codes: Vec<_> = method.codes().filter(|(_, count)| *count > 0).collect();
        assert_eq!(codes, [("CANCELLED", 1), ("FAILED_PRECONDITION", 1)]);
    }
}
