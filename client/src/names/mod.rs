//! The words of the interface, as QEMU spells them.
//!
//! One table for each enum, read both ways through [`Spelled`]; [`event_name`] and [`event_data`]
//! give an event's name and data as QEMU's monitor would.

mod audit;
mod event;

pub use event::{event_data, event_name, event_names};

use crate::v1::{
    CpuModel, DiskFormat, ErrorPolicy, ExitKind, IoEngine, PanicAction, RebootAction, RestartMode,
    RunState, ShutdownAction, ShutdownCause, VirtioTransport, VmPhase, WatchdogAction,
    event::{BlockErrorAction, BlockOperation, DeviceFault, GuestPanicAction},
    vm_end,
};

/// An enum of the interface whose values have a spelling.
///
/// `UNSPECIFIED` has none: it is the absence of a value.
pub trait Spelled: Copy + PartialEq + TryFrom<i32> + 'static {
    /// Every value and its spelling, in the interface's order.
    const TABLE: &'static [(Self, &'static str)];

    /// The spelling of this value; `None` for `UNSPECIFIED`.
    fn spelling(self) -> Option<&'static str> {
        Self::TABLE
            .iter()
            .find(|(value, _)| *value == self)
            .map(|(_, text)| *text)
    }

    /// The value that is spelled `text`.
    fn from_spelling(text: &str) -> Option<Self> {
        Self::TABLE
            .iter()
            .find(|(_, spelling)| *spelling == text)
            .map(|(value, _)| *value)
    }

    /// The spelling of a message's field; `None` if it is unspecified or unknown here.
    fn spelling_of(raw: i32) -> Option<&'static str> {
        Self::try_from(raw).ok().and_then(Self::spelling)
    }
}

/// Writes the table of each enum.
macro_rules! spelled {
    ($($kind:ty { $($value:ident $text:literal,)* })*) => {$(
        impl Spelled for $kind {
            const TABLE: &'static [(Self, &'static str)] = &[$((Self::$value, $text),)*];
        }
    )*};
}

spelled! {
    RunState {
        Debug "debug",
        Inmigrate "inmigrate",
        InternalError "internal-error",
        IoError "io-error",
        Paused "paused",
        Postmigrate "postmigrate",
        Prelaunch "prelaunch",
        FinishMigrate "finish-migrate",
        RestoreVm "restore-vm",
        Running "running",
        SaveVm "save-vm",
        Shutdown "shutdown",
        Suspended "suspended",
        Watchdog "watchdog",
        GuestPanicked "guest-panicked",
        Colo "colo",
    }
    ShutdownCause {
        None "none",
        HostError "host-error",
        HostQmpQuit "host-qmp-quit",
        HostQmpSystemReset "host-qmp-system-reset",
        HostSignal "host-signal",
        HostUi "host-ui",
        GuestShutdown "guest-shutdown",
        GuestReset "guest-reset",
        GuestPanic "guest-panic",
        SubsystemReset "subsystem-reset",
        SnapshotLoad "snapshot-load",
    }
    RebootAction {
        Reset "reset",
        Shutdown "shutdown",
    }
    ShutdownAction {
        Poweroff "poweroff",
        Pause "pause",
    }
    PanicAction {
        Shutdown "shutdown",
        Pause "pause",
        ExitFailure "exit-failure",
        None "none",
    }
    WatchdogAction {
        Reset "reset",
        Shutdown "shutdown",
        Poweroff "poweroff",
        Pause "pause",
        Debug "debug",
        None "none",
        InjectNmi "inject-nmi",
    }
    GuestPanicAction {
        Pause "pause",
        Poweroff "poweroff",
        Run "run",
    }
    CpuModel {
        Host "host",
        Portable "portable",
    }
    VirtioTransport {
        Mmio "mmio",
        Pci "pci",
    }
    BlockOperation {
        Read "read",
        Write "write",
    }
    BlockErrorAction {
        Ignore "ignore",
        Report "report",
        Stop "stop",
    }
    DeviceFault {
        Rings "rings",
        Chain "chain",
        Request "request",
        Queue "queue",
        Host "host",
        Panic "panic",
    }
    ErrorPolicy {
        Report "report",
        Ignore "ignore",
        Enospc "enospc",
        Stop "stop",
    }
    IoEngine {
        Auto "auto",
        IoUring "io-uring",
        Threads "threads",
    }
    DiskFormat {
        Raw "raw",
        Qcow2 "qcow2",
    }
    ExitKind {
        Io "io",
        Mmio "mmio",
        Hlt "hlt",
        IrqWindow "irq-window",
        Shutdown "shutdown",
        SystemEvent "system-event",
        InternalError "internal-error",
        FailEntry "fail-entry",
        Other "other",
        Failed "failed",
        Intr "intr",
    }
    VmPhase {
        Live "live",
        Ended "ended",
    }
    vm_end::Kind {
        Shutdown "shutdown",
        Watchdog "watchdog",
        Failed "failed",
        Lost "lost",
    }
    RestartMode {
        Never "never",
        OnFailure "on-failure",
        Always "always",
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fmt::Debug};

    use super::*;

    /// Checks that each value but `UNSPECIFIED` is in the table once and reads back, and that the
    /// spelling is the proto name's own: the prefix left out, lower case, dashes.
    fn complete<E: Spelled + Debug>(name_of: fn(&E) -> &'static str, prefix: &str) {
        assert_eq!(E::spelling_of(0), None);
        assert_eq!(E::from_spelling("unspecified"), None);
        assert_eq!(E::from_spelling(""), None);
        let mut seen = HashSet::new();
        let mut raw = 1;
        while let Ok(value) = E::try_from(raw) {
            let text = value
                .spelling()
                .unwrap_or_else(|| panic!("{value:?} is not in the table"));
            assert_eq!(E::from_spelling(text), Some(value));
            let expected = name_of(&value).strip_prefix(prefix).unwrap();
            assert_eq!(text, expected.to_lowercase().replace('_', "-"));
            assert!(seen.insert(text));
            raw += 1;
        }
        assert_eq!(E::TABLE.len(), seen.len());
        assert_eq!(E::spelling_of(raw), None);
    }

    #[test]
    fn every_value_of_every_enum_round_trips() {
        complete(RunState::as_str_name, "RUN_STATE_");
        complete(ShutdownCause::as_str_name, "SHUTDOWN_CAUSE_");
        complete(BlockOperation::as_str_name, "BLOCK_OPERATION_");
        complete(BlockErrorAction::as_str_name, "BLOCK_ERROR_ACTION_");
        complete(DeviceFault::as_str_name, "DEVICE_FAULT_");
        complete(IoEngine::as_str_name, "IO_ENGINE_");
        complete(DiskFormat::as_str_name, "DISK_FORMAT_");
        complete(ErrorPolicy::as_str_name, "ERROR_POLICY_");
        complete(RebootAction::as_str_name, "REBOOT_ACTION_");
        complete(ShutdownAction::as_str_name, "SHUTDOWN_ACTION_");
        complete(PanicAction::as_str_name, "PANIC_ACTION_");
        complete(WatchdogAction::as_str_name, "WATCHDOG_ACTION_");
        complete(GuestPanicAction::as_str_name, "GUEST_PANIC_ACTION_");
        complete(CpuModel::as_str_name, "CPU_MODEL_");
        complete(VirtioTransport::as_str_name, "VIRTIO_TRANSPORT_");
        complete(ExitKind::as_str_name, "EXIT_KIND_");
        complete(VmPhase::as_str_name, "VM_PHASE_");
        complete(vm_end::Kind::as_str_name, "KIND_");
        complete(RestartMode::as_str_name, "RESTART_MODE_");
        assert_eq!(RunState::TABLE.len(), 16);
    }
}
