//! The host has nothing left: descriptors, threads, `/dev/kvm`. Each is a clear error of the call that meets it, the machines
//! that run go on, and when there is something again, so does everything. (A full disk: `store.rs`.)
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use nix::unistd::geteuid;
use tonic::Code;
use vmctl::{Client, v1};
use vmd_tests::{Daemon, Guest, binary, in_thread, refusal, request, soon};

/// The machine takes every call that needs nothing new, and its guest goes on.
async fn goes_on(guest: &mut Guest) {
    guest.serves(Client::stop, &["STOP"]).await;
    guest.serves(Client::cont, &["RESUME"]).await;
    guest.serves(Client::system_reset, &["RESET"]).await;
    guest.console.expect("!").await;
    guest.is_alive().await;
}

/// A machine is refused for want of something; it leaves nothing.
async fn is_refused(client: &Client, says: &str) {
    let refused = refusal(soon("create", client.create(request("more"))).await);
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (Code::ResourceExhausted, "HOST_EXHAUSTED"),
        "{refused:?}"
    );
    assert!(refused.message.contains(says), "{refused:?}");
    let gone = refusal(soon("get", client.get("more")).await);
    assert_eq!(gone.reason, "VM_NOT_FOUND");
}

async fn is_made(daemon: &Daemon, client: &Client) {
    soon("create", client.create(request("more")))
        .await
        .unwrap();
    soon("delete", client.delete("more", true)).await.unwrap();
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

/// Sets how many descriptors the daemon may have open.
fn limit_descriptors(daemon: &Daemon, limit: usize) {
    let mut prlimit = Command::new("prlimit");
    prlimit.arg(format!("--pid={}", daemon.pid()));
    prlimit.arg(format!("--nofile={limit}:"));
    assert!(prlimit.status().unwrap().success());
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn without_descriptors_machines_go_on() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    let client = daemon.client().await;
    // All below that are in use: there is none for a machine.
    limit_descriptors(&daemon, 4);
    is_refused(&client, "Too many open files").await;
    goes_on(&mut guest).await;
    // Nor for a client: it waits, and is served when there are some.
    let endpoint = daemon.endpoint().clone();
    let waiting = tokio::spawn(async move {
        let client = Client::connect(&endpoint).await.unwrap();
        client.list().await.unwrap().vms.len()
    });
    daemon.logged("nobody can connect", 1).await;
    limit_descriptors(&daemon, 4096);
    assert_eq!(soon("the client", waiting).await.unwrap(), 1);
    is_made(&daemon, &client).await;
}

/// A group of processes that may have so many threads, until this is dropped.
struct Group(PathBuf);

impl Group {
    /// `None` without the right to make one.
    fn new(daemon: &Daemon) -> Option<Self> {
        let pid = daemon.pid().to_string();
        // Version 1 has a hierarchy for it.
        let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(PathBuf::from);
        let root = roots
            .iter()
            .find(|root| root.join("cgroup.procs").exists())?;
        let group = Self(root.join(format!("vmd-test-{pid}")));
        if !geteuid().is_root() || fs::create_dir(&group.0).is_err() {
            eprintln!("skipped: it needs the right to make a cgroup");
            return None;
        }
        if !group.0.join("pids.max").exists() {
            eprintln!("skipped: cgroups here do not count processes");
            return None;
        }
        fs::write(group.0.join("cgroup.procs"), pid).unwrap();
        Some(group)
    }

    fn limit(&self, threads: &str) {
        fs::write(self.0.join("pids.max"), threads).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The daemon goes back to where it came from.
        if let Ok(threads) = fs::read_to_string(self.0.join("cgroup.procs")) {
            for pid in threads.lines() {
                let parent = self.0.parent().unwrap_or(&self.0);
                let _ = fs::write(parent.join("cgroup.procs"), pid);
            }
        }
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn without_threads_machines_go_on() {
    let daemon = Daemon::start().await;
    let Some(group) = Group::new(&daemon) else {
        return;
    };
    let disk = daemon.path("disk");
    fs::write(&disk, [0; 4096]).unwrap();
    let disk = v1::Disk {
        path: disk.to_str().unwrap().to_owned(),
        ..Default::default()
    };
    let with_disk = v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            disks: vec![disk],
            ..Default::default()
        }),
        ..request("a")
    };
    let mut guest = daemon.guest_of(with_disk).await;
    let client = daemon.client().await;
    let threads = daemon.settle("threads", |_| true).await.threads;
    group.limit(&threads.to_string());
    is_refused(&client, "thread").await;
    goes_on(&mut guest).await;
    is_refused(&client, "thread").await;
    group.limit("max");
    is_made(&daemon, &client).await;
}

/// Without `/dev/kvm` a daemon says so when it starts; one that has it open goes on making machines.
#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn without_kvm_a_daemon_does_not_start_and_one_that_runs_goes_on() {
    if !geteuid().is_root() {
        eprintln!("skipped: it needs the right to mount");
        return;
    }
    let start = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]);
        command.arg(binary("vmd")).stdin(Stdio::null());
        command
    };
    // In a mount namespace of its own there is nothing in /dev.
    let mut without = start("mount -t tmpfs none /dev && exec \"$@\"");
    without.args(["serve", "--listen", "unix:/nonexistent/vmd.sock"]);
    let output = soon("vmd's end", in_thread(move || without.output()));
    let output = output.await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("/dev/kvm is missing: load the module"),
        "{text}"
    );

    let daemon = Daemon::start_as(start("exec \"$@\""), &[]).await;
    let mut guest = daemon.guest("a").await;
    let mut enter = Command::new("nsenter");
    enter.arg(format!("--target={}", daemon.pid()));
    enter.args(["--mount", "mount", "-t", "tmpfs", "none", "/dev"]);
    assert!(enter.status().unwrap().success());
    goes_on(&mut guest).await;
    let client = daemon.client().await;
    is_made(&daemon, &client).await;
    goes_on(&mut guest).await;
}
