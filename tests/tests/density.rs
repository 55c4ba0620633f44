//! Many machines in one daemon: what they cost while they do nothing, and what is left when they are gone.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{sync::Arc, time::Instant};

use tokio::task::JoinSet;
use vmctl::{Client, v1};
use vmd_tests::{ConsoleReader, Daemon, Resources, soon};

const MIB: u64 = 1 << 20;
const MACHINES: usize = 200;
/// How much of one core the daemon may use while all its machines are idle, in percent.
const IDLE_CPU: f64 = 2.0;
/// What may stay of the 40 MiB of 200 machines that have gone: the events of their lives, what the allocator does not give
/// back of pages that hold anything, and what was used of the stacks that the C library keeps. It does not grow with the
/// next 200.
const MEMORY_LEFT: u64 = 16 * MIB;
/// What the C library keeps of threads that have gone, whatever their number: 40 MiB of stacks (of 256 KiB, two mappings
/// each), and eight arenas a core. A machine that stayed would keep its memory, which is checked as well.
const MAPPINGS_KEPT: usize = 2 * 160 + 2 * 8 * 2;

fn request(name: &str) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        name: name.to_owned(),
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(16 * MIB),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn names(count: usize) -> impl Iterator<Item = Arc<str>> {
    (0..count).map(|index| format!("vm-{index}").into())
}

/// Does `call` for all names at the same time.
async fn all<F>(client: &Client, count: usize, call: impl Fn(Client, Arc<str>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut calls = JoinSet::new();
    for name in names(count) {
        calls.spawn(call(client.clone(), name));
    }
    soon("all calls", calls.join_all()).await;
}

async fn create(client: Client, name: Arc<str>) {
    client.create(request(&name)).await.unwrap();
}

async fn delete(client: Client, name: Arc<str>) {
    client.delete(&name, true).await.unwrap();
}

/// The guest has started, and answers.
async fn echo(client: Client, name: Arc<str>) {
    let (input, output) = client.console(&name, false).await.unwrap();
    let mut console = ConsoleReader::new(output);
    console.expect("!").await;
    input.send(b"x").await.unwrap();
    console.expect("x").await;
}

/// Waits until the daemon holds no more than it did `before`.
async fn nothing_left(daemon: &Daemon, before: Resources) -> Resources {
    let settled = |now: &Resources| {
        now.threads <= before.threads
            && now.descriptors <= before.descriptors
            && now.kvm <= before.kvm
            && now.mappings <= before.mappings + MAPPINGS_KEPT
            // The heap goes back a second after the last machine.
            && now.anonymous < before.anonymous + MEMORY_LEFT
    };
    daemon.settle(&format!("before: {before:?}"), settled).await
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn two_hundred_idle_machines_cost_nothing_and_leave_nothing() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    // Two seconds of this machine's watchdog are the unit of time.
    let mut clock = request("clock");
    clock.definition.as_mut().unwrap().actions = Some(v1::Actions {
        watchdog: v1::WatchdogAction::None.into(),
        ..Default::default()
    });
    let mut clock = daemon.guest_of(clock).await;
    let before = daemon.settle("before", |_| true).await;

    all(&client, MACHINES, create).await;
    all(&client, MACHINES, echo).await;
    let full = daemon.settle("full", |_| true).await;
    let running = |vm: &v1::Vm| vm.status.as_ref().unwrap().running;
    let list = client.list().await.unwrap();
    assert_eq!(
        list.vms.iter().filter(|vm| running(vm)).count(),
        MACHINES + 1
    );

    // In the first two seconds the threads that made the machines go.
    clock.letter("W").await;
    clock.events.expect(&["WATCHDOG action=none"]).await;
    let (started, ticks) = (Instant::now(), Resources::cpu_ticks(daemon.pid()));
    for _ in 0..2 {
        clock.letter("W").await;
        clock.events.expect(&["WATCHDOG action=none"]).await;
    }
    let ticks = Resources::cpu_ticks(daemon.pid()) - ticks;
    // A tick is 10 ms, so ticks in a second are percent of a core.
    let used = ticks as f64 / started.elapsed().as_secs_f64();

    all(&client, MACHINES, delete).await;
    let after = nothing_left(&daemon, before).await;
    println!(
        "idle: {used}% of a core ({ticks} ticks); before {before:?}; {MACHINES} machines {full:?}; after {after:?}; \
         {} KiB per machine",
        (full.anonymous - before.anonymous) / 1024 / MACHINES as u64
    );
    assert!(
        used < IDLE_CPU,
        "{MACHINES} idle machines use {used}% of a core"
    );
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn machines_that_come_and_go_leave_nothing() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let before = daemon.settle("before", |_| true).await;
    for round in 0..3 {
        all(&client, 50, create).await;
        all(&client, 50, delete).await;
        println!("round {round}: {:?}", daemon.resources());
    }
    let after = nothing_left(&daemon, before).await;
    println!("{before:?}, {after:?}");
    assert!(client.list().await.unwrap().vms.is_empty());
}
