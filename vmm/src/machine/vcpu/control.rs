//! What a vCPU's thread is told, and what it answers.
//!
//! ```text
//!   main loop                            vCPU thread
//!   want(Pause), kick ------------------> leaves KVM_RUN with no exit to complete
//!                     <--- parked ------- waits
//!   call(job), kick --------------------> does the job (registers, NMI), parked or not
//!                     <--- result -------
//!   want(Run) --------------------------> goes on
//! ```
//! A vCPU that raised a reset, a suspend or a stop holds itself until the next `want(Run)`, or until it is paused.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use kvm_ioctls::VcpuFd;
use tokio::sync::Notify;

use super::kick::ImmediateExit;
use crate::counters::Counters;

/// What a vCPU is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Run,
    Pause,
    Exit,
}

pub(super) type Job = Box<dyn FnOnce(&mut VcpuFd) + Send>;

pub(super) struct Control {
    inner: Mutex<Inner>,
    changed: Condvar,
    pub(super) immediate_exit: ImmediateExit,
    /// Told each time a vCPU of the machine parks or dies.
    parked: Arc<Notify>,
    counters: Arc<Counters>,
}

struct Inner {
    wanted: Wanted,
    /// Counts the times `Run` was wanted: what a vCPU holds itself for ends with the next.
    runs: u64,
    jobs: Vec<Job>,
    parked: bool,
    /// When it was let go, until it goes.
    resumed: Option<Instant>,
    dead: bool,
}

/// Why a vCPU holds itself although it may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Hold {
    #[default]
    No,
    /// Until `Run` is wanted again after this many times.
    Runs(u64),
    /// Until this time.
    Until(Instant),
}

impl Control {
    pub(super) fn new(
        immediate_exit: ImmediateExit,
        parked: Arc<Notify>,
        counters: Arc<Counters>,
    ) -> Self {
        let inner = Inner {
            wanted: Wanted::Pause,
            runs: 0,
            jobs: Vec::new(),
            parked: false,
            resumed: None,
            dead: false,
        };
        Self {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            immediate_exit,
            parked,
            counters,
        }
    }

    /// Tells the vCPU what to do. Returns whether it must be kicked for that.
    pub(super) fn want(&self, wanted: Wanted) -> bool {
        let mut inner = self.lock();
        inner.runs += u64::from(wanted == Wanted::Run);
        match wanted {
            Wanted::Run if inner.wanted == Wanted::Run => {}
            Wanted::Run => inner.resumed = Some(Instant::now()),
            Wanted::Pause | Wanted::Exit => inner.resumed = None,
        }
        inner.wanted = wanted;
        self.told(&mut inner)
    }

    /// Has the vCPU's thread do `job`, unless it is dead. Returns whether it must be kicked for that.
    pub(super) fn push(&self, job: Job) -> bool {
        let mut inner = self.lock();
        if inner.dead {
            return false;
        }
        inner.jobs.push(job);
        self.told(&mut inner)
    }

    fn told(&self, inner: &mut Inner) -> bool {
        self.changed.notify_one();
        !inner.parked && !inner.dead
    }

    /// Whether the vCPU is paused: it executes nothing, and has no exit to complete.
    pub(super) fn is_parked(&self) -> bool {
        self.lock().parked
    }

    pub(super) fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// How often `Run` was wanted.
    pub(super) fn runs(&self) -> u64 {
        self.lock().runs
    }

    /// The vCPU's thread is about to end.
    pub(super) fn die(&self) {
        let mut inner = self.lock();
        inner.dead = true;
        inner.parked = false;
        inner.jobs.clear();
        self.parked.notify_one();
    }

    /// Does the jobs and waits while the vCPU is not to run. Returns whether it is to run; else it is to end.
    ///
    /// Called by the vCPU's thread only, with no exit to complete.
    pub(super) fn wait(&self, vcpu: &mut VcpuFd, mut hold: Hold) -> bool {
        // From here on a new kick makes the next KVM_RUN return at once.
        self.immediate_exit.set(false);
        let mut inner = self.lock();
        loop {
            let jobs = std::mem::take(&mut inner.jobs);
            if !jobs.is_empty() {
                drop(inner);
                for job in jobs {
                    job(vcpu);
                }
                inner = self.lock();
                continue;
            }
            let timeout = match (inner.wanted, hold) {
                (Wanted::Exit, _) => return false,
                (Wanted::Pause, _) => {
                    if !inner.parked {
                        inner.parked = true;
                        self.parked.notify_one();
                    }
                    None
                }
                (Wanted::Run, Hold::Runs(runs)) if runs == inner.runs => None,
                (Wanted::Run, Hold::Until(time)) => {
                    match time.checked_duration_since(Instant::now()) {
                        Some(rest) if !rest.is_zero() => Some(rest),
                        _ => {
                            hold = Hold::No;
                            continue;
                        }
                    }
                }
                (Wanted::Run, _) => {
                    let was_paused = std::mem::take(&mut inner.parked);
                    let resumed = inner.resumed.take();
                    drop(inner);
                    if let Some(since) = resumed {
                        self.counters.resume.observe(since.elapsed());
                    }
                    if was_paused {
                        // Tells a guest with kvmclock that it was not stuck, so that its watchdogs keep quiet (KVM API,
                        // KVM_KVMCLOCK_CTRL: after a pause, before the vCPU runs). Other guests have nothing to be told.
                        let _ = vcpu.kvmclock_ctrl();
                    }
                    return true;
                }
            };
            inner = match timeout {
                None => self
                    .changed
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(rest) => {
                    self.changed
                        .wait_timeout(inner, rest)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
