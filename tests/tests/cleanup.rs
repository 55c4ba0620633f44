//! The end of a machine on real sockets: everybody gets everything, and the monitors' connections are closed before the
//! serial port's (docs/runstate.md, section 12), whatever the machine ends of.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use vmctl::v1;
use vmd_tests::{Daemon, Guest, Qmp, actions, in_thread, soon, untimed};

/// Which way out comes first is chance; once is not enough.
const ROUNDS: usize = 8;

/// A running probe guest with a socket of each kind.
async fn guest(daemon: &Daemon, its_actions: &str) -> Guest {
    let path = |name| daemon.path(name).to_str().unwrap().to_owned();
    daemon
        .guest_of(v1::CreateVmRequest {
            name: "a".to_owned(),
            definition: Some(v1::VmDefinition {
                actions: Some(actions(its_actions)),
                serial_socket: path("serial"),
                qmp_socket: path("qmp"),
                ..Default::default()
            }),
            ..Default::default()
        })
        .await
}

/// A monitor's client that is not looked at before [`Monitor::rest`].
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    async fn open(path: PathBuf) -> Self {
        let open = in_thread(move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream
                .write_all(br#"{"execute":"qmp_capabilities"}"#)
                .unwrap();
            let mut reader = BufReader::new(stream);
            for _ in ["greeting", "reply"] {
                reader.read_line(&mut String::new()).unwrap();
            }
            reader
        });
        Self(soon("a monitor", open).await)
    }

    /// All that has come, and then the end, without waiting for it.
    fn rest(mut self) -> Vec<Value> {
        self.0.get_ref().set_nonblocking(true).unwrap();
        let mut text = String::new();
        let read = self.0.read_to_string(&mut text);
        read.unwrap_or_else(|error| panic!("the monitor is still open ({error}), after {text:?}"));
        let lines = text.lines();
        lines
            .map(|line| untimed(serde_json::from_str(line).unwrap()))
            .collect()
    }
}

/// What a client of the serial port gets, to the end.
async fn serial(path: &Path) -> impl Future<Output = String> + use<> {
    let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
    async move {
        let mut text = String::new();
        let read = stream.read_to_string(&mut text);
        soon("the serial socket's end", read).await.unwrap();
        text
    }
}

fn shutdown(guest: bool, reason: &str) -> Value {
    json!({"event": "SHUTDOWN", "data": {"guest": guest, "reason": reason}})
}

/// Ends a guest with `end` and looks at the clients: what the serial port's got, what each monitor's.
async fn ends(
    daemon: &Daemon,
    guest: &mut Guest,
    end: impl AsyncFnOnce(&mut Guest),
) -> (String, Vec<Value>) {
    let output = serial(&daemon.path("serial")).await;
    let monitors = [
        Monitor::open(daemon.path("qmp")).await,
        Monitor::open(daemon.path("qmp")).await,
    ];
    for letter in ["a", "b", "c"] {
        guest.letter(letter).await;
    }
    end(guest).await;
    let text = output.await;
    let [events, same] = monitors.map(Monitor::rest);
    assert_eq!(events, same);
    (text, events)
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_shutdown_closes_monitors_and_then_chardevs_and_nothing_is_lost() {
    let daemon = Daemon::start().await;
    for _ in 0..ROUNDS {
        let mut guest = guest(&daemon, "").await;
        let off = async |guest: &mut Guest| guest.send("O").await;
        let (text, events) = ends(&daemon, &mut guest, off).await;
        assert_eq!(text, "!abcO");
        assert_eq!(events, [shutdown(true, "guest-shutdown")]);
        guest.events.expect(&["SHUTDOWN", "ENDED"]).await;
        soon("delete", guest.client.delete("a", false))
            .await
            .unwrap();
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_quit_by_a_monitor_is_answered_before_the_serial_port_closes() {
    let daemon = Daemon::start().await;
    for _ in 0..ROUNDS {
        let mut guest = guest(&daemon, "shutdown=pause").await;
        let mut own = None;
        let path = daemon.path("qmp");
        let quit = async |_: &mut Guest| {
            let mut monitor = Monitor::open(path).await;
            let quit = br#"{"execute":"quit","id":1}"#;
            monitor.0.get_mut().write_all(quit).unwrap();
            own = Some(monitor);
        };
        let (text, events) = ends(&daemon, &mut guest, quit).await;
        assert_eq!(text, "!abc");
        assert_eq!(events, [shutdown(false, "host-qmp-quit")]);
        let answered = [
            shutdown(false, "host-qmp-quit"),
            json!({"return": {}, "id": 1}),
        ];
        assert_eq!(own.unwrap().rest(), answered);
        guest.events.expect(&["SHUTDOWN", "ENDED"]).await;
        soon("delete", guest.client.delete("a", false))
            .await
            .unwrap();
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_watchdogs_poweroff_closes_the_same_without_shutdown() {
    let daemon = Daemon::start().await;
    let mut guest = guest(&daemon, "watchdog=poweroff").await;
    let expire = async |_: &mut Guest| {
        let mut qmp = Qmp::open(&daemon.path("qmp")).await;
        // Armed for no time at all.
        let arguments = json!({"command-line": "o /b 0x443 0xf"});
        let line = json!({"execute": "human-monitor-command", "arguments": arguments});
        qmp.send(line.to_string()).await;
    };
    let (text, events) = ends(&daemon, &mut guest, expire).await;
    assert_eq!(text, "!abc");
    let expired = json!({"event": "WATCHDOG", "data": {"action": "poweroff"}});
    assert_eq!(events, [expired]);
    guest.events.expect(&["WATCHDOG", "ENDED"]).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_signal_to_the_daemon_lets_everybody_have_the_rest() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let daemon = Daemon::start().await;
        let mut guest = guest(&daemon, "shutdown=pause").await;
        let kill = async |_: &mut Guest| daemon.signal(signal);
        let (text, events) = ends(&daemon, &mut guest, kill).await;
        assert_eq!(text, "!abc");
        assert_eq!(events, [shutdown(false, "host-signal")]);
        let (status, log) = daemon.ended().await;
        assert!(status.success(), "{status}");
        let text = format!("terminating on signal {}", signal as i32);
        assert!(log.contains(&text), "{log}");
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_monitor_that_never_reads_does_not_hold_up_the_end() {
    let daemon = Daemon::start().await;
    let mut guest = guest(&daemon, "").await;
    let deaf = tokio::net::UnixStream::connect(daemon.path("qmp"))
        .await
        .unwrap();
    let requests = r#"{"execute":"qmp_capabilities"}"#.to_owned()
        + &r#"{"execute":"query-commands"}"#.repeat(20_000);
    let mut rest = requests.as_bytes();
    // Its replies fill the way back, and then its requests are not read any more.
    while !rest.is_empty() {
        let writable = tokio::time::timeout(std::time::Duration::from_secs(1), deaf.writable());
        let Ok(ready) = writable.await else { break };
        ready.unwrap();
        if let Ok(count) = deaf.try_write(rest) {
            rest = &rest[count..];
        }
    }
    assert!(!rest.is_empty(), "it was read to the end");
    let output = tokio::spawn(serial(&daemon.path("serial")).await);
    soon("quit", guest.client.quit("a")).await.unwrap();
    guest.events.expect(&["SHUTDOWN", "ENDED"]).await;
    // Its time is not up.
    assert!(
        !output.is_finished(),
        "the serial port was closed before the monitor"
    );
    // The serial port's client has all there is, and its end when the other was given up.
    assert_eq!(output.await.unwrap(), "!");
    drop(deaf);
}
