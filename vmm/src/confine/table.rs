//! How a table of system calls is written, and what comes of it.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BackendError, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompRule,
};

/// Calls that are needed for one reason.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// What for.
    pub reason: &'static str,
    /// The calls. One that is on the table several times may be made if any of its places allows it.
    pub calls: &'static [Call],
}

/// A call by its number, and when it may be made.
pub type Call = (libc::c_long, When);

/// When a call may be made. Arguments count from 0; their lower 32 bits are looked at, which is all that the kernel uses of
/// those in the tables.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Whatever its arguments are.
    Always,
    /// The argument has one of these values. What is called most often comes first.
    OneOf(u8, &'static [u64]),
    /// The argument's bits under a mask are the value, for one of these pairs.
    Masked(u8, &'static [(u64, u64)]),
}

/// For each call when it is meant; an empty list means always.
pub(super) type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The rules of a filter for these tables.
pub(super) fn rules(tables: &[&[Group]]) -> Result<Rules, BackendError> {
    let mut all: BTreeMap<i64, Option<Vec<SeccompRule>>> = BTreeMap::new();
    for (call, when) in tables
        .iter()
        .copied()
        .flatten()
        .flat_map(|group| group.calls)
    {
        let rules = all.entry(*call).or_insert_with(|| Some(Vec::new()));
        let mut add = |argument, operation, value| {
            let condition = SeccompCondition::new(argument, Dword, operation, value)?;
            if let Some(rules) = rules {
                rules.push(SeccompRule::new(vec![condition])?);
            }
            Ok::<_, BackendError>(())
        };
        match *when {
            When::Always => *rules = None,
            When::OneOf(argument, values) => {
                for value in values {
                    add(argument, SeccompCmpOp::Eq, *value)?;
                }
            }
            When::Masked(argument, pairs) => {
                for (mask, value) in pairs {
                    add(argument, SeccompCmpOp::MaskedEq(*mask), *value)?;
                }
            }
        }
    }
    let rules = all
        .into_iter()
        .map(|(call, rules)| (call, rules.unwrap_or_default()));
    Ok(rules.collect())
}

/// Memory that is not to be executed.
pub(super) const NO_EXEC: When = When::Masked(2, &[(libc::PROT_EXEC as u64, 0)]);

/// A thread of this process, in the namespaces of this process: no process. (glibc tries `clone3` first, whose flags no filter
/// can see, and takes ENOSYS for an older kernel's answer.)
pub(super) const THREADS_ONLY: When = {
    const NAMESPACES: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    const THREAD: u64 = libc::CLONE_THREAD as u64;
    When::Masked(0, &[(NAMESPACES as u64 | THREAD, THREAD)])
};
