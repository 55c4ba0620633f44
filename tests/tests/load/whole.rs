//! 1,000 machines and 10,000 calls.

use std::time::Instant;

use tempfile::tempdir;
use vmctl::v1::RunState;
use vmd_tests::{DEADLINE, Daemon, Resources, within};

use super::{
    act::Act,
    fleet::{Fleet, watch},
};

const MACHINES: usize = 1_000;
const CALLS: usize = 10_000;
const SEED: u64 = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_thousand_machines_take_ten_thousand_calls_and_leave_nothing() {
    let data = tempdir().unwrap();
    let daemon = Daemon::start_on(data.path(), &[]).await;
    let before = daemon.settle("before", |_| true).await;
    let fleet = Fleet::new(MACHINES);
    let mut began = Instant::now();
    let mut took = |what: &str, now: Resources| {
        println!("{what}: {:?}, {now:?}", began.elapsed());
        began = Instant::now();
    };
    took("nothing", before);

    let (last_known, last) = tokio::sync::watch::channel(None);
    let watcher = tokio::spawn(watch(daemon.client().await, last));
    fleet.each(&daemon, Act::Create).await;
    took("created", daemon.resources());
    let client = daemon.client().await;
    let list = client.list().await.unwrap();
    let running = |vm: &&vmctl::v1::Vm| vm.status.as_ref().unwrap().state() == RunState::Running;
    assert_eq!(list.vms.iter().filter(running).count(), MACHINES);

    fleet.calls(&daemon, CALLS, SEED).await;
    took("called", daemon.resources());
    fleet.each(&daemon, Act::Delete { force: true }).await;
    took("removed", daemon.resources());
    last_known.send_replace(Some(client.list().await.unwrap().seq));
    let watched = within(DEADLINE, "the last events", watcher).await.unwrap();
    fleet.agrees_with(&watched).await;

    let gone = |now: &Resources| {
        now.resident <= before.resident / 10 * 11
            && now.threads <= before.threads
            && now.descriptors <= before.descriptors
            && now.kvm <= before.kvm
    };
    let after = daemon.settle(&format!("before: {before:?}"), gone).await;
    took("gone", after);
}
