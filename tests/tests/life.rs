//! The life of one machine: each of the probe guest's letters and each command, with the events they cause, in order.
#![allow(clippy::unwrap_used)]

use vmd_tests::Daemon;

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn every_reset_is_one_reset_and_starts_the_guest_again() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    for letter in ["R", "K", "N", "T"] {
        guest.letter(letter).await;
        guest
            .events
            .expect(&["RESET guest=true reason=guest-reset -> running"])
            .await;
        guest.console.expect("!").await;
        assert_eq!(guest.state().await, "running", "after {letter}");
    }
    guest.client.system_reset("a").await.unwrap();
    guest
        .events
        .expect(&["RESET guest=false reason=host-qmp-system-reset -> running"])
        .await;
    guest.console.expect("!").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn suspend_keeps_the_guest_until_it_is_woken() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    guest.letter("S").await;
    guest.events.expect(&["SUSPEND -> suspended"]).await;
    // Both succeed, and nothing happens.
    guest.client.stop("a").await.unwrap();
    guest.client.cont("a").await.unwrap();
    assert_eq!(guest.state().await, "suspended");
    guest.client.system_wakeup("a").await.unwrap();
    guest.events.expect(&["WAKEUP -> running"]).await;
    guest.console.expect("!").await;
    let refused = guest.client.system_wakeup("a").await.unwrap_err();
    assert_eq!(
        refused.refusal().unwrap().message,
        "Unable to wake up: guest is not in suspended state"
    );
}
