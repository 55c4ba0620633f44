//! The layer before the service: it decides by the method's name and the caller's role, and keeps the audit trail.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::{
    Peer, Role,
    audit::{Attempt, Named},
    methods::{Rule, rule},
};
use crate::{Daemon, service::errors};

/// Who calls; each request that reaches the service has one among its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Who it is.
    pub(crate) peer: Arc<Peer>,
    /// What it may do.
    pub(crate) role: Option<Role>,
}

/// Puts a [`Guard`] before a service.
#[derive(Clone)]
pub(crate) struct GuardLayer(pub(crate) Arc<Daemon>);

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        let daemon = self.0.clone();
        Guard { daemon, inner }
    }
}

/// Lets through who has the right.
#[derive(Clone)]
pub(crate) struct Guard<S> {
    daemon: Arc<Daemon>,
    inner: S,
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(peer) = request.extensions().get::<Arc<Peer>>().cloned() else {
            // Every connection has a peer: who gets here has come another way.
            let refusal = errors::unauthenticated("it is not known who calls");
            return Box::pin(async move { Ok(refusal.into_http()) });
        };
        let role = self.daemon.access.policy().role(&peer);
        let (method, rule) = rule(request.uri().path());
        let refusal = check(rule, &peer, role, method).err();
        if let Err(wait) = self.daemon.limits.call(&peer, refusal.is_some()) {
            // Not for the trail: it would be filled by whoever calls as fast as they can.
            let limited = errors::rate_limited(&peer, wait);
            return Box::pin(async move { Ok(limited.into_http()) });
        }
        let caller = Caller { peer, role };
        if !rule.changes {
            return match refusal {
                Some(refusal) => Box::pin(async move { Ok(refusal.into_http()) }),
                None => {
                    request.extensions_mut().insert(caller);
                    Box::pin(self.inner.call(request))
                }
            };
        }
        let named = Named::default();
        let attempt = Attempt::new(self.daemon.clone(), caller.clone(), method, named.clone());
        let request = request.map(|body| named.read_from(body));
        match refusal {
            Some(refusal) => Box::pin(async move {
                named.known(request.into_body()).await;
                attempt.done(refusal.code()).await;
                Ok(refusal.into_http())
            }),
            None => {
                let mut request = request;
                request.extensions_mut().insert(caller);
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let answer = answer.await;
                    attempt.done(code(&answer)).await;
                    answer
                })
            }
        }
    }
}

/// Whether `peer`, who has `role`, may call `method`.
fn check(rule: Rule, peer: &Peer, role: Option<Role>, method: &str) -> Result<(), Status> {
    match (rule.role, role) {
        (None, _) => Ok(()),
        (Some(needed), Some(role)) if role >= needed => Ok(()),
        (Some(needed), None) if matches!(peer, Peer::Plaintext { .. }) => {
            Err(errors::unauthenticated(&format!(
                "{method} needs role {needed}, and without TLS it is not known who calls"
            )))
        }
        (Some(needed), role) => Err(errors::access_denied(method, needed, peer, role)),
    }
}

/// What was answered. A call that is answered with a message has its code after that: it is OK.
fn code(answer: &Answer) -> Code {
    let status = answer.as_ref().ok();
    let status = status.and_then(|answer| Status::from_header_map(answer.headers()));
    status.map_or(Code::Ok, |status| status.code())
}
