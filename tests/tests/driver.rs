//! A bare driver keeps a disk busy at full speed, while its machine is stopped, goes on and is reset.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{fs, path::Path};

use vmctl::{Client, v1};
use vmd_tests::{
    Daemon, Guest,
    guests::driver::{Descriptor, Driver, Request},
    request,
};

const BLOCK: u32 = 16 << 10;
const COUNT: usize = 8;

/// A descriptor's flag: another follows.
const NEXT: u16 = 1;

const READ: u32 = 0;
const WRITE: u32 = 1;

/// The requests of type `kind` for the first blocks of the disk.
fn blocks(kind: u32) -> Vec<Request> {
    let request = |index| {
        let sector = index as u64 * u64::from(BLOCK / 512);
        let header = [kind, 0].into_iter().flat_map(u32::to_le_bytes);
        Request {
            header: header.chain(sector.to_le_bytes()).collect(),
            data: BLOCK,
            into: kind == READ,
            status: true,
        }
    };
    (0..COUNT).map(request).collect()
}

/// A fault, and what a driver does for it to its last descriptor.
type Lie = (&'static str, fn(&mut Descriptor));

/// Reads with `r`, writes with `w`.
async fn boot(daemon: &Daemon, disk: &Path, read_only: bool) -> (Guest, [String; 2]) {
    let mut driver = Driver::new(0, 1);
    // Longer than a test takes to stop it in the middle.
    let runs = [READ, WRITE].map(|kind| driver.run(0, &blocks(kind), 1000));
    let guest = start(daemon, &driver.build(), disk, read_only).await;
    (guest, runs.map(|letter| char::from(letter).to_string()))
}

/// A machine with the driver and the disk.
async fn start(daemon: &Daemon, driver: &[u8], disk: &Path, read_only: bool) -> Guest {
    let kernel = daemon.path("driver");
    fs::write(&kernel, driver).unwrap();
    let definition = v1::VmDefinition {
        memory_bytes: Some(64 << 20),
        kernel: kernel.to_str().unwrap().to_owned(),
        disks: vec![v1::Disk {
            path: disk.to_str().unwrap().to_owned(),
            read_only,
            ..Default::default()
        }],
        ..Default::default()
    };
    let request = v1::CreateVmRequest {
        definition: Some(definition),
        ..request("a")
    };
    daemon.guest_of(request).await
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_busy_disk_is_stopped_and_reset_at_any_moment() {
    let daemon = Daemon::start().await;
    let disk = daemon.path("disk");
    fs::write(&disk, vec![0xee; BLOCK as usize * (COUNT + 1)]).unwrap();
    let (mut guest, [read, write]) = boot(&daemon, &disk, false).await;
    for _ in 0..5 {
        guest.send(&write).await;
        for _ in 0..3 {
            guest.serves(Client::stop, &["STOP"]).await;
            guest.serves(Client::cont, &["RESUME"]).await;
        }
        guest.console.expect(".").await;
    }
    let written = fs::read(&disk).unwrap();
    let (first, rest) = written.split_at(BLOCK as usize * COUNT);
    assert!(first.iter().all(|byte| *byte == 0), "what the guest wrote");
    assert!(rest.iter().all(|byte| *byte == 0xee), "what it did not");
    for letter in [&read, &write, &read] {
        guest.send(letter).await;
        let reset = "RESET guest=false reason=host-qmp-system-reset -> running";
        guest.serves(Client::system_reset, &[reset]).await;
        // What it said before, if it was that quick.
        if guest.console.read(1).await == b"." {
            guest.console.expect("!").await;
        }
    }
    guest.send(&read).await;
    guest.console.expect(".").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn every_request_says_what_became_of_it() {
    let daemon = Daemon::start().await;
    let disk = daemon.path("disk");
    fs::write(&disk, vec![0; BLOCK as usize * COUNT]).unwrap();
    let (mut guest, [read, write]) = boot(&daemon, &disk, true).await;
    guest.send(&read).await;
    guest.console.expect(".").await;
    guest.send(&write).await;
    guest.console.expect("E").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_driver_that_lies_stops_its_device_and_nothing_else() {
    let daemon = Daemon::start().await;
    let disk = daemon.path("disk");
    let content = vec![0xee; BLOCK as usize * COUNT];
    fs::write(&disk, &content).unwrap();
    let lies: [Lie; 3] = [
        ("chain", |last| (last.flags, last.next) = (NEXT, 0)),
        ("request", |last| last.address = 1 << 40),
        ("chain", |last| last.len = u32::MAX),
    ];
    for (fault, lie) in lies {
        let mut driver = Driver::new(0, 1);
        let lying = driver.run(0, &blocks(WRITE)[..1], 1);
        driver.corrupt(0, lie);
        let reading = driver.run(0, &blocks(READ)[1..2], 1);
        let mut guest = start(&daemon, &driver.build(), &disk, false).await;
        let letter = |letter| char::from(letter).to_string();
        let error = format!("DEVICE_ERROR device=d0 fault={fault} -> running");
        guest.send(&letter(lying)).await;
        guest.events.expect(&[&error]).await;
        guest.is("running").await;
        // Its driver waits for ever; another, after a reset, does not.
        let reset = "RESET guest=false reason=host-qmp-system-reset -> running";
        guest.serves(Client::system_reset, &[reset]).await;
        guest.console.expect("!").await;
        guest.send(&letter(reading)).await;
        guest.console.expect(".").await;
        let delete = guest.client.delete("a", true);
        delete.await.unwrap();
    }
    assert_eq!(fs::read(&disk).unwrap(), content, "nothing was written");
}
