//! Commands on a terminal of their own: what they draw, and how they leave it.

// Clippy's exception for tests does not see helpers outside of `#[test]` functions.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    pty::{Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use rustix::termios::tcsetwinsize;
use support::Fake;

/// How long anything may take that is not expected to.
const DEADLINE: Duration = Duration::from_secs(60);

const ENTERS: &str = "\x1b[?1049h";
const LEAVES: &str = "\x1b[?1049l";

/// A command on a pseudoterminal of 100 columns and 24 lines. `keyboard` is the person's side of it.
struct Session {
    child: Child,
    keyboard: File,
    terminal: File,
    pieces: Receiver<Vec<u8>>,
    seen: String,
    fake: Option<Fake>,
}

impl Session {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let fake = Fake::start();
        let size = Winsize {
            ws_row: 24,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let terminal = File::from(pty.slave);
        let stdio = || Stdio::from(terminal.try_clone().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_vmctl"))
            .args(["--server", &fake.endpoint().to_string()])
            .args(arguments)
            .env("TERM", "xterm")
            .env_remove("COLUMNS")
            .env_remove("NO_COLOR")
            .envs(environment.iter().copied())
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let keyboard = File::from(pty.master);
        let mut screen = keyboard.try_clone().unwrap();
        let (send, pieces) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = screen.read(&mut buffer) {
                if count == 0 || send.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            keyboard,
            terminal,
            pieces,
            seen: String::new(),
            fake: Some(fake),
        }
    }

    /// Waits until `text` was written, and forgets what came up to it.
    fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            match self
                .pieces
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(piece) => self.seen.push_str(&String::from_utf8_lossy(&piece)),
                Err(error) => panic!("no {text:?} ({error}) in {:?}", self.seen),
            }
        }
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    /// Waits until it has stopped itself: a signal that lets it go on would be lost before.
    fn is_stopped(&self) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(pid), flags).unwrap();
    }

    fn is_cooked(&self) -> bool {
        let flags = tcgetattr(&self.terminal).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Waits for the end: the exit code.
    fn ends(&mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }

    /// `top`, once it has drawn its first screen.
    fn top() -> Self {
        let mut session = Self::start(&["top"]);
        session.expect(ENTERS);
        session.expect("2 machines");
        assert!(!session.is_cooked());
        session
    }

    /// `top` has given the terminal back.
    fn is_left(&mut self) {
        self.expect(LEAVES);
        assert!(self.is_cooked());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn top_shows_machines_and_events_until_q() {
    let mut session = Session::top();
    // Machine "a" pauses, and the events that are kept come, before the first drawing or later.
    let first = session.expect("r reverse");
    for text in ["STOP", "paused"] {
        if !first.contains(text) {
            session.expect(text);
        }
    }
    // The order's arrow goes to another heading, and turns.
    session.types("m");
    session.expect("↓");
    session.types("m");
    session.expect("↑");
    session.types("q");
    assert_eq!(session.ends(), 0);
    session.is_left();
}

#[test]
fn top_draws_anew_when_the_terminal_is_resized() {
    let mut session = Session::top();
    session.expect("r reverse");
    let mut size = rustix::termios::tcgetwinsize(&session.terminal).unwrap();
    (size.ws_col, size.ws_row) = (60, 9);
    tcsetwinsize(&session.terminal, size).unwrap();
    session.signal(Signal::SIGWINCH);
    session.expect("2 machines");
    // As many columns of the keys' line as there are.
    session.expect("q quit");
    session.types("\x03");
    assert_eq!(session.ends(), 0);
    session.is_left();
}

#[test]
fn top_gives_the_terminal_back_on_signals() {
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        let mut session = Session::top();
        session.signal(signal);
        assert_eq!(session.ends(), 128 + signal as i32);
        session.is_left();
    }
}

#[test]
fn top_gives_the_terminal_back_when_the_daemon_goes() {
    let mut session = Session::top();
    drop(session.fake.take());
    assert_eq!(session.ends(), 3);
    session.is_left();
    session.expect("cannot reach the daemon");
}

#[test]
fn top_can_be_stopped_and_goes_on() {
    let mut session = Session::top();
    session.types("\x1a");
    session.is_stopped();
    session.is_left();
    session.signal(Signal::SIGCONT);
    session.expect(ENTERS);
    session.expect("2 machines");
    session.types("q");
    assert_eq!(session.ends(), 0);
    session.is_left();
}

#[test]
fn a_watched_list_is_drawn_over_itself() {
    let mut session = Session::start(&["ls", "--watch"]);
    let first = session.expect("\x1b[3F\x1b[J");
    let lines: Vec<_> = first.split("\r\n").collect();
    assert!(lines[0].starts_with("NAME "), "{first:?}");
    assert!(lines[1].contains("\x1b[32mrunning"), "{first:?}");
    assert!(lines[2].starts_with("ended "), "{first:?}");
    session.expect("\x1b[33mpaused");
}

#[test]
fn lines_are_cut_to_the_terminal() {
    let mut session = Session::start_with(&["events", "--color=never"], &[("COLUMNS", "62")]);
    assert_eq!(session.ends(), 0);
    session.expect("SEQ ");
    let line = session.expect("paused");
    assert!(!line.contains('\x1b') && line.contains("STOP"), "{line:?}");
    let last = line.lines().last().unwrap();
    assert!(last.chars().count() <= 62, "{last:?}");
}

#[test]
fn events_are_coloured_on_a_terminal() {
    let mut session = Session::start(&["events"]);
    session.expect("\x1b[33mSTOP\x1b[0m");
    let mut plain = Session::start_with(&["events"], &[("NO_COLOR", "1")]);
    assert_eq!(plain.ends(), 0);
    assert!(!plain.expect("paused").contains('\x1b'));
    let forced = ["events", "--color", "always"];
    Session::start_with(&forced, &[("NO_COLOR", "1")]).expect("\x1b[33mSTOP\x1b[0m");
}

#[test]
fn a_wait_says_that_it_waits() {
    let mut session = Session::start(&["wait", "b", "--state", "paused", "--timeout", "2s"]);
    session.expect("waiting for paused, b: running, event 9 (0s)");
    session.expect("(1s)");
    assert_eq!(session.ends(), 1);
    // The line is gone before the result.
    session.expect("\r\x1b[Kvmctl: waited for paused in vain");
    let mut quiet = Session::start(&[
        "-o",
        "json",
        "wait",
        "b",
        "--state",
        "paused",
        "--timeout",
        "1s",
    ]);
    assert_eq!(quiet.ends(), 1);
    assert!(!quiet.expect("in vain").contains("waiting"));
}

#[test]
fn apply_asks_before_it_does_anything() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("m.yaml");
    std::fs::write(&file, "- name: new\n").unwrap();
    let apply = |answer: &str| {
        let mut session = Session::start(&["apply", "-f", file.to_str().unwrap()]);
        session.expect("create");
        session.expect("[y/N] ");
        session.types(answer);
        session
    };
    let mut refused = apply("\r");
    assert_eq!(refused.ends(), 1);
    refused.expect("nothing was changed");
    let mut done = apply("y\r");
    assert_eq!(done.ends(), 0);
    done.expect("new: running, event 9");
}
