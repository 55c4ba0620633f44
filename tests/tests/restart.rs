//! Restart policies: which ends are followed by a start, how soon, how often; over the daemon's own end, too.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{fs, path::Path};

use tempfile::tempdir;
use vmctl::{
    Client,
    v1::{self, RestartMode},
};
use vmd_tests::{Daemon, EventReader, Guest, describe, refusal, request, soon};

/// A machine that is started again after `wait` milliseconds, doubled each time up to `longest`.
fn again(name: &str, mode: RestartMode, wait: i32, longest: i64) -> v1::CreateVmRequest {
    let restart = v1::RestartPolicy {
        mode: mode.into(),
        max_restarts: 0,
        initial_backoff: Some(time(0, wait * 1_000_000)),
        max_backoff: Some(time(longest, 0)),
    };
    with(name, restart)
}

fn time(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

/// After an hour.
fn late(name: &str, mode: RestartMode) -> v1::CreateVmRequest {
    let hour = Some(time(3600, 0));
    let restart = v1::RestartPolicy {
        mode: mode.into(),
        max_restarts: 0,
        initial_backoff: hour,
        max_backoff: hour,
    };
    with(name, restart)
}

fn with(name: &str, restart: v1::RestartPolicy) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(16 << 20),
            restart: Some(restart),
            ..Default::default()
        }),
        ..request(name)
    }
}

const PANIC: &[&str] = &[
    "GUEST_PANICKED",
    "SHUTDOWN reason=guest-panic",
    "ENDED kind=shutdown cause=guest-panic",
];
const OFF: &[&str] = &["SHUTDOWN reason=guest-shutdown", "ENDED kind=shutdown"];

/// Types a letter, which ends the machine, to the guest that runs now.
async fn types(guest: &Guest, letter: &str) {
    let (input, mut output) = soon("console", guest.client.console(&guest.name, false))
        .await
        .unwrap();
    // It takes letters once it has said that it is there.
    let mut seen = Vec::new();
    while !seen.contains(&b'!') {
        let chunk = soon("the guest", output.next()).await.unwrap().unwrap();
        seen.extend(chunk.output);
    }
    soon("input", input.send(letter.as_bytes())).await.unwrap();
    // What it does ends the machine, and with it the console.
    while soon("the console's end", output.next())
        .await
        .unwrap()
        .is_some()
    {}
}

fn is_waiting(status: &v1::VmStatus) -> bool {
    assert_eq!(status.phase(), v1::VmPhase::Ended);
    status.next_start_time.is_some()
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_failure_is_followed_by_a_start_as_often_as_the_policy_says() {
    let daemon = Daemon::start().await;
    let mut request = again("a", RestartMode::OnFailure, 50, 1);
    let definition = request.definition.as_mut().unwrap();
    definition.restart.as_mut().unwrap().max_restarts = 2;
    let mut guest = daemon.guest_of(request).await;
    for restart in 1..=2 {
        types(&guest, "P").await;
        guest.events.expect(PANIC).await;
        let started = format!("STARTED restart={restart} -> prelaunch");
        guest.events.expect(&[&started, "RESUME"]).await;
        assert_eq!(guest.status().await.restarts, restart);
    }
    types(&guest, "P").await;
    guest.events.expect(PANIC).await;
    let status = guest.status().await;
    assert!(!is_waiting(&status));
    assert_eq!(status.restarts, 2);
    // A start by hand counts from the beginning.
    guest
        .serves(
            async |c: &Client, n| c.start(n, false).await,
            &["STARTED", "RESUME"],
        )
        .await;
    assert_eq!(guest.status().await.restarts, 0);
    types(&guest, "P").await;
    guest.events.expect(PANIC).await;
    guest.events.expect(&["STARTED restart=1", "RESUME"]).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_restart_that_there_is_no_room_for_waits_and_does_not_count() {
    let limits = "[[listen]]\naddress = \"unix:DIR/vmd.sock\"\n\n[limits]\nvcpus = 1\n";
    let daemon = Daemon::start_configured(limits).await;
    let mut request = again("a", RestartMode::OnFailure, 1000, 1);
    let definition = request.definition.as_mut().unwrap();
    definition.restart.as_mut().unwrap().max_restarts = 1;
    let mut guest = daemon.guest_of(request).await;
    types(&guest, "P").await;
    // It has ended; the restart is a second away.
    let other = vmd_tests::request("b");
    soon("create", guest.client.create(other)).await.unwrap();
    guest.events.expect(PANIC).await;
    for _ in 0..2 {
        guest.events.expect(&["RESTART_FAILED restart=1"]).await;
        assert!(is_waiting(&guest.status().await));
    }
    soon("delete", guest.client.delete("b", true))
        .await
        .unwrap();
    loop {
        let next = guest.events.next().await;
        if !describe(&next).starts_with("RESTART_FAILED restart=1") {
            assert_eq!(describe(&next), "STARTED restart=1 -> prelaunch");
            break;
        }
    }
    guest.events.expect(&["RESUME"]).await;
    types(&guest, "P").await;
    guest.events.expect(PANIC).await;
    assert!(!is_waiting(&guest.status().await), "that was its last");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_guest_that_shuts_down_is_started_always_or_not_at_all() {
    let daemon = Daemon::start().await;
    let mut guest = daemon
        .guest_of(again("a", RestartMode::OnFailure, 1, 1))
        .await;
    types(&guest, "O").await;
    guest.events.expect(OFF).await;
    assert!(!is_waiting(&guest.status().await));
    let mut guest = daemon.guest_of(again("b", RestartMode::Always, 1, 1)).await;
    types(&guest, "O").await;
    guest.events.expect(OFF).await;
    guest.events.expect(&["STARTED restart=1", "RESUME"]).await;
    // What is asked for is done.
    guest.serves(Client::quit, &["SHUTDOWN", "ENDED"]).await;
    assert!(!is_waiting(&guest.status().await));
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_start_to_come_is_seen_and_can_be_cancelled() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest_of(late("a", RestartMode::OnFailure)).await;
    types(&guest, "P").await;
    guest.events.expect(PANIC).await;
    let status = guest.status().await;
    assert!(is_waiting(&status));
    let end = status.end.unwrap().time.unwrap();
    let wait = status.next_start_time.unwrap().seconds - end.seconds;
    assert!((3599..=3601).contains(&wait), "{wait}");
    let output = daemon.vmctl(&["status", "a"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("on-failure,") && text.contains(" (1 in a row, the next start at "),
        "{text}"
    );
    guest
        .serves(Client::quit, &["RESTART_CANCELLED -> shutdown"])
        .await;
    assert!(!is_waiting(&guest.status().await));
    // Once is enough.
    guest.serves(Client::quit, &[]).await;
    // A start by hand takes the place of one to come; so does a delete.
    let start = async |c: &Client, n: &str| c.start(n, false).await;
    for _ in 0..2 {
        guest.serves(start, &["STARTED", "RESUME"]).await;
        types(&guest, "P").await;
        guest.events.expect(PANIC).await;
        assert!(is_waiting(&guest.status().await));
    }
    soon("delete", guest.client.delete("a", false))
        .await
        .unwrap();
    guest.events.expect(&["DELETED"]).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_start_that_fails_is_told_and_tried_again() {
    let daemon = Daemon::start().await;
    let image = daemon.path("disk");
    let make = || fs::write(&image, [0; 4096]).unwrap();
    make();
    let mut request = again("a", RestartMode::Always, 50, 1);
    request.definition.as_mut().unwrap().disks = vec![v1::Disk {
        path: image.to_str().unwrap().to_owned(),
        ..Default::default()
    }];
    let mut guest = daemon.guest_of(request).await;
    fs::remove_file(&image).unwrap();
    types(&guest, "O").await;
    guest.events.expect(OFF).await;
    for restart in 1..=2 {
        let failed = describe(&guest.events.next().await);
        let start = format!(
            "RESTART_FAILED restart={restart} reason={}",
            image.display()
        );
        assert!(failed.starts_with(&start), "{failed}");
    }
    make();
    loop {
        let event = describe(&guest.events.next().await);
        if event.starts_with("STARTED restart=") {
            break;
        }
        assert!(event.starts_with("RESTART_FAILED"), "{event}");
    }
    guest.events.expect(&["RESUME"]).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_policy_that_cannot_be_is_refused() {
    let daemon = Daemon::start().await;
    let mut request = again("a", RestartMode::Always, 50, 1);
    let restart = request.definition.as_mut().unwrap().restart.as_mut();
    restart.unwrap().max_backoff = Some(time(0, 1));
    let refused = refusal(soon("create", daemon.client().await.create(request)).await);
    assert_eq!(refused.reason, "INVALID_FIELD");
    assert!(
        refused
            .message
            .starts_with("definition.restart.max_backoff: ")
    );
    let output = daemon
        .vmctl(&["create", "a", "--restart", "never,max=x"])
        .await;
    assert_eq!(output.status.code(), Some(2));
    let arguments = ["create", "a", "--restart", "on-failure,max=5,backoff=1s"];
    assert!(daemon.vmctl(&arguments).await.status.success());
    let output = daemon.vmctl(&["-o", "json", "status", "a"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let policy = r#""restart":{"mode":"on-failure","max":5,"backoff":1.0,"max_backoff":60.0}"#;
    assert!(text.contains(policy), "{text}");
}

/// The events of machine `name` after `seq`, up to the first that is called `last`.
async fn until(daemon: &Daemon, seq: u64, name: &str, last: &str) -> Vec<String> {
    let mut reader = EventReader::new(&daemon.client().await, seq, name).await;
    let mut events = Vec::new();
    loop {
        events.push(describe(&reader.next().await));
        if events.last().unwrap().starts_with(last) {
            return events;
        }
    }
}

async fn newest(daemon: &Daemon) -> u64 {
    soon("list", daemon.client().await.list())
        .await
        .unwrap()
        .seq
}

async fn on(data: &Path) -> Daemon {
    Daemon::start_on(data, &[]).await
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn what_is_lost_with_the_daemon_comes_back_if_its_policy_says_so() {
    let data = tempdir().unwrap();
    let daemon = on(data.path()).await;
    for (name, mode) in [
        ("always", RestartMode::Always),
        ("failure", RestartMode::OnFailure),
        ("never", RestartMode::Never),
    ] {
        drop(daemon.guest_of(again(name, mode, 100, 1)).await);
    }
    let mut waiting = daemon.guest_of(late("waiting", RestartMode::Always)).await;
    types(&waiting, "O").await;
    waiting.events.expect(OFF).await;
    let next_start = waiting.status().await.next_start_time;
    let seq = newest(&daemon).await;
    daemon.killed().await;

    let daemon = on(data.path()).await;
    const LOST: &str = "ENDED kind=lost cause=null exit_status=1 failure=null time=";
    for name in ["always", "failure"] {
        let events = until(&daemon, seq, name, "RESUME").await;
        assert!(events[0].starts_with(LOST), "{events:?}");
        assert!(events[0].ends_with(" -> running"), "{events:?}");
        assert_eq!(
            events[1..],
            ["STARTED restart=1 -> prelaunch", "RESUME -> running"]
        );
    }
    let events = until(&daemon, seq, "never", "ENDED").await;
    assert_eq!(events.len(), 1, "{events:?}");
    let client = daemon.client().await;
    let get = async |name: &str| {
        let vm = soon("get", client.get(name)).await.unwrap();
        vm.status.unwrap()
    };
    assert!(!is_waiting(&get("never").await));
    // One that waited still waits for the same time.
    let status = get("waiting").await;
    assert_eq!(status.next_start_time, next_start);
    assert_eq!(
        status.end.unwrap().cause(),
        v1::ShutdownCause::GuestShutdown
    );

    // The daemon's own end is asked for: nothing comes back, but what waited.
    let seq = newest(&daemon).await;
    daemon.terminated().await;
    let daemon = on(data.path()).await;
    let vms = soon("list", daemon.client().await.list())
        .await
        .unwrap()
        .vms;
    for vm in vms {
        let status = vm.status.unwrap();
        assert_eq!(is_waiting(&status), vm.name == "waiting", "{}", vm.name);
        if vm.name == "always" {
            assert_eq!(status.end.unwrap().cause(), v1::ShutdownCause::HostSignal);
        }
    }
    let events = until(&daemon, seq, "always", "ENDED").await;
    assert!(events[1].contains("cause=host-signal"), "{events:?}");
    let quit = soon("quit", daemon.client().await.quit("waiting")).await;
    assert!(!is_waiting(&quit.unwrap().status.unwrap()));
    daemon.killed().await;
    // A cancel that was answered stays.
    let daemon = on(data.path()).await;
    let vm = soon("get", daemon.client().await.get("waiting"))
        .await
        .unwrap();
    assert!(!is_waiting(&vm.status.unwrap()));
}
