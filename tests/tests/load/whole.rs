//! 1,000 machines and 10,000 calls.

use std::time::Instant;

use tempfile::tempdir;
use tokio::sync::watch;
use vmctl::v1::{RunState, Vm};
use vmd_tests::{DEADLINE, Daemon, Resources, within};

use super::{
    act::Act,
    fleet::{Fleet, watch},
};

const MACHINES: usize = 1_000;
const CALLS: usize = 10_000;
const SEED: u64 = 1;

/// Waits until the daemon holds no more than it did at its start; of memory, a tenth more.
async fn is_back(daemon: &Daemon, fresh: Resources) -> Resources {
    let is_back = |now: &Resources| {
        now.threads <= fresh.threads
            && now.descriptors <= fresh.descriptors
            && now.kvm <= fresh.kvm
            && now.resident <= fresh.resident / 10 * 11
    };
    daemon
        .settle(&format!("at its start: {fresh:?}"), is_back)
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_thousand_machines_take_ten_thousand_calls_and_leave_nothing() {
    let data = tempdir().unwrap();
    let daemon = Daemon::start_on(data.path(), &[]).await;
    let mut began = Instant::now();
    let mut took = |what: &str, now: Resources| {
        println!("{what}: {:?}, {now:?}", began.elapsed());
        began = Instant::now();
    };
    let (last_known, last) = watch::channel(None);
    let watcher = tokio::spawn(watch(daemon.client().await, last));
    let fresh = daemon.settle("fresh", |_| true).await;
    took("fresh", fresh);

    let fleet = Fleet::new(MACHINES);
    fleet.each(&daemon, Act::Create).await;
    took("created", daemon.resources());
    let client = daemon.client().await;
    let list = client.list().await.unwrap();
    let running = |vm: &&Vm| vm.status.as_ref().unwrap().state() == RunState::Running;
    assert_eq!(list.vms.iter().filter(running).count(), MACHINES);
    let cuts = fleet.calls(fleet.connect(&daemon).await, CALLS, SEED).await;
    assert!(cuts.is_empty(), "not answered: {cuts:?}");
    took("called", daemon.resources());
    fleet.each(&daemon, Act::Delete { force: true }).await;
    took("removed", daemon.resources());

    last_known.send_replace(Some(client.list().await.unwrap().seq));
    drop(client);
    let watched = within(DEADLINE, "the last events", watcher).await.unwrap();
    fleet.agrees_with(&watched).await;
    took("gone", is_back(&daemon, fresh).await);
}
