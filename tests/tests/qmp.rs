//! The QMP door: what QEMU's monitor protocol promises its clients, on a real socket.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::net::UnixStream;
use vmctl::{Client, v1};
use vmd_tests::{Daemon, EventReader, Guest, Qmp, actions, binary, in_thread, soon};

/// A running probe guest with a QMP socket.
async fn guest(daemon: &Daemon, its_actions: &str) -> (Guest, PathBuf) {
    let socket = daemon.path("qmp");
    let guest = daemon
        .guest_of(v1::CreateVmRequest {
            name: "a".to_owned(),
            definition: Some(v1::VmDefinition {
                actions: Some(actions(its_actions)),
                qmp_socket: socket.to_str().unwrap().to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        })
        .await;
    (guest, socket)
}

fn event(name: &str) -> Value {
    json!({ "event": name })
}

fn shutdown(reason: &str) -> Value {
    let guest = reason.starts_with("guest");
    json!({"event": "SHUTDOWN", "data": {"guest": guest, "reason": reason}})
}

fn done() -> Value {
    json!({ "return": {} })
}

fn error(class: &str, desc: &str) -> Value {
    json!({ "error": { "class": class, "desc": desc } })
}

fn line(text: &str) -> Value {
    json!({"execute": "human-monitor-command", "arguments": {"command-line": text}})
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_client_negotiates_before_anything_else() {
    let daemon = Daemon::start().await;
    let (mut guest, socket) = guest(&daemon, "").await;
    let mut qmp = Qmp::connect(&socket).await;
    let greeting = qmp.next().await;
    assert_eq!(
        greeting["QMP"]["version"]["qemu"],
        json!({"major": 7, "minor": 2, "micro": 22})
    );
    assert_eq!(greeting["QMP"]["capabilities"], json!(["oob"]));

    // No event comes before, and none later of what was before.
    guest.serves(Client::stop, &["STOP"]).await;
    let early = error(
        "CommandNotFound",
        "Expecting capabilities negotiation with 'qmp_capabilities'",
    );
    for command in ["query-status", "stop", "nonsense"] {
        assert_eq!(qmp.run(command).await, early, "{command}");
    }
    for (arguments, desc) in [
        (
            json!({"enable": ["foo"]}),
            "Parameter 'null' does not accept value 'foo'",
        ),
        (
            json!({"enable": [1]}),
            "Invalid parameter type for 'enable[0]', expected: string",
        ),
        (
            json!({"enable": 1}),
            "Invalid parameter type for 'enable', expected: array",
        ),
        (json!({"foo": 1}), "Parameter 'foo' is unexpected"),
    ] {
        let request = json!({"execute": "qmp_capabilities", "arguments": arguments});
        let reply = qmp.execute(&request).await;
        assert_eq!(reply, error("GenericError", desc));
    }
    let negotiate = json!({"execute": "qmp_capabilities", "arguments": {"enable": []}});
    assert_eq!(qmp.execute(&negotiate).await, done());
    assert_eq!(
        qmp.execute(&negotiate).await,
        error(
            "CommandNotFound",
            "Capabilities negotiation is already complete, command ignored"
        )
    );
    qmp.send(r#"{"execute":"cont"}"#).await;
    qmp.expect([event("RESUME"), done()]).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn every_command_answers_with_its_events_before() {
    let daemon = Daemon::start().await;
    let (guest, socket) = guest(&daemon, "").await;
    let mut qmp = Qmp::open(&socket).await;

    let names = qmp.run("query-commands").await;
    let names: Vec<&str> = names["return"]
        .as_array()
        .unwrap()
        .iter()
        .map(|command| command["name"].as_str().unwrap())
        .collect();
    for name in ["stop", "query-status", "qmp_capabilities", "quit"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }

    assert_eq!(
        qmp.run("query-name").await,
        json!({"return": {"name": "a"}})
    );
    let version = qmp.run("query-version").await;
    assert_eq!(version["return"]["qemu"]["major"], 7);
    assert!(version["return"]["package"].is_string());
    assert_eq!(
        qmp.run("query-current-machine").await,
        json!({"return": {"wakeup-suspend-support": true}})
    );
    let cpus = qmp.run("query-cpus-fast").await;
    assert_eq!(cpus["return"][0]["cpu-index"], 0);
    let thread = cpus["return"][0]["thread-id"].as_i64().unwrap();
    let task = format!("/proc/{}/task/{thread}", daemon.pid());
    assert!(
        fs::exists(&task).unwrap(),
        "a thread of the daemon's: {task}"
    );
    // Gone from QEMU 7.2.
    assert_eq!(
        qmp.run("query-events").await,
        error(
            "CommandNotFound",
            "The command query-events has not been found"
        )
    );

    let reset =
        json!({"event": "RESET", "data": {"guest": false, "reason": "host-qmp-system-reset"}});
    for (command, events) in [
        ("stop", vec![event("STOP")]),
        ("stop", vec![]),
        ("inject-nmi", vec![]),
        ("cont", vec![event("RESUME")]),
        ("system_powerdown", vec![event("POWERDOWN")]),
        ("system_reset", vec![reset]),
        ("set-action", vec![]),
    ] {
        qmp.send(json!({ "execute": command }).to_string()).await;
        qmp.expect(events.into_iter().chain([done()])).await;
    }
    guest.send("S").await;
    qmp.expect([event("SUSPEND")]).await;
    let status = qmp.execute(&line("info status")).await;
    assert_eq!(
        status,
        json!({"return": "VM status: paused (suspended)\r\n"})
    );
    qmp.send(r#"{"execute":"system_wakeup"}"#).await;
    qmp.expect([event("WAKEUP"), done()]).await;

    let request = json!({"execute": "watchdog-set-action", "arguments": {"action": "none"}});
    assert_eq!(qmp.execute(&request).await, done());
    for (text, answer) in [
        ("info status", "VM status: running\r\n"),
        ("", ""),
        ("savefoo a", "unknown command: 'savefoo'\r\n"),
        (
            "o /b 0x80 z",
            "invalid char 'z' in expression\r\nTry \"help o\" for more information\r\n",
        ),
    ] {
        assert_eq!(qmp.execute(&line(text)).await, json!({"return": answer}));
    }
    let mut on_cpu = line("info status");
    on_cpu["arguments"]["cpu-index"] = json!(0);
    assert!(qmp.execute(&on_cpu).await["return"].is_string());
    on_cpu["arguments"]["cpu-index"] = json!("0");
    assert_eq!(
        qmp.execute(&on_cpu).await,
        error(
            "GenericError",
            "Invalid parameter type for 'cpu-index', expected: integer"
        )
    );
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_id_comes_back_whatever_it_is_and_whatever_comes_of_the_request() {
    let daemon = Daemon::start().await;
    let (_guest, socket) = guest(&daemon, "").await;
    let mut qmp = Qmp::open(&socket).await;
    for id in [
        json!("text"),
        json!(7),
        json!(-1.5),
        json!(null),
        json!([1, {"a": "}"}]),
        json!({"nested": {"id": true}}),
    ] {
        for request in [
            json!({"execute": "query-name"}),
            json!({"execute": "no-such-command"}),
            json!({"execute": "stop", "arguments": {"foo": 1}}),
            json!({"execute": 1}),
            json!({}),
        ] {
            let mut request = request;
            request["id"] = id.clone();
            let reply = qmp.execute(&request).await;
            assert_eq!(reply.get("id"), Some(&id), "{request}: {reply}");
        }
    }
    let reply = qmp.execute(&json!({"execute": "query-name"})).await;
    assert_eq!(reply.get("id"), None);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn what_is_no_request_is_refused_and_the_next_is_served() {
    let daemon = Daemon::start().await;
    let (_guest, socket) = guest(&daemon, "").await;
    let mut qmp = Qmp::open(&socket).await;
    for (request, desc) in [
        ("[]", "QMP input must be a JSON object"),
        ("1 ", "QMP input must be a JSON object"),
        ("{}", "QMP input lacks member 'execute'"),
        (
            r#"{"execute":[]}"#,
            "QMP input member 'execute' must be a string",
        ),
        (
            r#"{"execute":"stop","arguments":[]}"#,
            "QMP input member 'arguments' must be an object",
        ),
        (
            r#"{"execute":"stop","foo":1}"#,
            "QMP input member 'foo' is unexpected",
        ),
        (
            r#"{"exec-oob":"stop"}"#,
            "QMP input member 'exec-oob' is unexpected",
        ),
    ] {
        qmp.send(format!("{request}\n")).await;
        qmp.expect([error("GenericError", desc)]).await;
    }
    let garbage: [&[u8]; 5] = [
        b"{\"execute\": stop}\n",
        b"}\n",
        b"\xff\xfe\x80\n",
        b"{\"execute\": \"st\xffop\"}\n",
        b"\0\0\0\n",
    ];
    for garbage in garbage {
        qmp.send(garbage).await;
        let reply = qmp.next().await;
        let desc = reply["error"]["desc"].as_str().unwrap();
        assert!(desc.starts_with("JSON parse error"), "{desc}");
        // What is left of it may be more of the same.
        qmp.send(r#"{"execute":"query-name","id":"after"}"#).await;
        while qmp.next().await.get("id").is_none() {}
    }
    // Too deep; and what is left of that still open. A byte that is in no text ends it, as with QEMU.
    qmp.send([vec![b'['; 50_000], b"\xff\n".to_vec()].concat())
        .await;
    qmp.expect([error("GenericError", "JSON nesting depth limit exceeded")])
        .await;
    qmp.send(r#"{"execute":"query-name","id":"after"}"#).await;
    while qmp.next().await.get("id").is_none() {}
    assert_eq!(qmp.state().await, "running");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_request_may_come_byte_by_byte_and_many_in_one_piece() {
    let daemon = Daemon::start().await;
    let (_guest, socket) = guest(&daemon, "").await;
    let mut qmp = Qmp::open(&socket).await;
    for byte in br#"{ "execute" : "stop" , "id" : "}{" }"# {
        qmp.send([*byte]).await;
    }
    qmp.expect([event("STOP"), json!({"return": {}, "id": "}{"})])
        .await;
    // As people type it, and as QEMU takes it.
    qmp.send(r#"{'execute': 'query-name', 'id': 'it\'s "a"'}{"execute":'stop'}"#)
        .await;
    qmp.expect([json!({"return": {"name": "a"}, "id": "it's \"a\""}), done()])
        .await;

    let mut requests = String::new();
    let mut answers = Vec::new();
    for n in 0..200 {
        let (command, happens) = if n % 2 == 0 {
            ("cont", "RESUME")
        } else {
            ("stop", "STOP")
        };
        requests += &json!({"execute": command, "id": n}).to_string();
        answers.extend([event(happens), json!({"return": {}, "id": n})]);
    }
    qmp.send(requests).await;
    qmp.expect(answers).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_request_without_end_is_refused_and_costs_nobody_else_anything() {
    let daemon = Daemon::start().await;
    let (_guest, socket) = guest(&daemon, "").await;
    let mut other = Qmp::open(&socket).await;
    let mut qmp = Qmp::open(&socket).await;
    qmp.send(r#"{"execute":""#).await;
    for _ in 0..17 {
        qmp.send([b'x'; 64 << 10]).await;
    }
    qmp.expect([error("GenericError", "JSON token size limit exceeded")])
        .await;
    // The rest of it is skipped.
    qmp.send([b'x'; 64 << 10]).await;
    qmp.send("\n").await;
    assert_eq!(qmp.state().await, "running");
    assert_eq!(other.state().await, "running");
    // Just below the limit it is a request like any other.
    let long = "x".repeat(1_000_000);
    let reply = other.run(&long).await;
    assert_eq!(
        reply["error"]["desc"],
        format!("The command {long} has not been found")
    );
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn all_clients_get_all_events_in_the_same_order() {
    let daemon = Daemon::start().await;
    let (guest, socket) = guest(&daemon, "").await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Qmp::open(&socket).await);
    }
    // Each client causes some, all at the same time; so does the guest.
    let mut running = tokio::task::JoinSet::new();
    for mut qmp in clients {
        running.spawn(async move {
            let mut events = Vec::new();
            for command in ["stop", "system_powerdown", "cont", "system_reset"] {
                qmp.send(json!({"execute": command, "id": command}).to_string())
                    .await;
                loop {
                    let message = qmp.next().await;
                    if message.get("event").is_none() {
                        break;
                    }
                    events.push(message);
                }
            }
            (qmp, events)
        });
    }
    let mut clients = running.join_all().await;
    soon("quit", guest.client.quit("a")).await.unwrap();
    for (qmp, events) in &mut clients {
        while let Some(message) = soon("an event", qmp.receive()).await.unwrap() {
            events.push(message);
        }
    }
    let (_, first) = &clients[0];
    assert_eq!(first.last().unwrap()["event"], "SHUTDOWN");
    assert!(first.len() > 16, "{first:?}");
    for (_, events) in &clients {
        assert_eq!(events, first);
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn watchdog_comes_at_most_once_a_second_and_the_latest_is_kept() {
    let daemon = Daemon::start().await;
    let (mut guest, socket) = guest(&daemon, "watchdog=none").await;
    let mut qmp = Qmp::open(&socket).await;
    let mut times = Vec::new();
    for _ in 0..3 {
        // Armed for no time at all.
        assert_eq!(
            qmp.execute(&line("o /b 0x443 0xf")).await,
            json!({"return": ""})
        );
        let event = guest.events.next().await;
        assert!(matches!(event.kind, Some(v1::event::Kind::Watchdog(_))));
        times.push(event.time.unwrap());
    }
    // In microseconds.
    let micros = |since_1970: Duration| i64::try_from(since_1970.as_micros()).unwrap();
    let times: Vec<i64> = times
        .iter()
        .map(|time| time.seconds * 1_000_000 + i64::from(time.nanos / 1000))
        .collect();
    let time_of = |message: &Value| {
        let at = &message["timestamp"];
        at["seconds"].as_i64().unwrap() * 1_000_000 + at["microseconds"].as_i64().unwrap()
    };
    // One that comes in the window is in it, too: there is one for all monitors of the machine.
    let mut late = Qmp::open(&socket).await;
    let opened = micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
    // The first was seen while the commands were executed, or comes now.
    loop {
        let message = qmp.next().await;
        assert_eq!(message["event"], "WATCHDOG");
        let time = time_of(&message);
        if time == times[2] {
            break;
        }
        assert!(
            time == times[0] || times[2] - times[0] > 1_000_000,
            "{message} is neither the first nor the latest of {times:?}"
        );
    }
    qmp.send(r#"{"execute":"system_powerdown"}"#).await;
    qmp.expect([event("POWERDOWN"), done()]).await;
    let mut message = late.next().await;
    if opened < times[0] + 1_000_000 || message["event"] == "WATCHDOG" {
        assert_eq!(time_of(&message), times[2], "{message}, not of {times:?}");
        message = late.next().await;
    }
    assert_eq!(message["event"], "POWERDOWN");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_port_write_reaches_the_device_outside_any_vcpu() {
    let daemon = Daemon::start().await;
    let (guest, socket) = guest(&daemon, "panic=exit-failure,shutdown=pause").await;
    let mut qmp = Qmp::open(&socket).await;
    let written = || json!({"return": ""});
    // Recording 100: the stop is not deferred, so it comes before SHUTDOWN.
    let panicked = json!({"event": "GUEST_PANICKED", "data": {"action": "poweroff"}});
    qmp.send(line("o /b 0x505 1").to_string()).await;
    qmp.expect([
        panicked.clone(),
        event("STOP"),
        shutdown("guest-panic"),
        written(),
    ])
    .await;
    assert_eq!(qmp.state().await, "guest-panicked");
    // 103: of a machine that is stopped, the event alone.
    let action = json!({"execute": "set-action", "arguments": {"panic": "pause"}});
    assert_eq!(qmp.execute(&action).await, done());
    qmp.send(line("o /b 0x505 1").to_string()).await;
    qmp.expect([
        json!({"event": "GUEST_PANICKED", "data": {"action": "pause"}}),
        written(),
    ])
    .await;
    assert_eq!(qmp.state().await, "guest-panicked");
    // 101: QEMU aborts here.
    qmp.send(line("o /w 0x604 0x2400").to_string()).await;
    qmp.expect([written()]).await;
    // 102: SHUTDOWN, and the state stays.
    qmp.send(line("o /w 0x604 0x2000").to_string()).await;
    qmp.expect([shutdown("guest-shutdown"), written()]).await;
    assert_eq!(qmp.state().await, "guest-panicked");
    // Where nothing is, nothing happens; what is no line of the monitor's is said so.
    qmp.send(line("o /l 0x1234 5").to_string()).await;
    qmp.expect([written()]).await;
    for bad in ["o", "o /b 1", "o /q 1 2", "o /b here 2"] {
        let reply = qmp.execute(&line(bad)).await;
        assert_ne!(reply, written(), "{bad}");
        assert!(reply["return"].is_string(), "{bad}: {reply}");
    }
    qmp.send(line("o /b 0xcf9 6").to_string()).await;
    qmp.expect([
        json!({"event": "RESET", "data": {"guest": true, "reason": "guest-reset"}}),
        written(),
    ])
    .await;
    assert_eq!(guest.state().await, "prelaunch");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_client_that_never_reads_holds_nobody_up() {
    let daemon = Daemon::start().await;
    let (mut guest, socket) = guest(&daemon, "").await;
    let deaf = UnixStream::connect(&socket).await.unwrap();
    let requests = r#"{"execute":"qmp_capabilities"}"#.to_owned()
        + &r#"{"execute":"query-commands"}"#.repeat(20_000);
    // Until nothing more is taken: its replies fill the way back, and then its requests are not read any more.
    let mut rest = requests.as_bytes();
    while !rest.is_empty() {
        soon("the daemon reads", async {
            let writable = tokio::time::timeout(std::time::Duration::from_secs(1), deaf.writable());
            match writable.await {
                Ok(ready) => {
                    ready.unwrap();
                    if let Ok(count) = deaf.try_write(rest) {
                        rest = &rest[count..];
                    }
                }
                Err(_) => rest = &[],
            }
        })
        .await;
    }
    let mut qmp = Qmp::open(&socket).await;
    for _ in 0..50 {
        qmp.send(r#"{"execute":"stop"}{"execute":"cont"}"#).await;
        qmp.expect([event("STOP"), done(), event("RESUME"), done()])
            .await;
    }
    guest.is_alive().await;
    qmp.send(r#"{"execute":"quit"}"#).await;
    qmp.expect([shutdown("host-qmp-quit"), done()]).await;
    qmp.expect_end().await;
    // What was sent to it before is still there, and then the end.
    soon("the end of the deaf client's connection", async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            deaf.readable().await.unwrap();
            match deaf.try_read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
                _ => {}
            }
        }
    })
    .await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_socket_is_private_goes_with_the_machine_and_comes_with_a_new_start() {
    let daemon = Daemon::start().await;
    let (guest, socket) = guest(&daemon, "").await;
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut qmp = Qmp::open(&socket).await;
    let mut other = Qmp::open(&socket).await;
    let mut silent = Qmp::connect(&socket).await;
    silent.next().await;
    qmp.send(r#"{"execute":"quit","id":1}{"execute":"system_reset"}"#)
        .await;
    qmp.expect([shutdown("host-qmp-quit"), json!({"return": {}, "id": 1})])
        .await;
    qmp.expect_end().await;
    other.expect([shutdown("host-qmp-quit")]).await;
    other.expect_end().await;
    silent.expect_end().await;
    assert!(!fs::exists(&socket).unwrap(), "the socket is left");

    soon("start", guest.client.start("a", false)).await.unwrap();
    let mut again = Qmp::open(&socket).await;
    assert_eq!(again.state().await, "running");
    soon("quit", guest.client.quit("a")).await.unwrap();
    again.expect([shutdown("host-qmp-quit")]).await;
    again.expect_end().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn vmctl_is_a_way_through_two_pipes() {
    let daemon = Daemon::start().await;
    let guest = daemon.guest("a").await;
    let endpoint = daemon.endpoint().to_string();
    let before = guest.status().await.seq;
    let output = in_thread(move || {
        use std::io::Write;
        let mut child = Command::new(binary("vmctl"))
            .args(["--server", &endpoint, "qmp", "a"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin
            .write_all(
                br#"{"execute":"qmp_capabilities"}{"execute":"stop","id":"x"}{"execute":"quit"}"#,
            )
            .unwrap();
        // Held open: it is the machine's end that ends it.
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        output
    });
    let output = soon("vmctl qmp", output).await;
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text
        .lines()
        .map(|line| vmd_tests::untimed(serde_json::from_str(line).unwrap()));
    assert!(lines.next().unwrap()["QMP"].is_object());
    let expected = [
        done(),
        event("STOP"),
        json!({"return": {}, "id": "x"}),
        shutdown("host-qmp-quit"),
        done(),
    ];
    assert_eq!(lines.collect::<Vec<_>>(), expected);
    EventReader::new(&guest.client, before, "a")
        .await
        .expect(&["STOP", "SHUTDOWN", "ENDED"])
        .await;
}
