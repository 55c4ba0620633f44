//! Devices that come and go, with a guest that does not listen: who has a bus for them, how many fit, and that a reset takes
//! away what was to go. With a guest that does, see `linux/pci.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use vmctl::{
    Client,
    v1::{self, device_add_request::Device},
};
use vmd_tests::{Daemon, binary, refusal, request, soon};
use vmm::devices::virtio::block::RawFile;

/// Slots for devices that come later.
const FREE_SLOTS: usize = 8;

fn image(path: PathBuf) -> PathBuf {
    File::create(&path).unwrap().set_len(4096).unwrap();
    path
}

fn disk(path: &Path) -> Device {
    Device::Disk(v1::Disk {
        path: path.to_str().unwrap().to_owned(),
        read_only: true,
        ..Default::default()
    })
}

/// Whether somebody may write to it.
fn is_free(image: &Path) -> bool {
    RawFile::open(image, false).is_ok()
}

fn machine(name: &str, transport: v1::VirtioTransport) -> v1::CreateVmRequest {
    let mut definition = v1::VmDefinition {
        memory_bytes: Some(16 << 20),
        rng: true,
        ..Default::default()
    };
    definition.set_virtio_transport(transport);
    v1::CreateVmRequest {
        definition: Some(definition),
        ..request(name)
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn devices_need_a_bus_that_has_room() {
    let daemon = Daemon::start().await;
    let image = image(daemon.path("disk"));
    let client = daemon.client().await;
    let add = async |name: &str| soon("add", client.device_add(name, disk(&image))).await;
    let remove = async |name: &str, id| soon("remove", client.device_del(name, id)).await;

    let mut mmio = daemon
        .guest_of(machine("mmio", v1::VirtioTransport::Mmio))
        .await;
    assert_eq!(refusal(add("mmio").await).reason, "NO_HOTPLUG");
    assert_eq!(refusal(remove("mmio", "rng").await).reason, "NO_HOTPLUG");
    mmio.is("running").await;

    let mut guest = daemon
        .guest_of(machine("pci", v1::VirtioTransport::Pci))
        .await;
    for index in 0..FREE_SLOTS {
        assert_eq!(add("pci").await.unwrap().device, format!("d{index}"));
    }
    assert_eq!(refusal(add("pci").await).reason, "NO_FREE_SLOT");
    let nowhere = disk(&daemon.path("nowhere"));
    let nowhere = soon("add", client.device_add("pci", nowhere)).await;
    let nowhere = refusal(nowhere);
    assert_eq!(nowhere.reason, "DISK_UNUSABLE");
    assert!(nowhere.message.starts_with("disk.path: "), "{nowhere:?}");
    let unknown = refusal(remove("pci", "d8").await);
    assert_eq!(unknown.reason, "DEVICE_NOT_FOUND");

    // Asked twice is asked once; the probe guest does not listen.
    for device in ["d3", "rng", "d3"] {
        remove("pci", device).await.unwrap();
    }
    guest.is_alive().await;
    // In the slots' order: the entropy device was there first.
    let deleted = ["rng", "d3"].map(|device| format!("DEVICE_DELETED device={device}"));
    let [rng, d3] = &deleted;
    guest
        .serves(Client::system_reset, &["RESET", rng, d3])
        .await;
    for device in ["d3", "d8"] {
        assert_eq!(add("pci").await.unwrap().device, device);
    }
    assert_eq!(refusal(add("pci").await).reason, "NO_FREE_SLOT");
    guest.is("running").await;

    // The end of the machine frees them all; its next start has what it was defined with.
    assert!(!is_free(&image));
    soon("quit", client.quit("pci")).await.unwrap();
    assert!(is_free(&image));
    assert_eq!(refusal(add("pci").await).reason, "VM_ENDED");
    assert!(is_free(&image));
    soon("start", client.start("pci", false)).await.unwrap();
    assert!(is_free(&image));
    assert_eq!(add("pci").await.unwrap().device, "d0");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn vmctl_adds_and_removes_disks() {
    let daemon = Daemon::start().await;
    let image = image(daemon.path("disk"));
    let mut guest = daemon
        .guest_of(machine("a", v1::VirtioTransport::Pci))
        .await;
    let vmctl = |args: &[&str]| {
        let mut command = Command::new(binary("vmctl"));
        command.args(["--server", &daemon.endpoint().to_string()]);
        let output = command.args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let option = format!("{},serial=late", image.display());
    assert_eq!(vmctl(&["disk", "add", "a", &option]), "a: d0 added\n");
    assert!(!is_free(&image));
    vmctl(&["disk", "remove", "a", "d0"]);
    guest
        .serves(Client::system_reset, &["RESET", "DEVICE_DELETED device=d0"])
        .await;
    assert!(is_free(&image));
}
