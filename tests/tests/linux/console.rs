//! The console, both ways, through `vmctl console` as a process with pipes.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};
use vmd_tests::{Daemon, EventReader, LINUX_DEADLINE, LinuxHost, binary, soon, within};

use crate::POWERED_OFF;

/// A `vmctl console`. It is killed when this is dropped.
struct Session {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    seen: String,
}

impl Session {
    /// Of machine `a`, from its first byte on.
    fn start(daemon: &Daemon) -> Self {
        let mut process = Command::new(binary("vmctl"))
            .args(["--server", &daemon.endpoint().to_string(), "console", "a"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self {
            process,
            input,
            output,
            seen: String::new(),
        }
    }

    async fn types(&mut self, line: &str) {
        let line = format!("{line}\n");
        let typed = self.input.write_all(line.as_bytes());
        soon("the input", typed).await.unwrap();
    }

    /// Reads up to the line with `text`.
    async fn shows(&mut self, text: &str) {
        loop {
            let what = format!("{text:?}, after {:?}", self.seen);
            let mut line = Vec::new();
            let read = self.output.read_until(b'\n', &mut line);
            let length = within(LINUX_DEADLINE, &what, read).await.unwrap();
            assert_ne!(length, 0, "{what}: the output has ended");
            let line = String::from_utf8_lossy(&line);
            self.seen.push_str(&line);
            if line.contains(text) {
                return;
            }
        }
    }

    /// It ends with its machine.
    async fn ends(mut self) {
        let mut rest = String::new();
        let read = self.output.read_to_string(&mut rest);
        within(LINUX_DEADLINE, "the output's end", read)
            .await
            .unwrap();
        let output = soon("vmctl", self.process.wait_with_output())
            .await
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "vmctl: the daemon closed the console of 'a'\n"
        );
    }
}

/// Creates machine `a` with `vmctl`; its events.
async fn create(host: &LinuxHost, initrd: &str, cmdline: &str) -> EventReader {
    let kernel = host.files().vmlinux.to_str().unwrap();
    let arguments = [
        "create",
        "a",
        "--memory",
        "64M",
        "--kernel",
        kernel,
        "--initrd",
        initrd,
        "--cmdline",
        cmdline,
    ];
    let output = host.daemon.vmctl(&arguments).await;
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "a: running, event 2\n",
        "{output:?}"
    );
    let mut events = EventReader::new(&host.daemon.client().await, 0, "a").await;
    events.expect(&["CREATED", "RESUME"]).await;
    events.patiently(LINUX_DEADLINE)
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn each_line_typed_is_answered() {
    let host = LinuxHost::start().await;
    let initrd = host.files().initramfs.to_str().unwrap();
    let cmdline = "console=ttyS0 quiet act=echo,poweroff";
    let mut events = create(&host, initrd, cmdline).await;
    let mut session = Session::start(&host.daemon);
    session.shows("GUEST-ECHO-READY").await;
    for line in ["hello", "the quick brown fox", "0123456789"] {
        session.types(line).await;
        session.shows(&format!("GUEST-ECHO {line}")).await;
    }
    // Another session sees the same from its start.
    let mut second = Session::start(&host.daemon);
    second.shows("GUEST-UP").await;
    second.shows("GUEST-ECHO hello").await;
    second.shows("GUEST-ECHO 0123456789").await;
    second.types("quit").await;
    for session in [&mut session, &mut second] {
        session.shows("GUEST-ECHO-QUIT").await;
        session.shows("GUEST-ACT poweroff").await;
    }
    events.expect(POWERED_OFF).await;
    session.ends().await;
    second.ends().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_shell_runs_commands_until_it_is_left() {
    let host = LinuxHost::start().await;
    let initrd = host.files().initramfs_busybox.to_str().unwrap();
    let mut events = create(&host, initrd, "console=ttyS0 quiet").await;
    let mut session = Session::start(&host.daemon);
    session.shows("GUEST-UP").await;
    session.types("uname -r").await;
    session.shows("6.1.").await;
    session.types("echo $((6 * 7))").await;
    session.shows("42").await;
    session.types("exit").await;
    events.expect(POWERED_OFF).await;
    session.ends().await;
}
