//! Section 7: S3 and the way out of it.

use super::fake::{NOTHING, Rig};
use crate::runstate::{RunState::*, *};

const SUSPEND: [&str; 3] = ["pause", "told suspend", "SUSPEND @suspended"];

#[test]
fn suspend_and_wake_up() {
    let mut rig = Rig::new(Running);
    rig.raise([Request::Suspend]);
    rig.pass();
    assert_eq!(rig.trace(), SUSPEND);
    rig.serve(Command::Stop);
    assert_eq!(
        (rig.trace(), rig.state()),
        (vec!["flush".into()], Suspended)
    );
    rig.serve(Command::Cont);
    assert_eq!((rig.trace(), rig.state()), (vec![], Suspended));
    rig.serve(Command::SystemWakeup);
    let woken = [
        "pause",
        "wake up",
        "told wakeup other",
        "resume",
        "WAKEUP @running",
    ];
    assert_eq!(rig.trace(), woken);
    assert_eq!(rig.state(), Running);
}

#[test]
fn mask_decides_which_reason_wakes() {
    use WakeupReason::*;
    let all: &[_] = &[Rtc, PmTimer, Other];
    for (rtc, pm_timer, awake) in [
        (true, true, all),
        (true, false, &[Rtc, Other]),
        (false, true, &[PmTimer, Other]),
        (false, false, &[Other]),
    ] {
        for &reason in WakeupReason::ALL {
            let mut rig = Rig::new(Suspended);
            if (rtc, pm_timer) != (true, true) {
                rig.requests.set_wakeup_mask(WakeupMask { rtc, pm_timer });
            }
            rig.raise([Request::Wakeup(reason)]);
            let wakes = awake.contains(&reason);
            // The raise itself moves the state.
            assert_eq!(rig.state() == Running, wakes, "{reason}");
            rig.pass();
            let told = format!("told wakeup {reason}");
            assert_eq!(rig.trace().contains(&told), wakes, "{reason}");
        }
    }
}

#[test]
fn first_wake_up_wins() {
    let mut rig = Rig::new(Suspended);
    rig.raise([WakeupReason::Rtc, WakeupReason::PmTimer].map(Request::Wakeup));
    let error = rig.command(Command::SystemWakeup).unwrap_err();
    let text = "Unable to wake up: guest is not in suspended state";
    assert_eq!(error.to_string(), text);
    rig.pass();
    let woken = [
        "pause",
        "wake up",
        "told wakeup rtc",
        "resume",
        "WAKEUP @running",
    ];
    assert_eq!(rig.trace(), woken);
    rig.pass();
    assert_eq!(rig.trace(), NOTHING);
}

#[test]
fn stop_in_the_gap_pauses_and_the_wake_up_is_still_served() {
    let mut rig = Rig::new(Suspended);
    rig.raise([Request::Wakeup(WakeupReason::Rtc)]);
    rig.command(Command::Stop).unwrap();
    let stopped = [
        "ticks off",
        "pause",
        "handlers stop paused",
        "STOP @paused",
        "flush",
    ];
    assert_eq!(rig.trace(), stopped);
    rig.pass();
    // No resume.
    let woken = ["pause", "wake up", "told wakeup rtc", "WAKEUP @paused"];
    assert_eq!(rig.trace(), woken);
    rig.serve(Command::Cont);
    let started = [
        "RESUME @running",
        "ticks on",
        "handlers start running",
        "resume",
    ];
    assert_eq!(rig.trace(), started);
}

#[test]
fn cont_in_the_gap_does_nothing() {
    let mut rig = Rig::new(Suspended);
    rig.raise([Request::Wakeup(WakeupReason::Rtc)]);
    rig.command(Command::Cont).unwrap();
    assert_eq!(rig.trace(), NOTHING);
}

#[test]
fn wake_up_while_a_reset_pauses_keeps_the_machine_running() {
    let mut rig = Rig::new(Suspended);
    rig.raise_during("pause", Request::Wakeup(WakeupReason::Rtc));
    rig.serve(Command::SystemReset);
    let served = [
        "pause",
        "reset",
        "RESET host-qmp-system-reset @running",
        "resume",
        "pause",
        "wake up",
        "told wakeup rtc",
        "resume",
        "WAKEUP @running",
    ];
    assert_eq!(rig.trace(), served);
}

#[test]
fn wake_up_after_a_reset_is_refused() {
    let mut rig = Rig::new(Suspended);
    rig.raise([Request::Reset(ShutdownCause::GuestReset)]);
    rig.pass();
    rig.raise([Request::Wakeup(WakeupReason::Rtc)]);
    rig.pass();
    assert_eq!(
        rig.trace(),
        ["pause", "reset", "RESET guest-reset @prelaunch"]
    );
    assert_eq!(rig.state(), Prelaunch);
}

#[test]
fn late_suspend_is_dropped_and_counted() {
    // Raised while running, but `stop` came first (case 1 of section 16).
    let mut rig = Rig::new(Running);
    rig.raise([Request::Suspend]);
    rig.serve(Command::Stop);
    assert_eq!((rig.state(), rig.requests.dropped()), (Paused, 1));
    assert!(!rig.requests.stops_vcpu());
    rig.trace();
    // The vCPU that stopped itself for it runs again.
    rig.serve(Command::Cont);
    assert_eq!(rig.trace().last().map(String::as_str), Some("resume"));
    assert_eq!(rig.state(), Running);
}

#[test]
fn suspend_is_ignored_when_suspended() {
    let mut rig = Rig::new(Suspended);
    rig.raise([Request::Suspend]);
    assert!(!rig.requests.stops_vcpu());
    rig.pass();
    assert_eq!(
        (rig.trace().as_slice(), rig.requests.dropped()),
        (&[][..], 0)
    );
}

#[test]
fn s4_tells_and_shuts_down() {
    let mut rig = Rig::with(
        Running,
        ActionChange {
            shutdown: Some(ShutdownAction::Pause),
            ..ActionChange::default()
        },
    );
    rig.raise([Request::SuspendDisk]);
    rig.pass();
    let served = [
        "SUSPEND_DISK @running",
        "SHUTDOWN guest-shutdown @running",
        "told shutdown guest-shutdown",
        "ticks off",
        "pause",
        "handlers stop shutdown",
        "STOP @shutdown",
        "flush",
    ];
    assert_eq!(rig.trace(), served);
}
