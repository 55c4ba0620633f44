//! Notifiers: who else is told of a powerdown, suspend, wake-up, shutdown or the end (spec, section 12).
//!
//! The last registered is called first. SUSPEND and WAKEUP are emitted after their notifiers ran, POWERDOWN and
//! SHUTDOWN before. The exit notifiers run when everything is closed, whatever the machine ended of.

use super::{Keep, ShutdownCause, WakeupReason};

type Notifier<D> = Box<dyn FnMut(&D) -> Keep + Send>;

/// One list of notifiers, called with data `D`.
pub struct NotifierList<D> {
    /// In order of registration; called from the back.
    entries: Vec<Notifier<D>>,
}

impl<D> Default for NotifierList<D> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
        }
    }
}

impl<D> NotifierList<D> {
    /// Adds a notifier at the head of the list.
    pub fn register(&mut self, notifier: impl FnMut(&D) -> Keep + Send + 'static) {
        self.entries.push(Box::new(notifier));
    }

    pub(super) fn notify(&mut self, data: &D) {
        self.entries.reverse();
        self.entries
            .retain_mut(|notifier| notifier(data) == Keep::Yes);
        self.entries.reverse();
    }
}

/// The five lists of one machine.
#[derive(Default)]
pub struct Notifiers {
    /// The power button was pressed.
    pub powerdown: NotifierList<()>,
    /// The guest goes to S3.
    pub suspend: NotifierList<()>,
    /// The guest leaves S3.
    pub wakeup: NotifierList<WakeupReason>,
    /// A shutdown request is served.
    pub shutdown: NotifierList<ShutdownCause>,
    /// The machine has ended, or failed, and everything is closed.
    pub exit: NotifierList<()>,
}
