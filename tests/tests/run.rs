//! `vmctl run`: a machine that lives as long as the command, and an exit code that says how it ended.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    fs::File,
    io::Write,
    process::{Output, Stdio},
};

use nix::{
    pty::openpty,
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
};
use vmd_tests::{Daemon, EventReader, binary, soon};

/// A `vmctl run` that goes on. It is killed when this is dropped.
struct Run {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    errors: BufReader<ChildStderr>,
}

impl Run {
    /// Starts it, with pipes.
    fn start(daemon: &Daemon, arguments: &[&str]) -> Self {
        Self::start_on(daemon, arguments, Stdio::piped())
    }

    fn start_on(daemon: &Daemon, arguments: &[&str], stdin: Stdio) -> Self {
        let mut child = Command::new(binary("vmctl"))
            .arg("--server")
            .arg(daemon.endpoint().to_string())
            .args(arguments)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take(),
            output: child.stdout.take().unwrap(),
            errors: BufReader::new(child.stderr.take().unwrap()),
            child,
        }
    }

    /// Types letters.
    async fn types(&mut self, letters: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(letters.as_bytes()).await.unwrap();
    }

    /// Expects that the next bytes on stdout are exactly `text`.
    async fn prints(&mut self, text: &str) {
        let mut bytes = vec![0; text.len()];
        let read = self.output.read_exact(&mut bytes);
        soon("output", read).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), text);
    }

    /// Expects that the next line on stderr is this, in vmctl's name.
    async fn says(&mut self, text: &str) {
        let mut line = String::new();
        soon("a line", self.errors.read_line(&mut line))
            .await
            .unwrap();
        assert_eq!(line, format!("vmctl: {text}\n"));
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Waits for its end: the exit code, and what it printed and said since the last of it was read.
    async fn ends(mut self) -> (i32, String, String) {
        let (mut output, mut errors) = (Vec::new(), String::new());
        let all = async {
            let (read, said, status) = tokio::join!(
                self.output.read_to_end(&mut output),
                self.errors.read_to_string(&mut errors),
                self.child.wait(),
            );
            read.unwrap();
            said.unwrap();
            status.unwrap().code().unwrap()
        };
        let code = soon("the end of vmctl run", all).await;
        (code, String::from_utf8(output).unwrap(), errors)
    }

    /// Expects that it ends like this.
    async fn ends_with(self, code: i32, output: &str, line: &str) {
        let expected = (code, output.to_owned(), format!("vmctl: {line}\n"));
        assert_eq!(self.ends().await, expected);
    }
}

/// No machine is left.
async fn nothing_is_left(daemon: &Daemon) {
    let vms = daemon.client().await.list().await.unwrap().vms;
    assert_eq!(vms, []);
}

async fn vmctl(daemon: &Daemon, arguments: &[&str]) -> Output {
    let output = daemon.vmctl(arguments).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_exit_code_says_how_the_guest_ended() {
    let daemon = Daemon::start().await;
    let runs = [
        ("O", "", 0, "has ended: guest-shutdown"),
        ("4", "", 0, "has ended: guest-shutdown"),
        ("P", "", 10, "has ended: guest-panic"),
        ("P", "panic=exit-failure", 10, "has ended: guest-panic"),
        ("W", "watchdog=poweroff", 11, "has ended: watchdog"),
        (
            "I",
            "",
            12,
            "is in state internal-error: KVM cannot go on with its guest",
        ),
        ("R", "reboot=shutdown", 14, "has ended: guest-reset"),
        ("T", "reboot=shutdown", 14, "has ended: guest-reset"),
    ];
    let mut started = Vec::new();
    for (number, (letter, action, ..)) in runs.iter().enumerate() {
        let name = format!("vm-{number}");
        let mut arguments = vec!["run", &name];
        if !action.is_empty() {
            arguments.extend(["--action", action]);
        }
        let mut run = Run::start(&daemon, &arguments);
        // Typed before the guest is there, with the end of the input right behind.
        run.types(letter).await;
        run.input = None;
        started.push((name, run));
    }
    for ((letter, _, code, line), (name, run)) in runs.into_iter().zip(started) {
        let line = format!("'{name}' {line}; removed");
        run.ends_with(code, &format!("!{letter}"), &line).await;
    }
    nothing_is_left(&daemon).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn every_byte_before_the_end_is_printed() {
    let daemon = Daemon::start().await;
    let mut run = Run::start(&daemon, &["run", "a"]);
    let text = "abcdefghij".repeat(2000);
    run.types(&text).await;
    run.types("O").await;
    let line = "'a' has ended: guest-shutdown; removed";
    run.ends_with(0, &format!("!{text}O"), line).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn its_events_are_those_of_a_machine_from_creation_to_removal() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let mut events = EventReader::new(&client, 0, "").await;
    let mut run = Run::start(&daemon, &["run", "--memory", "16M", "--vcpus", "2"]);
    run.prints("!").await;
    let vms = client.list().await.unwrap().vms;
    let definition = vms[0].definition.clone().unwrap();
    assert_eq!(definition.memory_bytes, Some(16 << 20));
    assert_eq!(definition.vcpus, Some(2));
    let name = vms[0].name.clone();
    assert!(name.starts_with("run-"), "{name}");
    // A reset empties the serial port: not both at once.
    run.types("R").await;
    run.prints("R!").await;
    run.types("O").await;
    let line = format!("'{name}' has ended: guest-shutdown; removed");
    run.ends_with(0, "O", &line).await;
    let all = [
        "CREATED -> prelaunch",
        "RESUME -> running",
        "RESET guest=true reason=guest-reset -> running",
        "SHUTDOWN guest=true reason=guest-shutdown -> running",
        "ENDED kind=shutdown cause=guest-shutdown -> shutdown",
        "DELETED -> shutdown",
    ];
    events.expect(&all).await;
    nothing_is_left(&daemon).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_guest_that_stops_is_told_and_waited_for() {
    let daemon = Daemon::start().await;
    let action = "panic=pause,shutdown=pause";
    let mut run = Run::start(&daemon, &["run", "a", "--action", action]);
    run.types("P").await;
    run.prints("!P").await;
    run.says("'a' is in state guest-panicked: `vmctl cont a` goes on")
        .await;
    vmctl(&daemon, &["cont", "a"]).await;
    run.types("S").await;
    run.prints("S").await;
    run.says("'a' is in state suspended: `vmctl wakeup a` wakes it")
        .await;
    vmctl(&daemon, &["wakeup", "a"]).await;
    run.prints("!").await;
    vmctl(&daemon, &["stop", "a"]).await;
    run.says("'a' is in state paused: `vmctl cont a` goes on")
        .await;
    vmctl(&daemon, &["cont", "a"]).await;
    run.types("O").await;
    run.says("'a' is in state shutdown: `vmctl reset a`, and then `vmctl cont a`, starts it again")
        .await;
    vmctl(&daemon, &["reset", "a"]).await;
    run.says("'a' is in state prelaunch: `vmctl cont a` goes on")
        .await;
    vmctl(&daemon, &["cont", "a"]).await;
    run.prints("O!").await;
    // The end of the input is not the end of the guest.
    run.input = None;
    vmctl(&daemon, &["quit", "a"]).await;
    run.ends_with(13, "", "'a' has ended: host-qmp-quit; removed")
        .await;
    nothing_is_left(&daemon).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn removed_by_somebody_else_it_has_ended_too() {
    let daemon = Daemon::start().await;
    let mut run = Run::start(&daemon, &["run", "a"]);
    run.prints("!").await;
    vmctl(&daemon, &["rm", "--force", "a"]).await;
    // Another machine of the name is not this command's.
    vmctl(&daemon, &["create", "a", "--paused"]).await;
    run.ends_with(13, "", "'a' has ended: host-qmp-quit; removed")
        .await;
    let vms = daemon.client().await.list().await.unwrap().vms;
    assert_eq!(vms.len(), 1);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn signals_quit_and_remove_the_machine() {
    let daemon = Daemon::start().await;
    for (signal, code) in [
        (Signal::SIGHUP, 129),
        (Signal::SIGINT, 130),
        (Signal::SIGQUIT, 131),
        (Signal::SIGTERM, 143),
    ] {
        let mut run = Run::start(&daemon, &["run", "a"]);
        run.prints("!").await;
        // To the process and to its group, as `timeout` does.
        run.signal(signal);
        run.signal(signal);
        let line = format!("signal {}: quit 'a'; removed", signal as i32);
        run.ends_with(code, "", &line).await;
        nothing_is_left(&daemon).await;
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_closed_stdout_quits_and_removes_the_machine() {
    let daemon = Daemon::start().await;
    let mut run = Run::start(&daemon, &["run", "a"]);
    run.prints("!").await;
    run.types("x").await;
    let Run {
        mut child,
        output,
        mut errors,
        mut input,
    } = run;
    drop(output);
    // Whatever of it the pipe took before, the guest echoes the second one into nothing.
    let _ = input.as_mut().unwrap().write_all(b"y").await;
    let status = soon("the end of vmctl run", child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(141));
    let mut said = String::new();
    errors.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "vmctl: stdout is closed: quit 'a'; removed\n");
    nothing_is_left(&daemon).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_daemon_that_goes_away_is_told() {
    let daemon = Daemon::start().await;
    let mut run = Run::start(&daemon, &["run", "a"]);
    run.prints("!").await;
    daemon.signal(Signal::SIGKILL);
    let (code, output, errors) = run.ends().await;
    assert_eq!((code, output.as_str()), (3, ""));
    assert!(
        errors.starts_with("vmctl: cannot reach the daemon at ") && errors.lines().count() == 1,
        "{errors}"
    );

    let daemon = Daemon::start().await;
    let mut run = Run::start(&daemon, &["run", "a"]);
    run.prints("!").await;
    daemon.signal(Signal::SIGTERM);
    run.ends_with(13, "", "'a' has ended: host-signal; removed")
        .await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn what_is_refused_leaves_everything_as_it_was() {
    let daemon = Daemon::start().await;
    vmctl(&daemon, &["create", "a"]).await;
    let output = daemon.vmctl(&["run", "a"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = "vmctl: cannot create 'a': name: a machine called 'a' exists. Take another name, or remove that machine \
                with `vmctl rm --force a`.\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), text);
    let output = daemon.vmctl(&["run", "--kernel", "/no/such/file"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("--kernel: ") && text.contains("/no/such/file"),
        "{text}"
    );
    for arguments in [&["run", "--paused"][..], &["run", "b", "c"]] {
        let output = daemon.vmctl(arguments).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    let vms = daemon.client().await.list().await.unwrap().vms;
    assert_eq!(vms.len(), 1);
    assert!(vms[0].status.clone().unwrap().running);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn json_is_the_last_line_of_what_it_says() {
    let daemon = Daemon::start().await;
    let arguments = ["-o", "json", "run", "a", "--action", "panic=exit-failure"];
    let mut run = Run::start(&daemon, &arguments);
    run.types("P").await;
    let (code, output, errors) = run.ends().await;
    assert_eq!((code, output.as_str()), (10, "!P"));
    let object: Value = serde_json::from_str(&errors).unwrap();
    let end = json!({
        "kind": "shutdown", "cause": "guest-panic", "exit_status": 1, "failure": null,
        "time": object["end"]["time"],
    });
    let expected = json!({
        "name": "a", "id": object["id"], "reason": "guest-panic", "end": end, "removed": true, "exit_code": 10,
    });
    assert_eq!(object, expected);

    let mut run = Run::start(&daemon, &["-o", "json", "run", "b", "--keep"]);
    run.prints("!").await;
    run.signal(Signal::SIGTERM);
    let (code, _, errors) = run.ends().await;
    let object: Value = serde_json::from_str(&errors).unwrap();
    let expected = json!({
        "name": "b", "id": object["id"], "reason": "signal", "end": null, "removed": false, "exit_code": 143,
    });
    assert_eq!((code, object), (143, expected));
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn keep_leaves_the_machine_as_it_is() {
    let daemon = Daemon::start().await;
    let mut run = Run::start(&daemon, &["run", "running", "--keep"]);
    run.prints("!").await;
    run.signal(Signal::SIGTERM);
    let line = "signal 15: left 'running'; `vmctl rm --force running` removes it";
    run.ends_with(143, "", line).await;
    let mut run = Run::start(&daemon, &["run", "stuck", "--keep"]);
    run.types("I").await;
    let line = "'stuck' is in state internal-error: KVM cannot go on with its guest; `vmctl rm --force stuck` removes it";
    run.ends_with(12, "!I", line).await;
    let mut run = Run::start(&daemon, &["run", "over", "--keep"]);
    run.types("O").await;
    let line = "'over' has ended: guest-shutdown; `vmctl rm --force over` removes it";
    run.ends_with(0, "!O", line).await;

    let printed = vmctl(&daemon, &["ls"]).await.stdout;
    let printed = String::from_utf8(printed).unwrap();
    let shown: Vec<Vec<_>> = printed
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().take(3).collect())
        .collect();
    assert_eq!(
        shown,
        [
            ["over", "ended", "shutdown"],
            ["running", "live", "running"],
            ["stuck", "live", "internal-error"],
        ]
    );
}

/// A `vmctl run` on a terminal of its own.
struct Session {
    run: Run,
    keyboard: File,
    terminal: File,
}

impl Session {
    /// Starts it, and waits until it says `first` and the guest has started.
    async fn start(daemon: &Daemon, arguments: &[&str], first: &str) -> Self {
        let pty = openpty(None, None).unwrap();
        let terminal = File::from(pty.slave);
        let stdin = Stdio::from(terminal.try_clone().unwrap());
        let mut session = Self {
            run: Run::start_on(daemon, arguments, stdin),
            keyboard: File::from(pty.master),
            terminal,
        };
        session.run.says(first).await;
        session.run.prints("!").await;
        assert!(!session.is_cooked());
        session
    }

    fn types(&mut self, letters: &[u8]) {
        self.keyboard.write_all(letters).unwrap();
    }

    fn is_cooked(&self) -> bool {
        let flags = tcgetattr(&self.terminal).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Waits for its end, which gives the terminal back: the exit code and what it said.
    async fn ends(self) -> (i32, String) {
        let Self {
            run,
            keyboard,
            terminal,
        } = self;
        let (code, _, errors) = run.ends().await;
        let session = tcgetattr(&terminal).unwrap().local_flags;
        assert!(session.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));
        drop(keyboard);
        (code, errors)
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn on_a_terminal_every_key_but_one_is_the_guests() {
    let daemon = Daemon::start().await;
    let first = "running 'a', Ctrl-] quits and removes it";
    let arguments = ["run", "a", "--action", "panic=pause"];
    let mut session = Session::start(&daemon, &arguments, first).await;
    session.types(b"x\x03\r");
    session.run.prints("x\x03\r").await;
    session.types(b"P");
    session.run.prints("P").await;
    let mut lines = String::new();
    for _ in 0..2 {
        let read = session.run.errors.read_line(&mut lines);
        soon("a line", read).await.unwrap();
    }
    assert_eq!(
        lines,
        "\r\nvmctl: 'a' is in state guest-panicked: `vmctl cont a` goes on\r\n"
    );
    session.types(b"\x1d");
    assert_eq!(
        session.ends().await,
        (0, "\nvmctl: quit 'a'; removed\n".to_owned())
    );
    nothing_is_left(&daemon).await;

    let mut session = Session::start(&daemon, &["run", "a"], first).await;
    session.types(b"O");
    let line = "\nvmctl: 'a' has ended: guest-shutdown; removed\n";
    assert_eq!(session.ends().await, (0, line.to_owned()));

    let first = "running 'a', Ctrl-] leaves it running";
    let mut session = Session::start(&daemon, &["run", "a", "--keep"], first).await;
    session.types(b"\x1d");
    let line = "\nvmctl: left 'a'; `vmctl rm --force a` removes it\n";
    assert_eq!(session.ends().await, (0, line.to_owned()));
    let vms = daemon.client().await.list().await.unwrap().vms;
    assert!(vms[0].status.clone().unwrap().running);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_terminal_is_given_back_when_the_daemon_or_a_signal_ends_it() {
    let daemon = Daemon::start().await;
    let first = "running 'a', Ctrl-] quits and removes it";
    let session = Session::start(&daemon, &["run", "a"], first).await;
    session.run.signal(Signal::SIGTERM);
    let line = "\nvmctl: signal 15: quit 'a'; removed\n";
    assert_eq!(session.ends().await, (143, line.to_owned()));
    nothing_is_left(&daemon).await;

    let session = Session::start(&daemon, &["run", "a"], first).await;
    daemon.signal(Signal::SIGKILL);
    let (code, errors) = session.ends().await;
    assert_eq!(code, 3);
    assert!(
        errors.starts_with("\nvmctl: cannot reach the daemon at "),
        "{errors}"
    );
}
