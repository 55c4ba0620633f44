//! What is counted of machines and of calls, and what `GetVm` tells.

use std::{fs::File, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;
use tonic::codegen::http;
use tower::ServiceExt;
use vmctl::{Client, v1};
use vmd_tests::{Daemon, refusal, request, request_with, soon};

use super::scrape::Watched;

/// A request for a machine with one disk.
fn with_disk(name: &str, path: &std::path::Path) -> v1::CreateVmRequest {
    File::create(path).unwrap().set_len(64 << 10).unwrap();
    let disk = v1::Disk {
        path: path.to_str().unwrap().to_owned(),
        ..Default::default()
    };
    v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(16 << 20),
            disks: vec![disk],
            ..Default::default()
        }),
        ..request(name)
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn what_a_machine_does_is_counted_and_gone_with_it() {
    let watched = Watched::start().await;
    let daemon = &watched.daemon;
    let mut guest = daemon.guest_of(with_disk("a", &daemon.path("disk"))).await;
    guest.letter("D").await;
    guest.console.expect("d").await;
    let vm = [("vm", "a")];
    let of = |more: &[(&'static str, &'static str)]| [&vm, more].concat();
    let running = watched.scrape().await;
    assert_eq!(
        running.value(
            "vmd_vm_state",
            &of(&[("state", "running"), ("phase", "live")])
        ),
        1.0
    );
    assert_eq!(
        running.value("vmd_machines", &[("phase", "live"), ("state", "running")]),
        1.0
    );
    assert_eq!(running.value("vmd_vm_vcpus", &vm), 1.0);
    assert_eq!(
        running.value("vmd_vm_memory_bytes", &vm),
        f64::from(16 << 20)
    );
    let disk = of(&[("disk", "d0")]);
    assert_eq!(running.value("vmd_vm_disk_writes_total", &disk), 1.0);
    assert_eq!(
        running.value("vmd_vm_disk_written_bytes_total", &disk),
        512.0
    );
    assert_eq!(running.value("vmd_vm_disk_reads_total", &disk), 0.0);
    assert_eq!(running.value("vmd_vm_disk_errors_total", &disk), 0.0);
    // Each letter is an exit at least.
    let exits = running.value("vmd_vm_exits_total", &of(&[("kind", "io")]));
    assert!(exits > 3.0, "{exits}");
    assert_eq!(running.value("vmd_vm_pause_seconds_count", &vm), 0.0);
    assert_eq!(running.value("vmd_vm_resume_seconds_count", &vm), 1.0);

    guest.serves(Client::stop, &["STOP"]).await;
    // Stopped already: not another pause.
    guest.serves(Client::stop, &[]).await;
    guest.serves(Client::cont, &["RESUME"]).await;
    guest.serves(Client::system_reset, &["RESET"]).await;
    guest.console.expect("!").await;
    guest.letter("T").await;
    guest.events.expect(&["RESET"]).await;
    guest.console.expect("!").await;
    let after = watched.scrape().await;
    for (event, count) in [
        ("CREATED", 1.0),
        ("STOP", 1.0),
        ("RESUME", 2.0),
        ("RESET", 2.0),
    ] {
        let labels = of(&[("event", event)]);
        assert_eq!(
            after.value("vmd_vm_events_total", &labels),
            count,
            "{event}"
        );
    }
    assert_eq!(after.value("vmd_events_total", &[]), 6.0);
    // The stop and the resets.
    assert_eq!(after.value("vmd_vm_pause_seconds_count", &vm), 3.0);
    assert_eq!(after.value("vmd_vm_resume_seconds_count", &vm), 4.0);
    assert_eq!(
        after.value("vmd_vm_exits_total", &of(&[("kind", "shutdown")])),
        1.0
    );
    assert!(after.value("vmd_vm_exits_total", &of(&[("kind", "io")])) > exits);
    let times = |state| after.get("vmd_vm_state_seconds_total", &of(&[("state", state)]));
    assert!(
        times("running") > Some(0.0) && times("paused") > Some(0.0),
        "{}",
        after.text
    );
    assert_eq!(times("suspended"), None);

    guest.serves(Client::quit, &["SHUTDOWN", "ENDED"]).await;
    let ended = watched.scrape().await;
    let labels = of(&[("kind", "shutdown"), ("cause", "host-qmp-quit")]);
    assert_eq!(ended.value("vmd_vm_end", &labels), 1.0);
    assert_eq!(ended.value("vmd_vm_state", &of(&[("phase", "ended")])), 1.0);
    assert_eq!(ended.value("vmd_vm_disk_writes_total", &disk), 1.0);
    assert_eq!(ended.value("vmd_machines", &[("phase", "ended")]), 1.0);

    soon("delete", guest.client.delete("a", false))
        .await
        .unwrap();
    let gone = watched.scrape().await;
    assert!(!gone.text.contains("vm=\"a\""), "{}", gone.text);
    assert_eq!(gone.value("vmd_machines", &[]), 0.0);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn calls_are_counted_by_their_codes() {
    let watched = Watched::start().await;
    let client = watched.daemon.client().await;
    soon("create", client.create(request("a"))).await.unwrap();
    let again = soon("create", client.create(request("a"))).await;
    assert_eq!(refusal(again).reason, "VM_EXISTS");
    for _ in 0..3 {
        soon("stop", client.stop("a")).await.unwrap();
    }
    soon("stop", client.stop("nobody")).await.unwrap_err();
    soon("wakeup", client.system_wakeup("a")).await.unwrap_err();
    let stream = soon("watch", client.watch_events(0, None, false))
        .await
        .unwrap();
    let lost = soon("watch", client.watch_events(99, None, false)).await;
    assert_eq!(refusal(lost).reason, "EVENTS_LOST");
    let made_up = http::Request::post("http://vmd/vmd.v1.VmService/MadeUp");
    let made_up = made_up.body(tonic::body::Body::empty()).unwrap();
    let call = watched.daemon.channel().await.oneshot(made_up);
    soon("a made-up call", call).await.unwrap();

    let seen = watched.scrape().await;
    let calls = |method, code| {
        let labels = [("method", method), ("code", code)];
        seen.value("vmd_grpc_calls_total", &labels)
    };
    assert_eq!(calls("CreateVm", "OK"), 1.0);
    assert_eq!(calls("CreateVm", "ALREADY_EXISTS"), 1.0);
    assert_eq!(calls("Stop", "OK"), 3.0);
    assert_eq!(calls("Stop", "NOT_FOUND"), 1.0);
    assert_eq!(calls("SystemWakeup", "FAILED_PRECONDITION"), 1.0);
    assert_eq!(calls("WatchEvents", "OUT_OF_RANGE"), 1.0);
    assert_eq!(calls("other", "UNIMPLEMENTED"), 1.0);
    assert_eq!(calls("Quit", "OK"), 0.0);
    assert!(!seen.text.contains("MadeUp"));
    assert_eq!(
        seen.value("vmd_grpc_answer_seconds_count", &[("method", "Stop")]),
        4.0
    );
    assert_eq!(
        seen.value("vmd_grpc_open_calls", &[("method", "WatchEvents")]),
        1.0
    );
    assert_eq!(seen.value("vmd_event_readers", &[]), 1.0);
    assert_eq!(seen.value("vmd_build_info", &[]), 1.0);
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_threads",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        assert!(seen.value(name, &[]) > 0.0, "{name}");
    }

    // A reader that goes away has cancelled its call.
    drop(stream);
    let cancelled = async {
        loop {
            let seen = watched.scrape().await;
            let labels = [("method", "WatchEvents"), ("code", "CANCELLED")];
            if seen.value("vmd_grpc_calls_total", &labels) == 1.0
                && seen.value("vmd_event_readers", &[]) == 0.0
            {
                assert_eq!(
                    seen.value("vmd_grpc_open_calls", &[("method", "WatchEvents")]),
                    0.0
                );
                return;
            }
        }
    };
    soon("the reader's end", cancelled).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn log_lines_tell_the_machine_and_the_call_that_they_are_of() {
    let daemon = Daemon::start_logging("info,vmd::metrics=debug", &[]).await;
    let guest = daemon.guest("a").await;
    soon("stop", guest.client.stop("a")).await.unwrap();
    soon("stop", guest.client.stop("nobody")).await.unwrap_err();
    drop(guest);
    daemon.signal(Signal::SIGTERM);
    let (_, log) = daemon.ended().await;
    for text in [
        "call{method=CreateVm vm=a}: vmd::metrics::calls: a call has ended code=Ok",
        "call{method=Stop vm=a}: vmd::metrics::calls: a call has ended code=Ok",
        "call{method=Stop vm=nobody}: vmd::metrics::calls: a call has ended code=NotFound",
        // The machine outlives the call that made it.
        " INFO machine{vm=a}: vmd::vm::actor: RESUME",
    ] {
        assert!(log.contains(text), "no {text}:\n{log}");
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn status_tells_times_exits_and_the_end_of_the_console() {
    let watched = Watched::start().await;
    let daemon = &watched.daemon;
    let mut guest = daemon.guest_of(request_with("a", "panic=pause")).await;
    guest.send("hello").await;
    guest.console.expect("hello").await;
    guest.serves(Client::stop, &["STOP"]).await;
    let (vm, stats) = soon("get", guest.client.get_with_stats("a")).await.unwrap();
    assert_eq!(vm.name, "a");
    let states: Vec<_> = stats.state_times.iter().map(v1::StateTime::state).collect();
    let expected = [
        v1::RunState::Paused,
        v1::RunState::Prelaunch,
        v1::RunState::Running,
    ];
    assert_eq!(states, expected);
    assert!(stats.state_times.iter().all(|time| time.nanos > 0));
    let age = vm.create_time.unwrap();
    let age = std::time::SystemTime::try_from(age)
        .unwrap()
        .elapsed()
        .unwrap();
    let sum: u64 = stats.state_times.iter().map(|time| time.nanos).sum();
    assert!(Duration::from_nanos(sum) <= age + Duration::from_secs(1));
    // What the stop did does not count: the guest wrote a letter.
    assert_eq!(stats.last_exits, [v1::ExitKind::Io as i32]);
    assert_eq!(stats.console_tail, "!hello");

    let json = daemon.vmctl(&["-o", "json", "status", "a"]).await;
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["state"], "paused");
    assert!(json["uptime"]["running"].as_u64() > Some(0), "{json}");
    assert_eq!(json["last_exit"], serde_json::json!(["io"]));
    assert_eq!(json["console_tail"], "!hello");
    let text = daemon.vmctl(&["status", "a"]).await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("\nexits:     io\nconsole:   !hello\n"),
        "{text}"
    );

    // It stays when the machine ends, and its time stands still.
    guest.serves(Client::quit, &["SHUTDOWN", "ENDED"]).await;
    let (_, ended) = soon("get", guest.client.get_with_stats("a")).await.unwrap();
    assert_eq!(ended.console_tail, "!hello");
    let (_, later) = soon("get", guest.client.get_with_stats("a")).await.unwrap();
    assert_eq!(later, ended);
}
