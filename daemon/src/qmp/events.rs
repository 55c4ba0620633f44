//! Events in QEMU's form, one client's share of them.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;
use vmctl::names;
use vmd_proto::v1::{Event, event::Kind};

/// WATCHDOG comes at most once in this time (spec, section 3.4).
const WATCHDOG_WINDOW: Duration = Duration::from_secs(1);

/// Whether QEMU has the event: the daemon's own are not for monitors.
pub(super) fn is_qemus(kind: &Kind) -> bool {
    !matches!(
        kind,
        Kind::Created(_) | Kind::Started(_) | Kind::Ended(_) | Kind::Deleted(_)
    )
}

/// An event as QEMU writes it. Values that are not there are left out.
pub(super) fn message(event: &Event, kind: &Kind) -> Value {
    let time = event.time.unwrap_or_default();
    let mut message = json!({
        "timestamp": { "seconds": time.seconds, "microseconds": time.nanos / 1000 },
        "event": names::event_name(kind),
    });
    let data = names::event_data(kind);
    if let (Some(members), Some(fields)) = (message.as_object_mut(), data.as_object())
        && !fields.is_empty()
    {
        members.insert("data".to_owned(), data);
    }
    message
}

/// Holds WATCHDOG events back: the first goes out at once and opens a window, in which only the latest is kept.
#[derive(Default)]
pub(super) struct WatchdogLimit {
    window_ends: Option<Instant>,
    kept: Option<Arc<Event>>,
}

impl WatchdogLimit {
    /// Lets `event` through, or keeps it for later.
    pub(super) fn pass(&mut self, event: Arc<Event>, now: Instant) -> Option<Arc<Event>> {
        if self.window_ends.is_some_and(|end| now < end) {
            self.kept = Some(event);
            return None;
        }
        self.window_ends = Some(now + WATCHDOG_WINDOW);
        Some(event)
    }

    /// When there is something to send that was kept.
    pub(super) fn due(&self) -> Option<Instant> {
        self.kept.as_ref().and(self.window_ends)
    }

    /// What was kept; sending it opens a new window.
    pub(super) fn take(&mut self, now: Instant) -> Option<Arc<Event>> {
        let event = self.kept.take()?;
        self.window_ends = Some(now + WATCHDOG_WINDOW);
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_watchdog_goes_out_and_the_latest_of_the_window_later() {
        let event = |seq| {
            Arc::new(Event {
                seq,
                ..Default::default()
            })
        };
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut limit = WatchdogLimit::default();
        assert_eq!(limit.pass(event(1), at(0)), Some(event(1)));
        assert_eq!(limit.due(), None);
        assert_eq!(limit.pass(event(2), at(10)), None);
        assert_eq!(limit.pass(event(3), at(999)), None);
        assert_eq!(limit.due(), Some(at(1000)));
        assert_eq!(limit.take(at(1000)), Some(event(3)));
        assert_eq!(limit.pass(event(4), at(1500)), None, "a new window");
        assert_eq!(limit.take(at(2000)), Some(event(4)));
        assert_eq!(limit.pass(event(5), at(3000)), Some(event(5)));
    }
}
