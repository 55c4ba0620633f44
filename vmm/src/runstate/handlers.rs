//! Change-state handlers: called when the vCPUs start or stop (spec, section 4.4).
//!
//! ```text
//! start:  priority -1 -> 0 (first registered) -> 0 (second) -> 5
//! stop:   5 -> 0 (second) -> 0 (first registered) -> -1
//! ```
//! They run for `stop` of a running machine, for the stop at the end of a machine, and for `start`; not for suspend,
//! wake-up or reset.

use super::{RunState, trace};

/// Whether a handler or notifier that was called stays registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Call it the next time, too.
    Yes,
    /// Forget it.
    No,
}

type Handler = Box<dyn FnMut(bool, RunState) -> Keep + Send>;

/// The change-state handlers of one machine, ordered by priority, then by registration.
#[derive(Default)]
pub struct ChangeHandlers {
    entries: Vec<(i32, Handler)>,
}

impl ChangeHandlers {
    /// Adds a handler, called with whether the vCPUs run and the state. Parents have a lower `priority` than the
    /// devices that depend on them; 0 is the default.
    pub fn register(
        &mut self,
        priority: i32,
        handler: impl FnMut(bool, RunState) -> Keep + Send + 'static,
    ) {
        let at = self
            .entries
            .partition_point(|(other, _)| *other <= priority);
        self.entries.insert(at, (priority, Box::new(handler)));
    }

    pub(super) fn notify(&mut self, running: bool, state: RunState) {
        trace::vm_state_notify(running, state);
        let mut call = |(_, handler): &mut (i32, Handler)| handler(running, state) == Keep::Yes;
        if running {
            self.entries.retain_mut(call);
        } else {
            // `retain_mut` goes forward only.
            self.entries.reverse();
            self.entries.retain_mut(&mut call);
            self.entries.reverse();
        }
    }
}
