//! Network cards: whose tap is whose, what a machine is told to have, and its links.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::process::Stdio;

use tokio::net::UnixListener;
use vmctl::{Client, v1};
use vmd_tests::{Daemon, NetNs, refusal, request, soon};

fn with(name: &str, nets: Vec<v1::Net>) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(16 << 20),
            nets,
            ..Default::default()
        }),
        ..request(name)
    }
}

fn tap(name: &str) -> v1::Net {
    v1::Net {
        backend: Some(v1::net::Backend::Tap(name.to_owned())),
        ..Default::default()
    }
}

fn passt(path: &std::path::Path) -> v1::Net {
    let path = path.to_str().unwrap().to_owned();
    v1::Net {
        backend: Some(v1::net::Backend::Passt(path)),
        ..Default::default()
    }
}

fn exists(namespace: &NetNs, interface: &str) -> bool {
    let mut show = namespace.command("ip");
    show.args(["link", "show", interface]);
    let show = show.stdout(Stdio::null()).stderr(Stdio::null());
    show.status().unwrap().success()
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_tap_has_one_machine_as_long_as_that_lives() {
    let Some(namespace) = NetNs::new() else {
        return;
    };
    namespace.run("ip tuntap add dev one mode tap");
    namespace.run("ip tuntap add dev many mode tap multi_queue");
    let daemon = Daemon::start_in(&namespace).await;
    let client = daemon.client().await;
    let create = async |name: &str, nets| soon("create", client.create(with(name, nets))).await;
    let refused = async |nets, field: &str, says: &str| {
        let refusal = refusal(create("other", nets).await);
        assert_eq!(refusal.reason, "NET_UNUSABLE");
        let start = format!("definition.nets[{field}: ");
        assert!(refusal.message.starts_with(&start), "{refusal:?}");
        assert!(refusal.message.contains(says), "{refusal:?}");
    };
    let several = |name| v1::Net {
        queues: Some(2),
        ..tap(name)
    };
    // One of the sort for several queues may have just one.
    create("first", vec![tap("one"), tap("many")])
        .await
        .unwrap();
    refused(vec![tap("one")], "0].tap", "one: it is in use").await;
    refused(vec![tap("new"), several("one")], "1].tap", "multi_queue").await;
    refused(vec![tap("lo")], "0].tap", "it is no tap").await;
    // What was made on the way is gone again.
    assert!(!exists(&namespace, "new"));

    // At a machine's end its taps are free, also for its next start; those that were made for it are gone.
    soon("quit", client.quit("first")).await.unwrap();
    create("second", vec![tap("one"), several("many"), tap("new")])
        .await
        .unwrap();
    assert!(exists(&namespace, "new"));
    let start = refusal(soon("start", client.start("first", false)).await);
    assert_eq!(start.reason, "NET_UNUSABLE");
    soon("delete", client.delete("second", true)).await.unwrap();
    assert!(!exists(&namespace, "new") && exists(&namespace, "one"));
    soon("start", client.start("first", false)).await.unwrap();
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_card_keeps_its_address() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let path = daemon.path("passt.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let given = v1::Net {
        mac: "52:54:00:AB:CD:EF".to_owned(),
        mtu: Some(9000),
        ..passt(&path)
    };
    let request = with("a", vec![passt(&path), passt(&path), given]);
    soon("create", client.create(request)).await.unwrap();
    let nets = async || {
        let vm = soon("get", client.get("a")).await.unwrap();
        vm.definition.unwrap().nets
    };
    let first = nets().await;
    assert_ne!(first[0].mac, first[1].mac);
    assert_eq!((first[0].mac.len(), first[0].queues), (17, Some(1)));
    assert_eq!(first[2].mac, "52:54:00:ab:cd:ef");
    soon("quit", client.quit("a")).await.unwrap();
    soon("start", client.start("a", false)).await.unwrap();
    assert_eq!(nets().await, first);
    let output = daemon.vmctl(&["status", "a"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let row = text.lines().find(|line| line.starts_with("n2:")).unwrap();
    assert!(
        row.contains("52:54:00:ab:cd:ef") && row.contains("9000"),
        "{row}"
    );
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_link_of_a_card_can_be_set_as_long_as_the_machine_lives() {
    let daemon = Daemon::start().await;
    let path = daemon.path("passt.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut guest = daemon.guest_of(with("a", vec![passt(&path)])).await;
    let set = |up| async move |client: &Client, name: &str| client.set_link(name, "n0", up).await;
    // Whatever it was before, and while it is stopped, too; without an event.
    for up in [false, false, true] {
        guest.serves(set(up), &[]).await;
    }
    guest.serves(Client::stop, &["STOP"]).await;
    guest.serves(set(false), &[]).await;
    let output = daemon.vmctl(&["net", "link", "a", "n0", "up"]).await;
    assert!(output.status.success(), "{output:?}");
    let output = daemon.vmctl(&["net", "link", "a", "n1", "up"]).await;
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "vmctl: cannot set the link of 'n1' of 'a': the machine has no network card 'n1'\n"
    );
    let none = refusal(soon("set_link", guest.client.set_link("a", "d0", true)).await);
    assert_eq!(none.reason, "NET_NOT_FOUND");
    soon("quit", guest.client.quit("a")).await.unwrap();
    let ended = refusal(soon("set_link", guest.client.set_link("a", "n0", true)).await);
    assert_eq!(ended.reason, "VM_ENDED");
}
