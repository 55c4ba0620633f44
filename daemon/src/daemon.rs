//! The daemon object: what all machines share, and how they all end.

use std::{future, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    task,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;
use vmm::{heap, machine::Host, runstate::Command};

use crate::{
    access::Access,
    config::Config,
    cpu_control::Hierarchy,
    event_log::EventLog,
    limits::Limits,
    metrics::Metrics,
    reaper::Reaper,
    registry::Registry,
    vm::{Images, OpenDisk, VmHandle},
};

/// Machines that their policies start at the same time.
const RESTARTS: usize = 16;

/// What all machines of one daemon share.
pub struct Daemon {
    /// The host's KVM.
    pub host: Arc<Host>,
    /// The host's memory, in bytes.
    pub host_memory: u64,
    pub(crate) registry: Arc<Registry>,
    pub(crate) events: Arc<EventLog>,
    /// The audit trail: a log of its own.
    pub(crate) audit: EventLog,
    /// Who may do what.
    pub(crate) access: Arc<Access>,
    pub(crate) reaper: Reaper,
    /// Where the host lets it set CPU weights and limits.
    pub(crate) cpu_hierarchy: Option<Hierarchy>,
    /// How much there may be.
    pub(crate) limits: Arc<Limits>,
    /// The kernels and RAM disks that machines use.
    pub(crate) images: Arc<Images>,
    /// How disks are opened.
    pub(crate) open_disk: OpenDisk,
    /// Machines' sockets that have clients, or may get some.
    pub(crate) clients: TaskTracker,
    /// Calls under way whose answers are kept.
    pub(crate) calls: TaskTracker,
    pub(crate) actors: TaskTracker,
    /// Creations under way.
    pub(crate) creations: TaskTracker,
    /// Restarts by policy under way: all may be due at the same time.
    pub(crate) restarts: Semaphore,
    /// What is counted.
    pub(crate) metrics: Metrics,
    ending: watch::Sender<bool>,
    /// How long a guest that is to end has until its power button is pressed again; zero: that is not.
    press_interval: Duration,
    /// Cancelled when the guests get no more time.
    hurry: CancellationToken,
    /// Cancelled when all machines have ended and their last events are in the log.
    pub(crate) ended: CancellationToken,
}

impl Daemon {
    /// A daemon without machines, on a host with `host_memory` bytes, that keeps `events_kept` events.
    pub fn new(host: Host, host_memory: u64, events_kept: usize) -> Arc<Self> {
        let config = Config {
            events_kept,
            ..Config::default()
        };
        let events = EventLog::new(events_kept);
        let audit = EventLog::new(events_kept);
        Self::with_config(host, host_memory, &config, Arc::default(), events, audit)
    }

    /// One that is as `config` says; `access` is its part of that. Its events go to `events`, calls to
    /// `audit`.
    pub fn with_config(
        host: Host,
        host_memory: u64,
        config: &Config,
        access: Arc<Access>,
        events: EventLog,
        audit: EventLog,
    ) -> Arc<Self> {
        Arc::new(Self {
            host: Arc::new(host),
            host_memory,
            registry: Arc::default(),
            events: Arc::new(events),
            audit,
            access,
            reaper: Reaper::default(),
            cpu_hierarchy: Hierarchy::find(),
            limits: Arc::new(Limits::new(config.limits.clone())),
            images: Arc::default(),
            open_disk: config.open_disk.clone(),
            clients: TaskTracker::new(),
            calls: TaskTracker::new(),
            actors: TaskTracker::new(),
            creations: TaskTracker::new(),
            restarts: Semaphore::new(RESTARTS),
            metrics: Metrics::default(),
            ending: watch::Sender::new(false),
            press_interval: config.grace_press_interval,
            hurry: CancellationToken::new(),
            ended: CancellationToken::new(),
        })
    }

    /// The machine called `name`.
    pub fn find(&self, name: &str) -> Option<Arc<VmHandle>> {
        self.registry.get(name)
    }

    /// Whether no new machine may be made any more.
    pub fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// How many machines have ended and still hold something of the host's.
    pub fn closing(&self) -> usize {
        self.reaper.pending()
    }

    /// How many machines there are: those that have not ended, and those that have.
    pub fn machines(&self) -> (usize, usize) {
        let vms = self.registry.list();
        let live = vms.iter().filter(|vm| vm.status().end.is_none()).count();
        (live, vms.len() - live)
    }

    /// From now on guests get no time to end by themselves.
    pub fn hurry(&self) {
        self.hurry.cancel();
    }

    /// Ends every machine and waits until nothing is left of them: the power button, pressed again and again, and
    /// `grace` for the guests to obey, if that is not zero, then `host-signal` (spec, section 11).
    pub async fn end(&self, grace: Duration) {
        self.ending.send_replace(true);
        // A creation that began before sees its machine ended here; one that begins now is refused.
        self.creations.close();
        self.creations.wait().await;

        let live = |vm: &Arc<VmHandle>| vm.status().end.is_none();
        let vms: Vec<_> = self.registry.list().into_iter().filter(live).collect();
        info!(machines = vms.len(), "ending");
        if !grace.is_zero() {
            // Those that are left get no more time.
            let _ = timeout(grace, self.power_off(&vms)).await;
        }
        // All of them: one that had ended may be on its way to a new start.
        each(&self.registry.list(), Command::Kill).await;
        // A reader gets the last events before its stream ends.
        self.events.settle().await;
        self.audit.settle().await;
        // The actors end; the registry stays as it is for the streams that still tell of it.
        self.ended.cancel();

        self.actors.close();
        self.actors.wait().await;
        self.reaper.finish().await;
        // Those of the machines' sockets are being sent the last of it.
        self.clients.close();
        self.clients.wait().await;
        // Nothing that they wait for is left.
        self.calls.close();
        self.calls.wait().await;
    }

    /// After the end, and the last call: what waits for the store is stored, if that can be.
    pub async fn close(&self) {
        // The store is the audit trail's, too.
        self.events.close().await;
    }

    /// All has been quiet since a machine was closed: what is kept only to be quick goes back to the host.
    pub(crate) async fn rest(&self) {
        self.events.rest();
        self.audit.rest();
        if let Some(store) = self.events.store() {
            store.rest().await;
        }
        self.registry.rest();
        self.limits.rest();
        // It does not panic.
        let _ = task::spawn_blocking(heap::trim).await;
    }

    /// Presses the power buttons of `vms` until all have ended, or there is no time for that.
    async fn power_off(&self, vms: &[Arc<VmHandle>]) {
        let all_ended = async {
            for vm in vms {
                vm.ended().await;
            }
        };
        let press = async {
            loop {
                // One that has ended has no button any more.
                each(vms, Command::SystemPowerdown).await;
                if self.press_interval.is_zero() {
                    future::pending::<()>().await;
                }
                sleep(self.press_interval).await;
            }
        };
        tokio::select! {
            () = all_ended => {}
            () = press => {}
            () = self.hurry.cancelled() => info!("the guests get no more time"),
        }
    }
}

/// Has every machine serve `command`, all at the same time.
async fn each(vms: &[Arc<VmHandle>], command: Command) {
    let tasks = TaskTracker::new();
    for vm in vms {
        let vm = vm.clone();
        // One that has ended or gone meanwhile needs nothing more.
        tasks.spawn(async move { drop(vm.command(command).await) });
    }
    tasks.close();
    tasks.wait().await;
}
