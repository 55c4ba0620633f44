//! `vmctl` as it is used all day, against a daemon: what goes on is followed, and what should be there is made so.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    fs::{self, File},
    io::{Read, Write},
    process::Stdio,
};

use nix::pty::openpty;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
};
use vmd_tests::{Daemon, binary, in_thread, soon};

fn vmctl(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("vmctl"));
    command
        .arg("--server")
        .arg(daemon.endpoint().to_string())
        .args(arguments)
        .env("XDG_STATE_HOME", daemon.path("state"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs it: the exit code, and what it wrote to stdout and stderr.
async fn run(daemon: &Daemon, arguments: &[&str]) -> (i32, String, String) {
    let output = soon("vmctl", vmctl(daemon, arguments).output())
        .await
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Runs it: it succeeds, with nothing on stderr.
async fn done(daemon: &Daemon, arguments: &[&str]) -> String {
    let (code, out, err) = run(daemon, arguments).await;
    assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}: {out}");
    out
}

/// A machine as `-o json status` shows it.
async fn status(daemon: &Daemon, name: &str) -> Value {
    let text = done(daemon, &["-o", "json", "status", name]).await;
    serde_json::from_str(&text).unwrap()
}

/// A `vmctl -o json` that goes on.
struct Follower {
    lines: tokio::io::Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Follower {
    fn start(daemon: &Daemon, arguments: &[&str]) -> Self {
        let mut command = vmctl(daemon, &[&["-o", "json"], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            lines,
            _child: child,
        }
    }

    async fn next(&mut self) -> Value {
        let line = soon("a line", self.lines.next_line()).await.unwrap();
        serde_json::from_str(&line.unwrap()).unwrap()
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_watched_list_has_a_line_for_each_change() {
    let daemon = Daemon::start().await;
    done(&daemon, &["create", "a", "--paused"]).await;
    let mut list = Follower::start(&daemon, &["ls", "--watch"]);
    let seen = |vm: &Value| {
        (
            vm["name"].clone(),
            vm["state"].clone(),
            vm["deleted"].clone(),
        )
    };
    assert_eq!(
        seen(&list.next().await),
        ("a".into(), "prelaunch".into(), false.into())
    );
    done(&daemon, &["cont", "a"]).await;
    assert_eq!(
        seen(&list.next().await),
        ("a".into(), "running".into(), false.into())
    );
    done(&daemon, &["rm", "--force", "a"]).await;
    loop {
        let vm = list.next().await;
        if vm["deleted"] == true {
            assert_eq!(vm["name"], "a");
            break;
        }
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn events_go_on_after_the_last_one_seen() {
    let daemon = Daemon::start_with(&["--events-kept", "4"]).await;
    done(&daemon, &["create", "a"]).await;
    let since_last = ["-o", "json", "events", "--since", "last"];
    let numbers = |text: &str| -> Vec<u64> {
        let events = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.map(|event| event["seq"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(&done(&daemon, &since_last).await), [1, 2]);
    assert_eq!(done(&daemon, &since_last).await, "");
    done(&daemon, &["stop", "a"]).await;
    // That of one machine's events is another number.
    let of_a = [&since_last[..], &["a"]].concat();
    assert_eq!(numbers(&done(&daemon, &of_a).await), [1, 2, 3]);

    let mut follower = Follower::start(&daemon, &["events", "--since", "last", "--follow"]);
    assert_eq!(follower.next().await["seq"], 3);
    done(&daemon, &["cont", "a"]).await;
    assert_eq!(follower.next().await["seq"], 4);
    drop(follower);
    // The number is kept before the command waits for the next event; it may have been killed earlier.
    let again = numbers(&done(&daemon, &since_last).await);
    assert!(again.is_empty() || again == [4], "{again:?}");

    for _ in 0..3 {
        done(&daemon, &["stop", "a"]).await;
        done(&daemon, &["cont", "a"]).await;
    }
    let (code, out, err) = run(&daemon, &since_last).await;
    assert_eq!((code, numbers(&out)), (0, vec![7, 8, 9, 10]));
    assert_eq!(err, "vmctl: events 5 to 6 are lost: starting at event 7\n");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_log_of_a_guest_stays_until_it_is_removed() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    let text = "one\nfive\nfour";
    guest.send(text).await;
    guest.console.expect(text).await;
    let all = "!one\nfive\nfour";
    assert_eq!(done(&daemon, &["logs", "a"]).await, all);
    assert_eq!(
        done(&daemon, &["logs", "a", "--tail", "2"]).await,
        "five\nfour"
    );
    assert_eq!(done(&daemon, &["logs", "a", "--previous"]).await, "");
    let lines = done(&daemon, &["-o", "json", "logs", "a", "-n", "2"]).await;
    assert_eq!(
        lines,
        "{\"name\":\"a\",\"offset\":5,\"line\":\"five\"}\n{\"name\":\"a\",\"offset\":10,\"line\":\"four\"}\n"
    );

    // One that follows ends with the machine.
    let mut follower = vmctl(&daemon, &["logs", "a", "--follow"]);
    let follower = follower.stdout(Stdio::piped()).spawn().unwrap();
    done(&daemon, &["quit", "a"]).await;
    let followed = soon("its end", follower.wait_with_output()).await.unwrap();
    assert_eq!(String::from_utf8(followed.stdout).unwrap(), all);

    assert_eq!(done(&daemon, &["logs", "a"]).await, all);
    done(&daemon, &["start", "a", "--paused"]).await;
    assert_eq!(done(&daemon, &["logs", "a"]).await, "");
    assert_eq!(done(&daemon, &["logs", "a", "--previous"]).await, all);
    done(&daemon, &["rm", "--force", "a"]).await;
    let (code, _, err) = run(&daemon, &["logs", "a"]).await;
    assert_eq!(code, 1);
    assert!(
        err.starts_with("vmctl: cannot read the log of 'a': there is no machine"),
        "{err}"
    );
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_file_is_applied_once() {
    let daemon = Daemon::start().await;
    let file = daemon.path("machines.yaml");
    fs::write(daemon.path("a.img"), vec![0; 1 << 20]).unwrap();
    let text = "
- name: plain
  labels: {env: test}
- name: full
  labels: {env: prod, example.com/tier: web}
  restart: {mode: on-failure, max: 3, backoff: 250ms, max_backoff: 2m}
  memory_bytes: 64M
  vcpus: 2
  cpu_model: portable
  cpu_pins: [{vcpu: 0, host_cpus: [0]}]
  serial_socket: full.serial
  qmp_socket: full.qmp
  virtio_transport: pci
  disks:
  - {path: a.img, read_only: true, serial: a, werror: stop, rate_limit: {bps: 10M}}
  rng: true
  vsock: {cid: 3, path: full.vsock}
  balloon: {stats_interval_seconds: 2}
  console_ports: [{name: org.x, path: full.port}]
  actions: {panic: pause}
  paused: true
";
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let apply = async |more: &[&str]| run(&daemon, &[&["apply", "-f", file], more].concat()).await;
    let (code, out, _) = apply(&["--dry-run"]).await;
    assert_eq!(code, 4);
    assert!(
        out.ends_with("2 to create, 0 to change, 0 to replace, 0 to delete, 0 as they should be\n"),
        "{out}"
    );
    assert_eq!(apply(&[]).await.0, 2, "nobody can be asked");
    assert_eq!(done(&daemon, &["ls"]).await.lines().count(), 1, "headings");
    let (code, out, err) = apply(&["--yes"]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(
        out.contains("plain: running, event") && out.contains("full: prelaunch, event"),
        "{out}"
    );

    let nothing = "0 to create, 0 to change, 0 to replace, 0 to delete, 2 as they should be\n";
    assert_eq!(
        apply(&["--yes"]).await,
        (0, nothing.to_owned(), String::new())
    );

    fs::write(
        file,
        text.replace("panic: pause", "panic: none")
            .replace("plain", "plain\n  vcpus: 2")
            .replace("env: prod", "env: live")
            .replace("max: 3", "max: 4"),
    )
    .unwrap();
    let (code, out, _) = apply(&["--yes"]).await;
    assert_eq!(code, 4, "one is to be replaced");
    assert!(
        out.contains("replace  plain  (built anew: only with --replace)"),
        "{out}"
    );
    assert!(out.contains("actions.panic: pause -> none"), "{out}");
    let vm = status(&daemon, "full").await;
    assert_eq!(vm["actions"]["panic"], "none");
    assert_eq!(
        vm["labels"],
        json!({"env": "live", "example.com/tier": "web"})
    );
    assert_eq!(
        vm["restart"],
        json!({"mode": "on-failure", "max": 4, "backoff": 0.25, "max_backoff": 120.0})
    );
    let table = done(&daemon, &["ls", "--show-labels", "-l", "env=live"]).await;
    assert!(
        table.ends_with("  env=live,example.com/tier=web\n"),
        "{table}"
    );
    done(&daemon, &["create", "extra", "--paused"]).await;
    let (code, out, _) = apply(&["--yes", "--replace", "--prune"]).await;
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("extra: removed, event") && out.contains("vcpus: 1 -> 2"),
        "{out}"
    );
    assert_eq!(
        apply(&["--prune"]).await,
        (0, nothing.to_owned(), String::new())
    );
    let names = done(&daemon, &["ls"]).await;
    assert_eq!(names.lines().count(), 3, "{names}");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn what_has_ended_is_changed_in_place() {
    let daemon = Daemon::start().await;
    let file = daemon.path("machines.yaml");
    let write = |text: &str| fs::write(&file, text).unwrap();
    let named = file.to_str().unwrap();
    let apply = async || done(&daemon, &["apply", "-f", named, "--yes"]).await;
    write("- name: a\n");
    apply().await;
    done(&daemon, &["set-action", "a", "watchdog=pause"]).await;
    done(&daemon, &["quit", "a"]).await;
    write("- {name: a, vcpus: 2, memory_bytes: 64M, labels: {env: x}, actions: {panic: none}}\n");
    let out = apply().await;
    assert!(
        out.contains("0 to create, 1 to change, 0 to replace, 0 to delete, 0 as they should be\n")
            && out.contains("a: ended (host-qmp-quit, exit 0), event"),
        "{out}"
    );
    let nothing = "0 to create, 0 to change, 0 to replace, 0 to delete, 1 as they should be\n";
    assert_eq!(apply().await, nothing);
    done(&daemon, &["start", "a", "--paused"]).await;
    let vm = status(&daemon, "a").await;
    assert_eq!(
        (&vm["vcpus"], &vm["memory_bytes"], &vm["state"]),
        (&json!(2), &json!(64 << 20), &json!("prelaunch"))
    );
    assert_eq!(
        (&vm["actions"]["panic"], &vm["actions"]["watchdog"]),
        (&json!("none"), &json!("reset"))
    );
    assert_eq!(apply().await, nothing, "of the live machine, too");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn what_another_changes_meanwhile_is_not_overwritten() {
    let daemon = Daemon::start().await;
    done(&daemon, &["create", "a", "--paused"]).await;
    let file = daemon.path("machines.yaml");
    let text = "- {name: a, labels: {env: mine}, actions: {panic: none}}\n";
    fs::write(&file, text).unwrap();

    // It has made its plan when it asks.
    let pty = openpty(None, None).unwrap();
    let (mut keyboard, terminal) = (File::from(pty.master), File::from(pty.slave));
    let screen = keyboard.try_clone().unwrap();
    let mut apply = vmctl(&daemon, &["apply", "-f", file.to_str().unwrap()]);
    apply.stdin(terminal.try_clone().unwrap());
    apply.stderr(terminal).stdout(Stdio::piped());
    let apply = apply.spawn().unwrap();
    let (screen, _) = shows(screen, "Make these changes? [y/N] ").await;
    done(&daemon, &["label", "a", "env=theirs"]).await;
    keyboard.write_all(b"y\n").unwrap();
    let (_, said) = shows(screen, "status a` shows it as it is now.").await;
    assert!(
        said.contains("cannot change 'a': machine 'a' has changed"),
        "{said}"
    );
    let output = soon("vmctl", apply.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let vm = status(&daemon, "a").await;
    assert_eq!(vm["labels"], json!({"env": "theirs"}));
    assert_eq!(vm["actions"]["panic"], "shutdown", "all of it or nothing");
}

/// Waits until this is written on a terminal: all that was, until then.
async fn shows(mut screen: File, text: &'static str) -> (File, String) {
    let read = in_thread(move || {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            let mut piece = [0; 256];
            let count = screen.read(&mut piece).unwrap();
            seen.extend_from_slice(&piece[..count]);
        }
        (screen, String::from_utf8(seen).unwrap())
    });
    soon(text, read).await
}

#[tokio::test]
async fn manual_pages_of_both_commands_are_written() {
    let directory = tempfile::tempdir().unwrap();
    for (command, page) in [("vmd", "vmd-serve.1"), ("vmctl", "vmctl-apply.1")] {
        let mut man = std::process::Command::new(binary(command));
        man.arg("man").arg(directory.path());
        let output = soon(command, in_thread(move || man.output()))
            .await
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let page = fs::read_to_string(directory.path().join(page)).unwrap();
        assert!(page.contains(".SH OPTIONS"));
    }
}
