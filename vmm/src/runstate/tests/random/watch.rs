//! What holds of every trace, whatever was asked: checked line by line, without knowing what was asked.

use std::sync::LazyLock;

use super::model::HANDLERS;
use crate::runstate::{
    RunState::*,
    tests::{
        fake::{RAISED, Seen},
        transitions::{NEWEST, Pairs, SEED, pairs},
    },
    *,
};

static LEGAL: LazyLock<(Pairs, Pairs)> = LazyLock::new(|| (pairs(SEED), pairs(NEWEST)));

/// The events that a raise emits; all others are the main loop's.
const BY_RAISE: [&str; 7] = [
    "SUSPEND_DISK",
    "GUEST_PANICKED",
    "GUEST_CRASHLOADED",
    "WATCHDOG",
    "BLOCK_IO_ERROR",
    "DEVICE_ERROR",
    "BALLOON_CHANGE",
];

/// A bystander's view of one machine.
pub(super) struct Watch {
    table: TransitionTable,
    state: RunState,
    /// As told by STOP, RESUME and SUSPEND, and by wake-ups, which set the state as they are raised.
    going: bool,
    /// A STOP of a machine that runs on: RESUME comes next.
    pair: bool,
    ticks: bool,
    paused: bool,
    /// RESUME was emitted, and the ticks are to be enabled.
    starting: bool,
    /// The machine was reset, and the state after it was not seen yet.
    reset: bool,
    /// The machine has failed: of the main loop no line follows but the exit notifiers'.
    broken: bool,
    /// The last thing that the machine, a handler or a notifier was told.
    told: String,
    handlers: Vec<String>,
}

impl Watch {
    pub(super) fn new(table: TransitionTable, state: RunState) -> Self {
        Self {
            table,
            state,
            going: state.is_running(),
            pair: false,
            ticks: state.is_running(),
            paused: !state.is_running(),
            starting: false,
            reset: false,
            broken: false,
            told: String::new(),
            handlers: Vec::new(),
        }
    }

    /// Looks at the lines of one step. `fails`: the call that fails.
    pub(super) fn see(&mut self, trace: &[Seen], fails: Option<&str>) {
        for seen in trace {
            let event = seen.line.split_once(" @").map(|(event, _)| event);
            let name = event.map(|event| event.split(' ').next().unwrap());
            if seen.line == RAISED || name.is_some_and(|name| BY_RAISE.contains(&name)) {
                self.walk(seen.state);
                continue;
            }
            let at_exit = seen.line == "told exit";
            assert!(!self.broken || at_exit, "after a failure: {seen:?}");
            if self.reset && !self.broken {
                self.after_reset(seen.state);
            }
            if let Some(name) = name {
                self.event(name, seen.state);
            } else {
                assert!(!self.pair, "between STOP and RESUME: {seen:?}");
                self.walk(seen.state);
                self.call(&seen.line);
                let ignored = ["flush", "nmi"].contains(&seen.line.as_str());
                self.broken |= fails == Some(&seen.line) && !ignored;
            }
        }
    }

    /// The step is over. `woken`: a wake-up was raised and is not served yet.
    pub(super) fn rest(&mut self, state: RunState, woken: bool, ended: bool) {
        if self.reset && !self.broken {
            self.after_reset(state);
        }
        self.walk(state);
        if self.broken {
            return;
        }
        assert!(!self.pair && !self.starting, "half a start");
        assert!(self.handlers.is_empty(), "{:?}", self.handlers);
        if ended {
            return;
        }
        assert_eq!(self.going, state.is_running(), "STOP and RESUME");
        assert!(woken || self.paused != state.is_running(), "vCPUs");
    }

    /// The machine is at its end.
    pub(super) fn over(&self) {
        assert!(self.paused, "the vCPUs run on");
        assert_eq!(self.told, "told exit");
    }

    /// Section 1.2.
    fn walk(&mut self, to: RunState) {
        let from = std::mem::replace(&mut self.state, to);
        if from == to {
            return;
        }
        let legal = match self.table {
            TransitionTable::Seed => &LEGAL.0,
            TransitionTable::Newest => &LEGAL.1,
        };
        assert!(legal.contains(&(from, to)), "{from} -> {to}");
        if (from, to) == (Suspended, Running) {
            self.going = true;
        }
    }

    /// Section 6.
    fn after_reset(&mut self, state: RunState) {
        self.reset = false;
        let kept = [Running, InMigrate, FinishMigrate].contains(&state) && state == self.state;
        assert!(kept || state == Prelaunch, "{state} after a reset");
        // A silent reset tells nothing of its move.
        self.walk(state);
    }

    fn event(&mut self, name: &str, state: RunState) {
        let (was, going) = (self.state, self.going);
        self.walk(state);
        if name == "RESUME" {
            // From `suspended` it is a start, not a wake-up.
            self.going = going;
        }
        assert!(!self.pair || name == "RESUME", "{name} between the pair");
        match name {
            "STOP" => {
                assert!(self.going, "a second STOP");
                // Only of a machine that runs on, for a stop that was pending (section 4.2).
                self.pair = state.is_running();
                assert!(self.pair || !self.ticks && self.paused, "STOP too early");
                self.going = false;
            }
            "RESUME" => {
                assert!(!self.going, "a second RESUME");
                assert!(state.is_running(), "RESUME in {state}");
                self.starting = !self.pair;
                assert_eq!(self.pair, was.is_running(), "RESUME of {was}");
                self.pair = false;
                self.going = true;
            }
            "SUSPEND" => {
                assert_eq!(state, Suspended);
                assert_eq!(self.told, "told suspend");
                assert!(self.paused);
                self.going = false;
            }
            "RESET" => assert_eq!(self.told, "reset"),
            "WAKEUP" => assert!(
                self.told == "resume" && state.is_running()
                    || self.told.starts_with("told wakeup") && !state.is_running(),
                "WAKEUP after {}",
                self.told
            ),
            "SHUTDOWN" | "POWERDOWN" => assert_eq!(state, was, "{name} moves the state"),
            other => panic!("whose event is {other}?"),
        }
    }

    fn call(&mut self, line: &str) {
        match line {
            "pause" => self.paused = true,
            "resume" => {
                assert!(self.state.is_running(), "resumed in {}", self.state);
                self.paused = false;
            }
            "ticks off" => {
                assert!(!self.starting);
                self.ticks = false;
            }
            "ticks on" => {
                assert!(self.starting, "ticks without RESUME");
                self.starting = false;
                self.ticks = true;
            }
            "reset" => {
                assert!(self.paused, "reset of running vCPUs");
                self.reset = true;
            }
            "wake up" => assert!(self.paused, "wake-up of running vCPUs"),
            _ => {}
        }
        let is_handler = HANDLERS
            .iter()
            .any(|(_, name)| line.split(' ').next() == Some(name));
        if is_handler {
            self.handler(line);
        } else {
            assert!(self.handlers.is_empty(), "{line} between handlers");
            line.clone_into(&mut self.told);
        }
    }

    /// Section 4.4: all of them, in their order for a start, exactly reversed for a stop, and for nothing else.
    fn handler(&mut self, line: &str) {
        self.handlers.push(line.to_owned());
        if self.handlers.len() < HANDLERS.len() {
            return;
        }
        let called = std::mem::take(&mut self.handlers);
        let mut expected = HANDLERS.map(|(_, name)| name);
        let how = match self.told.as_str() {
            "ticks on" => "start running".to_owned(),
            "pause" => {
                assert!(!self.ticks);
                expected.reverse();
                format!("stop {}", self.state)
            }
            other => panic!("handlers after {other}"),
        };
        assert_eq!(called, expected.map(|name| format!("{name} {how}")));
    }
}
