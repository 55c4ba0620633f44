//! Disks: what the probe guest writes, errors of a host whose file system is full, and whose disk is whose.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use imago::{FormatCreateBuilder, Storage, StorageOpenOptions, qcow2::Qcow2};
use nix::unistd::geteuid;
use tonic::Code;
use vm_memory::VolatileSlice;
use vmctl::{Client, names::Spelled, v1};
use vmd_tests::{Daemon, Guest, describe, refusal, request, soon};
use vmm::{
    devices::virtio::block::{Format, open_disk},
    runstate::journal::{Transcript, replay},
};

const SIZE: u64 = 64 << 10;

fn disk(path: &Path) -> v1::Disk {
    v1::Disk {
        path: path.to_str().unwrap().to_owned(),
        ..Default::default()
    }
}

fn with_disks(name: &str, disks: Vec<v1::Disk>) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(16 << 20),
            disks,
            rng: true,
            ..Default::default()
        }),
        ..request(name)
    }
}

/// An image without data.
fn image(path: PathBuf) -> PathBuf {
    File::create(&path).unwrap().set_len(SIZE).unwrap();
    path
}

fn is_written(path: &Path) -> bool {
    let image = fs::read(path).unwrap();
    let (first, rest) = image.split_at(512);
    first == [b'D'; 512] && rest.iter().all(|byte| *byte == 0)
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn what_the_guest_writes_is_in_the_image() {
    let daemon = Daemon::start().await;
    let (one, other) = (image(daemon.path("one")), image(daemon.path("other")));
    let mut guest = daemon
        .guest_of(with_disks("a", vec![disk(&one), disk(&other)]))
        .await;
    for _ in 0..2 {
        guest.letter("D").await;
        guest.console.expect("d").await;
        assert!(is_written(&one) && !is_written(&other));
        fs::write(&one, vec![0; SIZE as usize]).unwrap();
        // The guest's disk is the same after a reset, and has forgotten what it was told.
        guest.serves(Client::system_reset, &["RESET"]).await;
        guest.console.expect("!").await;
    }
    // A stop flushes.
    guest.letter("D").await;
    guest.console.expect("d").await;
    guest.serves(Client::stop, &["STOP"]).await;
    guest.serves(Client::cont, &["RESUME"]).await;
    guest.is_alive().await;
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn without_a_disk_or_the_right_to_write_the_guest_sees_an_error() {
    let daemon = Daemon::start().await;
    let path = image(daemon.path("disk"));
    let read_only = v1::Disk {
        read_only: true,
        ..disk(&path)
    };
    for (name, disks) in [("none", vec![]), ("ro", vec![read_only])] {
        let mut guest = daemon.guest_of(with_disks(name, disks)).await;
        guest.letter("D").await;
        guest.console.expect("e").await;
        // No error of the host's: nothing to tell.
        guest.is("running").await;
    }
    assert!(!is_written(&path));
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_disk_that_is_written_has_one_machine_as_long_as_that_lives() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let path = image(daemon.path("disk"));
    let writer = || disk(&path);
    let reader = || v1::Disk {
        read_only: true,
        ..writer()
    };
    let create =
        async |name: &str, disks| soon("create", client.create(with_disks(name, disks))).await;
    let refused = async |name: &str, disks| {
        let refusal = refusal(create(name, disks).await);
        assert_eq!(refusal.reason, "DISK_UNUSABLE");
        assert!(refusal.message.contains("in use"), "{refusal:?}");
        refusal.message
    };
    create("first", vec![reader(), reader()]).await.unwrap();
    create("second", vec![reader()]).await.unwrap();
    refused("third", vec![writer()]).await;
    let message = refused("third", vec![reader(), writer()]).await;
    assert!(
        message.starts_with("definition.disks[1].path: "),
        "{message}"
    );
    for name in ["first", "second"] {
        soon("delete", client.delete(name, true)).await.unwrap();
    }
    create("third", vec![writer()]).await.unwrap();
    refused("fourth", vec![reader()]).await;
    // At a machine's end its disks are free: also for its next start.
    soon("quit", client.quit("third")).await.unwrap();
    soon("start", client.start("third", false)).await.unwrap();
    soon("quit", client.quit("third")).await.unwrap();
    create("fourth", vec![writer()]).await.unwrap();
    let refusal = refusal(soon("start", client.start("third", false)).await);
    assert_eq!(refusal.reason, "DISK_UNUSABLE");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_disk_grows_while_the_guest_runs_and_while_it_is_stopped() {
    let daemon = Daemon::start().await;
    let path = image(daemon.path("disk"));
    let len = || fs::metadata(&path).unwrap().len();
    let mut guest = daemon.guest_of(with_disks("a", vec![disk(&path)])).await;
    let resize = |size, shrink| {
        async move |client: &Client, name: &str| client.resize_disk(name, "d0", size, shrink).await
    };
    for stop in [false, true] {
        if stop {
            guest.serves(Client::stop, &["STOP"]).await;
        }
        guest.serves(resize(Some(2 * SIZE), false), &[]).await;
        assert_eq!(len(), 2 * SIZE);
        guest.serves(resize(Some(SIZE), true), &[]).await;
        assert_eq!(len(), SIZE);
    }
    let output = daemon.vmctl(&["disk", "resize", "a", "d0", "1M"]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(len(), 1 << 20);
    guest.serves(Client::cont, &["RESUME"]).await;
    guest.letter("D").await;
    guest.console.expect("d").await;
    let written = fs::read(&path).unwrap();
    assert_eq!((written.len(), written[0]), (1 << 20, b'D'));
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_size_that_cannot_be_is_refused() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let (path, other) = (image(daemon.path("disk")), image(daemon.path("other")));
    let read_only = v1::Disk {
        read_only: true,
        ..disk(&other)
    };
    let request = with_disks("a", vec![disk(&path), read_only]);
    soon("create", client.create(request)).await.unwrap();
    let large = Some(1 << 62);
    for (name, disk, size, code, reason, says) in [
        ("b", "d0", large, Code::NotFound, "VM_NOT_FOUND", "'b'"),
        (
            "a",
            "d2",
            large,
            Code::NotFound,
            "DISK_NOT_FOUND",
            "no disk 'd2'",
        ),
        (
            "a",
            "",
            large,
            Code::NotFound,
            "DISK_NOT_FOUND",
            "no disk ''",
        ),
        (
            "a",
            "d0",
            Some(0),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "size_bytes: 0 bytes",
        ),
        (
            "a",
            "d0",
            Some(SIZE + 1),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "sectors of 512",
        ),
        (
            "a",
            "d0",
            Some(512),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "set allow_shrink",
        ),
        (
            "a",
            "d0",
            large,
            Code::FailedPrecondition,
            "DISK_NOT_RESIZED",
            "File too large",
        ),
        (
            "a",
            "d1",
            Some(2 * SIZE),
            Code::FailedPrecondition,
            "DISK_NOT_RESIZED",
            "read-only",
        ),
    ] {
        let resized = soon("resize", client.resize_disk(name, disk, size, false)).await;
        let refusal = refusal(resized);
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (code, reason),
            "{refusal:?}"
        );
        assert!(refusal.message.contains(says), "{refusal:?}");
    }
    for path in [&path, &other] {
        assert_eq!(fs::metadata(path).unwrap().len(), SIZE);
    }
    let output = daemon.vmctl(&["disk", "resize", "a", "d0", "512"]).await;
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        stderr,
        "vmctl: cannot resize disk 'd0' of 'a': SIZE: the disk has 65536 bytes, and 512 are less: what is beyond them would \
         be lost; give --shrink to have it so\n"
    );
    soon("quit", client.quit("a")).await.unwrap();
    let ended = refusal(soon("resize", client.resize_disk("a", "d0", None, false)).await);
    assert_eq!(ended.reason, "VM_ENDED");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_slow_disk_holds_up_no_stop() {
    let daemon = Daemon::start().await;
    let path = image(daemon.path("disk"));
    // A sector and its status are 513 bytes and last for four seconds.
    let slow = v1::Disk {
        rate_limit: Some(v1::RateLimit {
            bytes_per_second: 128,
            bytes_burst: 1,
            ..Default::default()
        }),
        ..disk(&path)
    };
    let mut guest = daemon.guest_of(with_disks("a", vec![slow])).await;
    guest.letter("D").await;
    guest.console.expect("d").await;
    let first = Instant::now();
    fs::write(&path, vec![0; SIZE as usize]).unwrap();
    guest.letter("D").await;
    guest.serves(Client::stop, &["STOP"]).await;
    assert!(!is_written(&path), "the request waits");
    guest.serves(Client::cont, &["RESUME"]).await;
    guest.console.expect("d").await;
    assert!(is_written(&path));
    let took = first.elapsed();
    assert!(took > Duration::from_millis(3900), "{took:?}");
    guest.is("running").await;
}

/// A qcow2 image in front of `behind`, a raw one, if that is given.
fn qcow2(path: &Path, size: u64, behind: Option<&str>) -> v1::Disk {
    File::create(path).unwrap();
    let storage = StorageOpenOptions::new().write(true).filename(path);
    let storage = imago::file::File::open(storage).unwrap();
    let mut builder = Qcow2::<imago::file::File>::create_builder(storage).size(size);
    // Small enough for a small file system.
    builder = builder.cluster_size(4096);
    if let Some(name) = behind {
        builder = builder.backing(name.to_owned(), "raw".to_owned());
    }
    builder.create().unwrap();
    let mut disk = disk(path);
    disk.set_format(v1::DiskFormat::Qcow2);
    disk
}

/// The first bytes of a qcow2 image's disk.
fn content(path: &Path, len: usize) -> Vec<u8> {
    let path = path.to_owned();
    let disk = open_disk(&path, true, Format::Qcow2).unwrap();
    let mut bytes = vec![0; len];
    let all = [VolatileSlice::from(&mut bytes[..])];
    disk.read(0, &all).unwrap();
    bytes
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_qcow2_image_has_what_the_guest_writes_and_its_backing_file_the_rest() {
    let daemon = Daemon::start().await;
    let (base, top) = (daemon.path("base"), daemon.path("top"));
    fs::write(&base, vec![b'B'; SIZE as usize]).unwrap();
    let front = qcow2(&top, SIZE, Some("base"));
    let mut guest = daemon.guest_of(with_disks("a", vec![front])).await;
    guest.letter("D").await;
    guest.console.expect("d").await;
    let grow = async |client: &Client, name: &str| {
        client.resize_disk(name, "d0", Some(2 * SIZE), false).await
    };
    guest.serves(grow, &[]).await;
    // In use, so is what is behind it.
    let writer = with_disks("b", vec![disk(&base)]);
    let refusal = refusal(soon("create", guest.client.create(writer)).await);
    assert!(refusal.message.contains("in use"), "{refusal:?}");
    soon("quit", guest.client.quit("a")).await.unwrap();
    let all = content(&top, 2 * SIZE as usize);
    let (written, rest) = all.split_at(512);
    let (behind, new) = rest.split_at(SIZE as usize - 512);
    assert!(written == [b'D'; 512] && behind.iter().all(|byte| *byte == b'B'));
    assert!(new.iter().all(|byte| *byte == 0));
    assert!(fs::read(&base).unwrap() == vec![b'B'; SIZE as usize]);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_qcow2_image_on_a_full_file_system_stops_the_machine() {
    let daemon = Daemon::start().await;
    let small = Small::mount(daemon.path("small"));
    let path = small.0.join("disk");
    let front = qcow2(&path, SIZE, None);
    small.fill();
    let mut guest = daemon.guest_of(with_disks("a", vec![front])).await;
    guest.letter("D").await;
    let error = describe(&guest.events.next().await);
    assert_eq!(error, FULL);
    guest.events.expect(&["STOP -> io-error"]).await;
    goes_on_in_vain(&mut guest).await;
    small.free();
    guest.serves(Client::cont, &["RESUME"]).await;
    guest.console.expect("d").await;
    guest.is("running").await;
    soon("quit", guest.client.quit("a")).await.unwrap();
    assert_eq!(content(&path, 512), [b'D'; 512]);
    assert!(
        content(&path, SIZE as usize)[512..]
            .iter()
            .all(|byte| *byte == 0)
    );
}

/// A file system of 32 pages, until this is dropped.
struct Small(PathBuf);

impl Small {
    /// Fails without the right to mount one.
    fn mount(path: PathBuf) -> Self {
        assert!(
            geteuid().is_root(),
            "needs the right to mount: run it as root, or as a user by `unshare -rm cargo test`"
        );
        fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount
            .args(["-t", "tmpfs", "-o", "size=128k", "none"])
            .arg(&path);
        assert!(mounted.status().unwrap().success());
        Self(path)
    }

    /// Takes all the space there is.
    fn fill(&self) {
        let mut ballast = File::create(self.0.join("ballast")).unwrap();
        while ballast.write(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // It is in use if the test failed: then it goes when its users do.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Has it go on, and stop once more. Whether that is before the answer or after it is a matter of microseconds.
async fn goes_on_in_vain(guest: &mut Guest) {
    soon("cont", guest.client.cont(&guest.name)).await.unwrap();
    guest
        .events
        .expect(&["RESUME", "BLOCK_IO_ERROR -> running", "STOP -> io-error"])
        .await;
    guest.is("io-error").await;
}

const FULL: &str = "BLOCK_IO_ERROR device= node-name=d0 operation=write action=stop nospace=true reason=No space left on \
                    device -> running";

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_full_file_system_stops_the_machine_until_there_is_space() {
    let daemon = Daemon::start().await;
    for (policy, engine) in [
        ("stop", v1::IoEngine::IoUring),
        ("enospc", v1::IoEngine::Threads),
        ("enospc", v1::IoEngine::Auto),
    ] {
        let name = format!("{policy}-{}", engine.spelling().unwrap());
        let small = Small::mount(daemon.path(&name));
        let path = image(small.0.join("disk"));
        small.fill();
        let mut its_disk = disk(&path);
        its_disk.set_werror(v1::ErrorPolicy::from_spelling(policy).unwrap());
        its_disk.set_io_engine(engine);
        let mut guest = daemon.guest_of(with_disks(&name, vec![its_disk])).await;
        guest.letter("D").await;
        let error = describe(&guest.events.next().await);
        assert_eq!(error, FULL);
        guest.events.expect(&["STOP -> io-error"]).await;
        // `stop` leaves it so; each `cont` tries again.
        guest.serves(Client::stop, &[]).await;
        guest.is("io-error").await;
        for _ in 0..2 {
            goes_on_in_vain(&mut guest).await;
        }
        small.free();
        guest.serves(Client::cont, &["RESUME"]).await;
        guest.console.expect("d").await;
        guest.is("running").await;
        assert!(is_written(&path));
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_reset_forgets_the_request_that_was_kept() {
    let daemon = Daemon::start().await;
    let small = Small::mount(daemon.path("small"));
    let path = image(small.0.join("disk"));
    small.fill();
    let mut guest = daemon.guest_of(with_disks("a", vec![disk(&path)])).await;
    guest
        .types("D", &["BLOCK_IO_ERROR", "STOP -> io-error"])
        .await;
    guest
        .serves(Client::system_reset, &["RESET -> prelaunch"])
        .await;
    small.free();
    guest.serves(Client::cont, &["RESUME"]).await;
    guest.console.expect("!").await;
    guest.is_alive().await;
    assert!(!is_written(&path));
    guest.letter("D").await;
    guest.console.expect("d").await;
    assert!(is_written(&path));
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn an_error_replays() {
    let daemon = Daemon::start().await;
    let small = Small::mount(daemon.path("small"));
    let path = image(small.0.join("disk"));
    small.fill();
    let mut guest = daemon.guest_of(with_disks("a", vec![disk(&path)])).await;
    let mut recording = soon("record", guest.client.record("a")).await.unwrap();
    guest.types("D", &["BLOCK_IO_ERROR", "STOP"]).await;
    goes_on_in_vain(&mut guest).await;
    soon("quit", guest.client.quit("a")).await.unwrap();
    let mut journal = Vec::new();
    while let Some(lines) = soon("lines", recording.next()).await.unwrap() {
        journal.extend(lines.lines);
    }
    let replayed = replay(&Transcript::read(&journal).unwrap());
    assert_eq!(replayed.divergence, None);
    let error = "BLOCK_IO_ERROR disk=0 write stop errno=28 nospace=on @running";
    let times = replayed.journal.lines();
    assert_eq!(times.filter(|line| line.ends_with(error)).count(), 2);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_full_file_system_may_be_the_guests_affair() {
    let daemon = Daemon::start().await;
    let small = Small::mount(daemon.path("small"));
    let path = image(small.0.join("disk"));
    small.fill();
    for (policy, answer) in [("report", "e"), ("ignore", "d")] {
        let mut its_disk = disk(&path);
        its_disk.set_werror(v1::ErrorPolicy::from_spelling(policy).unwrap());
        let mut guest = daemon.guest_of(with_disks(policy, vec![its_disk])).await;
        guest.letter("D").await;
        guest.console.expect(answer).await;
        // A disk that never stops its machine does not say whether there was space.
        let error = describe(&guest.events.next().await);
        assert!(
            error.contains(&format!("action={policy} nospace=null")),
            "{error}"
        );
        guest.is("running").await;
        // An error that the machine stopped for does not keep it from its end.
        soon("delete", guest.client.delete(policy, true))
            .await
            .unwrap();
    }
}
