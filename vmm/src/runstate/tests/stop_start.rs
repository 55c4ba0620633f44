//! Section 4: stop and start.

use super::fake::{NOTHING, Rig};
use crate::runstate::{RunState::*, *};

const START: [&str; 4] = [
    "RESUME @running",
    "ticks on",
    "handlers start running",
    "resume",
];

fn stopped(target: RunState) -> [String; 5] {
    [
        "ticks off".into(),
        "pause".into(),
        format!("handlers stop {target}"),
        format!("STOP @{target}"),
        "flush".into(),
    ]
}

#[test]
fn stop_of_a_running_machine() {
    for target in [
        Paused,
        Debug,
        IoError,
        FinishMigrate,
        SaveVm,
        RestoreVm,
        Colo,
    ] {
        let mut rig = Rig::new(Running);
        assert_eq!(rig.stop(target).unwrap(), None);
        assert_eq!(rig.trace(), stopped(target));
        assert_eq!(rig.state(), target);
    }
}

#[test]
fn stop_of_a_stopped_machine_only_flushes() {
    for &state in RunState::ALL.iter().filter(|state| !state.is_running()) {
        for &target in RunState::ALL {
            let mut rig = Rig::new(state);
            assert_eq!(rig.stop(target).unwrap(), None);
            assert_eq!((rig.trace(), rig.state()), (vec!["flush".into()], state));
        }
    }
}

#[test]
fn failed_flush_is_told_but_undoes_nothing() {
    let mut rig = Rig::new(Running);
    rig.main_loop.machine_mut().fails = Some("flush");
    assert_eq!(rig.stop(Paused).unwrap(), Some(5));
    assert_eq!(
        (rig.trace().as_slice(), rig.state()),
        (&stopped(Paused)[..], Paused)
    );
    // The command ignores it.
    assert_eq!(rig.serve(Command::Stop), Flow::Continue);
}

#[test]
fn illegal_stop_leaves_everything_as_it_is() {
    // The last two are no stops: the one is a start, the other comes with notifiers and an event of its own.
    for target in [InMigrate, PostMigrate, Prelaunch, Running, Suspended] {
        let mut rig = Rig::new(Running);
        let error = rig.stop(target).unwrap_err();
        let text = format!("invalid runstate transition: 'running' -> '{target}'");
        assert!(matches!(error, Failure::Illegal(_)));
        assert_eq!(error.to_string(), text);
        assert_eq!((rig.trace().as_slice(), rig.state()), (&[][..], Running));
    }
}

#[test]
fn start_runs_the_vcpus_last() {
    for &from in RunState::ALL {
        let mut rig = Rig::new(from);
        let result = rig.main_loop.start();
        if from.needs_reset() {
            let illegal = matches!(result, Err(CommandError::Failed(Failure::Illegal(_))));
            assert!(illegal, "{result:?}");
            assert_eq!((rig.trace().as_slice(), rig.state()), (&[][..], from));
        } else if from == Suspended {
            // Section 16, case 9: only a wake-up may.
            let refused = matches!(result, Err(CommandError::Refused(Refusal::Suspended)));
            assert!(refused, "{result:?}");
            assert_eq!((rig.trace().as_slice(), rig.state()), (&[][..], from));
        } else if from == Running {
            assert_eq!((result.is_ok(), rig.trace()), (true, vec![]));
        } else {
            assert!(result.is_ok());
            assert_eq!(
                (rig.trace().as_slice(), rig.state()),
                (&START.map(String::from)[..], Running)
            );
        }
    }
}

#[test]
fn cont_before_a_pending_stop_gives_the_pair() {
    let mut rig = Rig::new(Running);
    rig.raise([Request::VmStop(IoError)]);
    rig.serve(Command::Cont);
    // The vCPU that asked for the stop has stopped itself, hence the resume.
    assert_eq!(rig.trace(), ["STOP @running", "RESUME @running", "resume"]);
    assert_eq!(rig.state(), Running);
    rig.serve(Command::Cont);
    assert_eq!(rig.trace(), NOTHING);
}

#[test]
fn start_discards_a_stop_raised_while_stopped() {
    let mut rig = Rig::new(Paused);
    rig.raise([Request::VmStop(IoError)]);
    rig.serve(Command::Cont);
    assert_eq!(rig.trace(), START);
    assert_eq!(rig.state(), Running);
}

#[test]
fn stop_then_cont_of_every_resumable_state() {
    for target in [Debug, IoError, Paused, Watchdog, GuestPanicked] {
        let mut rig = Rig::new(Running);
        rig.raise([Request::VmStop(target)]);
        rig.pass();
        assert_eq!(rig.trace(), stopped(target));
        // `stop` keeps the reason, `cont` goes on from it.
        rig.serve(Command::Stop);
        assert_eq!((rig.trace(), rig.state()), (vec!["flush".into()], target));
        rig.serve(Command::Cont);
        assert_eq!(rig.trace(), START);
    }
}

#[test]
fn stop_and_cont_of_an_incoming_machine_set_autostart() {
    let mut rig = Rig::new(InMigrate);
    assert!(rig.main_loop.autostart());
    rig.serve(Command::Stop);
    assert!(!rig.main_loop.autostart());
    rig.serve(Command::Cont);
    assert!(rig.main_loop.autostart());
    assert_eq!((rig.trace().as_slice(), rig.state()), (&[][..], InMigrate));
}
