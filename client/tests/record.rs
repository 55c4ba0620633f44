//! `vmctl record` against a daemon of the tests' own, and `vmctl replay` without any.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::Fake;

const GOLDEN: &str = include_str!("../../vmm/src/runstate/journal/tests/golden.journal");

/// A fake daemon and a directory.
struct Rig {
    fake: Fake,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self {
            fake: Fake::start(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("a.journal")
    }

    fn command(&self, name: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmctl"));
        command
            .args(["--server", &self.fake.endpoint().to_string()])
            .args(["record", name])
            .arg(self.file())
            .args(more)
            .stdin(Stdio::null());
        command
    }

    fn record(&self, name: &str, more: &[&str]) -> Output {
        self.command(name, more).output().unwrap()
    }
}

fn replay(file: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmctl"))
        // Nobody is there.
        .env("VMD_SERVER", "unix:/nowhere/vmd.sock")
        .args(more)
        .arg("replay")
        .arg(file)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_machine_that_ends_leaves_its_journal() {
    let rig = Rig::new();
    let output = rig.record("ended", &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(rig.file()).unwrap(), GOLDEN);
    assert!(text(&output.stdout).starts_with("ended: 72 lines in "));
    // It is not overwritten but by force.
    let output = rig.record("short", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("overwrite it with --force"));
    assert_eq!(fs::read_to_string(rig.file()).unwrap(), GOLDEN);
    let output = rig.record("missing", &["--force"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_to_string(rig.file()).unwrap(), GOLDEN);
    assert!(rig.record("short", &["--force"]).status.success());
    let journal = fs::read_to_string(rig.file()).unwrap();
    assert_eq!(journal.lines().count(), 21);
    assert!(journal.ends_with(" 37 end interrupted\n"), "{journal}");
}

#[test]
fn a_machine_that_is_not_there_leaves_no_file() {
    let rig = Rig::new();
    let output = rig.record("missing", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!rig.file().exists());
}

#[test]
fn a_recording_that_breaks_off_is_completed() {
    let rig = Rig::new();
    for (name, code, says) in [
        ("short", 0, ""),
        ("cut", 3, "cannot reach the daemon"),
        ("odd", 1, "no lines of a recording"),
    ] {
        let output = rig.record(name, &["--force"]);
        assert_eq!(output.status.code(), Some(code), "{name}");
        assert!(text(&output.stderr).contains(says), "{name}");
        let output = replay(&rig.file(), &[]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).ends_with("end interrupted\n"));
    }
}

#[test]
fn a_signal_ends_a_recording_in_order() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let rig = Rig::new();
        let mut child = rig.command("a", &[]).spawn().unwrap();
        while fs::read(rig.file()).unwrap_or_default().is_empty() {
            thread::yield_now();
        }
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(replay(&rig.file(), &[]).status.success());
    }
}

#[test]
fn a_replay_shows_what_happened() {
    let rig = Rig::new();
    fs::write(rig.file(), GOLDEN).unwrap();
    let output = replay(&rig.file(), &[]);
    assert!(output.status.success() && output.stderr.is_empty());
    let shown: Vec<_> = text(&output.stdout).lines().collect();
    assert_eq!(shown.len(), 73);
    assert_eq!(shown[0], "LINE    KIND      STATE           WHAT");
    assert_eq!(
        shown[17],
        "17      event     running         event RESET guest-reset @running"
    );
    let output = replay(&rig.file(), &["-o", "json"]);
    assert_eq!(
        text(&output.stdout).lines().nth(23).unwrap(),
        r#"{"line":24,"step":44,"kind":"take","what":"checkpoint 3 suspend","state":"running"}"#
    );
}

#[test]
fn a_journal_that_is_not_as_recorded_is_refused_with_its_line() {
    let rig = Rig::new();
    let refused = |journal: &str, says: &str| {
        fs::write(rig.file(), journal).unwrap();
        let output = replay(&rig.file(), &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            text(&output.stderr).contains(says),
            "{}",
            text(&output.stderr)
        );
        assert!(output.stdout.is_empty());
    };
    refused("", "line 0");
    refused(&GOLDEN[..GOLDEN.len() - 1], "no further than line 72");
    refused(
        &GOLDEN.replace("RESET guest-reset", "RESET guest-panic"),
        "line 17 is not what was recorded",
    );
    let gap: String = GOLDEN
        .split_inclusive('\n')
        .enumerate()
        .filter(|(at, _)| *at != 30)
        .map(|(_, line)| line)
        .collect();
    refused(&gap, "at line 31 a line is missing");
    let output = replay(&rig.dir.path().join("none"), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot read"));
}
