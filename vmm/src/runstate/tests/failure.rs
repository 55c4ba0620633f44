//! A machine that does not obey, and an engine that asks for what the table forbids.

use std::error::Error;

use super::fake::Rig;
use crate::runstate::{RunState::*, *};

/// The failure's action, after its chain of errors was looked at.
fn action(failure: &Failure, call: &str) -> &'static str {
    let &Failure::Machine { action, .. } = failure else {
        panic!("{failure:?}");
    };
    assert_eq!(failure.to_string(), format!("could not {action}"));
    let source = failure.source().unwrap();
    assert_eq!(source.to_string(), format!("vCPU 0 does not {call}"));
    assert_eq!(source.source().unwrap().to_string(), "timed out");
    action
}

#[test]
fn each_method_fails_with_its_action() {
    use Request::{Reset, Shutdown, Suspend, VmStop, Wakeup};
    const PAUSE: &str = "pause the vCPUs";
    const RESUME: &str = "resume the vCPUs";
    let reset = Reset(ShutdownCause::GuestReset);
    let wakeup = Wakeup(WakeupReason::Rtc);
    // (state, request, the call that fails, the action told, the trace)
    let rows: [(_, _, _, _, &[&str]); 9] = [
        (
            Running,
            VmStop(Paused),
            "pause",
            PAUSE,
            &["ticks off", "pause"],
        ),
        (Running, Suspend, "pause", PAUSE, &["pause"]),
        (Running, reset, "pause", PAUSE, &["pause"]),
        (
            Running,
            reset,
            "reset",
            "reset the machine",
            &["pause", "reset"],
        ),
        (
            Running,
            reset,
            "resume",
            RESUME,
            &["pause", "reset", "RESET guest-reset @running", "resume"],
        ),
        (Suspended, wakeup, "pause", PAUSE, &["pause"]),
        (
            Suspended,
            wakeup,
            "wake up",
            "wake the machine up",
            &["pause", "wake up"],
        ),
        (
            Suspended,
            wakeup,
            "resume",
            RESUME,
            &["pause", "wake up", "told wakeup rtc", "resume"],
        ),
        (
            Paused,
            Shutdown(ShutdownCause::GuestShutdown),
            "pause",
            PAUSE,
            &[
                "SHUTDOWN guest-shutdown @paused",
                "told shutdown guest-shutdown",
                "pause",
            ],
        ),
    ];
    for (state, request, call, told, trace) in rows {
        let mut rig = Rig::new(state);
        rig.main_loop.machine_mut().fails = Some(call);
        rig.raise([request]);
        let failure = rig.try_pass().unwrap_err();
        assert_eq!(action(&failure, call), told, "{request:?}");
        assert_eq!(rig.trace(), trace, "{request:?}");
    }
}

#[test]
fn commands_fail_the_machine() {
    for (state, command, call, told) in [
        (Running, Command::Stop, "pause", "pause the vCPUs"),
        (Paused, Command::Cont, "resume", "resume the vCPUs"),
        (Paused, Command::InjectNmi, "nmi", "inject an NMI"),
    ] {
        let mut rig = Rig::new(state);
        rig.main_loop.machine_mut().fails = Some(call);
        let CommandError::Failed(failure) = rig.command(command).unwrap_err() else {
            panic!("{command:?} was refused");
        };
        assert_eq!(action(&failure, call), told);
    }
}

#[test]
fn refusals_are_not_failures() {
    for (state, command) in [
        (Shutdown, Command::Cont),
        (FinishMigrate, Command::Cont),
        (SaveVm, Command::SystemReset),
        (Running, Command::SystemWakeup),
    ] {
        let mut rig = Rig::new(state);
        let error = rig.command(command).unwrap_err();
        assert!(matches!(error, CommandError::Refused(_)), "{command:?}");
        assert_eq!(rig.pass(), Flow::Continue);
        assert_eq!((rig.trace(), rig.state()), (vec![], state));
    }
}

#[test]
fn illegal_stop_raised_by_a_device_fails_without_effect() {
    // The table has the way to `suspended`, but that is no stop.
    for to in [Prelaunch, Suspended, Running] {
        let mut rig = Rig::new(Running);
        rig.raise([Request::VmStop(to)]);
        let failure = rig.try_pass().unwrap_err();
        let expected = IllegalTransition { from: Running, to };
        assert!(matches!(failure, Failure::Illegal(illegal) if illegal == expected));
        assert_eq!((rig.trace(), rig.state()), (vec![], Running));
    }
}

#[test]
fn machine_can_be_taken_back_after_a_failure() {
    let mut rig = Rig::new(Running);
    rig.main_loop.machine_mut().fails = Some("pause");
    rig.raise([Request::Suspend]);
    assert!(rig.try_pass().is_err());
    assert_eq!(rig.main_loop.machine().fails, Some("pause"));
    assert_eq!(rig.main_loop.into_machine().fails, Some("pause"));
}
