//! Who is at the other end of a connection.

use std::{fmt, net::SocketAddr};

use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};
use tokio::{net::unix::UCred, task::spawn_blocking};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tracing::warn;
use vmd_proto::v1;
use webpki::EndEntityCert;

use super::Role;

/// Who is at the other end of a connection; the same as long as it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, by the kernel's word.
    Unix {
        /// Its user when it connected.
        uid: Uid,
        /// Its group.
        gid: Gid,
        /// The groups of its user, by the user database.
        groups: Vec<Gid>,
        /// Its process id; it may have ended since.
        pid: Option<i32>,
    },
    /// Somebody on this host.
    Plaintext {
        /// From where.
        address: SocketAddr,
        /// What whoever connects so may do.
        role: Option<Role>,
    },
    /// Whoever has the key of a certificate that one of our authorities vouches for.
    Certificate {
        /// From where.
        address: SocketAddr,
        /// The certificate's names: DNS names and URIs of its subjectAltName.
        names: Vec<String>,
    },
}

impl Peer {
    /// The process with these credentials. The user database may be asked over the network, but not here: on a thread.
    pub(super) async fn unix(credentials: UCred) -> Self {
        let (uid, gid) = (
            Uid::from_raw(credentials.uid()),
            Gid::from_raw(credentials.gid()),
        );
        // Those are admin whatever groups they are in.
        let groups = if uid.is_root() || uid == geteuid() {
            Vec::new()
        } else {
            let groups = spawn_blocking(move || groups_of(uid, gid)).await;
            groups.unwrap_or_default()
        };
        Self::Unix {
            uid,
            gid,
            groups,
            pid: credentials.pid(),
        }
    }

    /// Who has the certificate `end_entity`, which was verified.
    pub(super) fn certificate(address: SocketAddr, end_entity: &CertificateDer<'_>) -> Self {
        let names = match EndEntityCert::try_from(end_entity) {
            Ok(certificate) => certificate
                .valid_dns_names()
                .chain(certificate.valid_uri_names())
                .map(str::to_owned)
                .collect(),
            Err(_) => Vec::new(),
        };
        Self::Certificate { address, names }
    }

    /// Who it is, from one connection to the next. Who comes without TLS is not told apart.
    pub(crate) fn identity(&self) -> String {
        match self {
            Self::Unix { uid, .. } => format!("uid {uid}"),
            Self::Plaintext { .. } => "plaintext".to_owned(),
            Self::Certificate { names, .. } => {
                // A renewed certificate may have them in another order.
                let mut names: Vec<_> = names.iter().map(String::as_str).collect();
                names.sort_unstable();
                format!("certificate {}", names.join(" "))
            }
        }
    }

    /// As the audit trail has it.
    pub(super) fn caller(&self) -> v1::event::Caller {
        let mut caller = v1::event::Caller::default();
        match self {
            Self::Unix { uid, gid, pid, .. } => {
                caller.uid = Some(uid.as_raw());
                caller.gid = Some(gid.as_raw());
                caller.pid = *pid;
            }
            Self::Plaintext { address, .. } => caller.address = address.to_string(),
            Self::Certificate { address, names } => {
                caller.address = address.to_string();
                caller.certificate_names.clone_from(names);
            }
        }
        caller
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid, gid, .. } => write!(f, "user {uid}, group {gid}"),
            Self::Plaintext { address, .. } => write!(f, "somebody at {address}"),
            Self::Certificate { address, names } if names.is_empty() => {
                write!(
                    f,
                    "a certificate without DNS names and URIs, from {address}"
                )
            }
            Self::Certificate { names, .. } => write!(f, "certificate {}", names.join(", ")),
        }
    }
}

/// The groups of a user, by the user database.
fn groups_of(uid: Uid, gid: Gid) -> Vec<Gid> {
    let groups = User::from_uid(uid).and_then(|user| {
        let name = user.and_then(|user| std::ffi::CString::new(user.name).ok());
        name.map_or(Ok(Vec::new()), |name| getgrouplist(&name, gid))
    });
    groups.unwrap_or_else(|error| {
        warn!(%uid, %error, "the user's groups cannot be told");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_outlives_the_connection() {
        let unix = |uid, pid| Peer::Unix {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(uid),
            groups: Vec::new(),
            pid: Some(pid),
        };
        assert_eq!(unix(7, 1).identity(), unix(7, 2).identity());
        assert_ne!(unix(7, 1).identity(), unix(8, 1).identity());

        let certificate = |port, names: &[&str]| Peer::Certificate {
            address: ([127, 0, 0, 1], port).into(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let first = certificate(1, &["a", "b"]).identity();
        assert_eq!(first, certificate(2, &["b", "a"]).identity());
        for other in [certificate(1, &["a"]), certificate(1, &["a", "c"])] {
            assert_ne!(first, other.identity());
        }
    }
}
