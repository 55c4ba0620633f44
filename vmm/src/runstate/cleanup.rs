//! The cleanup: what is closed at the end of a machine, and before what (spec, section 12).
//!
//! ```text
//!   SHUTDOWN served:    debugger -> migration -> drain -> stop         within the pass, after SHUTDOWN
//!   watchdog, failure:  (directly)
//!                          |
//!                          v    the owner publishes the events; then MainLoop::clean_up, whatever the way out was:
//!   what is left -> replay -> block jobs -> block devices -> network -> monitors -> chardevs -> exit notifiers
//! ```
//! Whoever owns something registers a closer with its step: the step says when it is closed, not when it was registered.
//! A step that nobody registered for is nothing. Closers are no part of a journal: what they do neither asks the main
//! loop for anything nor changes the run state.

use std::pin::Pin;

use super::{Machine, MainLoop, journal::Ending, state::named_enum};

named_enum! {
    /// A step of the cleanup. [`Cleanup::ALL`] is the order: a step is done before all those below it.
    ///
    /// QEMU also has the TPM before and the audio after the network, and the user objects at the very end.
    Cleanup, "cleanup step" {
        /// The debugger's connection, while there is a guest to let go.
        Debugger = "debugger",
        /// Migrations are cancelled: they stop using the devices.
        Migration = "migration",
        /// The block devices are drained, and stay so until they are closed.
        Drain = "drain",
        /// The main loop's own: the guest is stopped, without STOP, and the disks are flushed. Not when a machine exits
        /// directly: then its run state stays.
        Stop = "stop",
        /// The recording ends; the stop was its last entry.
        Replay = "replay",
        /// Block jobs are cancelled: after the drain, or they could wait for their rate's turn.
        BlockJobs = "block-jobs",
        /// The block devices.
        BlockDevices = "block-devices",
        /// The network; its back ends may be connected through chardevs.
        Network = "network",
        /// The monitors; late, so that SHUTDOWN gets out.
        Monitors = "monitors",
        /// The chardevs, such as serial ports: a monitor may be on one.
        Chardevs = "chardevs",
    }
}

type Closer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is to be closed at the end of one machine. Each closer is called once, or dropped with this.
#[derive(Default)]
pub struct Closers {
    /// In order of registration.
    entries: Vec<(Cleanup, Closer)>,
}

impl Closers {
    /// Adds what closes something at `step`. Within a step the last registered is called first: it may use what was
    /// there before it.
    pub fn register(&mut self, step: Cleanup, closer: impl Future<Output = ()> + Send + 'static) {
        self.entries.push((step, Box::pin(closer)));
    }

    async fn close(&mut self, step: Cleanup) {
        let last = |entries: &[(Cleanup, _)]| entries.iter().rposition(|(at, _)| *at == step);
        while let Some(index) = last(&self.entries) {
            let (_, closer) = self.entries.remove(index);
            closer.await;
        }
    }
}

impl<M: Machine> MainLoop<M> {
    /// What comes before the stop.
    pub(super) async fn clean_up_before_stop(&mut self) {
        for &step in Cleanup::ALL.iter().take_while(|at| **at < Cleanup::Stop) {
            self.closers.close(step).await;
        }
    }

    /// Closes everything that is still open, in order, ends the recording for this reason, and runs the exit notifiers.
    ///
    /// To be called once: after [`Flow::Exit`](super::Flow::Exit), when its events have been taken to whoever a closer
    /// cuts off, and after a [`Failure`](super::Failure).
    pub async fn clean_up(&mut self, ending: Ending) {
        for &step in Cleanup::ALL {
            if step == Cleanup::Replay {
                self.end_recording(ending);
            }
            self.closers.close(step).await;
        }
        self.notifiers.exit.notify(&());
    }
}
