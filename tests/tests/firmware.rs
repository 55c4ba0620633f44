//! A firmware that nobody here wrote: SeaBIOS goes through its power-on self-test, with one vCPU and with two, is reset,
//! stopped and woken in the middle of it and after it, and goes on or begins again. Its memory tests and clears are emulated
//! on some hosts, where it takes seconds.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::Path;

use serde_json::json;
use vmctl::{Client, v1};
use vmd_tests::{Daemon, Guest, Qmp, request, seabios};

/// What SeaBIOS writes first: it sets the terminal up, then says who it is.
const BANNER: &str = "\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version ";
/// What it writes last, where there is no disk.
const THE_END: &str = "No bootable device.";
/// The daemon logs what the firmware says on its debug port.
const LOG: &str = "info,firmware=debug";

const RESET: &str = "RESET guest=false reason=host-qmp-system-reset";

async fn guest(daemon: &Daemon, image: &Path, vcpus: u32) -> Guest {
    let create = v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            firmware: image.to_str().unwrap().to_owned(),
            vcpus: Some(vcpus),
            qmp_socket: daemon.path("qmp").to_str().unwrap().to_owned(),
            ..Default::default()
        }),
        ..request("a")
    };
    Guest::create_any(daemon.client().await, create).await
}

/// The banner, and nothing before it.
async fn banner(guest: &mut Guest) {
    guest.console.expect(BANNER).await;
}

/// The rest of the self-test, and nothing beyond it.
async fn the_end(guest: &mut Guest) {
    let output = guest.console.until(THE_END).await;
    assert!(!output.contains("SeaBIOS"), "{output:?}");
    guest.console.expect("\r\n").await;
}

/// The self-test from its start to its end with `vcpus` vCPUs; the debug port's lines come to the daemon's log.
async fn self_test(image: &Path, vcpus: u32) {
    let daemon = Daemon::start_logging(LOG, &[]).await;
    let mut guest = guest(&daemon, image, vcpus).await;
    banner(&mut guest).await;
    the_end(&mut guest).await;
    guest.is("running").await;
    guest.serves(Client::quit, &["SHUTDOWN", "ENDED"]).await;
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let (status, log) = daemon.ended().await;
    assert!(status.success(), "{status}:\n{log}");
    let found = format!("Found {vcpus} cpu(s) max supported {vcpus} cpu(s)");
    for line in [
        "SeaBIOS (version ",
        "QEMU fw_cfg DMA interface supported",
        "qemu/e820: addr 0x0000000000000000 len 0x0000000010000000 [RAM]",
        &found,
        "sercon: using ioport 0x3f8",
        THE_END,
    ] {
        let in_log =
            |one: &str| one.contains("vcpu{vm=a index=0}: firmware: ") && one.contains(line);
        assert!(log.lines().any(in_log), "{line:?}:\n{log}");
    }
    assert!(!log.contains("WARN"), "no time-out, no loss:\n{log}");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn seabios_comes_to_the_end_of_its_self_test() {
    self_test(&seabios(), 1).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn seabios_finds_the_second_vcpu() {
    self_test(&seabios(), 2).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn so_does_the_image_of_128_kib() {
    self_test(&seabios().with_file_name("bios.bin"), 1).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_reset_starts_it_again_wherever_it_was() {
    let daemon = Daemon::start().await;
    let mut guest = guest(&daemon, &seabios(), 2).await;
    banner(&mut guest).await;
    // In the middle, twice, and at the end.
    for _ in 0..2 {
        guest.serves(Client::system_reset, &[RESET]).await;
        guest.console.until(BANNER).await;
    }
    the_end(&mut guest).await;
    guest.serves(Client::system_reset, &[RESET]).await;
    banner(&mut guest).await;
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn stopped_and_continued_in_the_middle_it_comes_to_its_end() {
    let daemon = Daemon::start().await;
    let mut guest = guest(&daemon, &seabios(), 2).await;
    banner(&mut guest).await;
    for _ in 0..20 {
        guest.serves(Client::stop, &["STOP -> paused"]).await;
        guest.serves(Client::cont, &["RESUME -> running"]).await;
    }
    the_end(&mut guest).await;
    // A reset does not start it; `cont` then does, from its beginning.
    guest.serves(Client::stop, &["STOP -> paused"]).await;
    guest.serves(Client::system_reset, &[RESET]).await;
    guest.is("prelaunch").await;
    guest.serves(Client::cont, &["RESUME -> running"]).await;
    banner(&mut guest).await;
    guest.is("running").await;
}

/// There is no operating system to resume: SeaBIOS finds the mark of S3 in CMOS and no waking vector, and resets the
/// machine itself.
#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn woken_from_s3_it_looks_for_who_slept_and_resets() {
    let daemon = Daemon::start_logging(LOG, &[]).await;
    let mut guest = guest(&daemon, &seabios(), 2).await;
    banner(&mut guest).await;
    the_end(&mut guest).await;
    let sleep = json!({
        "execute": "human-monitor-command",
        "arguments": { "command-line": "o /w 0x604 0x2400" },
    });
    let mut qmp = Qmp::open(&daemon.path("qmp")).await;
    qmp.execute(&sleep).await;
    guest.events.expect(&["SUSPEND -> suspended"]).await;
    guest
        .serves(Client::system_wakeup, &["WAKEUP -> running"])
        .await;
    let reset = "RESET guest=true reason=guest-reset -> running";
    guest.events.expect(&[reset]).await;
    banner(&mut guest).await;
    the_end(&mut guest).await;
    guest.is("running").await;
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let (_, log) = daemon.ended().await;
    assert!(log.contains("firmware: In resume (status=254)"), "{log}");
}
