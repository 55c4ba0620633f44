//! Trace points, with QEMU's names and texts where it has them (spec, section 15); at level `debug`. And the one message
//! of QEMU's that belongs to the core (section 9); at level `info`.
//!
//! They are emitted in the span of whoever acts, which names the machine: `VMD_LOG=info,vmm::runstate=debug`.

use tracing::{debug, info};

use super::{Request, RunState, ShutdownCause, WakeupReason};

/// Of every trace point.
const TARGET: &str = "vmm::runstate";

/// The state is about to be set, also to itself, and also if that turns out illegal.
pub(super) fn runstate_set(current: RunState, new: RunState) {
    debug!(
        target: TARGET,
        %current,
        %new,
        "runstate_set current_run_state {} ({current}) new_state {} ({new})",
        current as u8,
        new as u8
    );
}

/// A round of change-state handlers begins.
pub(super) fn vm_state_notify(running: bool, state: RunState) {
    let number = u8::from(running);
    debug!(target: TARGET, running, %state, "vm_state_notify running {number} reason {} ({state})", state as u8);
}

/// The disks were drained and flushed; `errno` is 0 if that went well.
pub(super) fn vm_stop_flush_all(errno: Option<i32>) {
    let result = -errno.unwrap_or(0);
    debug!(target: TARGET, result, "vm_stop_flush_all ret {result}");
}

/// A wake-up is asked for; nothing has been checked yet.
pub(super) fn system_wakeup_request(reason: WakeupReason) {
    debug!(target: TARGET, %reason, "system_wakeup_request reason={}", reason as u8);
}

/// The watchdog expired with action `debug`: no trace point, but what QEMU says on standard error, in any case.
pub(super) fn watchdog_fired() {
    info!(target: TARGET, "watchdog: timer fired");
}

/// A request is raised. QEMU has no trace point for resets, suspends and stops, and none for shutdowns by a signal.
pub(super) fn raised(request: Request) {
    match request {
        Request::Shutdown(ShutdownCause::HostSignal) => {}
        Request::Shutdown(cause) => {
            debug!(target: TARGET, %cause, "qemu_system_shutdown_request reason={}", cause as u8);
        }
        Request::Powerdown => debug!(target: TARGET, "qemu_system_powerdown_request"),
        Request::Reset(cause) => {
            debug!(target: TARGET, %cause, "system_reset_request reason={}", cause as u8);
        }
        Request::Suspend => debug!(target: TARGET, "system_suspend_request"),
        Request::VmStop(state) => {
            debug!(target: TARGET, %state, "system_vmstop_request reason {} ({state})", state as u8);
        }
        // A wake-up has its own; the others are told by the event or the request that comes of them.
        Request::Wakeup(_)
        | Request::Debug
        | Request::SuspendDisk
        | Request::GuestPanicked
        | Request::GuestCrashloaded
        | Request::WatchdogExpired
        | Request::BlockIoError(_)
        | Request::DeviceError(_)
        | Request::BalloonChange(_) => {}
    }
}
