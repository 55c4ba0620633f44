//! A kernel that is booted directly: the probe kernel's view of its start, of the other CPUs and of a wake-up.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;

use vmctl::{Client, v1};
use vmd_tests::{Daemon, Guest, request};

/// A machine with the probe kernel.
async fn boot(daemon: &Daemon, name: &str, vcpus: u32, memory_bytes: u64) -> Guest {
    let kernel = daemon.path("kernel");
    fs::write(&kernel, vmm::probe::kernel()).unwrap();
    let definition = v1::VmDefinition {
        memory_bytes: Some(memory_bytes),
        vcpus: Some(vcpus),
        kernel: kernel.to_str().unwrap().to_owned(),
        ..Default::default()
    };
    let request = v1::CreateVmRequest {
        definition: Some(definition),
        ..request(name)
    };
    daemon.guest_of(request).await
}

const SMALL: u64 = 4 << 20;
const GUEST_RESET: &str = "RESET guest=true reason=guest-reset -> running";
const HOST_RESET: &str = "RESET guest=false reason=host-qmp-system-reset -> running";
const SUSPEND: &str = "SUSPEND -> suspended";
const WAKEUP: &str = "WAKEUP -> running";

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_kernel_starts_in_fresh_memory_at_each_reset() {
    let daemon = Daemon::start().await;
    let mut guest = boot(&daemon, "a", 1, SMALL).await;
    // The guest says `?` if its image is not as in the file, or what comes after it is not zero.
    guest.types("R", &[GUEST_RESET]).await;
    guest.console.expect("!").await;
    guest.serves(Client::system_reset, &[HOST_RESET]).await;
    guest.console.expect("!").await;
    guest.is_alive().await;
    let shutdown = "SHUTDOWN guest=true reason=guest-shutdown -> running";
    let ended = "ENDED kind=shutdown cause=guest-shutdown exit_status=0 -> shutdown";
    guest.types("O", &[shutdown, ended]).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_sleeping_guest_goes_on_at_its_waking_vector() {
    let daemon = Daemon::start().await;
    let mut guest = boot(&daemon, "a", 1, SMALL).await;
    for _ in 0..3 {
        guest.types("S", &[SUSPEND]).await;
        guest.serves(Client::system_wakeup, &[WAKEUP]).await;
        // With memory as it was.
        guest.console.expect("w").await;
        guest.is_alive().await;
    }
    // A reset of a sleeping guest is a start, not a wake-up.
    guest.types("S", &[SUSPEND]).await;
    let reset = "RESET guest=false reason=host-qmp-system-reset -> prelaunch";
    guest.serves(Client::system_reset, &[reset]).await;
    guest.serves(Client::cont, &["RESUME -> running"]).await;
    guest.console.expect("!").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn sixty_four_cpus_are_in_the_tables_and_come_up_each_time() {
    let daemon = Daemon::start().await;
    let mut guest = boot(&daemon, "a", 64, SMALL).await;
    guest.letter("C").await;
    guest.console.expect("40").await;
    // All are stopped and started together.
    guest.serves(Client::stop, &["STOP -> paused"]).await;
    guest.serves(Client::cont, &["RESUME -> running"]).await;
    guest.is_alive().await;
    // After a reset they wait to be started again, after a wake-up too.
    guest.serves(Client::system_reset, &[HOST_RESET]).await;
    guest.console.expect("!").await;
    guest.letter("C").await;
    guest.console.expect("40").await;
    guest.types("S", &[SUSPEND]).await;
    guest.serves(Client::system_wakeup, &[WAKEUP]).await;
    guest.console.expect("w").await;
    guest.letter("C").await;
    guest.console.expect("40").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn one_machine_boots_beside_others_from_the_same_file() {
    let daemon = Daemon::start().await;
    let mut first = boot(&daemon, "a", 1, SMALL).await;
    // More memory than fits below the hole under 4 GiB.
    let mut second = boot(&daemon, "b", 2, 4 << 30).await;
    second.letter("C").await;
    second.console.expect("02").await;
    // The file's end is no matter to those that have booted from it.
    fs::remove_file(daemon.path("kernel")).unwrap();
    first.serves(Client::system_reset, &[HOST_RESET]).await;
    first.console.expect("!").await;
    second.is_alive().await;
}
