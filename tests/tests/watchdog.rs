//! The watchdog: what its expiry does, and that it counts only while its guest runs.
//! The numbers in brackets are those of the recordings of QEMU that say the same.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::time::{Duration, SystemTime};

use vmctl::{Client, v1};
use vmd_tests::{Daemon, Guest};

const GUEST_RESET: &str = "RESET guest=true reason=guest-reset -> running";

/// Arms it: the letter after has been served, so this one has, too.
async fn arm(guest: &mut Guest) {
    guest.letter("W").await;
    guest.is_alive().await;
}

fn time(event: &v1::Event) -> SystemTime {
    SystemTime::try_from(event.time.unwrap()).unwrap()
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn its_expiry_does_what_the_action_says() {
    // [42, 43, 45, 46, 48, 49, 50]. They count side by side.
    let daemon = Daemon::start().await;
    let actions = [
        "reset",
        "pause",
        "shutdown",
        "poweroff",
        "debug",
        "none",
        "inject-nmi",
    ];
    let mut guests = Vec::new();
    for action in actions {
        let setting = format!("watchdog={action}");
        let mut guest = daemon.guest_with(action, &setting).await;
        arm(&mut guest).await;
        guests.push(guest);
    }
    for (action, guest) in actions.into_iter().zip(&mut guests) {
        let expired = format!("WATCHDOG action={action} -> running");
        guest.events.expect(&[&expired]).await;
        match action {
            "reset" => {
                guest.events.expect(&[GUEST_RESET]).await;
                guest.console.expect("!").await;
            }
            "pause" => {
                guest.events.expect(&["STOP -> watchdog"]).await;
                guest.is("watchdog").await;
                guest.serves(Client::stop, &[]).await;
                guest.is("watchdog").await;
                guest.serves(Client::cont, &["RESUME -> running"]).await;
            }
            // The power button, not a shutdown.
            "shutdown" => guest.events.expect(&["POWERDOWN -> running"]).await,
            // No SHUTDOWN, and the run state stays.
            "poweroff" => {
                let ended = "ENDED kind=watchdog cause=null exit_status=0 -> running";
                guest.events.expect(&[ended]).await;
                guest.console.expect_end().await;
                guest.is("ended").await;
                continue;
            }
            "debug" => {
                let log = daemon.log();
                assert!(log.contains("watchdog: timer fired"), "{log}");
            }
            _ => {}
        }
        guest.is_alive().await;
        guest.is("running").await;
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn other_actions_apply_to_what_it_causes() {
    // [47, 51]
    let daemon = Daemon::start().await;
    let mut rebooted = daemon.guest_with("a", "reboot=shutdown").await;
    let mut poweroff = daemon
        .guest_with("b", "watchdog=poweroff,shutdown=pause")
        .await;
    arm(&mut rebooted).await;
    arm(&mut poweroff).await;
    let events = &[
        "WATCHDOG action=reset -> running",
        "SHUTDOWN guest=true reason=guest-reset -> running",
        "ENDED kind=shutdown cause=guest-reset exit_status=0 -> shutdown",
    ];
    rebooted.events.expect(events).await;
    rebooted.is("ended").await;
    let events = &[
        "WATCHDOG action=poweroff -> running",
        "ENDED kind=watchdog exit_status=0 -> running",
    ];
    poweroff.events.expect(events).await;
    poweroff.is("ended").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn it_stands_still_with_its_guest() {
    // [52]
    let daemon = Daemon::start().await;
    let mut stopped = daemon.guest("stopped").await;
    let mut suspended = daemon.guest("suspended").await;
    let mut disarmed = daemon.guest("disarmed").await;
    let mut reset = daemon.guest("reset").await;
    let mut free = daemon.guest("free").await;
    let armed_after = SystemTime::now();
    arm(&mut stopped).await;
    let stop = soon_stopped(&mut stopped).await;
    arm(&mut suspended).await;
    suspended.types("S", &["SUSPEND -> suspended"]).await;
    arm(&mut disarmed).await;
    disarmed.letter("w").await;
    arm(&mut reset).await;
    reset.types("R", &[GUEST_RESET]).await;
    reset.console.expect("!").await;

    // This one is armed last: when it expires, the others would have, too.
    arm(&mut free).await;
    free.events
        .expect(&["WATCHDOG action=reset", GUEST_RESET])
        .await;
    stopped.is("paused").await;
    suspended.is("suspended").await;
    disarmed.is("running").await;
    reset.is("running").await;

    // What is left of its two seconds goes on with cont. Stopped, it was at least as long.
    stopped.client.cont("stopped").await.unwrap();
    let resumed = stopped.events.next().await;
    let expired = stopped.events.next().await;
    assert!(matches!(resumed.kind, Some(v1::event::Kind::Resume(_))));
    assert!(matches!(expired.kind, Some(v1::event::Kind::Watchdog(_))));
    stopped.events.expect(&[GUEST_RESET]).await;
    let paused_for = time(&resumed).duration_since(stop).unwrap();
    assert!(paused_for >= Duration::from_millis(1900), "{paused_for:?}");
    // The events' times are those of their publication, a little after the fact.
    let ran_for = stop.duration_since(armed_after).unwrap()
        + time(&expired).duration_since(time(&resumed)).unwrap();
    assert!(ran_for >= Duration::from_millis(1500), "{ran_for:?}");

    // Waking is a reset of the devices.
    suspended.serves(Client::system_wakeup, &["WAKEUP"]).await;
    suspended.console.expect("!").await;
    suspended.is_alive().await;
    suspended.is("running").await;
}

/// Stops it; when that was.
async fn soon_stopped(guest: &mut Guest) -> SystemTime {
    guest.client.stop(&guest.name).await.unwrap();
    let stop = guest.events.next().await;
    assert!(matches!(stop.kind, Some(v1::event::Kind::Stop(_))));
    time(&stop)
}
