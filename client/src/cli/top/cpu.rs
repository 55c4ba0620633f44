//! How much of a host's CPU each machine uses: the daemon tells what it has used so far, and two answers give a rate.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    Client,
    v1::{ListVmsRequest, ListVmsResponse},
};

/// From an answer until the next question.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// What every machine has used, by its id, as of a moment.
#[derive(Debug)]
pub(super) struct Sample {
    at: Instant,
    nanos: HashMap<String, u64>,
}

impl Sample {
    /// Asks the daemon after `wait`. `None` if it does not tell: if the connection is gone the streams say so, and
    /// anything else, such as a limit on calls, may be better the next time.
    pub(super) async fn take(client: &Client, wait: Duration) -> Option<Self> {
        sleep(wait).await;
        let request = ListVmsRequest {
            with_cpu_time: true,
            ..Default::default()
        };
        let answer = client.list_page(request).await.ok()?;
        Some(Self::of(answer, Instant::now()))
    }

    /// An earlier daemon tells of none.
    fn of(answer: ListVmsResponse, at: Instant) -> Self {
        let ids = answer.vms.into_iter().map(|vm| vm.id);
        Self {
            at,
            nanos: ids.zip(answer.cpu_time_nanos).collect(),
        }
    }

    /// How much of one CPU machine `id` used since `before`, in percent; several vCPUs may use more than 100. `None` if
    /// that is not known.
    fn percent(&self, before: &Self, id: &str) -> Option<u64> {
        let used = self.nanos.get(id)?.checked_sub(*before.nanos.get(id)?)?;
        let passed = self.at.checked_duration_since(before.at)?.as_nanos();
        let percent = (u128::from(used) * 100 + passed / 2).checked_div(passed)?;
        percent.try_into().ok()
    }
}

/// The last two samples.
#[derive(Debug, Default)]
pub(super) struct Usage {
    before: Option<Sample>,
    last: Option<Sample>,
}

impl Usage {
    /// Another one has come.
    pub(super) fn add(&mut self, sample: Sample) {
        self.before = self.last.replace(sample);
    }

    /// How much of one CPU machine `id` used between them, in percent.
    pub(super) fn percent(&self, id: &str) -> Option<u64> {
        self.last.as_ref()?.percent(self.before.as_ref()?, id)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::v1::Vm;

    /// What machines have used, in milliseconds.
    pub(in super::super) fn sample(at: Instant, used: &[(&str, u64)]) -> Sample {
        let vm = |(id, _): &(&str, u64)| Vm {
            id: (*id).to_owned(),
            ..Default::default()
        };
        let answer = ListVmsResponse {
            vms: used.iter().map(vm).collect(),
            cpu_time_nanos: used.iter().map(|(_, millis)| millis * 1_000_000).collect(),
            ..Default::default()
        };
        Sample::of(answer, at)
    }

    #[test]
    fn a_rate_needs_two_samples_and_is_never_negative() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let mut usage = Usage::default();
        assert_eq!(usage.percent("a"), None);
        usage.add(sample(at(0), &[("a", 500), ("b", 0), ("gone", 7)]));
        assert_eq!(usage.percent("a"), None);
        usage.add(sample(at(2000), &[("a", 1500), ("b", 6000), ("new", 9)]));
        assert_eq!(usage.percent("a"), Some(50));
        assert_eq!(usage.percent("b"), Some(300));
        assert_eq!(usage.percent("gone"), None);
        assert_eq!(usage.percent("new"), None);
        // Less than before: not the same count. Rounded.
        usage.add(sample(at(3000), &[("a", 3), ("b", 6006), ("new", 13)]));
        assert_eq!(usage.percent("a"), None);
        assert_eq!(
            (usage.percent("b"), usage.percent("new")),
            (Some(1), Some(0))
        );
        // At the same moment, and from a daemon that tells of none.
        usage.add(sample(at(3000), &[("a", 4)]));
        assert_eq!(usage.percent("a"), None);
        usage.add(sample(at(4000), &[]));
        assert_eq!(usage.percent("a"), None);
    }
}
