//! Recordings with something in them that is hard to replay.

use std::{sync::mpsc, thread};

use super::rig::{Fault, Lines, Plan, Rig, block_on, entries, planned, replays};
use crate::runstate::{
    ActionChange, Command, PanicAction, Request, Requests, RunState, ShutdownAction, ShutdownCause,
    WakeupMask, WakeupReason, WatchdogAction,
    journal::{Ending, Journal, Recording, Transcript, replay::Script},
};

fn during(
    call: &'static str,
    act: impl FnOnce(&crate::runstate::Requests) -> Result<(), Fault> + Send + 'static,
) -> Plan {
    Plan::from([(call, Box::new(act) as Box<_>)])
}

#[test]
fn another_threads_raise_in_the_middle_of_a_pass_is_served_where_it_was() {
    // While a reset pauses the vCPUs, another thread presses the button (served in this pass) and asks for S3
    // (served in the next).
    let plan = during("pause", |requests| {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    requests.raise(Request::Powerdown);
                    requests.raise(Request::Suspend);
                })
                .join()
                .unwrap();
        });
        Ok(())
    });
    let mut rig = Rig::new(RunState::Running, planned(plan));
    rig.record();
    rig.requests
        .raise(Request::Reset(ShutdownCause::GuestReset));
    rig.pass().unwrap();
    rig.pass().unwrap();
    let journal = rig.end(Ending::Stopped);
    assert_eq!(
        entries(&journal)[2..],
        [
            "raise reset guest-reset",
            "pass",
            "checkpoint 2 reset guest-reset",
            "raise powerdown",
            "raise suspend",
            "machine pause ok",
            "machine reset ok",
            "event RESET guest-reset @running",
            "machine resume ok",
            "take powerdown",
            "event POWERDOWN @running",
            "collect 2",
            "pass",
            "checkpoint 3 suspend",
            "machine pause ok",
            "state suspended",
            "event SUSPEND @suspended",
            "collect 1",
            "end stopped",
        ]
    );
    let replayed = replays(&journal);
    assert_eq!(replayed.timeline.last().unwrap().state, RunState::Suspended);
}

#[test]
fn a_raise_between_two_looks_of_the_main_loop_stays_between_them() {
    // The same request before or after the main loop looked for it: only the step tells.
    let serve = |call: &'static str| {
        let plan = during(call, |requests| {
            requests.raise(Request::Suspend);
            Ok(())
        });
        let mut rig = Rig::new(RunState::Running, planned(plan));
        rig.record();
        rig.requests.raise(Request::Debug);
        rig.pass().unwrap();
        rig.pass().unwrap();
        rig.end(Ending::Stopped)
    };
    // Debug is served before suspend, which is then too late.
    let in_pass = serve("flush");
    assert!(in_pass.contains("state suspended"));
    replays(&in_pass);
}

#[test]
fn a_storm_of_raises_from_other_threads_replays() {
    for round in 0..20 {
        let mut rig = Rig::quiet(RunState::Running);
        let (stop, stopped) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        thread::scope(|scope| {
            let requests = &rig.requests;
            let raiser = scope.spawn({
                let requests = requests.clone();
                move || {
                    let all = [
                        Request::Powerdown,
                        Request::Suspend,
                        Request::Reset(ShutdownCause::GuestReset),
                        Request::Wakeup(WakeupReason::Rtc),
                        Request::GuestCrashloaded,
                        Request::VmStop(RunState::IoError),
                    ];
                    for request in all.into_iter().cycle() {
                        requests.raise(request);
                        let _ = begun.send(());
                        if stopped.try_recv() != Err(mpsc::TryRecvError::Empty) {
                            return;
                        }
                    }
                }
            });
            begins.recv().unwrap();
            for _ in 0..100 {
                block_on(rig.main_loop.pass()).unwrap();
                rig.requests.take_events();
                let _ = block_on(rig.main_loop.command(Command::Cont));
            }
            drop(stop);
            raiser.join().unwrap();
        });
        let journal = rig.end(Ending::Stopped);
        assert!(journal.lines().count() > 200, "round {round}");
        replays(&journal);
    }
}

#[test]
fn failures_replay_with_their_texts() {
    for (call, request) in [
        ("pause", Request::Reset(ShutdownCause::GuestReset)),
        ("reset", Request::Reset(ShutdownCause::GuestReset)),
        ("resume", Request::Reset(ShutdownCause::GuestReset)),
        ("pause", Request::Suspend),
        ("pause", Request::VmStop(RunState::IoError)),
    ] {
        let plan = during(call, |_| Err(Fault::new("does not\\obey")));
        let mut rig = Rig::new(RunState::Running, planned(plan));
        rig.record();
        rig.requests.raise(request);
        rig.pass().unwrap_err();
        let journal = rig.end(Ending::Failed);
        let failed =
            format!("machine {call} failed vCPU 0:\\u{{a}}does not\\u{{5c}}obey: timed out");
        assert!(entries(&journal).contains(&failed.as_str()), "{journal}");
        replays(&journal);
    }
    // Of a flush the machine's errno, which changes nothing, and of an illegal target.
    let plan = during("flush", |_| Err(Fault::new("full")));
    let mut rig = Rig::new(RunState::Running, planned(plan));
    rig.record();
    assert_eq!(
        block_on(rig.main_loop.stop(RunState::Paused)).unwrap(),
        Some(28)
    );
    rig.main_loop.start().unwrap();
    block_on(rig.main_loop.stop(RunState::PostMigrate)).unwrap_err();
    let journal = rig.end(Ending::Failed);
    assert!(entries(&journal).contains(&"machine flush errno 28"));
    assert!(entries(&journal).contains(&"errno 28"));
    assert!(
        entries(&journal)
            .contains(&"failed invalid runstate transition: 'running' -> 'postmigrate'")
    );
    replays(&journal);
}

#[test]
fn a_panic_by_a_port_write_stops_at_once_in_the_replay_too() {
    // A vCPU panics at the same time: its stop is deferred.
    let plan = during("port-write", |requests| {
        thread::scope(|scope| {
            scope
                .spawn(|| requests.raise(Request::GuestPanicked))
                .join()
        })
        .unwrap();
        requests.raise(Request::GuestPanicked);
        Ok(())
    });
    let mut rig = Rig::new(RunState::Running, planned(plan));
    rig.record();
    rig.serve(Command::SetAction(ActionChange {
        panic: Some(PanicAction::Pause),
        ..Default::default()
    }));
    rig.serve(Command::PortWrite {
        port: 0x505,
        value: 1,
        size: 1,
    });
    let journal = rig.end(Ending::Stopped);
    assert_eq!(
        entries(&journal)[4..],
        [
            "command port-write 0x505 0x1 1",
            "raise guest-panicked",
            "event GUEST_PANICKED pause @running",
            "raise-outside guest-panicked",
            "event GUEST_PANICKED pause @running",
            "machine port-write ok",
            "state guest-panicked",
            "machine ticks-off ok",
            "machine pause ok",
            "event STOP @guest-panicked",
            "machine flush ok",
            "pass",
            "take vmstop guest-panicked",
            "machine flush ok",
            "collect 3",
            "end stopped",
        ]
    );
    replays(&journal);
}

#[test]
fn every_end_of_a_machine_replays() {
    let set = |panic, shutdown| ActionChange {
        panic: Some(panic),
        shutdown: Some(shutdown),
        watchdog: Some(WatchdogAction::Poweroff),
        reboot: None,
    };
    for (request, exit) in [
        (Request::GuestPanicked, "exit shutdown guest-panic 1"),
        (Request::SuspendDisk, "exit shutdown guest-shutdown 0"),
        (Request::WatchdogExpired, "exit watchdog"),
    ] {
        let mut rig = Rig::quiet(RunState::Running);
        let change = set(PanicAction::ExitFailure, ShutdownAction::Poweroff);
        rig.serve(Command::SetAction(change));
        rig.requests.raise(request);
        rig.pass().unwrap();
        // Nobody serves this any more.
        rig.requests.raise(Request::Powerdown);
        let journal = rig.end(Ending::Exit);
        assert!(entries(&journal).contains(&exit), "{journal}");
        replays(&journal);
    }
}

#[test]
fn a_recording_begins_with_what_is_pending() {
    let mut rig = Rig::new(RunState::Suspended, |_| |_| Ok(()));
    let requests = &rig.requests;
    requests.set_wakeup_mask(WakeupMask {
        rtc: false,
        pm_timer: true,
    });
    rig.requests.raise(Request::Wakeup(WakeupReason::PmTimer));
    for request in [
        Request::Debug,
        Request::Suspend,
        Request::Reset(ShutdownCause::GuestReset),
        Request::Powerdown,
        Request::VmStop(RunState::IoError),
        Request::GuestCrashloaded,
        Request::Shutdown(ShutdownCause::HostError),
        Request::WatchdogExpired,
    ] {
        rig.requests.raise(request);
    }
    rig.main_loop.set_wakeup_supported(false);
    rig.record();
    assert_eq!(
        entries(&rig.lines.text())[1],
        "initial table=seed state=running \
         actions=reboot=reset,shutdown=poweroff,panic=shutdown,watchdog=reset rtc=off pmtimer=on \
         autostart=on wakeup-supported=off debug suspend shutdown=host-error reset=guest-reset \
         wakeup=pmtimer powerdown vmstop=io-error waiting=2"
    );
    rig.main_loop.set_wakeup_supported(true);
    rig.serve(Command::SetAction(ActionChange {
        shutdown: Some(ShutdownAction::Pause),
        watchdog: Some(WatchdogAction::InjectNmi),
        ..Default::default()
    }));
    rig.requests.raise(Request::WatchdogExpired);
    rig.pass().unwrap();
    rig.serve(Command::Quit);
    let journal = rig.end(Ending::Exit);
    replays(&journal);
}

#[test]
fn events_that_a_guest_raises_without_end_are_dropped_in_the_replay_too() {
    let mut rig = Rig::quiet(RunState::Running);
    for _ in 0..1030 {
        rig.requests.raise(Request::GuestCrashloaded);
    }
    assert_eq!(rig.requests.take_events().len(), 1024);
    rig.requests.raise(Request::GuestCrashloaded);
    let journal = rig.end(Ending::Stopped);
    let entries = entries(&journal);
    assert_eq!(
        entries.iter().filter(|it| **it == "dropped event").count(),
        6
    );
    assert_eq!(
        entries[entries.len() - 2],
        "event GUEST_CRASHLOADED @running"
    );
    replays(&journal);
}

#[test]
fn what_comes_too_late_is_dropped_in_the_replay_too() {
    let mut rig = Rig::quiet(RunState::Running);
    rig.requests.raise(Request::Suspend);
    rig.serve(Command::Stop);
    rig.serve(Command::SystemWakeup);
    let journal = rig.end(Ending::Stopped);
    let entries = entries(&journal);
    assert!(entries.contains(&"dropped suspend"));
    assert!(
        entries.contains(&"refused Unable to wake up: guest is not in suspended state"),
        "{journal}"
    );
    replays(&journal);
}

#[test]
fn there_is_one_recording_at_a_time() {
    let mut rig = Rig::quiet(RunState::Running);
    assert!(rig.main_loop.is_recorded());
    let again = rig.main_loop.record("a", Lines::new(9));
    assert_eq!(again, Err(Recording));
    rig.end(Ending::Stopped);
    assert!(!rig.main_loop.is_recorded());
    rig.lines = Lines::new(9);
    rig.record();
    replays(&rig.end(Ending::Stopped));
}

#[test]
fn a_replay_is_not_recorded_over() {
    let recorded = Rig::quiet(RunState::Running).end(Ending::Stopped);
    let transcript = Transcript::read(recorded.as_bytes()).unwrap();
    let initial = &transcript.initial;
    let requests = Requests::new(initial.table, initial.actions, || {});
    let journal = Journal::replay(Script::new(&transcript));
    requests.replay(&transcript.name, initial, journal);
    assert!(requests.is_journaled());
    let over = requests.record("a", false, false, Box::new(Lines::new(9)));
    assert_eq!(over, Err(Recording));
    let replayed = requests.end_replay().unwrap();
    assert_eq!((replayed.divergence, replayed.journal), (None, recorded));
}

#[test]
fn a_sink_without_room_ends_the_recording_with_a_mark() {
    for room in 2..40 {
        let mut rig = Rig::new(RunState::Running, |_| |_| Ok(()));
        rig.lines = Lines::new(room);
        rig.record();
        for command in [
            Command::Stop,
            Command::Cont,
            Command::SystemReset,
            Command::Quit,
        ] {
            rig.serve(command);
        }
        let journal = rig.end(Ending::Exit);
        let last = *entries(&journal).last().unwrap();
        let whole = journal.lines().count() <= room;
        assert_eq!(
            last,
            if whole { "end exit" } else { "end lost" },
            "{journal}"
        );
        replays(&journal);
    }
}

#[test]
fn a_call_that_panics_leaves_a_journal_that_broke_off() {
    let plan = during("reset", |_| panic!("a bug"));
    let mut rig = Rig::new(RunState::Running, planned(plan));
    rig.record();
    rig.requests
        .raise(Request::Reset(ShutdownCause::GuestReset));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rig.pass().is_ok()));
    assert!(panicked.is_err());
    let journal = rig.end(Ending::Failed);
    assert_eq!(*entries(&journal).last().unwrap(), "end interrupted");
    replays(&journal);
}
