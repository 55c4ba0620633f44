//! What each machine takes. Checked and counted under one lock: two creations at once do not both get what is left.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;
use vmctl::format_size;

use super::host;
use crate::{
    config,
    vm::{Labels, Spec},
};

/// Why a machine may not be, or not be live.
#[derive(Debug, Error)]
pub enum OverLimit {
    /// A quota.
    #[error(
        "{} would be used of {} {allowed}: end or remove others, or have {option} in the daemon's configuration raised",
        written(.what, *.needed), owner(.group), option = option(.group), allowed = written(.what, *.limit)
    )]
    Quota {
        /// Whose: `KEY=VALUE`; `None`: the daemon's.
        group: Option<String>,
        /// What of: `machines`, `vcpus`, `memory`.
        what: &'static str,
        /// How much there may be; memory in bytes.
        limit: u64,
        /// How much there would be.
        needed: u64,
    },
    /// The host has not the memory.
    #[error(
        "the host has {} for all guests, {} are promised to those that run, and {} more were asked for: end others, or \
         ask for less",
        format_size(*.has), format_size(*.promised), format_size(*.asked)
    )]
    HostMemory {
        /// Bytes that the host has for guests, beside its reserve.
        has: u64,
        /// Bytes that live machines have been promised.
        promised: u64,
        /// Bytes that were asked for.
        asked: u64,
    },
    /// It is not known what the host has.
    #[error("the host does not tell how much memory it has: {0}")]
    Unknown(#[source] io::Error),
}

fn written(what: &str, amount: u64) -> String {
    match what {
        "memory" => format!("{} of memory", format_size(amount)),
        _ => format!("{amount} {what}"),
    }
}

fn owner(group: &Option<String>) -> String {
    match group {
        Some(group) => format!("the quota of {group},"),
        None => "the daemon's quota,".to_owned(),
    }
}

fn option(group: &Option<String>) -> &'static str {
    match group {
        Some(_) => "[[limits.quota]]",
        None => "[limits]",
    }
}

/// What the machines of one daemon take.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<u64, Entry>,
    next: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    labels: Labels,
    /// Zero once it has ended.
    vcpus: u64,
    memory: u64,
}

/// One machine's place in the ledger, until it is dropped.
#[derive(Debug)]
pub(crate) struct Account {
    ledger: Arc<Ledger>,
    number: u64,
}

impl Account {
    /// Of a machine that is to be.
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        let mut inner = ledger.lock();
        let number = inner.next;
        inner.next += 1;
        drop(inner);
        Self { ledger, number }
    }

    /// The machine is there, and has ended.
    pub(super) fn recover(&self, spec: &Spec) {
        let entry = Entry {
            labels: spec.labels.clone(),
            vcpus: 0,
            memory: 0,
        };
        self.ledger.lock().entries.insert(self.number, entry);
    }

    /// It is to be live.
    pub(super) fn take(&self, limits: &config::Limits, spec: &Spec) -> Result<(), OverLimit> {
        let entry = Entry {
            labels: spec.labels.clone(),
            vcpus: spec.definition.vcpus.into(),
            memory: spec.definition.memory_bytes,
        };
        let mut inner = self.ledger.lock();
        inner.check(limits, self.number, &entry)?;
        inner.check_host(limits, self.number, entry.memory)?;
        inner.entries.insert(self.number, entry);
        Ok(())
    }

    /// It is to have the labels of `spec`.
    pub(super) fn relabel(&self, limits: &config::Limits, spec: &Spec) -> Result<(), OverLimit> {
        let mut inner = self.ledger.lock();
        let Some(now) = inner.entries.get(&self.number) else {
            return Ok(());
        };
        if now.labels == spec.labels {
            return Ok(());
        }
        let entry = Entry {
            labels: spec.labels.clone(),
            ..now.clone()
        };
        inner.check(limits, self.number, &entry)?;
        inner.entries.insert(self.number, entry);
        Ok(())
    }

    /// The machine has ended, and is still there.
    pub(crate) fn ended(&self) {
        if let Some(entry) = self.ledger.lock().entries.get_mut(&self.number) {
            (entry.vcpus, entry.memory) = (0, 0);
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.ledger.lock().entries.remove(&self.number);
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether account `number` may be `new`. What does not grow is not refused: a quota may have been lowered.
    fn check(&self, limits: &config::Limits, number: u64, new: &Entry) -> Result<(), OverLimit> {
        let daemon = [
            ("machines", limits.machines),
            ("vcpus", limits.vcpus),
            ("memory", limits.memory),
        ];
        let all = |_: &Labels| true;
        self.check_one(&daemon, None, all, number, new)?;
        for quota in &limits.quota {
            let Some(group) = quota.label.group(&new.labels) else {
                continue;
            };
            let amounts = [
                ("machines", quota.machines),
                ("vcpus", quota.vcpus),
                ("memory", quota.memory),
            ];
            let same = |labels: &Labels| quota.label.group(labels).as_ref() == Some(&group);
            self.check_one(&amounts, Some(&group), same, number, new)?;
        }
        Ok(())
    }

    fn check_one(
        &self,
        limits: &[(&'static str, Option<u64>); 3],
        group: Option<&String>,
        counts: impl Fn(&Labels) -> bool,
        number: u64,
        new: &Entry,
    ) -> Result<(), OverLimit> {
        if limits.iter().all(|(_, limit)| limit.is_none()) {
            return Ok(());
        }
        let mut used = [0_u64; 3];
        let mut others = [0_u64; 3];
        let counted = self.entries.iter();
        for (one, entry) in counted.filter(|(_, entry)| counts(&entry.labels)) {
            add(&mut used, entry.amounts());
            if *one != number {
                add(&mut others, entry.amounts());
            }
        }
        let mut needed = others;
        add(&mut needed, new.amounts());
        for (((what, limit), used), needed) in limits.iter().zip(used).zip(needed) {
            match *limit {
                Some(limit) if needed > limit && needed > used => {
                    return Err(OverLimit::Quota {
                        group: group.cloned(),
                        what,
                        limit,
                        needed,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_host(
        &self,
        limits: &config::Limits,
        number: u64,
        asked: u64,
    ) -> Result<(), OverLimit> {
        let Some(reserve) = limits.host_memory_reserve else {
            return Ok(());
        };
        let has = host::for_guests().map_err(OverLimit::Unknown)?;
        let has = has.saturating_sub(reserve);
        let others = self.entries.iter().filter(|(one, _)| **one != number);
        let promised = others.map(|(_, entry)| entry.memory).sum::<u64>();
        if promised.saturating_add(asked) <= has {
            return Ok(());
        }
        Err(OverLimit::HostMemory {
            has,
            promised,
            asked,
        })
    }
}

impl Entry {
    /// Machines, vCPUs, bytes of memory.
    fn amounts(&self) -> [u64; 3] {
        [1, self.vcpus, self.memory]
    }
}

fn add(sum: &mut [u64; 3], amounts: [u64; 3]) {
    for (sum, amount) in sum.iter_mut().zip(amounts) {
        *sum = sum.saturating_add(amount);
    }
}
