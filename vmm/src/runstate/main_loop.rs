//! The main loop: the only place where a machine's run state moves (spec, sections 3.2 and 4).
//!
//! ```text
//!   one pass:  debug -> suspend -> shutdown -> reset -> wakeup -> powerdown -> vmstop
//!                                     |
//!                                     +--> action poweroff: leave at once, the rest is lost; the cleanup begins
//! ```
//! Every target state is checked before any side effect or event (spec, section 16): a request that came too late is
//! dropped and counted, a command is refused, and only a transition of the engine's own that the table forbids is a
//! [`Failure`].

use super::{
    ActionChange, ChangeHandlers, Closers, CommandError, Event, Failure, IllegalTransition,
    Machine, Notifiers, PanicAction, Refusal, Requests, RunState, ShutdownAction, ShutdownCause,
    WakeupReason,
    error::chain,
    journal::{Call, Driven, Dropped, Entry, Outcome},
    requests::Serving,
    trace,
};

/// Whether the machine goes on after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// It has ended.
    Exit(Exit),
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A shutdown request was served with action `poweroff`.
    Shutdown {
        /// Whose request it was.
        cause: ShutdownCause,
        /// 1 after a panic with action `exit-failure`, else 0.
        status: u8,
    },
    /// The watchdog expired with action `poweroff`; exit status 0.
    Watchdog,
}

/// The run-state engine of one machine. Whoever owns it calls [`MainLoop::pass`] each time the pending set wakes it,
/// and after each command.
pub struct MainLoop<M> {
    pub(super) requests: Serving,
    pub(super) machine: Driven<M>,
    /// Told when the vCPUs start and stop.
    pub handlers: ChangeHandlers,
    /// Told of powerdown, suspend, wake-up, shutdown and the end.
    pub notifiers: Notifiers,
    /// What is closed at the end.
    pub closers: Closers,
    /// Whether an incoming migration starts the guest at its end; `stop` and `cont` set it in `inmigrate`.
    pub(super) autostart: bool,
    /// Gates the command only, not the wake-ups that hardware raises.
    pub(super) wakeup_supported: bool,
}

impl<M: Machine> MainLoop<M> {
    /// A main loop in the state that `requests` is in.
    pub fn new(requests: Requests, machine: M) -> Self {
        let requests = Serving::new(requests);
        Self {
            machine: Driven::new(machine, requests.clone()),
            requests,
            handlers: ChangeHandlers::default(),
            notifiers: Notifiers::default(),
            closers: Closers::default(),
            autostart: true,
            wakeup_supported: true,
        }
    }

    /// The machine that is driven.
    pub fn machine(&self) -> &M {
        &self.machine.machine
    }

    /// The machine that is driven, for timers and devices. Its vCPUs are the main loop's alone.
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine.machine
    }

    /// Whether `system_wakeup` is offered; at first it is.
    pub fn wakeup_supported(&self) -> bool {
        self.wakeup_supported
    }

    /// Tells whether the machine has what it takes to wake from S3, such as ACPI PM1 control (spec, section 7).
    pub fn set_wakeup_supported(&mut self, supported: bool) {
        self.requests.called(Call::WakeupSupported(supported));
        self.wakeup_supported = supported;
        self.requests.returned(|| None);
    }

    /// Whether an incoming migration is to start the guest at its end (spec, section 5).
    pub fn autostart(&self) -> bool {
        self.autostart
    }

    /// Ends the engine and gives the machine back.
    pub fn into_machine(self) -> M {
        self.machine.machine
    }

    /// Serves what is pending, once, in the spec's order. After [`Flow::Exit`] and after a failure there must be no other
    /// pass, but [`MainLoop::clean_up`].
    pub async fn pass(&mut self) -> Result<Flow, Failure> {
        self.requests.called(Call::Pass);
        let result = self.serve().await;
        self.requests.returned(|| match &result {
            Ok(Flow::Continue) => None,
            Ok(Flow::Exit(exit)) => Some(Entry::Outcome(Outcome::Exit(*exit))),
            Err(failure) => Some(told(failure)),
        });
        result
    }

    async fn serve(&mut self) -> Result<Flow, Failure> {
        if self.requests.ended() {
            // The watchdog's poweroff, the spec's second way out: no SHUTDOWN, the run state stays.
            self.pause().await?;
            return Ok(Flow::Exit(Exit::Watchdog));
        }
        if self.requests.take_nmi() {
            // The watchdog's; QEMU ignores its errors.
            drop(self.machine.inject_nmi().await);
        }
        if self.requests.take_debug() {
            self.bring_down(RunState::Debug).await?;
        }
        if self.requests.take_suspend() {
            self.serve_suspend().await?;
        }
        if let Some(cause) = self.requests.take_shutdown()
            && let Flow::Exit(exit) = self.serve_shutdown(cause).await?
        {
            return Ok(Flow::Exit(exit));
        }
        if let Some(cause) = self.requests.take_reset() {
            self.serve_reset(cause).await?;
        }
        if let Some(reason) = self.requests.wakeup() {
            self.serve_wakeup(reason).await?;
        }
        if self.requests.take_powerdown() {
            self.requests.emit(Event::Powerdown);
            self.notifiers.powerdown.notify(&());
        }
        if let Some(target) = self.requests.take_vmstop() {
            self.bring_down(target).await?;
        }
        Ok(Flow::Continue)
    }

    async fn serve_suspend(&mut self) -> Result<(), Failure> {
        if self.requests.allows(RunState::Suspended).is_err() {
            // Another request stopped the machine first; QEMU aborts here.
            self.requests.count_dropped(Dropped::Suspend);
            return Ok(());
        }
        self.pause().await?;
        self.notifiers.suspend.notify(&());
        self.requests
            .set_state_and_emit(RunState::Suspended, Event::Suspend)?;
        // Another vCPU may have asked as well while this was served: that is done now.
        self.requests.take_suspend();
        Ok(())
    }

    async fn serve_shutdown(&mut self, cause: ShutdownCause) -> Result<Flow, Failure> {
        self.requests.emit(Event::Shutdown(cause));
        self.notifiers.shutdown.notify(&cause);
        let actions = self.requests.actions();
        if actions.shutdown == ShutdownAction::Pause {
            self.bring_down(RunState::Shutdown).await?;
            return Ok(Flow::Continue);
        }
        self.requests.end();
        self.clean_up_before_stop().await;
        // The stop at the end of a machine: no STOP, and a failed flush changes nothing.
        self.halt(RunState::Shutdown).await?;
        self.pause().await?;
        trace::vm_stop_flush_all(self.machine.drain_and_flush().await.err());
        let failed =
            cause == ShutdownCause::GuestPanic && actions.panic == PanicAction::ExitFailure;
        Ok(Flow::Exit(Exit::Shutdown {
            cause,
            status: failed.into(),
        }))
    }

    async fn serve_reset(&mut self, cause: ShutdownCause) -> Result<(), Failure> {
        if self.requests.check_reset().is_err() {
            self.requests.count_dropped(Dropped::Reset);
            return Ok(());
        }
        self.pause().await?;
        self.machine
            .reset()
            .await
            .map_err(failed("reset the machine"))?;
        // The state may have changed while the vCPUs were being paused; what counts is the one now.
        self.requests.finish_reset(cause)?;
        self.resume_if_running()
    }

    async fn serve_wakeup(&mut self, reason: WakeupReason) -> Result<(), Failure> {
        self.pause().await?;
        self.machine
            .wake_up()
            .await
            .map_err(failed("wake the machine up"))?;
        self.notifiers.wakeup.notify(&reason);
        self.requests.clear_wakeup();
        self.resume_if_running()?;
        self.requests.emit(Event::Wakeup);
        Ok(())
    }

    /// Stops a running machine in `target`, with a STOP event; a machine that does not run keeps its state. Drains
    /// and flushes the disks in either case (spec, section 4.1). Returns the errno of a failed flush, which does not
    /// undo the stop.
    pub async fn stop(&mut self, target: RunState) -> Result<Option<i32>, Failure> {
        self.requests.called(Call::Stop(target));
        let result = self.bring_down(target).await;
        self.requests.returned(|| match &result {
            Ok(errno) => errno.map(|errno| Entry::Outcome(Outcome::Errno(errno))),
            Err(failure) => Some(told(failure)),
        });
        result
    }

    pub(super) async fn bring_down(&mut self, target: RunState) -> Result<Option<i32>, Failure> {
        if self.halt(target).await? {
            self.requests.emit(Event::Stop);
        }
        let errno = self.machine.drain_and_flush().await.err();
        trace::vm_stop_flush_all(errno);
        Ok(errno)
    }

    /// Returns whether the machine was running.
    async fn halt(&mut self, target: RunState) -> Result<bool, Failure> {
        let from = self.requests.state();
        if !from.is_running() {
            return Ok(false);
        }
        if matches!(target, RunState::Running | RunState::Suspended) {
            // No stops, whatever the table says: the guest would not run in `running`, or sleep without a wake-up.
            return Err(IllegalTransition { from, to: target }.into());
        }
        self.requests.set_state(target)?;
        self.machine.set_ticks(false);
        self.pause().await?;
        self.handlers.notify(false, target);
        Ok(true)
    }

    /// Starts the vCPUs (spec, section 4.2). A stop that is pending is consumed: if the machine still runs, the
    /// client that was told of the cause sees STOP and RESUME all the same. Refused in `suspended`: the guest would go
    /// on without a wake-up (spec, section 16).
    pub fn start(&mut self) -> Result<(), CommandError> {
        self.requests.called(Call::Start);
        let result = match self.requests.state() {
            RunState::Suspended => Err(Refusal::Suspended.into()),
            _ => self.bring_up().map_err(CommandError::from),
        };
        self.requests
            .returned(|| result.as_ref().err().map(answered));
        result
    }

    pub(super) fn bring_up(&mut self) -> Result<(), Failure> {
        let stop_pending = self.requests.take_vmstop().is_some();
        if self.requests.state().is_running() {
            if stop_pending {
                self.requests.emit(Event::Stop);
                self.requests.emit(Event::Resume);
                // The vCPU that asked for the stop has stopped itself.
                self.resume_if_running()?;
            }
            return Ok(());
        }
        self.requests
            .set_state_and_emit(RunState::Running, Event::Resume)?;
        self.machine.set_ticks(true);
        self.handlers.notify(true, RunState::Running);
        self.resume_if_running()
    }

    async fn pause(&mut self) -> Result<(), Failure> {
        self.machine
            .pause_vcpus()
            .await
            .map_err(failed("pause the vCPUs"))
    }

    fn resume_if_running(&mut self) -> Result<(), Failure> {
        if self.requests.state().is_running() {
            self.machine
                .resume_vcpus()
                .map_err(failed("resume the vCPUs"))?;
        }
        Ok(())
    }

    /// From now on a shutdown ends the machine, whatever was set (spec, section 3.1: quit and signals).
    pub(super) fn force_poweroff(&mut self) {
        self.requests.change_actions(ActionChange {
            shutdown: Some(ShutdownAction::Poweroff),
            ..ActionChange::default()
        });
    }
}

/// Why a call was not carried out, as the journal has it.
pub(super) fn answered(error: &CommandError) -> Entry {
    match error {
        CommandError::Refused(refusal) => Entry::Outcome(Outcome::Refused(refusal.to_string())),
        CommandError::Failed(failure) => told(failure),
    }
}

/// The machine has failed, as the journal has it.
fn told(failure: &Failure) -> Entry {
    Entry::Outcome(Outcome::Failed(chain(failure)))
}

pub(super) fn failed<E: std::error::Error + Send + Sync + 'static>(
    action: &'static str,
) -> impl FnOnce(E) -> Failure {
    move |source| Failure::Machine {
        action,
        source: Box::new(source),
    }
}
