//! How much there may be: of machines, of what they take, of connections and calls.
//!
//! ```text
//!   create, start, update --> Ledger: quotas of the daemon and of labels, the host's memory --> Account
//!   connection --> Connections: has its caller too many? --> Seat, until it is closed              |
//!   call --> Rates: has its caller calls left, or refusals?                                        |
//!                                                                 given back when the machine ends or goes
//! ```
//! | file | what is there |
//! | --- | --- |
//! | `ledger` | what each machine takes, checked and counted under one lock |
//! | `host` | how much memory the host has for guests |
//! | `connections` | how many connections each caller has |
//! | `rate` | how often each caller may call |

mod connections;
mod host;
mod ledger;
mod rate;

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

pub(crate) use self::connections::{Seat, TooMany};
pub use self::ledger::OverLimit;
pub(crate) use self::ledger::{Account, Usage};
use self::{connections::Connections, ledger::Ledger, rate::Rates};
use crate::{
    access::Peer,
    config,
    vm::{Labels, Spec},
};

/// The limits of one daemon, and what is used of them.
pub(crate) struct Limits {
    settings: RwLock<Arc<config::Limits>>,
    ledger: Arc<Ledger>,
    connections: Arc<Connections>,
    calls: Rates,
    refusals: Rates,
    refused: Refused,
}

/// How often each was in the way.
#[derive(Debug, Default)]
struct Refused {
    quota: AtomicU64,
    host_memory: AtomicU64,
    rate: AtomicU64,
}

/// Calls that a caller may make at once without the right to; each is in the audit trail.
const REFUSALS: u32 = 256;
/// How many more it may make each second.
const REFUSALS_PER_SECOND: u32 = 1;

impl Limits {
    /// Those that the configuration sets.
    pub(crate) fn new(settings: config::Limits) -> Self {
        Self {
            settings: RwLock::new(Arc::new(settings)),
            ledger: Arc::default(),
            connections: Arc::default(),
            calls: Rates::default(),
            refusals: Rates::default(),
            refused: Refused::default(),
        }
    }

    /// Puts others in force. What machines have they keep.
    pub(crate) fn set(&self, settings: config::Limits) {
        let mut now = self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *now = Arc::new(settings);
    }

    fn settings(&self) -> Arc<config::Limits> {
        let settings = self.settings.read();
        settings.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An account for a new machine, which is live if the limits allow that. Blocks for as long as reading `/proc` takes.
    pub(crate) fn open(&self, spec: &Spec) -> Result<Account, OverLimit> {
        let account = Account::new(self.ledger.clone());
        self.counted(account.take(&self.settings(), spec))?;
        Ok(account)
    }

    /// One for a machine from the store, which has ended. It is there, whatever the limits say.
    pub(crate) fn recover(&self, spec: &Spec) -> Account {
        let account = Account::new(self.ledger.clone());
        account.recover(spec);
        account
    }

    /// The machine of `account` is to be started, as `spec` says.
    pub(crate) fn start(&self, account: &Account, spec: &Spec) -> Result<(), OverLimit> {
        self.counted(account.take(&self.settings(), spec))
    }

    /// A machine is to have these labels.
    pub(crate) fn relabel(&self, account: &Account, labels: &Labels) -> Result<(), OverLimit> {
        self.counted(account.relabel(&self.settings(), labels))
    }

    /// What is used of each.
    pub(crate) fn usage(&self) -> Vec<Usage> {
        self.ledger.usage(&self.settings())
    }

    /// How often each was in the way.
    pub(crate) fn refused(&self) -> [(&'static str, u64); 3] {
        let Refused {
            quota,
            host_memory,
            rate,
        } = &self.refused;
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        [
            ("QUOTA_EXCEEDED", read(quota)),
            ("HOST_MEMORY", read(host_memory)),
            ("RATE_LIMITED", read(rate)),
        ]
    }

    fn counted<T>(&self, answer: Result<T, OverLimit>) -> Result<T, OverLimit> {
        let counter = match &answer {
            Err(OverLimit::Quota { .. }) => &self.refused.quota,
            Err(OverLimit::HostMemory { .. }) => &self.refused.host_memory,
            Err(OverLimit::Unknown(_)) | Ok(_) => return answer,
        };
        counter.fetch_add(1, Relaxed);
        answer
    }

    /// Gives back the memory of accounts that were closed.
    pub(crate) fn rest(&self) {
        self.ledger.rest();
    }

    /// A place for another connection of `peer`.
    pub(crate) fn connect(&self, peer: &Peer) -> Result<Seat, TooMany> {
        let settings = self.settings();
        let (all, each) = (settings.connections, settings.connections_per_caller);
        self.connections.enter(peer.identity(), all, each)
    }

    /// Counts a call of `peer`, which may be `refused` for want of a right; fails if it has none left, with the time until
    /// it has. Whoever is refused has few calls left, whatever the configuration says.
    pub(crate) fn call(&self, peer: &Peer, refused: bool) -> Result<(), Duration> {
        let settings = self.settings();
        let mut call = Ok(());
        if let Some(rate) = settings.calls_per_second {
            call = self.calls.take(peer, rate, settings.burst.unwrap_or(rate));
        }
        if call.is_ok() && refused {
            call = self.refusals.take(peer, REFUSALS_PER_SECOND, REFUSALS);
        }
        if call.is_err() {
            self.refused.rate.fetch_add(1, Relaxed);
        }
        call
    }
}
