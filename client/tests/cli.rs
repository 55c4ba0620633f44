//! `vmctl` without a daemon: usage, help, and what it says when nobody answers.
// Clippy's exception for tests does not see helpers outside of `#[test]` functions.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn vmctl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmctl"))
        .args(args)
        .env_remove("VMD_SERVER")
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_wrong_command_line_exits_2_and_says_what_is_wrong() {
    let bad: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["frob"], "frob"),
        (&["stop"], "NAME"),
        (
            &["create", "a", "--action", "panic=poweroff"],
            "Parameter 'panic' does not accept value 'poweroff'",
        ),
        (
            &["create", "a", "--action", "panic=pause,foo=bar"],
            "Parameter 'foo' is unexpected",
        ),
        (
            &["set-action", "a", "reboot=none"],
            "Parameter 'reboot' does not accept value 'none'",
        ),
        (&["set-action", "a"], "KEY=VALUE"),
        (&["set-action", "a", "panic"], "expected KEY=VALUE"),
        (
            &["create", "a", "--memory", "1.5G"],
            "expected bytes, or a number with K, M, G or T",
        ),
        (&["create", "a", "--memory", "99999999T"], "does not fit"),
        (&["create", "a", "--vcpus", "-1"], "-1"),
        (&["create", "a", "--serial", "/tmp/s"], "expected unix:PATH"),
        (&["events", ""], "NAME"),
        (&["events", "--since", "x"], "--since"),
        (&["wait", "a"], "--state"),
        (&["wait", "a", "--state", "happy"], "guest-panicked"),
        (
            &["wait", "a", "--state", "ended", "--timeout", "30"],
            "ms, s, m or h",
        ),
        (&["-o", "xml", "ls"], "json"),
        (&["--server", "tcp:1", "ls"], "unix:PATH"),
        (
            &["--server", "http://192.0.2.1:1", "ls"],
            "not a loopback address",
        ),
    ];
    for (args, text) in bad {
        let output = vmctl(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            stderr(&output).contains(text),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn an_unreachable_daemon_exits_3_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = format!("unix:{}", dir.path().join("vmd.sock").display());
    for args in [
        &["ls"][..],
        &["stop", "a", "b"],
        &["events", "--follow"],
        &["console", "a"],
    ] {
        let output = vmctl(&[&["--server", &nowhere], args].concat());
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        let text = format!(
            "vmctl: cannot reach the daemon at {nowhere}: No such file or directory. \
             Is it running? Start it with `vmd serve`, or name another with --server.\n"
        );
        assert_eq!(stderr(&output), text);
    }
    let by_environment = Command::new(env!("CARGO_BIN_EXE_vmctl"))
        .arg("ls")
        .env("VMD_SERVER", &nowhere)
        .output();
    assert_eq!(by_environment.unwrap().status.code(), Some(3));
    assert_eq!(
        vmctl(&["--server", "http://127.0.0.1:1", "ls"])
            .status
            .code(),
        Some(3)
    );
}

#[test]
fn help_tells_exit_codes_environment_and_examples() {
    let output = vmctl(&["--help"]);
    assert!(output.status.success());
    for part in [
        "VMD_SERVER",
        "Exit codes:",
        "Examples:",
        "set-action",
        "console",
    ] {
        assert!(stdout(&output).contains(part), "{part}");
    }
    let commands = "create ls status cont stop reset powerdown wakeup nmi quit start rm set-action \
                    events wait record replay console completions";
    for command in commands.split_whitespace() {
        let output = vmctl(&[command, "--help"]);
        assert!(output.status.success(), "{command}");
        assert!(stdout(&output).contains("Usage: vmctl"), "{command}");
    }
    assert!(stdout(&vmctl(&["--version"])).starts_with("vmctl "));
}

#[test]
fn completions_know_the_commands_and_states() {
    for shell in ["bash", "zsh", "fish"] {
        let output = vmctl(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        assert!(stdout(&output).contains("set-action"), "{shell}");
        assert!(stdout(&output).contains("guest-panicked"), "{shell}");
    }
}
