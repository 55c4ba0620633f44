//! Limits: quotas of the daemon and of labels, the host's memory, and how often one may call.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::tempdir;
use tonic::{Code, Request};
use tonic_types::StatusExt;
use vmctl::{Client, Error, Refusal, v1};
use vmd_tests::{Daemon, refusal, request, soon};

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
