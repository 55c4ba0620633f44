//! Linux's own driver for the balloon: memory that goes back to the host.

use std::{fs, time::Instant};

use vmctl::{
    Client,
    v1::{self, event::Kind},
};
use vmd_tests::{Guest, LINUX_DEADLINE, LinuxHost};

use crate::{HOST_RESET, disk::shell};

const MIB: u64 = 1 << 20;
/// What a guest has: little, since an emulated kernel takes its time for each page.
const MEMORY: u64 = 28 * MIB;
/// What it gives back: most of what is free.
const GIVEN: u64 = 12 * MIB;
/// What it fills and frees before.
const FILLED: u64 = 8 * MIB;
const FILL: &str = "dd if=/dev/zero of=/file bs=1M count=8 2>/dev/null; echo FILLED $?";
const FILL_MORE: &str = "dd if=/dev/zero of=/file bs=1M count=40 2>/dev/null; echo FILLED $?";
const FREE: &str = "rm /file; echo FREED $?";

/// A guest with a shell.
async fn boot(host: &LinuxHost, memory: u64, balloon: v1::BalloonDevice) -> Guest {
    let definition = v1::VmDefinition {
        initrd: host.files().initramfs_busybox.to_str().unwrap().to_owned(),
        cmdline: "console=ttyS0 quiet".to_owned(),
        memory_bytes: Some(memory),
        balloon: Some(balloon),
        ..host.definition("")
    };
    let mut guest = host.boot("a", definition).await;
    guest.console.says("GUEST-UP").await;
    guest
}

/// Bytes of the host's memory that the daemon has, its one guest's among them.
fn resident(host: &LinuxHost) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", host.daemon.pid());
    let smaps = fs::read_to_string(path).unwrap();
    let line = smaps.lines().find(|line| line.starts_with("Rss:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Sets the memory that the guest is to have, and waits until it has it.
async fn balloon(guest: &mut Guest, size: u64) {
    let set = async |client: &Client, name: &str| client.balloon(name, size).await;
    guest.serves(set, &[]).await;
    loop {
        let event = guest.events.next().await;
        let Some(Kind::BalloonChange(change)) = event.kind else {
            panic!("{event:?}");
        };
        if change.actual == size {
            return;
        }
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn memory_goes_to_the_host_and_comes_back() {
    let host = LinuxHost::start().await;
    let device = v1::BalloonDevice {
        stats_interval_seconds: 1,
        ..Default::default()
    };
    let mut guest = boot(&host, MEMORY, device).await;
    shell(&mut guest, FILL, "FILLED 0").await;
    shell(&mut guest, FREE, "FREED 0").await;
    let before = resident(&host);
    let small = MEMORY - GIVEN;
    balloon(&mut guest, small).await;
    let after = resident(&host);
    assert!(after + FILLED / 3 < before, "{before} -> {after}");
    let is_at = async |guest: &Guest, actual, target| {
        let now = guest.client.query_balloon("a").await.unwrap();
        assert_eq!((now.actual_bytes, now.target_bytes), (actual, target));
        now.stats.unwrap()
    };
    let stats = is_at(&guest, small, small).await;
    let (free, total) = (stats.free_memory.unwrap(), stats.total_memory.unwrap());
    assert!(free < total && total < MEMORY, "{stats:?}");
    assert!(stats.available_memory.is_some() && stats.last_update.is_some());

    // It takes memory back, and may use it.
    balloon(&mut guest, MEMORY).await;
    shell(&mut guest, FILL, "FILLED 0").await;
    shell(&mut guest, FREE, "FREED 0").await;
    assert!(resident(&host) > after + FILLED / 3);
    is_at(&guest, MEMORY, MEMORY).await;

    // After a reset the balloon is empty; what its driver is asked for stays.
    balloon(&mut guest, small).await;
    guest.serves(Client::system_reset, &[HOST_RESET]).await;
    let now = guest.client.query_balloon("a").await.unwrap();
    assert_eq!((now.actual_bytes, now.target_bytes), (MEMORY, small));
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn pages_that_are_free_go_to_the_host_without_a_word() {
    let host = LinuxHost::start().await;
    let device = v1::BalloonDevice {
        free_page_reporting: true,
        ..Default::default()
    };
    // Linux reports nothing of a zone with less than 128 MiB that are free.
    let mut guest = boot(&host, 256 * MIB, device).await;
    let began = Instant::now();
    while !is_reported(&host, &mut guest).await {
        assert!(began.elapsed() < LINUX_DEADLINE, "{}", resident(&host));
    }
    shell(&mut guest, FILL, "FILLED 0").await;
}

/// Fills memory and frees it, and waits for the host to get it: the guest reports some seconds later. It reports blocks of
/// 2 MiB alone, those that are free as a whole: so it fills many.
async fn is_reported(host: &LinuxHost, guest: &mut Guest) -> bool {
    shell(guest, FILL_MORE, "FILLED 0").await;
    let before = resident(host);
    shell(guest, FREE, "FREED 0").await;
    for _ in 0..20 {
        if resident(host) + FILLED / 3 < before {
            return true;
        }
        shell(guest, "sleep 1; echo SLEPT", "SLEPT").await;
    }
    false
}
