//! What each machine takes. Checked and counted under one lock: two creations at once do not both get what is left.

use std::{
    collections::{BTreeSet, HashMap},
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

/// What is counted.
const WHAT: [&str; 3] = ["machines", "vcpus", "memory"];

/// One for each of [`WHAT`]: machines, vCPUs, bytes of memory.
type Amounts<T = u64> = [T; 3];

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
        // Before the lock: it reads `/proc`.
        let has = limits.host_memory_reserve.map(|reserve| {
            let has = host::for_guests().map_err(OverLimit::Unknown)?;
            Ok(has.saturating_sub(reserve))
        });
        let has = has.transpose()?;
        let mut inner = self.ledger.lock();
        inner.check(limits, self.number, &entry)?;
        if let Some(has) = has {
            inner.check_host(has, self.number, entry.memory)?;
        }
        inner.entries.insert(self.number, entry);
        Ok(())
    }

    /// It is to have these labels.
    pub(super) fn relabel(
        &self,
        limits: &config::Limits,
        labels: &Labels,
    ) -> Result<(), OverLimit> {
        let mut inner = self.ledger.lock();
        let Some(now) = inner.entries.get(&self.number) else {
            return Ok(());
        };
        if now.labels == *labels {
            return Ok(());
        }
        let entry = Entry {
            labels: labels.clone(),
            ..now.clone()
        };
        inner.check(limits, self.number, &entry)?;
        inner.entries.insert(self.number, entry);
        Ok(())
    }

    /// It has these labels after all, whatever the limits say: it had them before.
    pub(crate) fn keep_labels(&self, labels: &Labels) {
        if let Some(entry) = self.ledger.lock().entries.get_mut(&self.number) {
            entry.labels.clone_from(labels);
        }
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

/// What is used of one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Whose: `KEY=VALUE`; `None`: the daemon's.
    pub(crate) group: Option<String>,
    /// What of: `machines`, `vcpus`, `memory`.
    pub(crate) what: &'static str,
    /// How much is used; memory in bytes.
    pub(crate) used: u64,
    /// How much there may be.
    pub(crate) limit: Option<u64>,
}

impl Ledger {
    /// What is used of the daemon's limits, and of each quota of a label that some machine has.
    pub(super) fn usage(&self, limits: &config::Limits) -> Vec<Usage> {
        let inner = self.lock();
        let usage = |group: Option<String>, limits: Amounts<Option<u64>>, used: Amounts| {
            let each = WHAT.into_iter().zip(limits).zip(used);
            each.map(move |((what, limit), used)| Usage {
                group: group.clone(),
                what,
                used,
                limit,
            })
        };
        let mut all: Vec<_> = usage(None, limits.amounts(), inner.sum(|_| true)).collect();
        for quota in &limits.quota {
            let labels = inner.entries.values().map(|entry| &entry.labels);
            let groups: BTreeSet<_> = labels
                .filter_map(|labels| quota.label.group(labels))
                .collect();
            for group in groups {
                let used = inner.sum(|labels| quota.label.group(labels).as_ref() == Some(&group));
                let limited = usage(Some(group), quota.amounts(), used);
                all.extend(limited.filter(|usage| usage.limit.is_some()));
            }
        }
        all
    }

    pub(super) fn rest(&self) {
        self.lock().entries.shrink_to_fit();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether account `number` may be `new`. What does not grow is not refused: a quota may have been lowered.
    fn check(&self, limits: &config::Limits, number: u64, new: &Entry) -> Result<(), OverLimit> {
        let all = |_: &Labels| true;
        self.check_one(limits.amounts(), None, all, number, new)?;
        for quota in &limits.quota {
            let Some(group) = quota.label.group(&new.labels) else {
                continue;
            };
            let same = |labels: &Labels| quota.label.group(labels).as_ref() == Some(&group);
            self.check_one(quota.amounts(), Some(&group), same, number, new)?;
        }
        Ok(())
    }

    fn check_one(
        &self,
        limits: Amounts<Option<u64>>,
        group: Option<&String>,
        counts: impl Fn(&Labels) -> bool,
        number: u64,
        new: &Entry,
    ) -> Result<(), OverLimit> {
        if limits.iter().all(Option::is_none) {
            return Ok(());
        }
        let used = self.sum(&counts);
        let mut needed = used;
        if let Some(now) = self.entries.get(&number).filter(|now| counts(&now.labels)) {
            take(&mut needed, now.amounts());
        }
        add(&mut needed, new.amounts());
        for (((what, limit), used), needed) in WHAT.into_iter().zip(limits).zip(used).zip(needed) {
            match limit {
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

    /// Whether account `number` may have as much as `asked` of the memory that the host `has` for guests.
    fn check_host(&self, has: u64, number: u64, asked: u64) -> Result<(), OverLimit> {
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

    /// What the machines with labels that are meant take together.
    fn sum(&self, is_meant: impl Fn(&Labels) -> bool) -> Amounts {
        let mut sum = Amounts::default();
        let meant = self
            .entries
            .values()
            .filter(|entry| is_meant(&entry.labels));
        meant.for_each(|entry| add(&mut sum, entry.amounts()));
        sum
    }
}

impl Entry {
    fn amounts(&self) -> Amounts {
        [1, self.vcpus, self.memory]
    }
}

fn add(sum: &mut Amounts, amounts: Amounts) {
    for (sum, amount) in sum.iter_mut().zip(amounts) {
        *sum = sum.saturating_add(amount);
    }
}

fn take(sum: &mut Amounts, amounts: Amounts) {
    for (sum, amount) in sum.iter_mut().zip(amounts) {
        *sum = sum.saturating_sub(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::check::{Limits, definition};

    fn spec(vcpus: u32, labels: &[(&str, &str)]) -> Spec {
        let asked = vmd_proto::v1::VmDefinition {
            vcpus: Some(vcpus),
            memory_bytes: Some(16 << 20),
            ..Default::default()
        };
        let definition = definition(&Limits::NONE, Default::default(), asked).unwrap();
        let mut spec: Spec = definition.into();
        let label = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        spec.labels = labels.iter().map(label).collect();
        spec
    }

    fn limits(text: &str) -> config::Limits {
        toml::from_str(text).unwrap()
    }

    /// What is refused of: whose, what, how much there may be and would be.
    fn quota(answer: Result<(), OverLimit>) -> (Option<String>, &'static str, u64, u64) {
        match answer.unwrap_err() {
            OverLimit::Quota {
                group,
                what,
                limit,
                needed,
            } => (group, what, limit, needed),
            other => unreachable!("{other}"),
        }
    }

    #[test]
    fn all_are_counted_together_and_each_label_for_itself() {
        let limits =
            limits("vcpus = 4\n[[quota]]\nlabel = \"team\"\nmachines = 1\nmemory = \"32M\"\n");
        let ledger = Arc::new(Ledger::default());
        let open = || Account::new(ledger.clone());
        let (a, b, c) = (open(), open(), open());
        let of = |team: &str| format!("team={team}");
        a.take(&limits, &spec(2, &[("team", "red")])).unwrap();
        // What is refused takes nothing.
        for _ in 0..2 {
            let refused = b.take(&limits, &spec(1, &[("team", "red")]));
            assert_eq!(quota(refused), (Some(of("red")), "machines", 1, 2));
        }
        let blue = |vcpus| spec(vcpus, &[("team", "blue")]);
        b.take(&limits, &blue(2)).unwrap();
        let refused = c.take(&limits, &spec(1, &[]));
        assert_eq!(quota(refused), (None, "vcpus", 4, 5));
        // One that has ended keeps its place and nothing else; the same machine again is not another.
        b.ended();
        c.take(&limits, &spec(1, &[])).unwrap();
        let refused = b.take(&limits, &blue(2));
        assert_eq!(quota(refused), (None, "vcpus", 4, 5));
        b.take(&limits, &blue(1)).unwrap();
        drop(a);
        let red = spec(1, &[("team", "red")]).labels;
        b.relabel(&limits, &red).unwrap();
        let refused = c.relabel(&limits, &red);
        assert_eq!(quota(refused), (Some(of("red")), "machines", 1, 2));
        b.keep_labels(&blue(1).labels);
        c.relabel(&limits, &red).unwrap();
        let usage = ledger.usage(&limits).into_iter().map(|usage| {
            let group = usage.group.unwrap_or_default();
            (group, usage.what, usage.used, usage.limit)
        });
        assert_eq!(
            usage.collect::<Vec<_>>(),
            [
                (String::new(), "machines", 2, None),
                (String::new(), "vcpus", 2, Some(4)),
                (String::new(), "memory", 32 << 20, None),
                (of("blue"), "machines", 1, Some(1)),
                (of("blue"), "memory", 16 << 20, Some(32 << 20)),
                (of("red"), "machines", 1, Some(1)),
                (of("red"), "memory", 16 << 20, Some(32 << 20)),
            ]
        );
    }

    #[test]
    fn who_has_too_much_may_keep_it_and_take_less() {
        let account = Account::new(Arc::default());
        account.take(&limits(""), &spec(4, &[])).unwrap();
        let lower = limits("vcpus = 1");
        account.take(&lower, &spec(4, &[])).unwrap();
        account.take(&lower, &spec(3, &[])).unwrap();
        let refused = account.take(&lower, &spec(4, &[]));
        assert_eq!(quota(refused), (None, "vcpus", 1, 4));
    }

    #[test]
    fn memory_is_promised_once() {
        let ledger = Ledger::default();
        let mut inner = ledger.lock();
        let entry = Entry {
            labels: Labels::default(),
            vcpus: 1,
            memory: 60,
        };
        inner.entries.insert(0, entry);
        inner.check_host(100, 1, 40).unwrap();
        // What it has itself is not another's.
        inner.check_host(100, 0, 100).unwrap();
        for (number, asked) in [(1, 41), (0, 101), (1, u64::MAX)] {
            let refused = inner.check_host(100, number, asked).unwrap_err();
            let is_expected = matches!(refused, OverLimit::HostMemory { has: 100, .. });
            assert!(is_expected, "{refused}");
        }
    }
}
