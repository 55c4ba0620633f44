//! Sections 3.2, 9 and 11: how a machine ends, and that nothing follows.

use super::fake::{NOTHING, Rig};
use crate::runstate::{RunState::*, *};

fn pause() -> ActionChange {
    ActionChange {
        shutdown: Some(ShutdownAction::Pause),
        ..ActionChange::default()
    }
}

#[test]
fn running_machine_goes_to_shutdown_without_stop() {
    for (command, cause) in [
        (Command::Quit, ShutdownCause::HostQmpQuit),
        (Command::Kill, ShutdownCause::HostSignal),
    ] {
        let mut rig = Rig::with(Running, pause());
        let flow = rig.serve(command);
        assert_eq!(flow, Flow::Exit(Exit::Shutdown { cause, status: 0 }));
        let (event, told) = (
            format!("SHUTDOWN {cause} @running"),
            format!("told shutdown {cause}"),
        );
        let ended = [
            &event,
            &told,
            "ticks off",
            "pause",
            "handlers stop shutdown",
            "pause",
            "flush",
        ];
        assert_eq!(rig.trace(), ended);
        assert_eq!(rig.state(), Shutdown);
    }
}

#[test]
fn stopped_machine_keeps_its_state() {
    for &state in RunState::ALL.iter().filter(|state| !state.is_running()) {
        let mut rig = Rig::with(state, pause());
        rig.serve(Command::Quit);
        let event = format!("SHUTDOWN host-qmp-quit @{state}");
        let ended = [&event, "told shutdown host-qmp-quit", "pause", "flush"];
        assert_eq!(rig.trace(), ended);
        assert_eq!(rig.state(), state);
    }
}

#[test]
fn quit_and_signals_override_the_action_for_good() {
    for command in [Command::Quit, Command::Kill] {
        let mut rig = Rig::with(Running, pause());
        rig.command(command).unwrap();
        // A later cause takes the slot, but still ends the machine.
        rig.raise([Request::Shutdown(ShutdownCause::GuestShutdown)]);
        let cause = ShutdownCause::GuestShutdown;
        let expected = Flow::Exit(Exit::Shutdown { cause, status: 0 });
        assert_eq!(rig.pass(), expected);
    }
}

#[test]
fn only_a_panic_fails_the_exit() {
    for &cause in ShutdownCause::ALL {
        let exit_failure = ActionChange {
            panic: Some(PanicAction::ExitFailure),
            ..ActionChange::default()
        };
        let mut rig = Rig::with(Paused, exit_failure);
        rig.raise([Request::Shutdown(cause)]);
        let status = u8::from(cause == ShutdownCause::GuestPanic);
        assert_eq!(rig.pass(), Flow::Exit(Exit::Shutdown { cause, status }));
    }
}

#[test]
fn failed_flush_does_not_keep_a_machine() {
    let mut rig = Rig::new(Running);
    rig.main_loop.machine_mut().fails = Some("flush");
    assert!(matches!(rig.serve(Command::Quit), Flow::Exit(_)));
}

#[test]
fn panic_and_wake_up_during_the_end_are_lost() {
    for (state, request) in [
        (Running, Request::GuestPanicked),
        (Running, Request::SuspendDisk),
        (Suspended, Request::Wakeup(WakeupReason::Rtc)),
    ] {
        let mut rig = Rig::new(state);
        rig.raise_during("pause", request);
        rig.serve(Command::Quit);
        let trace = rig.trace();
        let events = trace.iter().filter(|line| line.contains('@')).count();
        assert_eq!(events, 1, "{trace:?}");
        assert!(!rig.state().is_running());
    }
}

#[test]
fn watchdog_poweroff_ends_right_there() {
    let change = ActionChange {
        watchdog: Some(WatchdogAction::Poweroff),
        ..pause()
    };
    for &state in RunState::ALL {
        let mut rig = Rig::with(state, change);
        rig.raise([Request::Powerdown, Request::WatchdogExpired]);
        rig.raise([Request::Shutdown(ShutdownCause::GuestShutdown)]);
        assert_eq!(rig.pass(), Flow::Exit(Exit::Watchdog));
        let event = format!("WATCHDOG poweroff @{state}");
        assert_eq!(rig.trace(), [&event, "pause"]);
        assert_eq!(rig.state(), state);
    }
}

#[test]
fn command_after_a_watchdog_poweroff_does_nothing() {
    let change = ActionChange {
        watchdog: Some(WatchdogAction::Poweroff),
        ..ActionChange::default()
    };
    for command in [
        Command::Stop,
        Command::SystemReset,
        Command::Quit,
        Command::InjectNmi,
    ] {
        let mut rig = Rig::with(Running, change);
        rig.raise([Request::WatchdogExpired]);
        rig.trace();
        rig.command(command).unwrap();
        assert_eq!((rig.trace(), rig.state()), (vec![], Running));
        assert_eq!(rig.pass(), Flow::Exit(Exit::Watchdog));
    }
}

#[test]
fn reset_brings_a_shut_down_machine_back() {
    let mut rig = Rig::with(Running, pause());
    rig.raise([Request::Shutdown(ShutdownCause::GuestShutdown)]);
    rig.pass();
    let error = rig.command(Command::Cont).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Resetting the Virtual Machine is required"
    );
    rig.serve(Command::SystemReset);
    rig.serve(Command::Cont);
    assert_eq!(rig.state(), Running);
    rig.trace();
    rig.pass();
    assert_eq!(rig.trace(), NOTHING);
}
