//! Sections 4.4 and 12: change-state handlers and notifiers.

use std::sync::{Arc, Mutex};

use super::fake::{NOTHING, Rig, block_on};
use crate::runstate::{RunState::*, journal::Ending, *};

type Calls = Arc<Mutex<Vec<&'static str>>>;

/// Notes `name` and stays registered for `calls` calls.
fn visitor(
    calls: &Calls,
    name: &'static str,
    mut left: u32,
) -> impl FnMut() -> Keep + Send + 'static {
    let calls = Arc::clone(calls);
    move || {
        calls.lock().unwrap().push(name);
        left -= 1;
        if left == 0 { Keep::No } else { Keep::Yes }
    }
}

fn taken(calls: &Calls) -> Vec<&'static str> {
    std::mem::take(&mut calls.lock().unwrap())
}

#[test]
fn handlers_go_by_priority_and_back() {
    let (mut handlers, calls) = (ChangeHandlers::default(), Calls::default());
    let registered = [
        (5, "5"),
        (0, "0a"),
        (-1, "-1"),
        (0, "0b"),
        (5, "5b"),
        (0, "0c"),
    ];
    for (priority, name) in registered {
        let mut visit = visitor(&calls, name, u32::MAX);
        handlers.register(priority, move |_, _| visit());
    }
    let mut order = ["-1", "0a", "0b", "0c", "5", "5b"];
    for _ in 0..2 {
        handlers.notify(true, Running);
        assert_eq!(taken(&calls), order);
        order.reverse();
        handlers.notify(false, Paused);
        assert_eq!(taken(&calls), order);
        order.reverse();
    }
}

#[test]
fn handlers_are_given_the_state() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut handlers = ChangeHandlers::default();
    let see = Arc::clone(&seen);
    handlers.register(0, move |running, state| {
        see.lock().unwrap().push((running, state));
        Keep::Yes
    });
    handlers.notify(false, Shutdown);
    handlers.notify(true, Running);
    assert_eq!(*seen.lock().unwrap(), [(false, Shutdown), (true, Running)]);
}

#[test]
fn handlers_may_unregister_themselves() {
    for first_is_stop in [true, false] {
        let (mut handlers, calls) = (ChangeHandlers::default(), Calls::default());
        for (name, left) in [("a", 1), ("b", 2), ("c", 1), ("d", 9)] {
            let mut visit = visitor(&calls, name, left);
            handlers.register(0, move |_, _| visit());
        }
        let mut expected = [vec!["a", "b", "c", "d"], vec!["b", "d"], vec!["d"]];
        if first_is_stop {
            expected.iter_mut().for_each(|names| names.reverse());
        }
        for names in expected {
            handlers.notify(!first_is_stop, Running);
            assert_eq!(taken(&calls), names);
        }
        // The order of those left is as before.
        let mut visit = visitor(&calls, "e", 9);
        handlers.register(0, move |_, _| visit());
        handlers.notify(true, Running);
        assert_eq!(taken(&calls), ["d", "e"]);
    }
}

#[test]
fn handlers_run_for_stop_start_and_the_end_only() {
    let silent = [
        Command::SystemReset,
        Command::SystemPowerdown,
        Command::InjectNmi,
    ];
    let calls = |rig: &Rig| rig.trace().iter().any(|line| line.starts_with("handlers"));
    for command in silent {
        let mut rig = Rig::new(Running);
        rig.serve(command);
        assert!(!calls(&rig), "{command:?}");
    }
    let mut rig = Rig::new(Running);
    rig.raise([Request::Suspend]);
    rig.pass();
    rig.serve(Command::SystemWakeup);
    assert!(!calls(&rig));
    for command in [Command::Stop, Command::Cont, Command::Quit] {
        rig.serve(command);
        assert!(calls(&rig), "{command:?}");
    }
}

#[test]
fn last_notifier_is_called_first() {
    let (mut list, calls) = (NotifierList::<()>::default(), Calls::default());
    for (name, left) in [("a", 9), ("b", 1), ("c", 2)] {
        let mut visit = visitor(&calls, name, left);
        list.register(move |()| visit());
    }
    for expected in [vec!["c", "b", "a"], vec!["c", "a"], vec!["a"]] {
        list.notify(&());
        assert_eq!(taken(&calls), expected);
    }
}

#[test]
fn events_and_their_notifiers() {
    let mut rig = Rig::new(Running);
    rig.raise([Request::Powerdown]);
    rig.pass();
    assert_eq!(rig.trace(), ["POWERDOWN @running", "told powerdown"]);
    rig.raise([Request::Suspend]);
    rig.pass();
    assert_eq!(rig.trace(), ["pause", "told suspend", "SUSPEND @suspended"]);
    rig.raise([Request::Wakeup(WakeupReason::PmTimer)]);
    rig.pass();
    let woken = [
        "pause",
        "wake up",
        "told wakeup pmtimer",
        "resume",
        "WAKEUP @running",
    ];
    assert_eq!(rig.trace(), woken);
    rig.raise([Request::Shutdown(ShutdownCause::HostUi)]);
    rig.pass();
    let trace = rig.trace();
    assert_eq!(
        trace[..2],
        ["SHUTDOWN host-ui @running", "told shutdown host-ui"]
    );
    assert!(!trace.contains(&"told exit".to_owned()), "{trace:?}");
    block_on(rig.main_loop.clean_up(Ending::Exit));
    assert_eq!(rig.trace(), ["told exit"]);
}

#[test]
fn suspend_notifiers_see_the_old_state() {
    let mut rig = Rig::new(Running);
    let (requests, seen) = (rig.requests.clone(), Arc::new(Mutex::new(None)));
    let see = Arc::clone(&seen);
    rig.main_loop.notifiers.suspend.register(move |()| {
        *see.lock().unwrap() = Some(requests.state());
        Keep::Yes
    });
    rig.raise([Request::Suspend]);
    rig.pass();
    assert_eq!(*seen.lock().unwrap(), Some(Running));
    assert_eq!(rig.state(), Suspended);
}

#[test]
fn shutdown_notifier_can_still_change_the_action() {
    let mut rig = Rig::new(Running);
    let requests = rig.requests.clone();
    rig.main_loop.notifiers.shutdown.register(move |_| {
        requests.change_actions(ActionChange {
            shutdown: Some(ShutdownAction::Pause),
            ..ActionChange::default()
        });
        Keep::No
    });
    rig.raise([Request::Shutdown(ShutdownCause::GuestShutdown)]);
    assert_eq!(rig.pass(), Flow::Continue);
    assert_eq!(rig.state(), Shutdown);
}

#[test]
fn handlers_and_notifiers_may_raise() {
    let mut rig = Rig::new(Running);
    rig.raise_during("handlers stop paused", Request::Powerdown);
    block_on(rig.main_loop.stop(Paused)).unwrap();
    rig.trace();
    rig.pass();
    assert_eq!(rig.trace(), ["POWERDOWN @paused", "told powerdown"]);
    rig.pass();
    assert_eq!(rig.trace(), NOTHING);
}
