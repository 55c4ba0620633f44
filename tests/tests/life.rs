//! The life of one machine: each of the probe guest's letters and each command, with the events they cause, in order.
//! The numbers in brackets are those of the recordings of QEMU that say the same.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use vmctl::{Client, v1};
use vmd_tests::{Daemon, request};

const RESET_REQUIRED: &str = "Resetting the Virtual Machine is required";
const NOT_SUSPENDED: &str = "Unable to wake up: guest is not in suspended state";

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn every_reset_is_one_reset_and_starts_the_guest_again() {
    // [21]
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    for letter in ["R", "K", "N", "T"] {
        let reset = "RESET guest=true reason=guest-reset -> running";
        guest.types(letter, &[reset]).await;
        guest.console.expect("!").await;
        guest.is("running").await;
    }
    let reset = "RESET guest=false reason=host-qmp-system-reset -> running";
    guest.serves(Client::system_reset, &[reset]).await;
    guest.console.expect("!").await;
    guest.is_alive().await;
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn stop_and_cont_happen_once() {
    // [01, 03, 58]
    let daemon = Daemon::start().await;
    let paused = v1::CreateVmRequest {
        paused: true,
        ..request("a")
    };
    let mut guest = daemon.guest_of(paused).await;
    guest.is("prelaunch").await;
    guest.serves(Client::stop, &[]).await;
    guest.is("prelaunch").await;

    let resumed = guest.serves(Client::cont, &["RESUME -> running"]).await;
    assert!(resumed.status.unwrap().running);
    guest.console.expect("!").await;
    guest.serves(Client::cont, &[]).await;
    guest.is("running").await;

    let stopped = guest.serves(Client::stop, &["STOP -> paused"]).await;
    assert!(!stopped.status.unwrap().running);
    guest.serves(Client::stop, &[]).await;
    guest.is("paused").await;

    // What is typed meanwhile is there when it goes on; it goes on where it was.
    guest.send("x").await;
    guest.serves(Client::cont, &["RESUME -> running"]).await;
    guest.console.expect("x").await;
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_reset_never_starts_a_stopped_guest() {
    // [05, 06]
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    let reset = "RESET guest=false reason=host-qmp-system-reset";
    guest.serves(Client::stop, &["STOP -> paused"]).await;
    guest.serves(Client::system_reset, &[reset]).await;
    guest.is("prelaunch").await;
    guest.serves(Client::system_reset, &[reset]).await;
    guest.is("prelaunch").await;
    guest.serves(Client::cont, &["RESUME -> running"]).await;
    guest.console.expect("!").await;
    guest.is_alive().await;
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_power_button_is_an_event_and_nothing_else() {
    // [07, 95]
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    let pressed = &["POWERDOWN -> running"];
    guest.serves(Client::system_powerdown, pressed).await;
    guest.is_alive().await;
    // The guest is interrupted from now on, and goes on.
    guest.letter("E").await;
    guest.is_alive().await;
    for _ in 0..3 {
        guest.serves(Client::system_powerdown, pressed).await;
        guest.is_alive().await;
    }
    guest.serves(Client::stop, &["STOP -> paused"]).await;
    let pressed = &["POWERDOWN -> paused"];
    guest.serves(Client::system_powerdown, pressed).await;
    guest.is("paused").await;
    guest.serves(Client::cont, &["RESUME -> running"]).await;
    guest.is_alive().await;
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn an_nmi_goes_to_running_and_stopped_guests() {
    // [57]
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    guest.serves(Client::inject_nmi, &[]).await;
    guest.is_alive().await;
    guest.serves(Client::stop, &["STOP -> paused"]).await;
    guest.serves(Client::inject_nmi, &[]).await;
    guest.is("paused").await;
    guest.serves(Client::cont, &["RESUME -> running"]).await;
    guest.is_alive().await;
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn an_nmi_before_the_guest_runs_does_nothing_to_it() {
    // The probe guest has no handler then.
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    guest.serves(Client::stop, &["STOP -> paused"]).await;
    let reset = "RESET guest=false reason=host-qmp-system-reset";
    guest.serves(Client::system_reset, &[reset]).await;
    guest.serves(Client::inject_nmi, &[]).await;
    guest.is("prelaunch").await;
    guest.serves(Client::cont, &["RESUME -> running"]).await;
    guest.console.expect("!").await;
    guest.is_alive().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn suspend_keeps_the_guest_until_it_is_woken() {
    // [08, 22, 25]
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    guest.refuses(Client::system_wakeup, NOT_SUSPENDED).await;
    guest.types("S", &["SUSPEND -> suspended"]).await;
    assert!(!guest.status().await.running);
    // All succeed, and nobody wakes.
    guest.serves(Client::stop, &[]).await;
    guest.serves(Client::cont, &[]).await;
    let pressed = &["POWERDOWN -> suspended"];
    guest.serves(Client::system_powerdown, pressed).await;
    guest.is("suspended").await;

    let woken = guest
        .serves(Client::system_wakeup, &["WAKEUP -> running"])
        .await;
    assert!(woken.status.unwrap().running);
    guest.console.expect("!").await;
    guest.is_alive().await;
    guest.refuses(Client::system_wakeup, NOT_SUSPENDED).await;
    guest.serves(Client::stop, &["STOP -> paused"]).await;
    guest.refuses(Client::system_wakeup, NOT_SUSPENDED).await;
    guest.is("paused").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_reset_of_a_suspended_guest_waits_for_cont() {
    // [23]
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    guest.types("S", &["SUSPEND -> suspended"]).await;
    let reset = "RESET guest=false reason=host-qmp-system-reset";
    guest.serves(Client::system_reset, &[reset]).await;
    guest.is("prelaunch").await;
    guest.refuses(Client::system_wakeup, NOT_SUSPENDED).await;
    guest.serves(Client::cont, &["RESUME -> running"]).await;
    guest.console.expect("!").await;
    guest.is_alive().await;
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_alarm_wakes_a_guest_that_asked_for_it_and_no_other() {
    // [27, 28]
    let daemon = Daemon::start().await;
    let mut not = daemon.guest("not").await;
    not.types("S", &["SUSPEND -> suspended"]).await;
    // Asked for, and taken back by a reset.
    let mut not_any_more = daemon.guest("not-any-more").await;
    not_any_more.letter("A").await;
    let reset = "RESET guest=true reason=guest-reset -> running";
    not_any_more.types("R", &[reset]).await;
    not_any_more.console.expect("!").await;
    not_any_more.types("S", &["SUSPEND -> suspended"]).await;

    // A whole second passes between the two.
    let mut woken = daemon.guest("woken").await;
    for _ in 0..2 {
        woken.letter("A").await;
        woken.letter("S").await;
        let events = &["SUSPEND -> suspended", "WAKEUP -> running"];
        woken.events.expect(events).await;
        woken.console.expect("!").await;
    }
    woken.is_alive().await;
    woken.is("running").await;
    not.is("suspended").await;
    not_any_more.is("suspended").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn soft_off_ends_the_machine() {
    // [10, 29]; the run state is that of QEMU's cleanup [94].
    let daemon = Daemon::start().await;
    for (letter, events) in [("O", &[][..]), ("4", &["SUSPEND_DISK -> running"])] {
        let name = format!("vm{}", letter.to_lowercase());
        let mut guest = daemon.guest(&name).await;
        guest.letter(letter).await;
        guest.events.expect(events).await;
        let events = &[
            "SHUTDOWN guest=true reason=guest-shutdown -> running",
            "ENDED kind=shutdown cause=guest-shutdown exit_status=0 failure=null -> shutdown",
        ];
        guest.events.expect(events).await;
        guest.console.expect_end().await;
        guest.is("ended").await;
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn quit_ends_the_machine_in_any_state() {
    // [13, 14, 24]
    let daemon = Daemon::start().await;
    let mut running = daemon.guest("running").await;
    let mut paused = daemon.guest("paused").await;
    paused.serves(Client::stop, &["STOP -> paused"]).await;
    let mut suspended = daemon.guest("suspended").await;
    suspended.types("S", &["SUSPEND -> suspended"]).await;
    let mut failed = daemon.guest("failed").await;
    failed.types("I", &["STOP -> internal-error"]).await;
    let mut fresh = daemon
        .guest_of(v1::CreateVmRequest {
            paused: true,
            ..request("fresh")
        })
        .await;
    for (guest, state, last) in [
        (&mut running, "running", "shutdown"),
        (&mut paused, "paused", "paused"),
        (&mut suspended, "suspended", "suspended"),
        (&mut failed, "internal-error", "internal-error"),
        (&mut fresh, "prelaunch", "prelaunch"),
    ] {
        let events = [
            format!("SHUTDOWN guest=false reason=host-qmp-quit -> {state}"),
            format!("ENDED kind=shutdown cause=host-qmp-quit exit_status=0 -> {last}"),
        ];
        let events: Vec<_> = events.iter().map(String::as_str).collect();
        let end = guest.serves(Client::quit, &events).await.status.unwrap();
        assert_eq!(end.phase(), v1::VmPhase::Ended);
        guest.console.expect_end().await;
        // Once is enough.
        guest.serves(Client::quit, &[]).await;
        guest.is("ended").await;
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn an_internal_error_needs_a_reset() {
    // [90]
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    guest.types("I", &["STOP -> internal-error"]).await;
    guest.refuses(Client::cont, RESET_REQUIRED).await;
    guest.serves(Client::stop, &[]).await;
    guest.is("internal-error").await;
    let reset = "RESET guest=false reason=host-qmp-system-reset";
    guest.serves(Client::system_reset, &[reset]).await;
    guest.is("prelaunch").await;
    guest.serves(Client::cont, &["RESUME -> running"]).await;
    guest.console.expect("!").await;
    guest.is_alive().await;
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn commands_sent_together_are_served_one_after_the_other() {
    // [58, 59, 62]: nothing coalesces, and each answer has its own events before it.
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    let client = guest.client.clone();
    let first = guest.events.last_seq;
    let (reset, again, pressed, stop, cont) = tokio::join!(
        client.system_reset("a"),
        client.system_reset("a"),
        client.system_powerdown("a"),
        client.stop("a"),
        client.cont("a"),
    );
    let mut replies: Vec<_> = [reset, again, pressed, stop, cont]
        .into_iter()
        .map(|reply| reply.unwrap().seq)
        .collect();
    // They may have arrived in another order; a cont that comes before the stop causes nothing.
    let mut seen: Vec<String> = Vec::new();
    for _ in first..*replies.iter().max().unwrap() {
        let event = vmd_tests::describe(&guest.events.next().await);
        seen.push(event.split(' ').next().unwrap().to_owned());
    }
    replies.sort_unstable();
    seen.sort_unstable();
    let without_cont = ["POWERDOWN", "RESET", "RESET", "STOP"].map(str::to_owned);
    let with_cont = ["POWERDOWN", "RESET", "RESET", "RESUME", "STOP"].map(str::to_owned);
    assert!(seen == without_cont || seen == with_cont, "{seen:?}");
    replies.dedup();
    assert!(replies.len() >= 4, "two answers for one event: {replies:?}");
    guest.has_no_more_events().await;
}
