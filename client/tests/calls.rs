//! `vmctl` and the library against a fake daemon: what is printed, which exit code, which error.
// Clippy's exception for tests does not see helpers outside of `#[test]` functions.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    io::Write,
    process::{Child, Command, Output, Stdio},
};

use support::Fake;
use tonic::Code;
use vmctl::{Client, Error, v1::RunState};

fn command(fake: &Fake, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmctl"));
    command
        .arg("--server")
        .arg(fake.endpoint().to_string())
        .args(args);
    command
}

fn piped(fake: &Fake, args: &[&str]) -> Child {
    let mut command = command(fake, args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Checks the exit code; answers stdout and stderr.
fn ran(output: Output, code: i32) -> (String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout: {out}stderr: {err}"
    );
    (out, err)
}

fn vmctl(fake: &Fake, args: &[&str], code: i32) -> (String, String) {
    ran(command(fake, args).output().unwrap(), code)
}

#[tokio::test]
async fn a_refusal_has_its_reason_and_a_broken_call_is_unreachable() {
    let fake = Fake::start();
    let client = Client::connect(&fake.endpoint()).await.unwrap();
    let error = client.get("missing").await.unwrap_err();
    assert_eq!(error.reason(), Some("VM_NOT_FOUND"));
    assert_eq!(error.refusal().unwrap().code, Code::NotFound);
    let error = client.get("cut").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    // The next call connects again.
    assert_eq!(client.get("a").await.unwrap().name, "a");
    let mut events = client.watch_events(4, Some("cut"), false).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().seq, 5);
    let error = events.next().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    drop(fake);
    let error = client.get("a").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn waiting_follows_the_machine_and_ends_if_it_is_gone() {
    let fake = Fake::start();
    let client = Client::connect(&fake.endpoint()).await.unwrap();
    let vm = client.wait_for_state("a", RunState::Paused).await.unwrap();
    assert_eq!(vm.status.unwrap().state(), RunState::Paused);
    assert_eq!(
        client.wait_until_ended("ended").await.unwrap().name,
        "ended"
    );
    let error = client
        .wait_for_state("ended", RunState::Running)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Ended { .. }));
    let error = client.wait_until_ended("missing").await.unwrap_err();
    assert!(matches!(error, Error::Gone { .. }));
}

#[test]
fn machines_are_shown_as_a_table_or_as_json() {
    let fake = Fake::start();
    let (out, _) = vmctl(&fake, &["ls"], 0);
    assert_eq!(
        out,
        "NAME   PHASE  STATE     VCPUS  MEMORY  SEQ  END\n\
         a      live   running   1      256M    9    -\n\
         ended  ended  shutdown  1      256M    9    -\n"
    );
    let (out, _) = vmctl(&fake, &["ls", "-o", "json"], 0);
    assert_eq!(out.lines().count(), 2);
    assert!(out.starts_with(r#"{"name":"a","id":"id-of-a","state":"running","running":true,"#));
    let (out, _) = vmctl(&fake, &["stop", "a"], 0);
    assert_eq!(out, "a: running, event 9\n");
    let (out, _) = vmctl(&fake, &["-o", "json", "rm", "a"], 0);
    assert_eq!(out, "{\"name\":\"a\",\"deleted\":true,\"seq\":10}\n");
}

#[test]
fn create_sends_absolute_paths_and_sizes() {
    let fake = Fake::start();
    let mut create = command(&fake, &["-o", "json", "create", "a", "--memory", "64K"]);
    create
        .args(["--firmware", "f.bin", "--serial", "unix:s"])
        .current_dir("/");
    let (out, _) = ran(create.output().unwrap(), 0);
    assert!(out.contains(r#""memory_bytes":65536,"#), "{out}");
    for field in [r#""firmware":"/f.bin""#, r#""serial_socket":"/s""#] {
        assert!(out.contains(field), "{out}");
    }
}

#[test]
fn a_no_exits_1_with_what_to_do_and_does_not_stop_the_others() {
    let fake = Fake::start();
    let (_, err) = vmctl(&fake, &["status", "missing"], 1);
    assert_eq!(
        err,
        "vmctl: cannot read 'missing': there is no machine 'missing'. \
         `vmctl ls` shows the machines there are.\n"
    );
    let (out, err) = vmctl(&fake, &["stop", "missing", "ended", "a"], 1);
    assert_eq!(out, "a: running, event 9\n");
    assert_eq!(err.lines().count(), 2);
    assert!(
        err.contains("cannot stop 'ended': 'ended' has ended. `vmctl start NAME` builds it anew")
    );
    let (out, err) = vmctl(&fake, &["stop", "cut", "a"], 3);
    assert!(
        out.is_empty() && err.contains("not known whether the call was served"),
        "{err}"
    );
}

#[test]
fn events_start_at_the_oldest_kept_unless_a_number_was_asked_for() {
    let fake = Fake::start();
    let (out, err) = vmctl(&fake, &["events"], 0);
    assert_eq!(out.lines().count(), 6);
    assert!(out.starts_with("SEQ "));
    assert_eq!(
        err,
        "vmctl: events before 5 are no longer kept: starting there\n"
    );
    let (out, err) = vmctl(&fake, &["-o", "json", "events", "--since", "8"], 0);
    assert!(
        out.starts_with(r#"{"seq":9,"#)
            && out.ends_with("\"state\":\"paused\",\"data\":{},\"labels\":{}}\n")
    );
    assert!(err.is_empty());
    let (out, err) = vmctl(&fake, &["events", "--since", "0"], 1);
    assert!(
        out.is_empty() && err.contains("Go on with `--since 4`"),
        "{err}"
    );
    let (_, err) = vmctl(&fake, &["events", "--since", "77"], 1);
    assert!(err.contains("has not reached event 77"), "{err}");
    let (_, err) = vmctl(&fake, &["events", "cut", "--since", "4"], 3);
    assert!(err.contains("The connection broke"), "{err}");
}

#[test]
fn a_reader_that_leaves_ends_the_command_quietly() {
    let fake = Fake::start();
    for args in [&["ls"][..], &["events", "--follow", "--since", "4"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut closed = command(&fake, args);
        let (_, err) = ran(
            closed
                .stdout(writer)
                .stderr(Stdio::piped())
                .output()
                .unwrap(),
            0,
        );
        assert_eq!(err, "");
    }
}

#[test]
fn wait_ends_in_time() {
    let fake = Fake::start();
    let (out, _) = vmctl(
        &fake,
        &["wait", "a", "--state", "paused", "--timeout", "30s"],
        0,
    );
    assert_eq!(out, "a: paused, event 9\n");
    let (_, err) = vmctl(
        &fake,
        &["wait", "b", "--state", "paused", "--timeout", "100ms"],
        1,
    );
    assert_eq!(
        err,
        "vmctl: waited for paused in vain: b: running, event 9\n"
    );
    let (_, err) = vmctl(&fake, &["wait", "ended", "--state", "running"], 1);
    assert!(
        err.contains("'ended' has ended, in state shutdown"),
        "{err}"
    );
    let (_, err) = vmctl(&fake, &["wait", "missing", "--state", "running"], 1);
    assert!(err.contains("there is no machine 'missing'"), "{err}");
}

#[test]
fn a_console_works_with_pipes() {
    let fake = Fake::start();
    let mut child = piped(&fake, &["console", "a"]);
    // Ctrl-] is a byte like any other here.
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"there\x1d!")
        .unwrap();
    let (out, err) = ran(child.wait_with_output().unwrap(), 0);
    assert_eq!(out, "hi there\x1d!");
    assert_eq!(err, "vmctl: the daemon closed the console of 'a'\n");
    let (_, err) = vmctl(&fake, &["console", "missing"], 1);
    assert!(
        err.starts_with("vmctl: cannot use the console of 'missing'"),
        "{err}"
    );
}
