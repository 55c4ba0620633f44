//! The daemon object: what all machines share, and how they all end.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;
use vmm::{machine::Host, runstate::Command};

use crate::{event_log::EventLog, reaper::Reaper, registry::Registry, vm::VmHandle};

/// What all machines of one daemon share.
pub struct Daemon {
    /// The host's KVM.
    pub host: Arc<Host>,
    /// The host's memory, in bytes.
    pub host_memory: u64,
    pub(crate) registry: Arc<Registry>,
    pub(crate) events: EventLog,
    pub(crate) reaper: Reaper,
    pub(crate) actors: TaskTracker,
    /// Creations under way.
    pub(crate) creations: TaskTracker,
    ending: watch::Sender<bool>,
    /// Cancelled when all machines have ended and their last events are in the log.
    pub(crate) ended: CancellationToken,
}

impl Daemon {
    /// A daemon without machines, on a host with `host_memory` bytes, that keeps `events_kept` events.
    pub fn new(host: Host, host_memory: u64, events_kept: usize) -> Arc<Self> {
        Arc::new(Self {
            host: Arc::new(host),
            host_memory,
            registry: Arc::default(),
            events: EventLog::new(events_kept),
            reaper: Reaper::default(),
            actors: TaskTracker::new(),
            creations: TaskTracker::new(),
            ending: watch::Sender::new(false),
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

    /// Ends every machine and waits until nothing is left of them: the power button and `grace` for the guests to
    /// obey, if that is not zero, then `host-signal` (spec, section 11).
    pub async fn end(&self, grace: Duration) {
        self.ending.send_replace(true);
        // A creation that began before sees its machine ended here; one that begins now is refused.
        self.creations.close();
        self.creations.wait().await;

        let live = |vm: &Arc<VmHandle>| vm.status().end.is_none();
        let vms: Vec<_> = self.registry.list().into_iter().filter(live).collect();
        info!(machines = vms.len(), "ending");
        if !grace.is_zero() {
            each(&vms, Command::SystemPowerdown).await;
            let all_ended = async {
                for vm in &vms {
                    vm.ended().await;
                }
            };
            // Those that are left get no more time.
            let _ = timeout(grace, all_ended).await;
        }
        // All of them: one that had ended may be on its way to a new start.
        each(&self.registry.list(), Command::Kill).await;
        // The actors end; the registry stays as it is for the streams that still tell of it.
        self.ended.cancel();

        self.actors.close();
        self.actors.wait().await;
        self.reaper.finish().await;
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
