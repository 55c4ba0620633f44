//! Events in QEMU's form.

use serde_json::{Value, json};
use vmctl::names;
use vmd_proto::v1::{Event, event::Kind};

/// Whether QEMU has the event: the daemon's own are not for monitors.
pub(super) fn is_qemus(kind: &Kind) -> bool {
    !matches!(
        kind,
        Kind::Created(_)
            | Kind::Started(_)
            | Kind::Ended(_)
            | Kind::Deleted(_)
            | Kind::RestartFailed(_)
            | Kind::RestartCancelled(_)
    )
}

/// An event as QEMU writes it. Values that are not there are left out.
pub(super) fn message(event: &Event, kind: &Kind) -> Value {
    let time = event.time.unwrap_or_default();
    let mut message = json!({
        "timestamp": { "seconds": time.seconds, "microseconds": time.nanos / 1000 },
        "event": names::event_name(kind),
    });
    let mut data = names::event_data(kind);
    if let Some(fields) = data.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    if let (Some(members), Some(fields)) = (message.as_object_mut(), data.as_object())
        && !fields.is_empty()
    {
        members.insert("data".to_owned(), data);
    }
    message
}
