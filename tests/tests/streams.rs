//! The streams of events and of machines: complete, in order, resumable, and without a trace once their reader goes.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use tonic::Code;
use vmctl::{
    Client, VmStream,
    v1::{
        self, VmPhase,
        watch_vms_response::{Synced, Update},
    },
};
use vmd_tests::{Daemon, EventReader, describe, refusal, request, soon};

fn paused(name: &str) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        paused: true,
        ..request(name)
    }
}

/// The numbers and lines of all events after `after_seq` that there are.
async fn history(client: &Client, after_seq: u64, name: Option<&str>) -> Vec<(u64, String)> {
    let mut stream = client.watch_events(after_seq, name, true).await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = soon("history", stream.next()).await.unwrap() {
        events.push((
            event.seq,
            format!("{}: {}", event.vm_name, describe(&event)),
        ));
    }
    events
}

/// Some life of two machines: 13 events.
async fn live(client: &Client) {
    for name in ["a", "b"] {
        client.create(request(name)).await.unwrap();
        client.stop(name).await.unwrap();
        client.system_reset(name).await.unwrap();
        client.cont(name).await.unwrap();
    }
    client.delete("a", true).await.unwrap();
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn every_watcher_gets_every_event_in_order() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    // Before, in the middle and after; on connections of their own and on the same one.
    let mut watchers = Vec::new();
    for _ in 0..3 {
        watchers.push(EventReader::new(&daemon.client().await, 0, "").await);
    }
    let driver = tokio::spawn({
        let client = client.clone();
        async move { live(&client).await }
    });
    watchers[0].expect(&["CREATED", "RESUME", "STOP"]).await;
    for _ in 0..3 {
        watchers.push(EventReader::new(&client, 0, "").await);
    }
    soon("the driver", driver).await.unwrap();
    watchers.push(EventReader::new(&client, 0, "").await);
    watchers[0] = EventReader::new(&client, 0, "").await;
    let expected = [
        ("a", "CREATED -> prelaunch"),
        ("a", "RESUME -> running"),
        ("a", "STOP -> paused"),
        (
            "a",
            "RESET guest=false reason=host-qmp-system-reset -> prelaunch",
        ),
        ("a", "RESUME -> running"),
        ("b", "CREATED -> prelaunch"),
        ("b", "RESUME -> running"),
        ("b", "STOP -> paused"),
        (
            "b",
            "RESET guest=false reason=host-qmp-system-reset -> prelaunch",
        ),
        ("b", "RESUME -> running"),
        ("a", "SHUTDOWN guest=false reason=host-qmp-quit -> running"),
        ("a", "ENDED -> shutdown"),
        ("a", "DELETED -> shutdown"),
    ];
    for watcher in &mut watchers {
        let mut own = BTreeMap::new();
        for (seq, (name, event)) in (1..).zip(expected) {
            let got = watcher.next().await;
            assert_eq!((got.seq, got.vm_name.as_str()), (seq, name));
            let line = describe(&got);
            let (kind, state) = event.split_once(" -> ").unwrap();
            assert!(line.starts_with(kind) && line.ends_with(state), "{line}");
            let vm_seq = own.entry(got.vm_id).or_insert(0);
            *vm_seq += 1;
            assert_eq!(got.vm_seq, *vm_seq);
        }
        assert_eq!(own.len(), 2, "two machines");
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn watching_goes_on_from_any_number() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    live(&client).await;
    let all = history(&client, 0, None).await;
    let numbers: Vec<_> = all.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(numbers, (1..=13).collect::<Vec<_>>());
    for after in 0..=13 {
        let rest = &all[usize::try_from(after).unwrap()..];
        assert_eq!(history(&client, after, None).await, rest);
        for name in ["a", "b", "nobody"] {
            let own = |event: &&(u64, String)| event.1.starts_with(&format!("{name}:"));
            let rest: Vec<_> = rest.iter().filter(own).cloned().collect();
            assert_eq!(history(&client, after, Some(name)).await, rest);
        }
        // A stream that goes on.
        let mut events = EventReader::new(&client, after, "b").await;
        let own = rest.iter().filter(|(_, line)| line.starts_with("b:"));
        for (seq, _) in own {
            assert_eq!(events.next().await.seq, *seq);
        }
    }
    let newest = client.stop("b").await.unwrap().seq;
    let mut events = EventReader::new(&client, 13, "b").await;
    events.expect(&["STOP -> paused"]).await;
    assert_eq!((events.last_seq, newest), (14, 14));
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_number_that_is_not_kept_is_refused() {
    let daemon = Daemon::start_with(&["--events-kept", "8"]).await;
    let client = daemon.client().await;
    live(&client).await;
    for after in [0, 4, 14, u64::MAX] {
        for history_only in [false, true] {
            let refusal = refusal(client.watch_events(after, None, history_only).await);
            assert_eq!(refusal.code, Code::OutOfRange, "{after}");
            assert_eq!(refusal.reason, "EVENTS_LOST", "{after}");
            assert_eq!(refusal.metadata["oldest_seq"], "6");
            assert_eq!(refusal.metadata["newest_seq"], "13");
            let lost = refusal.lost().unwrap();
            assert_eq!((lost.oldest_seq, lost.newest_seq), (6, 13));
        }
    }
    let kept: Vec<_> = history(&client, 5, None).await;
    assert_eq!(
        kept.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(),
        [6, 7, 8, 9, 10, 11, 12, 13]
    );
    assert_eq!(history(&client, 13, None).await, []);
    // The way back: list, go on from there.
    let seq = client.list().await.unwrap().seq;
    let mut events = EventReader::new(&client, seq, "").await;
    client.stop("b").await.unwrap();
    events.expect(&["STOP -> paused"]).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_reader_that_is_too_slow_is_told_where_the_gap_is() {
    const EVENTS: u64 = 3000;
    let daemon = Daemon::start_with(&["--events-kept", "8"]).await;
    let client = daemon.client().await;
    client.create(paused("a")).await.unwrap();
    // A connection of its own, with the settings that every client has.
    let mut events = daemon
        .client()
        .await
        .watch_events(0, None, false)
        .await
        .unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().seq, 1);

    for _ in 0..EVENTS {
        client.system_powerdown("a").await.unwrap();
    }
    let newest = EVENTS + 1;
    let mut last = 1;
    let error = loop {
        match soon("events", events.next()).await {
            Ok(Some(event)) => {
                assert_eq!(event.seq, last + 1, "a silent gap");
                last = event.seq;
            }
            Ok(None) => panic!("the stream ended in order after {last}"),
            Err(error) => break error,
        }
    };
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.code, Code::OutOfRange);
    let lost = error.lost().unwrap();
    let (oldest_then, newest_then) = (lost.oldest_seq, lost.newest_seq);
    assert!(
        last + 1 < oldest_then,
        "{last} {oldest_then}: nothing was lost"
    );
    assert_eq!(oldest_then, newest_then - 7);
    assert!(newest_then <= newest);
    let rest = history(&client, newest - 8, None).await;
    assert_eq!(rest.last().unwrap().0, newest);
}

/// The next update, and the number it is true for.
async fn update(stream: &mut VmStream) -> (Update, u64) {
    let response = soon("an update", stream.next()).await.unwrap().unwrap();
    (response.update.unwrap(), response.seq)
}

/// The next update is one of `name`; it comes with its status.
async fn changed(stream: &mut VmStream, name: &str) -> v1::VmStatus {
    match update(stream).await {
        (Update::Vm(vm), seq) => {
            assert_eq!(vm.name, name);
            let status = vm.status.unwrap();
            assert!(status.seq <= seq, "{status:?} {seq}");
            status
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn watching_machines_shows_them_as_they_are_and_as_they_change() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let mut empty = client.watch_vms(None).await.unwrap();
    assert_eq!(update(&mut empty).await, (Update::Synced(Synced {}), 0));
    client.create(paused("a")).await.unwrap();
    let b = client.create(paused("b")).await.unwrap();

    let mut all = client.watch_vms(None).await.unwrap();
    let mut names = Vec::new();
    let synced_at = loop {
        match update(&mut all).await {
            (Update::Vm(vm), _) => names.push(vm.name),
            (Update::Synced(_), seq) => break seq,
            other => panic!("{other:?}"),
        }
    };
    names.sort();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(
        synced_at, b.seq,
        "the snapshot's number is where events go on"
    );
    let mut only_b = client.watch_vms(Some("b")).await.unwrap();
    changed(&mut only_b, "b").await;
    assert_eq!(update(&mut only_b).await.0, Update::Synced(Synced {}));

    let cont = client.cont("a").await.unwrap();
    let status = changed(&mut all, "a").await;
    assert_eq!(
        (status.seq, status.state()),
        (cont.seq, v1::RunState::Running)
    );
    client.stop("a").await.unwrap();
    assert_eq!(changed(&mut all, "a").await.state(), v1::RunState::Paused);
    // Repeats change nothing: the next is b's.
    client.stop("a").await.unwrap();
    client.cont("b").await.unwrap();
    assert_eq!(changed(&mut all, "b").await.state(), v1::RunState::Running);
    assert_eq!(
        changed(&mut only_b, "b").await.state(),
        v1::RunState::Running
    );

    // What comes of one call may come as one update or as two.
    let end = client.quit("b").await.unwrap();
    for stream in [&mut all, &mut only_b] {
        while changed(stream, "b").await.seq < end.seq {}
    }
    let last = client.delete("b", false).await.unwrap();
    for stream in [&mut all, &mut only_b] {
        let (deleted, seq) = update(stream).await;
        let Update::Deleted(vm) = deleted else {
            panic!("{deleted:?}");
        };
        assert_eq!((vm.id, seq), (b.vm.clone().unwrap().id, last));
        assert_eq!(vm.status.unwrap().phase(), VmPhase::Ended);
    }
    // Another of the name is another machine.
    let again = client.create(paused("b")).await.unwrap().vm.unwrap();
    let (created, _) = update(&mut only_b).await;
    assert_eq!(created, Update::Vm(again));
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn watching_machines_converges_under_a_burst_of_changes() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let mut stream = client.watch_vms(None).await.unwrap();
    update(&mut stream).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let client = client.clone();
        tasks.spawn(async move {
            let name = format!("vm{n}");
            client.create(request(&name)).await.unwrap();
            for _ in 0..50 {
                client.stop(&name).await.unwrap();
                client.cont(&name).await.unwrap();
            }
            if n % 2 == 0 {
                client.delete(&name, true).await.unwrap();
            } else {
                client.stop(&name).await.unwrap();
            }
        });
    }
    let mut known: BTreeMap<String, v1::Vm> = BTreeMap::new();
    let (mut last, mut newest) = (0, None);
    // Read side by side with the changes, until the number that they came to.
    while newest.is_none_or(|newest| last < newest) {
        let (change, seq) = tokio::select! {
            change = update(&mut stream) => change,
            done = tasks.join_next(), if newest.is_none() => {
                match done {
                    Some(done) => done.unwrap(),
                    None => newest = Some(client.list().await.unwrap().seq),
                }
                continue;
            }
        };
        assert!(seq >= last, "numbers go back: {seq} after {last}");
        last = seq;
        match change {
            Update::Vm(vm) => {
                let seq = |vm: &v1::Vm| vm.status.as_ref().unwrap().seq;
                let new = seq(&vm);
                let old = known.insert(vm.name.clone(), vm);
                assert!(old.is_none_or(|old| seq(&old) < new), "told twice");
            }
            Update::Deleted(vm) => drop(known.remove(&vm.name).unwrap()),
            Update::Synced(_) => panic!("synced twice"),
        }
    }
    let known: Vec<_> = known.into_values().collect();
    assert_eq!(known, client.list().await.unwrap().vms);
    assert_eq!(known.len(), 4);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn readers_that_go_away_leave_nothing() {
    let daemon = Daemon::start().await;
    let guest = daemon.guest("a").await;
    let before = daemon.resources();
    for _ in 0..2 {
        let mut readers = Vec::new();
        for _ in 0..25 {
            let client = daemon.client().await;
            let mut events = client.watch_events(0, None, false).await.unwrap();
            events.next().await.unwrap().unwrap();
            let mut vms = client.watch_vms(None).await.unwrap();
            vms.next().await.unwrap().unwrap();
            let (input, mut output) = client.console("a", false).await.unwrap();
            output.next().await.unwrap().unwrap();
            readers.push((client, events, vms, input, output));
        }
        let during = daemon.resources();
        assert!(during.descriptors >= before.descriptors + 25, "{during:?}");
        drop(readers);
        // One descriptor is the asking connection's.
        daemon
            .settle("the connections are closed", |now| {
                now.descriptors <= before.descriptors + 1 && now.threads <= before.threads
            })
            .await;
    }
    // Nor does one reader that never reads hold up another.
    let mut narrow = daemon.raw_client().await;
    let all = v1::WatchEventsRequest::default();
    let unread = narrow.watch_events(all).await.unwrap();
    let mut events = EventReader::new(&guest.client, guest.events.last_seq, "a").await;
    for _ in 0..500 {
        guest.client.system_powerdown("a").await.unwrap();
        events.expect(&["POWERDOWN"]).await;
    }
    drop(unread);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn streams_end_with_the_daemon_and_lose_nothing() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    let client = daemon.client().await;
    client.create(paused("b")).await.unwrap();
    let mut vms = client.watch_vms(None).await.unwrap();
    let mut b = EventReader::new(&client, 0, "b").await;
    let mut all = EventReader::new(&client, 0, "").await;
    all.expect(&["CREATED", "RESUME", "CREATED"]).await;
    daemon.signal(Signal::SIGTERM);
    let events = &[
        "SHUTDOWN guest=false reason=host-signal -> running",
        "ENDED kind=shutdown cause=host-signal exit_status=0 -> shutdown",
    ];
    guest.events.expect(events).await;
    guest.events.expect_end().await;
    guest.console.expect_end().await;
    let events = &[
        "CREATED -> prelaunch",
        "SHUTDOWN guest=false reason=host-signal -> prelaunch",
        "ENDED kind=shutdown cause=host-signal exit_status=0 -> prelaunch",
    ];
    b.expect(events).await;
    b.expect_end().await;
    assert_eq!(all.rest().await.len(), 4);
    assert_eq!(all.last_seq, 7);
    let mut last = BTreeMap::new();
    while let Some(response) = soon("updates", vms.next()).await.unwrap() {
        if let Some(Update::Vm(vm)) = response.update {
            last.insert(vm.name.clone(), vm.status.unwrap().phase());
        }
    }
    let ended = ["a", "b"].map(|name| (name.to_owned(), VmPhase::Ended));
    assert_eq!(last, BTreeMap::from(ended));
    let (status, log) = daemon.ended().await;
    assert!(status.success(), "{status}\n{log}");
}
