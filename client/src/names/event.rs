//! An event's name and data, as QEMU's monitor gives them: the typed event in, words and JSON out.

use serde_json::{Map, Value, json};

use super::Spelled;
use crate::{
    json,
    v1::{ShutdownCause, WatchdogAction, event::GuestPanicAction, event::Kind},
};

/// The name of an event: QEMU's, or the daemon's own for the life of a machine (`CREATED`,
/// `STARTED`, `ENDED`, `DELETED`).
pub fn event_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Created(_) => "CREATED",
        Kind::Started(_) => "STARTED",
        Kind::Ended(_) => "ENDED",
        Kind::Deleted(_) => "DELETED",
        Kind::Stop(_) => "STOP",
        Kind::Resume(_) => "RESUME",
        Kind::Reset(_) => "RESET",
        Kind::Shutdown(_) => "SHUTDOWN",
        Kind::Powerdown(_) => "POWERDOWN",
        Kind::Suspend(_) => "SUSPEND",
        Kind::SuspendDisk(_) => "SUSPEND_DISK",
        Kind::Wakeup(_) => "WAKEUP",
        Kind::Watchdog(_) => "WATCHDOG",
        Kind::GuestPanicked(_) => "GUEST_PANICKED",
        Kind::GuestCrashloaded(_) => "GUEST_CRASHLOADED",
    }
}

/// The data of an event, an object with QEMU's field names; empty for an event without data.
///
/// `ENDED` carries the machine's end, with the fields of [`json::end`].
pub fn event_data(kind: &Kind) -> Value {
    match kind {
        Kind::Ended(ended) => ended.end.as_ref().map_or_else(nothing, json::end),
        Kind::Reset(reset) => caused(reset.guest, reset.reason),
        Kind::Shutdown(shutdown) => caused(shutdown.guest, shutdown.reason),
        Kind::Watchdog(watchdog) => {
            json!({ "action": WatchdogAction::spelling_of(watchdog.action) })
        }
        Kind::GuestPanicked(panicked) => panic(panicked.action),
        Kind::GuestCrashloaded(crashed) => panic(crashed.action),
        Kind::Created(_)
        | Kind::Started(_)
        | Kind::Deleted(_)
        | Kind::Stop(_)
        | Kind::Resume(_)
        | Kind::Powerdown(_)
        | Kind::Suspend(_)
        | Kind::SuspendDisk(_)
        | Kind::Wakeup(_) => nothing(),
    }
}

fn nothing() -> Value {
    Value::Object(Map::new())
}

fn caused(guest: bool, reason: i32) -> Value {
    json!({ "guest": guest, "reason": ShutdownCause::spelling_of(reason) })
}

fn panic(action: i32) -> Value {
    json!({ "action": GuestPanicAction::spelling_of(action) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::event::{GuestPanicked, Reset, Stop, SuspendDisk, Watchdog};

    #[test]
    fn data_has_qemus_fields() {
        let reset = Reset {
            guest: true,
            reason: ShutdownCause::GuestReset.into(),
        };
        let panicked = GuestPanicked {
            action: GuestPanicAction::Pause.into(),
        };
        let watchdog = Watchdog {
            action: WatchdogAction::InjectNmi.into(),
        };
        for (kind, name, data) in [
            (Kind::Stop(Stop {}), "STOP", "{}"),
            (Kind::SuspendDisk(SuspendDisk {}), "SUSPEND_DISK", "{}"),
            (
                Kind::Reset(reset),
                "RESET",
                r#"{"guest":true,"reason":"guest-reset"}"#,
            ),
            (
                Kind::GuestPanicked(panicked),
                "GUEST_PANICKED",
                r#"{"action":"pause"}"#,
            ),
            (
                Kind::Watchdog(watchdog),
                "WATCHDOG",
                r#"{"action":"inject-nmi"}"#,
            ),
        ] {
            assert_eq!(event_name(&kind), name);
            assert_eq!(event_data(&kind).to_string(), data);
        }
    }
}
