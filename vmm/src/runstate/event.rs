//! The events a machine emits.

use super::{RunState, ShutdownCause, WatchdogAction, state::named_enum};

named_enum! {
    /// What is done about a panic, as told in the event (spec, section 2.3).
    GuestPanicAction, "guest panic action" {
        /// The machine stops.
        Pause = "pause",
        /// The machine shuts down.
        Poweroff = "poweroff",
        /// The guest goes on.
        Run = "run",
    }
}

/// A lifecycle event, named as in QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The vCPUs were stopped.
    Stop,
    /// The vCPUs were started.
    Resume,
    /// Devices and vCPUs were reset.
    Reset(ShutdownCause),
    /// A shutdown request was served.
    Shutdown(ShutdownCause),
    /// The power button was pressed.
    Powerdown,
    /// The guest went to S3.
    Suspend,
    /// The guest went to S4.
    SuspendDisk,
    /// The guest left S3.
    Wakeup,
    /// The watchdog expired.
    Watchdog(WatchdogAction),
    /// The guest reported a panic.
    GuestPanicked(GuestPanicAction),
    /// The guest panicked and handles it itself.
    GuestCrashloaded,
}

impl Event {
    /// QEMU's name of the event.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "STOP",
            Self::Resume => "RESUME",
            Self::Reset(_) => "RESET",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::Powerdown => "POWERDOWN",
            Self::Suspend => "SUSPEND",
            Self::SuspendDisk => "SUSPEND_DISK",
            Self::Wakeup => "WAKEUP",
            Self::Watchdog(_) => "WATCHDOG",
            Self::GuestPanicked(_) => "GUEST_PANICKED",
            Self::GuestCrashloaded => "GUEST_CRASHLOADED",
        }
    }
}

/// An event and the run state it leaves the machine in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// What happened.
    pub event: Event,
    /// The run state after it.
    pub state: RunState,
}
