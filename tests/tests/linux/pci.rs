//! Linux's own drivers over virtio's PCI transport.

use std::{fs, path::Path};

use vmctl::{
    Client,
    v1::{self, device_add_request::Device},
};
use vmd_tests::{LinuxHost, refusal, soon};
use vmm::devices::virtio::block::RawFile;

use crate::{HOST_RESET, STOP, disk::shell};

const DISK: usize = 128 << 10;

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn devices_on_the_bus_interrupt_by_message_and_are_the_same_after_a_reset() {
    let host = LinuxHost::start().await;
    let image = host.daemon.path("disk.img");
    fs::write(&image, vec![0; DISK]).unwrap();
    let mut definition = v1::VmDefinition {
        initrd: host.files().initramfs_busybox.to_str().unwrap().to_owned(),
        cmdline: "console=ttyS0 quiet".to_owned(),
        disks: vec![v1::Disk {
            path: image.to_str().unwrap().to_owned(),
            ..Default::default()
        }],
        rng: true,
        ..host.definition("")
    };
    definition.set_virtio_transport(v1::VirtioTransport::Pci);
    let mut guest = host.boot("a", definition).await;
    for round in 1..=2_u8 {
        guest.console.says("GUEST-UP").await;
        // Each queue has an interrupt of its own, and each device one for its configuration.
        let messages = "grep -c 'PCI-MSI.*virtio' /proc/interrupts";
        shell(&mut guest, messages, "4").await;
        let write = format!(
            "tr '\\0' {round} < /dev/zero | dd of=/dev/vda bs=16k count=8 iflag=fullblock conv=fsync \
             2>/dev/null; echo WRITTEN $?"
        );
        shell(&mut guest, &write, "WRITTEN 0").await;
        let written = fs::read(&image).unwrap();
        assert!(written == vec![b'0' + round; DISK], "round {round}");
        shell(&mut guest, "head -c 16 /dev/hwrng | wc -c", "16").await;
        // The queue's message has come; that is what the driver waited for.
        let used =
            "awk '/virtio.-req.0/ { print ($2 > 0 ? \"CAME\" : \"NONE\") }' /proc/interrupts";
        shell(&mut guest, used, "CAME").await;
        if round == 1 {
            guest.serves(Client::system_reset, &[HOST_RESET]).await;
        }
    }

    // A disk that is no bus master any more leaves its request where it is, and does it once it is one again.
    let command = |bits: &str| {
        let config = "/sys/bus/pci/devices/0000:00:01.0/config";
        format!("printf '\\{bits}' | dd of={config} bs=1 seek=4 conv=notrunc 2>/dev/null; echo $?")
    };
    shell(&mut guest, &command("2"), "0").await;
    let write = "(dd if=/dev/zero of=/dev/vda bs=16k count=1 conv=fsync 2>/dev/null; echo DONE > /tmp/done) & \
                 until awk '$9 > 0 { f = 1 } END { exit !f }' /sys/block/vda/stat; do sleep 0.1; done; \
                 echo UNDER WAY";
    shell(&mut guest, write, "UNDER WAY").await;
    // Others are served meanwhile.
    shell(&mut guest, "head -c 16 /dev/hwrng | wc -c", "16").await;
    assert!(fs::read(&image).unwrap() == vec![b'2'; DISK]);
    shell(&mut guest, "ls /tmp/done; echo $?", "1").await;
    shell(&mut guest, &command("6"), "0").await;
    shell(&mut guest, "wait; cat /tmp/done", "DONE").await;
    assert!(fs::read(&image).unwrap().starts_with(&[0; 16 << 10]));
}

/// Whether somebody holds the image's lock.
fn is_locked(image: &Path) -> bool {
    RawFile::open(image, true).is_err()
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_disk_comes_and_goes_while_the_guest_runs() {
    let host = LinuxHost::start().await;
    let image = host.daemon.path("disk.img");
    fs::write(&image, vec![0; DISK]).unwrap();
    let disk = v1::Disk {
        path: image.to_str().unwrap().to_owned(),
        serial: "late".to_owned(),
        ..Default::default()
    };
    let mut definition = v1::VmDefinition {
        initrd: host.files().initramfs_busybox.to_str().unwrap().to_owned(),
        cmdline: "console=ttyS0 quiet".to_owned(),
        ..host.definition("")
    };
    definition.set_virtio_transport(v1::VirtioTransport::Pci);
    let mut guest = host.boot("a", definition).await;
    guest.console.says("GUEST-UP").await;
    shell(&mut guest, "ls -d /sys/block/vda; echo $?", "1").await;
    assert!(!is_locked(&image));

    let client = guest.client.clone();
    let add = async || soon("add", client.device_add("a", Device::Disk(disk.clone()))).await;
    assert_eq!(add().await.unwrap().device, "d0");
    assert!(is_locked(&image));
    // The image is in use, by this machine: nothing changes.
    assert_eq!(refusal(add().await).reason, "DISK_UNUSABLE");
    // Waits for the device's node, as long as its driver takes.
    let appears = "until [ -b /dev/vda ]; do sleep 0.1; done; cat /sys/block/vda/serial; echo";
    shell(&mut guest, appears, "late").await;
    let write = "tr '\\0' 1 < /dev/zero | dd of=/dev/vda bs=16k count=8 iflag=fullblock conv=fsync \
                 2>/dev/null; echo WRITTEN $?";
    shell(&mut guest, write, "WRITTEN 0").await;
    assert!(fs::read(&image).unwrap() == vec![b'1'; DISK]);

    // It stays over a reset.
    guest.serves(Client::system_reset, &[HOST_RESET]).await;
    guest.console.says("GUEST-UP").await;
    shell(&mut guest, "head -c 1 /dev/vda; echo", "1").await;

    let removed = soon("remove", client.device_del("a", "d0")).await;
    removed.unwrap();
    let deleted = "DEVICE_DELETED device=d0 path=/machine/peripheral/d0 -> running";
    guest.events.expect(&[deleted]).await;
    assert!(!is_locked(&image));
    shell(&mut guest, "ls -d /sys/block/vda; echo $?", "1").await;
    let again = soon("remove", client.device_del("a", "d0")).await;
    assert_eq!(refusal(again).reason, "DEVICE_NOT_FOUND");

    // Its slot and its number are free again; a guest that does not answer loses it at the reset.
    assert_eq!(add().await.unwrap().device, "d0");
    shell(&mut guest, appears, "late").await;
    guest.serves(Client::stop, &[STOP]).await;
    soon("remove", client.device_del("a", "d0")).await.unwrap();
    assert!(is_locked(&image));
    let reset = "RESET guest=false reason=host-qmp-system-reset -> prelaunch";
    let deleted = "DEVICE_DELETED device=d0 path=/machine/peripheral/d0 -> prelaunch";
    guest.serves(Client::system_reset, &[reset, deleted]).await;
    assert!(!is_locked(&image));
    // The definition has never had it.
    let definition = soon("get", client.get("a")).await.unwrap().definition;
    assert!(definition.unwrap().disks.is_empty());
}
