//! An event's name and data, as QEMU's monitor gives them: the typed event in, words and JSON out.

use std::sync::LazyLock;

use prost::Message;
use prost_types::FileDescriptorSet;
use serde_json::{Map, Value, json};

use super::Spelled;
use crate::{
    json,
    v1::{
        ShutdownCause, WatchdogAction,
        event::{BlockErrorAction, BlockOperation, DeviceFault, GuestPanicAction, Kind},
    },
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
        Kind::BlockIoError(_) => "BLOCK_IO_ERROR",
        Kind::DeviceError(_) => "DEVICE_ERROR",
        Kind::BalloonChange(_) => "BALLOON_CHANGE",
        Kind::DeviceDeleted(_) => "DEVICE_DELETED",
        Kind::Updated(_) => "UPDATED",
        Kind::RestartFailed(_) => "RESTART_FAILED",
        Kind::RestartCancelled(_) => "RESTART_CANCELLED",
        Kind::Audit(_) => "AUDIT",
    }
}

/// The names of all events, in the interface's order.
pub fn event_names() -> &'static [String] {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let files = FileDescriptorSet::decode(vmd_proto::FILE_DESCRIPTOR_SET).unwrap_or_default();
        let mut messages = files.file.iter().flat_map(|file| &file.message_type);
        let event = messages.find(|message| message.name() == "Event");
        let fields = event.iter().flat_map(|event| &event.field);
        // An event is called as its field of the `oneof` is.
        let kinds = fields.filter(|field| field.oneof_index.is_some());
        kinds.map(|field| field.name().to_uppercase()).collect()
    });
    &NAMES
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
        Kind::BlockIoError(error) => json!({
            "device": error.device,
            "node-name": error.node_name,
            "operation": BlockOperation::spelling_of(error.operation),
            "action": BlockErrorAction::spelling_of(error.action),
            "nospace": error.nospace,
            "reason": error.reason,
        }),
        Kind::DeviceError(error) => json!({
            "device": error.device,
            "fault": DeviceFault::spelling_of(error.fault),
        }),
        Kind::BalloonChange(change) => json!({ "actual": change.actual }),
        Kind::Updated(updated) => json!({
            "fields": updated.fields,
            "etag": updated.etag,
            "labels_before": updated.labels_before,
        }),
        Kind::DeviceDeleted(deleted) => json!({
            "device": deleted.device,
            "path": deleted.path,
        }),
        Kind::Started(started) => started
            .restart
            .map_or_else(nothing, |restart| json!({ "restart": restart })),
        Kind::RestartFailed(failed) => {
            json!({ "restart": failed.restart, "reason": failed.reason })
        }
        Kind::Audit(audit) => super::audit::data(audit),
        Kind::Created(_)
        | Kind::RestartCancelled(_)
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
    use crate::v1::event::{
        BlockIoError, DeviceDeleted, GuestPanicked, Reset, Stop, SuspendDisk, Watchdog,
    };

    #[test]
    fn every_event_is_among_the_names() {
        let names = event_names();
        assert_eq!(names.first().map(String::as_str), Some("CREATED"));
        for kind in [
            Kind::Stop(Stop {}),
            Kind::SuspendDisk(SuspendDisk {}),
            Kind::BlockIoError(BlockIoError::default()),
            Kind::Updated(Default::default()),
        ] {
            assert!(names.iter().any(|name| name == event_name(&kind)));
        }
        assert!(!names.iter().any(|name| name == "LABELS"));
    }

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
        let error = BlockIoError {
            node_name: "d0".to_owned(),
            operation: BlockOperation::Write.into(),
            action: BlockErrorAction::Stop.into(),
            nospace: Some(true),
            reason: "No space left on device".to_owned(),
            ..Default::default()
        };
        let deleted = DeviceDeleted {
            device: "d1".to_owned(),
            path: "/machine/peripheral/d1".to_owned(),
        };
        for (kind, name, data) in [
            (
                Kind::BlockIoError(error),
                "BLOCK_IO_ERROR",
                r#"{"device":"","node-name":"d0","operation":"write","action":"stop","nospace":true,"reason":"No space left on device"}"#,
            ),
            (
                Kind::DeviceDeleted(deleted),
                "DEVICE_DELETED",
                r#"{"device":"d1","path":"/machine/peripheral/d1"}"#,
            ),
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
