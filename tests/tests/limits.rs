//! Limits: quotas of the daemon and of labels, the host's memory, and how often one may call.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tempfile::tempdir;
use tokio::{io::AsyncReadExt, net::UnixStream};
use tonic::{Code, Request};
use tonic_types::StatusExt;
use vmctl::{Client, Error, Refusal, v1};
use vmd_tests::{DEADLINE, Daemon, binary, refusal, request, soon};

const LISTEN: &str = "[[listen]]\naddress = \"unix:DIR/vmd.sock\"\n";

async fn start(limits: &str) -> Daemon {
    Daemon::start_configured(&format!("{LISTEN}\n{limits}")).await
}

/// A machine of 16 MiB.
fn machine(name: &str, vcpus: u32, labels: &[(&str, &str)]) -> v1::CreateVmRequest {
    let label = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(16 << 20),
            vcpus: Some(vcpus),
            ..Default::default()
        }),
        labels: labels.iter().map(label).collect(),
        paused: true,
        ..request(name)
    }
}

async fn create(client: &Client, request: v1::CreateVmRequest) -> Result<(), Error> {
    soon("create", client.create(request)).await.map(drop)
}

/// A refusal for a quota: whose, what of, how much there may be and how much there would be.
fn quota<T>(answer: Result<T, Error>) -> (String, String, String, String) {
    let Refusal {
        code,
        reason,
        message,
        mut metadata,
        ..
    } = refusal(answer);
    assert_eq!(
        (code, &*reason),
        (Code::ResourceExhausted, "QUOTA_EXCEEDED"),
        "{message}"
    );
    let mut fact = |key: &str| metadata.remove(key).unwrap();
    (fact("label"), fact("quota"), fact("limit"), fact("needed"))
}

fn is(quota: (String, String, String, String), expected: (&str, &str, &str, &str)) {
    let (label, what, limit, needed) = &quota;
    assert_eq!((&**label, &**what, &**limit, &**needed), expected);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn what_a_machine_takes_is_counted_until_it_ends_or_goes() {
    let daemon = start("[limits]\nmachines = 3\nvcpus = 4\nmemory = \"40M\"\n").await;
    let client = daemon.client().await;
    create(&client, machine("a", 1, &[])).await.unwrap();
    create(&client, machine("b", 2, &[])).await.unwrap();
    is(
        quota(create(&client, machine("c", 2, &[])).await),
        ("", "vcpus", "4", "5"),
    );
    is(
        quota(create(&client, machine("c", 1, &[])).await),
        ("", "memory", "41943040", "50331648"),
    );
    // One that has ended takes its place alone.
    client.quit("b").await.unwrap();
    create(&client, machine("c", 1, &[])).await.unwrap();
    is(
        quota(create(&client, machine("d", 1, &[])).await),
        ("", "machines", "3", "4"),
    );
    let refused = refusal(client.start("b", true).await);
    assert_eq!(refused.reason, "QUOTA_EXCEEDED");
    assert!(
        refused
            .message
            .contains("48M of memory would be used of the daemon's quota, 40M of memory"),
        "{}",
        refused.message
    );
    // A creation that fails leaves nothing in the book.
    client.delete("c", true).await.unwrap();
    let missing = v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(16 << 20),
            kernel: "/nonexistent/kernel".to_owned(),
            ..Default::default()
        }),
        ..request("c")
    };
    for _ in 0..3 {
        assert!(create(&client, missing.clone()).await.is_err());
    }
    client.start("b", true).await.unwrap();
    client.delete("b", true).await.unwrap();
    client.delete("a", true).await.unwrap();
    create(&client, machine("all", 4, &[])).await.unwrap();
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn labels_have_quotas_and_a_reload_changes_them() {
    let quotas = r#"
[[limits.quota]]
label = "team"
machines = 2

[[limits.quota]]
label = "team=small"
vcpus = 1
"#;
    let daemon = start(quotas).await;
    let client = daemon.client().await;
    let (a, b) = (&[("team", "a")][..], &[("team", "b")][..]);
    for (name, labels) in [("a1", a), ("a2", a), ("b1", b), ("free", &[])] {
        create(&client, machine(name, 1, labels)).await.unwrap();
    }
    is(
        quota(create(&client, machine("a3", 1, a)).await),
        ("team=a", "machines", "2", "3"),
    );
    let small = &[("team", "small")];
    is(
        quota(create(&client, machine("s", 2, small)).await),
        ("team=small", "vcpus", "1", "2"),
    );
    create(&client, machine("s", 1, small)).await.unwrap();

    // A label cannot be put on to get around that, or taken off and on.
    let label = async |name: &str, team: &str| {
        let request = v1::UpdateVmRequest {
            name: name.to_owned(),
            labels: [("team".to_owned(), team.to_owned())].into(),
            ..Default::default()
        };
        soon("update", client.update(request)).await
    };
    is(
        quota(label("free", "a").await),
        ("team=a", "machines", "2", "3"),
    );
    label("a2", "b").await.unwrap();
    label("free", "a").await.unwrap();

    // A lower quota takes nothing away.
    let lower = quotas.replace("machines = 2", "machines = 1");
    daemon.configure(&format!("{LISTEN}\n{lower}"));
    daemon.signal(Signal::SIGHUP);
    daemon.logged("configuration reloaded", 1).await;
    client.cont("a1").await.unwrap();
    client.quit("a1").await.unwrap();
    client.start("a1", false).await.unwrap();
    label("b1", "c").await.unwrap();
    is(
        quota(create(&client, machine("b2", 1, b)).await),
        ("team=b", "machines", "1", "2"),
    );
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn machines_from_the_store_count() {
    let data = tempdir().unwrap();
    let config = format!(
        "[daemon]\ndata_dir = \"{}\"\n\n[limits]\nmachines = 1\nvcpus = 1\n",
        data.path().display()
    );
    let daemon = start(&config).await;
    create(&daemon.client().await, machine("a", 1, &[]))
        .await
        .unwrap();
    daemon.killed().await;
    let daemon = start(&config).await;
    let client = daemon.client().await;
    is(
        quota(create(&client, machine("b", 1, &[])).await),
        ("", "machines", "1", "2"),
    );
    client.start("a", true).await.unwrap();
    client.delete("a", true).await.unwrap();
    create(&client, machine("b", 1, &[])).await.unwrap();
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_machine_needs_memory_that_the_host_has() {
    // The host keeps all that it has.
    let daemon = start("[limits]\nhost_memory_reserve = \"16T\"\n").await;
    let client = daemon.client().await;
    let refused = refusal(create(&client, machine("a", 1, &[])).await);
    assert_eq!(
        (refused.code, &*refused.reason),
        (Code::ResourceExhausted, "HOST_MEMORY")
    );
    assert!(
        refused
            .message
            .contains("0 are promised to those that run, and 16M more"),
        "{}",
        refused.message
    );
    daemon.configure(&format!(
        "{LISTEN}\n[limits]\nhost_memory_reserve = \"64M\"\n"
    ));
    daemon.signal(Signal::SIGHUP);
    daemon.logged("configuration reloaded", 1).await;
    create(&client, machine("a", 1, &[])).await.unwrap();
}

/// A cgroup with the controller memory; it goes when this is dropped, after the daemon in it has ended.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// One that may have so many bytes; `None` where there can be none.
    fn new(limit: u64) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let first = own.lines().find_map(|line| line.split_once(":memory:/"));
        let unified = || own.lines().find_map(|line| line.split_once("0::/"));
        let (above, file) = match first {
            Some((_, own)) => (
                Path::new("/sys/fs/cgroup/memory").join(own),
                "memory.limit_in_bytes",
            ),
            None => (Path::new("/sys/fs/cgroup").join(unified()?.1), "memory.max"),
        };
        let group = above.join(format!("vmd-test-{}", std::process::id()));
        fs::create_dir(&group).ok()?;
        let group = Self(group);
        fs::write(group.0.join(file), limit.to_string()).ok()?;
        Some(group)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_machine_needs_memory_that_the_daemons_cgroup_may_have() {
    const LIMIT: u64 = 256 << 20;
    let Some(group) = MemoryGroup::new(LIMIT) else {
        eprintln!("skipped: cgroups with the controller memory cannot be made here");
        return;
    };
    let directory = tempdir().unwrap();
    let config = directory.path().join("vmd.toml");
    fs::write(&config, "[limits]\nhost_memory_reserve = \"64M\"\n").unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]);
    command
        .arg(&group.0)
        .arg(binary("vmd"))
        .stdin(Stdio::null());
    let daemon = Daemon::start_as(command, &["--config", config.to_str().unwrap()]).await;
    let client = daemon.client().await;
    for name in ["a", "b", "c"] {
        let mut request = machine(name, 1, &[]);
        request.definition.as_mut().unwrap().memory_bytes = Some(60 << 20);
        create(&client, request).await.unwrap();
    }
    let refused = refusal(create(&client, machine("d", 1, &[])).await);
    assert_eq!(refused.reason, "HOST_MEMORY");
    let fact = |key: &str| refused.metadata[key].parse::<u64>().unwrap();
    assert_eq!(fact("limit"), LIMIT - (64 << 20));
    assert_eq!(fact("needed"), (3 * 60 + 16) << 20);
    daemon.terminated().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_caller_has_so_many_calls() {
    // One that is used up does not come back within the test.
    let daemon = start("[limits]\ncalls_per_second = 1\nburst = 40\n").await;
    let mut client = daemon.raw_client().await;
    let mut calls = 0;
    let refused = loop {
        let list = client.list_vms(Request::new(v1::ListVmsRequest::default()));
        match soon("list", list).await {
            Ok(_) => calls += 1,
            Err(refused) => break refused,
        }
        assert!(calls < 10_000, "no call is refused");
    };
    assert!(calls >= 40, "{calls}");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "RATE_LIMITED");
    let wait = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(
        wait > Duration::ZERO && wait <= Duration::from_secs(1),
        "{wait:?}"
    );
    assert!(refused.message().contains("calls too often: try again in"));
}

/// Whether the daemon closes another connection at once.
async fn is_closed(daemon: &Daemon) -> bool {
    let mut stream = UnixStream::connect(daemon.path("vmd.sock")).await.unwrap();
    // A server that takes the connection says so first (RFC 9113, section 3.4).
    let read = soon("the server", stream.read(&mut [0; 1])).await;
    read.is_ok_and(|bytes| bytes == 0)
}

#[tokio::test]
async fn a_caller_has_so_many_connections() {
    let daemon = start("[limits]\nconnections_per_caller = 2\n").await;
    let clients = [daemon.client().await, daemon.client().await];
    for client in &clients {
        client.list().await.unwrap();
    }
    for _ in 0..3 {
        assert!(is_closed(&daemon).await);
    }
    daemon
        .logged("it has 2 already (limits.connections_per_caller", 3)
        .await;
    drop(clients);
    let started = Instant::now();
    while is_closed(&daemon).await {
        assert!(started.elapsed() < DEADLINE, "no place comes back");
    }
    daemon.configure(&format!(
        "{LISTEN}\n[limits]\nconnections = 1\nconnections_per_caller = 2\n"
    ));
    daemon.signal(Signal::SIGHUP);
    daemon.logged("configuration reloaded", 1).await;
    let client = daemon.client().await;
    client.list().await.unwrap();
    assert!(is_closed(&daemon).await);
    daemon
        .logged("there are 1 connections already (limits.connections", 1)
        .await;
}

/// Whoever may not call has few calls, and each of them is in the trail.
#[tokio::test]
async fn a_caller_without_the_right_cannot_fill_the_trail() {
    const CALLS: usize = 300;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let daemon = Daemon::start_configured(&format!(
        "{LISTEN}[[listen]]\naddress = \"http://{address}\"\nplaintext_role = \"viewer\"\n"
    ))
    .await;
    let endpoint: vmctl::Endpoint = format!("http://{address}").parse().unwrap();
    let stranger = soon("TCP", Client::connect(&endpoint)).await.unwrap();
    let mut reasons = Vec::new();
    for _ in 0..CALLS {
        let refused = refusal(soon("delete", stranger.delete("a", true)).await);
        reasons.push(refused.reason);
    }
    let denied = reasons.iter().filter(|reason| *reason == "ACCESS_DENIED");
    let denied = denied.count();
    assert!((256..CALLS).contains(&denied), "{denied}");
    assert_eq!(reasons.last().unwrap(), "RATE_LIMITED");
    // What it may do it still may.
    stranger.list().await.unwrap();
    let client = daemon.client().await;
    let mut trail = client.watch_audit(0, None, true).await.unwrap();
    let mut seen = 0;
    while let Some(event) = soon("the trail", trail.next()).await.unwrap() {
        seen += 1;
        assert_eq!(event.seq, seen);
    }
    assert_eq!(seen, denied as u64);
}
