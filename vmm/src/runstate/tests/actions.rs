//! Sections 2.3, 8 and 9: what the panic, watchdog, shutdown and reboot actions lead to.

use super::fake::{NOTHING, Rig};
use crate::runstate::{RunState::*, *};

/// Raises `request`, makes a pass, and returns the events, the final state and the flow.
fn outcome(
    state: RunState,
    change: ActionChange,
    request: Request,
) -> (Vec<String>, RunState, Flow) {
    let mut rig = Rig::with(state, change);
    rig.raise([request]);
    let flow = rig.pass();
    let mut trace = rig.trace();
    trace.retain(|line| line.contains('@'));
    (trace, rig.state(), flow)
}

fn ends(cause: ShutdownCause, status: u8) -> Flow {
    Flow::Exit(Exit::Shutdown { cause, status })
}

#[test]
fn panic_of_a_running_guest() {
    use {Flow::Continue, PanicAction as Panic, ShutdownAction::*};
    let paused: &[&str] = &["GUEST_PANICKED pause @running", "STOP @guest-panicked"];
    let off: &[&str] = &[
        "GUEST_PANICKED poweroff @running",
        "SHUTDOWN guest-panic @running",
    ];
    let off_paused: &[&str] = &[off[0], off[1], "STOP @shutdown"];
    let run: &[&str] = &["GUEST_PANICKED run @running"];
    let end = |status| ends(ShutdownCause::GuestPanic, status);
    for (panic, shutdown, events, state, flow) in [
        (Panic::Pause, Poweroff, paused, GuestPanicked, Continue),
        (Panic::Pause, Pause, paused, GuestPanicked, Continue),
        (Panic::Shutdown, Poweroff, off, Shutdown, end(0)),
        (Panic::Shutdown, Pause, paused, GuestPanicked, Continue),
        (Panic::ExitFailure, Poweroff, off, Shutdown, end(1)),
        (Panic::ExitFailure, Pause, off_paused, Shutdown, Continue),
        (Panic::None, Poweroff, run, Running, Continue),
        (Panic::None, Pause, run, Running, Continue),
    ] {
        let change = ActionChange {
            panic: Some(panic),
            shutdown: Some(shutdown),
            ..ActionChange::default()
        };
        let (trace, last, left) = outcome(Running, change, Request::GuestPanicked);
        assert_eq!(trace, events, "panic={panic} shutdown={shutdown}");
        assert_eq!(
            (last, left),
            (state, flow),
            "panic={panic} shutdown={shutdown}"
        );
    }
}

#[test]
fn panic_told_by_a_stopped_machine_keeps_the_state() {
    let pause = ActionChange {
        panic: Some(PanicAction::Pause),
        ..ActionChange::default()
    };
    let (trace, state, _) = outcome(Paused, pause, Request::GuestPanicked);
    assert_eq!(trace, ["GUEST_PANICKED pause @paused"]);
    assert_eq!(state, Paused);
}

#[test]
fn crashload_is_only_told() {
    for &panic in PanicAction::ALL {
        let change = ActionChange {
            panic: Some(panic),
            ..ActionChange::default()
        };
        let expected = vec!["GUEST_CRASHLOADED @running".to_owned()];
        let outcome = outcome(Running, change, Request::GuestCrashloaded);
        assert_eq!(outcome, (expected, Running, Flow::Continue));
    }
}

#[test]
fn watchdog_actions_one_by_one() {
    use {Flow::Continue, RebootAction::*, WatchdogAction as Dog};
    let reset_ends = ends(ShutdownCause::GuestReset, 0);
    let rows: [(_, _, &[&str], _, _); 8] = [
        (
            Dog::Reset,
            Reset,
            &["RESET guest-reset @running"],
            Running,
            Continue,
        ),
        (
            Dog::Reset,
            RebootAction::Shutdown,
            &["SHUTDOWN guest-reset @running"],
            RunState::Shutdown,
            reset_ends,
        ),
        (
            Dog::Shutdown,
            Reset,
            &["POWERDOWN @running"],
            Running,
            Continue,
        ),
        (
            Dog::Poweroff,
            Reset,
            &[],
            Running,
            Flow::Exit(Exit::Watchdog),
        ),
        (Dog::Pause, Reset, &["STOP @watchdog"], Watchdog, Continue),
        (Dog::Debug, Reset, &[], Running, Continue),
        (Dog::None, Reset, &[], Running, Continue),
        (Dog::InjectNmi, Reset, &[], Running, Continue),
    ];
    for (watchdog, reboot, then, state, flow) in rows {
        let change = ActionChange {
            watchdog: Some(watchdog),
            reboot: Some(reboot),
            ..ActionChange::default()
        };
        let mut events = vec![format!("WATCHDOG {watchdog} @running")];
        events.extend(then.iter().map(ToString::to_string));
        let outcome = outcome(Running, change, Request::WatchdogExpired);
        assert_eq!(outcome, (events, state, flow), "{watchdog}");
    }
}

#[test]
fn watchdog_nmi_is_injected_once_and_its_failure_ignored() {
    let change = ActionChange {
        watchdog: Some(WatchdogAction::InjectNmi),
        ..ActionChange::default()
    };
    for fails in [None, Some("nmi")] {
        let mut rig = Rig::with(Running, change);
        rig.main_loop.machine_mut().fails = fails;
        rig.raise([Request::WatchdogExpired]);
        rig.pass();
        assert_eq!(rig.trace(), ["WATCHDOG inject-nmi @running", "nmi"]);
        rig.pass();
        assert_eq!(rig.trace(), NOTHING);
    }
}

#[test]
fn cont_after_a_watchdog_or_panic_pause() {
    let change = ActionChange {
        watchdog: Some(WatchdogAction::Pause),
        panic: Some(PanicAction::Pause),
        ..ActionChange::default()
    };
    for request in [Request::WatchdogExpired, Request::GuestPanicked] {
        let mut rig = Rig::with(Running, change);
        rig.raise([request]);
        rig.pass();
        rig.serve(Command::Cont);
        assert_eq!(rig.state(), Running, "{request:?}");
    }
}

#[test]
fn no_reboot_and_no_shutdown_repeat_shutdown_at_each_reset() {
    let change = ActionChange {
        reboot: Some(RebootAction::Shutdown),
        shutdown: Some(ShutdownAction::Pause),
        ..ActionChange::default()
    };
    let mut rig = Rig::with(Running, change);
    let mut events = |command| {
        rig.serve(command);
        let mut trace = rig.trace();
        trace.retain(|line| line.contains('@'));
        trace
    };
    let shutdown = "SHUTDOWN host-qmp-system-reset";
    let first = [format!("{shutdown} @running"), "STOP @shutdown".into()];
    assert_eq!(events(Command::SystemReset), first);
    for _ in 0..2 {
        assert_eq!(
            events(Command::SystemReset),
            [format!("{shutdown} @shutdown")]
        );
    }
}

fn block_io_error(action: BlockErrorAction) -> Request {
    Request::BlockIoError(BlockIoError {
        disk: 0,
        operation: BlockOperation::Write,
        action,
        nospace: Some(false),
        errno: 5,
    })
}

#[test]
fn an_io_error_stops_the_machine_if_its_action_says_so() {
    use BlockErrorAction::{Ignore, Report, Stop};
    let outcome = |action| {
        let (events, state, flow) =
            outcome(Running, ActionChange::default(), block_io_error(action));
        assert_eq!(flow, Flow::Continue);
        (events, state)
    };
    let told = |action| format!("BLOCK_IO_ERROR write {action} @running");
    for action in [Ignore, Report] {
        assert_eq!(outcome(action), (vec![told(action)], Running));
    }
    let stop = vec![told(Stop), "STOP @io-error".to_owned()];
    assert_eq!(outcome(Stop), (stop, IoError));
}

#[test]
fn an_io_error_keeps_the_state_of_a_machine_that_is_stopped() {
    let stop = block_io_error(BlockErrorAction::Stop);
    let (events, state, _) = outcome(Paused, ActionChange::default(), stop);
    assert_eq!(events, ["BLOCK_IO_ERROR write stop @paused"]);
    assert_eq!(state, Paused);
}

#[test]
fn cont_between_an_io_error_and_its_stop_has_stop_and_resume_all_the_same() {
    let mut rig = Rig::with(Running, ActionChange::default());
    rig.raise([block_io_error(BlockErrorAction::Stop)]);
    rig.serve(Command::Cont);
    let mut events = rig.trace();
    events.retain(|line| line.contains('@'));
    let expected = [
        "BLOCK_IO_ERROR write stop @running",
        "STOP @running",
        "RESUME @running",
    ];
    assert_eq!(events, expected);
    assert_eq!(rig.state(), Running);
}
