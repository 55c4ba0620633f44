//! Section 12: what is closed before what, for every way out.

use std::sync::{Arc, Mutex};

use super::fake::{NOTHING, Rig, block_on};
use crate::runstate::{
    RunState::*,
    journal::{Ending, Sink},
    *,
};

/// The spec's order, in its words.
const BEFORE: [(Cleanup, Cleanup, &str); 12] = {
    use Cleanup::*;
    [
        (Debugger, Stop, "the debugger is closed first of all"),
        (Debugger, Migration, "the debugger is closed first of all"),
        (Migration, Drain, "so that it stops using devices"),
        (Drain, Stop, "draining begins before the stop"),
        (Stop, Replay, "replay finishes after the stop"),
        (Stop, BlockDevices, "the stop flushes them"),
        (Drain, BlockJobs, "else throttling could delay them"),
        (BlockJobs, BlockDevices, "jobs use them"),
        (BlockDevices, Monitors, "monitors are late"),
        (Network, Chardevs, "vhost-user is on one"),
        (Network, Monitors, "monitors are late"),
        (Monitors, Chardevs, "chardevs carry monitors"),
    ]
};

/// What the core does at `Cleanup::Stop`, of a running machine.
const STOP: [&str; 5] = [
    "ticks off",
    "pause",
    "handlers stop shutdown",
    "pause",
    "flush",
];

/// What is done to a machine.
type Act = fn(&mut Rig);

/// As the trace has it.
fn closed(steps: &[Cleanup]) -> Vec<String> {
    steps.iter().map(|step| format!("{step} closed")).collect()
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|&line| line.to_owned()).collect()
}

/// Something to close at every step, registered in another order.
fn with_parts(mut rig: Rig) -> Rig {
    for &step in Cleanup::ALL.iter().rev() {
        let recorder = rig.recorder.clone();
        rig.main_loop.closers.register(step, async move {
            recorder.note(format!("{step} closed"));
        });
    }
    rig
}

fn clean_up(rig: &mut Rig, ending: Ending) {
    block_on(rig.main_loop.clean_up(ending));
}

#[test]
fn the_steps_are_in_the_specs_order() {
    for (first, then, why) in BEFORE {
        let at = |step| Cleanup::ALL.iter().position(|at| *at == step);
        assert!(at(first) < at(then), "{first} before {then}: {why}");
    }
}

#[test]
fn an_orderly_end_closes_around_the_stop() {
    use Cleanup::{Debugger, Drain, Migration};
    let raised: [(&str, Act); 4] = [
        ("guest-shutdown", |rig| {
            rig.raise([Request::Shutdown(ShutdownCause::GuestShutdown)]);
        }),
        ("host-qmp-quit", |rig| rig.command(Command::Quit).unwrap()),
        ("host-signal", |rig| rig.command(Command::Kill).unwrap()),
        ("guest-reset", |rig| {
            rig.requests.change_actions(ActionChange {
                reboot: Some(RebootAction::Shutdown),
                ..ActionChange::default()
            });
            rig.raise([Request::Reset(ShutdownCause::GuestReset)]);
        }),
    ];
    for (cause, raise) in raised {
        for state in [Running, Paused] {
            let mut rig = with_parts(Rig::new(state));
            raise(&mut rig);
            assert!(matches!(rig.pass(), Flow::Exit(Exit::Shutdown { .. })));
            let told = [
                format!("SHUTDOWN {cause} @{state}"),
                format!("told shutdown {cause}"),
            ];
            // SHUTDOWN is there for the owner to publish while monitors and chardevs are open.
            let stop = if state == Running {
                &STOP[..]
            } else {
                &STOP[3..]
            };
            let before = closed(&[Debugger, Migration, Drain]);
            assert_eq!(rig.trace(), [told.to_vec(), before, lines(stop)].concat());

            clean_up(&mut rig, Ending::Exit);
            let rest = closed(&Cleanup::ALL[3..]);
            assert_eq!(rig.trace(), [rest, lines(&["told exit"])].concat());
            let at_last = if state == Running { Shutdown } else { state };
            assert_eq!(rig.state(), at_last, "{cause}");
        }
    }
}

#[test]
fn a_watchdogs_poweroff_closes_everything_and_stops_nothing() {
    for state in [Running, Paused] {
        let change = ActionChange {
            watchdog: Some(WatchdogAction::Poweroff),
            ..ActionChange::default()
        };
        let mut rig = with_parts(Rig::with(state, change));
        rig.raise([Request::WatchdogExpired]);
        assert_eq!(rig.pass(), Flow::Exit(Exit::Watchdog));
        let event = format!("WATCHDOG poweroff @{state}");
        assert_eq!(rig.trace(), [&event, "pause"]);
        clean_up(&mut rig, Ending::Exit);
        let expected = [closed(Cleanup::ALL), lines(&["told exit"])].concat();
        assert_eq!((rig.trace(), rig.state()), (expected, state));
    }
}

#[test]
fn a_failure_closes_everything_and_tells_nothing_more_to_the_machine() {
    let fails: [Act; 2] = [
        |rig| {
            rig.raise([Request::Suspend]);
            assert!(rig.try_pass().is_err());
        },
        |rig| {
            let failed = rig.command(Command::Stop);
            assert!(matches!(failed, Err(CommandError::Failed(_))));
        },
    ];
    for fail in fails {
        let mut rig = with_parts(Rig::new(Running));
        rig.main_loop.machine_mut().fails = Some("pause");
        fail(&mut rig);
        rig.trace();
        let state = rig.state();
        clean_up(&mut rig, Ending::Failed);
        let expected = [closed(Cleanup::ALL), lines(&["told exit"])].concat();
        assert_eq!((rig.trace(), rig.state()), (expected, state));
    }
}

#[test]
fn a_failure_in_the_last_stop_leaves_the_rest_to_be_closed() {
    let mut rig = with_parts(Rig::new(Running));
    rig.main_loop.machine_mut().fails = Some("pause");
    rig.command(Command::Quit).unwrap();
    assert!(rig.try_pass().is_err());
    assert_eq!(rig.trace().last().unwrap(), "pause");
    clean_up(&mut rig, Ending::Failed);
    let rest = closed(&Cleanup::ALL[3..]);
    assert_eq!(rig.trace(), [rest, lines(&["told exit"])].concat());
}

#[test]
fn action_pause_closes_nothing() {
    let mut rig = with_parts(Rig::with(
        Running,
        ActionChange {
            shutdown: Some(ShutdownAction::Pause),
            ..ActionChange::default()
        },
    ));
    rig.raise([Request::Shutdown(ShutdownCause::GuestShutdown)]);
    assert_eq!(rig.pass(), Flow::Continue);
    let trace = rig.trace();
    assert!(
        !trace.iter().any(|line| line.ends_with("closed")),
        "{trace:?}"
    );
}

#[test]
fn a_closer_is_called_once_and_the_last_of_a_step_first() {
    let mut rig = Rig::new(Running);
    for part in ["console", "socket"] {
        let recorder = rig.recorder.clone();
        let closer = async move { recorder.note(part) };
        rig.main_loop.closers.register(Cleanup::Chardevs, closer);
    }
    clean_up(&mut rig, Ending::Exit);
    assert_eq!(rig.trace(), ["socket", "console", "told exit"]);
    block_on(rig.main_loop.clean_up_before_stop());
    assert_eq!(rig.trace(), NOTHING);
}

/// Keeps a journal's lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<String>>);

impl Sink for Lines {
    fn line(&mut self, line: String) -> bool {
        self.0.lock().unwrap().push_str(&line);
        true
    }

    fn lost(&mut self, _: String) {}

    fn is_open(&self) -> bool {
        true
    }
}

#[test]
fn a_recording_ends_after_the_stop_and_before_what_follows() {
    for (ending, fails) in [(Ending::Exit, None), (Ending::Failed, Some("flush"))] {
        let (journal, at) = (Lines::default(), Arc::new(Mutex::new(Vec::new())));
        let mut rig = Rig::new(Running);
        rig.main_loop.machine_mut().fails = fails;
        rig.main_loop.record("a", journal.clone()).unwrap();
        for &step in Cleanup::ALL {
            let (journal, at) = (journal.clone(), Arc::clone(&at));
            rig.main_loop.closers.register(step, async move {
                let text = journal.0.lock().unwrap().clone();
                let stopped = text.contains("machine flush");
                let ended = text.ends_with(&format!(" end {ending}\n"));
                at.lock().unwrap().push((step, stopped, ended));
            });
        }
        rig.serve(Command::Quit);
        clean_up(&mut rig, ending);
        let expected: Vec<_> = Cleanup::ALL
            .iter()
            .map(|&step| (step, step >= Cleanup::Stop, step >= Cleanup::Replay))
            .collect();
        assert_eq!(*at.lock().unwrap(), expected);
    }
}
