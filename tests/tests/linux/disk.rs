//! Linux's own drivers, with vmd's virtio devices: disks and the entropy device.

use std::fs;

use vmctl::{Client, v1};
use vmd_tests::{Guest, LinuxHost};

use crate::HOST_RESET;

const DISK: usize = 256 << 10;

/// Types a command to the guest's shell; the line that begins with `answer`.
pub(crate) async fn shell(guest: &mut Guest, command: &str, answer: &str) -> String {
    guest.send(&format!("{command}\n")).await;
    loop {
        let line = guest.console.line(answer).await;
        // The terminal echoes what was typed, after its prompt.
        if line.starts_with(answer) {
            return line;
        }
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_kernel_without_acpi_finds_its_disk_by_the_command_line() {
    let host = LinuxHost::start().await;
    let image = host.daemon.path("disk.img");
    fs::write(&image, vec![b'x'; DISK]).unwrap();
    let definition = v1::VmDefinition {
        initrd: host.files().initramfs_busybox.to_str().unwrap().to_owned(),
        cmdline: "console=ttyS0 quiet acpi=off".to_owned(),
        disks: vec![v1::Disk {
            path: image.to_str().unwrap().to_owned(),
            ..Default::default()
        }],
        rng: true,
        ..host.definition("")
    };
    let mut guest = host.boot("a", definition).await;
    guest.console.says("GUEST-UP").await;
    let words = "grep -o 'virtio_mmio.device=.*' /proc/cmdline";
    let devices = "virtio_mmio.device=512@0xd0000000:16 virtio_mmio.device=512@0xd0001000:17";
    shell(&mut guest, words, devices).await;
    shell(&mut guest, "md5sum < /dev/vda | wc -c", "36").await;
    // By the IOAPIC's inputs, as the MP table has them.
    let lines = "grep -c 'IO-APIC *1[67]-edge.*virtio' /proc/interrupts";
    shell(&mut guest, lines, "2").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn what_is_written_and_flushed_is_there_after_a_reset() {
    let host = LinuxHost::start().await;
    let (from, to) = (host.daemon.path("from.img"), host.daemon.path("to.img"));
    let content: Vec<u8> = (0..DISK as u32).map(|at| (at * 7 / 3) as u8).collect();
    fs::write(&from, &content).unwrap();
    fs::write(&to, vec![0; DISK]).unwrap();
    let disk = |path: &std::path::Path, read_only| v1::Disk {
        path: path.to_str().unwrap().to_owned(),
        read_only,
        serial: "vmd-1".to_owned(),
        ..Default::default()
    };
    let definition = v1::VmDefinition {
        initrd: host.files().initramfs_busybox.to_str().unwrap().to_owned(),
        cmdline: "console=ttyS0 quiet".to_owned(),
        disks: vec![disk(&from, true), disk(&to, false)],
        rng: true,
        ..host.definition("")
    };
    let mut guest = host.boot("a", definition).await;
    guest.console.says("GUEST-UP").await;
    shell(
        &mut guest,
        "cat /sys/block/vda/ro /sys/block/vdb/ro | tr '\\n' ' '; echo",
        "1 0",
    )
    .await;
    shell(&mut guest, "cat /sys/block/vdb/serial; echo", "vmd-1").await;
    shell(&mut guest, "head -c 16 /dev/hwrng | wc -c", "16").await;
    let copy = "dd if=/dev/vda of=/dev/vdb bs=16k conv=fsync 2>/dev/null; echo COPIED $?";
    shell(&mut guest, copy, "COPIED 0").await;
    assert!(fs::read(&to).unwrap() == content, "the copy on the host");

    guest.serves(Client::system_reset, &[HOST_RESET]).await;
    guest.console.says("GUEST-UP").await;
    shell(&mut guest, "cmp /dev/vda /dev/vdb; echo SAME $?", "SAME 0").await;
    guest
        .serves(
            Client::quit,
            &[
                "SHUTDOWN guest=false reason=host-qmp-quit -> running",
                "ENDED kind=shutdown cause=host-qmp-quit exit_status=0 failure=null -> shutdown",
            ],
        )
        .await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_new_size_is_seen_at_once() {
    let host = LinuxHost::start().await;
    let path = host.daemon.path("disk.img");
    fs::write(&path, vec![0; DISK]).unwrap();
    let definition = v1::VmDefinition {
        initrd: host.files().initramfs_busybox.to_str().unwrap().to_owned(),
        // The driver's notice of the size is shown.
        cmdline: "console=ttyS0 loglevel=6".to_owned(),
        disks: vec![v1::Disk {
            path: path.to_str().unwrap().to_owned(),
            ..Default::default()
        }],
        ..host.definition("")
    };
    let mut guest = host.boot("a", definition).await;
    guest.console.says("GUEST-UP").await;
    let resize = async |client: &Client, name: &str| {
        client
            .resize_disk(name, "d0", Some(2 * DISK as u64), false)
            .await
    };
    guest.serves(resize, &[]).await;
    guest.console.until("[vda] new size: 1024 512-byte").await;
    shell(&mut guest, "cat /sys/block/vda/size", "1024").await;
    let write =
        "echo end | dd of=/dev/vda bs=512 seek=1023 conv=fsync,sync 2>/dev/null; echo WRITTEN $?";
    shell(&mut guest, write, "WRITTEN 0").await;
    assert!(fs::read(&path).unwrap()[2 * DISK - 512..].starts_with(b"end"));
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn each_vcpu_has_a_queue() {
    let host = LinuxHost::start().await;
    let path = host.daemon.path("disk.img");
    fs::write(&path, vec![1; DISK]).unwrap();
    let definition = v1::VmDefinition {
        vcpus: Some(2),
        initrd: host.files().initramfs_busybox.to_str().unwrap().to_owned(),
        cmdline: "console=ttyS0 quiet".to_owned(),
        disks: vec![v1::Disk {
            path: path.to_str().unwrap().to_owned(),
            queues: Some(2),
            ..Default::default()
        }],
        ..host.definition("")
    };
    let mut guest = host.boot("a", definition).await;
    guest.console.says("GUEST-UP").await;
    shell(&mut guest, "ls -d /sys/block/vda/mq/* | wc -l", "2").await;
    let write = |seek| format!("dd if=/dev/zero of=/dev/vda bs=64k count=1 seek={seek} conv=fsync");
    let both = format!(
        "({} & {} & wait) 2>/dev/null; echo BOTH $?",
        write(0),
        write(2)
    );
    shell(&mut guest, &both, "BOTH 0").await;
    let image = fs::read(&path).unwrap();
    for (chunk, byte) in image.chunks(64 << 10).zip([0, 1, 0, 1]) {
        assert!(chunk.iter().all(|it| *it == byte));
    }
}
