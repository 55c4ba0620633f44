//! What all monitors of one machine share, from its start to its end.
//!
//! ```text
//!   actor: WATCHDOG --> published --+--> released -------------------> every session
//!                                   +--> kept, until the window ends --^
//!   cleanup: monitors --> closed --> every session sends what is left, and disconnects
//! ```
//! What is released has a place among the machine's events: so the order is the same for every session.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use vmd_proto::v1::Event;

/// WATCHDOG comes at most once in this time (spec, section 3.4).
const WATCHDOG_WINDOW: Duration = Duration::from_secs(1);

/// Released events that are kept for sessions that are behind: as many seconds' worth.
const RELEASED_KEPT: usize = 64;

/// The QMP door of a machine, as long as that is not built anew.
#[derive(Default)]
pub(crate) struct Door {
    closing: CancellationToken,
    watchdog: Mutex<Watchdog>,
}

impl Door {
    /// What closes the monitors when it is dropped. SHUTDOWN, if there was one, is in the log by then.
    pub(crate) fn keep_open(&self) -> DropGuard {
        self.closing.clone().drop_guard()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closing.is_cancelled()
    }

    pub(super) async fn closed(&self) {
        self.closing.cancelled().await;
    }

    /// An event of the machine, number `seq`, is about to be in the log. If it is a WATCHDOG event, it is released now,
    /// or when the window ends if there is no later one by then.
    pub(crate) fn published(&self, seq: u64, watchdog: Option<Event>) {
        let event = watchdog.map(|event| Arc::new(Event { seq, ..event }));
        self.watchdog().published(seq, event, Instant::now());
    }

    /// How many WATCHDOG events have been released: where a new session begins.
    pub(super) fn position(&self) -> u64 {
        let mut watchdog = self.watchdog();
        watchdog.advance(Instant::now());
        watchdog.position()
    }

    /// The WATCHDOG events released since `position` that come before the events after number `seq`; moves the position.
    pub(super) fn released(&self, position: &mut u64, seq: u64) -> Vec<Arc<Event>> {
        self.watchdog().released(position, seq, Instant::now())
    }

    /// When there will be one more.
    pub(super) fn due(&self) -> Option<Instant> {
        self.watchdog().due()
    }

    fn watchdog(&self) -> MutexGuard<'_, Watchdog> {
        self.watchdog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds WATCHDOG events back: the first is released at once and opens a window, in which only the latest is kept.
#[derive(Default)]
struct Watchdog {
    window_ends: Option<Instant>,
    kept: Option<Arc<Event>>,
    /// The machine's newest event.
    newest: u64,
    /// The latest, in order; each comes after the event with this number, which may be itself.
    released: VecDeque<(u64, Arc<Event>)>,
    /// How many were released before those.
    forgotten: u64,
}

impl Watchdog {
    fn published(&mut self, seq: u64, watchdog: Option<Arc<Event>>, now: Instant) {
        self.advance(now);
        self.newest = seq;
        let Some(event) = watchdog else { return };
        if self.window_ends.is_some_and(|end| now < end) {
            self.kept = Some(event);
        } else {
            self.release(event, now);
        }
    }

    /// Releases what was kept if the window has ended, whether anybody looked at that moment or not.
    fn advance(&mut self, now: Instant) {
        if let Some(end) = self.due().filter(|end| *end <= now)
            && let Some(event) = self.kept.take()
        {
            self.release(event, end);
        }
    }

    /// Opens a new window.
    fn release(&mut self, event: Arc<Event>, at: Instant) {
        self.window_ends = Some(at + WATCHDOG_WINDOW);
        if self.released.len() == RELEASED_KEPT {
            self.released.pop_front();
            self.forgotten += 1;
        }
        self.released.push_back((self.newest, event));
    }

    fn due(&self) -> Option<Instant> {
        self.kept.as_ref().and(self.window_ends)
    }

    fn position(&self) -> u64 {
        self.forgotten + self.released.len() as u64
    }

    fn released(&mut self, position: &mut u64, seq: u64, now: Instant) -> Vec<Arc<Event>> {
        self.advance(now);
        *position = (*position).max(self.forgotten);
        let skip = usize::try_from(*position - self.forgotten).unwrap_or(usize::MAX);
        let events: Vec<_> = self
            .released
            .iter()
            .skip(skip)
            .take_while(|(after, _)| *after <= seq)
            .map(|(_, event)| event.clone())
            .collect();
        *position += events.len() as u64;
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A door's WATCHDOG events, offered and looked at so many milliseconds after its start.
    struct Timed(Watchdog, Instant);

    impl Timed {
        fn new() -> Self {
            Self(Watchdog::default(), Instant::now())
        }

        fn at(&self, ms: u64) -> Instant {
            self.1 + Duration::from_millis(ms)
        }

        fn offer(&mut self, ms: u64, seq: u64) {
            let event = Event {
                seq,
                ..Default::default()
            };
            let at = self.at(ms);
            self.0.published(seq, Some(Arc::new(event)), at);
        }

        fn released(&mut self, ms: u64, position: &mut u64, seq: u64) -> Vec<u64> {
            let events = self.0.released(position, seq, self.at(ms));
            events.iter().map(|event| event.seq).collect()
        }
    }

    #[test]
    fn the_first_watchdog_goes_out_and_the_latest_of_the_window_later() {
        let (mut door, mut here) = (Timed::new(), 0);
        door.offer(0, 1);
        assert_eq!(door.released(0, &mut here, 9), [1]);
        assert_eq!(door.0.due(), None);
        door.offer(10, 2);
        door.offer(999, 3);
        assert_eq!(door.released(999, &mut here, 9), [0; 0]);
        assert_eq!(door.0.due(), Some(door.at(1000)));
        assert_eq!(door.released(1000, &mut here, 9), [3]);
        door.offer(1500, 4);
        assert_eq!(door.released(1500, &mut here, 9), [0; 0], "a new window");
        assert_eq!(door.released(2000, &mut here, 9), [4]);
        door.offer(3000, 5);
        assert_eq!(door.released(3000, &mut here, 9), [5]);
    }

    #[test]
    fn the_window_is_the_same_for_all_and_there_without_any() {
        let mut door = Timed::new();
        door.offer(0, 1);
        // One that comes in the window does not begin one of its own; what is kept is for it, too.
        let (mut first, mut second) = (0, door.0.position());
        door.offer(500, 2);
        assert_eq!(door.released(500, &mut first, 9), [1]);
        assert_eq!(door.released(500, &mut second, 9), [0; 0]);
        assert_eq!(door.released(1000, &mut second, 9), [2]);
        assert_eq!(door.released(1900, &mut first, 9), [2]);
        // Nobody looked when this window ended: the next began then all the same.
        door.offer(1950, 3);
        door.offer(2500, 4);
        assert_eq!(door.released(2999, &mut first, 9), [3]);
        assert_eq!(door.released(3000, &mut first, 9), [4]);
        assert_eq!(door.released(3000, &mut second, 9), [3, 4]);
    }

    #[test]
    fn what_was_kept_has_one_place_among_the_events() {
        let mut door = Timed::new();
        door.offer(0, 1);
        door.offer(1, 2);
        let mut all = [1; 3];
        for (seq, ms) in [(3, 500), (4, 999)] {
            let at = door.at(ms);
            door.0.published(seq, None, at);
        }
        // Released between 4 and 5, though nobody looks; so for the slow, the quick and who comes to it late.
        let at = door.at(1001);
        door.0.published(5, None, at);
        let [slow, quick, late] = &mut all;
        assert_eq!(door.released(1001, slow, 3), [0; 0]);
        assert_eq!(door.released(1001, quick, 4), [2]);
        assert_eq!(door.released(1001, quick, 5), [0; 0]);
        assert_eq!(door.released(9999, late, 4), [2]);
        assert_eq!(door.released(9999, slow, 4), [2]);
    }

    #[test]
    fn a_session_is_not_told_before_its_place_and_not_of_what_is_forgotten() {
        let (mut door, mut here) = (Timed::new(), 0);
        door.offer(0, 5);
        assert_eq!(door.released(0, &mut here, 4), [0; 0]);
        assert_eq!(door.released(0, &mut here, 5), [5]);
        let many = RELEASED_KEPT as u64 + 3;
        for n in 1..=many {
            door.offer(n * 1000, 5 + n);
        }
        let released = door.released(many * 1000, &mut here, u64::MAX);
        assert_eq!(released.len(), RELEASED_KEPT);
        assert_eq!(released.last(), Some(&(5 + many)));
    }
}
