//! Sections 1 and 2: spellings, numbers and defaults.

use crate::runstate::*;

fn spelled<T: ToString>(values: &[T]) -> String {
    let names: Vec<_> = values.iter().map(T::to_string).collect();
    names.join(" ")
}

#[test]
fn names_are_qemus_in_qemus_order() {
    let states = "debug inmigrate internal-error io-error paused postmigrate prelaunch finish-migrate restore-vm \
                  running save-vm shutdown suspended watchdog guest-panicked colo";
    assert_eq!(spelled(RunState::ALL), states);
    let causes = "none host-error host-qmp-quit host-qmp-system-reset host-signal host-ui guest-shutdown guest-reset \
                  guest-panic subsystem-reset snapshot-load";
    assert_eq!(spelled(ShutdownCause::ALL), causes);
    assert_eq!(spelled(WakeupReason::ALL), "none rtc pmtimer other");
    assert_eq!(spelled(RebootAction::ALL), "reset shutdown");
    assert_eq!(spelled(ShutdownAction::ALL), "poweroff pause");
    let panic = "shutdown pause exit-failure none";
    assert_eq!(spelled(PanicAction::ALL), panic);
    let watchdog = "reset shutdown poweroff pause debug none inject-nmi";
    assert_eq!(spelled(WatchdogAction::ALL), watchdog);
    assert_eq!(spelled(GuestPanicAction::ALL), "pause poweroff run");
}

#[test]
fn every_name_parses_back() {
    for &state in RunState::ALL {
        assert_eq!(state.name().parse(), Ok(state));
    }
    for &action in WatchdogAction::ALL {
        assert_eq!(action.name().parse(), Ok(action));
    }
}

#[test]
fn old_spellings_are_no_aliases() {
    assert!("none".parse::<RebootAction>().is_err());
    assert!("Reset".parse::<RebootAction>().is_err());
    let error = "poweroff".parse::<PanicAction>().unwrap_err();
    assert_eq!(error.to_string(), "unknown panic action 'poweroff'");
}

#[test]
fn running_is_one_state_of_sixteen() {
    assert_eq!(RunState::ALL.len(), 16);
    assert_eq!((RunState::Debug as u8, RunState::Colo as u8), (0, 15));
    assert_eq!(RunState::Running as u8, 9);
    for &state in RunState::ALL {
        assert_eq!(state.is_running(), state == RunState::Running);
    }
}

#[test]
fn guest_causes_start_at_guest_shutdown() {
    let guest: Vec<_> = ShutdownCause::ALL.iter().map(|c| c.is_guest()).collect();
    assert_eq!(guest, [[false; 6].as_slice(), &[true; 5]].concat());
}

#[test]
fn actions_start_as_in_qemu() {
    let expected = Actions {
        reboot: RebootAction::Reset,
        shutdown: ShutdownAction::Poweroff,
        panic: PanicAction::Shutdown,
        watchdog: WatchdogAction::Reset,
    };
    assert_eq!(Actions::default(), expected);
    assert_eq!(expected.with(ActionChange::default()), expected);
}
