//! The signals that matter to a session.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::RawTerminal;
use crate::cli::failure::Failure;

/// How soon after the first a second signal is not taken for impatience: `timeout` and others send
/// two, one to the process and one to its group.
const PATIENCE: Duration = Duration::from_secs(1);

/// The signals that end a session, and the one that says it goes on after a suspend.
pub(in crate::cli) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    resume: Signal,
}

impl Signals {
    /// From now on they do not end the process.
    pub(in crate::cli) fn new() -> Result<Self, Failure> {
        let watch = |kind| {
            signal(kind)
                .map_err(|error| Failure::Told(format!("cannot watch for signals: {error}")))
        };
        let resume = nix::sys::signal::Signal::SIGCONT as i32;
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
            quit: watch(SignalKind::quit())?,
            resume: watch(SignalKind::from_raw(resume))?,
        })
    }

    /// The number of the next signal that ends the session.
    pub(in crate::cli) async fn next(&mut self, raw: Option<&RawTerminal>) -> u8 {
        use nix::sys::signal::Signal as Number;
        loop {
            let number = tokio::select! {
                _ = self.interrupt.recv() => Number::SIGINT,
                _ = self.terminate.recv() => Number::SIGTERM,
                _ = self.hangup.recv() => Number::SIGHUP,
                _ = self.quit.recv() => Number::SIGQUIT,
                _ = self.resume.recv() => {
                    // The shell gave the terminal back in its own mode.
                    if let Some(raw) = raw {
                        raw.again();
                    }
                    continue;
                }
            };
            return number as u8;
        }
    }

    /// Waits for somebody who does not want to wait for what is going on any more.
    pub(in crate::cli) async fn impatience(&mut self) {
        let began = Instant::now();
        loop {
            self.next(None).await;
            if began.elapsed() >= PATIENCE {
                return;
            }
        }
    }
}
