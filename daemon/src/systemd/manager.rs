//! What the service manager is told (sd_notify(3)).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{
    task::JoinSet,
    time::{self, Instant, MissedTickBehavior},
};
use tracing::warn;

use crate::Daemon;

/// The least time between two statuses, however fast machines come and go.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// What the end may take beyond the guests' grace: closing machines, and clients that read their last events.
const END: Duration = Duration::from_secs(30);

/// The service manager, if there is one.
#[derive(Default)]
pub struct Manager {
    /// A failure has been told.
    failed: Arc<AtomicBool>,
    /// What runs until this is dropped.
    tasks: JoinSet<()>,
}

impl Manager {
    /// The daemon serves. From now on its status is told, and that it is alive at half the interval that the manager
    /// waits for that (WATCHDOG_USEC): by a task, so that a runtime that is stuck is found.
    pub fn ready(&mut self, daemon: Arc<Daemon>) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(&status(&daemon))]);
        let teller = Teller(self.failed.clone());
        self.tasks.spawn(teller.status(daemon.clone()));
        if let Some(timeout) = sd_notify::watchdog_enabled()
            && !timeout.is_zero()
        {
            let teller = Teller(self.failed.clone());
            self.tasks.spawn(teller.watchdog(daemon, timeout / 2));
        }
    }

    /// The configuration is being read again, until what is returned is dropped.
    pub fn reloading(&self) -> impl Drop {
        // Without the time a newer manager does not take it.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => warn!(%error, "the clock cannot be read"),
        }
        Reloading(self)
    }

    /// The daemon ends; its guests get `grace` for that, which the manager is to wait for.
    pub fn stopping(&self, grace: Duration) {
        let time = format!("EXTEND_TIMEOUT_USEC={}", (grace + END).as_micros());
        self.tell(&[
            NotifyState::Stopping,
            NotifyState::Custom(&time),
            NotifyState::Status("ending"),
        ]);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        Teller(self.failed.clone()).tell(states);
    }
}

struct Reloading<'a>(&'a Manager);

impl Drop for Reloading<'_> {
    fn drop(&mut self) {
        self.0.tell(&[NotifyState::Ready]);
    }
}

struct Teller(Arc<AtomicBool>);

impl Teller {
    /// Sends one message, if there is a manager.
    fn tell(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states)
            && !self.0.swap(true, Ordering::Relaxed)
        {
            warn!(%error, "the service manager cannot be told anything");
        }
    }

    async fn watchdog(self, daemon: Arc<Daemon>, every: Duration) {
        let mut beat = time::interval(every);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            // Not alive, either, if nobody gets at the machines any more.
            daemon.machines();
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// Tells of the machines when they have changed, which the event log knows.
    async fn status(self, daemon: Arc<Daemon>) {
        let mut changes = daemon.events.subscribe();
        let mut told = String::new();
        while changes.changed().await.is_ok() {
            let next = Instant::now() + STATUS_EVERY;
            let status = status(&daemon);
            if status != told {
                self.tell(&[NotifyState::Status(&status)]);
                told = status;
            }
            time::sleep_until(next).await;
        }
    }
}

fn status(daemon: &Daemon) -> String {
    let (live, ended) = daemon.machines();
    format!("{live} machines live, {ended} ended")
}
