//! What reboot, shutdown and panic do, as the actions say.
//! The numbers in brackets are those of the recordings of QEMU that say the same.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use vmctl::{Client, v1};
use vmd_tests::{Daemon, Guest, actions, refusal};

const RESET_REQUIRED: &str = "Resetting the Virtual Machine is required";
const HOST_RESET: &str = "RESET guest=false reason=host-qmp-system-reset";

/// Has `guest` set actions: nothing is heard of it.
async fn sets(guest: &mut Guest, text: &str) -> v1::Actions {
    let change = actions(text);
    let reply = guest
        .serves(
            async |client, name| client.set_action(name, change).await,
            &[],
        )
        .await;
    reply.status.unwrap().actions.unwrap()
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn shutdown_pause_keeps_the_guest_stopped_until_a_reset() {
    // [11]
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest_with("a", "shutdown=pause").await;
    for round in ["O", "4"] {
        guest.letter(round).await;
        if round == "4" {
            guest.events.expect(&["SUSPEND_DISK -> running"]).await;
        }
        let shutdown = "SHUTDOWN guest=true reason=guest-shutdown -> running";
        guest.events.expect(&[shutdown, "STOP -> shutdown"]).await;
        guest.is("shutdown").await;
        guest.refuses(Client::cont, RESET_REQUIRED).await;
        guest.serves(Client::stop, &[]).await;
        let pressed = &["POWERDOWN -> shutdown"];
        guest.serves(Client::system_powerdown, pressed).await;
        let text = "Unable to wake up: guest is not in suspended state";
        guest.refuses(Client::system_wakeup, text).await;
        guest.serves(Client::system_reset, &[HOST_RESET]).await;
        guest.is("prelaunch").await;
        guest.serves(Client::cont, &["RESUME -> running"]).await;
        guest.console.expect("!").await;
        guest.is_alive().await;
        guest.is("running").await;
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn quit_ends_a_machine_with_shutdown_pause() {
    // [12]
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest_with("a", "shutdown=pause").await;
    let events = &[
        "SHUTDOWN guest=false reason=host-qmp-quit -> running",
        "ENDED kind=shutdown cause=host-qmp-quit exit_status=0 -> shutdown",
    ];
    guest.serves(Client::quit, events).await;
    guest.is("ended").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn reboot_shutdown_turns_every_reset_into_a_shutdown() {
    // [18, 19]
    let daemon = Daemon::start().await;
    for letter in ["R", "K", "N", "T"] {
        let name = format!("vm-{}", letter.to_lowercase());
        let mut guest = daemon.guest_with(&name, "reboot=shutdown").await;
        let events = &[
            "SHUTDOWN guest=true reason=guest-reset -> running",
            "ENDED kind=shutdown cause=guest-reset exit_status=0 -> shutdown",
        ];
        guest.types(letter, events).await;
        guest.console.expect_end().await;
        guest.is("ended").await;
    }
    let mut guest = daemon.guest_with("host", "reboot=shutdown").await;
    let events = &[
        "SHUTDOWN guest=false reason=host-qmp-system-reset -> running",
        "ENDED kind=shutdown cause=host-qmp-system-reset exit_status=0 -> shutdown",
    ];
    guest.serves(Client::system_reset, events).await;
    guest.is("ended").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn reboot_shutdown_with_shutdown_pause_stops_what_runs() {
    // [20, 26]: only a running machine gets to `shutdown`; the event is repeated each time.
    let daemon = Daemon::start().await;
    let shutdown = "SHUTDOWN guest=false reason=host-qmp-system-reset";
    let mut guest = daemon
        .guest_with("a", "reboot=shutdown,shutdown=pause")
        .await;
    guest
        .serves(Client::system_reset, &[shutdown, "STOP -> shutdown"])
        .await;
    guest.serves(Client::system_reset, &[shutdown]).await;
    guest.is("shutdown").await;
    sets(&mut guest, "reboot=reset").await;
    guest.serves(Client::system_reset, &[HOST_RESET]).await;
    guest.serves(Client::cont, &["RESUME -> running"]).await;
    guest.console.expect("!").await;

    let mut suspended = daemon
        .guest_with("b", "reboot=shutdown,shutdown=pause")
        .await;
    suspended.types("S", &["SUSPEND -> suspended"]).await;
    let kept = &["SHUTDOWN guest=false reason=host-qmp-system-reset -> suspended"];
    suspended.serves(Client::system_reset, kept).await;
    suspended.is("suspended").await;
    let woken = &["WAKEUP -> running"];
    suspended.serves(Client::system_wakeup, woken).await;
    suspended.console.expect("!").await;
    // [102]: stopped in another way, it may go on.
    suspended.serves(Client::stop, &["STOP -> paused"]).await;
    suspended.serves(Client::system_reset, &[shutdown]).await;
    suspended.is("paused").await;
    suspended.serves(Client::cont, &["RESUME -> running"]).await;
    suspended.is_alive().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_panic_ends_the_machine_and_says_how() {
    // [30, 33]
    let daemon = Daemon::start().await;
    for (name, its_actions, letter, status) in [
        ("default", "", "P", 0),
        ("both-bits", "", "B", 0),
        ("failure", "panic=exit-failure", "P", 1),
    ] {
        let mut guest = daemon.guest_with(name, its_actions).await;
        let ended =
            format!("ENDED kind=shutdown cause=guest-panic exit_status={status} -> shutdown");
        let events = &[
            "GUEST_PANICKED action=poweroff -> running",
            "SHUTDOWN guest=true reason=guest-panic -> running",
            &ended,
        ];
        guest.types(letter, events).await;
        guest.console.expect_end().await;
        guest.is("ended").await;
        assert_eq!(guest.status().await.end.unwrap().exit_status, status);
    }
    // Only a panic fails the exit.
    let mut guest = daemon.guest_with("quit", "panic=exit-failure").await;
    guest
        .serves(Client::quit, &["SHUTDOWN", "ENDED exit_status=0"])
        .await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_panic_stops_the_guest_until_cont_or_reset() {
    // [31, 34, 36]
    let daemon = Daemon::start().await;
    let panicked = &[
        "GUEST_PANICKED action=pause -> running",
        "STOP -> guest-panicked",
    ];
    for (name, its_actions) in [("pause", "panic=pause"), ("no-shutdown", "shutdown=pause")] {
        let mut guest = daemon.guest_with(name, its_actions).await;
        guest.types("P", panicked).await;
        guest.is("guest-panicked").await;
        guest.serves(Client::stop, &[]).await;
        guest.is("guest-panicked").await;
        guest.serves(Client::cont, &["RESUME -> running"]).await;
        guest.is_alive().await;
        guest.types("B", panicked).await;
        guest.serves(Client::system_reset, &[HOST_RESET]).await;
        guest.is("prelaunch").await;
        guest.serves(Client::cont, &["RESUME -> running"]).await;
        guest.console.expect("!").await;
        guest.is_alive().await;
        guest.is("running").await;
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_panic_may_be_told_and_nothing_else() {
    // [32, 36]
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest_with("a", "panic=none").await;
    let told = "GUEST_PANICKED action=run -> running";
    let loaded = "GUEST_CRASHLOADED action=run -> running";
    for (letter, event) in [("P", told), ("C", loaded), ("B", told)] {
        guest.types(letter, &[event]).await;
        guest.is_alive().await;
        guest.is("running").await;
    }
    // A crash that the guest handles itself is never acted on.
    let mut guest = daemon.guest_with("b", "panic=pause").await;
    guest.types("C", &[loaded]).await;
    guest.is_alive().await;
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn exit_failure_with_shutdown_pause_shuts_down_and_stops() {
    // [35]: the shutdown is served before the stop.
    let daemon = Daemon::start().await;
    let mut guest = daemon
        .guest_with("a", "panic=exit-failure,shutdown=pause")
        .await;
    let events = &[
        "GUEST_PANICKED action=poweroff -> running",
        "SHUTDOWN guest=true reason=guest-panic -> running",
        "STOP -> shutdown",
    ];
    guest.types("P", events).await;
    guest.refuses(Client::cont, RESET_REQUIRED).await;
    guest.is("shutdown").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn actions_are_checked_before_any_is_set() {
    // [53]
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    let defaults = actions("reboot=reset,shutdown=poweroff,panic=shutdown,watchdog=reset");
    assert_eq!(sets(&mut guest, "").await, defaults);
    let all = "reboot=shutdown,shutdown=pause,panic=pause,watchdog=inject-nmi";
    assert_eq!(sets(&mut guest, all).await, actions(all));

    let bogus = |field: &str| {
        let mut change = actions("reboot=reset");
        match field {
            "reboot" => change.reboot = 3,
            "shutdown" => change.shutdown = -1,
            "panic" => change.panic = 5,
            _ => change.watchdog = i32::MAX,
        }
        change
    };
    for field in ["reboot", "shutdown", "panic", "watchdog"] {
        let refusal = refusal(guest.client.set_action("a", bogus(field)).await);
        assert_eq!(refusal.code, tonic::Code::InvalidArgument);
        assert_eq!(refusal.reason, "INVALID_FIELD");
        let text = format!("Parameter '{field}' does not accept value");
        assert!(refusal.message.contains(&text), "{}", refusal.message);
        assert_eq!(refusal.violations[0].field, format!("actions.{field}"));
    }
    assert_eq!(guest.status().await.actions.unwrap(), actions(all));
    let shutdown = "SHUTDOWN guest=false reason=host-qmp-system-reset -> running";
    guest
        .serves(Client::system_reset, &[shutdown, "STOP -> shutdown"])
        .await;
    guest.is("shutdown").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_actions_that_count_are_those_at_the_time() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    sets(&mut guest, "panic=none").await;
    guest.types("P", &["GUEST_PANICKED action=run"]).await;
    sets(&mut guest, "panic=pause").await;
    let panicked = &["GUEST_PANICKED action=pause", "STOP -> guest-panicked"];
    guest.types("P", panicked).await;
    sets(&mut guest, "reboot=shutdown").await;
    let events = &[
        "SHUTDOWN guest=false reason=host-qmp-system-reset -> guest-panicked",
        "ENDED cause=host-qmp-system-reset -> guest-panicked",
    ];
    guest.serves(Client::system_reset, events).await;
    guest.is("ended").await;
}
