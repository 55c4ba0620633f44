//! How much there may be: of machines, of what they take, of calls.
//!
//! ```text
//!   create, start, update --> Ledger: quotas of the daemon and of labels, the host's memory --> Account
//!   call --> Rates: has its caller calls left?                                                     |
//!                                                                 given back when the machine ends or goes
//! ```
//! | file | what is there |
//! | --- | --- |
//! | `ledger` | what each machine takes, checked and counted under one lock |
//! | `host` | how much memory the host has for guests |
//! | `rate` | how often each caller may call |

mod host;
mod ledger;
mod rate;

use std::sync::{Arc, PoisonError, RwLock};

pub(crate) use self::ledger::Account;
pub use self::ledger::OverLimit;
use self::{ledger::Ledger, rate::Rates};
use crate::{access::Peer, config, vm::Spec};

/// The limits of one daemon, and what is used of them.
pub(crate) struct Limits {
    settings: RwLock<Arc<config::Limits>>,
    ledger: Arc<Ledger>,
    rates: Rates,
}

impl Limits {
    /// Those that the configuration sets.
    pub(crate) fn new(settings: config::Limits) -> Self {
        Self {
            settings: RwLock::new(Arc::new(settings)),
            ledger: Arc::default(),
            rates: Rates::default(),
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
        account.take(&self.settings(), spec)?;
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
        account.take(&self.settings(), spec)
    }

    /// The labels of a machine are to be those of `spec`.
    pub(crate) fn relabel(&self, account: &Account, spec: &Spec) -> Result<(), OverLimit> {
        account.relabel(&self.settings(), spec)
    }

    /// Counts a call of `peer`; fails if it has none left, with the time until it has.
    pub(crate) fn call(&self, peer: &Peer) -> Result<(), std::time::Duration> {
        let settings = self.settings();
        match settings.calls_per_second {
            Some(rate) => self.rates.take(peer, rate, settings.burst.unwrap_or(rate)),
            None => Ok(()),
        }
    }
}
