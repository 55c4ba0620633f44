//! Recordings of real guests, replayed without one.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::task::spawn_blocking;
use vmctl::v1;
use vmd_tests::{Daemon, Guest, binary, soon};

/// A `vmctl record` that has begun.
struct Recording {
    /// `None` once it is waited for.
    child: Option<Child>,
    file: PathBuf,
}

impl Recording {
    /// Of machine `a`.
    async fn start(daemon: &Daemon) -> Self {
        let file = daemon.path("a.journal");
        let child = Command::new(binary("vmctl"))
            .args(["--server", &daemon.endpoint().to_string()])
            .args(["record", "a"])
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let recording = Self {
            child: Some(child),
            file,
        };
        // The first lines are in the file: it has begun.
        soon("the recording", async {
            while fs::read(&recording.file).unwrap_or_default().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        recording
    }

    /// The journal, once the recording has ended of itself.
    async fn ended(mut self) -> PathBuf {
        let mut child = self.child.take().unwrap();
        let wait = spawn_blocking(move || child.wait());
        let status = soon("the recording's end", wait).await.unwrap();
        assert!(status.unwrap().success());
        self.file.clone()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id().try_into().unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `vmctl replay`, where nobody listens.
async fn replay(file: &Path) -> Output {
    let mut command = Command::new(binary("vmctl"));
    command
        .args(["--server", "unix:/nowhere/vmd.sock", "replay"])
        .arg(file);
    let run = spawn_blocking(move || command.output());
    soon("replay", run).await.unwrap().unwrap()
}

/// What came of a replay that succeeds: of each line what happened, and the state.
async fn replayed(file: &Path) -> Vec<(String, String)> {
    let output = replay(file).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}\n{text}");
    text.lines()
        .skip(1)
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            (words[3..].join(" "), words[2].to_owned())
        })
        .collect()
}

/// The events among them.
fn events(timeline: &[(String, String)]) -> Vec<&str> {
    timeline
        .iter()
        .filter_map(|(what, _)| what.strip_prefix("event "))
        .collect()
}

async fn guest(daemon: &Daemon, actions: v1::Actions) -> Guest {
    let definition = v1::VmDefinition {
        actions: Some(actions),
        ..Default::default()
    };
    let request = v1::CreateVmRequest {
        name: "a".into(),
        definition: Some(definition),
        ..Default::default()
    };
    daemon.guest_of(request).await
}

fn pausing() -> v1::Actions {
    v1::Actions {
        panic: v1::PanicAction::Pause.into(),
        ..Default::default()
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_guests_life_replays_to_the_same_states_and_events() {
    let daemon = Daemon::start().await;
    let mut guest = guest(&daemon, pausing()).await;
    let recording = Recording::start(&daemon).await;
    for letter in ["R", "K", "T"] {
        guest.letter(letter).await;
        guest.events.expect(&["RESET -> running"]).await;
        guest.console.expect("!").await;
    }
    guest.letter("S").await;
    guest.events.expect(&["SUSPEND -> suspended"]).await;
    guest.client.system_wakeup("a").await.unwrap();
    guest.events.expect(&["WAKEUP -> running"]).await;
    guest.console.expect("!").await;
    guest.letter("P").await;
    guest
        .events
        .expect(&["GUEST_PANICKED", "STOP -> guest-panicked"])
        .await;
    guest.client.system_wakeup("a").await.unwrap_err();
    guest.client.cont("a").await.unwrap();
    guest.events.expect(&["RESUME -> running"]).await;
    guest.client.stop("a").await.unwrap();
    guest.client.system_reset("a").await.unwrap();
    guest
        .events
        .expect(&["STOP -> paused", "RESET -> prelaunch"])
        .await;
    guest.client.cont("a").await.unwrap();
    guest.events.expect(&["RESUME -> running"]).await;
    guest.client.quit("a").await.unwrap();
    let file = recording.ended().await;

    let timeline = replayed(&file).await;
    assert_eq!(
        events(&timeline),
        [
            "RESET guest-reset @running",
            "RESET guest-reset @running",
            "RESET guest-reset @running",
            "SUSPEND @suspended",
            "WAKEUP @running",
            "GUEST_PANICKED pause @running",
            "STOP @guest-panicked",
            "RESUME @running",
            "STOP @paused",
            "RESET host-qmp-system-reset @prelaunch",
            "RESUME @running",
            "SHUTDOWN host-qmp-quit @running",
        ]
    );
    let (what, state) = timeline.last().unwrap();
    assert_eq!((what.as_str(), state.as_str()), ("end exit", "shutdown"));
    for entry in [
        "raise suspend",
        "checkpoint 3 suspend",
        "checkpoint 2 reset guest-reset",
        "refused Unable to wake up: guest is not in suspended state",
        "exit shutdown host-qmp-quit 0",
    ] {
        assert!(timeline.iter().any(|(what, _)| what == entry), "{entry}");
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_cut_or_altered_recording_is_refused_with_its_line() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    let recording = Recording::start(&daemon).await;
    guest.letter("R").await;
    guest.events.expect(&["RESET"]).await;
    guest.console.expect("!").await;
    guest.send("O").await;
    let file = recording.ended().await;
    let journal = fs::read_to_string(&file).unwrap();
    assert_eq!(
        replayed(&file).await.last().unwrap().0,
        "end exit",
        "{journal}"
    );

    let refused = async |journal: &str, says: &str| {
        fs::write(&file, journal).unwrap();
        let output = replay(&file).await;
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(says), "{stderr}");
    };
    let lines: Vec<_> = journal.split_inclusive('\n').collect();
    let short = lines[..lines.len() - 1].concat();
    let last = lines.len() - 1;
    refused(&short, &format!("no further than line {last}")).await;
    let at = 1 + lines.iter().position(|it| it.contains("RESET")).unwrap();
    let altered = journal.replacen("RESET guest-reset", "RESET guest-panic", 1);
    refused(&altered, &format!("line {at} is not what was recorded")).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn one_recording_at_a_time_and_none_of_a_machine_that_has_ended() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    let recording = Recording::start(&daemon).await;
    let refused = guest.client.record("a").await.unwrap_err();
    assert_eq!(refused.reason(), Some("RECORDING"));
    guest.letter("R").await;
    guest.events.expect(&["RESET"]).await;
    guest.console.expect("!").await;
    recording.signal(Signal::SIGINT);
    let file = recording.ended().await;
    let timeline = replayed(&file).await;
    assert_eq!(timeline.last().unwrap().0, "end interrupted");
    fs::remove_file(file).unwrap();

    // The daemon hears of the client's end a little later.
    let mut stream = soon("the other's end", async {
        loop {
            match guest.client.record("a").await {
                Ok(stream) => break stream,
                Err(error) => assert_eq!(error.reason(), Some("RECORDING")),
            }
        }
    })
    .await;
    daemon.signal(Signal::SIGTERM);
    let mut journal = Vec::new();
    while let Some(response) = soon("lines", stream.next()).await.unwrap() {
        journal.extend(response.lines);
    }
    let journal = String::from_utf8(journal).unwrap();
    assert!(journal.contains(" command kill\n"), "{journal}");
    assert!(journal.ends_with(" end exit\n"), "{journal}");
    daemon.ended().await;

    let daemon = Daemon::start().await;
    let guest = daemon.guest("a").await;
    guest.client.quit("a").await.unwrap();
    let refused = guest.client.record("a").await.unwrap_err();
    assert_eq!(refused.reason(), Some("VM_ENDED"));
}
