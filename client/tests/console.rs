//! `vmctl console` on a terminal of its own: the escape key, signals, and the terminal given back.

// Clippy's exception for tests does not see helpers outside of `#[test]` functions.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::Duration,
};

use nix::{
    pty::openpty,
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::Pid,
};
use support::Fake;

/// A session on a pseudoterminal. `keyboard` is the person's side of it.
struct Session {
    child: Child,
    keyboard: File,
    terminal: File,
    _fake: Fake,
}

impl Session {
    /// Starts the command and waits until the terminal is raw.
    fn start(name: &str) -> Self {
        let fake = Fake::start();
        let pty = openpty(None, None).unwrap();
        let terminal = File::from(pty.slave);
        let child = Command::new(env!("CARGO_BIN_EXE_vmctl"))
            .args(["--server", &fake.endpoint().to_string(), "console", name])
            .stdin(terminal.try_clone().unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut session = Self {
            child,
            keyboard: File::from(pty.master),
            terminal,
            _fake: fake,
        };
        while session.is_cooked() {
            assert!(
                session.child.try_wait().unwrap().is_none(),
                "ended before it was connected"
            );
            sleep(Duration::from_millis(5));
        }
        session
    }

    fn is_cooked(&self) -> bool {
        let flags = tcgetattr(&self.terminal).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Waits for the end; answers stdout and stderr.
    fn end(&mut self) -> (ExitStatus, String, String) {
        let status = self.child.wait().unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .unwrap();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        (status, out, err)
    }
}

#[test]
fn the_escape_key_quits_and_gives_the_terminal_back() {
    let mut session = Session::start("a");
    // Ctrl-C and the line end are the guest's.
    session.keyboard.write_all(b"x\x03\r").unwrap();
    let mut seen = [0; 6];
    session
        .child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut seen)
        .unwrap();
    assert_eq!(&seen, b"hi x\x03\r");
    session.keyboard.write_all(b"\x1d").unwrap();
    let (status, _, err) = session.end();
    assert!(status.success());
    assert!(session.is_cooked());
    assert!(
        err.contains("Ctrl-] quits") && err.contains("left the console of 'a'"),
        "{err}"
    );
}

#[test]
fn a_signal_quits_and_gives_the_terminal_back() {
    let mut session = Session::start("a");
    kill(
        Pid::from_raw(session.child.id().try_into().unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    let (status, _, err) = session.end();
    assert_eq!(status.code(), Some(128 + 15));
    assert!(session.is_cooked());
    assert!(err.contains("on signal 15"), "{err}");
}

#[test]
fn the_escape_key_works_while_the_guest_reads_nothing() {
    let mut session = Session::start("deaf");
    for _ in 0..200 {
        session.keyboard.write_all(&[b'x'; 2000]).unwrap();
    }
    session.keyboard.write_all(b"\x1d").unwrap();
    let (status, _, _) = session.end();
    assert!(status.success());
    assert!(session.is_cooked());
}
