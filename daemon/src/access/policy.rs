//! What the configuration says of a peer.

use nix::unistd::{Uid, geteuid};

use super::{Peer, Role, Roots, roots::Reach};
use crate::config::{Group, RoleMembers, Roles, User};

/// Who has which role, and which paths may be named.
#[derive(Debug)]
pub struct Policy {
    /// The daemon's own user.
    own: Uid,
    roles: Roles,
    roots: Roots,
}

impl Default for Policy {
    fn default() -> Self {
        Self::new(Roles::default(), Roots::default())
    }
}

impl Policy {
    /// That of the user who runs the daemon.
    pub fn new(roles: Roles, roots: Roots) -> Self {
        let own = geteuid();
        Self { own, roles, roots }
    }

    /// The highest role that `peer` has.
    pub fn role(&self, peer: &Peer) -> Option<Role> {
        if self.is_own(peer) {
            return Some(Role::Admin);
        }
        if let Peer::Plaintext { role, .. } = peer {
            return *role;
        }
        let Roles {
            viewer,
            operator,
            admin,
        } = &self.roles;
        [
            (Role::Admin, admin),
            (Role::Operator, operator),
            (Role::Viewer, viewer),
        ]
        .into_iter()
        .find_map(|(role, members)| is_among(members, peer).then_some(role))
    }

    /// Where the paths that `peer` names may lead.
    pub(crate) fn reach(&self, peer: &Peer) -> Reach {
        if self.is_own(peer) {
            Reach::Anywhere
        } else {
            Reach::Roots
        }
    }

    /// Where paths lead.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The daemon's own user, or root, who can become any.
    fn is_own(&self, peer: &Peer) -> bool {
        matches!(peer, Peer::Unix { uid, .. } if *uid == self.own || uid.is_root())
    }
}

fn is_among(members: &RoleMembers, peer: &Peer) -> bool {
    let RoleMembers {
        users,
        groups,
        certificates,
    } = members;
    match peer {
        Peer::Unix {
            uid,
            gid,
            groups: others,
            ..
        } => {
            users.contains(&User(*uid))
                || groups.contains(&Group(*gid))
                || others.iter().any(|gid| groups.contains(&Group(*gid)))
        }
        Peer::Certificate { names, .. } => names.iter().any(|name| certificates.contains(name)),
        Peer::Plaintext { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::Gid;

    use super::*;

    fn unix(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer::Unix {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            groups: groups.iter().copied().map(Gid::from_raw).collect(),
            pid: Some(1),
        }
    }

    fn certificate(names: &[&str]) -> Peer {
        Peer::Certificate {
            address: "192.0.2.1:1".parse().unwrap(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn the_highest_role_counts_and_strangers_have_none() {
        let mut roles = Roles::default();
        roles.viewer.users = vec![User(Uid::from_raw(5001)), User(Uid::from_raw(5002))];
        roles.viewer.certificates = vec!["look.example".to_owned()];
        roles.operator.groups = vec![Group(Gid::from_raw(6001))];
        roles.admin.certificates = vec!["spiffe://example/boss".to_owned()];
        let mut policy = Policy::new(roles, Roots::default());
        policy.own = Uid::from_raw(5000);
        for (peer, role) in [
            (unix(0, 0, &[]), Some(Role::Admin)),
            (unix(5000, 1, &[]), Some(Role::Admin)),
            (unix(5001, 1, &[]), Some(Role::Viewer)),
            (unix(5002, 6001, &[]), Some(Role::Operator)),
            (unix(5003, 1, &[7, 6001]), Some(Role::Operator)),
            (unix(5004, 1, &[7]), None),
            (certificate(&["x", "look.example"]), Some(Role::Viewer)),
            (
                certificate(&["look.example", "spiffe://example/boss"]),
                Some(Role::Admin),
            ),
            (certificate(&["example"]), None),
            (certificate(&[]), None),
        ] {
            assert_eq!(policy.role(&peer), role, "{peer:?}");
        }
        let plaintext = |role| Peer::Plaintext {
            address: "127.0.0.1:1".parse().unwrap(),
            role,
        };
        assert_eq!(policy.role(&plaintext(None)), None);
        let operator = Some(Role::Operator);
        assert_eq!(policy.role(&plaintext(operator)), operator);
    }
}
