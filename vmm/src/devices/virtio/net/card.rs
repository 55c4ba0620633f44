//! A network card as its machine sees it: its link, and what it is connected to.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use tracing::warn;

use super::{super::rate::Limiter, Backend, NetConfig};
use crate::counters::{Frames, NetCounters};

/// A network card.
pub(crate) struct Card {
    pub(super) mac: [u8; 6],
    pub(super) mtu: Option<u16>,
    /// Those of the back end.
    pub(super) features: u64,
    /// Most pairs of queues.
    pub(super) pairs: u16,
    /// `None` once closed.
    backend: Mutex<Option<Arc<dyn Backend>>>,
    link: watch::Sender<Link>,
    /// What it counts.
    pub(crate) counters: Arc<NetCounters>,
    /// Of all pairs together.
    pub(super) receive_limiter: Limiter,
    pub(super) send_limiter: Limiter,
}

/// What a card's link depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Its owner wants it.
    wanted: bool,
    /// There is something at its other end.
    connected: bool,
}

impl Link {
    pub(super) fn is_up(self) -> bool {
        self.wanted && self.connected
    }
}

impl Card {
    pub(crate) fn new(config: NetConfig) -> Arc<Self> {
        let link = Link {
            wanted: !config.link_down,
            connected: true,
        };
        Arc::new(Self {
            mac: config.mac,
            mtu: config.mtu,
            features: config.backend.features(),
            pairs: config.backend.pairs(),
            backend: Mutex::new(Some(config.backend)),
            link: watch::Sender::new(link),
            counters: Arc::default(),
            receive_limiter: Limiter::new(config.limits.receive),
            send_limiter: Limiter::new(config.limits.send),
        })
    }

    pub(super) fn backend(&self) -> io::Result<Arc<dyn Backend>> {
        let backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = || io::Error::other("the network card is closed");
        backend.clone().ok_or_else(closed)
    }

    /// Pulls the cable, or puts it back. Its driver is told.
    pub(crate) fn set_link(&self, up: bool) {
        self.link.send_if_modified(|link| {
            let changed = link.wanted != up;
            link.wanted = up;
            changed
        });
    }

    /// Whether there is something at the other end; if not, why. The card's link follows.
    pub(super) fn set_connected(&self, connected: &io::Result<()>) {
        self.link.send_if_modified(|link| {
            let changed = link.connected != connected.is_ok();
            link.connected = connected.is_ok();
            if let Err(error) = connected
                && changed
            {
                warn!(%error, "a network card's link is down: its back end is gone");
            }
            changed
        });
    }

    pub(super) fn link(&self) -> Link {
        *self.link.borrow()
    }

    pub(super) fn watch_link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Waits until the rate limit admits something to receive.
    pub(super) async fn receive_ready(&self) {
        ready(&self.receive_limiter, &self.counters.received).await;
    }

    /// Waits until the rate limit admits something to send.
    pub(super) async fn send_ready(&self) {
        ready(&self.send_limiter, &self.counters.sent).await;
    }

    /// Gives back what the card is connected to, once nobody uses it any more.
    pub(crate) fn close(&self) {
        let mut backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
        *backend = None;
    }
}

async fn ready(limiter: &Limiter, counters: &Frames) {
    let waited = limiter.ready().await;
    counters.throttled_ns.add(waited.as_nanos() as u64);
}
