//! What is told of one machine's life: how often each event came, how long it was in each run state, and how long its
//! vCPUs used processors.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use vmm::runstate::RunState;

use super::cpu_time::CpuTime;
use crate::vm::Status;

/// One machine's, from its creation until it is deleted.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// How long its vCPUs have used the host's processors.
    pub(crate) cpu_time: CpuTime,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By name; there are as many as there are kinds.
    events: BTreeMap<&'static str, u64>,
    /// How long it was in states before the one that it is in.
    times: BTreeMap<RunState, Duration>,
    /// The state that it is in, and since when; `None` while it is not live.
    now: Option<(RunState, Instant)>,
}

impl Meter {
    /// An event of this name came, and left the machine at `status`.
    pub(crate) fn event(&self, name: &'static str, status: &Status) {
        let mut inner = self.lock();
        *inner.events.entry(name).or_default() += 1;
        inner.stands(status, Instant::now());
    }

    /// The machine is at `status` now.
    pub(crate) fn stands(&self, status: &Status) {
        self.lock().stands(status, Instant::now());
    }

    /// How often each event came.
    pub(crate) fn events(&self) -> Vec<(&'static str, u64)> {
        let inner = self.lock();
        inner.events.iter().map(|(name, n)| (*name, *n)).collect()
    }

    /// How long it was in each state, up to now; those it never was in are left out, and so is the time after its end.
    pub(crate) fn times(&self) -> Vec<(RunState, Duration)> {
        self.lock().times(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn stands(&mut self, status: &Status, now: Instant) {
        let state = status.end.is_none().then_some(status.state);
        if self.now.map(|(state, _)| state) == state {
            return;
        }
        if let Some((before, since)) = self.now {
            *self.times.entry(before).or_default() += now.saturating_duration_since(since);
        }
        self.now = state.map(|state| (state, now));
    }

    fn times(&self, now: Instant) -> Vec<(RunState, Duration)> {
        let mut times = self.times.clone();
        if let Some((state, since)) = self.now {
            *times.entry(state).or_default() += now.saturating_duration_since(since);
        }
        times.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::service::check::{Limits, definition};
    use crate::vm::{End, EndKind};

    #[test]
    fn each_state_has_its_time_and_the_end_none() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let definition = definition(&Limits::NONE, Default::default(), Default::default()).unwrap();
        let mut status = Status::new(definition.into());
        let mut inner = Inner::default();
        assert_eq!(inner.times(at(0)), []);
        inner.stands(&status, at(0));
        status.state = RunState::Running;
        inner.stands(&status, at(1));
        inner.stands(&status, at(2));
        status.state = RunState::Paused;
        inner.stands(&status, at(6));
        status.state = RunState::Running;
        inner.stands(&status, at(7));
        let times = |paused, prelaunch, running| {
            [
                (RunState::Paused, Duration::from_secs(paused)),
                (RunState::Prelaunch, Duration::from_secs(prelaunch)),
                (RunState::Running, Duration::from_secs(running)),
            ]
        };
        assert_eq!(inner.times(at(9)), times(1, 1, 7));
        status.end = Some(End {
            kind: EndKind::Watchdog,
            time: SystemTime::now(),
        });
        inner.stands(&status, at(10));
        assert_eq!(inner.times(at(100)), times(1, 1, 8));
        // Started again.
        status.end = None;
        inner.stands(&status, at(100));
        assert_eq!(inner.times(at(101)), times(1, 1, 9));
    }
}
