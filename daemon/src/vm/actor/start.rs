//! How an actor's machine that has ended is started again: by a call, or by its restart policy.

use std::time::SystemTime;

use tokio::time::Instant;
use tracing::error;
use vmd_proto::v1::event::{self, Kind};
use vmm::runstate::{Command, RunState};

use super::{Actor, Live, Status, VmError};
use crate::vm::{CreateError, restart::NextStart};

impl Actor {
    pub(super) async fn start(&mut self, paused: bool) -> Result<Status, VmError> {
        if self.live.is_some() {
            return Err(VmError::NotEnded);
        }
        if self.daemon.is_ending() {
            return Err(CreateError::ShuttingDown.into());
        }
        self.build(None).await?;
        if paused {
            Ok(self.status())
        } else {
            self.command(Command::Cont).await
        }
    }

    /// Builds the machine anew: by its policy, the restart with this number in a row, or as somebody asked.
    async fn build(&mut self, restart: Option<u32>) -> Result<(), VmError> {
        let vm = self.vm.upgrade().ok_or(VmError::Gone)?;
        if let Some(account) = &self.account {
            self.daemon.limits.start(account, &vm.spec())?;
        }
        let live = match Live::build(&self.daemon, &vm, None).await {
            Ok(live) => live,
            Err(error) => {
                self.takes_nothing();
                return Err(error.into());
            }
        };
        self.parts.send_modify(|parts| {
            let ended = std::mem::replace(parts, live.parts());
            parts.previous_console = Some(ended.console);
        });
        self.live = Some(live);
        self.next_start = None;
        let anew = |status: &mut Status| {
            status.end = None;
            status.actions = status.spec.definition.actions;
            status.started = SystemTime::now();
            status.restarts = restart.unwrap_or(0);
            status.next_start = None;
        };
        let started = Kind::Started(event::Started { restart });
        self.publish_with(started, RunState::Prelaunch, anew);
        Ok(())
    }

    /// Starts the machine again, as its policy says.
    pub(super) async fn restart(&mut self) {
        self.next_start = None;
        // The semaphore is never closed.
        let daemon = self.daemon.clone();
        let _turn = daemon.restarts.acquire().await;
        if self.daemon.is_ending() {
            // The store knows when it was to be.
            return;
        }
        let status = self.status();
        let (state, restarts, spec) = (status.state, status.restarts, status.spec);
        match self.build(Some(restarts)).await {
            Ok(()) => {
                // Nobody waits for an answer; a failure has been published.
                let _ = self.command(Command::Cont).await;
            }
            Err(why) => {
                let reason = why.to_string();
                error!(reason, "the machine cannot be started again");
                let policy = &spec.definition.restart;
                let next = match why {
                    VmError::OverLimit(_) => Ok(policy.later(restarts)),
                    _ => policy.after(restarts),
                };
                let failed = Kind::RestartFailed(event::RestartFailed {
                    restart: restarts,
                    reason,
                });
                let planned = self.plan(next);
                self.publish_with(failed, state, planned);
            }
        }
    }

    /// Sees to the next start, if there is one; what that changes of the status.
    pub(super) fn plan(
        &mut self,
        next: Result<NextStart, u32>,
    ) -> impl FnOnce(&mut Status) + use<> {
        let (restarts, wait) = match next {
            Ok(NextStart { restart, wait }) => (restart, Some(wait)),
            Err(restarts) => (restarts, None),
        };
        self.next_start = wait.and_then(|wait| Instant::now().checked_add(wait));
        let time = wait.and_then(|wait| SystemTime::now().checked_add(wait));
        move |status| {
            status.restarts = restarts;
            status.next_start = time;
        }
    }

    pub(super) fn cancel_restart(&mut self) {
        self.next_start = None;
        let status = self.status();
        if status.next_start.is_some() {
            let cancelled = Kind::RestartCancelled(Default::default());
            self.publish_with(cancelled, status.state, |status| status.next_start = None);
        }
    }
}
