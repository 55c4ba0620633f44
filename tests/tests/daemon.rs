//! The daemon itself: where it listens, what else it answers, and how it ends.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio_stream::StreamExt;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use vmctl::{Client, Endpoint, v1};
use vmd_tests::{Daemon, EventReader, binary, describe, in_thread, refusal, request, soon};

const SIGNALLED: &[&str] = &[
    "SHUTDOWN guest=false reason=host-signal -> running",
    "ENDED kind=shutdown cause=host-signal exit_status=0 -> shutdown",
];

/// Runs `vmd serve` with these arguments, which it refuses: exit code and standard error.
async fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binary("vmd"));
    command
        .arg("serve")
        .args(arguments)
        .env_remove("VMD_LOG")
        .stdin(Stdio::null());
    let output = soon("vmd's end", in_thread(move || command.output()))
        .await
        .unwrap();
    assert!(output.stdout.is_empty(), "{output:?}");
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_signal_ends_all_machines_and_then_the_daemon() {
    // [15, 16]: shutdown=pause does not hold it up.
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let daemon = Daemon::start().await;
        let socket = daemon.path("vmd.sock");
        assert!(socket.exists());
        let mut running = daemon.guest("running").await;
        let mut stubborn = daemon.guest_with("stubborn", "shutdown=pause").await;
        let mut paused = daemon.guest("paused").await;
        paused.serves(Client::stop, &["STOP"]).await;
        let mut ended = daemon.guest("ended").await;
        ended.serves(Client::quit, &["SHUTDOWN", "ENDED"]).await;
        daemon.signal(signal);
        for guest in [&mut running, &mut stubborn] {
            guest.events.expect(SIGNALLED).await;
            guest.events.expect_end().await;
            guest.console.expect_end().await;
        }
        let events = &[
            "SHUTDOWN guest=false reason=host-signal -> paused",
            "ENDED kind=shutdown cause=host-signal exit_status=0 -> paused",
        ];
        paused.events.expect(events).await;
        paused.events.expect_end().await;
        ended.events.expect_end().await;
        let (status, log) = daemon.ended().await;
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!socket.exists(), "its socket is left");
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn with_a_grace_period_the_power_button_comes_first() {
    let daemon = Daemon::start_with(&["--grace", "1"]).await;
    let mut guest = daemon.guest("a").await;
    let client = daemon.client().await;
    daemon.signal(Signal::SIGTERM);
    guest.events.expect(&["POWERDOWN -> running"]).await;
    // It is still served, but makes nothing new.
    guest.is_alive().await;
    let refused = refusal(client.create(request("b")).await);
    assert_eq!(refused.code, tonic::Code::Unavailable);
    assert_eq!(refused.reason, "SHUTTING_DOWN");
    // The guest does not obey.
    guest.events.expect(SIGNALLED).await;
    guest.events.expect_end().await;
    assert_eq!(daemon.ended().await.0.code(), Some(0));
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_grace_period_is_over_when_every_machine_has_ended() {
    // Longer than any test waits.
    let daemon = Daemon::start_with(&["--grace", "3600"]).await;
    let mut guest = daemon.guest("a").await;
    daemon.signal(Signal::SIGTERM);
    guest.events.expect(&["POWERDOWN -> running"]).await;
    guest.letter("O").await;
    let events = &[
        "SHUTDOWN guest=true reason=guest-shutdown -> running",
        "ENDED kind=shutdown cause=guest-shutdown exit_status=0 -> shutdown",
    ];
    guest.events.expect(events).await;
    guest.events.expect_end().await;
    assert_eq!(daemon.ended().await.0.code(), Some(0));
}

/// The next event that is not `event`.
async fn next_but(event: &str, events: &mut EventReader) -> String {
    loop {
        let next = describe(&events.next().await);
        if next != event {
            return next;
        }
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_power_button_is_pressed_again() {
    let arguments = ["--grace", "3600", "--grace-press-interval", "1"];
    let daemon = Daemon::start_with(&arguments).await;
    let mut obeys = daemon.guest("obeys").await;
    let mut never = daemon.guest("never").await;
    daemon.signal(Signal::SIGTERM);
    let press = "POWERDOWN -> running";
    // It heeds the second press.
    obeys.events.expect(&[press, press]).await;
    never.events.expect(&[press, press]).await;
    obeys.send("O").await;
    // There may be more presses, if this test is slow.
    let ended = next_but(press, &mut obeys.events).await;
    assert!(ended.starts_with("SHUTDOWN guest=true"), "{ended}");
    let end = "ENDED kind=shutdown cause=guest-shutdown exit_status=0";
    obeys.events.expect(&[end]).await;
    never.events.expect(&[press]).await;
    // The second signal: no more time.
    daemon.signal(Signal::SIGTERM);
    let ended = next_but(press, &mut never.events).await;
    assert_eq!(ended, SIGNALLED[0]);
    never.events.expect(&SIGNALLED[1..]).await;
    never.events.expect_end().await;
    let (status, log) = daemon.ended().await;
    assert_eq!(status.code(), Some(0), "{log}");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn an_idle_daemon_ends_with_its_clients_connected() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let mut events = EventReader::new(&client, 0, "").await;
    daemon.signal(Signal::SIGINT);
    events.expect_end().await;
    assert_eq!(daemon.ended().await.0.code(), Some(0));
    assert!(client.list().await.is_err());
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn one_daemon_listens_at_a_socket() {
    let daemon = Daemon::start().await;
    let path = daemon.path("vmd.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let endpoint = daemon.endpoint().to_string();
    let text = format!(
        "vmd: cannot listen at {endpoint}: somebody does already; is another vmd running?\n"
    );
    assert_eq!(refused(&["--listen", &endpoint]).await, (Some(1), text));
    daemon.client().await.list().await.unwrap();

    // Killed, it leaves its socket, which the next one replaces.
    let stale = daemon.path("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let other = format!("unix:{}", stale.display());
    let second = Daemon::start_with(&["--listen", &other]).await;
    let client = Client::connect(&other.parse().unwrap()).await.unwrap();
    client.list().await.unwrap();
    second.client().await.list().await.unwrap();
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ended().await.0.code(), Some(0));
    assert!(!stale.exists());

    // What is no socket is not replaced.
    let file = daemon.path("file");
    std::fs::write(&file, "precious").unwrap();
    let (code, text) = refused(&["--listen", &format!("unix:{}", file.display())]).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("cannot listen at unix:"), "{text}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_data_directory_is_one_daemons() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("data/dir");
    let dir = dir.to_str().unwrap();
    let daemon = Daemon::start_with(&["--data-dir", dir]).await;
    let mode = std::fs::metadata(dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let listen = format!("unix:{}", place.path().join("vmd.sock").display());
    let arguments = ["--data-dir", dir, "--listen", &listen];
    let text = format!("vmd: the data directory {dir} is in use by another vmd\n");
    assert_eq!(refused(&arguments).await, (Some(1), text));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.ended().await.0.code(), Some(0));
    let next = Daemon::start_with(&["--data-dir", dir]).await;
    next.client().await.list().await.unwrap();

    let file = place.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    let (code, text) = refused(&["--data-dir", file, "--listen", &listen]).await;
    assert_eq!(code, Some(1));
    assert!(
        text.starts_with(&format!("vmd: the data directory {file}: ")),
        "{text}"
    );
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn tcp_is_for_loopback_alone() {
    // Free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let endpoint: Endpoint = format!("http://{address}").parse().unwrap();
    let daemon = Daemon::start_with(&["--listen", &endpoint.to_string()]).await;
    let mut guest = daemon.guest("a").await;
    let client = soon("TCP", Client::connect(&endpoint)).await.unwrap();
    let mut events = EventReader::new(&client, 0, "a").await;
    events.expect(&["CREATED", "RESUME"]).await;
    client.stop("a").await.unwrap();
    guest.events.expect(&["STOP -> paused"]).await;
    events.expect(&["STOP -> paused"]).await;
    let text = format!(
        "vmd: cannot listen at {endpoint}: somebody does already; is another vmd running?\n"
    );
    assert_eq!(
        refused(&["--listen", &endpoint.to_string()]).await,
        (Some(1), text)
    );

    for address in [
        "http://0.0.0.0:0",
        "http://192.0.2.1:7070",
        "http://[::]:7070",
    ] {
        let (code, text) = refused(&["--listen", address]).await;
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("is not a loopback address"), "{text}");
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn health_is_told() {
    let daemon = Daemon::start().await;
    let mut health = HealthClient::new(daemon.channel().await);
    for service in ["", "vmd.v1.VmService"] {
        let check = HealthCheckRequest {
            service: service.into(),
        };
        let answer = health.check(check).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let check = HealthCheckRequest {
        service: "vmd.v1.Other".into(),
    };
    let unknown = health.check(check).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn reflection_tells_the_interface() {
    let daemon = Daemon::start().await;
    let mut reflection = ServerReflectionClient::new(daemon.channel().await);
    let ask = |message| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "vmd.v1.VmService".into(),
        )),
        ask(MessageRequest::FileContainingSymbol(
            "vmd.v1.NoSuchThing".into(),
        )),
    ];
    let answers = reflection.server_reflection_info(tokio_stream::iter(requests));
    let mut answers = soon("reflection", answers).await.unwrap().into_inner();
    let mut next = async || soon("reflection", answers.next()).await.unwrap();
    let Some(MessageResponse::ListServicesResponse(services)) =
        next().await.unwrap().message_response
    else {
        panic!("no list");
    };
    let mut names: Vec<_> = services
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    names.sort();
    for name in ["grpc.health.v1.Health", "vmd.v1.VmService"] {
        assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
    }
    let Some(MessageResponse::FileDescriptorResponse(file)) =
        next().await.unwrap().message_response
    else {
        panic!("no file");
    };
    let text = String::from_utf8_lossy(&file.file_descriptor_proto.concat()).into_owned();
    for call in ["CreateVm", "WatchEvents", "SystemWakeup"] {
        assert!(text.contains(call), "{call}");
    }
    let unknown = next().await;
    assert!(matches!(
        unknown.map(|answer| answer.message_response),
        Err(_) | Ok(Some(MessageResponse::ErrorResponse(_)))
    ));
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn json_logs_are_an_object_a_line_with_the_machine() {
    let daemon = Daemon::start_with(&["--log-format", "json"]).await;
    let mut guest = daemon.guest("a").await;
    guest.serves(Client::quit, &["SHUTDOWN", "ENDED"]).await;
    daemon.signal(Signal::SIGTERM);
    let (status, log) = daemon.ended().await;
    assert!(status.success());
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for line in &lines {
        assert!(
            line["timestamp"].is_string() && line["level"] == "INFO",
            "{line}"
        );
        assert!(line["fields"]["message"].is_string(), "{line}");
    }
    let events: Vec<_> = lines
        .iter()
        .filter(|line| line["span"]["vm"] == "a")
        .map(|line| line["fields"]["message"].as_str().unwrap())
        .collect();
    assert_eq!(events, ["CREATED", "RESUME", "SHUTDOWN", "ENDED"]);
    let last = lines.last().unwrap();
    assert_eq!(last["fields"]["message"], "ended");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn wrong_usage_exits_2() {
    for arguments in [
        &["--listen", "tcp:1"][..],
        &["--events-kept", "many"],
        &["--log-format", "xml"],
        &["--frobnicate"],
    ] {
        let (code, text) = refused(arguments).await;
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(arguments[0]), "{text}");
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn machines_leave_no_threads_and_descriptors() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    // Once round, so that whatever is made once is there.
    client.create(request("warm")).await.unwrap();
    client.delete("warm", true).await.unwrap();
    let before = daemon.resources();
    for n in 0..20 {
        let name = format!("vm{n}");
        let socket = daemon.path(&name).to_str().unwrap().to_owned();
        let create = v1::CreateVmRequest {
            definition: Some(v1::VmDefinition {
                serial_socket: socket,
                ..Default::default()
            }),
            ..request(&name)
        };
        client.create(create).await.unwrap();
    }
    for n in 0..20 {
        let name = format!("vm{n}");
        client.delete(&name, true).await.unwrap();
        assert!(!daemon.path(&name).exists());
    }
    // One descriptor is the asking connection's.
    daemon
        .settle("the machines are gone", |now| {
            now.descriptors <= before.descriptors + 1
        })
        .await;
}
