//! The data directory: what is in it outlives the daemon, a damaged one is refused, and one that cannot be written stops
//! no machine.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    collections::HashSet,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use nix::unistd::geteuid;
use tempfile::tempdir;
use tokio::task::JoinSet;
use tonic::Code;
use vmctl::{
    Client,
    v1::{self, Event, VmPhase},
};
use vmd_tests::{Daemon, binary, in_thread, refusal, request, request_with, soon};

/// Every event there is after `seq`.
async fn events(daemon: &Daemon, seq: u64) -> Vec<Event> {
    let client = daemon.client().await;
    let mut stream = soon("watch", client.watch_events(seq, None, true))
        .await
        .unwrap();
    let mut events = Vec::new();
    while let Some(event) = soon("an event", stream.next()).await.unwrap() {
        events.push(event);
    }
    events
}

async fn list(daemon: &Daemon) -> Vec<v1::Vm> {
    soon("list", daemon.client().await.list())
        .await
        .unwrap()
        .vms
}

fn small(name: &str) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(16 << 20),
            ..Default::default()
        }),
        paused: true,
        ..request(name)
    }
}

/// One that has something of everything, with its files in `directory`.
fn rich(directory: &Path, name: &str) -> v1::CreateVmRequest {
    let path = |file: &str| directory.join(file).to_str().unwrap().to_owned();
    fs::write(path("disk"), [0; 4096]).unwrap();
    let mut request = request_with(name, "panic=pause,watchdog=none");
    let definition = request.definition.as_mut().unwrap();
    *definition = v1::VmDefinition {
        memory_bytes: Some(32 << 20),
        vcpus: Some(2),
        cpu_model: v1::CpuModel::Portable.into(),
        cpu_pins: vec![v1::CpuPin {
            vcpu: 1,
            host_cpus: vec![0],
        }],
        serial_socket: path("serial"),
        qmp_socket: path("qmp"),
        disks: vec![v1::Disk {
            path: path("disk"),
            serial: "one".to_owned(),
            werror: v1::ErrorPolicy::Stop.into(),
            queues: Some(2),
            rate_limit: Some(v1::RateLimit {
                ops_per_second: 500,
                ..Default::default()
            }),
            ..Default::default()
        }],
        rng: true,
        vsock: Some(v1::Vsock {
            cid: 9,
            path: path("vsock"),
        }),
        balloon: Some(v1::BalloonDevice {
            size_bytes: Some(16 << 20),
            stats_interval_seconds: 2,
            deflate_on_oom: true,
            ..Default::default()
        }),
        console_ports: vec![v1::ConsolePort {
            name: "agent".to_owned(),
            path: path("agent"),
            console: false,
        }],
        virtio_transport: v1::VirtioTransport::Pci.into(),
        restart: Some(v1::RestartPolicy {
            mode: v1::RestartMode::OnFailure.into(),
            max_restarts: 3,
            initial_backoff: Some(prost_types::Duration {
                seconds: 3600,
                nanos: 0,
            }),
            max_backoff: None,
        }),
        ..definition.clone()
    };
    request
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn machines_and_events_outlive_the_daemon() {
    let data = tempdir().unwrap();
    let daemon = Daemon::start_on(data.path(), &[]).await;
    let client = daemon.client().await;
    // Its files outlive the daemon that it is made by.
    let files = tempdir().unwrap();
    let request = rich(files.path(), "rich");
    soon("create", client.create(request)).await.unwrap();
    for name in ["b", "gone"] {
        soon("create", client.create(small(name))).await.unwrap();
    }
    soon("quit", client.quit("b")).await.unwrap();
    soon("delete", client.delete("gone", true)).await.unwrap();
    let (before, had) = (list(&daemon).await, events(&daemon, 0).await);
    daemon.killed().await;

    let daemon = Daemon::start_on(data.path(), &[]).await;
    let (after, has) = (list(&daemon).await, events(&daemon, 0).await);
    assert_eq!(has[..had.len()], had);
    let lost = &has[had.len()..];
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(lost[0].vm_name, "rich");
    // `b` had ended: nothing of it has changed. The other has all but its guest.
    let [b, rich] = &after[..] else {
        panic!("{after:?}")
    };
    assert_eq!(*b, before[0]);
    assert_eq!(
        (&rich.id, &rich.definition, &rich.create_time),
        (&before[1].id, &before[1].definition, &before[1].create_time)
    );
    let (was, is) = (
        before[1].status.as_ref().unwrap(),
        rich.status.as_ref().unwrap(),
    );
    assert_eq!((is.seq, is.vm_seq), (lost[0].seq, was.vm_seq + 1));
    assert_eq!((is.phase(), is.state()), (VmPhase::Ended, was.state()));
    assert_eq!(is.actions, was.actions);
    // They are as any that has ended.
    let client = daemon.client().await;
    let (_input, mut output) = soon("console", client.console("rich", false))
        .await
        .unwrap();
    assert_eq!(
        soon("the console's end", output.next()).await.unwrap(),
        None
    );
    let started = soon("start", client.start("rich", false)).await.unwrap();
    assert_eq!(started.status.unwrap().vm_seq, is.vm_seq + 2);
    soon("delete", client.delete("b", false)).await.unwrap();
    assert_eq!(
        refusal(client.create(small("rich")).await).reason,
        "VM_EXISTS"
    );
    let had = events(&daemon, 0).await;
    daemon.terminated().await;

    // The end of a daemon that was asked to end is in the log.
    let daemon = Daemon::start_on(data.path(), &[]).await;
    let has = events(&daemon, 0).await;
    assert_eq!(has[..had.len()], had);
    assert_eq!(has.len(), had.len() + 2, "SHUTDOWN and ENDED");
    let vms = list(&daemon).await;
    assert_eq!(vms.len(), 1);
    let end = vms[0].status.as_ref().unwrap().end.as_ref().unwrap();
    assert_eq!(end.cause(), v1::ShutdownCause::HostSignal);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn what_was_answered_is_there_after_a_kill() {
    let data = tempdir().unwrap();
    let mut expected = HashSet::new();
    for round in 0..3 {
        let daemon = Daemon::start_on(data.path(), &[]).await;
        let vms = list(&daemon).await;
        let there: HashSet<_> = vms.into_iter().map(|vm| vm.name).collect();
        let missing: Vec<_> = expected.difference(&there).collect();
        assert!(missing.is_empty(), "round {round}: {missing:?}");
        let answered = Arc::new(Mutex::new(Vec::new()));
        let mut clients = JoinSet::new();
        for client_number in 0..4 {
            let (client, answered) = (daemon.client().await, answered.clone());
            clients.spawn(async move {
                for number in 0.. {
                    let name = format!("r{round}-{client_number}-{number}");
                    if client.create(small(&name)).await.is_err() {
                        return;
                    }
                    answered.lock().unwrap().push(name.clone());
                    // Some go again: that is kept, too.
                    if number % 3 == 2 {
                        if client.delete(&name, true).await.is_err() {
                            // It may have happened.
                            answered.lock().unwrap().retain(|kept| *kept != name);
                            return;
                        }
                        answered.lock().unwrap().retain(|kept| *kept != name);
                    }
                }
            });
        }
        // In the middle of it, after some events.
        let client = daemon.client().await;
        let mut stream = client.watch_events(0, None, false).await.unwrap();
        let mut count = 0;
        while count < 20 * (round + 1) {
            soon("an event", stream.next()).await.unwrap().unwrap();
            count += 1;
        }
        daemon.killed().await;
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        expected.extend(answered.lock().unwrap().drain(..));
    }
    assert!(expected.len() > 5, "{expected:?}");
}

/// What `vmctl` shows of the audit trail after `since`: number, method and code.
async fn trail(daemon: &Daemon, since: &str) -> Vec<(u64, String, String)> {
    let arguments = ["-o", "json", "events", "--audit", "--since", since];
    let output = daemon.vmctl(&arguments).await;
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let read = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| event["data"][name].as_str().unwrap().to_owned();
        (event["seq"].as_u64().unwrap(), text("method"), text("code"))
    };
    text.lines().map(read).collect()
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_call_that_was_answered_is_in_the_trail_after_a_kill() {
    let data = tempdir().unwrap();
    let mut before = Vec::new();
    for round in 0..3 {
        let daemon = Daemon::start_on(data.path(), &[]).await;
        assert_eq!(trail(&daemon, "0").await, before, "round {round}");
        let client = daemon.client().await;
        let name = format!("r{round}");
        soon("create", client.create(small(&name))).await.unwrap();
        let known = before.len() + 1;
        let again = refusal(soon("create", client.create(small(&name))).await);
        assert_eq!(again.code, Code::AlreadyExists);
        // Nothing is between the answer and the end.
        match round {
            0 | 1 => daemon.killed().await,
            _ => daemon.terminated().await,
        }

        let daemon = Daemon::start_on(data.path(), &[]).await;
        let rest = trail(&daemon, &known.to_string()).await;
        let seq = known as u64 + 1;
        let expected = (seq, "CreateVm".to_owned(), "ALREADY_EXISTS".to_owned());
        assert_eq!(rest, [expected], "round {round}");
        before = trail(&daemon, "0").await;
        let seqs: Vec<_> = before.iter().map(|(seq, ..)| *seq).collect();
        let expected: Vec<_> = (1..=seq).collect();
        assert_eq!(seqs, expected, "no holes");
        daemon.killed().await;
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn no_answer_goes_out_before_the_trail_is_stored() {
    let data = tempdir().unwrap();
    let directory = data.path().to_str().unwrap();
    let daemon = Daemon::start_logging("info,vmd::audit=debug", &["--data-dir", directory]).await;
    // Nobody else can write while this lasts, which is shorter than the daemon waits for it.
    let other = rusqlite::Connection::open(data.path().join("vmd.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let client = daemon.client().await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.stop("nobody").await }
    });
    daemon.logged("called", 1).await;
    // On the same connection: an answer from before would have come before this one's.
    soon("list", client.list()).await.unwrap();
    assert!(!call.is_finished(), "it is answered, and not in the trail");
    other.execute_batch("COMMIT").unwrap();
    let refused = refusal(soon("stop", call).await.unwrap());
    assert_eq!(refused.code, Code::NotFound);
    assert_eq!(trail(&daemon, "0").await.len(), 1);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn as_many_events_are_kept_as_it_was_told() {
    let data = tempdir().unwrap();
    let arguments = ["--events-kept", "3", "--events-max-age", "7d"];
    let daemon = Daemon::start_on(data.path(), &arguments).await;
    let client = daemon.client().await;
    soon("create", client.create(small("a"))).await.unwrap();
    for _ in 0..2 {
        soon("cont", client.cont("a")).await.unwrap();
        soon("stop", client.stop("a")).await.unwrap();
    }
    daemon.killed().await;
    let daemon = Daemon::start_on(data.path(), &arguments).await;
    let client = daemon.client().await;
    // With the ENDED there are six.
    let lost = refusal(soon("watch", client.watch_events(2, None, true)).await);
    assert_eq!(
        (lost.code, lost.reason.as_str()),
        (Code::OutOfRange, "EVENTS_LOST")
    );
    assert_eq!(lost.metadata["oldest_seq"], "4");
    assert_eq!(lost.metadata["newest_seq"], "6");
    let seqs: Vec<_> = events(&daemon, 3)
        .await
        .iter()
        .map(|event| event.seq)
        .collect();
    assert_eq!(seqs, [4, 5, 6]);
}

/// Runs `vmd serve` with this data directory, which it refuses: what it says.
async fn refused(data: &Path) -> String {
    let directory = tempdir().unwrap();
    let listen = format!("unix:{}", directory.path().join("vmd.sock").display());
    let mut command = Command::new(binary("vmd"));
    command
        .args(["serve", "--listen", &listen, "--data-dir"])
        .arg(data)
        .stdin(Stdio::null());
    let output = soon("vmd's end", in_thread(move || command.output()))
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    text.lines().last().unwrap().to_owned()
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_store_that_is_not_sound_is_refused_and_left_alone() {
    let data = tempdir().unwrap();
    let path = data.path().join("vmd.db");
    let daemon = Daemon::start_on(data.path(), &[]).await;
    soon("create", daemon.client().await.create(small("a")))
        .await
        .unwrap();
    daemon.terminated().await;
    // What was written is all in one file when a daemon has ended.
    assert!(!data.path().join("vmd.db-wal").exists());
    let whole = fs::read(&path).unwrap();
    let newer = {
        let mut newer = whole.clone();
        newer[60..64].copy_from_slice(&9_u32.to_be_bytes());
        newer
    };
    let damaged = {
        let mut damaged = whole.clone();
        damaged[4096..].fill(0x5a);
        damaged
    };
    for (content, says) in [
        (newer, "its version is 9, this vmd knows versions up to "),
        (damaged, "damaged: "),
        (whole[..whole.len() / 2].to_vec(), "damaged: "),
        (b"not a database".to_vec(), "not a store of vmd"),
    ] {
        fs::write(&path, &content).unwrap();
        let line = refused(data.path()).await;
        assert!(
            line.starts_with(&format!("vmd: the store {}: ", path.display())),
            "{line}"
        );
        assert!(
            line.contains(says) && line.contains("left as it is"),
            "{line}"
        );
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    fs::write(&path, &whole).unwrap();
    let daemon = Daemon::start_on(data.path(), &[]).await;
    assert_eq!(list(&daemon).await.len(), 1);
}

/// A file system of its own, until this is dropped.
struct Mount(PathBuf);

impl Mount {
    /// Fails without the right to mount one.
    fn new(path: PathBuf) -> Self {
        assert!(
            geteuid().is_root(),
            "needs the right to mount: run it as root, or as a user by `unshare -rm cargo test`"
        );
        fs::create_dir(&path).unwrap();
        let mount = Self(path);
        mount.mount(&["-t", "tmpfs", "-o", "size=512k", "none"]);
        mount
    }

    fn mount(&self, arguments: &[&str]) {
        let mut mount = Command::new("mount");
        assert!(
            mount
                .args(arguments)
                .arg(&self.0)
                .status()
                .unwrap()
                .success()
        );
    }

    /// Takes all the space there is.
    fn fill(&self) {
        let mut ballast = File::create(self.0.join("ballast")).unwrap();
        for piece in [4096, 1] {
            while ballast.write(&vec![0; piece]).is_ok_and(|count| count > 0) {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn with_a_full_disk_machines_go_on_and_calls_say_so() {
    let directory = tempdir().unwrap();
    let small_disk = Mount::new(directory.path().join("data"));
    let data = small_disk.0.clone();
    let daemon = Daemon::start_on(&data, &[]).await;
    let mut guest = daemon.guest("a").await;
    let client = daemon.client().await;
    small_disk.fill();
    // There may be room for some more in the files as they are.
    let (first, applied) = loop {
        let seq = guest.events.last_seq;
        let answer = match guest.status().await.running {
            true => soon("stop", client.stop("a")).await,
            false => soon("cont", client.cont("a")).await,
        };
        match answer {
            Ok(reply) => {
                guest.events.next().await;
                assert_eq!(reply.seq, seq + 1);
            }
            Err(error) => break (refusal(Err::<(), _>(error)), seq),
        }
    };
    assert_eq!(
        (first.code, first.reason.as_str()),
        (Code::Unavailable, "STORE_UNAVAILABLE")
    );
    assert_eq!(first.metadata["applied"], "true", "{first:?}");
    assert!(
        first.message.contains("done, but not stored yet"),
        "{first:?}"
    );
    assert!(first.message.contains("free some space there"), "{first:?}");
    // From now on nothing is done.
    for answer in [
        refusal(soon("create", client.create(small("b"))).await),
        refusal(soon("delete", client.delete("a", true)).await),
        refusal(soon("reset", client.system_reset("a")).await),
    ] {
        assert_eq!(answer.reason, "STORE_UNAVAILABLE");
        assert_eq!(answer.metadata["applied"], "false", "{answer:?}");
        assert!(answer.message.contains("nothing was done"), "{answer:?}");
    }
    // It can be seen; what is shown can be gone on from.
    let shown = soon("list", client.list()).await.unwrap();
    assert_eq!((shown.vms.len(), shown.seq), (1, applied));
    assert_eq!(shown.vms[0].status.as_ref().unwrap().seq, applied);
    let rest = daemon.client().await;
    let stream = soon("watch", rest.watch_events(shown.seq, None, false)).await;
    let mut rest = stream.unwrap();
    small_disk.free();
    // The next call finds out that there is room: nothing has to be waited for.
    soon("reset", client.system_reset("a")).await.unwrap();
    let (first, second) = (
        rest.next().await.unwrap().unwrap(),
        rest.next().await.unwrap(),
    );
    assert_eq!((first.seq, second.unwrap().seq), (applied + 1, applied + 2));
    guest.events.next().await;
    guest.events.expect(&["RESET"]).await;
    let had = events(&daemon, 0).await;
    daemon.killed().await;
    let daemon = Daemon::start_on(&data, &[]).await;
    let has = events(&daemon, 0).await;
    assert_eq!(has[..had.len()], had);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_guest_runs_while_nothing_can_be_stored() {
    let directory = tempdir().unwrap();
    let small_disk = Mount::new(directory.path().join("data"));
    let daemon = Daemon::start_on(&small_disk.0, &[]).await;
    let mut guest = daemon.guest("a").await;
    small_disk.fill();
    let client = daemon.client().await;
    while client.stop("a").await.and(client.cont("a").await).is_ok() {}
    if !guest.status().await.running {
        // Stopped as it failed: its client finds it so.
        small_disk.free();
        soon("cont", client.cont("a")).await.unwrap();
        small_disk.fill();
    }
    for _ in 0..3 {
        guest.is_alive().await;
        // A reset of the guest's own is an event that waits.
        guest.letter("R").await;
        guest.console.expect("!").await;
    }
    // The daemon can be ended.
    daemon.terminated().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_directory_that_cannot_be_written_is_refused() {
    let directory = tempdir().unwrap();
    let mount = Mount::new(directory.path().join("data"));
    Daemon::start_on(&mount.0, &[]).await.terminated().await;
    mount.mount(&["-o", "remount,ro"]);
    let line = refused(&mount.0).await;
    let says = format!("vmd: the data directory {}: Read-only", mount.0.display());
    assert!(line.starts_with(&says), "{line}");
    mount.mount(&["-o", "remount,rw"]);
    Daemon::start_on(&mount.0, &[]).await.terminated().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn without_a_data_directory_nothing_is_kept() {
    let daemon = Daemon::start().await;
    soon("create", daemon.client().await.create(small("a")))
        .await
        .unwrap();
    let files: Vec<_> = fs::read_dir(daemon.directory()).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let refused = soon("quit", Client::quit(&daemon.client().await, "b")).await;
    assert_eq!(refusal(refused).reason, "VM_NOT_FOUND");
}
