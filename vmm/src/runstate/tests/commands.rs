//! Section 5 and the request rows: `commands.csv`, every operation in every state.

use std::collections::BTreeSet;

use super::fake::{Rig, block_on};
use crate::runstate::*;

const ROWS: &str = include_str!("data/commands.csv");

/// Operations that the core does not have yet, and why.
const LATER: [(&str, &str); 2] = [
    ("forced stop to finish-migrate", "comes with migration"),
    ("forced stop to colo", "comes with migration"),
];

#[derive(Debug)]
struct Row {
    operation: String,
    state: RunState,
    reply: String,
    error: String,
    events: Vec<String>,
    /// `None` for `(exit)`.
    next: Option<RunState>,
    /// QEMU aborts; the daemon refuses the command or drops the request.
    invalid: bool,
    note: String,
}

fn rows() -> Vec<Row> {
    let mut reader = csv::Reader::from_reader(ROWS.as_bytes());
    let row = |record: csv::StringRecord| Row {
        operation: record[0].to_owned(),
        state: record[1].parse().unwrap(),
        reply: record[2].to_owned(),
        error: record[3].to_owned(),
        events: record[4].split_whitespace().map(str::to_owned).collect(),
        next: match &record[5] {
            "(exit)" => None,
            "INVALID" => Some(record[1].parse().unwrap()),
            next => Some(next.parse().unwrap()),
        },
        invalid: &record[5] == "INVALID",
        note: record[6].to_owned(),
    };
    reader
        .records()
        .map(|record| row(record.unwrap()))
        .collect()
}

/// One way to carry an operation out.
#[derive(Clone, Copy, Debug)]
enum Way {
    Query,
    Command(Command),
    Request(Request),
    DirectStop(RunState),
}

#[derive(Clone, Copy, Debug)]
struct Case {
    way: Way,
    actions: ActionChange,
    wakeup_supported: bool,
}

fn case(way: Way) -> Case {
    Case {
        way,
        actions: ActionChange::default(),
        wakeup_supported: true,
    }
}

fn acting(way: Way, reboot: RebootAction, shutdown: ShutdownAction) -> Case {
    let actions = ActionChange {
        reboot: Some(reboot),
        shutdown: Some(shutdown),
        ..ActionChange::default()
    };
    Case {
        actions,
        ..case(way)
    }
}

/// The ways to carry `operation` out that must all give what its rows say.
fn cases(operation: &str) -> Option<Vec<Case>> {
    use {RebootAction as Reboot, ShutdownAction::*};
    let command = |command| case(Way::Command(command));
    let reset = |shutdown| {
        let way = Way::Command(Command::SystemReset);
        acting(way, Reboot::Shutdown, shutdown)
    };
    let shutdown = |shutdown| {
        let way = Way::Request(Request::Shutdown(ShutdownCause::GuestShutdown));
        acting(way, Reboot::Reset, shutdown)
    };
    // In these the shutdown action must not matter.
    let either = |way| [Poweroff, Pause].map(|action| acting(way, Reboot::Reset, action));
    let every_action = ActionChange {
        reboot: Some(Reboot::Shutdown),
        shutdown: Some(Pause),
        panic: Some(PanicAction::None),
        watchdog: Some(WatchdogAction::Debug),
    };
    Some(match operation {
        "query-status" => vec![case(Way::Query)],
        "stop" => vec![command(Command::Stop)],
        "cont" => vec![command(Command::Cont)],
        "system_reset[reboot=reset]" => either(Way::Command(Command::SystemReset)).to_vec(),
        "system_reset[reboot=shutdown,shutdown=poweroff]" => vec![reset(Poweroff)],
        "system_reset[reboot=shutdown,shutdown=pause]" => vec![reset(Pause)],
        "system_powerdown" => vec![command(Command::SystemPowerdown)],
        "system_wakeup" => vec![command(Command::SystemWakeup)],
        "system_wakeup[no wake-up support]" => vec![Case {
            wakeup_supported: false,
            ..command(Command::SystemWakeup)
        }],
        "quit" => either(Way::Command(Command::Quit)).to_vec(),
        "SIGINT/SIGTERM/SIGHUP" => either(Way::Command(Command::Kill)).to_vec(),
        "shutdown request[shutdown=poweroff]" => vec![shutdown(Poweroff)],
        "shutdown request[shutdown=pause]" => vec![shutdown(Pause)],
        "guest reset request[reboot=reset]" => {
            vec![case(Way::Request(Request::Reset(
                ShutdownCause::GuestReset,
            )))]
        }
        "suspend request" => vec![case(Way::Request(Request::Suspend))],
        "set-action" => vec![
            command(Command::SetAction(ActionChange::default())),
            command(Command::SetAction(every_action)),
        ],
        _ => {
            let target = operation.strip_prefix("deferred/direct stop to ")?;
            let target = target.parse().unwrap();
            let deferred = case(Way::Request(Request::VmStop(target)));
            let mut ways = vec![deferred, case(Way::DirectStop(target))];
            if target == RunState::Debug {
                ways.push(case(Way::Request(Request::Debug)));
            }
            ways
        }
    })
}

/// What came out: the refusal, if any, and whether the machine goes on.
fn carry_out(rig: &mut Rig, way: Way) -> (Result<(), String>, Flow) {
    let reply = match way {
        Way::Query => Ok(()),
        Way::Command(command) => rig.command(command).map_err(|error| match error {
            CommandError::Refused(refusal) => refusal.to_string(),
            CommandError::Failed(failure) => panic!("{failure}"),
        }),
        Way::Request(request) => {
            rig.requests.raise(request);
            Ok(())
        }
        Way::DirectStop(target) => {
            block_on(rig.main_loop.stop(target)).unwrap();
            Ok(())
        }
    };
    (reply, rig.pass())
}

fn check(row: &Row, case: Case) {
    let context = format!("{row:?} as {case:?}");
    let mut rig = Rig::with(row.state, case.actions);
    rig.main_loop.set_wakeup_supported(case.wakeup_supported);
    let (reply, flow) = carry_out(&mut rig, case.way);
    // Not through `Rig::trace`, so that the stamps can be looked at.
    let trace = rig.trace();
    let events: Vec<_> = trace.iter().filter(|line| line.contains('@')).collect();

    let command = matches!(case.way, Way::Command(_));
    let expected_reply = if row.invalid && command {
        let from = row.state;
        Err(format!(
            "invalid runstate transition: '{from}' -> 'prelaunch'"
        ))
    } else if row.reply == "error" {
        Err(row.error.clone())
    } else {
        Ok(())
    };
    assert_eq!(reply, expected_reply, "{context}");

    if row.invalid {
        assert!(trace.is_empty(), "{context}: {trace:?}");
        let dropped = u64::from(!command);
        assert_eq!(rig.requests.dropped(), dropped, "{context}");
    } else {
        let names: Vec<_> = events.iter().map(|line| line.split(' ').next()).collect();
        let expected: Vec<_> = row.events.iter().map(|name| Some(name.as_str())).collect();
        assert_eq!(names, expected, "{context}");
        assert_eq!(rig.requests.dropped(), 0, "{context}");
    }

    let exits = matches!(flow, Flow::Exit(Exit::Shutdown { status: 0, .. }));
    assert_eq!(exits, row.next.is_none(), "{context}: {flow:?}");
    let stopped = if row.state.is_running() {
        RunState::Shutdown
    } else {
        row.state
    };
    assert_eq!(rig.state(), row.next.unwrap_or(stopped), "{context}");
    if let Some(last) = events.last() {
        // At the exit SHUTDOWN comes before the stop.
        let after = row.next.unwrap_or(row.state);
        assert!(last.ends_with(&format!("@{after}")), "{context}: {last}");
    }
    if row.operation == "query-status" {
        let running = format!("running={}", rig.state().is_running());
        assert_eq!(row.note, running, "{context}");
    }
}

#[test]
fn every_row_holds() {
    for row in rows() {
        match cases(&row.operation) {
            Some(cases) => cases.iter().for_each(|&case| check(&row, case)),
            None => assert!(
                LATER
                    .iter()
                    .any(|(operation, _)| *operation == row.operation),
                "{} is neither tested nor listed",
                row.operation
            ),
        }
    }
}

#[test]
fn rows_are_complete() {
    let rows = rows();
    let pairs: BTreeSet<_> = rows.iter().map(|row| (&row.operation, row.state)).collect();
    let operations: BTreeSet<_> = rows.iter().map(|row| row.operation.as_str()).collect();
    assert_eq!((pairs.len(), operations.len()), (27 * 16, 27));
    for (operation, _) in LATER {
        assert!(
            operations.contains(operation),
            "{operation} is listed for nothing"
        );
        assert!(
            cases(operation).is_none(),
            "{operation} is both tested and listed"
        );
    }
}

#[test]
fn set_action_keeps_what_it_does_not_name() {
    let mut rig = Rig::new(RunState::Running);
    let change = ActionChange {
        panic: Some(PanicAction::None),
        ..ActionChange::default()
    };
    rig.serve(Command::SetAction(change));
    rig.serve(Command::SetAction(ActionChange::default()));
    let expected = Actions {
        panic: PanicAction::None,
        ..Actions::default()
    };
    assert_eq!(rig.requests.actions(), expected);
}

#[test]
fn nmi_reaches_a_machine_in_any_state() {
    for &state in RunState::ALL {
        let mut rig = Rig::new(state);
        assert_eq!(rig.serve(Command::InjectNmi), Flow::Continue);
        assert_eq!((rig.trace(), rig.state()), (vec!["nmi".into()], state));
    }
}

#[test]
fn newest_table_resets_from_colo() {
    let newest = TransitionTable::Newest;
    let mut rig = Rig::on(newest, RunState::Colo, ActionChange::default());
    rig.serve(Command::SystemReset);
    let reset = ["pause", "reset", "RESET host-qmp-system-reset @prelaunch"];
    assert_eq!(rig.trace(), reset);
    assert_eq!(rig.state(), RunState::Prelaunch);
}
