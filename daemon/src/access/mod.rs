//! Who may do what.
//!
//! ```text
//!   connection --> Peer: who it is --+
//!                                    +--> Guard, before the service: has the peer the role that the method needs?
//!   configuration --> Policy --------+      |
//!                                           +--> service, which finds the Caller with each request
//!                                           +--> audit trail: who called what, on which machine, and what came of it
//! ```
//! The policy counts at each call, the certificates at each connection: a reload holds for those who are connected, too.
//!
//! | file | what is there |
//! | --- | --- |
//! | `mod` | [`Access`]: the policy and the certificates in force |
//! | `peer` | who is at the other end of a connection |
//! | `policy` | which role a peer has, and which paths it may name |
//! | `methods` | which role each method needs |
//! | `guard` | the layer before the service |
//! | `audit` | the trail |
//! | `tls` | the daemon's certificates |
//! | `connection` | connections of all sorts, and how they come in |

mod audit;
mod connection;
mod guard;
mod methods;
mod peer;
mod policy;
mod role;
mod roots;
mod tls;

use std::sync::{Arc, PoisonError, RwLock};

use thiserror::Error;
use tokio_rustls::rustls::ServerConfig;

pub(crate) use connection::{Entrance, incoming};
pub(crate) use guard::{Caller, GuardLayer};
pub use peer::Peer;
pub use policy::Policy;
pub use role::Role;
pub use roots::{Beneath, PathError, Reach, Roots};
pub use tls::TlsError;

use crate::config::Config;

/// Why a configuration cannot be put in force.
#[derive(Debug, Error)]
pub enum AccessError {
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A root of paths.
    #[error("paths.roots: {0}")]
    Roots(#[from] PathError),
}

/// What is in force in one daemon. By default nobody but root and its own user has a role, and there are no roots.
#[derive(Default)]
pub struct Access {
    policy: RwLock<Arc<Policy>>,
    tls: RwLock<Option<Arc<ServerConfig>>>,
}

impl Access {
    /// What `config` says. Blocks.
    pub fn new(config: &Config) -> Result<Self, AccessError> {
        let tls = config.tls.as_ref().map(tls::load).transpose()?;
        let roots = Roots::open(&config.paths.roots)?.confined(config.confined.paths);
        let policy = Policy::new(config.roles.clone(), roots);
        Ok(Self {
            policy: RwLock::new(Arc::new(policy)),
            tls: RwLock::new(tls),
        })
    }

    /// Takes over what `other` has; certificates stay if it has none.
    pub fn replace(&self, other: Self) {
        let Self { policy, tls } = other;
        let policy = policy.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
        if let Some(tls) = tls.into_inner().unwrap_or_else(PoisonError::into_inner) {
            *self.tls.write().unwrap_or_else(PoisonError::into_inner) = Some(tls);
        }
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The certificates in force.
    fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
