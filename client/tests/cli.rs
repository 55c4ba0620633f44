//! `vmctl` without a daemon: usage, help, and what it says when nobody answers.
// Clippy's exception for tests does not see helpers outside of `#[test]` functions.
#![allow(clippy::unwrap_used)]

mod support;

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
        (&["run", "a", "--paused"], "--paused"),
        (&["run", "a", "b"], "'b'"),
        (&["run", "--initrd", "i"], "--kernel"),
        (&["run", "--kernel", "k", "--firmware", "f"], "--firmware"),
        (&["run", "--action", "panic=poweroff"], "does not accept"),
        (&["disk", "resize", "a"], "DISK"),
        (&["disk", "resize", "a", "d0", "1.5G"], "expected bytes"),
        (&["disk", "add", "a", "disk.img,ro"], "'ro' is none of"),
        (&["disk", "remove", "a"], "DISK"),
        (&["events", ""], "NAME"),
        (&["events", "--since", "x"], "an event's number, or last"),
        (&["events", "--color", "blue"], "always"),
        (&["apply"], "--file"),
        (&["logs", "a", "--tail", "x"], "--tail"),
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
        &["run"],
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
    let commands = "create run ls status cont stop reset powerdown wakeup nmi quit start rm set-action \
                    apply top logs events wait record replay console completions";
    for command in commands.split_whitespace() {
        let output = vmctl(&[command, "--help"]);
        assert!(output.status.success(), "{command}");
        assert!(stdout(&output).contains("Usage: vmctl"), "{command}");
    }
    let run = stdout(&vmctl(&["run", "--help"]));
    for part in ["Ctrl-]", "--keep", "Exit codes:", "  10  ", "--kernel"] {
        assert!(run.contains(part), "{part}");
    }
    assert!(stdout(&vmctl(&["--version"])).starts_with("vmctl "));
}

#[test]
fn completions_ask_vmctl_itself() {
    for shell in ["bash", "zsh", "fish"] {
        let output = vmctl(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        let script = stdout(&output);
        assert!(
            script.contains("COMPLETE") && script.contains("vmctl"),
            "{shell}"
        );
    }
}

/// What fish would be offered after these words.
fn candidates(server: &str, words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_vmctl"))
        .env("COMPLETE", "fish")
        .env("VMD_SERVER", server)
        .args([&["--", "vmctl"], words].concat())
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    assert_eq!(stderr(&output), "", "{words:?}");
    stdout(&output)
}

#[test]
fn completions_know_commands_states_and_machines() {
    let fake = support::Fake::start();
    let server = fake.endpoint().to_string();
    let begins = |words: &[&str], text: &str| candidates(&server, words).starts_with(text);
    assert!(begins(&["set-"], "set-action\t"));
    assert!(begins(&["wait", "a", "--state", "guest"], "guest-panicked"));
    assert!(begins(&["stop", ""], "a\trunning\nended\t"));
    assert!(begins(&["stop", "a", "en"], "ended\t"));
    assert!(begins(&["disk", "remove", "a"], "a\trunning\n"));
    // A new machine's name is none of those.
    assert!(begins(&["create", "a"], ""));
    assert!(!begins(&["create", "a"], "a\t"));
    // Silent without a daemon.
    assert!(!candidates("unix:/nonexistent/s", &["stop", ""]).contains("running"));
    let elsewhere = format!("--server={server}");
    assert!(candidates("unix:/nonexistent/s", &[&elsewhere, "stop", "a"]).starts_with("a\t"));
}

/// The commands that `--help` tells of.
fn commands() -> Vec<String> {
    let help = stdout(&vmctl(&["--help"]));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let commands = commands.filter_map(|line| line.split_whitespace().next());
    let commands: Vec<_> = commands.map(str::to_owned).collect();
    assert!(commands.iter().any(|command| command == "create"));
    commands
}

#[test]
fn completions_name_every_command() {
    for command in commands() {
        let offered = candidates("unix:/nonexistent/s", &[&command]);
        assert!(offered.starts_with(&format!("{command}\t")), "{offered}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let output = vmctl(&["man", pages.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let commands = commands();
    let commands: Vec<_> = commands.iter().filter(|name| *name != "help").collect();
    let written = std::fs::read_dir(&pages).unwrap().count();
    assert!(written > commands.len());
    for command in commands {
        let page = std::fs::read_to_string(pages.join(format!("vmctl-{command}.1"))).unwrap();
        for section in ["NAME", "SYNOPSIS", "OPTIONS"] {
            assert!(
                page.contains(&format!(".SH {section}")),
                "{command}: {section}"
            );
        }
    }
    // Where there is a man, it reads them.
    let mut man = Command::new("man");
    man.args(["--warnings", "-l"])
        .arg(pages.join("vmctl-events.1"));
    if let Ok(shown) = man.env("LC_ALL", "C").env("MANPAGER", "cat").output() {
        assert!(shown.status.success(), "{shown:?}");
        assert_eq!(stderr(&shown), "");
        assert!(stdout(&shown).contains("EXAMPLES"));
    }
}
