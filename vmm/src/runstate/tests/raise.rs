//! Section 3.1: what a raise does to the pending set.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::fake::Rig;
use crate::runstate::{RunState::*, *};

const GUEST: Request = Request::Reset(ShutdownCause::GuestReset);
const HOST: Request = Request::Reset(ShutdownCause::HostQmpSystemReset);
const S5: Request = Request::Shutdown(ShutdownCause::GuestShutdown);
const ERROR: Request = Request::Shutdown(ShutdownCause::HostError);

/// The events of one pass over `raised`, with shutdown action `pause`.
fn events(state: RunState, reboot: RebootAction, raised: &[Request]) -> Vec<String> {
    let change = ActionChange {
        reboot: Some(reboot),
        shutdown: Some(ShutdownAction::Pause),
        ..ActionChange::default()
    };
    let mut rig = Rig::with(state, change);
    rig.raise(raised.iter().copied());
    rig.pass();
    let mut trace = rig.trace();
    trace.retain(|line| line.contains('@'));
    trace
}

#[test]
fn latest_or_first_wins() {
    use Request::{Debug, Powerdown, Suspend, VmStop};
    let reset = RebootAction::Reset;
    let rows: [(&[Request], &[&str]); 9] = [
        (&[Debug, Debug], &["STOP @debug"]),
        (&[Suspend, Suspend], &["SUSPEND @suspended"]),
        (
            &[S5, ERROR],
            &["SHUTDOWN host-error @running", "STOP @shutdown"],
        ),
        (
            &[ERROR, S5],
            &["SHUTDOWN guest-shutdown @running", "STOP @shutdown"],
        ),
        (&[GUEST, HOST], &["RESET host-qmp-system-reset @running"]),
        (&[HOST, GUEST], &["RESET guest-reset @running"]),
        (&[Powerdown, Powerdown], &["POWERDOWN @running"]),
        (&[VmStop(IoError), VmStop(Watchdog)], &["STOP @watchdog"]),
        (&[VmStop(Watchdog), VmStop(IoError)], &["STOP @io-error"]),
    ];
    for (raised, expected) in rows {
        assert_eq!(events(Running, reset, raised), expected, "{raised:?}");
    }
}

/// Traces 117 and 118, and the partial reset that ignores the reboot action.
#[test]
fn no_reboot_resets_share_the_shutdown_slot() {
    let rows: [(&[Request], &[&str]); 4] = [
        (
            &[GUEST, S5],
            &["SHUTDOWN guest-shutdown @running", "STOP @shutdown"],
        ),
        (
            &[S5, GUEST],
            &["SHUTDOWN guest-reset @running", "STOP @shutdown"],
        ),
        (
            &[GUEST, HOST],
            &["SHUTDOWN host-qmp-system-reset @running", "STOP @shutdown"],
        ),
        (&[Request::Reset(ShutdownCause::SubsystemReset)], &[]),
    ];
    for (raised, expected) in rows {
        let trace = events(Running, RebootAction::Shutdown, raised);
        assert_eq!(trace, expected, "{raised:?}");
    }
}

#[test]
fn reboot_action_counts_when_the_reset_is_raised() {
    for (at_raise, later, expected) in [
        (
            RebootAction::Reset,
            RebootAction::Shutdown,
            "RESET guest-reset @running",
        ),
        (
            RebootAction::Shutdown,
            RebootAction::Reset,
            "SHUTDOWN guest-reset @running",
        ),
    ] {
        let reboot = |action| ActionChange {
            reboot: Some(action),
            ..ActionChange::default()
        };
        let mut rig = Rig::with(Running, reboot(at_raise));
        rig.raise([GUEST]);
        rig.serve(Command::SetAction(reboot(later)));
        let trace = rig.trace();
        assert_eq!(
            trace.iter().find(|line| line.contains('@')).unwrap(),
            expected
        );
    }
}

#[test]
fn shutdown_action_counts_when_the_shutdown_is_served() {
    let mut rig = Rig::new(Running);
    rig.raise([S5]);
    let pause = ActionChange {
        shutdown: Some(ShutdownAction::Pause),
        ..ActionChange::default()
    };
    assert_eq!(rig.serve(Command::SetAction(pause)), Flow::Continue);
    assert_eq!(rig.state(), Shutdown);
}

#[test]
fn silent_resets() {
    for cause in [
        ShutdownCause::None,
        ShutdownCause::SubsystemReset,
        ShutdownCause::SnapshotLoad,
    ] {
        let mut rig = Rig::new(Paused);
        rig.raise([Request::Reset(cause)]);
        rig.pass();
        // No event, but the state rule holds.
        assert_eq!(rig.trace(), ["pause", "reset"], "{cause}");
        assert_eq!(rig.state(), Prelaunch);
    }
}

#[test]
fn every_raise_wakes_the_main_loop() {
    let woken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&woken);
    let requests = Requests::new(TransitionTable::Seed, Actions::default(), move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    for (raises, request) in [Request::Powerdown, Request::Suspend, S5, GUEST]
        .iter()
        .enumerate()
    {
        assert_eq!(woken.load(Ordering::Relaxed), raises);
        requests.raise(*request);
    }
    assert_eq!(woken.load(Ordering::Relaxed), 4);
}

#[test]
fn vcpu_stops_at_once_for_some() {
    use Request::{Debug, GuestCrashloaded, Powerdown, Suspend, VmStop};
    for (request, reboot, stops) in [
        (Debug, RebootAction::Reset, true),
        (Suspend, RebootAction::Reset, true),
        (GUEST, RebootAction::Reset, true),
        (GUEST, RebootAction::Shutdown, true),
        (VmStop(InternalError), RebootAction::Reset, true),
        (Request::GuestPanicked, RebootAction::Reset, true),
        (S5, RebootAction::Reset, false),
        (Powerdown, RebootAction::Reset, false),
        (GuestCrashloaded, RebootAction::Reset, false),
    ] {
        let change = ActionChange {
            reboot: Some(reboot),
            ..ActionChange::default()
        };
        let mut rig = Rig::with(Running, change);
        assert!(!rig.requests.stops_vcpu());
        rig.raise([request]);
        assert_eq!(rig.requests.stops_vcpu(), stops, "{request:?}");
        if rig.pass() == Flow::Continue {
            assert!(!rig.requests.stops_vcpu(), "{request:?} is still pending");
        }
    }
}

#[test]
fn a_suspend_that_is_ignored_takes_none_away() {
    let mut rig = Rig::new(Running);
    rig.raise([Request::Suspend]);
    rig.requests.force_state(Suspended);
    rig.raise([Request::Suspend]);
    rig.pass();
    let served = ["pause", "told suspend", "SUSPEND @suspended"];
    assert_eq!(rig.trace(), served);
}

#[test]
fn late_resets_are_dropped_and_counted() {
    for state in [SaveVm, Colo] {
        let mut rig = Rig::new(state);
        rig.raise([GUEST]);
        rig.pass();
        assert_eq!((rig.trace().as_slice(), rig.state()), (&[][..], state));
        assert_eq!(rig.requests.dropped(), 1);
    }
}

#[test]
fn guest_cannot_fill_memory_with_events() {
    let mut rig = Rig::new(Running);
    rig.raise([Request::GuestCrashloaded; 2000]);
    // The main loop's own are never dropped.
    rig.serve(Command::Stop);
    let trace = rig.trace();
    let told = |name: &str| trace.iter().filter(|line| line.starts_with(name)).count();
    assert_eq!((told("GUEST_CRASHLOADED"), told("STOP")), (1024, 1));
    assert_eq!(rig.requests.dropped(), 2000 - 1024);
}

#[test]
fn what_the_guest_causes_is_counted_and_what_the_host_asks_for_is_not() {
    let requests = Requests::new(TransitionTable::default(), Actions::default(), || {});
    for raised in [HOST, ERROR, Request::Powerdown, Request::VmStop(Paused)] {
        requests.raise(raised);
    }
    assert_eq!(requests.caused_by_guest(), 0);
    let balloon = Request::BalloonChange(0);
    for (count, raised) in (1..).zip([GUEST, GUEST, S5, Request::GuestPanicked, balloon]) {
        requests.raise(raised);
        assert_eq!(requests.caused_by_guest(), count, "{raised:?}");
    }
}
