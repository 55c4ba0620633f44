//! The audit trail: each call that changes something, or was to, with who called, and what came of it.
//!
//! It is a log of its own, numbered without holes as that of the machines' events is: what strangers try must not push
//! those out, and those have no holes for who may not read this one. With a store it is there, and a call is in it before
//! its answer goes out.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost::Message;
use tokio::time::timeout;
use tonic::{Code, Status, body::Body};
use tracing::{debug, warn};
use vmd_proto::v1::{Event, event};

use super::Caller;
use crate::{Daemon, service::MAX_NAME};

/// Most bytes of a message in which the machine's name is looked for: as much as the service takes.
const MESSAGE_MAX: usize = 4 << 20;
/// Before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// How long a call that is refused may take to name its machine.
const REFUSED: Duration = Duration::from_secs(1);

/// A call that will be in the trail, answered or not.
pub(super) struct Attempt {
    daemon: Arc<Daemon>,
    caller: Caller,
    method: String,
    named: Named,
    recorded: bool,
}

impl Attempt {
    pub(super) fn new(daemon: Arc<Daemon>, caller: Caller, method: &str, named: Named) -> Self {
        Self {
            daemon,
            caller,
            method: method.to_owned(),
            named,
            recorded: false,
        }
    }

    /// It is to be answered with `code`. When this returns it is in the trail, and stored.
    pub(super) async fn done(mut self, code: Code) {
        let seq = self.record(code);
        // What was done is done: while the store does not work, the answer goes out and the trail waits.
        let _ = self.daemon.audit.stored(seq).await;
    }

    /// Puts it into the trail; returns its number there.
    fn record(&mut self, code: Code) -> u64 {
        self.recorded = true;
        let Caller { peer, role } = &self.caller;
        let machine = self.named.name();
        let method = &self.method;
        if matches!(code, Code::PermissionDenied | Code::Unauthenticated) {
            warn!(target: "vmd::audit", method, machine, %peer, ?code, "refused");
        } else {
            debug!(target: "vmd::audit", method, machine, %peer, ?code, "called");
        }
        let audit = event::Audit {
            method: method.clone(),
            caller: Some(event::Caller {
                role: role.map_or_else(String::new, |role| role.to_string()),
                ..peer.caller()
            }),
            code: code.into(),
        };
        let event = Event {
            time: Some(SystemTime::now().into()),
            vm_name: machine.to_owned(),
            kind: Some(event::Kind::Audit(audit)),
            ..Event::default()
        };
        self.daemon.audit.append(event, |_| None)
    }
}

impl Drop for Attempt {
    /// Nobody waited for the answer.
    fn drop(&mut self) {
        if !self.recorded {
            self.record(Code::Cancelled);
        }
    }
}

/// The machine's name in a request, once it was read.
#[derive(Clone, Default)]
pub(super) struct Named(Arc<OnceLock<String>>);

/// All that requests which change something have in common: the first field.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    name: String,
}

impl Named {
    fn name(&self) -> &str {
        self.0.get().map_or("", String::as_str)
    }

    /// The same body; when its first message has gone through, the name is known.
    pub(super) fn read_from(&self, body: Body) -> Body {
        Body::new(Tap {
            body,
            seen: Some(Vec::new()),
            named: self.clone(),
        })
    }

    /// Waits until the name is known, or it is clear that it will not be.
    pub(super) async fn known(&self, mut body: Body) {
        let read = async {
            while self.0.get().is_none() {
                let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
                if !matches!(frame.await, Some(Ok(_))) {
                    return;
                }
            }
        };
        // Without the name it is in the trail, too.
        let _ = timeout(REFUSED, read).await;
    }
}

/// A body that is looked at as it goes by.
struct Tap {
    body: Body,
    /// What has gone by; `None` once there is nothing more to look for.
    seen: Option<Vec<u8>>,
    named: Named,
}

impl Tap {
    fn look(&mut self, bytes: &[u8]) {
        let Some(seen) = &mut self.seen else {
            return;
        };
        seen.extend_from_slice(bytes);
        let Some((&[compressed, a, b, c, d], rest)) = seen.split_first_chunk::<PREFIX>() else {
            return;
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if compressed != 0 || length > MESSAGE_MAX {
            self.seen = None;
        } else if let Some(message) = rest.get(..length) {
            // No machine has a longer name.
            if let Ok(Request { name }) = Request::decode(message)
                && name.len() <= MAX_NAME
            {
                let _ = self.named.0.set(name);
            }
            self.seen = None;
        }
    }
}

impl HttpBody for Tap {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.look(data.chunk());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
