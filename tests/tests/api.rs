//! What orchestrators build on: labels and selectors, pages, updates, etags, filtered events, request ids, deadlines.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    future::ready,
    time::Duration,
};

use hyper_util::{
    client::legacy::Client as HttpClient,
    rt::{TokioExecutor, TokioIo},
};
use nix::sys::signal::Signal;
use tokio::net::UnixStream;
use tonic::{Code, Request, transport::Uri};
use vmctl::{
    Client, Error, EventStream, Refusal,
    names::event_name,
    v1::{self, event::Kind, vm_service_client::VmServiceClient, watch_vms_response::Update},
};
use vmd_tests::{
    Daemon,
    kernel_file::{HALT, elf, load, pvh_note},
    refusal, request, soon,
};
const MIB: u64 = 1 << 20;

/// Labels written as for `vmctl`.
fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap());
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// A request for a small machine that stays in prelaunch.
fn small(name: &str, its_labels: &str) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(MIB),
            ..Default::default()
        }),
        paused: true,
        labels: labels(its_labels),
        ..request(name)
    }
}

/// A request for a change of labels.
fn relabel(name: &str, mask: &[&str], to: &str) -> v1::UpdateVmRequest {
    v1::UpdateVmRequest {
        name: name.to_owned(),
        update_mask: mask.iter().map(|&path| path.to_owned()).collect(),
        labels: labels(to),
        ..Default::default()
    }
}

/// A request for a change of the definition.
fn redefine(name: &str, mask: &[&str], definition: v1::VmDefinition) -> v1::UpdateVmRequest {
    v1::UpdateVmRequest {
        definition: Some(definition),
        ..relabel(name, mask, "")
    }
}

fn is(refusal: &Refusal, code: Code, reason: &str) {
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (code, reason),
        "{refusal}"
    );
}

/// Asserts that a request was refused for one field.
fn at_fault<T>(answer: Result<T, Error>, field: &str) {
    let refusal = refusal(answer);
    is(&refusal, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(refusal.violations[0].field, field, "{refusal}");
}

async fn names(client: &Client, selector: &str) -> Vec<String> {
    let request = v1::ListVmsRequest {
        label_selector: selector.to_owned(),
        ..Default::default()
    };
    let vms = client.list_page(request).await.unwrap().vms;
    vms.into_iter().map(|vm| vm.name).collect()
}

/// The events that a request wants and that exist, as `SEQ NAME EVENT`.
async fn history(client: &Client, request: v1::WatchEventsRequest) -> Vec<String> {
    let request = v1::WatchEventsRequest {
        history_only: true,
        ..request
    };
    let mut stream = client.watch_events_of(request).await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = soon("history", stream.next()).await.unwrap() {
        events.push(line(&event));
    }
    events
}

fn line(event: &v1::Event) -> String {
    let kind = event.kind.as_ref().map_or("-", event_name);
    format!("{} {} {kind}", event.seq, event.vm_name)
}

fn events_of(selector: &str, kinds: &[&str]) -> v1::WatchEventsRequest {
    v1::WatchEventsRequest {
        label_selector: selector.to_owned(),
        kinds: kinds.iter().map(|&kind| kind.to_owned()).collect(),
        ..Default::default()
    }
}

async fn next(stream: &mut EventStream) -> v1::Event {
    let next = soon("an event", stream.next()).await.unwrap();
    next.unwrap_or_else(|| panic!("the stream has ended"))
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn machines_are_found_by_their_labels() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    for (name, its_labels) in [
        ("a", "env=prod,tier=web"),
        ("b", "env=prod,tier=db"),
        ("c", "env=test,example.com/owner=me"),
        ("d", ""),
    ] {
        let vm = client.create(small(name, its_labels)).await.unwrap().vm;
        let vm = vm.unwrap();
        assert_eq!(vm.labels, labels(its_labels));
        assert_eq!(client.get(name).await.unwrap(), vm);
    }
    for (selector, expected) in [
        ("", &["a", "b", "c", "d"][..]),
        ("env=prod", &["a", "b"]),
        ("env=prod,tier!=db", &["a"]),
        ("env in (prod, test)", &["a", "b", "c"]),
        ("env notin (prod)", &["c", "d"]),
        ("example.com/owner", &["c"]),
        ("!env", &["d"]),
        ("env=dev", &[]),
    ] {
        assert_eq!(names(&client, selector).await, expected, "{selector}");
    }

    // What is no selector is named, in each call that takes one.
    let bad = "env in ()".to_owned();
    let list = v1::ListVmsRequest {
        label_selector: bad.clone(),
        ..Default::default()
    };
    at_fault(client.list_page(list).await, "label_selector");
    let vms = v1::WatchVmsRequest {
        label_selector: bad.clone(),
        ..Default::default()
    };
    at_fault(client.watch_vms_of(vms).await, "label_selector");
    let events = client.watch_events_of(events_of(&bad, &[])).await;
    at_fault(events, "label_selector");
    let events = client.watch_events_of(events_of("", &["STOP", "HALT"]));
    at_fault(events.await, "kinds[1]");

    // So is a label that cannot be: nothing is made.
    for (bad, field) in [("e nv=prod", "labels.e nv"), ("env=p/d", "labels.env")] {
        at_fault(client.create(small("e", bad)).await, field);
        at_fault(client.update(relabel("a", &[], bad)).await, field);
    }
    let many: Vec<_> = (0..65).map(|n| format!("k{n}=")).collect();
    at_fault(client.create(small("e", &many.join(","))).await, "labels");
    assert_eq!(names(&client, "").await.len(), 4);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn pages_stay_right_while_machines_come_and_go() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    for name in ["b", "d", "f", "h", "j"] {
        client.create(small(name, "env=prod")).await.unwrap();
    }
    let page = async |size, token: &str| {
        let request = v1::ListVmsRequest {
            page_size: size,
            page_token: token.to_owned(),
            label_selector: "env=prod".to_owned(),
            ..Default::default()
        };
        let page = client.list_page(request).await.unwrap();
        let names: Vec<_> = page.vms.into_iter().map(|vm| vm.name).collect();
        (names.concat(), page.next_page_token, page.seq)
    };
    let (first, token, seq) = page(2, "").await;
    assert_eq!((first.as_str(), seq), ("bd", 5));
    // The last of that page goes, others come before and after it, and one does not count.
    client.delete("d", true).await.unwrap();
    for (name, its_labels) in [("a", "env=prod"), ("e", "env=prod"), ("g", "env=test")] {
        client.create(small(name, its_labels)).await.unwrap();
    }
    let (second, token, _) = page(2, &token).await;
    assert_eq!(second, "ef");
    let (third, end, _) = page(2, &token).await;
    assert_eq!((third.as_str(), end.as_str()), ("hj", ""));
    // The same token, another size.
    assert_eq!(page(1, &token).await.0, "h");
    assert_eq!(page(u32::MAX, "").await.0, "abefhj");
    let (all, none, _) = page(0, "").await;
    assert_eq!((all.as_str(), none.as_str()), ("abefhj", ""));

    let bad = v1::ListVmsRequest {
        page_token: "b".to_owned(),
        ..Default::default()
    };
    at_fault(client.list_page(bad).await, "page_token");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn labels_change_at_any_time_and_etags_with_them() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let vm = client.create(small("a", "env=prod,tier=web")).await;
    let first = vm.unwrap().vm.unwrap();
    // The status does not count.
    client.cont("a").await.unwrap();
    assert_eq!(client.get("a").await.unwrap().etag, first.etag);

    let merge = relabel(
        "a",
        &["labels.env", "labels.zone", "labels.tier"],
        "env=test,zone=1",
    );
    let reply = client.update(merge.clone()).await.unwrap();
    let second = reply.vm.unwrap();
    assert_eq!(second.labels, labels("env=test,zone=1"));
    assert_ne!(second.etag, first.etag);
    assert_eq!(second.status.as_ref().unwrap().seq, reply.seq);
    let expected = v1::event::Updated {
        fields: ["env", "tier", "zone"]
            .map(|key| format!("labels.{key}"))
            .into(),
        etag: second.etag.clone(),
        labels_before: first.labels.clone(),
    };
    let mut events = client
        .watch_events(reply.seq - 1, None, true)
        .await
        .unwrap();
    let event = next(&mut events).await;
    assert_eq!(event.labels, second.labels);
    assert_eq!(event.kind, Some(Kind::Updated(expected)));
    assert_eq!(event.state(), v1::RunState::Running);

    // A repeat changes nothing; nor does an update of nothing.
    for harmless in [
        merge,
        relabel("a", &[], ""),
        relabel("a", &["labels"], "env=test,zone=1"),
    ] {
        let repeat = client.update(harmless).await.unwrap();
        assert_eq!(
            (repeat.vm.unwrap(), repeat.seq),
            (second.clone(), reply.seq)
        );
    }

    // Only whoever knows how the machine is.
    let guarded = |etag: &str, to: &str| v1::UpdateVmRequest {
        etag: etag.to_owned(),
        ..relabel("a", &["labels"], to)
    };
    let refused = refusal(client.update(guarded(&first.etag, "a=1")).await);
    is(&refused, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(refused.metadata["etag"], second.etag);
    let third = client.update(guarded(&second.etag, "a=1")).await.unwrap();
    let third = third.vm.unwrap();
    assert_eq!(third.labels, labels("a=1"));
    let refused = refusal(client.delete_if("a", true, &second.etag).await);
    is(&refused, Code::Aborted, "ETAG_MISMATCH");
    client.delete_if("a", true, &third.etag).await.unwrap();

    // The next machine of the name is another.
    let again = client
        .create(small("a", "env=prod,tier=web"))
        .await
        .unwrap();
    assert_ne!(again.vm.unwrap().etag, first.etag);
    let missing = refusal(client.update(relabel("b", &[], "a=1")).await);
    is(&missing, Code::NotFound, "VM_NOT_FOUND");
    at_fault(
        client.update(relabel("a", &["status"], "")).await,
        "update_mask[0]",
    );
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn updates_side_by_side_are_all_there() {
    const CLIENTS: usize = 8;
    const EACH: usize = 5;
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    client.create(small("a", "count=0")).await.unwrap();
    let mut tasks = Vec::new();
    for of in 0..CLIENTS {
        let client = daemon.client().await;
        tasks.push(tokio::spawn(async move {
            for n in 0..EACH {
                let key = format!("k{of}-{n}");
                let merge = relabel("a", &[&format!("labels.{key}")], &format!("{key}=1"));
                client.update(merge).await.unwrap();
                // Read, add one, write, unless another did meanwhile.
                loop {
                    let vm = client.get("a").await.unwrap();
                    let count: usize = vm.labels["count"].parse().unwrap();
                    let add = v1::UpdateVmRequest {
                        etag: vm.etag,
                        ..relabel("a", &["labels.count"], &format!("count={}", count + 1))
                    };
                    match client.update(add).await {
                        Ok(_) => break,
                        Err(error) => assert_eq!(error.reason(), Some("ETAG_MISMATCH")),
                    }
                }
            }
        }));
    }
    for task in tasks {
        soon("a client", task).await.unwrap();
    }
    let vm = client.get("a").await.unwrap();
    assert_eq!(vm.labels["count"], (CLIENTS * EACH).to_string());
    assert_eq!(vm.labels.len(), 1 + CLIENTS * EACH);
    let updates = history(&client, events_of("", &["UPDATED"])).await;
    assert_eq!(updates.len(), 2 * CLIENTS * EACH);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_definition_of_an_ended_machine_changes_and_counts_when_it_is_started() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let two = v1::VmDefinition {
        vcpus: Some(2),
        ..Default::default()
    };
    client.create(small("a", "env=prod")).await.unwrap();
    let refused = refusal(
        client
            .update(redefine("a", &["definition.vcpus"], two.clone()))
            .await,
    );
    is(&refused, Code::FailedPrecondition, "NOT_CHANGEABLE");
    assert_eq!(refused.metadata["field"], "definition.vcpus");
    assert_eq!(refused.violations[0].field, "definition.vcpus");
    // All or nothing.
    let both = v1::UpdateVmRequest {
        labels: labels("env=test"),
        ..redefine("a", &["labels", "definition.vcpus"], two.clone())
    };
    is(
        &refusal(client.update(both.clone()).await),
        Code::FailedPrecondition,
        "NOT_CHANGEABLE",
    );
    let now = client.get("a").await.unwrap();
    assert_eq!(now.labels, labels("env=prod"));
    // What it is already is no change, of a live machine either.
    let same = redefine("a", &["definition"], now.definition.clone().unwrap());
    assert_eq!(client.update(same).await.unwrap().vm.unwrap(), now);

    // The restart policy does nothing to the guest.
    let restart = v1::VmDefinition {
        restart: Some(v1::RestartPolicy {
            mode: v1::RestartMode::OnFailure.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let policy = redefine("a", &["definition.restart"], restart);
    let vm = client.update(policy).await.unwrap().vm.unwrap();
    let restart = vm.definition.unwrap().restart.unwrap();
    assert_eq!(restart.mode(), v1::RestartMode::OnFailure);

    client.quit("a").await.unwrap();
    let reply = client.update(both).await.unwrap();
    let vm = reply.vm.unwrap();
    assert_eq!(vm.labels, labels("env=test"));
    let definition = vm.definition.clone().unwrap();
    assert_eq!(
        (definition.vcpus, definition.memory_bytes),
        (Some(2), Some(MIB))
    );
    let actions = v1::VmDefinition {
        actions: Some(vmd_tests::actions("panic=pause")),
        ..Default::default()
    };
    // A field that is not given is as by default.
    let mask = ["definition.actions", "definition.memory_bytes"];
    client.update(redefine("a", &mask, actions)).await.unwrap();
    for (bad, field) in [
        (
            v1::VmDefinition {
                vcpus: Some(0),
                ..Default::default()
            },
            "definition.vcpus",
        ),
        (
            v1::VmDefinition {
                cmdline: "x".into(),
                ..Default::default()
            },
            "definition.cmdline",
        ),
    ] {
        at_fault(client.update(redefine("a", &[], bad)).await, field);
    }
    let status = client.start("a", true).await.unwrap().status.unwrap();
    assert_eq!(status.actions.unwrap().panic(), v1::PanicAction::Pause);
    let vm = client.get("a").await.unwrap();
    let definition = vm.definition.unwrap();
    assert_eq!(
        (definition.vcpus, definition.memory_bytes),
        (Some(2), Some(256 << 20))
    );
    let updates = history(&client, events_of("env=test", &["UPDATED", "STARTED"])).await;
    assert_eq!(updates, ["5 a UPDATED", "6 a UPDATED", "7 a STARTED"]);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn events_are_chosen_by_the_labels_of_their_time() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    client.create(small("a", "env=prod")).await.unwrap(); // 1
    client.create(small("b", "env=test")).await.unwrap(); // 2
    client.cont("a").await.unwrap(); // 3
    client.stop("a").await.unwrap(); // 4
    client.update(relabel("a", &[], "env=test")).await.unwrap(); // 5
    client.cont("a").await.unwrap(); // 6
    client.delete("b", true).await.unwrap(); // 7 SHUTDOWN, 8 ENDED, 9 DELETED
    let of = async |selector, kinds: &[&str]| history(&client, events_of(selector, kinds)).await;
    let prod = ["1 a CREATED", "3 a RESUME", "4 a STOP", "5 a UPDATED"];
    assert_eq!(of("env=prod", &[]).await, prod);
    let test = [
        "2 b CREATED",
        "5 a UPDATED",
        "6 a RESUME",
        "7 b SHUTDOWN",
        "8 b ENDED",
        "9 b DELETED",
    ];
    assert_eq!(of("env=test", &[]).await, test);
    assert_eq!(
        of("env=test", &["RESUME", "DELETED"]).await,
        ["6 a RESUME", "9 b DELETED"]
    );
    assert_eq!(of("!env", &[]).await, [""; 0]);
    // By machine as well, from a number on: what is passed over is no gap.
    let some = v1::WatchEventsRequest {
        name: "a".to_owned(),
        after_seq: 3,
        ..events_of("", &["RESUME", "STOP"])
    };
    assert_eq!(history(&client, some).await, ["4 a STOP", "6 a RESUME"]);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_reader_of_few_events_is_told_how_far_it_is() {
    // Few are kept: what a reader does not want is soon gone.
    let daemon = Daemon::start_with(&["--events-kept", "600"]).await;
    let client = daemon.client().await;
    client.create(small("rare", "env=prod")).await.unwrap();
    client.create(small("busy", "")).await.unwrap();
    let wanted = v1::WatchEventsRequest {
        progress: true,
        ..events_of("env=prod", &[])
    };
    let mut stream = client.watch_events_of(wanted.clone()).await.unwrap();
    assert_eq!(line(&next(&mut stream).await), "1 rare CREATED");
    for _ in 0..400 {
        client.cont("busy").await.unwrap();
        client.stop("busy").await.unwrap();
    }
    let progress = next(&mut stream).await;
    let bare = v1::Event {
        seq: progress.seq,
        ..Default::default()
    };
    assert_eq!(progress, bare);
    let progress = next(&mut stream).await;
    assert!(
        progress.kind.is_none() && progress.seq > 202,
        "{progress:?}"
    );
    drop(stream);
    // From the number of the event itself there is no way on; from that of the progress there is.
    let lost = client.watch_events_of(v1::WatchEventsRequest {
        after_seq: 1,
        ..wanted.clone()
    });
    is(&refusal(lost.await), Code::OutOfRange, "EVENTS_LOST");
    client.cont("rare").await.unwrap();
    let resumed = v1::WatchEventsRequest {
        after_seq: progress.seq,
        ..wanted.clone()
    };
    assert_eq!(
        history(&client, resumed).await.last().unwrap(),
        "803 rare RESUME"
    );
    // At the end of the history the reader is at its end, whatever came last.
    client.cont("busy").await.unwrap();
    let rest = v1::WatchEventsRequest {
        after_seq: 803,
        ..wanted
    };
    assert_eq!(history(&client, rest).await, ["804  -"]);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn machines_come_and_go_for_a_watcher_of_labels() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    client.create(small("a", "env=prod")).await.unwrap();
    client.create(small("b", "env=test")).await.unwrap();
    let request = v1::WatchVmsRequest {
        label_selector: "env=prod".to_owned(),
        ..Default::default()
    };
    let mut stream = client.watch_vms_of(request).await.unwrap();
    let mut update = async || {
        let update = soon("an update", stream.next()).await.unwrap().unwrap();
        match update.update.unwrap() {
            Update::Vm(vm) => format!("{} {}", vm.name, vm.labels["env"]),
            Update::Deleted(vm) => format!("{} {} gone", vm.name, vm.labels["env"]),
            Update::Synced(_) => "synced".to_owned(),
        }
    };
    assert_eq!(update().await, "a prod");
    assert_eq!(update().await, "synced");
    client.update(relabel("b", &[], "env=prod")).await.unwrap();
    assert_eq!(update().await, "b prod");
    client.update(relabel("a", &[], "env=test")).await.unwrap();
    assert_eq!(update().await, "a prod gone");
    // Of this one nothing more is heard.
    client.cont("a").await.unwrap();
    client.delete("b", true).await.unwrap();
    let mut last = update().await;
    while last == "b prod" {
        last = update().await;
    }
    assert_eq!(last, "b prod gone");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_repeat_with_the_same_id_gets_the_first_answer() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let first = client.with_request_id("create-1");
    let created = first.create(small("a", "env=prod,tier=web")).await.unwrap();
    // However the machine is by now, and over any connection.
    client.cont("a").await.unwrap();
    let elsewhere = daemon.client().await.with_request_id("create-1");
    let repeat = elsewhere.create(small("a", "env=prod,tier=web")).await;
    assert_eq!(repeat.unwrap(), created);
    // Another request, another call.
    let other = refusal(first.create(small("b", "env=prod,tier=web")).await);
    is(&other, Code::InvalidArgument, "REQUEST_ID_REUSED");
    assert_eq!(other.violations[0].field, "request_id");
    is(
        &refusal(first.stop("a").await),
        Code::InvalidArgument,
        "REQUEST_ID_REUSED",
    );

    // Also when there is no such machine any more.
    let delete = client.with_request_id("delete-1");
    let seq = delete.delete("a", true).await.unwrap();
    assert_eq!(delete.delete("a", true).await.unwrap(), seq);
    assert_eq!(
        first.create(small("a", "env=prod,tier=web")).await.unwrap(),
        created
    );

    // A refusal is not kept: the next try may do better.
    let start = client.with_request_id("stop-1");
    is(
        &refusal(start.stop("b").await),
        Code::NotFound,
        "VM_NOT_FOUND",
    );
    client.create(small("b", "")).await.unwrap();
    client.cont("b").await.unwrap();
    let stopped = start.stop("b").await.unwrap();
    client.cont("b").await.unwrap();
    assert_eq!(start.stop("b").await.unwrap(), stopped);
    assert!(client.get("b").await.unwrap().status.unwrap().running);

    for bad in ["a b", "ä", &"x".repeat(129)] {
        at_fault(client.with_request_id(bad).stop("b").await, "request_id");
    }
    client
        .with_request_id(&"x".repeat(128))
        .stop("b")
        .await
        .unwrap();
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn side_by_side_repeats_do_it_once() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    client.create(small("a", "")).await.unwrap();
    for (round, create) in [(0, true), (1, false)] {
        let mut tasks = Vec::new();
        for _ in 0..8 {
            let client = daemon
                .client()
                .await
                .with_request_id(&format!("id-{round}"));
            tasks.push(tokio::spawn(async move {
                if create {
                    client.create(small("b", "")).await.unwrap().seq
                } else {
                    client.system_reset("a").await.unwrap().seq
                }
            }));
        }
        let mut answers = BTreeSet::new();
        for task in tasks {
            answers.insert(soon("a repeat", task).await.unwrap());
        }
        assert_eq!(answers.len(), 1);
    }
    let events = history(&client, events_of("", &["CREATED", "RESET"])).await;
    assert_eq!(events, ["1 a CREATED", "2 b CREATED", "3 a RESET"]);
}

/// A machine that takes its time to be built: a large RAM disk is read.
fn slow(daemon: &Daemon, name: &str) -> v1::CreateVmRequest {
    let path = |name: &str| daemon.path(name).to_str().unwrap().to_owned();
    let (kernel, initrd) = (path("kernel"), path(&format!("{name}.initrd")));
    std::fs::write(
        &kernel,
        elf(MIB, &[load(MIB, &HALT, 4096), pvh_note(MIB as u32)]),
    )
    .unwrap();
    File::create(&initrd).unwrap().set_len(192 * MIB).unwrap();
    v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(256 * MIB),
            kernel,
            initrd,
            ..Default::default()
        }),
        paused: true,
        ..request(name)
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_call_that_takes_too_long_is_answered_in_its_time() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let hasty = client.with_deadline(Duration::from_millis(1));
    let error = hasty.create(slow(&daemon, "a")).await.unwrap_err();
    assert!(matches!(error, Error::Deadline), "{error}");
    // The creation goes on, and ends with a machine.
    let mut changes = client.watch_vms(Some("a")).await.unwrap();
    loop {
        let change = soon("the machine", changes.next()).await.unwrap().unwrap();
        if let Some(Update::Vm(vm)) = change.update {
            assert_eq!(vm.status.unwrap().state(), v1::RunState::Prelaunch);
            break;
        }
    }
    // With an id, a repeat waits for it and gets its answer.
    let with_id = |client: &Client| client.with_request_id("b-1");
    let create = slow(&daemon, "b");
    let error = with_id(&hasty).create(create.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Deadline), "{error}");
    let created = soon("b", with_id(&client).create(create)).await.unwrap();
    assert_eq!(created.vm.unwrap(), client.get("b").await.unwrap());
    // Enough time is no hindrance.
    let patient = client.with_deadline(Duration::from_secs(60));
    patient.stop("a").await.unwrap();
}

/// The daemon's own answer: this client does not look at the clock itself.
#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_daemon_itself_says_that_the_time_is_over() {
    let daemon = Daemon::start().await;
    let path = daemon.endpoint().unix_path().unwrap().to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    });
    let mut http = HttpClient::builder(TokioExecutor::new());
    let http = http.http2_only(true).build(connect);
    let mut client = VmServiceClient::with_origin(http, Uri::from_static("http://vmd"));
    let mut request = Request::new(slow(&daemon, "a"));
    let time = "1m".parse().unwrap();
    request.metadata_mut().insert("grpc-timeout", time);
    let status = soon("create", client.create_vm(request)).await.unwrap_err();
    is(
        &Refusal::from(&status),
        Code::DeadlineExceeded,
        "DEADLINE_EXCEEDED",
    );
    daemon.client().await.list().await.unwrap();
}

/// Whether a call that was given up took effect or not: it is one of the two, and can be seen.
#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_call_that_was_given_up_has_been_served_or_not() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    client.create(slow(&daemon, "a")).await.unwrap();
    for time in [0, 1, 2, 5, 10, 50] {
        let ended = client.quit("a").await.unwrap().seq;
        let hasty = client.with_deadline(Duration::from_millis(time));
        let started = hasty.start("a", true).await;
        if let Err(error) = &started {
            assert!(matches!(error, Error::Deadline), "{error}");
        }
        // It comes after that, if there is that.
        let stopped = soon("stop", client.stop("a")).await;
        let since = v1::WatchEventsRequest {
            after_seq: ended,
            ..Default::default()
        };
        let events = history(&client, since).await;
        let expected = format!("{} a STARTED", ended + 1);
        match stopped {
            Ok(_) => assert_eq!(events, [expected]),
            Err(error) => {
                assert_eq!(error.reason(), Some("VM_ENDED"));
                assert!(events.is_empty() && started.is_err(), "{events:?}");
            }
        }
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_creation_that_is_cancelled_leaves_a_whole_machine_or_none() {
    const CREATIONS: u32 = 40;
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    for n in 0..CREATIONS {
        let name = format!("m{n}");
        let create = client.create(v1::CreateVmRequest {
            paused: false,
            ..small(&name, "env=prod")
        });
        tokio::pin!(create);
        // Cancelled at its first step, or some way on.
        for _ in 0..n {
            if poll_once(&mut create).await.is_some() {
                break;
            }
            client.list().await.unwrap();
        }
    }
    // The names that are taken by creations under way are waited for.
    let mut machines = 0;
    for n in 0..CREATIONS {
        let name = format!("m{n}");
        let mut changes = client.watch_vms(None).await.unwrap();
        let another = client.create(small(&name, "")).await;
        match another.as_ref().map_err(Error::reason) {
            // There is none: this one is whole.
            Ok(_) => {}
            Err(reason) => {
                assert_eq!(reason, Some("VM_EXISTS"));
                machines += 1;
                // It runs, or will.
                loop {
                    let change = soon("the machine", changes.next()).await.unwrap().unwrap();
                    if let Some(Update::Vm(vm)) = change.update
                        && vm.name == name
                        && vm.status.as_ref().is_some_and(|status| status.running)
                    {
                        assert_eq!(vm.labels, labels("env=prod"));
                        break;
                    }
                }
            }
        }
        soon("delete", client.delete(&name, true)).await.unwrap();
    }
    assert!(machines > 0);
    assert!(names(&client, "").await.is_empty());
}

/// Lets a future run until it has to wait.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = ready(()) => None,
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn all_of_it_outlives_a_daemon_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--data-dir", directory.path().to_str().unwrap()];
    let daemon = Daemon::start_with(&arguments).await;
    let client = daemon.client().await;
    let create = client.with_request_id("create-1");
    let created = create.create(small("a", "env=prod")).await.unwrap();
    client.update(relabel("a", &[], "env=test")).await.unwrap();
    client.quit("a").await.unwrap();
    let two = v1::VmDefinition {
        vcpus: Some(2),
        ..Default::default()
    };
    let update = client.with_request_id("update-1");
    let redefined = redefine("a", &["definition.vcpus"], two);
    let updated = update.update(redefined.clone()).await.unwrap();
    client
        .with_request_id("start-1")
        .start("a", true)
        .await
        .unwrap();
    let events = history(&client, events_of("env=test", &["UPDATED"])).await;
    assert_eq!(events.len(), 2);
    let before = client.get("a").await.unwrap();
    daemon.signal(Signal::SIGKILL);
    daemon.ended().await;

    let daemon = Daemon::start_with(&arguments).await;
    let client = daemon.client().await;
    let after = client.get("a").await.unwrap();
    assert_eq!(
        (&after.labels, &after.etag, &after.definition),
        (&before.labels, &before.etag, &before.definition)
    );
    assert_eq!(
        history(&client, events_of("env=test", &["UPDATED"])).await,
        events
    );
    let create = client.with_request_id("create-1");
    assert_eq!(
        create.create(small("a", "env=prod")).await.unwrap(),
        created
    );
    let update = client.with_request_id("update-1");
    assert_eq!(update.update(redefined).await.unwrap(), updated);
    // The machine was started then; by now it has ended.
    let start = client.with_request_id("start-1").start("a", true).await;
    assert_eq!(start.unwrap().status.unwrap().phase(), v1::VmPhase::Live);
    assert_eq!(after.status.unwrap().phase(), v1::VmPhase::Ended);
    let reused = create.create(small("b", "")).await;
    is(&refusal(reused), Code::InvalidArgument, "REQUEST_ID_REUSED");
    // Etags go on from where they were.
    let guarded = v1::UpdateVmRequest {
        etag: before.etag.clone(),
        ..relabel("a", &[], "env=prod")
    };
    let vm = client.update(guarded).await.unwrap().vm.unwrap();
    assert_ne!(vm.etag, before.etag);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn vmctl_has_them_all() {
    let daemon = Daemon::start().await;
    let run = async |arguments: &str| {
        let arguments: Vec<_> = arguments.split(' ').collect();
        let output = daemon.vmctl(&arguments).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() {
            text(&output.stdout)
        } else {
            format!(
                "{}: {}",
                output.status.code().unwrap(),
                text(&output.stderr)
            )
        }
    };
    let create = "create a --memory 1M --paused --label env=prod,tier=web --label zone=";
    assert_eq!(run(create).await, "a: prelaunch, event 1");
    let id = "--request-id 1 create b --memory 1M --paused --label env=test";
    for _ in 0..2 {
        assert_eq!(run(id).await, "b: prelaunch, event 2");
    }
    let reused = run("--request-id 1 create c").await;
    assert!(
        reused.starts_with("1: ") && reused.contains("--request-id"),
        "{reused}"
    );
    let two = run("--request-id 2 stop a b").await;
    assert!(two.starts_with("2: "), "{two}");

    let listed = run("ls -l env=prod").await;
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.contains("\na "), "{listed}");
    let json = run("-o json ls --selector env!=prod").await;
    assert!(json.contains(r#""name":"b""#) && json.contains(r#""labels":{"env":"test"}"#));
    assert_eq!(run("label a").await, "a: env=prod,tier=web,zone=");
    assert_eq!(
        run("label a env=test tier- owner=me").await,
        "a: env=test,owner=me,zone="
    );
    let bad = run("label a e/n/v=1").await;
    assert!(
        bad.starts_with("1: ") && bad.contains("labels.e/n/v"),
        "{bad}"
    );

    let status: serde_json::Value = serde_json::from_str(&run("-o json status a").await).unwrap();
    let etag = status["etag"].as_str().unwrap();
    assert_eq!(status["labels"]["owner"], "me");
    assert_eq!(run("label a owner-").await, "a: env=test,zone=");
    let stale = run(&format!("rm --force --etag {etag} a")).await;
    assert!(
        stale.starts_with("1: ") && stale.contains("has changed"),
        "{stale}"
    );

    run("cont a").await;
    run("stop a").await;
    let events = run("events -l env=test --kind stop,RESUME,updated").await;
    let kinds = |events: &str| -> Vec<String> {
        let words = events
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().nth(3));
        words.map(|kind| kind.unwrap().to_owned()).collect()
    };
    assert_eq!(kinds(&events), ["UPDATED", "UPDATED", "RESUME", "STOP"]);
    let none = run("events --kind HALT").await;
    assert!(
        none.starts_with("2: ") && none.contains("GUEST_PANICKED"),
        "{none}"
    );
    let late = run("--deadline 1h cont a").await;
    assert_eq!(late, "a: running, event 7");
}
