//! What a reboot, a shutdown, a panic or the watchdog does (spec, section 2.3; QEMU 7.2's spellings).

use super::state::named_enum;

named_enum! {
    /// What a reset request does.
    RebootAction, "reboot action" {
        /// Resets.
        Reset = "reset",
        /// Shuts down instead.
        Shutdown = "shutdown",
    }
}

named_enum! {
    /// What a served shutdown request does.
    ShutdownAction, "shutdown action" {
        /// Ends the machine.
        Poweroff = "poweroff",
        /// Stops it in run state `shutdown`.
        Pause = "pause",
    }
}

named_enum! {
    /// What a guest's panic does.
    PanicAction, "panic action" {
        /// Shuts down; as `pause` while the shutdown action is `pause`.
        Shutdown = "shutdown",
        /// Stops in run state `guest-panicked`.
        Pause = "pause",
        /// Shuts down with exit status 1.
        ExitFailure = "exit-failure",
        /// Goes on.
        None = "none",
    }
}

named_enum! {
    /// What the expiry of the watchdog does.
    WatchdogAction, "watchdog action" {
        /// Raises a reset.
        Reset = "reset",
        /// Presses the power button.
        Shutdown = "shutdown",
        /// Ends the machine at once, without SHUTDOWN.
        Poweroff = "poweroff",
        /// Stops in run state `watchdog`.
        Pause = "pause",
        /// Logs a line.
        Debug = "debug",
        /// Nothing but the event.
        None = "none",
        /// Sends an NMI to the vCPUs.
        InjectNmi = "inject-nmi",
    }
}

named_enum! {
    /// What an I/O error of a disk does (spec, section 10). Reads and writes have one each.
    ErrorPolicy, "error policy" {
        /// The guest is told.
        Report = "report",
        /// The guest is told that the request succeeded.
        Ignore = "ignore",
        /// If the host has no space left, as `stop`, else as `report`.
        Enospc = "enospc",
        /// The machine stops in run state `io-error`; the request is tried again when it goes on.
        Stop = "stop",
    }
}

/// The actions in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actions {
    /// On a reset request.
    pub reboot: RebootAction,
    /// On a shutdown request.
    pub shutdown: ShutdownAction,
    /// On a panic.
    pub panic: PanicAction,
    /// On expiry of the watchdog.
    pub watchdog: WatchdogAction,
}

impl Default for Actions {
    fn default() -> Self {
        Self {
            reboot: RebootAction::Reset,
            shutdown: ShutdownAction::Poweroff,
            panic: PanicAction::Shutdown,
            watchdog: WatchdogAction::Reset,
        }
    }
}

/// A change to [`Actions`]: what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActionChange {
    /// New reboot action.
    pub reboot: Option<RebootAction>,
    /// New shutdown action.
    pub shutdown: Option<ShutdownAction>,
    /// New panic action.
    pub panic: Option<PanicAction>,
    /// New watchdog action.
    pub watchdog: Option<WatchdogAction>,
}

impl Actions {
    /// These actions after `change`.
    pub fn with(self, change: ActionChange) -> Self {
        Self {
            reboot: change.reboot.unwrap_or(self.reboot),
            shutdown: change.shutdown.unwrap_or(self.shutdown),
            panic: change.panic.unwrap_or(self.panic),
            watchdog: change.watchdog.unwrap_or(self.watchdog),
        }
    }
}
