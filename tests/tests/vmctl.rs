//! `vmctl`, as a process against a daemon: what it prints and how it exits.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::process::{Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
};
use vmctl::Client;
use vmd_tests::{Daemon, binary, soon};
use vmm::machine::Host;

/// A `vmctl` that goes on, through pipes. It is killed when this is dropped.
fn start(daemon: &Daemon, arguments: &[&str]) -> Child {
    Command::new(binary("vmctl"))
        .arg("--server")
        .arg(daemon.endpoint().to_string())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs it: it succeeds, and says nothing on standard error. What it printed.
async fn done(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.vmctl(arguments).await;
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    assert_eq!(stderr(&output), "", "{arguments:?}");
    stdout(&output)
}

/// The same with `-o json`: the objects it printed.
async fn objects(daemon: &Daemon, arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["-o", "json"], arguments].concat();
    let printed = done(daemon, &arguments).await;
    printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Runs it: it exits with `code`, prints nothing, and says `text` on standard error.
async fn fails(daemon: &Daemon, arguments: &[&str], code: i32, text: &str) {
    let output = daemon.vmctl(arguments).await;
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}: {output:?}"
    );
    assert_eq!(stdout(&output), "", "{arguments:?}");
    assert_eq!(stderr(&output), format!("vmctl: {text}\n"), "{arguments:?}");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn each_command_says_what_it_left() {
    let daemon = Daemon::start().await;
    for (arguments, line) in [
        (&["create", "a", "--paused"][..], "a: prelaunch, event 1"),
        (&["cont", "a"], "a: running, event 2"),
        (&["cont", "a"], "a: running, event 2"),
        (&["stop", "a"], "a: paused, event 3"),
        (&["reset", "a"], "a: prelaunch, event 4"),
        (&["powerdown", "a"], "a: prelaunch, event 5"),
        (&["nmi", "a"], "a: prelaunch, event 5"),
        (
            &["set-action", "a", "panic=pause,reboot=shutdown"],
            "a: prelaunch, event 5",
        ),
        (&["quit", "a"], "a: ended (host-qmp-quit, exit 0), event 7"),
        (&["quit", "a"], "a: ended (host-qmp-quit, exit 0), event 7"),
        (&["start", "a", "--paused"], "a: prelaunch, event 8"),
        (
            &["create", "b", "--action", "shutdown=pause"],
            "b: running, event 10",
        ),
        (
            &["stop", "a", "b"],
            "a: prelaunch, event 8\nb: paused, event 11",
        ),
        (
            &["rm", "--force", "a", "b"],
            "a: removed, event 14\nb: removed, event 17",
        ),
    ] {
        assert_eq!(
            done(&daemon, arguments).await,
            format!("{line}\n"),
            "{arguments:?}"
        );
    }
    assert_eq!(done(&daemon, &["ls"]).await.lines().count(), 1, "headings");

    let mut guest = daemon.guest("c").await;
    guest.types("S", &["SUSPEND -> suspended"]).await;
    assert_eq!(
        done(&daemon, &["wakeup", "c"]).await,
        "c: running, event 21\n"
    );
    guest.console.expect("!").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_no_exits_1_and_says_what_to_do() {
    let daemon = Daemon::start().await;
    done(&daemon, &["create", "a", "--action", "shutdown=pause"]).await;
    done(&daemon, &["create", "gone", "--paused"]).await;
    done(&daemon, &["quit", "gone"]).await;
    let unknown = "there is no machine called 'nobody'. `vmctl ls` shows the machines there are.";
    for (command, doing) in [
        ("status", "read"),
        ("cont", "continue"),
        ("stop", "stop"),
        ("reset", "reset"),
        ("powerdown", "power down"),
        ("wakeup", "wake"),
        ("nmi", "send an NMI to"),
        ("quit", "quit"),
        ("start", "start"),
        ("rm", "remove"),
    ] {
        let text = format!("cannot {doing} 'nobody': {unknown}");
        fails(&daemon, &[command, "nobody"], 1, &text).await;
    }
    let text = format!("cannot use the console of 'nobody': {unknown}");
    fails(&daemon, &["console", "nobody"], 1, &text).await;
    for (arguments, text) in [
        (
            &["create", "a"][..],
            "cannot create 'a': name: a machine called 'a' exists. Take another name, or remove that machine with `vmctl rm \
             --force a`.",
        ),
        (
            &["wakeup", "a"],
            "cannot wake 'a': Unable to wake up: guest is not in suspended state",
        ),
        (
            &["rm", "a"],
            "cannot remove 'a': machine 'a' has not ended. End it with `vmctl quit a`, or remove it at once with `vmctl rm \
             --force a`.",
        ),
        (
            &["stop", "gone"],
            "cannot stop 'gone': machine 'gone' has ended. `vmctl start gone` builds it anew, `vmctl rm gone` removes it.",
        ),
        (
            &["create", "A"],
            "cannot create 'A': name: a name has 1 to 63 of the characters a-z, 0-9, '-' and '.', and begins and ends with \
             a letter or a digit",
        ),
        (
            &["create", "b", "--vcpus", "65"],
            "cannot create 'b': --vcpus: 65: a machine has 1 to 64 vCPUs on this host",
        ),
        (
            &["create", "b", "--memory", "4097"],
            "cannot create 'b': --memory: 4097 bytes: guest memory must be a multiple of 4096 bytes, at \
             least 1 MiB",
        ),
        (
            &["create", "b", "--vcpus", "2", "--pin", "2=0"],
            "cannot create 'b': --pin: there is no vCPU 2: the machine has 2, counted from 0",
        ),
        (
            &["create", "b", "--cpu-template", "/no/such/file"],
            "cannot create 'b': --cpu-template: /no/such/file: No such file or directory (os error 2)",
        ),
        (
            &["create", "b", "--firmware", "/no/such/file"],
            "cannot create 'b': --firmware: /no/such/file: No such file or directory (os error 2)",
        ),
    ] {
        fails(&daemon, arguments, 1, text).await;
    }
    // Of several, those that can are served.
    let output = daemon.vmctl(&["stop", "nobody", "a", "gone"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).starts_with("a: paused, event "),
        "{output:?}"
    );
    assert_eq!(stderr(&output).lines().count(), 2, "{output:?}");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn usage_exits_2_and_an_absent_daemon_3() {
    let daemon = Daemon::start().await;
    for arguments in [
        &["frobnicate"][..],
        &["stop"],
        &["create", "a", "--action", "panic=poweroff"],
        &["wait", "a", "--state", "happy"],
        &["create", "a", "--cpu", "pentium"],
        &["create", "a", "--pin", "0"],
    ] {
        let output = daemon.vmctl(arguments).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    let socket = daemon.path("vmd.sock");
    daemon.signal(Signal::SIGTERM);
    // The socket's directory goes with the daemon: another place where nobody listens.
    let elsewhere = tempfile::tempdir().unwrap();
    let nowhere = elsewhere.path().join("vmd.sock");
    let (status, _) = daemon.ended().await;
    assert!(status.success());
    assert!(!socket.exists());
    let output = Command::new(binary("vmctl"))
        .args(["--server", &format!("unix:{}", nowhere.display()), "ls"])
        .output();
    let output = soon("vmctl", output).await.unwrap();
    assert_eq!(output.status.code(), Some(3));
    let text = format!(
        "vmctl: cannot reach the daemon at unix:{}: No such file or directory. Is it running? Start it with `vmd serve`, or \
         name another with --server.\n",
        nowhere.display()
    );
    assert_eq!(stderr(&output), text);
}

/// A host CPU that a vCPU may be bound to.
fn host_cpu() -> u32 {
    let host = Host::open().unwrap();
    (0..1024).find(|&cpu| host.cpus().contains(cpu)).unwrap()
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn json_has_stable_fields() {
    let daemon = Daemon::start().await;
    let serial = daemon.path("a.sock");
    let socket = format!("unix:{}", serial.display());
    let template = daemon.path("template");
    std::fs::write(&template, "{}").unwrap();
    let cpu = host_cpu();
    let pin = format!("1={cpu}");
    let image = daemon.path("image");
    std::fs::write(&image, [0; 1024]).unwrap();
    let disk = format!("{},readonly,serial=one,rerror=stop", image.display());
    let vsock = format!("cid=3,path={}", daemon.path("vsock").display());
    let port = format!("name=org.x,path={},console", daemon.path("port").display());
    let create = [
        "create",
        "a",
        "--paused",
        "--memory",
        "16M",
        "--vcpus",
        "2",
        "--serial",
        &socket,
        "--action",
        "panic=pause",
        "--cpu",
        "portable",
        "--cpu-template",
        template.to_str().unwrap(),
        "--pin",
        &pin,
        "--disk",
        &disk,
        "--rng",
        "--vsock",
        &vsock,
        "--console-port",
        &port,
        "--balloon",
        "size=8M,stats=5,free-page-reporting",
        "--virtio-transport",
        "pci",
    ];
    let created = objects(&daemon, &create).await;
    let actions =
        json!({"reboot": "reset", "shutdown": "poweroff", "panic": "pause", "watchdog": "reset"});
    let expected = json!({
        "name": "a", "id": created[0]["id"], "state": "prelaunch", "running": false, "phase": "live", "seq": 1,
        "vm_seq": 1, "labels": {}, "etag": format!("{}.0", created[0]["id"].as_str().unwrap()),
        "memory_bytes": 16 << 20, "vcpus": 2, "firmware": null, "kernel": null,
        "initrd": null, "cmdline": null, "serial_socket": serial,
        "qmp_socket": null, "cpu_model": "portable", "cpu_template": template,
        "cpu_pins": [{"vcpu": 1, "host_cpus": [cpu]}], "cpu_weight": 100, "cpu_limit_millis": null, "rng": true,
        "vsock": {"cid": 3, "path": daemon.path("vsock")},
        "console_ports": [{"name": "org.x", "path": daemon.path("port"), "console": true}],
        "balloon": {"size_bytes": 8 << 20, "stats_interval_seconds": 5, "deflate_on_oom": false,
                    "free_page_reporting": true},
        "virtio_transport": "pci",
        "disks": [{"path": image, "read_only": true, "serial": "one", "rerror": "stop", "werror": "enospc",
                   "format": null, "queues": 1, "aio": "auto", "rate_limit": null}],
        "nets": [],
        "create_time": created[0]["create_time"], "actions": actions, "end": null,
        "restart": null, "restarts": 0, "next_start_time": null, "start_time": created[0]["start_time"],
    });
    assert_eq!(created, [expected]);
    assert!(created[0]["id"].is_string() && created[0]["create_time"].is_string());
    let mut status = objects(&daemon, &["status", "a"]).await;
    let fields = status[0].as_object_mut().unwrap();
    let uptime = fields.remove("uptime").unwrap();
    assert!(uptime["prelaunch"].as_u64() > Some(0), "{uptime}");
    assert_eq!(fields.remove("last_exit").unwrap(), json!([null, null]));
    assert!(fields.remove("cpu_time_nanos").unwrap().is_u64());
    assert_eq!(fields.remove("console_tail").unwrap(), "");
    assert_eq!(status, created);
    assert_eq!(objects(&daemon, &["ls"]).await, created);

    let resumed = json!({
        "name": "a", "state": "running", "running": true, "phase": "live", "seq": 2, "vm_seq": 2, "actions": actions,
        "end": null,
    });
    assert_eq!(objects(&daemon, &["cont", "a"]).await, [resumed]);
    let ended = objects(&daemon, &["quit", "a"]).await;
    let time = ended[0]["end"]["time"].clone();
    assert!(time.is_string());
    let end = json!({"kind": "shutdown", "cause": "host-qmp-quit", "exit_status": 0, "failure": null, "time": time});
    assert_eq!(ended[0]["end"], end);
    assert_eq!(
        (&ended[0]["phase"], &ended[0]["running"]),
        (&json!("ended"), &json!(false))
    );

    let events = objects(&daemon, &["events"]).await;
    let data = [
        ("CREATED", "prelaunch", json!({})),
        ("RESUME", "running", json!({})),
        (
            "SHUTDOWN",
            "running",
            json!({"guest": false, "reason": "host-qmp-quit"}),
        ),
        ("ENDED", "shutdown", end),
    ];
    assert_eq!(events.len(), data.len());
    for (event, (seq, (name, state, data))) in events.iter().zip((1..).zip(data)) {
        let expected = json!({
            "seq": seq, "vm_seq": seq, "time": event["time"], "vm": "a", "vm_id": created[0]["id"], "event": name,
            "state": state, "data": data, "labels": {},
        });
        assert_eq!(*event, expected);
    }
    let removed = json!({"name": "a", "deleted": true, "seq": 5});
    assert_eq!(objects(&daemon, &["rm", "a"]).await, [removed]);
    assert_eq!(objects(&daemon, &["ls"]).await, Vec::<Value>::new());
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn tables_are_for_people() {
    let daemon = Daemon::start().await;
    done(&daemon, &["create", "web", "--memory", "1M", "--paused"]).await;
    done(
        &daemon,
        &["create", "a-longer-name", "--vcpus", "4", "--paused"],
    )
    .await;
    done(&daemon, &["quit", "web"]).await;
    let table = "\
NAME           PHASE  STATE      VCPUS  MEMORY  SEQ  END
a-longer-name  live   prelaunch  4      256M    2    -
web            ended  prelaunch  1      1M      4    host-qmp-quit, exit 0
";
    assert_eq!(done(&daemon, &["ls"]).await, table);
    let status = done(&daemon, &["status", "web"]).await;
    for line in [
        "state:     prelaunch (its last)",
        "firmware:  (built-in probe guest)",
        "cpu:       host",
        "pins:      -",
        "seq:       4 (the machine's own: 3)",
    ] {
        assert!(
            status.lines().any(|shown| shown == line),
            "{line}: {status}"
        );
    }
    let events = done(&daemon, &["events", "web"]).await;
    let words: Vec<Vec<_>> = events
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(words[0], ["SEQ", "TIME", "VM", "EVENT", "DATA", "STATE"]);
    let kinds: Vec<_> = words[1..]
        .iter()
        .map(|line| (line[0], line[2], line[3]))
        .collect();
    assert_eq!(
        kinds,
        [
            ("1", "web", "CREATED"),
            ("3", "web", "SHUTDOWN"),
            ("4", "web", "ENDED")
        ]
    );
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn wait_waits_for_a_state_or_the_end() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    assert_eq!(
        done(&daemon, &["wait", "a", "--state", "running"]).await,
        "a: running, event 2\n"
    );
    let over = "waited for paused in vain: a: running, event 2";
    let wait = ["wait", "a", "--state", "paused", "--timeout", "50ms"];
    fails(&daemon, &wait, 1, over).await;

    let waiting = start(
        &daemon,
        &["-o", "json", "wait", "a", "--state", "suspended"],
    );
    let to_the_end = start(
        &daemon,
        &["wait", "a", "--state", "ended", "--timeout", "60s"],
    );
    let in_vain = start(&daemon, &["wait", "a", "--state", "paused"]);
    guest.types("S", &["SUSPEND -> suspended"]).await;
    let output = soon("wait", waiting.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let vm: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(vm["state"], "suspended");
    guest.serves(Client::quit, &["SHUTDOWN", "ENDED"]).await;
    let output = soon("wait", to_the_end.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        stdout(&output),
        "a: ended (host-qmp-quit, exit 0), event 5\n"
    );
    let output = soon("wait", in_vain.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = "cannot wait for 'a': 'a' has ended, in state suspended.";
    assert!(stderr(&output).contains(text), "{output:?}");
    let text = "cannot wait for 'nobody': there is no machine 'nobody'. `vmctl ls` shows the machines there are.";
    fails(&daemon, &["wait", "nobody", "--state", "ended"], 1, text).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn events_follow_until_the_daemon_ends() {
    let daemon = Daemon::start_with(&["--events-kept", "4"]).await;
    let mut guest = daemon.guest("a").await;
    let mut follower = start(&daemon, &["-o", "json", "events", "--follow"]);
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = soon("a line", lines.next_line()).await.unwrap();
        line.map(|line| serde_json::from_str::<Value>(&line).unwrap()["event"].clone())
    };
    assert_eq!(next().await, Some(json!("CREATED")));
    assert_eq!(next().await, Some(json!("RESUME")));
    guest.serves(Client::stop, &["STOP"]).await;
    assert_eq!(next().await, Some(json!("STOP")));
    guest.serves(Client::cont, &["RESUME"]).await;
    assert_eq!(next().await, Some(json!("RESUME")));
    for _ in 0..3 {
        guest.serves(Client::system_powerdown, &["POWERDOWN"]).await;
        assert_eq!(next().await, Some(json!("POWERDOWN")));
    }

    // What is kept, from the start or from a number on; what is not, and what is not there yet.
    let output = daemon.vmctl(&["-o", "json", "events"]).await;
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output).lines().count(), 4);
    assert_eq!(
        stderr(&output),
        "vmctl: events before 4 are no longer kept: starting there\n"
    );
    let since = objects(&daemon, &["events", "a", "--since", "6"]).await;
    assert_eq!((since.len(), &since[0]["seq"]), (1, &json!(7)));
    let text = "events after 1 are no longer kept: the oldest kept is 4, the newest 7. Go on with `--since 3`, or leave \
                --since out";
    fails(&daemon, &["-o", "json", "events", "--since", "1"], 1, text).await;
    let text = "the daemon has not reached event 8: its newest is 7. If it was started anew, its numbers were too: leave \
                --since out";
    fails(&daemon, &["-o", "json", "events", "--since", "8"], 1, text).await;

    daemon.signal(Signal::SIGTERM);
    assert_eq!(next().await, Some(json!("SHUTDOWN")));
    assert_eq!(next().await, Some(json!("ENDED")));
    assert_eq!(next().await, None);
    let output = soon("vmctl", follower.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_console_goes_through_pipes() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    guest.letter("a").await;
    let mut console = start(&daemon, &["console", "a"]);
    let mut input = console.stdin.take().unwrap();
    let mut output = console.stdout.take().unwrap();
    let mut expect = async |text: &str| {
        let mut bytes = vec![0; text.len()];
        soon("output", output.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), text);
    };
    expect("!a").await;
    input.write_all(b"bcd").await.unwrap();
    expect("bcd").await;
    guest.console.expect("bcd").await;
    // The end of the input is not the end of the output.
    drop(input);
    guest.letter("e").await;
    expect("e").await;

    let mut late = start(&daemon, &["console", "a", "--skip-history"]);
    let mut late_input = late.stdin.take().unwrap();
    late_input.write_all(b"f").await.unwrap();
    drop(late_input);
    guest.console.expect("f").await;
    expect("f").await;
    guest.letter("O").await;
    expect("O").await;
    for (process, text) in [(console, ""), (late, "fO")] {
        let output = soon("vmctl", process.wait_with_output()).await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(stdout(&output), text);
        assert_eq!(
            stderr(&output),
            "vmctl: the daemon closed the console of 'a'\n"
        );
    }
}
