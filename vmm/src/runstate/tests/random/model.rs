//! The specification as a program: what a machine does with a step, line by line.
//!
//! Written against the text, not against the core. Where the core has one slot a kind of request, this has the whole
//! list of what was asked since; the overwrite rules are which of them is taken.

use crate::runstate::{RunState::*, *};

/// The change-state handlers, in the order of a start; `handlers` is the rig's own.
pub(super) const HANDLERS: [(i32, &str); 5] = [
    (-3, "first"),
    (-1, "second"),
    (0, "handlers"),
    (0, "fourth"),
    (7, "last"),
];

/// Something asked for and not served yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nmi,
    Debug,
    Suspend,
    Shutdown(ShutdownCause),
    Reset(ShutdownCause),
    Wakeup(WakeupReason),
    Powerdown,
    VmStop(RunState),
}

/// How a machine fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// It could not do this.
    Machine(&'static str),
    Illegal(RunState, RunState),
}

/// Why a command is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    Refused(Refusal),
    Broken(Broken),
}

impl From<Broken> for Rejected {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

pub(super) struct Model {
    pub(super) table: TransitionTable,
    pub(super) state: RunState,
    pub(super) actions: Actions,
    pub(super) mask: WakeupMask,
    pub(super) wakeup_supported: bool,
    pub(super) autostart: bool,
    /// The call that fails.
    pub(super) fails: Option<&'static str>,
    /// What is raised in the middle of the step that writes a line.
    pub(super) during: Vec<(&'static str, Request)>,
    pub(super) ended: bool,
    pub(super) dropped: u64,
    asked: Vec<Asked>,
    /// While the main loop writes to a port: whether the guest panicked of it.
    outside: Option<bool>,
    lines: Vec<String>,
}

impl Model {
    pub(super) fn new(table: TransitionTable, state: RunState, actions: Actions) -> Self {
        Self {
            table,
            state,
            actions,
            mask: WakeupMask::default(),
            wakeup_supported: true,
            autostart: true,
            fails: None,
            during: Vec::new(),
            ended: false,
            dropped: 0,
            asked: Vec::new(),
            outside: None,
            lines: Vec::new(),
        }
    }

    pub(super) fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    pub(super) fn waits_for_wakeup(&self) -> bool {
        let wakeup = |asked: &Asked| matches!(asked, Asked::Wakeup(_));
        self.asked.iter().any(wakeup)
    }

    /// Sections 3.1 and 4.1: what stops the vCPU that asked.
    pub(super) fn stops_vcpu(&self) -> bool {
        let latest = |asked: &&Asked| matches!(asked, Asked::Shutdown(_));
        let shutdown = self.asked.iter().rfind(latest);
        let stops = |asked: &Asked| {
            use Asked::{Debug, Reset, Suspend, VmStop};
            matches!(asked, Debug | Suspend | Reset(_) | VmStop(_))
        };
        self.asked.iter().any(stops)
            || shutdown == Some(&Asked::Shutdown(ShutdownCause::GuestReset))
    }

    fn allows(&self, to: RunState) -> bool {
        self.state == to || self.table.allows(self.state, to)
    }

    fn event(&mut self, event: &str) {
        if !self.ended {
            self.lines.push(format!("{event} @{}", self.state));
        }
    }

    fn line(&mut self, line: &str) {
        self.lines.push(line.to_owned());
        let during = std::mem::take(&mut self.during);
        let (now, later) = during.into_iter().partition(|(at, _)| *at == line);
        self.during = later;
        for (_, request) in Vec::from_iter::<Vec<_>>(now) {
            self.raise(request);
        }
    }

    fn call(&mut self, name: &'static str) -> Result<(), Broken> {
        self.line(name);
        if self.fails != Some(name) {
            return Ok(());
        }
        Err(Broken::Machine(match name {
            "pause" => "pause the vCPUs",
            "resume" => "resume the vCPUs",
            "reset" => "reset the machine",
            "wake up" => "wake the machine up",
            "nmi" => "inject an NMI",
            other => other,
        }))
    }

    // Section 3.1 and what it refers to: raising.

    pub(super) fn raise(&mut self, request: Request) {
        match request {
            Request::Debug => self.asked.push(Asked::Debug),
            Request::Suspend if self.state == Suspended => {}
            Request::Suspend => self.asked.push(Asked::Suspend),
            Request::SuspendDisk => {
                self.event("SUSPEND_DISK");
                self.raise(Request::Shutdown(ShutdownCause::GuestShutdown));
            }
            Request::Shutdown(cause) => self.asked.push(Asked::Shutdown(cause)),
            Request::Reset(cause @ ShutdownCause::SubsystemReset) => {
                self.asked.push(Asked::Reset(cause));
            }
            Request::Reset(cause) => self.asked.push(match self.actions.reboot {
                RebootAction::Reset => Asked::Reset(cause),
                RebootAction::Shutdown => Asked::Shutdown(cause),
            }),
            Request::Wakeup(reason) => drop(self.wake_up(reason)),
            Request::Powerdown => self.asked.push(Asked::Powerdown),
            Request::VmStop(target) => self.asked.push(Asked::VmStop(target)),
            Request::GuestPanicked => self.panic(),
            Request::GuestCrashloaded => self.event("GUEST_CRASHLOADED"),
            Request::WatchdogExpired => self.watchdog(),
            Request::DeviceError(error) => {
                self.event(&format!("DEVICE_ERROR {} {}", error.device, error.fault));
            }
            Request::BalloonChange(actual) => self.event(&format!("BALLOON_CHANGE {actual}")),
            Request::BlockIoError(error) => {
                self.event(&format!(
                    "BLOCK_IO_ERROR {} {}",
                    error.operation, error.action
                ));
                if error.action == BlockErrorAction::Stop {
                    self.raise(Request::VmStop(RunState::IoError));
                }
            }
        }
    }

    fn wake_up(&mut self, reason: WakeupReason) -> Result<(), Refusal> {
        if self.state != Suspended || self.ended {
            return Err(Refusal::NotSuspended);
        }
        let wakes = match reason {
            WakeupReason::None => false,
            WakeupReason::Rtc => self.mask.rtc,
            WakeupReason::PmTimer => self.mask.pm_timer,
            WakeupReason::Other => true,
        };
        if wakes {
            self.state = Running;
            self.asked.push(Asked::Wakeup(reason));
        }
        Ok(())
    }

    fn panic(&mut self) {
        let (told, stops, ends) = match (self.actions.panic, self.actions.shutdown) {
            (PanicAction::None, _) => ("run", false, false),
            (PanicAction::Pause, _) | (PanicAction::Shutdown, ShutdownAction::Pause) => {
                ("pause", true, false)
            }
            (PanicAction::Shutdown | PanicAction::ExitFailure, _) => ("poweroff", true, true),
        };
        self.event(&format!("GUEST_PANICKED {told}"));
        if stops {
            if let Some(panicked) = &mut self.outside {
                *panicked = true;
            } else {
                self.asked.push(Asked::VmStop(GuestPanicked));
            }
        }
        if ends {
            self.raise(Request::Shutdown(ShutdownCause::GuestPanic));
        }
    }

    fn watchdog(&mut self) {
        let action = self.actions.watchdog;
        self.event(&format!("WATCHDOG {action}"));
        match action {
            WatchdogAction::Reset => self.raise(Request::Reset(ShutdownCause::GuestReset)),
            WatchdogAction::Shutdown => self.raise(Request::Powerdown),
            WatchdogAction::Poweroff => self.ended = true,
            WatchdogAction::Pause => self.raise(Request::VmStop(RunState::Watchdog)),
            WatchdogAction::InjectNmi => self.asked.push(Asked::Nmi),
            WatchdogAction::Debug | WatchdogAction::None => {}
        }
    }

    // Section 3.2: the pass.

    /// All of one kind, in the order of raising.
    fn take<T>(&mut self, kind: impl Fn(Asked) -> Option<T>) -> Vec<T> {
        let taken = self.asked.iter().copied().filter_map(&kind).collect();
        self.asked.retain(|asked| kind(*asked).is_none());
        taken
    }

    fn take_flag(&mut self, flag: Asked) -> bool {
        let same = |asked| (asked == flag).then_some(());
        !self.take(same).is_empty()
    }

    pub(super) fn pass(&mut self) -> Result<Flow, Broken> {
        if self.ended {
            self.call("pause")?;
            return Ok(Flow::Exit(Exit::Watchdog));
        }
        if self.take_flag(Asked::Nmi) {
            let _ignored = self.call("nmi");
        }
        if self.take_flag(Asked::Debug) {
            self.stop(RunState::Debug)?;
        }
        if self.take_flag(Asked::Suspend) {
            self.serve_suspend()?;
        }
        let shutdown = |asked| match asked {
            Asked::Shutdown(cause) => Some(cause),
            _ => None,
        };
        if let Some(cause) = self.take(shutdown).pop()
            && let Some(exit) = self.serve_shutdown(cause)?
        {
            return Ok(Flow::Exit(exit));
        }
        let reset = |asked| match asked {
            Asked::Reset(cause) => Some(cause),
            _ => None,
        };
        if let Some(cause) = self.take(reset).pop() {
            self.serve_reset(cause)?;
        }
        let wakeup = |asked| match asked {
            Asked::Wakeup(reason) => Some(reason),
            _ => None,
        };
        if let Some(reason) = self.take(wakeup).pop() {
            self.call("pause")?;
            self.call("wake up")?;
            self.line(&format!("told wakeup {reason}"));
            // One raised meanwhile is served with this one.
            self.take(wakeup);
            self.resume()?;
            self.event("WAKEUP");
        }
        if self.take_flag(Asked::Powerdown) {
            self.event("POWERDOWN");
            self.line("told powerdown");
        }
        if let Some(target) = self.take_vmstop() {
            self.stop(target)?;
        }
        Ok(Flow::Continue)
    }

    /// Section 12. Nothing is registered to be closed.
    pub(super) fn clean_up(&mut self) {
        self.line("told exit");
    }

    fn take_vmstop(&mut self) -> Option<RunState> {
        let vmstop = |asked| match asked {
            Asked::VmStop(target) => Some(target),
            _ => None,
        };
        self.take(vmstop).pop()
    }

    fn serve_suspend(&mut self) -> Result<(), Broken> {
        if !self.allows(Suspended) {
            self.dropped += 1;
            return Ok(());
        }
        self.call("pause")?;
        self.line("told suspend");
        self.state = Suspended;
        self.event("SUSPEND");
        self.take_flag(Asked::Suspend);
        Ok(())
    }

    fn serve_shutdown(&mut self, cause: ShutdownCause) -> Result<Option<Exit>, Broken> {
        self.event(&format!("SHUTDOWN {cause}"));
        self.line(&format!("told shutdown {cause}"));
        if self.actions.shutdown == ShutdownAction::Pause {
            self.stop(RunState::Shutdown)?;
            return Ok(None);
        }
        self.ended = true;
        if self.state == Running {
            self.halt(RunState::Shutdown)?;
        }
        self.call("pause")?;
        let _errno = self.call("flush");
        let failure =
            cause == ShutdownCause::GuestPanic && self.actions.panic == PanicAction::ExitFailure;
        let status = if failure { 1 } else { 0 };
        Ok(Some(Exit::Shutdown { cause, status }))
    }

    fn serve_reset(&mut self, cause: ShutdownCause) -> Result<(), Broken> {
        let survives = [Running, InMigrate, FinishMigrate];
        if !survives.contains(&self.state) && !self.allows(Prelaunch) {
            self.dropped += 1;
            return Ok(());
        }
        self.call("pause")?;
        self.call("reset")?;
        if !survives.contains(&self.state) {
            self.state = Prelaunch;
        }
        use ShutdownCause::{None, SnapshotLoad, SubsystemReset};
        if ![None, SubsystemReset, SnapshotLoad].contains(&cause) {
            self.event(&format!("RESET {cause}"));
        }
        self.resume()
    }

    // Section 4: stop and start.

    /// Returns the errno of the flush.
    pub(super) fn stop(&mut self, target: RunState) -> Result<Option<i32>, Broken> {
        if self.state == Running {
            self.halt(target)?;
            self.event("STOP");
        }
        Ok(self.call("flush").err().map(|_| 5))
    }

    fn halt(&mut self, target: RunState) -> Result<(), Broken> {
        if !self.allows(target) || [Running, Suspended].contains(&target) {
            return Err(Broken::Illegal(self.state, target));
        }
        self.state = target;
        self.line("ticks off");
        self.call("pause")?;
        for (_, name) in HANDLERS.iter().rev() {
            self.line(&format!("{name} stop {target}"));
        }
        Ok(())
    }

    /// As a debugger or a snapshot starts the guest: section 16, case 9.
    pub(super) fn start(&mut self) -> Result<(), Rejected> {
        if self.state == Suspended {
            return Err(Rejected::Refused(Refusal::Suspended));
        }
        Ok(self.bring_up()?)
    }

    fn bring_up(&mut self) -> Result<(), Broken> {
        let discarded = self.take_vmstop().is_some();
        match self.state {
            Running if discarded => {
                self.event("STOP");
                self.event("RESUME");
                self.resume()
            }
            Running => Ok(()),
            from if !self.allows(Running) => Err(Broken::Illegal(from, Running)),
            _ => {
                self.state = Running;
                self.event("RESUME");
                self.line("ticks on");
                for (_, name) in HANDLERS {
                    self.line(&format!("{name} start running"));
                }
                self.resume()
            }
        }
    }

    fn resume(&mut self) -> Result<(), Broken> {
        if self.state == Running {
            self.call("resume")?;
        }
        Ok(())
    }

    // Section 5: the commands.

    pub(super) fn command(&mut self, command: Command) -> Result<(), Rejected> {
        if self.ended {
            return Ok(());
        }
        match (command, self.state) {
            (Command::Stop, InMigrate) => self.autostart = false,
            (Command::Stop, _) => drop(self.stop(Paused)?),
            (Command::Cont, InternalError | Shutdown) => {
                return Err(Rejected::Refused(Refusal::ResetRequired));
            }
            (Command::Cont, FinishMigrate) => {
                return Err(Rejected::Refused(Refusal::MigrationNotFinalized));
            }
            (Command::Cont, Suspended) => {}
            (Command::Cont, InMigrate) => self.autostart = true,
            (Command::Cont, _) => self.bring_up()?,
            (Command::SystemReset, from @ (SaveVm | Colo))
                if self.actions.reboot == RebootAction::Reset && !self.allows(Prelaunch) =>
            {
                let to = Prelaunch;
                let illegal = IllegalTransition { from, to };
                return Err(Rejected::Refused(illegal.into()));
            }
            (Command::SystemReset, _) => {
                self.raise(Request::Reset(ShutdownCause::HostQmpSystemReset));
            }
            (Command::SystemPowerdown, _) => self.raise(Request::Powerdown),
            (Command::SystemWakeup, _) if !self.wakeup_supported => {
                return Err(Rejected::Refused(Refusal::WakeupUnsupported));
            }
            (Command::SystemWakeup, _) => self
                .wake_up(WakeupReason::Other)
                .map_err(Rejected::Refused)?,
            (Command::InjectNmi, _) => self.call("nmi")?,
            (Command::SetAction(change), _) => self.set_actions(change),
            (Command::PortWrite { port, value, size }, _) => {
                let bytes = value.to_le_bytes();
                self.outside = Some(false);
                self.line(&format!("port {port:#x} {:02x?}", &bytes[..size.into()]));
                if self.outside.take() == Some(true) {
                    self.stop(GuestPanicked)?;
                }
            }
            (Command::Quit, _) => self.end(ShutdownCause::HostQmpQuit),
            (Command::Kill, _) => self.end(ShutdownCause::HostSignal),
        }
        Ok(())
    }

    fn set_actions(&mut self, change: ActionChange) {
        let actions = &mut self.actions;
        if let Some(reboot) = change.reboot {
            actions.reboot = reboot;
        }
        if let Some(shutdown) = change.shutdown {
            actions.shutdown = shutdown;
        }
        if let Some(panic) = change.panic {
            actions.panic = panic;
        }
        if let Some(watchdog) = change.watchdog {
            actions.watchdog = watchdog;
        }
    }

    fn end(&mut self, cause: ShutdownCause) {
        self.actions.shutdown = ShutdownAction::Poweroff;
        self.raise(Request::Shutdown(cause));
    }
}
