//! What a service manager sees of the daemon, and gives it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;
use tokio::net::UnixDatagram;
use vmctl::{Client, Endpoint};
use vmd_tests::{Daemon, binary, in_thread, soon};

/// The next message that has `what` in it.
async fn message(socket: &UnixDatagram, what: &str) -> String {
    let mut buffer = vec![0; 4096];
    let receive = async {
        loop {
            let count = socket.recv(&mut buffer).await.unwrap();
            let text = std::str::from_utf8(&buffer[..count]).unwrap();
            if text.contains(what) {
                return text.to_owned();
            }
        }
    };
    soon(what, receive).await
}

/// A command that starts vmd with `listener` as its descriptor 3, named `name`, for the process `pid`, an expression of
/// the shell.
fn activated(listener: impl Into<OwnedFd>, name: &str, pid: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!(
        "exec 3<&0 </dev/null; exec env LISTEN_FDS=1 LISTEN_FDNAMES={name} LISTEN_PID={pid} \"$0\" \"$@\""
    );
    command.args(["-c", &script]).arg(binary("vmd"));
    command.stdin(Stdio::from(listener.into()));
    command
}

fn listener(directory: &Path) -> (UnixListener, Endpoint) {
    let path = directory.join("given.sock");
    let listener = UnixListener::bind(&path).unwrap();
    (listener, Endpoint::unix(path).unwrap())
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_service_manager_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let config = directory.path().join("vmd.toml");
    std::fs::write(&config, "").unwrap();
    let mut command = Command::new(binary("vmd"));
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "500000");
    let arguments = ["--config", config.to_str().unwrap(), "--grace", "3600"];
    let daemon = Daemon::start_as(command, &arguments).await;

    let ready = message(&socket, "").await;
    assert_eq!(ready, "READY=1\nSTATUS=0 machines live, 0 ended\n");
    for _ in 0..3 {
        assert_eq!(message(&socket, "WATCHDOG").await, "WATCHDOG=1\n");
    }

    let guest = daemon.guest("a").await;
    message(&socket, "STATUS=1 machines live, 0 ended\n").await;

    daemon.signal(Signal::SIGHUP);
    let reloading = message(&socket, "RELOADING=1\n").await;
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert_eq!(message(&socket, "READY").await, "READY=1\n");

    daemon.signal(Signal::SIGTERM);
    let stopping = message(&socket, "STOPPING").await;
    assert_eq!(
        stopping,
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=3630000000\nSTATUS=ending\n"
    );
    guest.send("O").await;
    let (status, log) = daemon.ended().await;
    assert!(status.success(), "{log}");
    assert!(!log.contains("WARN"), "{log}");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_service_manager_that_has_gone_is_no_reason_to_end() {
    let mut command = Command::new(binary("vmd"));
    command.env("NOTIFY_SOCKET", "/nonexistent/notify");
    let daemon = Daemon::start_as(command, &[]).await;
    daemon.guest("a").await.is_alive().await;
    daemon.signal(Signal::SIGTERM);
    let (status, log) = daemon.ended().await;
    assert!(status.success(), "{log}");
    let told = log.matches("the service manager cannot be told").count();
    assert_eq!(told, 1, "{log}");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_socket_that_was_given_is_served_and_left() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, endpoint) = listener(directory.path());
    // A client that came before the daemon.
    let early = tokio::spawn({
        let endpoint = endpoint.clone();
        async move { Client::connect(&endpoint).await?.list().await }
    });
    let daemon = Daemon::start_as(activated(listener, "vmd.socket", "$$"), &[]).await;
    assert!(soon("the first client", early).await.unwrap().is_ok());
    assert!(!daemon.path("vmd.sock").exists(), "--listen counts too");
    let client = soon("connecting", Client::connect(&endpoint))
        .await
        .unwrap();
    client.list().await.unwrap();
    daemon.signal(Signal::SIGTERM);
    let (status, log) = daemon.ended().await;
    assert!(status.success(), "{log}");
    assert!(endpoint.unix_path().unwrap().exists(), "its maker's");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_tcp_socket_that_was_given_is_served() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint: Endpoint = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let _daemon = Daemon::start_as(activated(listener, "vmd.socket", "$$"), &[]).await;
    let client = soon("connecting", Client::connect(&endpoint))
        .await
        .unwrap();
    client.list().await.unwrap();
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_socket_that_was_given_to_another_process_is_not_taken() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, _) = listener(directory.path());
    let daemon = Daemon::start_as(activated(listener, "vmd.socket", "1"), &[]).await;
    daemon.client().await.list().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_served_is_refused() {
    // Others could reach it, and there are no certificates.
    let all = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = all.local_addr().unwrap().port();
    let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    for (socket, name, says) in [
        (
            OwnedFd::from(all),
            "vmd.socket",
            format!("vmd: https://0.0.0.0:{port} needs certificates"),
        ),
        (
            OwnedFd::from(one),
            "x",
            "vmd: socket 'x' of the service manager: it is no stream socket that listens".into(),
        ),
        (
            OwnedFd::from(std::fs::File::open("/dev/null").unwrap()),
            "a:b",
            "vmd: LISTEN_FDS: ".into(),
        ),
    ] {
        let mut command = activated(socket, name, "$$");
        command.args(["serve", "--config", "/dev/null"]);
        let output = soon("vmd", in_thread(move || command.output()));
        let output = output.await.unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.starts_with(&says), "{text}\n{says}");
    }
}
