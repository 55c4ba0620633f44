//! Why a machine is reset, shut down or woken (spec, sections 2.1 and 2.2).

use super::state::named_enum;

named_enum! {
    /// Why a reset or a shutdown was asked for. The order matters: from `guest-shutdown` on it is the guest's doing.
    ShutdownCause, "shutdown cause" {
        /// No cause; a reset with it is silent.
        None = "none",
        /// A device or the accelerator failed.
        HostError = "host-error",
        /// The `quit` command.
        HostQmpQuit = "host-qmp-quit",
        /// The `system_reset` command.
        HostQmpSystemReset = "host-qmp-system-reset",
        /// SIGINT, SIGTERM or SIGHUP.
        HostSignal = "host-signal",
        /// A window was closed.
        HostUi = "host-ui",
        /// ACPI S5 or S4.
        GuestShutdown = "guest-shutdown",
        /// Port 0xcf9, the keyboard controller, port 0x92, a triple fault, the watchdog.
        GuestReset = "guest-reset",
        /// A panic with a panic action that shuts down.
        GuestPanic = "guest-panic",
        /// A partial reset (s390): no event, and the reboot action does not apply.
        SubsystemReset = "subsystem-reset",
        /// A snapshot is loaded while replaying: no event.
        SnapshotLoad = "snapshot-load",
    }
}

impl ShutdownCause {
    /// Whether the guest caused it: the `guest` flag of RESET and SHUTDOWN.
    pub fn is_guest(self) -> bool {
        self >= Self::GuestShutdown
    }

    /// Whether a reset with this cause emits RESET (spec, section 6).
    pub(super) fn reset_is_reported(self) -> bool {
        !matches!(self, Self::None | Self::SubsystemReset | Self::SnapshotLoad)
    }
}

named_enum! {
    /// What wakes a suspended guest.
    WakeupReason, "wake-up reason" {
        /// Nothing; never enabled.
        None = "none",
        /// The alarm of the real-time clock.
        Rtc = "rtc",
        /// The ACPI power-management timer.
        PmTimer = "pmtimer",
        /// The command, or any other source; always enabled.
        Other = "other",
    }
}

/// Which reasons may wake the guest (spec, section 7). At start all but `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WakeupMask {
    /// `rtc` wakes.
    pub rtc: bool,
    /// `pmtimer` wakes.
    pub pm_timer: bool,
}

impl Default for WakeupMask {
    fn default() -> Self {
        Self {
            rtc: true,
            pm_timer: true,
        }
    }
}

impl WakeupMask {
    /// Whether `reason` may wake the guest.
    pub fn allows(self, reason: WakeupReason) -> bool {
        match reason {
            WakeupReason::None => false,
            WakeupReason::Rtc => self.rtc,
            WakeupReason::PmTimer => self.pm_timer,
            WakeupReason::Other => true,
        }
    }
}
