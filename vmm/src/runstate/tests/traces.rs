//! The trace points of section 15: texts and order.
//!
//! `tracing` decides once for the whole process whether anybody listens at a trace point, when it is first passed; a test
//! that passes one on another thread just then, where nobody listens, can win. So each test here has a process of its own.

use std::{
    env,
    process::Command as Process,
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use super::fake::Rig;
use crate::runstate::{RunState::*, *};

/// Keeps the message of every event.
#[derive(Clone, Default)]
struct Messages(Arc<Mutex<Vec<String>>>);

impl Visit for Messages {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl Subscriber for Messages {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// What is traced while `act` runs.
fn traced(act: impl FnOnce()) -> Vec<String> {
    let messages = Messages::default();
    tracing::subscriber::with_default(messages.clone(), act);
    messages.0.lock().unwrap().clone()
}

/// Says to a process that it is there for one test.
const ALONE: &str = "VMD_TEST_ALONE";

/// Runs `test`, the body of the test `name` of this module, where no other test runs.
fn alone(name: &str, test: impl FnOnce()) {
    if env::var_os(ALONE).is_some() {
        return test();
    }
    let (_, module) = module_path!().split_once("::").unwrap();
    let output = Process::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("{module}::{name}")])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let ran = output.status.success() && said.contains("1 passed");
    assert!(ran, "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_stop_is_traced_as_recording_94_has_it() {
    alone("a_stop_is_traced_as_recording_94_has_it", || {
        let mut rig = Rig::new(Running);
        let stopped = traced(|| {
            rig.serve(Command::Stop);
        });
        assert_eq!(
            stopped,
            [
                "runstate_set current_run_state 9 (running) new_state 4 (paused)",
                "vm_state_notify running 0 reason 4 (paused)",
                "vm_stop_flush_all ret 0",
            ]
        );
        let again = traced(|| {
            rig.serve(Command::Stop);
        });
        assert_eq!(again, ["vm_stop_flush_all ret 0"]);
        let started = traced(|| {
            rig.serve(Command::Cont);
        });
        assert_eq!(
            started,
            [
                "runstate_set current_run_state 4 (paused) new_state 9 (running)",
                "vm_state_notify running 1 reason 9 (running)",
            ]
        );
    });
}

#[test]
fn requests_are_traced_when_they_are_raised() {
    alone("requests_are_traced_when_they_are_raised", || {
        let mut rig = Rig::new(Suspended);
        let woken = traced(|| rig.command(Command::SystemWakeup).unwrap());
        assert_eq!(
            woken,
            [
                "system_wakeup_request reason=3",
                "runstate_set current_run_state 12 (suspended) new_state 9 (running)",
            ]
        );
        let refused = traced(|| drop(Rig::new(Paused).command(Command::SystemWakeup)));
        assert_eq!(refused, ["system_wakeup_request reason=3"]);
        for (request, text) in [
            (
                Request::Shutdown(ShutdownCause::HostQmpQuit),
                "qemu_system_shutdown_request reason=2",
            ),
            (Request::Powerdown, "qemu_system_powerdown_request"),
            (
                Request::Reset(ShutdownCause::GuestReset),
                "system_reset_request reason=7",
            ),
            (Request::Suspend, "system_suspend_request"),
            (
                Request::VmStop(IoError),
                "system_vmstop_request reason 3 (io-error)",
            ),
        ] {
            assert_eq!(traced(|| rig.raise([request])), [text]);
        }
        let signal = Request::Shutdown(ShutdownCause::HostSignal);
        assert_eq!(traced(|| rig.raise([signal])), Vec::<String>::new());
    });
}

#[test]
fn the_watchdogs_action_debug_says_so() {
    alone("the_watchdogs_action_debug_says_so", || {
        for &action in WatchdogAction::ALL {
            let change = ActionChange {
                watchdog: Some(action),
                ..ActionChange::default()
            };
            let rig = Rig::with(Running, change);
            let said = traced(|| rig.raise([Request::WatchdogExpired]));
            let fired = said.iter().any(|text| text == "watchdog: timer fired");
            assert_eq!(fired, action == WatchdogAction::Debug, "{action}: {said:?}");
        }
    });
}

#[test]
fn an_illegal_set_is_traced_before_it_fails() {
    alone("an_illegal_set_is_traced_before_it_fails", || {
        let rig = Rig::new(Paused);
        let set = traced(|| assert!(rig.requests.set_state(Suspended).is_err()));
        assert_eq!(
            set,
            ["runstate_set current_run_state 4 (paused) new_state 12 (suspended)"]
        );
    });
}
