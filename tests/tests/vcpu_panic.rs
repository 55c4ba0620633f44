//! A vCPU thread that panics takes its machine with it, and nothing else.
//!
//! What wakes a machine's owner is called from the thread that raises a request. Here it panics on a vCPU's thread.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{sync::Arc, thread};

use tokio::sync::Notify;
use vmd_tests::soon;
use vmm::{
    machine::{
        Boot, Firmware, Host, KvmMachine, MachineConfig, MachineError, VirtioTransport,
        cpu::CpuConfig,
    },
    runstate::{Actions, Command, MainLoop, Requests, TransitionTable},
};

/// A running probe guest and what wakes its owner.
async fn machine(host: &Host, name: &str, panics: bool) -> (MainLoop<KvmMachine>, Arc<Notify>) {
    let woken = Arc::new(Notify::new());
    let wake = {
        let woken = woken.clone();
        move || woken.notify_one()
    };
    let requests = Requests::new(TransitionTable::default(), Actions::default(), {
        let wake = wake.clone();
        move || {
            let thread = thread::current();
            if panics && thread.name().is_some_and(|name| name.starts_with("vcpu")) {
                panic!("as the test wants it");
            }
            wake();
        }
    });
    let config = MachineConfig {
        name: name.to_owned(),
        memory_bytes: 1 << 20,
        vcpus: 2,
        cpu: CpuConfig::default(),
        boot: Boot::Firmware(Firmware::Probe),
        virtio: Vec::new(),
        virtio_transport: VirtioTransport::default(),
        fail_at: None,
    };
    let machine = KvmMachine::build(host, &config, requests.clone(), Arc::new(wake)).unwrap();
    let mut main_loop = machine.into_main_loop(requests);
    main_loop.command(Command::Cont).await.unwrap();
    soon("the guest", main_loop.machine().console().wait_output(0)).await;
    (main_loop, woken)
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_vcpu_thread_that_panics_fails_its_machine_alone() {
    let host = Host::open().unwrap();
    let (mut panics, woken) = machine(&host, "panics", true).await;
    let (mut lives, _) = machine(&host, "lives", false).await;

    // Crash-loaded: a request that the guest raises. The thread dies with the device locked.
    let console = panics.machine().console().clone();
    console.write_input(b"C").await.unwrap();
    while panics.machine().failure().is_none() {
        soon("the vCPU's last will", woken.notified()).await;
    }
    assert!(matches!(
        panics.machine().failure(),
        Some(MachineError::VcpuDied)
    ));
    // It can no more be used, but nobody waits for it in vain.
    assert!(soon("stop", panics.command(Command::Stop)).await.is_err());
    soon("close", tokio::task::spawn_blocking(move || drop(panics)))
        .await
        .unwrap();

    let console = lives.machine().console().clone();
    assert!(lives.machine().failure().is_none());
    console.write_input(b"x").await.unwrap();
    soon("echo", console.wait_output(1)).await;
    soon("stop", lives.command(Command::Stop)).await.unwrap();
    lives.pass().await.unwrap();
    soon("cont", lives.command(Command::Cont)).await.unwrap();
    console.write_input(b"C").await.unwrap();
    soon("echo", console.wait_output(2)).await;
    assert_eq!(console.read_output(0).bytes, b"!xC");
    soon("close", tokio::task::spawn_blocking(move || drop(lives)))
        .await
        .unwrap();
}
