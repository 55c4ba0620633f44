//! Whether and when a machine that has ended is started again.

use std::time::{Duration, SystemTime};

use vmm::runstate::ShutdownCause;

use super::{EndKind, Status};

/// A machine that was up for so long counts as new.
const WELL: Duration = Duration::from_secs(600);

/// After which ends a machine is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartMode {
    /// None.
    #[default]
    Never,
    /// Failures.
    OnFailure,
    /// All that nobody asked for from outside.
    Always,
}

/// A machine's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// After which ends.
    pub mode: RestartMode,
    /// How often in a row; 0 is no limit.
    pub max_restarts: u32,
    /// The wait before the first.
    pub initial_backoff: Duration,
    /// The longest wait.
    pub max_backoff: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            mode: RestartMode::default(),
            max_restarts: 0,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
        }
    }
}

/// A start to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NextStart {
    /// Which restart in a row.
    pub(super) restart: u32,
    /// How long to wait.
    pub(super) wait: Duration,
}

impl RestartPolicy {
    /// What follows the end, at `time`, of a machine with `status`; or how many restarts in a row it has had.
    pub(super) fn after_end(
        &self,
        kind: &EndKind,
        status: &Status,
        time: SystemTime,
    ) -> Result<NextStart, u32> {
        let up = time.duration_since(status.started).unwrap_or_default();
        let restarts = if up >= WELL { 0 } else { status.restarts };
        if self.applies(kind) {
            self.after(restarts)
        } else {
            Err(restarts)
        }
    }

    /// What follows `restarts` restarts in a row; or their number, if that is all.
    pub(super) fn after(&self, restarts: u32) -> Result<NextStart, u32> {
        if self.max_restarts != 0 && restarts >= self.max_restarts {
            return Err(restarts);
        }
        let factor = 2_u32.checked_pow(restarts).unwrap_or(u32::MAX);
        let wait = self.initial_backoff.saturating_mul(factor);
        Ok(NextStart {
            restart: restarts.saturating_add(1),
            wait: wait.min(self.max_backoff),
        })
    }

    /// What follows when the restart with number `restart` had to wait: there is no room for the machine now. It does not
    /// count.
    pub(super) fn later(&self, restart: u32) -> NextStart {
        NextStart {
            restart,
            wait: self.max_backoff,
        }
    }

    fn applies(&self, kind: &EndKind) -> bool {
        let (failure, asked) = match kind {
            EndKind::Lost | EndKind::Failed(_) | EndKind::Watchdog => (true, false),
            EndKind::Shutdown { cause, exit_status } => {
                use ShutdownCause as Cause;
                let failure =
                    *exit_status != 0 || matches!(cause, Cause::GuestPanic | Cause::HostError);
                let asked = matches!(
                    cause,
                    Cause::HostQmpQuit | Cause::HostSignal | Cause::HostUi
                );
                (failure, asked)
            }
        };
        match self.mode {
            RestartMode::Never => false,
            RestartMode::OnFailure => failure && !asked,
            RestartMode::Always => !asked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::check::{Limits, definition};

    fn shutdown(cause: ShutdownCause, exit_status: u8) -> EndKind {
        EndKind::Shutdown { cause, exit_status }
    }

    #[test]
    fn each_mode_has_its_ends() {
        use ShutdownCause as Cause;
        let failures = [
            EndKind::Lost,
            EndKind::Failed("bug".into()),
            EndKind::Watchdog,
            shutdown(Cause::GuestPanic, 0),
            shutdown(Cause::GuestPanic, 1),
            shutdown(Cause::GuestShutdown, 1),
        ];
        let others = [
            shutdown(Cause::GuestShutdown, 0),
            shutdown(Cause::GuestReset, 0),
        ];
        let asked = [
            shutdown(Cause::HostQmpQuit, 0),
            shutdown(Cause::HostSignal, 0),
        ];
        for (mode, starts) in [
            (RestartMode::Never, [false, false, false]),
            (RestartMode::OnFailure, [true, false, false]),
            (RestartMode::Always, [true, true, false]),
        ] {
            let policy = RestartPolicy {
                mode,
                ..Default::default()
            };
            let ends = [&failures[..], &others[..], &asked[..]];
            for (ends, starts) in ends.into_iter().zip(starts) {
                for end in ends {
                    assert_eq!(policy.applies(end), starts, "{mode:?} {end:?}");
                }
            }
        }
    }

    #[test]
    fn the_wait_doubles_up_to_a_limit() {
        let policy = RestartPolicy {
            max_backoff: Duration::from_secs(5),
            max_restarts: 40,
            ..Default::default()
        };
        let wait = |restarts| policy.after(restarts).map(|next| next.wait.as_secs());
        let waits: Vec<_> = [0, 1, 2, 3, 39].map(wait).into();
        assert_eq!(waits, [Ok(1), Ok(2), Ok(4), Ok(5), Ok(5)]);
        assert_eq!(wait(40), Err(40));
        let endless = RestartPolicy {
            max_restarts: 0,
            ..policy
        };
        assert_eq!(endless.after(u32::MAX).unwrap().wait.as_secs(), 5);
    }

    #[test]
    fn a_machine_that_was_up_counts_as_new() {
        let policy = RestartPolicy {
            mode: RestartMode::OnFailure,
            max_restarts: 3,
            ..Default::default()
        };
        let definition = definition(&Limits::NONE, Default::default(), Default::default()).unwrap();
        let status = Status {
            restarts: 3,
            ..Status::new(definition.into())
        };
        let after = |up| policy.after_end(&EndKind::Lost, &status, status.started + up);
        assert_eq!(after(Duration::from_secs(599)), Err(3));
        assert_eq!(after(WELL).unwrap().restart, 1);
    }
}
